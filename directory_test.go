package outhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// register is a Directory of what subscriber returns, unless its func does otherwise.
type register struct {
	answer func(ctx context.Context, id string, n int) (Subscriber, error) // n: how often it was asked for id before

	mu    sync.Mutex
	asked map[string][]time.Time
	now   map[string]int // lookups under way
	most  int            // of one subscriber at one time
}

func (r *register) Subscriber(ctx context.Context, id string) (Subscriber, error) {
	r.mu.Lock()
	n := len(r.asked[id])
	if r.asked == nil {
		r.asked, r.now = make(map[string][]time.Time), make(map[string]int)
	}
	r.asked[id] = append(r.asked[id], time.Now())
	r.now[id]++
	r.most = max(r.most, r.now[id])
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.now[id]--
	}()
	if r.answer == nil {
		return subscriber(id), nil
	}
	return r.answer(ctx, id, n)
}

// times returns when it was asked for a subscriber.
func (r *register) times(id string) []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked[id])
}

func (r *register) count(id string) int { return len(r.times(id)) }

// rows is a MemoryStore that keeps a Snapshot by its stored form, as a database
// does, and counts releases.
type rows struct {
	*MemoryStore
	mu       sync.Mutex
	stored   map[DeliveryID][]byte
	released int
}

func newRows() *rows {
	return &rows{MemoryStore: NewMemoryStore(), stored: make(map[DeliveryID][]byte)}
}

func (r *rows) Enqueue(ctx context.Context, deliveries []Delivery) ([]DeliveryID, error) {
	for _, d := range deliveries {
		data, err := d.Snapshot.MarshalBinary()
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		r.stored[d.ID] = data
		r.mu.Unlock()
	}
	return r.MemoryStore.Enqueue(ctx, deliveries)
}

func (r *rows) Claim(ctx context.Context, request ClaimRequest) (Claimed, error) {
	claimed, err := r.MemoryStore.Claim(ctx, request)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range claimed.Claims {
		c := &claimed.Claims[i]
		c.Snapshot = Snapshot{}
		if err := c.Snapshot.UnmarshalBinary(r.stored[c.ID]); err != nil {
			c.Fault = err.Error()
		}
	}
	return claimed, err
}

func (r *rows) Finish(ctx context.Context, outcomes []Outcome) ([]Lease, error) {
	r.mu.Lock()
	for i := range outcomes {
		if outcomes[i].Released {
			r.released++
		}
	}
	r.mu.Unlock()
	return r.MemoryStore.Finish(ctx, outcomes)
}

