package outhook

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStandingAdmit(t *testing.T) {
	now := time.Unix(1000, 0).UTC()
	for _, test := range []struct {
		name     string
		standing Standing
		n        int
		next     time.Time
	}{
		{"good order", Standing{}, 5, time.Time{}},
		{"failing", Standing{Failures: 9, Epoch: 3}, 5, time.Time{}},
		{"paused", Standing{PausedUntil: now.Add(1)}, 0, now.Add(1)},
		{"pause ends now", Standing{PausedUntil: now}, 5, time.Time{}},
		{"pause is over", Standing{PausedUntil: now.Add(-1)}, 5, time.Time{}},
		{"disabled", Standing{Disabled: true}, 0, time.Time{}},
		{"disabled and paused", Standing{Disabled: true, PausedUntil: now.Add(1)}, 0, time.Time{}},
		{"disabled, to be cancelled", Standing{Disabled: true, CancelWaiting: true}, 5, time.Time{}},
		{"disabled, to be cancelled, and paused", Standing{Disabled: true, CancelWaiting: true, PausedUntil: now.Add(1)}, 5, time.Time{}},
		{"enabled again", Standing{CancelWaiting: true}, 5, time.Time{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			after := test.standing
			n, next := after.Admit(now, 5)
			require.Equal(t, test.n, n)
			require.Equal(t, test.next, next)
			require.Equal(t, test.standing, after)
		})
	}
}

func TestStandingApply(t *testing.T) {
	now := time.Unix(1000, 0).UTC()
	before, later := now.Add(-time.Hour), now.Add(time.Hour)
	disabled := Standing{Disabled: true, Reason: "by hand", Since: before, Epoch: 1}
	for _, test := range []struct {
		name     string
		standing Standing
		effect   Effect
		want     Standing
	}{
		{"success", Standing{}, Effect{Success: true}, Standing{}},
		{"success after failures", Standing{Failures: 7}, Effect{Success: true}, Standing{}},
		{"success after a pause", Standing{Failures: 1, PausedUntil: now, Reason: "r", Since: before}, Effect{Success: true}, Standing{}},
		{
			"success during a pause", Standing{Failures: 1, PausedUntil: later, Reason: "r", Since: before}, Effect{Success: true},
			Standing{PausedUntil: later, Reason: "r", Since: before},
		},
		{"failure", Standing{}, Effect{}, Standing{Failures: 1}},
		{"further failure", Standing{Failures: 1}, Effect{Reason: "not kept"}, Standing{Failures: 2}},
		{
			"pause", Standing{}, Effect{Pause: time.Hour, Reason: "r"},
			Standing{Failures: 1, PausedUntil: later, Reason: "r", Since: now},
		},
		{
			"longer pause", Standing{PausedUntil: now.Add(time.Minute), Reason: "old", Since: before}, Effect{Pause: time.Hour, Reason: "r"},
			Standing{Failures: 1, PausedUntil: later, Reason: "r", Since: now},
		},
		{
			"shorter pause", Standing{PausedUntil: later, Reason: "old", Since: before}, Effect{Pause: time.Minute, Reason: "r"},
			Standing{Failures: 1, PausedUntil: later, Reason: "old", Since: before},
		},
		{
			"equal pause", Standing{PausedUntil: later, Reason: "old", Since: before}, Effect{Pause: time.Hour, Reason: "r"},
			Standing{Failures: 1, PausedUntil: later, Reason: "old", Since: before},
		},
		{"negative pause", Standing{}, Effect{Pause: -1}, Standing{Failures: 1}},
		{
			"disable", Standing{}, Effect{Disable: true, Reason: "gone"},
			Standing{Disabled: true, Reason: "gone", Since: now, Failures: 1, Epoch: 1},
		},
		{
			"disable and cancel", Standing{}, Effect{Disable: true, Cancel: true, Reason: "gone"},
			Standing{Disabled: true, CancelWaiting: true, Reason: "gone", Since: now, Failures: 1, Epoch: 1},
		},
		{
			"pause and disable", Standing{}, Effect{Pause: time.Hour, Disable: true, Reason: "gone"},
			Standing{Disabled: true, PausedUntil: later, Reason: "gone", Since: now, Failures: 1, Epoch: 1},
		},
		{"success of an older epoch", Standing{Failures: 1, Epoch: 2}, Effect{Epoch: 1, Success: true}, Standing{Failures: 1, Epoch: 2}},
		{"failure of an older epoch", Standing{Epoch: 2}, Effect{Epoch: 1, Pause: time.Hour, Disable: true}, Standing{Epoch: 2}},
		{"failure of a newer epoch", Standing{Epoch: 2}, Effect{Epoch: 3}, Standing{Epoch: 2}},
		{"failure of this epoch", Standing{Epoch: 2}, Effect{Epoch: 2}, Standing{Epoch: 2, Failures: 1}},
		{"a pause keeps why it is disabled", disabled, Effect{Epoch: 1, Pause: time.Hour, Reason: "Retry-After"}, func() Standing {
			s := disabled
			s.PausedUntil, s.Failures = later, s.Failures+1
			return s
		}()},
		{"success keeps why it is disabled", disabled, Effect{Epoch: 1, Success: true}, disabled},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.standing.Subscriber, test.want.Subscriber = "s", "s"
			if test.want.Failures > test.standing.Failures {
				test.want.FailingSince = now
			}
			test.standing.Apply(now, test.effect)
			require.Equal(t, test.want, test.standing)
		})
	}
}

