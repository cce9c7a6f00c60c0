package outhook

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// together is a store whose first claims, one of each Dispatcher, end at the same time,
// so that none of them knows what the others have found.
type together struct {
	*MemoryStore
	others *sync.WaitGroup
	first  sync.Once
}

func (s *together) Claim(ctx context.Context, r ClaimRequest) (Claimed, error) {
	claimed, err := s.MemoryStore.Claim(ctx, r)
	s.first.Do(func() {
		s.others.Done()
		s.others.Wait()
	})
	return claimed, err
}

// TestRateOfMany measures a pace that four Dispatchers share, from a backlog of which each has
// claimed as much as it may when the pace becomes known.
func TestRateOfMany(t *testing.T) {
	for _, rate := range []Rate{{N: 50}, {N: 50, Burst: 3}, {N: 50, Burst: 40}, {N: 300, Per: time.Minute}} {
		bubble(t, strconv.Itoa(rate.N)+" with bursts of "+strconv.Itoa(rate.burst()), func(t *testing.T) {
			const dispatchers, each, events = 4, 32, 1500
			w := &wire{answer: okAfter(10 * time.Millisecond)}
			s := subscriber("a")
			s.Rate = rate
			store := NewMemoryStore()
			sender := dispatcher(t, store, w, Options{})
			for i := range events {
				send(t, sender, eventID(i), s)
			}
			var others sync.WaitGroup
			others.Add(dispatchers)
			for range dispatchers {
				d := dispatcher(t, &together{MemoryStore: store, others: &others}, w, Options{SubscriberConcurrency: each})
				defer run(t, d)()
			}
			span := time.Duration(float64(rate.per()) * events / float64(rate.N))
			time.Sleep(span - 20*time.Second)
			synctest.Wait()
			calls := w.to("")
			require.Equal(t, time.Duration(0), calls[dispatchers*each-1].at)

			// No window has more than its share and a burst, and when the debt
			// is paid, none has less than its share but for a lot.
			window := 500 * rate.per() / time.Duration(rate.N)
			lot, _ := rate.lot()
			for i, j := 0, 0; i < len(calls) && calls[i].at+window <= span-20*time.Second; i++ {
				for j < len(calls) && calls[j].at < calls[i].at+window {
					j++
				}
				require.LessOrEqual(t, j-i, 500+rate.burst(), "from %v", calls[i].at)
				if i > dispatchers*each {
					require.GreaterOrEqual(t, j-i, 500-lot, "from %v", calls[i].at)
				}
			}
			time.Sleep(time.Hour)
			require.Len(t, w.to(""), events)
		})
	}
}

// forgetful is a store that fails to change standings for a while.
type forgetful struct {
	*MemoryStore
	mu     sync.Mutex
	broken bool
	asked  int
}

func (s *forgetful) UpdateStandings(ctx context.Context, subscribers []string, update func(time.Time, *Standing)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked++; s.broken {
		return errors.New("broken")
	}
	return s.MemoryStore.UpdateStandings(ctx, subscribers, update)
}

func (s *forgetful) set(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
}