func TestDirectory(t *testing.T) {
	bubble(t, "retries follow what has changed", func(t *testing.T) {
		newKey := GenerateKey()
		answers := make(chan Subscriber, 1)
		r := &register{answer: func(context.Context, string, int) (Subscriber, error) {
			s := <-answers
			return s, nil
		}}
		w := &wire{answer: func(r *http.Request, _ int) (*http.Response, error) {
			return response(map[string]int{"old.example.com": 500, "new.example.com": 200}[r.URL.Host]), nil
		}}
		var seen []Observation
		store := newRows()
		d := dispatcher(t, store, w, Options{Directory: r, Observers: []Observer{{
			Attempted: func(_ context.Context, o Observation) { seen = append(seen, o) },
		}}, Retry: Schedule(time.Minute)})
		_, err := d.Send(t.Context(), Event{ID: "e", Type: "x", Labels: map[string]string{"tenant": "t1"}}, []Subscriber{{ID: "a"}})
		require.NoError(t, err)
		require.JSONEq(t, `{"directory":true,"labels":{"tenant":"t1"}}`, string(store.stored[DeliveryID{"e", "a"}]))

		answers <- Subscriber{URL: "https://old.example.com/", Keys: []Key{testKey}}
		stop := run(t, d)
		defer stop()
		synctest.Wait()
		answers <- Subscriber{ID: "a", URL: "https://new.example.com/", Keys: []Key{newKey}, Header: http.Header{"X-New": {"1"}}}
		time.Sleep(2 * time.Minute)

		require.Equal(t, Delivered, record(t, d, "e", "a").State)
		calls := w.to("")
		require.Len(t, calls, 2)
		for i, key := range []Key{testKey, newKey} {
			verifier := Verifier{Keys: []Key{key}, Tolerance: time.Hour}
			require.NoError(t, verifier.Verify(calls[i].header, []byte(calls[i].body)), "attempt %d", i+1)
		}
		require.Equal(t, "1", calls[1].header.Get("X-New"))
		require.Equal(t, []string{"https://old.example.com", "https://new.example.com"}, []string{seen[0].Target, seen[1].Target})
		require.Equal(t, map[string]string{"tenant": "t1"}, seen[1].Labels)
	})

	bubble(t, "Send looks at ID, Events, order and Encode alone", func(t *testing.T) {
		w := &wire{answer: status(200)}
		store := newRows()
		d := dispatcher(t, store, w, Options{Directory: &register{}})
		s := Subscriber{
			ID: "a", URL: "ftp://elsewhere/", Keys: make([]Key, 20), Header: http.Header{"Host": {"x"}}, Timeout: -1, Concurrency: -1,
			Ordered: true, HoldOnDead: true,
			Encode: func(Event) (*Payload, error) { return &Payload{Body: []byte("mine")}, nil },
		}
		other := Subscriber{ID: "b", Events: []string{"y"}}
		receipt, err := d.Send(t.Context(), Event{ID: "e", Type: "x"}, []Subscriber{s, other})
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, receipt.Accepted)
		require.Equal(t, []string{"b"}, receipt.Filtered)
		delivery := enqueued(t, d, "f", s)[0]
		require.Equal(t, "*", delivery.OrderKey)
		require.True(t, delivery.HoldOnDead)
		require.Equal(t, `{"directory":true}`, string(store.stored[DeliveryID{"e", "a"}]))
		require.Equal(t, "(directory)", delivery.Snapshot.String())

		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		require.Len(t, w.to(host("a")), 1)
		require.Equal(t, "mine", w.to("")[0].body)

		_, err = d.Send(t.Context(), Event{Type: "x"}, []Subscriber{{ID: "a b"}, {ID: "c", Events: []string{"?"}}})
		require.ErrorContains(t, err, `subscriber "a b": ID`)
		require.ErrorContains(t, err, `subscriber "c": Events[0]`)
	})

	bubble(t, "Try takes the subscriber as given", func(t *testing.T) {
		w := &wire{answer: status(200)}
		r := &register{}
		d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r})
		_, err := d.Try(t.Context(), Event{Type: "x"}, subscriber("given"))
		require.NoError(t, err)
		require.Len(t, w.to(host("given")), 1)
		require.Empty(t, r.asked)
		_, err = d.Try(t.Context(), Event{Type: "x"}, Subscriber{ID: "a"})
		require.ErrorIs(t, err, ErrInvalid)
	})

	bubble(t, "comes before what was given to Send", func(t *testing.T) {
		store := newRows()
		w := &wire{answer: status(200)}
		s := subscriber("a")
		s.URL = "https://given.example.com/"
		sender := dispatcher(t, store, w, Options{StoreKeysInPlaintext: true})
		_, err := sender.Send(t.Context(), Event{ID: "e", Type: "x"}, []Subscriber{s})
		require.NoError(t, err)
		d := dispatcher(t, store, w, Options{Directory: &register{}})
		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		require.Len(t, w.to(host("a")), 1)
		require.Len(t, w.to(""), 1)
	})

	bubble(t, "a process without it holds what was sent with it", func(t *testing.T) {
		store := newRows()
		w := &wire{answer: status(200)}
		send(t, dispatcher(t, store, w, Options{Directory: &register{}}), "e", Subscriber{ID: "a"})
		var held heldLog
		d := dispatcher(t, store, w, Options{Observers: []Observer{held.observer()}})
		next, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Greater(t, next, 40*time.Second)
		require.Len(t, held.all(), 1)
		require.Equal(t, "there is no directory to ask for the subscriber", held.all()[0].Reason)
		require.Equal(t, "(directory)", held.all()[0].Target)
		require.Equal(t, Pending, record(t, d, "e", "a").State)
		require.Empty(t, w.to(""))
	})
}

// A heldLog keeps what its Observer is told to be held.
type heldLog struct {
	mu   sync.Mutex
	list []Observation
}