func TestStandingDisable(t *testing.T) {
	now := time.Unix(1000, 0).UTC()
	for _, test := range []struct {
		name     string
		standing Standing
		cancel   bool
		want     Standing
	}{
		{"hold", Standing{Failures: 2}, false, Standing{Disabled: true, Reason: "r", Since: now, Failures: 2, Epoch: 1}},
		{"cancel", Standing{}, true, Standing{Disabled: true, CancelWaiting: true, Reason: "r", Since: now, Epoch: 1}},
		{"again", Standing{Disabled: true, CancelWaiting: true, Epoch: 5}, false, Standing{Disabled: true, Reason: "r", Since: now, Epoch: 5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.standing.Disable(now, "r", test.cancel)
			require.Equal(t, test.want, test.standing)
		})
	}
}

func TestStandingEnable(t *testing.T) {
	s := Standing{
		Subscriber: "s", Disabled: true, CancelWaiting: true, PausedUntil: time.Unix(2000, 0),
		Reason: "r", Since: time.Unix(1000, 0), Failures: 3, Epoch: 4,
	}
	s.Enable()
	require.Equal(t, Standing{Subscriber: "s", Epoch: 5}, s)
}

func TestStandingVoidsOldEffects(t *testing.T) {
	now := time.Unix(1000, 0).UTC()
	var s Standing
	claimed := Effect{Epoch: s.Epoch, Disable: true, Reason: "gone"} // of two attempts in flight
	s.Apply(now, claimed)
	s.Enable()
	s.Apply(now, claimed)
	require.False(t, s.Disabled, "the second outcome comes after it was enabled")
	require.EqualValues(t, 2, s.Epoch)
}

func TestStandingClean(t *testing.T) {
	for _, test := range []struct {
		name     string
		standing Standing
		want     bool
	}{
		{"zero", Standing{}, true},
		{"known", Standing{Subscriber: "s", Epoch: 4}, true},
		{"failing", Standing{Failures: 1}, false},
		{"paused once", Standing{PausedUntil: time.Unix(1, 0)}, false},
		{"disabled", Standing{Disabled: true}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, test.standing.Clean())
		})
	}
}

