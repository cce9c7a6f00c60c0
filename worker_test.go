package outhook

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRunRetries(t *testing.T) {
	bubble(t, "the default schedule, to the second, over 75 hours", func(t *testing.T) {
		w := &wire{answer: status(500)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		stop()

		base := []time.Duration{0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour,
			5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
		policy := StandardSchedule()
		var at, sum time.Duration
		calls := w.to("")
		require.Len(t, calls, len(base))
		for n, c := range calls {
			if n > 0 {
				delay, ok := policy(DeliveryID{"e", "a"}, Attempt{Number: n})
				require.True(t, ok)
				require.GreaterOrEqual(t, delay, base[n])
				require.Less(t, delay, base[n]+base[n]/10)
				at += delay
			}
			sum += base[n]
			require.Equal(t, at.Truncate(time.Second), c.at.Truncate(time.Second), "attempt %d", n+1)
		}
		require.Equal(t, 75*time.Hour+35*time.Minute+5*time.Second, sum)
		r := record(t, d, "e", "a")
		require.Equal(t, Dead, r.State)
		require.Equal(t, ReasonExhausted, r.Reason)
		require.Len(t, r.Attempts, 10)
	})

	bubble(t, "fail, then succeed", func(t *testing.T) {
		w := &wire{answer: func(_ *http.Request, n int) (*http.Response, error) {
			if n < 2 {
				return response(503), nil
			}
			return response(204), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Hour)
		stop()
		r := record(t, d, "e", "a")
		require.Equal(t, Delivered, r.State)
		require.Equal(t, []int{503, 503, 204}, []int{r.Attempts[0].Status, r.Attempts[1].Status, r.Attempts[2].Status})
		require.Equal(t, "status 503", r.Attempts[0].Error)
		require.Empty(t, r.Attempts[2].Error)
		calls := w.to("")
		require.Equal(t, calls[0].body, calls[2].body)
		require.NotEqual(t, calls[0].header.Get(headerTimestamp), calls[2].header.Get(headerTimestamp), "signed afresh")
	})
}

// retryAfterOnce answers 429 to the first call of host "a".
func retryAfterOnce(value string) *wire {
	return &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
		if r.URL.Host == host("a") && n == 0 {
			return response(429, "Retry-After", value), nil
		}
		return response(200), nil
	}}
}

func TestRunRetryAfter(t *testing.T) {
	for name, store := range map[string]func() Store{
		"standings in the store":   func() Store { return NewMemoryStore() },
		"standings in the process": func() Store { return plain{NewMemoryStore()} },
	} {
		bubble(t, "pauses the whole subscriber, "+name, func(t *testing.T) {
			w := retryAfterOnce("100")
			d := dispatcher(t, store(), w, Options{Poll: time.Second})
			send(t, d, "e1", subscriber("a"))
			stop := run(t, d)
			synctest.Wait()
			send(t, d, "e2", subscriber("a"), subscriber("b"))
			time.Sleep(99 * time.Second)
			require.Equal(t, 1, len(w.to(host("a"))))
			require.Equal(t, 1, len(w.to(host("b"))), "others are not paused")
			for s, err := range d.Standings(t.Context()) {
				require.NoError(t, err)
				require.Equal(t, "a", s.Subscriber)
				require.Equal(t, "Retry-After", s.Reason)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			calls := w.to(host("a"))
			require.Len(t, calls, 3)
			require.GreaterOrEqual(t, calls[1].at, 100*time.Second)
			time.Sleep(time.Second)
			for s := range d.Standings(t.Context()) {
				require.Fail(t, "good again", "%+v", s)
			}
			stop()
		})
	}

	bubble(t, "holds back what was claimed ahead", func(t *testing.T) {
		w := &wire{answer: func(_ *http.Request, n int) (*http.Response, error) {
			time.Sleep(time.Second)
			if n < 4 {
				return response(429, "Retry-After", "100"), nil
			}
			return response(200), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Concurrency: 4})
		for i := range 5 { // 4 in flight, 1 claimed ahead
			send(t, d, eventID(i), subscriber("a"))
		}
		stop := run(t, d)
		time.Sleep(90 * time.Second)
		require.Equal(t, 4, len(w.to("")))
		time.Sleep(90 * time.Second)
		stop()
		require.Equal(t, 9, len(w.to("")))
		require.Equal(t, 1, record(t, d, "e4", "a").Attempts[0].Number)
	})

	bubble(t, "never shortens a delay", func(t *testing.T) {
		w := retryAfterOnce("1")
		d := dispatcher(t, NewMemoryStore(), w, Options{Retry: Schedule(time.Minute)})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(2 * time.Minute)
		stop()
		require.GreaterOrEqual(t, w.to("")[1].at, time.Minute)
	})
}

func TestRunGone(t *testing.T) {
	gone := func() *wire {
		return &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
			if r.URL.Host == host("a") && n == 0 {
				return response(410), nil
			}
			return response(200), nil
		}}
	}
	for name, store := range map[string]func() Store{
		"standings in the store":   func() Store { return NewMemoryStore() },
		"standings in the process": func() Store { s := NewMemoryStore(); return hidden{s, s} },
	} {
		bubble(t, "holds what waits until enabled, "+name, func(t *testing.T) {
			w := gone()
			d := dispatcher(t, store(), w, Options{Poll: time.Second})
			stop := run(t, d)
			send(t, d, "e1", subscriber("a"))
			synctest.Wait()
			require.Equal(t, Dead, record(t, d, "e1", "a").State)
			require.Equal(t, ReasonGone, record(t, d, "e1", "a").Reason)
			send(t, d, "e2", subscriber("a"), subscriber("b"))
			time.Sleep(time.Hour)
			require.Equal(t, Pending, record(t, d, "e2", "a").State)
			require.Equal(t, Delivered, record(t, d, "e2", "b").State)
			require.NoError(t, d.Enable(t.Context(), "a"))
			synctest.Wait()
			require.Equal(t, Delivered, record(t, d, "e2", "a").State)
			stop()
		})

		bubble(t, "cancels what waits, "+name, func(t *testing.T) {
			w := gone()
			d := dispatcher(t, store(), w, Options{Poll: time.Second, CancelDisabled: true})
			stop := run(t, d)
			send(t, d, "e1", subscriber("a"))
			synctest.Wait()
			send(t, d, "e2", subscriber("a"))
			time.Sleep(2 * time.Second)
			r := record(t, d, "e2", "a")
			require.Equal(t, Cancelled, r.State)
			require.Equal(t, ReasonDisabled, r.Reason)
			require.Equal(t, 1, len(w.to("")))
			require.NoError(t, d.Enable(t.Context(), "a"))
			send(t, d, "e3", subscriber("a"))
			time.Sleep(2 * time.Second)
			require.Equal(t, Delivered, record(t, d, "e3", "a").State)
			stop()
		})
	}

	bubble(t, "observers are told once, however many attempts were in flight", func(t *testing.T) {
		told := 0
		w := &wire{answer: func(*http.Request, int) (*http.Response, error) {
			time.Sleep(time.Second)
			return response(410), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Observers: []Observer{{
			Standing: func(context.Context, StandingChange) { told++ },
		}}})
		for i := range 8 {
			send(t, d, eventID(i), subscriber("a"))
		}
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 8, len(w.to("")))
		require.Equal(t, 1, told)
		require.NoError(t, d.Enable(t.Context(), "a"))
		send(t, d, "again", subscriber("a"))
		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, told)
	})

	bubble(t, "Disable holds, too", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		require.NoError(t, d.Disable(t.Context(), "a", "unpaid"))
		send(t, d, "e", subscriber("a"))
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Empty(t, w.to(""))
		require.NoError(t, d.Enable(t.Context(), "a"))
		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, len(w.to("")))
	})
}