func (h *heldLog) observer() Observer {
	return Observer{Held: func(_ context.Context, o Observation) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.list = append(h.list, o)
	}}
}

func (h *heldLog) all() []Observation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list)
}

func TestDirectoryUnknown(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := &register{answer: func(_ context.Context, id string, n int) (Subscriber, error) {
			if n == 0 {
				return Subscriber{}, errors.Join(errors.New("no row"), ErrUnknownSubscriber)
			}
			return subscriber(id), nil
		}}
		w := &wire{answer: status(200)}
		var told []Observation
		d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r, Observers: []Observer{{
			Cancelled: func(_ context.Context, o Observation) { told = append(told, o) },
		}}})
		send(t, d, "e1", Subscriber{ID: "a"})
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		got := record(t, d, "e1", "a")
		require.Equal(t, Cancelled, got.State)
		require.Equal(t, ReasonUnknown, got.Reason)
		require.Empty(t, got.Attempts)
		require.Empty(t, w.to(""))
		require.Len(t, told, 1)
		require.Equal(t, ReasonUnknown, told[0].Reason)
		require.Empty(t, d.directory.known)

		send(t, d, "e2", Subscriber{ID: "a"})
		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, Delivered, record(t, d, "e2", "a").State, "the answer is not used again")
	})
}

func TestDirectoryOutage(t *testing.T) {
	for name, fail := range map[string]func(context.Context) (Subscriber, error){
		"error": func(context.Context) (Subscriber, error) { return Subscriber{}, errors.New("no route") },
		"panic": func(context.Context) (Subscriber, error) { panic("directory") },
		"hangs": func(ctx context.Context) (Subscriber, error) { <-ctx.Done(); return Subscriber{}, ctx.Err() },
		"ignores a cut": func(context.Context) (Subscriber, error) {
			time.Sleep(20 * time.Second)
			return Subscriber{}, errors.New("late")
		},
	} {
		bubble(t, name, func(t *testing.T) {
			var held heldLog
			var log bytes.Buffer
			up := time.Now().Add(time.Hour)
			r := &register{answer: func(ctx context.Context, id string, _ int) (Subscriber, error) {
				if id == "a" && time.Now().Before(up) {
					return fail(ctx)
				}
				return subscriber(id), nil
			}}
			w := &wire{answer: status(200)}
			store := newRows()
			d := dispatcher(t, store, w, Options{Directory: r, Logger: slog.New(slog.NewTextHandler(&log, nil)), Observers: []Observer{held.observer()}})
			for i := range 100 {
				send(t, d, eventID(i), Subscriber{ID: "a"}, Subscriber{ID: "b"})
			}
			stop := run(t, d)
			time.Sleep(30 * time.Second)
			require.Len(t, w.to(host("b")), 100, "others go on")
			time.Sleep(time.Until(up) - time.Second)
			require.Empty(t, w.to(host("a")))
			require.Equal(t, Pending, record(t, d, "e0", "a").State)
			require.Empty(t, record(t, d, "e0", "a").Attempts, "none is burned")

			asked := r.times("a")
			require.Less(t, len(asked), 100, "no hot loop")
			require.Greater(t, len(asked), 40, "never given up")
			require.GreaterOrEqual(t, asked[1].Sub(asked[0]), 3*time.Second)
			require.Less(t, asked[1].Sub(asked[0]), 26*time.Second)
			require.GreaterOrEqual(t, asked[9].Sub(asked[8]), 45*time.Second, "seldom, when it lasts")
			store.mu.Lock()
			require.Less(t, store.released, 2*len(asked)+20, "the backlog is not claimed meanwhile")
			store.mu.Unlock()
			require.Equal(t, "the directory failed", held.all()[0].Reason)
			require.Equal(t, "(directory)", held.all()[0].Target)
			require.Greater(t, held.all()[0].After, time.Duration(0))
			require.Zero(t, held.all()[0].Attempt)
			for s := range d.Standings(t.Context()) {
				require.Fail(t, "neutral", "%+v", s)
			}

			time.Sleep(3 * time.Minute)
			stop()
			require.Len(t, w.to(host("a")), 100)
			require.Equal(t, 1, record(t, d, "e0", "a").Attempts[0].Number)
			require.Equal(t, 1, r.most)
			lines := strings.Count(log.String(), `level=ERROR msg="directory failed" subscriber=a error=`)
			require.Greater(t, lines, 20)
			require.LessOrEqual(t, lines, 61, "once a minute at most")
		})
	}

	bubble(t, "Drain says when it is worth another", func(t *testing.T) {
		fail := func(context.Context, string, int) (Subscriber, error) { return Subscriber{}, errors.New("no route") }
		for _, store := range []Store{NewMemoryStore(), plain{NewMemoryStore()}} {
			r := &register{answer: fail}
			d := dispatcher(t, store, &wire{answer: status(200)}, Options{Directory: r})
			send(t, d, "e", Subscriber{ID: "a"})
			next, err := d.Drain(t.Context())
			require.NoError(t, err)
			require.Greater(t, next, 3*time.Second)
			require.LessOrEqual(t, next, 5*time.Second)
			require.Equal(t, 1, r.count("a"))
			time.Sleep(next)
			r.answer = nil
			_, err = d.Drain(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2, r.count("a"))
			require.Empty(t, d.directory.failing)
		}
	})

	bubble(t, "one that is over is forgotten", func(t *testing.T) {
		r := &register{answer: func(_ context.Context, id string, n int) (Subscriber, error) {
			if n < 4 || n == 5 {
				return Subscriber{}, errors.New("no route")
			}
			return subscriber(id), nil
		}}
		d := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{Directory: r, DirectoryTTL: -1})
		stop := run(t, d)
		defer stop()
		for i := range 2 {
			send(t, d, eventID(i), Subscriber{ID: "a"})
			time.Sleep(3 * time.Minute)
		}
		asked := r.times("a")
		require.Len(t, asked, 7)
		require.Greater(t, asked[4].Sub(asked[3]), 25*time.Second)
		require.LessOrEqual(t, asked[6].Sub(asked[5]), 5*time.Second)
	})

	bubble(t, "the soonest of several", func(t *testing.T) {
		r := &register{answer: func(_ context.Context, id string, _ int) (Subscriber, error) {
			return Subscriber{}, errors.New("no route")
		}}
		d := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{Directory: r})
		for _, id := range []string{"a", "b", "c", "d"} {
			send(t, d, "e", Subscriber{ID: id})
		}
		next, err := d.Drain(t.Context())
		require.NoError(t, err)
		soonest := time.Hour
		for _, k := range d.directory.failing {
			soonest = min(soonest, time.Until(k.until))
		}
		require.Equal(t, soonest, next)
	})
}