func TestStandingSurvivesJSON(t *testing.T) {
	before := Standing{
		Subscriber: "s", Disabled: true, CancelWaiting: true, PausedUntil: time.Unix(2000, 5).UTC(),
		Reason: "r", Since: time.Unix(1000, 5).UTC(), Failures: 3, FailingSince: time.Unix(900, 5).UTC(), Trips: 2,
		Rate: Rate{N: 5, Per: time.Minute, Burst: 2}, RateSince: time.Unix(800, 5).UTC(), Tokens: -1, Refilled: time.Unix(950, 5).UTC(),
		Told: Disabled, Epoch: 4,
	}
	data, err := json.Marshal(before)
	require.NoError(t, err)
	var after Standing
	require.NoError(t, json.Unmarshal(data, &after))
	require.True(t, before == after)
}

func TestLocalStandings(t *testing.T) {
	bubble(t, "admit", func(t *testing.T) {
		l := localStandings{of: make(map[string]Standing)}
		request := &ClaimRequest{PerSubscriber: 8, Room: map[string]int{"busy": 1}}
		require.Zero(t, l.admit(request))
		l.apply("a", Effect{Pause: time.Hour})
		l.apply("b", Effect{Pause: time.Minute})
		l.apply("c", Effect{Disable: true})
		l.apply("d", Effect{})
		require.Equal(t, time.Minute, l.admit(request))
		require.Equal(t, map[string]int{"busy": 1, "a": 0, "b": 0, "c": 0}, request.Room)
		require.Equal(t, 1, l.of["d"].Failures)
	})
	bubble(t, "kept while not in good order", func(t *testing.T) {
		l := localStandings{of: make(map[string]Standing)}
		count := func() (n int) {
			for s, err := range l.Standings(context.Background()) {
				require.NoError(t, err)
				require.Equal(t, "a", s.Subscriber)
				n++
			}
			return n
		}
		l.apply("a", Effect{})
		require.Equal(t, 1, count())
		l.apply("a", Effect{Success: true})
		require.Zero(t, count())
	})
	bubble(t, "listing can stop", func(t *testing.T) {
		l := localStandings{of: make(map[string]Standing)}
		l.apply("a", Effect{})
		l.apply("b", Effect{})
		n := 0
		for range l.Standings(context.Background()) {
			n++
			break
		}
		require.Equal(t, 1, n)
	})
}