// hidden hides the standings of a MemoryStore, not its management.
type hidden struct {
	s *MemoryStore
	Manager
}

func (h hidden) Enqueue(ctx context.Context, d []Delivery) ([]DeliveryID, error) {
	return h.s.Enqueue(ctx, d)
}
func (h hidden) Claim(ctx context.Context, r ClaimRequest) (Claimed, error) {
	return h.s.Claim(ctx, r)
}
func (h hidden) Finish(ctx context.Context, o []Outcome) ([]Lease, error) {
	for i := range o {
		o[i].Effect = nil
	}
	return h.s.Finish(ctx, o)
}

func TestRunStop(t *testing.T) {
	slow := func(r *http.Request, _ int) (*http.Response, error) {
		select {
		case <-time.After(2 * time.Second):
			return response(200), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}

	bubble(t, "inside the grace", func(t *testing.T) {
		store := NewMemoryStore()
		w := &wire{answer: slow}
		d := dispatcher(t, store, w, Options{Concurrency: 4})
		for i := range 7 { // 4 in flight, 1 claimed ahead, 2 waiting
			send(t, d, eventID(i), subscriber("a"))
		}
		stop := run(t, d)
		time.Sleep(time.Second)
		stop()
		require.Equal(t, 4, len(w.to("")), "nothing is begun while stopping")
		stats, err := d.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, Stats{Pending: 3, Delivered: 4, OldestDue: 2 * time.Second}, stats)

		claimed, err := store.Claim(t.Context(), ClaimRequest{Limit: 10, PerSubscriber: 10, SuspectAfter: 3, Lease: time.Minute})
		require.NoError(t, err)
		require.Len(t, claimed.Claims, 3, "due at once")
		for _, c := range claimed.Claims {
			require.Equal(t, 1, c.Attempt, "not burned")
			require.Zero(t, c.Unfinished)
		}
	})

	bubble(t, "past the grace, when bytes have left", func(t *testing.T) {
		w := &wire{answer: hang}
		d := dispatcher(t, NewMemoryStore(), w, Options{Grace: 3 * time.Second, Retry: Schedule(time.Minute)})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Second)
		began := time.Now()
		stop()
		require.Equal(t, 3*time.Second, time.Since(began))
		r := record(t, d, "e", "a")
		require.Equal(t, Pending, r.State, "not lost")
		require.Len(t, r.Attempts, 1, "it may have been received")
		require.Equal(t, errCut.Error(), r.Attempts[0].Error)

		w.answer = status(200)
		stop = run(t, d)
		time.Sleep(50 * time.Second)
		require.Equal(t, 1, len(w.to("")), "not sent twice at once")
		time.Sleep(time.Minute)
		stop()
		require.Equal(t, Delivered, record(t, d, "e", "a").State)
	})

	bubble(t, "past the grace, when no byte has left", func(t *testing.T) {
		w := &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
			if n > 0 {
				return response(200), nil
			}
			httptrace.ContextClientTrace(r.Context()).GetConn("a.example.com:443")
			return hang(r, n)
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Grace: -1, Retry: Schedule()})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Second)
		stop()
		r := record(t, d, "e", "a")
		require.Equal(t, Pending, r.State)
		require.Empty(t, r.Attempts, "no attempt burned")
		require.False(t, r.Leased)
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		r = record(t, d, "e", "a")
		require.Equal(t, Delivered, r.State)
		require.Equal(t, 1, r.Attempts[0].Number)
	})

	bubble(t, "past the grace, while signing", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{Grace: -1, Retry: Schedule(), Signers: map[string]Signer{"": slowSigner{}}})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Second)
		stop()
		r := record(t, d, "e", "a")
		require.Equal(t, Pending, r.State)
		require.Empty(t, r.Attempts, "no attempt burned")
		require.Empty(t, w.to(""))
	})

	bubble(t, "with a store that is down", func(t *testing.T) {
		store := &faulty{MemoryStore: NewMemoryStore()}
		store.fail = func(call string) error {
			if call == "Finish" {
				return errors.New("down")
			}
			return nil
		}
		d := dispatcher(t, store, &wire{answer: status(200)}, Options{Grace: time.Second})
		send(t, d, "e", subscriber("a"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		began := time.Now()
		err := d.Run(ctx)
		require.ErrorContains(t, err, "1 outcomes could not be stored")
		require.Equal(t, 20*time.Second+time.Second+flushBudget, time.Since(began))
	})
}

// slowSigner does not heed its context.
type slowSigner struct{}

func (slowSigner) Sign(ctx context.Context, m Message, keys []Key) (http.Header, error) {
	time.Sleep(2 * time.Second)
	return StandardWebhooks{}.Sign(ctx, m, keys)
}

func TestRunStoreOutage(t *testing.T) {
	bubble(t, "an hour", func(t *testing.T) {
		store := &faulty{MemoryStore: NewMemoryStore()}
		w := &wire{answer: okAfter(time.Second)}
		var downs, ups, delivered atomic.Int32
		d := dispatcher(t, store, w, Options{Observers: []Observer{{
			StoreDown: func(_ context.Context, err error) { require.EqualError(t, err, "down"); downs.Add(1) },
			StoreUp:   func(context.Context) { ups.Add(1) },
			Delivered: func(context.Context, Observation) { delivered.Add(1) },
		}}})
		for i := range 5 {
			send(t, d, eventID(i), subscriber("a"))
		}
		stop := run(t, d)
		time.Sleep(500 * time.Millisecond) // in flight
		outage := time.Now().Add(time.Hour)
		store.mu.Lock()
		clear(store.calls)
		store.fail = func(string) error {
			if time.Now().Before(outage) {
				return errors.New("down")
			}
			return nil
		}
		store.mu.Unlock()
		time.Sleep(30 * time.Minute)
		send(t, d, "later", subscriber("a"))
		time.Sleep(29 * time.Minute)
		finishes, claims := store.count("Finish"), store.count("Claim")
		require.Less(t, finishes, 1000, "no hot loop")
		require.Less(t, claims, 1000, "no hot loop")
		require.Zero(t, delivered.Load())

		time.Sleep(2 * time.Minute)
		synctest.Wait()
		stop()
		require.Equal(t, 6, len(w.to("")), "what was delivered is not sent again")
		require.EqualValues(t, 6, delivered.Load())
		require.EqualValues(t, 1, downs.Load())
		require.EqualValues(t, 1, ups.Load())
		for i := range 5 {
			require.Equal(t, Delivered, record(t, d, eventID(i), "a").State)
		}
	})

	bubble(t, "claims whose answers are lost", func(t *testing.T) {
		store := &lossyStore{MemoryStore: NewMemoryStore(), until: time.Now().Add(10 * time.Minute)}
		d := dispatcher(t, store, &wire{answer: status(200)}, Options{})
		for i := range 20 {
			send(t, d, eventID(i), subscriber("a"))
		}
		stop := run(t, d)
		time.Sleep(time.Hour)
		stop()
		stats, err := d.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, Stats{Delivered: 20}, stats, "none is taken for one that ends its worker")
	})

	bubble(t, "a store that panics", func(t *testing.T) {
		store := &faulty{MemoryStore: NewMemoryStore()}
		calls := 0
		store.fail = func(string) error {
			if calls++; calls < 5 {
				panic("store")
			}
			return nil
		}
		d := dispatcher(t, store, &wire{answer: status(200)}, Options{})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Minute)
		stop()
		require.Equal(t, Delivered, record(t, d, "e", "a").State)
	})

	bubble(t, "a notifier that fails is replaced by polling", func(t *testing.T) {
		store := &deafStore{MemoryStore: NewMemoryStore()}
		w := &wire{answer: status(200)}
		d := dispatcher(t, store, w, Options{Poll: time.Second})
		stop := run(t, d)
		time.Sleep(time.Minute)
		_, err := store.Enqueue(t.Context(), enqueued(t, d, "e", subscriber("a"))) // as another process does
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, len(w.to("")))
		require.Less(t, store.calls.Load(), int32(20), "no hot loop")
		stop()
	})
}