// FieldErrors of what a Directory answers fail the attempt.
func TestDirectoryFaults(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Subscriber)
		want   string
	}{
		"another ID":  {func(s *Subscriber) { s.ID = "b" }, "the directory's subscriber has a fault: ID"},
		"no keys":     {func(s *Subscriber) { s.Keys = nil }, "the directory's subscriber has a fault: Keys"},
		"bad key":     {func(s *Subscriber) { s.Keys = []Key{{Secret: NewSecret("canary")}} }, "the directory's subscriber has a fault: Keys[0]"},
		"header":      {func(s *Subscriber) { s.Header = http.Header{"Host": {"canary"}} }, "the directory's subscriber has a fault: Header"},
		"timeout":     {func(s *Subscriber) { s.Timeout = time.Hour }, "the directory's subscriber has a fault: Timeout"},
		"concurrency": {func(s *Subscriber) { s.Concurrency = -1 }, "the directory's subscriber has a fault: Concurrency"},
		"no URL":      {func(s *Subscriber) { s.URL = "" }, ErrBlocked.Error()},
		"private URL": {func(s *Subscriber) { s.URL, s.Keys = "https://10.0.0.1/canary", nil }, ErrBlocked.Error()},
	} {
		bubble(t, name, func(t *testing.T) {
			r := &register{answer: func(_ context.Context, id string, n int) (Subscriber, error) {
				s := subscriber(id)
				if n == 0 {
					test.change(&s)
				}
				return s, nil
			}}
			w := &wire{answer: status(200)}
			d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r, Retry: Schedule(time.Minute)})
			send(t, d, "e", Subscriber{ID: "a"})
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			got := record(t, d, "e", "a")
			require.Len(t, got.Attempts, 1)
			require.Equal(t, test.want, got.Attempts[0].Error)
			require.Empty(t, w.to(""))
			if test.want == ErrBlocked.Error() {
				require.Equal(t, ReasonPermanent, got.Reason)
				return
			}
			require.Equal(t, Pending, got.State, "to be repeated")
			for s := range d.Standings(t.Context()) {
				require.Fail(t, "not the receiver's fault", "%+v", s)
			}
			time.Sleep(2 * time.Minute)
			_, err = d.Drain(t.Context())
			require.NoError(t, err)
			got = record(t, d, "e", "a")
			require.Equal(t, Delivered, got.State)
			require.Equal(t, 2, got.Attempts[1].Number)
		})
	}

	bubble(t, "Events are none", func(t *testing.T) {
		r := &register{answer: func(_ context.Context, id string, _ int) (Subscriber, error) {
			s := subscriber(id)
			s.Events = []string{"?"}
			return s, nil
		}}
		d := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{Directory: r})
		send(t, d, "e", Subscriber{ID: "a"})
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, Delivered, record(t, d, "e", "a").State)
	})
}

