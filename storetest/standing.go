package storetest

import (
	"runtime"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

func standingChange(t *trial) {
	t.standings()
	t.enqueue(t.delivery("a", "s"), t.delivery("b", "s"), t.delivery("a", "u"))

	// Paused, for long, for short, and no longer.
	t.pause("s", hour)
	t.none("its subscriber is paused", "a/s", "b/s")
	t.enable("s")
	since := time.Now()
	t.pause("s", t.short())
	t.finish(release(t.exactly(since, t.short(), "a/s")))
	t.pause("s", hour)
	t.none("its subscriber is paused", "a/s")
	t.enable("s")
	c := t.one("a/s")

	// Disabled, and what is on the wire may end.
	t.disable("s", false)
	t.settles(c, outhook.Delivered)
	t.events("c")
	t.none("its subscriber is disabled", "b/s", "c/s")
	t.enable("s")
	t.finish(release(t.one("c/s")))

	// Disabled, and what waits is to be cancelled: it is claimed for that.
	t.disable("s", false)
	t.none("its subscriber is disabled", "c/s")
	t.disable("s", true)
	claimed := t.claim()
	t.check(index(claimed.Claims, "c/s") >= 0, "Claim did not return c/s: what waits for a subscriber that cancels it is to be claimed")
	s := claimed.Standings["s"]
	t.check(s.Disabled && s.CancelWaiting, "Standings of the claim is %+v, want that it is disabled and cancels what waits", s)
	t.finish(release(claimed.Claims[index(claimed.Claims, "c/s")]))
	t.enable("s")
	c = t.one("c/s")
	s = t.kept("s")
	t.check(!s.Disabled && s.PausedUntil.IsZero(), "the standing is %+v, want it enabled", s)
	t.finish(release(c))
}

func standingAdmit(t *trial) {
	t.standings()
	t.breaker()
	t.rate()
}

// breaker opens one, and sees to it that one probe goes at a time.
func (t *trial) breaker() {
	t.events("a", "b", "c")
	open := outhook.Effect{Breaker: outhook.Breaker{Failures: 1, Pause: hour, MaxPause: hour}}
	claims := t.take("a", "b", "c")
	t.finish(release(claims[0]), release(claims[1]), release(claims[2]))
	t.affect("s", open)
	s := t.kept("s")
	t.check(s.State() == outhook.Failing && s.Trips == 1, "the standing is %+v, want that its breaker is open", s)
	t.none("its breaker is open", "a", "b", "c")
	over := func() { t.standing("s", func(now time.Time, s *outhook.Standing) { s.PausedUntil = now }) }
	probe := func(length time.Duration) outhook.Claim {
		claimed := t.claim(lease(length))
		t.check(len(claimed.Claims) == 1, "Claim returned %d deliveries behind an open breaker, want one probe", len(claimed.Claims))
		kept := t.kept("s")
		t.check(claimed.Standings["s"].Epoch == kept.Epoch, "the probe is of epoch %d, and the standing that is kept of %d", claimed.Standings["s"].Epoch, kept.Epoch)
		if length == hour { // a short one may have ended by now
			t.none("a probe is under way", "a", "b", "c")
		}
		return claimed.Claims[0]
	}

	over()
	t.finish(release(probe(hour)))
	t.affect("s", open)
	t.check(t.kept("s").Trips == 2, "the standing is %+v after a probe that failed, want 2 trips", t.kept("s"))
	t.none("its breaker is open", "a", "b", "c")

	over()
	probe(t.short()) // of which nothing is heard
	t.pass(t.short())
	t.finish(release(probe(hour)))
	t.affect("s", outhook.Effect{Unmade: true})
	t.finish(outcome(probe(hour), outhook.Delivered))
	t.affect("s", outhook.Effect{Success: true})
	s = t.kept("s")
	t.check(s.State() == outhook.Active, "the standing is %+v after a probe that succeeded, want that it is active", s)
	left := t.claim().Claims
	t.check(len(left) == 2, "Claim returned %d deliveries after the breaker has closed, want 2", len(left))
}

// affect applies an effect of the epoch that the standing has.
func (t *trial) affect(subscriber string, e outhook.Effect) {
	t.standing(subscriber, func(now time.Time, s *outhook.Standing) {
		e.Epoch = s.Epoch
		s.Apply(now, e)
	})
}

// rate sets a pace, and sees to it that claims of all handles keep to it.
func (t *trial) rate() {
	t.renew()
	t.events("a", "b", "c", "d")
	t.standing("s", func(now time.Time, s *outhook.Standing) {
		s.SetRate(outhook.Rate{N: 2, Per: 2 * hour, Burst: 2}, now)
	})
	claimed := t.claim()
	t.check(len(claimed.Claims) == 2, "Claim returned %d deliveries, want the burst of 2 of a pace", len(claimed.Claims))
	for _, c := range claimed.Claims {
		t.finish(outcome(c, outhook.Delivered))
	}
	t.none("its pace is used up", "a", "b", "c", "d")
	if t.exact() {
		t.pass(hour - time.Second)
		t.none("its pace is used up", "a", "b", "c", "d")
		t.pass(time.Second)
		claimed = t.claim()
		t.check(len(claimed.Claims) == 1, "Claim returned %d deliveries, want the one that the pace lets go", len(claimed.Claims))
	}
	t.standing("s", func(now time.Time, s *outhook.Standing) { s.SetRate(outhook.Rate{}, now) })
	t.check(len(t.claim().Claims) > 0, "Claim returned nothing, and there is no pace any more")
}

func standingSerial(t *trial) {
	store := t.standings()
	// Each sees the result of the one before.
	for i := range 3 {
		var given outhook.Standing
		t.standing("s", func(_ time.Time, s *outhook.Standing) {
			given = *s
			s.Failures++
		})
		t.check(given == outhook.Standing{Subscriber: "s", Failures: i}, "update is given %+v, want Failures %d of the change before", given, i)
	}
	kept := t.kept("s")
	t.check(kept == outhook.Standing{Subscriber: "s", Failures: 3}, "the standing kept is %+v, want Failures 3 and no more", kept)
	t.enable("s")
	before := t.kept("s")

	// Also when they come at one time, from both handles.
	stores := []outhook.StandingStore{store, store}
	if other, ok := t.Other.(outhook.StandingStore); ok {
		stores[1] = other
	}
	var f failures
	var group sync.WaitGroup
	const workers, changes = 8, 10
	for i := range workers {
		group.Go(func() {
			for range changes {
				err := stores[i%2].UpdateStandings(t.ctx, []string{"s", "u"}, func(_ time.Time, s *outhook.Standing) {
					n := s.Failures
					for range 10 {
						runtime.Gosched() // others may come between
					}
					s.Failures = n + 1
				})
				if err != nil {
					f.add("UpdateStandings: %w", err)
				}
			}
		})
	}
	group.Wait()
	t.must("of concurrent calls", f.err())
	for _, id := range []string{"s", "u"} {
		got := t.kept(id).Failures
		t.check(got == before.Failures+workers*changes, "Failures of %s is %d after %d concurrent increments", id, got, workers*changes)
		before.Failures = 0
	}
}

// effects is what Finish does to standings, and what shows them.
func effects(t *trial) {
	store := t.standings()
	t.check(t.claim().Standings == nil, "Standings of an empty claim is not nil")
	var given []outhook.Standing
	t.must("UpdateStandings", store.UpdateStandings(t.ctx, []string{"s", "u"}, func(_ time.Time, s *outhook.Standing) {
		given = append(given, *s)
	}))
	t.check(len(given) >= 2 && given[0] == outhook.Standing{Subscriber: "s"}, "update is given %+v, want the zero standings of s and u", given)
	called := false
	t.must("UpdateStandings of nothing", store.UpdateStandings(t.ctx, nil, func(time.Time, *outhook.Standing) { called = true }))
	t.check(!called, "UpdateStandings of nothing called update")
	for s := range store.Standings(t.ctx) {
		t.check(s.Subscriber != "s" || s != outhook.Standing{Subscriber: "s"}, "the zero standing of %s is kept", s.Subscriber)
	}

	t.events("a", "b", "c", "d", "e", "f")
	claims := t.take("a", "b", "c", "d", "e", "f")
	pause := with(retry(claims[0], 0), outhook.Effect{Pause: 2 * hour, Reason: "slow"})
	t.finish(pause)
	s := t.kept("s")
	t.check(s.Failures == 1 && s.Reason == "slow" && !s.PausedUntil.IsZero(), "the standing is %+v, want the effect of a pause", s)
	if t.exact() {
		t.check(s.PausedUntil.Equal(t.now().Add(2*hour)), "the standing is paused until %v, want 2h from %v", s.PausedUntil, t.now())
	}
	t.none("its subscriber is paused by an effect", "a")
	t.finish(pause) // again
	t.check(t.kept("s") == s, "the effect of an outcome that was given twice was applied twice: %+v", t.kept("s"))
	t.finish(with(retry(claims[1], 0), outhook.Effect{Pause: time.Second}))
	s = t.kept("s")
	t.check(s.Failures == 2, "Failures is %d after 2 effects, want 2", s.Failures)
	t.none("a pause is never shortened", "a", "b")

	// Effects of one batch, one after the other; then those of an old epoch.
	t.finish(with(retry(claims[2], 0), outhook.Effect{}), with(retry(claims[3], 0), outhook.Effect{Disable: true, Reason: "gone"}))
	s = t.kept("s")
	t.check(s.Failures == 4 && s.Disabled && s.Epoch == 1, "the standing is %+v, want 4 failures, disabled, epoch 1", s)
	t.enable("s")
	t.finish(with(outcome(claims[4], outhook.Delivered), outhook.Effect{Disable: true}))
	s = t.kept("s")
	t.check(s == outhook.Standing{Subscriber: "s", Epoch: 2}, "the standing is %+v, want the effect of an older epoch to be void", s)
	t.standing("s", func(_ time.Time, s *outhook.Standing) { s.Failures = 3 })
	t.finish(with(outcome(claims[5], outhook.Delivered), outhook.Effect{Epoch: 2, Success: true}))
	t.check(t.kept("s") == s, "the standing is %+v, want no failures after a success", t.kept("s"))

	// A claim comes with the standings that are kept, of its subscribers alone.
	t.standing("other", func(_ time.Time, s *outhook.Standing) { s.Failures = 7 })
	t.enqueue(t.delivery("a", "clean"))
	claimed := t.claim()
	t.check(len(claimed.Standings) == 1 && claimed.Standings["s"] == s, "Standings of the claim are %+v, want that of s alone, %+v", claimed.Standings, s)

	// All fields come back equal, and one may stop reading them.
	want := outhook.Standing{
		Subscriber: "full", Disabled: true, CancelWaiting: true, Reason: "a \"reason\" with 'quotes' and \u00fc",
		Failures: 12, Trips: 3, Rate: outhook.Rate{N: 5, Per: hour, Burst: 7}, Tokens: -2, Told: outhook.Failing, Epoch: 1 << 40,
	}
	t.standing("full", func(now time.Time, s *outhook.Standing) {
		want.PausedUntil, want.Since, want.FailingSince = now.Add(hour), now.Add(-hour), now.Add(-2*hour)
		want.RateSince, want.Refilled = now.Add(-3*hour), now.Add(-4*hour)
		*s = want
	})
	var got outhook.Standing
	t.standing("full", func(_ time.Time, s *outhook.Standing) { got = *s })
	t.check(sameStanding(got, want), "the standing is %+v, want %+v", got, want)
	for _, err := range store.Standings(t.ctx) {
		t.must("Standings", err)
		break
	}
}