// lossyStore is one whose claims take effect, but whose answers are lost.
type lossyStore struct {
	*MemoryStore
	until time.Time
}

func (s *lossyStore) Claim(ctx context.Context, r ClaimRequest) (Claimed, error) {
	claimed, err := s.MemoryStore.Claim(ctx, r)
	if time.Now().Before(s.until) {
		return Claimed{}, errors.New("the answer was lost")
	}
	return claimed, err
}

type deafStore struct {
	*MemoryStore
	calls atomic.Int32
}

func (s *deafStore) Notify(context.Context, func()) error {
	s.calls.Add(1)
	return errors.New("cannot")
}

// catcher is an Enqueuer that keeps what it is given.
type catcher struct{ deliveries []Delivery }

func (c *catcher) Enqueue(_ context.Context, d []Delivery) ([]DeliveryID, error) {
	c.deliveries = append(c.deliveries, d...)
	return nil, nil
}

// enqueued returns the deliveries of an event.
func enqueued(t *testing.T, d *Dispatcher, id string, subscribers ...Subscriber) []Delivery {
	t.Helper()
	var c catcher
	_, err := d.Via(&c).Send(t.Context(), Event{ID: id, Type: "test.event"}, subscribers)
	require.NoError(t, err)
	return c.deliveries
}

