package outhook

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// failing answers 500 while down, else 200, and 200 to all but one subscriber.
type failing struct {
	*wire
	mu   sync.Mutex
	down bool
}

func newFailing(id string) *failing {
	o := &failing{down: true}
	o.wire = &wire{answer: func(r *http.Request, _ int) (*http.Response, error) {
		time.Sleep(10 * time.Millisecond)
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.down && r.URL.Host == host(id) {
			return response(500), nil
		}
		return response(200), nil
	}}
	return o
}

func (o *failing) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down = false
}

// TestBreaker goes through the states of a subscriber that fails and recovers.
func TestBreaker(t *testing.T) {
	for name, store := range map[string]func() Store{
		"memory":                  func() Store { return NewMemoryStore() },
		"store without standings": func() Store { return plain{NewMemoryStore()} },
	} {
		bubble(t, name, func(t *testing.T) {
			var changes []StandingChange
			o := newFailing("a")
			d := dispatcher(t, store(), o.wire, Options{
				Retry:     Schedule(slices.Repeat([]time.Duration{time.Second}, 9)...),
				Observers: []Observer{{Standing: func(_ context.Context, c StandingChange) { changes = append(changes, c) }}},
			})
			for i := range 50 {
				send(t, d, eventID(i), subscriber("a"), subscriber("b"))
			}
			stop := run(t, d)
			defer stop()
			time.Sleep(9 * time.Second)
			require.Len(t, o.to(host("b")), 50, "others go on")
			opened := len(o.to(host("a")))
			require.GreaterOrEqual(t, opened, 10)
			require.Less(t, opened, 10+8, "none that was not in flight when it opened")
			require.Len(t, changes, 1)
			require.Equal(t, []SubscriberState{Active, Failing}, []SubscriberState{changes[0].From, changes[0].To})
			require.Equal(t, ReasonFailing, changes[0].Reason)
			require.Equal(t, 1, changes[0].Trips)

			time.Sleep(10 * time.Minute)
			calls := o.to(host("a"))[opened:]
			require.NotEmpty(t, calls)
			pause := 10 * time.Second
			for i, c := range calls { // probes: one each, ever less often
				if i > 0 {
					gap := c.at - calls[i-1].at
					require.GreaterOrEqual(t, gap, pause)
					require.Less(t, gap, pause+pause/10+2*time.Second)
				}
				pause = min(2*pause, 15*time.Minute)
				if i == 0 {
					pause = 20 * time.Second
				}
			}
			require.Less(t, len(calls), 8)

			o.end()
			time.Sleep(30 * time.Minute)
			stop()
			require.Len(t, changes, 2)
			require.Equal(t, []SubscriberState{Failing, Active}, []SubscriberState{changes[1].From, changes[1].To})
			delivered := make(map[string]bool)
			for _, c := range o.to(host("a")) {
				delivered[c.event] = true
			}
			require.Len(t, delivered, 50)
		})
	}
}

// TestOutage has a receiver that is down for 10 minutes while 10,000 events wait for it,
// in order and at a pace: waiting uses up no attempts, and when it is back, all arrive.
func TestOutage(t *testing.T) {
	bubble(t, "10 minutes", func(t *testing.T) {
		const events = 10_000
		o := newFailing("a")
		store := NewMemoryStore()
		d := dispatcher(t, store, o.wire, Options{})
		s := subscriber("a")
		s.Ordered, s.Rate = true, Rate{N: 100, Burst: 10}
		for i := range events {
			send(t, d, eventID(i), s)
		}
		stop := run(t, d)
		defer stop()
		time.Sleep(10 * time.Minute)
		burnt := len(o.to(""))
		require.Less(t, burnt, 30)
		o.end()
		for {
			stats, err := d.Stats(t.Context())
			require.NoError(t, err)
			require.Zero(t, stats.Dead)
			if stats.Delivered == events {
				break
			}
			time.Sleep(time.Second)
		}
		stop()
		calls := o.to("")[burnt:]
		require.Len(t, calls, events)
		for i, c := range calls {
			require.Equal(t, eventID(i), c.event, "in order, and each once")
		}
		took := calls[events-1].at - calls[0].at
		require.InDelta(t, float64(events/100*time.Second), float64(took), float64(time.Second))
		t.Logf("%d attempts during the outage, %v to deliver %d at 100/s after it", burnt, took, events)
	})
}