// TestStandingTransitions compares the diagram in docs/architecture.md with what the
// methods do.
func TestStandingTransitions(t *testing.T) {
	now := time.Unix(1_000_000, 0).UTC()
	fresh := Standing{Subscriber: "s"}
	states := map[SubscriberState]Standing{Active: fresh}
	paused := fresh
	paused.Apply(now, Effect{Pause: time.Minute, Reason: "Retry-After"})
	states[Paused] = paused
	open := fresh
	open.Apply(now, Effect{Breaker: Breaker{Failures: 1, Pause: time.Minute, MaxPause: time.Hour}})
	states[Failing] = open
	disabled := fresh
	disabled.Disable(now, "by hand", false)
	states[Disabled] = disabled

	breaker := Breaker{Failures: 2, Pause: time.Minute, MaxPause: time.Hour}
	later := now.Add(2 * time.Hour)
	operations := map[string]func(s *Standing, epoch int64){
		"failure":             func(s *Standing, epoch int64) { s.Apply(later, Effect{Epoch: epoch}) },
		"failure, counted":    func(s *Standing, epoch int64) { s.Apply(later, Effect{Epoch: epoch, Breaker: breaker}) },
		"no breaker any more": func(s *Standing, epoch int64) { s.Apply(later, Effect{Epoch: epoch, Breaker: Breaker{Failures: -1}}) },
		"Retry-After": func(s *Standing, epoch int64) {
			s.Apply(later, Effect{Epoch: epoch, Pause: time.Hour, Breaker: breaker})
		},
		"success":              func(s *Standing, epoch int64) { s.Apply(later, Effect{Epoch: epoch, Success: true}) },
		"success while paused": func(s *Standing, epoch int64) { s.Apply(now, Effect{Epoch: epoch, Success: true}) },
		"unmade":               func(s *Standing, epoch int64) { s.Apply(later, Effect{Epoch: epoch, Unmade: true}) },
		"410":                  func(s *Standing, epoch int64) { s.Apply(later, Effect{Epoch: epoch, Disable: true}) },
		"failing for long":     func(s *Standing, epoch int64) { s.Apply(later, Effect{Epoch: epoch, DisableAfter: time.Hour}) },
		"Disable":              func(s *Standing, _ int64) { s.Disable(later, "x", false) },
		"Enable":               func(s *Standing, _ int64) { s.Enable() },
		"claim":                func(s *Standing, _ int64) { s.Grant(later, 1, time.Minute) },
		"pace":                 func(s *Standing, _ int64) { s.SetRate(Rate{N: 1}, later) },
	}
	made := make(map[string]bool)
	for from, standing := range states {
		require.Equal(t, from, standing.State())
		for _, operate := range operations {
			for range 3 { // more of the same may come to more
				for _, probing := range []bool{false, true} {
					s := standing
					if probing {
						s.Grant(later, 1, time.Minute)
					}
					for range 3 {
						before := s.State()
						if operate(&s, s.Epoch); s.State() != before {
							made[string(before)+" --> "+string(s.State())] = true
						}
					}
				}
			}
		}
	}

	text, err := os.ReadFile("docs/architecture.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "## States of a subscriber")
	require.True(t, ok)
	diagram, _, ok := strings.Cut(section, "[guarantees.md]")
	require.True(t, ok)
	drawn := make(map[string]bool)
	for _, edge := range regexp.MustCompile(`(?m)^ +(\w+ --> \w+):`).FindAllStringSubmatch(diagram, -1) {
		drawn[edge[1]] = true
	}
	require.Equal(t, drawn, made)
}

// TestStandingProbes shows that of an open breaker only the probe counts.
func TestStandingProbes(t *testing.T) {
	now := time.Unix(1_000_000, 0).UTC()
	breaker := Breaker{Failures: 3, Pause: time.Minute, MaxPause: 3 * time.Minute}
	s := Standing{Subscriber: "s"}
	fail := func(epoch int64) { s.Apply(now, Effect{Epoch: epoch, Breaker: breaker}) }
	admits := func(want int) (int, time.Time) { return s.Admit(now, want) }
	for range 3 {
		fail(0)
	}
	require.Equal(t, Failing, s.State())
	opened := s
	fail(0) // in flight when it opened
	s.Apply(now, Effect{Success: true})
	require.Equal(t, opened, s)

	var pauses []time.Duration
	for range 4 {
		n, next := admits(5)
		require.Zero(t, n)
		pauses = append(pauses, next.Sub(now))
		now = next
		n, next = admits(5)
		require.Equal(t, 1, n)
		require.Zero(t, next)
		s.Grant(now, 1, 45*time.Second)
		n, next = admits(5)
		require.Zero(t, n, "until the lease of the probe ends")
		require.Equal(t, now.Add(45*time.Second), next)
		fail(s.Epoch)
	}
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute, 3 * time.Minute} {
		require.GreaterOrEqual(t, pauses[i], want)
		require.LessOrEqual(t, pauses[i], want+want/10)
	}

	_, now = admits(1)
	s.Grant(now, 1, 45*time.Second)
	lost := s.Epoch
	now = now.Add(45 * time.Second) // nothing was heard of it
	s.Grant(now, 1, 45*time.Second)
	s.Apply(now, Effect{Epoch: lost, Success: true})
	require.Equal(t, Failing, s.State(), "it came after the next had gone")
	s.Apply(now, Effect{Epoch: s.Epoch, Unmade: true})
	n, _ := admits(1)
	require.Equal(t, 1, n, "one that was not made may go again at once")
	s.Grant(now, 1, 45*time.Second)
	s.Apply(now, Effect{Epoch: s.Epoch, Success: true})
	require.Equal(t, Standing{Subscriber: "s", Epoch: s.Epoch}, s)
	n, _ = admits(5)
	require.Equal(t, 5, n)
}