func TestRunPanics(t *testing.T) {
	bubble(t, "encoder", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		s := subscriber("a")
		s.Encode = func(Event) (*Payload, error) { panic("encoder") }
		_, err := d.Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, `subscriber "a": Encode: panic in the encoder`)
	})

	type option func(*Options)
	for name, panics := range map[string]option{
		"signer":    func(o *Options) { o.Signers = map[string]Signer{"": panicking{}} },
		"transport": nil,
		"observer, before the attempt": func(o *Options) {
			o.Observers = []Observer{{Attempting: func(context.Context, Observation) context.Context { panic("observer") }}}
		},
		"observer, after": func(o *Options) {
			o.Observers = []Observer{{
				Attempted: func(context.Context, Observation) { panic("observer") },
				Delivered: func(context.Context, Observation) { panic("observer") },
				Retrying:  func(context.Context, Observation) { panic("observer") },
			}}
		},
		"classifier": func(o *Options) { o.Classify = func(Attempt, error) Verdict { panic("classifier") } },
		"retry policy": func(o *Options) {
			o.Classify = func(Attempt, error) Verdict { return Retry }
			o.Retry = func(DeliveryID, Attempt) (time.Duration, bool) { panic("policy") }
		},
	} {
		bubble(t, name, func(t *testing.T) {
			w := &wire{answer: status(200)}
			var o Options
			if panics == nil {
				w.answer = func(*http.Request, int) (*http.Response, error) { panic("transport") }
			} else {
				panics(&o)
			}
			d := dispatcher(t, NewMemoryStore(), w, o)
			send(t, d, "e", subscriber("a"))
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			r := record(t, d, "e", "a")
			switch name {
			case "observer, before the attempt", "observer, after":
				require.Equal(t, Delivered, r.State, "observers do not matter")
			default:
				require.Equal(t, Pending, r.State)
				require.Len(t, r.Attempts, 1)
				require.Greater(t, time.Until(r.Due), 4*time.Second, "retried by the schedule")
			}
			for s := range d.Standings(t.Context()) {
				require.NotContains(t, []string{"signer", "transport"}, name, "not the receiver's fault: %+v", s)
			}
		})
	}
}

type panicking struct{}

func (panicking) Sign(context.Context, Message, []Key) (http.Header, error) { panic("signer") }

func TestRunFairness(t *testing.T) {
	// deliver sends n events to each of 19 healthy subscribers, with or without
	// one that hangs and has 10,000 waiting, and returns the healthy calls.
	const n = 50
	deliver := func(t *testing.T, hung bool) (calls []call, took time.Duration) {
		w := &wire{answer: func(r *http.Request, i int) (*http.Response, error) {
			if r.URL.Host == host("hung") {
				return hang(r, i)
			}
			time.Sleep(time.Millisecond)
			return response(200), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		if hung {
			for i := range 10_000 {
				send(t, d, eventID(i), subscriber("hung"))
			}
		}
		for i := range n {
			for s := range 19 {
				send(t, d, eventID(i), subscriber(fmt.Sprintf("s%d", s)))
			}
		}
		began := time.Now()
		stop := run(t, d)
		for {
			synctest.Wait()
			if calls = slices.DeleteFunc(w.to(""), func(c call) bool { return c.host == host("hung") }); len(calls) == n*19 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		took = time.Since(began)
		stop()
		return calls, took
	}

	var without, with []call
	var alone, beside time.Duration
	bubble(t, "without", func(t *testing.T) { without, alone = deliver(t, false) })
	bubble(t, "with a subscriber that hangs", func(t *testing.T) { with, beside = deliver(t, true) })

	const turn = 8 // the concurrency of a subscriber
	require.Less(t, rounds(without), turn, "the healthy ones take turns")
	require.Less(t, rounds(with), turn, "the healthy ones take the same turns")
	slots := float64(64) / float64(64-8) // what the hung one may occupy
	require.LessOrEqual(t, float64(beside), math.Ceil(float64(alone)*slots)+float64(2*time.Millisecond))
}

// rounds returns how far the subscribers have moved apart: the greatest
// difference between the event numbers that any two were at.
func rounds(calls []call) (apart int) {
	at := make(map[string]int)
	for _, c := range calls {
		at[c.host]++
		if len(at) == 19 {
			least, most := math.MaxInt, 0
			for _, n := range at {
				least, most = min(least, n), max(most, n)
			}
			apart = max(apart, most-least)
		}
	}
	return apart
}

func TestRunLimits(t *testing.T) {
	bubble(t, "of a subscriber", func(t *testing.T) {
		w := &wire{answer: okAfter(time.Second)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		s := subscriber("a")
		s.Concurrency = 2
		for i := range 10 {
			send(t, d, eventID(i), s)
		}
		began := time.Now()
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, w.most)
		require.Equal(t, 5*time.Second, time.Since(began), "both slots are always used")
		for i := range 10 {
			require.Len(t, record(t, d, eventID(i), "a").Attempts, 1)
		}
	})

	bubble(t, "room that opens during a claim is used", func(t *testing.T) {
		slow := badStore{NewMemoryStore(), func(*Claim) { time.Sleep(100 * time.Millisecond) }}
		w := &wire{answer: func(_ *http.Request, n int) (*http.Response, error) {
			time.Sleep(time.Second + time.Duration(n%2)*50*time.Millisecond)
			return response(200), nil
		}}
		d := dispatcher(t, slow, w, Options{SubscriberConcurrency: 2})
		for i := range 20 {
			send(t, d, eventID(i), subscriber("a"))
		}
		stop := run(t, d)
		time.Sleep(13 * time.Second)
		require.Equal(t, 20, len(w.to("")))
		stop()
	})

	bubble(t, "of a subscriber, above the default", func(t *testing.T) {
		w := &wire{answer: okAfter(time.Second)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		s := subscriber("a")
		s.Concurrency = 20
		for i := range 100 {
			send(t, d, eventID(i), s)
		}
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 20, w.most)
	})

	bubble(t, "two dispatchers on one store", func(t *testing.T) {
		w := &wire{answer: okAfter(time.Millisecond)}
		store := NewMemoryStore()
		d1, d2 := dispatcher(t, store, w, Options{}), dispatcher(t, store, w, Options{})
		stop1, stop2 := run(t, d1), run(t, d2)
		for i := range 200 {
			send(t, d1, eventID(i), subscriber("a"), subscriber("b"))
		}
		time.Sleep(time.Second)
		stop1()
		stop2()
		stats, err := d1.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, Stats{Delivered: 400}, stats)
		require.Equal(t, 400, len(w.to("")), "each once")
	})
}

// stutter is a Store whose claims of two keep the claimer between the first
// and the second, until the first is done.
type stutter struct {
	*MemoryStore
	once sync.Once
}

func (s *stutter) Claim(ctx context.Context, r ClaimRequest) (Claimed, error) {
	claimed, err := s.MemoryStore.Claim(ctx, r)
	if len(claimed.Claims) == 2 {
		s.once.Do(func() {
			t := claimed.Claims[1].Snapshot.target()
			wait := sync.OnceFunc(func() { time.Sleep(time.Millisecond) })
			open := func() *target { wait(); return t }
			claimed.Claims[1].Snapshot = Snapshot{&open}
		})
	}
	return claimed, err
}

func TestRunClaimsAgain(t *testing.T) {
	bubble(t, "although what a claim gave first is done before the rest is begun", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, &stutter{MemoryStore: NewMemoryStore()}, w, Options{SubscriberConcurrency: 2})
		for i := range 10 {
			send(t, d, eventID(i), subscriber("a"))
		}
		stop := run(t, d)
		time.Sleep(time.Hour)
		stop()
		require.Equal(t, 10, len(w.to("")))
	})

	bubble(t, "but starts nothing that was claimed before a pause", func(t *testing.T) {
		slow := time.Duration(0)
		store := badStore{NewMemoryStore(), func(*Claim) { time.Sleep(slow) }}
		w := &wire{answer: func(_ *http.Request, n int) (*http.Response, error) {
			if n == 0 {
				time.Sleep(time.Second)
				return response(429, "Retry-After", "100"), nil
			}
			return response(200), nil
		}}
		d := dispatcher(t, store, w, Options{})
		send(t, d, "e1", subscriber("a"))
		stop := run(t, d)
		synctest.Wait()
		slow = 2 * time.Second // the answer to the next claim comes after the 429
		send(t, d, "e2", subscriber("a"))
		time.Sleep(90 * time.Second)
		require.Equal(t, 1, len(w.to("")))
		stop()
	})
}