// TestRate measures paces on the fake clock.
func TestRate(t *testing.T) {
	for _, test := range []struct {
		rate  Rate
		store func() Store
	}{
		{Rate{N: 50}, func() Store { return NewMemoryStore() }},
		{Rate{N: 50}, func() Store { return plain{NewMemoryStore()} }},
		{Rate{N: 1, Per: time.Minute}, func() Store { return NewMemoryStore() }},
		{Rate{N: 600, Per: time.Minute, Burst: 100}, func() Store { return NewMemoryStore() }},
		{Rate{N: 3, Per: 7 * time.Second, Burst: 2}, func() Store { return NewMemoryStore() }},
	} {
		bubble(t, strconv.Itoa(test.rate.N)+" per "+test.rate.per().String(), func(t *testing.T) {
			store := test.store()
			w := &wire{answer: status(200)}
			d := dispatcher(t, store, w, Options{})
			s := subscriber("a")
			s.Rate = test.rate
			for i := range 1000 {
				send(t, d, eventID(i), s)
			}
			stop := run(t, d)
			defer stop()
			span := 100 * test.rate.per() / time.Duration(max(test.rate.N/10, 1))
			time.Sleep(span)
			stop()
			n := len(w.to(""))
			want := int(float64(span) / float64(test.rate.per()) * float64(test.rate.N))
			require.GreaterOrEqual(t, n, min(want, 1000)-test.rate.burst())
			require.LessOrEqual(t, n, want+2*test.rate.burst()+d.options.SubscriberConcurrency)
			calls := w.to("")
			for i := range calls { // no window has more than its share
				j := i
				for j < len(calls) && calls[j].at < calls[i].at+test.rate.per() {
					j++
				}
				require.LessOrEqual(t, j-i, test.rate.N+test.rate.burst()+d.options.SubscriberConcurrency)
			}
		})
	}
}

// TestRateChanges shows which pace counts.
func TestRateChanges(t *testing.T) {
	bubble(t, "the latest Send's", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		slow, fast := subscriber("a"), subscriber("a")
		slow.Rate, fast.Rate = Rate{N: 1, Per: time.Hour}, Rate{N: 10}
		for i := range 20 {
			send(t, d, "slow-"+eventID(i), slow)
		}
		stop := run(t, d)
		defer stop()
		time.Sleep(time.Minute)
		require.Len(t, w.to(""), 8, "what was claimed before the pace was known")
		time.Sleep(time.Minute)
		require.Len(t, w.to(""), 8)
		health, err := d.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, slow.Rate, health[0].Rate)
		require.Equal(t, -7, health[0].Tokens)

		for i := range 20 {
			send(t, d, "fast-"+eventID(i), fast)
		}
		time.Sleep(24 * time.Hour)
		require.Len(t, w.to(""), 40)
		health, err = d.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, fast.Rate, health[0].Rate, "and those that were sent before do not bring the old one back")

		unpaced := subscriber("a")
		send(t, d, "unpaced", unpaced)
		time.Sleep(time.Minute)
		health, err = d.Health(t.Context())
		require.NoError(t, err)
		require.Equal(t, Rate{}, health[0].Rate)
	})
	bubble(t, "the Directory's", func(t *testing.T) {
		s := subscriber("a")
		s.Rate = Rate{N: 1, Per: time.Hour}
		w := &wire{answer: status(200)}
		known := &register{answer: func(context.Context, string, int) (Subscriber, error) { return s, nil }}
		d := dispatcher(t, NewMemoryStore(), w, Options{Directory: known, SubscriberConcurrency: 2})
		for i := range 20 {
			send(t, d, eventID(i), Subscriber{ID: "a"})
		}
		stop := run(t, d)
		time.Sleep(30 * time.Minute)
		stop()
		require.NotEmpty(t, w.to(""))
		require.LessOrEqual(t, len(w.to("")), 2)
	})
	t.Run("faults", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		for want, rate := range map[string]Rate{
			"-1 per 0s with bursts of 0 is negative": {N: -1},
			"1 per -1s with bursts of 0 is negative": {N: 1, Per: -time.Second},
			"N 1000001 or Burst 0 is above 1000000":  {N: 1_000_001},
			"N is 0, but Per or Burst is not":        {Burst: 1},
		} {
			s := subscriber("a")
			s.Rate = rate
			_, err := d.Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
			require.EqualError(t, err, `outhook: subscriber "a": Rate: `+want)
		}
	})
}