func TestDirectoryLookups(t *testing.T) {
	slow := func(_ context.Context, id string, _ int) (Subscriber, error) {
		time.Sleep(time.Second)
		return subscriber(id), nil
	}

	bubble(t, "run beside each other, but one for a subscriber", func(t *testing.T) {
		r := &register{answer: slow}
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r, DirectoryTTL: -1})
		for i := range 30 {
			send(t, d, eventID(i), Subscriber{ID: "a"}, Subscriber{ID: "b"}, Subscriber{ID: "c"})
		}
		began := time.Now()
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Len(t, w.to(""), 90)
		require.Equal(t, 1, r.most)
		require.Less(t, r.count("a"), 12, "those that wait share an answer")
		require.Less(t, time.Since(began), 12*time.Second)
	})

	bubble(t, "keep the subscriber's concurrency, from the first on", func(t *testing.T) {
		for _, limit := range []int{1, 3, 20} {
			r := &register{answer: func(_ context.Context, id string, _ int) (Subscriber, error) {
				s := subscriber(id)
				s.Concurrency = limit
				return s, nil
			}}
			w := &wire{answer: okAfter(time.Second)}
			d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r})
			for i := range 60 {
				send(t, d, eventID(i), Subscriber{ID: "a"})
			}
			began := time.Now()
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			require.Len(t, w.to(""), 60)
			require.Equal(t, limit, w.most)
			require.LessOrEqual(t, time.Since(began), time.Duration(60/limit+1)*time.Second)
		}
	})

	bubble(t, "that go on after they were cut keep nobody waiting", func(t *testing.T) {
		r := &register{answer: func(_ context.Context, id string, n int) (Subscriber, error) {
			if n == 1 {
				time.Sleep(time.Minute)
			}
			return subscriber(id), nil
		}}
		var held heldLog
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r, DirectoryTTL: -1, Observers: []Observer{held.observer()}})
		send(t, d, "e0", Subscriber{ID: "a"})
		stop := run(t, d)
		defer stop()
		time.Sleep(time.Second)
		send(t, d, "e1", Subscriber{ID: "a"})
		time.Sleep(time.Second)
		send(t, d, "e2", Subscriber{ID: "a"})
		time.Sleep(14 * time.Second)
		require.Empty(t, held.all())
		time.Sleep(5 * time.Second)
		require.NotEmpty(t, held.all())
		for _, o := range held.all() {
			require.Equal(t, "e2", o.ID.Event)
			require.Equal(t, errDirectory.Error(), o.Reason)
		}
		time.Sleep(2 * time.Minute)
		require.Equal(t, Delivered, record(t, d, "e1", "a").State)
		require.Equal(t, Delivered, record(t, d, "e2", "a").State)
		stop()
		require.Equal(t, 1, r.most)
	})

	bubble(t, "end with a stop at once", func(t *testing.T) {
		r := &register{answer: func(ctx context.Context, id string, n int) (Subscriber, error) {
			if n == 1 {
				<-ctx.Done()
				return Subscriber{}, ctx.Err()
			}
			return subscriber(id), nil
		}}
		var held heldLog
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r, DirectoryTTL: -1, Observers: []Observer{held.observer()}})
		stop := run(t, d)
		for i := range 3 { // one is attempted, one asks, one waits for its answer
			send(t, d, eventID(i), Subscriber{ID: "a"})
			time.Sleep(time.Second)
		}
		began := time.Now()
		stop()
		require.Zero(t, time.Since(began))
		require.Empty(t, held.all(), "it is no outage")
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		for i := range 3 {
			got := record(t, d, eventID(i), "a")
			require.Equal(t, Delivered, got.State)
			require.Len(t, got.Attempts, 1)
			require.Equal(t, 1, got.Attempts[0].Number)
		}
	})

	bubble(t, "leave no attempt that might outlive its lease", func(t *testing.T) {
		r := &register{answer: func(_ context.Context, id string, n int) (Subscriber, error) {
			if n == 0 {
				time.Sleep(8 * time.Second)
			}
			return subscriber(id), nil
		}}
		store := newRows()
		w := &wire{answer: status(200)}
		d := dispatcher(t, store, w, Options{Directory: r, Timeout: 10 * time.Second, Lease: 20 * time.Second})
		send(t, d, "e", Subscriber{ID: "a"})
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, store.released)
		require.Equal(t, Delivered, record(t, d, "e", "a").State)
		require.Equal(t, 1, r.count("a"), "the answer was kept")
	})

	bubble(t, "notice a pause", func(t *testing.T) {
		r := &register{answer: func(_ context.Context, id string, n int) (Subscriber, error) {
			if n == 1 {
				time.Sleep(2 * time.Second)
			}
			s := subscriber(id)
			s.Concurrency = 2
			return s, nil
		}}
		w := &wire{answer: func(_ *http.Request, n int) (*http.Response, error) {
			if n == 1 {
				time.Sleep(time.Second)
				return response(429, "Retry-After", "100"), nil
			}
			return response(200), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Directory: r, DirectoryTTL: 10 * time.Second})
		stop := run(t, d)
		defer stop()
		send(t, d, "e0", Subscriber{ID: "a"})
		time.Sleep(9500 * time.Millisecond)
		send(t, d, "e1", Subscriber{ID: "a"}) // answered with a pause at 10.5 s
		time.Sleep(600 * time.Millisecond)
		send(t, d, "e2", Subscriber{ID: "a"}) // its lookup ends at 12.1 s
		time.Sleep(10 * time.Second)
		require.Equal(t, 2, r.count("a"))
		require.Len(t, w.to(""), 2)
		require.Empty(t, record(t, d, "e2", "a").Attempts)
	})
}