func TestRunFailuresInARow(t *testing.T) {
	bubble(t, "end with a success that began before them", func(t *testing.T) {
		w := &wire{answer: func(r *http.Request, _ int) (*http.Response, error) {
			if r.Header.Get("Webhook-Id") == "bad" {
				return response(400), nil
			}
			time.Sleep(time.Second)
			return response(200), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Retry: Schedule()})
		send(t, d, "bad", subscriber("a"))
		send(t, d, "good", subscriber("a"))
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		for s := range d.Standings(t.Context()) {
			require.Fail(t, "the latest attempt succeeded", "%+v", s)
		}
	})
}

func TestRunOrder(t *testing.T) {
	for name, ordered := range map[string]bool{"by key": false, "by subscriber": true} {
		bubble(t, name, func(t *testing.T) {
			w := &wire{answer: func(_ *http.Request, n int) (*http.Response, error) {
				time.Sleep(time.Duration(n%3) * time.Second)
				if n%4 == 0 {
					return response(500), nil
				}
				return response(200), nil
			}}
			d := dispatcher(t, NewMemoryStore(), w, Options{})
			s := subscriber("a")
			s.Ordered = ordered
			for i := range 20 {
				event := Event{ID: eventID(i), Type: "x"}
				if !ordered {
					event.OrderKey = "k"
				}
				_, err := d.Send(t.Context(), event, []Subscriber{s})
				require.NoError(t, err)
			}
			stop := run(t, d)
			time.Sleep(time.Hour)
			stop()
			var order []string
			for _, c := range w.to("") {
				if len(order) == 0 || order[len(order)-1] != c.event {
					order = append(order, c.event)
				}
			}
			require.Len(t, order, 20)
			for i := range order {
				require.Equal(t, eventID(i), order[i])
			}
			require.Equal(t, 1, w.most)
		})
	}

	bubble(t, "HoldOnDead", func(t *testing.T) {
		w := &wire{answer: func(_ *http.Request, n int) (*http.Response, error) {
			if n == 0 {
				return response(500), nil
			}
			return response(200), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Retry: Schedule()})
		s := subscriber("a")
		s.Ordered, s.HoldOnDead = true, true
		send(t, d, "e1", s)
		send(t, d, "e2", s)
		stop := run(t, d)
		time.Sleep(time.Hour)
		require.Equal(t, Dead, record(t, d, "e1", "a").State)
		require.Equal(t, Pending, record(t, d, "e2", "a").State)
		n, err := d.Replay(t.Context(), Filter{Event: "e1"})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		synctest.Wait()
		stop()
		require.Equal(t, Delivered, record(t, d, "e2", "a").State)
	})
}