// TestPaceIsStored shows when a pace that a claim shows is stored, and how often the store
// is asked to.
func TestPaceIsStored(t *testing.T) {
	paceOf := func(t *testing.T, d *Dispatcher) Rate {
		t.Helper()
		synctest.Wait()
		health, err := d.Health(t.Context())
		require.NoError(t, err)
		for _, h := range health {
			if h.Subscriber == "a" {
				return h.Rate
			}
		}
		return Rate{}
	}
	slow, fast := subscriber("a"), subscriber("a")
	slow.Rate, fast.Rate = Rate{N: 1}, Rate{N: 10}
	bubble(t, "after a failure", func(t *testing.T) {
		store := &forgetful{MemoryStore: NewMemoryStore(), broken: true}
		d := dispatcher(t, store, &wire{answer: status(200)}, Options{})
		defer run(t, d)()
		send(t, d, "1", slow)
		require.Equal(t, Rate{}, paceOf(t, d))
		store.set(false)
		send(t, d, "2", slow)
		require.Equal(t, slow.Rate, paceOf(t, d))
	})
	bubble(t, "once for all that was sent before", func(t *testing.T) {
		store := &forgetful{MemoryStore: NewMemoryStore()}
		w := &wire{answer: status(200)}
		d := dispatcher(t, store, w, Options{})
		defer run(t, d)()
		for i := range 100 {
			_, err := d.Send(t.Context(), Event{ID: eventID(i), Type: "x", Delay: time.Minute}, []Subscriber{slow})
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Second)
		send(t, d, "fast", fast)
		time.Sleep(5 * time.Minute)
		require.Len(t, w.to(""), 101)
		require.Equal(t, fast.Rate, paceOf(t, d))
		require.Equal(t, 2, store.asked, "to bring it, and to find that those before do not")
	})
	for name, many := range map[string]bool{"again": false, "again, after another process has changed it": true} {
		bubble(t, name, func(t *testing.T) {
			store := NewMemoryStore()
			w := &wire{answer: status(200)}
			d := dispatcher(t, store, w, Options{})
			other := d
			if many {
				other = dispatcher(t, store, w, Options{})
			}
			n := 0
			change := func(d *Dispatcher, s Subscriber) {
				t.Helper()
				defer run(t, d)()
				n++
				send(t, d, eventID(n), s)
				time.Sleep(10 * time.Second)
				require.Equal(t, s.Rate, paceOf(t, d))
			}
			for range 3 {
				change(d, slow)
				change(other, fast)
			}
		})
	}
	bubble(t, "again, while others wait", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{})
		defer run(t, d)()
		for i := range 100 {
			_, err := d.Send(t.Context(), Event{ID: eventID(i), Type: "x", Delay: time.Minute}, []Subscriber{slow})
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Second)
		send(t, d, "fast", fast)
		time.Sleep(52 * time.Second) // those that wait have begun to show the old pace
		require.Equal(t, fast.Rate, paceOf(t, d))
		send(t, d, "slow", slow)
		time.Sleep(time.Minute)
		require.Equal(t, slow.Rate, paceOf(t, d))
	})
}

// TestDebt shows that what went ahead of a pace is waited for, however long that takes, and that
// nothing overflows.
func TestDebt(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := Standing{Rate: Rate{N: 50, Burst: 10}}
	s.debit(begin, 128)
	require.Equal(t, -118, s.Tokens)
	for _, test := range []struct {
		after time.Duration
		want  int
		next  time.Duration
	}{
		{0, 0, 2400 * time.Millisecond},
		{time.Second, 0, 2400 * time.Millisecond},
		{2399 * time.Millisecond, 0, 2400 * time.Millisecond},
		{2400 * time.Millisecond, 2, 2500 * time.Millisecond},
		{2500 * time.Millisecond, 7, 2600 * time.Millisecond},
		{2600 * time.Millisecond, 10, 2700 * time.Millisecond},
		{100 * 365 * 24 * time.Hour, 10, 100*365*24*time.Hour + 100*time.Millisecond},
	} {
		n, next := s.Admit(begin.Add(test.after), 20)
		require.Equal(t, test.want, n, test.after)
		require.Equal(t, begin.Add(test.next), next, test.after)
	}
	most := Standing{Rate: Rate{N: 1_000_000, Burst: 1_000_000}}
	most.debit(begin, 2_000_000)
	n, _ := most.Admit(begin.Add(1<<63-1), 2_000_000)
	require.Equal(t, 1_000_000, n)
	tiny := Standing{Rate: Rate{N: 1_000_000, Per: time.Microsecond, Burst: 1}}
	tiny.debit(begin, 1)
	n, _ = tiny.Admit(begin.Add(1<<63-1), 2)
	require.Equal(t, 1, n)
}