func TestDirectoryBound(t *testing.T) {
	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{Directory: &register{}})
	for i := range maxKnown + 100 {
		id := eventID(i)
		k := d.directory.entry(id)
		d.directory.failing[id] = k
		require.Same(t, k, d.directory.entry(id))
	}
	require.Len(t, d.directory.known, maxKnown)
	require.Len(t, d.directory.failing, maxKnown)

	last := ""
	for id, k := range d.directory.known {
		k.asking, last = make(chan struct{}), id
	}
	d.directory.known[last].asking = nil
	d.directory.entry("new").asking = make(chan struct{})
	require.NotContains(t, d.directory.known, last)
	d.directory.entry("one more")
	require.Len(t, d.directory.known, maxKnown+1, "others wait for those that are being asked for")
}

func TestHoldDelay(t *testing.T) {
	for failures, most := range map[int]time.Duration{
		0: 5 * time.Second, 1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second, 4: time.Minute, 1000: time.Minute,
	} {
		different := make(map[time.Duration]bool)
		for range 100 {
			got := holdDelay(failures)
			require.LessOrEqual(t, got, most)
			require.Greater(t, got, most*3/4)
			different[got] = true
		}
		require.Greater(t, len(different), 50)
	}
}

func TestDirectorySnapshot(t *testing.T) {
	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{Directory: &register{}})
	s := enqueued(t, d, "e", Subscriber{ID: "a"})[0].Snapshot
	data, err := json.Marshal(s)
	require.NoError(t, err)
	var after Snapshot
	require.NoError(t, json.Unmarshal(data, &after))
	require.True(t, after.target().directory)
	require.Equal(t, "(directory)", after.String())
}