func TestRunDelayAndTTL(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := &wire{answer: status(500)}
		d := dispatcher(t, NewMemoryStore(), w, Options{Retry: Schedule(time.Hour, time.Hour, time.Hour)})
		_, err := d.Send(t.Context(), Event{ID: "e", Type: "x", Delay: time.Minute, TTL: 90 * time.Minute}, []Subscriber{subscriber("a")})
		require.NoError(t, err)
		next, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, time.Minute, next)
		stop := run(t, d)
		time.Sleep(time.Minute - 1)
		require.Empty(t, w.to(""))
		time.Sleep(89*time.Minute + 1)
		synctest.Wait()
		stop()
		r := record(t, d, "e", "a")
		require.Equal(t, Dead, r.State)
		require.Equal(t, ReasonExpired, r.Reason)
		require.Len(t, r.Attempts, 2)
	})
}

func TestDrain(t *testing.T) {
	bubble(t, "makes every due attempt once", func(t *testing.T) {
		w := &wire{answer: func(r *http.Request, _ int) (*http.Response, error) {
			time.Sleep(time.Second)
			if r.URL.Host == host("bad") {
				return response(500), nil
			}
			return response(200), nil
		}}
		for name, store := range map[string]Store{"memory": NewMemoryStore(), "plain": plain{NewMemoryStore()}} {
			d := dispatcher(t, store, w, Options{Retry: Schedule(time.Hour), Breaker: Breaker{Failures: -1}})
			for i := range 100 {
				s := subscriber("ordered")
				s.Ordered = true
				send(t, d, eventID(i), subscriber("good"), subscriber("bad"), s)
			}
			before := len(w.to(""))
			next, err := d.Drain(t.Context())
			require.NoError(t, err)
			require.Equal(t, before+300, len(w.to("")), name)
			require.Greater(t, next, time.Duration(0))
			require.LessOrEqual(t, next, time.Hour+6*time.Minute)
			next, err = d.Drain(t.Context())
			require.NoError(t, err)
			require.Equal(t, before+300, len(w.to("")), name)
			require.Greater(t, next, time.Duration(0))
		}
	})

	bubble(t, "nothing waits", func(t *testing.T) {
		next, err := dispatcher(t, NewMemoryStore(), &wire{}, Options{}).Drain(t.Context())
		require.NoError(t, err)
		require.Zero(t, next)
	})

	bubble(t, "cut short", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{answer: hang}, Options{Grace: -1})
		send(t, d, "e", subscriber("a"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := d.Drain(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})

	bubble(t, "while running", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		stop := run(t, d)
		synctest.Wait()
		_, err := d.Drain(t.Context())
		require.ErrorIs(t, err, ErrRunning)
		require.ErrorIs(t, d.Run(t.Context()), ErrRunning)
		stop()
	})
}

func TestRunAbandoned(t *testing.T) {
	// A worker that claims and dies, again and again.
	crash := func(t *testing.T, store Store, n int) {
		for range n {
			claimed, err := store.Claim(t.Context(), ClaimRequest{Limit: 10, PerSubscriber: 10, SuspectAfter: 100, Lease: time.Second})
			require.NoError(t, err)
			require.NotEmpty(t, claimed.Claims)
			time.Sleep(time.Second)
		}
	}
	bubble(t, "after too many claims without an outcome", func(t *testing.T) {
		store := NewMemoryStore()
		w := &wire{answer: status(200)}
		d := dispatcher(t, store, w, Options{})
		send(t, d, "e", subscriber("a"))
		crash(t, store, 5)
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, ReasonAbandoned, record(t, d, "e", "a").Reason)
		require.Empty(t, w.to(""))
	})

	bubble(t, "suspects are attempted one at a time, and delivered", func(t *testing.T) {
		store := NewMemoryStore()
		w := &wire{answer: okAfter(time.Second)}
		d := dispatcher(t, store, w, Options{})
		for i := range 5 {
			send(t, d, eventID(i), subscriber("a"))
		}
		crash(t, store, 4)
		began := time.Now()
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, w.most)
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}

func TestRunLeaseLost(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var lost []Observation
		w := &wire{answer: func(*http.Request, int) (*http.Response, error) {
			time.Sleep(time.Second)
			return response(500, "Retry-After", "1000"), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Observers: []Observer{{
			LeaseLost: func(_ context.Context, o Observation) { lost = append(lost, o) },
			Standing:  func(context.Context, StandingChange) { t.Error("a lost outcome has no effect") },
		}}})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Second / 2)
		n, err := d.Cancel(t.Context(), Filter{Subscriber: "a"})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		time.Sleep(time.Second)
		stop()
		require.Equal(t, Cancelled, record(t, d, "e", "a").State)
		require.Len(t, lost, 1)
		require.Equal(t, 500, lost[0].Attempt.Status)
		for s := range d.Standings(t.Context()) {
			require.Fail(t, "unchanged", "%+v", s)
		}
	})
}

// badStore returns claims that no good store returns.
type badStore struct {
	*MemoryStore
	spoil func(*Claim)
}

func (s badStore) Claim(ctx context.Context, r ClaimRequest) (Claimed, error) {
	claimed, err := s.MemoryStore.Claim(ctx, r)
	for i := range claimed.Claims {
		s.spoil(&claimed.Claims[i])
	}
	return claimed, err
}