func TestHealth(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
			switch r.URL.Host {
			case host("slow"):
				time.Sleep(time.Duration(n%100) * 10 * time.Millisecond)
				return response(200), nil
			case host("bad"):
				return response(500), nil
			case host("gone"):
				return response(410), nil
			}
			return response(200), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Retry: Schedule(time.Hour)})
		for i := range 100 {
			send(t, d, eventID(i), subscriber("slow"))
		}
		for i := range 3 {
			send(t, d, eventID(i), subscriber("bad"), subscriber("gone"))
		}
		_, err := d.Send(t.Context(), Event{ID: "later", Type: "x", Delay: time.Hour}, []Subscriber{subscriber("waits")})
		require.NoError(t, err)
		start := time.Now()
		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		list, err := d.Health(t.Context())
		require.NoError(t, err)
		of := make(map[string]Health)
		for _, h := range list {
			of[h.Subscriber] = h
		}
		require.Equal(t, []string{"bad", "gone", "slow", "waits"}, slices.Sorted(maps.Keys(of)))
		require.Equal(t, Active, of["bad"].State)
		require.Equal(t, 3, of["bad"].Failures)
		require.Equal(t, 3, of["bad"].Attempts)
		require.Equal(t, 3, of["bad"].Pending)
		require.Zero(t, of["bad"].Successes)
		require.Zero(t, of["bad"].OldestDue)
		require.Equal(t, Disabled, of["gone"].State)
		require.Equal(t, ReasonGone, of["gone"].Reason)
		require.Equal(t, 100, of["slow"].Attempts)
		require.Equal(t, 100, of["slow"].Successes)
		require.Zero(t, of["slow"].Pending)
		require.InDelta(t, 500, of["slow"].P50.Milliseconds(), 125)
		require.InDelta(t, 980, of["slow"].P99.Milliseconds(), 245)
		require.True(t, of["slow"].LastSuccess.After(start))
		require.Equal(t, 1, of["waits"].Pending)
		require.Zero(t, of["waits"].Attempts)

		time.Sleep(time.Hour)
		list, err = d.Health(t.Context())
		require.NoError(t, err)
		for _, h := range list {
			require.Zero(t, h.Attempts, "of an hour ago")
			require.NotEqual(t, "slow", h.Subscriber)
			if h.Subscriber == "waits" {
				require.InDelta(t, 2*time.Minute, h.OldestDue, float64(10*time.Second))
			}
		}
	})
	t.Run("store that fails", func(t *testing.T) {
		d, err := New(failingHealth{NewMemoryStore()}, nil)
		require.NoError(t, err)
		_, err = d.Health(t.Context())
		require.EqualError(t, err, "outhook: health: no route")
	})
	t.Run("store that is no Manager", func(t *testing.T) {
		bubble(t, "", func(t *testing.T) {
			d := dispatcher(t, plain{NewMemoryStore()}, &wire{answer: status(500)}, Options{})
			send(t, d, "e", subscriber("a"))
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			list, err := d.Health(t.Context())
			require.NoError(t, err)
			require.Len(t, list, 1)
			require.Equal(t, -1, list[0].Pending)
			require.Equal(t, 1, list[0].Failures)
		})
	})
}

type failingHealth struct{ *MemoryStore }

func (failingHealth) Backlogs(context.Context) iter.Seq2[Backlog, error] {
	return func(yield func(Backlog, error) bool) { yield(Backlog{}, errors.New("no route")) }
}

func TestDurationClasses(t *testing.T) {
	for ms := range 100_000 {
		d := time.Duration(ms) * time.Millisecond
		class := durationClass(d)
		require.Less(t, d, classDuration(class))
		if class > 0 {
			require.GreaterOrEqual(t, d, classDuration(class-1))
		}
		require.LessOrEqual(t, classDuration(class)-d, d/4+time.Millisecond, "%v", d)
	}
	require.Equal(t, len(gaugeMinute{}.durations)-1, durationClass(1000*time.Hour))
	require.Zero(t, durationClass(-1))
}

// TestGaugesAreBounded sees to it that many subscribers do not grow them for ever.
func TestGaugesAreBounded(t *testing.T) {
	var gs gauges
	for i := range maxGauges + 10 {
		gs.add(strconv.Itoa(i), Attempt{}, true)
	}
	require.LessOrEqual(t, len(gs.of), maxGauges)
	var ps paces
	for i := range maxPaces + 10 {
		ps.note(map[string]latestPace{strconv.Itoa(i): {}})
	}
	require.LessOrEqual(t, len(ps.of), maxPaces)
}

// TestProbes has several workers behind one open breaker, one of which dies.
func TestProbes(t *testing.T) {
	bubble(t, "one at a time", func(t *testing.T) {
		store := NewMemoryStore()
		o := newFailing("a")
		var stops []func()
		for range 4 {
			d := dispatcher(t, store, o.wire, Options{Retry: Schedule(slices.Repeat([]time.Duration{time.Second}, 50)...), SubscriberConcurrency: 1})
			if len(stops) == 0 {
				for i := range 100 {
					send(t, d, eventID(i), subscriber("a"))
				}
			}
			stops = append(stops, run(t, d))
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		calls := o.to("")
		// Ten, and what others had begun before the tenth was stored: each knows of its own.
		burst := 1
		for burst < len(calls) && calls[burst].at-calls[burst-1].at < 10*time.Second {
			burst++
		}
		require.GreaterOrEqual(t, burst, 10)
		require.LessOrEqual(t, burst, 20)
		for i := burst; i < len(calls); i++ {
			require.GreaterOrEqual(t, calls[i].at-calls[i-1].at, 10*time.Second, i)
		}
		require.Less(t, len(calls)-burst, 12)
		for _, stop := range stops {
			stop()
		}
	})
}