func TestRunFaultyClaims(t *testing.T) {
	for want, spoil := range map[string]func(*Claim){
		"undecodable": func(c *Claim) { c.Fault = "undecodable" },
		"the store returned no payload or snapshot": func(c *Claim) { c.Payload = nil },
	} {
		bubble(t, want, func(t *testing.T) {
			w := &wire{answer: status(200)}
			d := dispatcher(t, badStore{NewMemoryStore(), spoil}, w, Options{})
			send(t, d, "e", subscriber("a"))
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			require.Equal(t, Dead, record(t, d, "e", "a").State)
			require.Equal(t, want, record(t, d, "e", "a").Reason)
			require.Empty(t, w.to(""))
		})
	}

	bubble(t, "a claim that took too long is released", func(t *testing.T) {
		slow := badStore{NewMemoryStore(), func(*Claim) { time.Sleep(9 * time.Second) }}
		w := &wire{answer: status(200)}
		d := dispatcher(t, slow, w, Options{Timeout: time.Second, Lease: 11 * time.Second})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Minute)
		stop()
		require.Empty(t, w.to(""), "the lease might have ended meanwhile")
		require.Empty(t, record(t, d, "e", "a").Attempts)
	})
}

// TestRunAhead: what was claimed ahead of fast receivers is given back when slow ones hold
// the slots, so that another process attempts it.
func TestRunAhead(t *testing.T) {
	bubble(t, "two processes", func(t *testing.T) {
		store := NewMemoryStore()
		var warm atomic.Bool
		warm.Store(true)
		w := &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
			if strings.HasPrefix(r.URL.Host, "hang") {
				return hang(r, n)
			}
			if warm.Load() {
				time.Sleep(time.Millisecond)
			}
			return response(200), nil
		}}
		options := Options{Concurrency: 4, Breaker: Breaker{Failures: -1}}
		busy, idle := dispatcher(t, store, w, options), dispatcher(t, store, w, options)
		stop := run(t, busy)
		for i := range 400 {
			send(t, busy, eventID(i), subscriber("warm"+strconv.Itoa(i%100)))
		}
		time.Sleep(103 * time.Millisecond)
		warm.Store(false)
		var burst []Subscriber
		for i := range 6 { // two of them come to the other process
			burst = append(burst, subscriber("hang"+strconv.Itoa(i)))
		}
		for i := range 12 {
			burst = append(burst, subscriber("healthy"+strconv.Itoa(i)))
		}
		before := len(w.to(""))
		send(t, busy, "burst", burst...)
		synctest.Wait()
		require.Len(t, w.to(""), before+4, "all slots hang")
		stopIdle := run(t, idle)
		time.Sleep(2 * stallTime)
		healthy := 0
		for _, c := range w.to("")[before:] {
			if strings.HasPrefix(c.host, "healthy") {
				healthy++
			}
		}
		require.GreaterOrEqual(t, healthy, 12-options.Concurrency/4, "only what is ahead of slow receivers, too, waits for a slot")
		stop()
		stopIdle()
		for i := range 12 {
			require.LessOrEqual(t, len(w.to(host("healthy"+strconv.Itoa(i)))), 1)
		}
	})
}

// TestRunAheadOfLimit: of a subscriber whose receiver is fast, more is claimed than may be in
// flight to it, and what waits so is nobody's burden when the receiver is fast no longer.
func TestRunAheadOfLimit(t *testing.T) {
	options := Options{Concurrency: 8, SubscriberConcurrency: 2, Breaker: Breaker{Failures: -1}}
	// fast answers in a millisecond, until the subscriber has answered n times; then as the func does.
	fast := func(n int, then func(*http.Request, int) (*http.Response, error)) *wire {
		return &wire{answer: func(r *http.Request, i int) (*http.Response, error) {
			if i < n {
				return okAfter(time.Millisecond)(r, i)
			}
			return then(r, i)
		}}
	}
	fill := func(t *testing.T, d *Dispatcher, n int) {
		for i := range n {
			send(t, d, eventID(i), subscriber("a"))
		}
	}
	// untouched are deliveries to a that were never attempted, and can be claimed now.
	untouched := func(t *testing.T, store *MemoryStore) int {
		claimed, err := store.Claim(t.Context(), ClaimRequest{Limit: 1_000, Room: map[string]int{"a": 1_000}, SuspectAfter: 1, Suspects: 0, Lease: time.Minute})
		require.NoError(t, err)
		for _, c := range claimed.Claims {
			require.Equal(t, 1, c.Attempt)
		}
		return len(claimed.Claims)
	}

	bubble(t, "many at once", func(t *testing.T) {
		const n = 3_000
		store := &faulty{MemoryStore: NewMemoryStore()}
		w := fast(n, nil)
		d := dispatcher(t, store, w, options)
		fill(t, d, n)
		began := time.Now()
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, n, len(w.to("")))
		require.Equal(t, 2, w.most)
		require.LessOrEqual(t, time.Since(began), n/2*time.Millisecond+20*time.Millisecond, "there is always one for both")
		claims := store.count("Claim")
		require.Less(t, claims, n/20, "100 are claimed when it takes so many in 50 ms")
		require.EqualValues(t, n+claims, store.token, "each is leased once")
	})

	bubble(t, "given back when the worker stops", func(t *testing.T) {
		store := NewMemoryStore()
		w := fast(1_000, nil)
		d := dispatcher(t, store, w, options)
		fill(t, d, 1_000)
		stop := run(t, d)
		time.Sleep(200*time.Millisecond + time.Microsecond)
		before := untouched(t, store)
		require.Less(t, before, 1_000-len(w.to(""))-options.SubscriberConcurrency)
		stop()
		require.Equal(t, 1_000, len(w.to(""))+before+untouched(t, store))
	})

	bubble(t, "none of one that fails, however fast", func(t *testing.T) {
		store := NewMemoryStore()
		w := &wire{answer: func(*http.Request, int) (*http.Response, error) {
			time.Sleep(time.Millisecond)
			return response(500), nil
		}}
		options := options
		options.Retry = Schedule(time.Hour)
		d := dispatcher(t, store, w, options)
		fill(t, d, 1_000)
		stop := run(t, d)
		time.Sleep(200*time.Millisecond + time.Microsecond)
		require.Greater(t, len(w.to("")), 100)
		require.GreaterOrEqual(t, len(w.to(""))+untouched(t, store), 1_000-options.SubscriberConcurrency)
		stop()
	})

	bubble(t, "not attempted after a pause", func(t *testing.T) {
		w := fast(200, func(*http.Request, int) (*http.Response, error) { return response(429, "Retry-After", "100"), nil })
		d := dispatcher(t, NewMemoryStore(), w, options)
		fill(t, d, 1_000)
		stop := run(t, d)
		time.Sleep(90 * time.Second)
		require.Contains(t, []int{201, 202}, len(w.to("")))
		stop()
	})

	bubble(t, "given back when the receiver hangs, and in no other's way", func(t *testing.T) {
		store := NewMemoryStore()
		w := fast(200, func(r *http.Request, i int) (*http.Response, error) {
			if r.URL.Host == host("a") {
				return hang(r, i)
			}
			return response(200), nil
		})
		d := dispatcher(t, store, w, options)
		fill(t, d, 300)
		stop := run(t, d)
		time.Sleep(150 * time.Millisecond)
		require.Equal(t, 202, len(w.to(host("a"))))
		before := untouched(t, store)
		require.Less(t, before, 50, "the others are ahead")
		var others []Subscriber
		for i := range 100 {
			others = append(others, subscriber("other"+strconv.Itoa(i)))
		}
		send(t, d, "others", others...)
		time.Sleep(20 * time.Millisecond)
		require.Equal(t, 302, len(w.to("")), "the slots that are left attempt them")
		time.Sleep(2 * stallTime)
		require.Equal(t, 98, before+untouched(t, store))
		stop()
	})

	bubble(t, "given back when the receiver has become slow", func(t *testing.T) {
		store := NewMemoryStore()
		w := fast(200, okAfter(200*time.Millisecond))
		d := dispatcher(t, store, w, options)
		fill(t, d, 300)
		stop := run(t, d)
		time.Sleep(150 * time.Millisecond)
		before := untouched(t, store)
		require.Less(t, before, 50, "the others are ahead")
		time.Sleep(3 * stallTime)
		require.GreaterOrEqual(t, before+untouched(t, store), 50, "it takes ten in a second")
		stop()
	})
}

// TestRefill: claims are for many, and room is filled that one by one becomes free.
func TestRefill(t *testing.T) {
	bubble(t, "half of what was ahead at once", func(t *testing.T) {
		store := &faulty{MemoryStore: NewMemoryStore()}
		w := &wire{answer: okAfter(time.Millisecond)}
		d := dispatcher(t, store, w, Options{Concurrency: 4})
		for i := range 800 {
			send(t, d, eventID(i), subscriber("s"+strconv.Itoa(i%100)))
		}
		stop := run(t, d)
		time.Sleep(time.Second)
		stop()
		require.Len(t, w.to(""), 800)
		require.Less(t, store.count("Claim"), 800/10, "64 are ahead when the slots do so many in 50 ms")
	})
	bubble(t, "one place of a subscriber a little later", func(t *testing.T) {
		store := &faulty{MemoryStore: NewMemoryStore()}
		w := &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
			switch {
			case r.URL.Host != host("slow"):
				return okAfter(20*time.Millisecond)(r, n)
			case n == 0:
				return okAfter(time.Millisecond)(r, n)
			}
			return hang(r, n)
		}}
		d := dispatcher(t, store, w, Options{Concurrency: 16, SubscriberConcurrency: 8})
		for i := range 20 {
			send(t, d, eventID(i), subscriber("slow"))
		}
		for i := range 10 { // of 18 claims 2 wait for slots
			send(t, d, eventID(i), subscriber("s"+strconv.Itoa(i)))
		}
		stop := run(t, d)
		time.Sleep(5 * time.Millisecond)
		before := store.count("Claim")
		time.Sleep(refillTime)
		require.Equal(t, before+1, store.count("Claim"))
		time.Sleep(20 * time.Millisecond)
		require.Len(t, w.to(host("slow")), 9)
		stop()
	})
}

// TestGather: an outcome waits for others if there may be some, unless something waits for it.
func TestGather(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		order  string
		others int
		waits  time.Duration
	}{
		"delivered":                   {200, "", 1, gatherTime},
		"delivered, alone":            {200, "", 0, 0},
		"delivered, with an order":    {200, "k", 1, 0},
		"failed, which has an effect": {500, "", 1, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			w := &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
				if r.URL.Host == host("first") {
					time.Sleep(time.Millisecond)
					return response(c.status), nil
				}
				return okAfter(10*time.Millisecond)(r, n)
			}}
			var attempted, stored time.Time
			note := func(_ context.Context, o Observation) {
				if o.ID.Subscriber == "first" {
					stored = time.Now()
				}
			}
			d := dispatcher(t, NewMemoryStore(), w, Options{Concurrency: 8, Observers: []Observer{{
				Attempted: func(_ context.Context, o Observation) {
					if o.ID.Subscriber == "first" {
						attempted = time.Now()
					}
				},
				Delivered: note, Retrying: note,
			}}})
			var others []Subscriber
			for i := range c.others {
				others = append(others, subscriber("other"+strconv.Itoa(i)))
			}
			_, err := d.Send(t.Context(), Event{ID: "e", Type: "a", OrderKey: c.order}, []Subscriber{subscriber("first")})
			require.NoError(t, err)
			if c.others > 0 {
				send(t, d, "others", others...)
			}
			stop := run(t, d)
			time.Sleep(5 * time.Millisecond)
			stop()
			require.False(t, attempted.IsZero())
			require.Equal(t, c.waits, stored.Sub(attempted))
		})
	}
}
