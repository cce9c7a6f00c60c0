package pgxstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// handing returns a store whose Notify is called and whose latest Claim has found nothing and
// has left its room, and another one on the same tables.
func handing(t *testing.T, request outhook.ClaimRequest) (s, other *Store) {
	t.Helper()
	s = newStore(t, nil)
	s.handover.patience = time.Hour
	other, err := New(s.pool, &s.options)
	require.NoError(t, err)
	listening(t, s)
	require.Empty(t, claim(t, s, request).Claims)
	return s, other
}

// enqueue stores a delivery for each subscriber.
func enqueue(t *testing.T, s outhook.Enqueuer, subscribers ...string) {
	t.Helper()
	var list []outhook.Delivery
	for i, name := range subscribers {
		list = append(list, newDelivery(t, fmt.Sprint("e", i), name))
	}
	_, err := s.Enqueue(t.Context(), list)
	require.NoError(t, err)
}

// enqueueNamed stores a delivery of an event for each subscriber.
func enqueueNamed(t testing.TB, s outhook.Enqueuer, event string, subscribers ...string) {
	t.Helper()
	var list []outhook.Delivery
	for _, name := range subscribers {
		list = append(list, newDelivery(t, event, name))
	}
	_, err := s.Enqueue(context.Background(), list)
	require.NoError(t, err)
}

// names returns the subscribers of claims.
func names(claimed outhook.Claimed) (subscribers []string) {
	for _, c := range claimed.Claims {
		subscribers = append(subscribers, c.ID.Subscriber)
	}
	return subscribers
}

// tokens returns those of claims.
func tokens(claims []outhook.Claim) (tokens []int64) {
	for _, c := range claims {
		tokens = append(tokens, c.Token)
	}
	return tokens
}

// claimSome claims until there is something.
func claimSome(t *testing.T, s *Store, request outhook.ClaimRequest) outhook.Claim {
	t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; {
		if claimed := claim(t, s, request); len(claimed.Claims) > 0 {
			return claimed.Claims[0]
		}
	}
	require.Fail(t, "nothing can be claimed")
	return outhook.Claim{}
}

// leaseLeft returns how long the lease of the only delivery lasts.
func leaseLeft(t *testing.T, s *Store) time.Duration {
	t.Helper()
	var left float64
	require.NoError(t, s.pool.QueryRow(t.Context(), s.sql(`select extract(epoch from due - {now})::float8 from {schema}.pending`)).Scan(&left))
	return time.Duration(left * float64(time.Second))
}

// events returns the events of claims.
func events(claimed outhook.Claimed) (events []string) {
	for _, c := range claimed.Claims {
		events = append(events, c.ID.Event)
	}
	return events
}

// leases returns how many rows are leased.
func leases(t *testing.T, s *Store) (n int) {
	t.Helper()
	require.NoError(t, s.pool.QueryRow(t.Context(), s.sql(`select count(*) from {schema}.pending where live`)).Scan(&n))
	return n
}

func TestHandover(t *testing.T) {
	few := outhook.ClaimRequest{Limit: 5, PerSubscriber: 2, Room: map[string]int{"c": 0}, SuspectAfter: 5, Suspects: 1, Lease: time.Minute}

	t.Run("as much as there was room for", func(t *testing.T) {
		s, other := handing(t, few)
		enqueue(t, s, "a", "b", "a", "c", "a", "b", "d", "e")
		require.Equal(t, 5, leases(t, s))
		require.ElementsMatch(t, []string{"a", "c", "e"}, names(claim(t, other, all)), "the rest is for all")
		require.Equal(t, []string{"a", "b", "a", "b", "d"}, names(claim(t, s, few)))
	})

	t.Run("like any other claim", func(t *testing.T) {
		s, other := handing(t, all)
		enqueue(t, s, "a")
		handed := claim(t, s, all)
		require.Len(t, handed.Claims, 1)
		require.Positive(t, handed.Next)
		c := handed.Claims[0]
		lost, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: c.Lease(), State: outhook.Pending, Released: true}})
		require.NoError(t, err)
		require.Empty(t, lost)
		again := claim(t, other, all).Claims[0]
		require.Greater(t, again.Token, c.Token)
		require.Positive(t, c.Age)
		require.Less(t, c.Age, time.Minute)
		c.Token, c.Age = again.Token, again.Age
		wanted, err := again.Snapshot.MarshalBinary()
		require.NoError(t, err)
		got, err := c.Snapshot.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, wanted, got)
		c.Snapshot = again.Snapshot
		require.Equal(t, again, c)
		lost, err = s.Finish(t.Context(), []outhook.Outcome{{Lease: again.Lease(), State: outhook.Delivered}})
		require.NoError(t, err)
		require.Empty(t, lost)
	})

	t.Run("leased for as long as it may wait longer", func(t *testing.T) {
		s, _ := handing(t, few)
		enqueue(t, s, "a")
		left := leaseLeft(t, s)
		require.Greater(t, left, s.handover.patience)
		require.LessOrEqual(t, left, few.Lease+s.handover.patience)
	})

	t.Run("expired, by the clock of the database", func(t *testing.T) {
		s, _ := handing(t, all)
		d := newDelivery(t, "e", "a")
		d.TTL = time.Microsecond
		_, err := s.Enqueue(t.Context(), deliveriesOf(d))
		require.NoError(t, err)
		require.Equal(t, 1, leases(t, s))
		c := claimSome(t, s, all)
		require.Equal(t, outhook.ReasonExpired, c.Fault)
		require.Zero(t, c.Unfinished)
	})

	t.Run("a Claim that has not all of its room is followed by another", func(t *testing.T) {
		s, _ := handing(t, all)
		r := s.handover.reserve(deliveriesOf(newDelivery(t, "e", "a")))
		s.handover.miss()
		next := claim(t, s, all).Next
		require.Positive(t, next)
		require.LessOrEqual(t, next, debounce)
		s.handover.end(r)
		s.handover.miss()
		require.Equal(t, all.Lease, claim(t, s, all).Next)
	})

	t.Run("also to a Claim after one that has failed", func(t *testing.T) {
		s, _ := handing(t, all)
		enqueue(t, s, "a")
		s.handover.miss()
		ended, end := context.WithCancel(t.Context())
		end()
		_, err := s.Claim(ended, all)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, []string{"a"}, names(claim(t, s, all)))
	})

	for name, test := range map[string]func(t *testing.T, s, other *Store, d outhook.Delivery) (outhook.Enqueuer, outhook.Delivery){
		"what is due later": func(_ *testing.T, s, _ *Store, d outhook.Delivery) (outhook.Enqueuer, outhook.Delivery) {
			d.Delay = time.Hour
			return s, d
		},
		"what has an order": func(_ *testing.T, s, _ *Store, d outhook.Delivery) (outhook.Enqueuer, outhook.Delivery) {
			d.OrderKey = "k"
			return s, d
		},
		"what is sent elsewhere": func(_ *testing.T, _, other *Store, d outhook.Delivery) (outhook.Enqueuer, outhook.Delivery) {
			return other, d
		},
		"what a transaction of the host stores": func(t *testing.T, s, _ *Store, d outhook.Delivery) (outhook.Enqueuer, outhook.Delivery) {
			tx, err := s.pool.Begin(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, tx.Rollback(context.Background())) })
			return s.InTx(tx), d
		},
		"what a standing may hold back": func(t *testing.T, s, other *Store, d outhook.Delivery) (outhook.Enqueuer, outhook.Delivery) {
			require.NoError(t, other.UpdateStandings(t.Context(), []string{"s"}, func(_ time.Time, s *outhook.Standing) { s.Failures = 1 }))
			return s, d
		},
		"what is known": func(t *testing.T, s, other *Store, d outhook.Delivery) (outhook.Enqueuer, outhook.Delivery) {
			_, err := other.Enqueue(t.Context(), deliveriesOf(d))
			require.NoError(t, err)
			return s, d
		},
	} {
		t.Run("not "+name, func(t *testing.T) {
			s, other := handing(t, all)
			via, d := test(t, s, other, newDelivery(t, "e", "s"))
			_, err := via.Enqueue(t.Context(), deliveriesOf(d))
			require.NoError(t, err)
			require.Zero(t, leases(t, s))
		})
	}

	t.Run("not what has to wait for its turn", func(t *testing.T) {
		s, _ := handing(t, few)
		enqueue(t, s, "a", "a", "a")
		require.Equal(t, 2, leases(t, s))
		require.Equal(t, []string{"e0", "e1"}, events(claim(t, s, few)))
		require.Equal(t, []string{"e2"}, events(claim(t, s, few)))
		for i := range 4 {
			enqueueNamed(t, s, fmt.Sprint("f", i), "a")
			require.Equal(t, 4, leases(t, s), "there was room for one")
		}
		require.Equal(t, []string{"f0", "f1"}, events(claim(t, s, few)))
		enqueueNamed(t, s, "f4", "a")
		require.Equal(t, []string{"f2", "f3"}, events(claim(t, s, few)))
		require.Equal(t, []string{"f4"}, events(claim(t, s, few)))
	})
}

// TestHandoverEnds shows that what was leased for a Claim is given back as it was when it is
// not to be claimed any more.
func TestHandoverEnds(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *Store) error{
		"a standing was changed": func(t *testing.T, s *Store) error {
			return s.UpdateStandings(t.Context(), []string{"a"}, func(time.Time, *outhook.Standing) {})
		},
		"something was cancelled": func(t *testing.T, s *Store) error {
			_, err := s.Cancel(t.Context(), outhook.Filter{Event: "other"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, other := handing(t, all)
			enqueue(t, s, "a")
			require.Equal(t, 1, leases(t, s))
			require.NoError(t, end(t, s))
			require.Zero(t, leases(t, s))
			c := claim(t, other, all).Claims[0]
			require.Equal(t, "a", c.ID.Subscriber)
			require.Equal(t, 1, c.Attempt)
			require.Zero(t, c.Unfinished)
			require.Empty(t, claim(t, s, all).Claims)
		})
	}

	t.Run("the Claim has no room, but one that follows", func(t *testing.T) {
		s, _ := handing(t, all)
		enqueue(t, s, "a")
		none := all
		none.Room = map[string]int{"a": 0}
		require.Empty(t, claim(t, s, none).Claims)
		require.Equal(t, 1, leases(t, s))
		require.Equal(t, []string{"a"}, names(claim(t, s, all)))
	})

	t.Run("the Claim wants a longer lease", func(t *testing.T) {
		s, _ := handing(t, all)
		enqueue(t, s, "a")
		longer := all
		longer.Lease += 2 * s.handover.patience
		require.Zero(t, claimSome(t, s, longer).Unfinished)
		require.Greater(t, leaseLeft(t, s), all.Lease+s.handover.patience)
	})

	t.Run("no Claim comes for it", func(t *testing.T) {
		s, _ := handing(t, all)
		s.handover.patience = time.Millisecond
		enqueue(t, s, "a")
		require.Eventually(t, func() bool { return leases(t, s) == 0 }, time.Minute, time.Millisecond)
		require.Zero(t, claimSome(t, s, all).Unfinished)
	})

	t.Run("Notify has ended", func(t *testing.T) {
		s := newStore(t, nil)
		s.handover.patience = time.Hour
		ctx, cancel := context.WithCancel(t.Context())
		begun, ended := make(chan struct{}, 1000), make(chan error)
		go func() { ended <- s.Notify(ctx, func() { begun <- struct{}{} }) }()
		<-begun
		claim(t, s, all)
		enqueue(t, s, "a")
		require.Equal(t, 1, leases(t, s))
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		require.Zero(t, leases(t, s))
		require.Len(t, claim(t, s, all).Claims, 1)
		enqueueNamed(t, s, "f", "a")
		require.Equal(t, 1, leases(t, s), "no Claim leaves its room any more")
	})
}

// TestHandoverOfFailing shows that of a subscriber that gets a standing nothing is claimed but
// by that, whatever was leased before.
func TestHandoverOfFailing(t *testing.T) {
	for name, test := range map[string]struct {
		effect outhook.Effect
		want   []string // what is claimed then
	}{
		"it wants a pause": {outhook.Effect{Pause: time.Hour}, []string{"e3"}},
		"it fails":         {outhook.Effect{Breaker: outhook.Breaker{Failures: 2, Pause: time.Hour, MaxPause: time.Hour}}, []string{"e2", "e3"}},
		"it is gone":       {outhook.Effect{Disable: true}, []string{"e3"}},
		"it is gone, and what waits is cancelled": {outhook.Effect{Disable: true, Cancel: true}, []string{"e2", "e3"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := handing(t, all)
			enqueueNamed(t, s, "e1", "b")
			first := claim(t, s, all).Claims[0]
			enqueueNamed(t, s, "e2", "b")
			enqueueNamed(t, s, "e3", "a")
			require.Equal(t, 3, leases(t, s))
			_, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: first.Lease(), State: outhook.Dead, Effect: &test.effect}})
			require.NoError(t, err)
			require.Equal(t, 1, leases(t, s))
			claimed := claim(t, s, all)
			require.ElementsMatch(t, test.want, events(claimed))
			require.Len(t, claimed.Standings, len(test.want)-1)
		})
	}
}

// TestHandoverOfFailingElsewhere shows the same when another process has seen it fail before.
func TestHandoverOfFailingElsewhere(t *testing.T) {
	s, other := handing(t, all)
	enqueueNamed(t, s, "e1", "b")
	first := claim(t, s, all).Claims[0]
	enqueueNamed(t, s, "e2", "b")
	require.NoError(t, other.UpdateStandings(t.Context(), []string{"b"}, func(_ time.Time, s *outhook.Standing) { s.Failures = 1 }))
	_, err := s.Finish(t.Context(), []outhook.Outcome{{
		Lease: first.Lease(), State: outhook.Dead, Effect: &outhook.Effect{Breaker: outhook.Breaker{Failures: 2, Pause: time.Hour, MaxPause: time.Hour}},
	}})
	require.NoError(t, err)
	require.Zero(t, leases(t, s))
	require.Empty(t, claim(t, s, all).Claims)
}

// leaving cancels a call when its batch is sent, and goes on when it has returned.
type leaving struct {
	silent
	cancel   context.CancelFunc
	returned chan struct{}
}

func (l leaving) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		if strings.Contains(q.SQL, "with body") {
			l.cancel()
			<-l.returned
		}
	}
	return ctx
}

// TestHandoverOfCancelled shows that what was leased by a call that was cancelled is claimed.
func TestHandoverOfCancelled(t *testing.T) {
	kept := newStore(t, nil)
	enqueueNamed(t, kept, "before", "a")
	ctx, cancel := context.WithCancel(t.Context())
	l := leaving{cancel: cancel, returned: make(chan struct{})}
	config := kept.pool.Config()
	config.ConnConfig.Tracer = l
	pool, err := newPoolOf(config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s, err := New(pool, &kept.options)
	require.NoError(t, err)
	s.handover.patience = time.Hour
	listening(t, s)
	require.Len(t, claim(t, s, all).Claims, 1)
	s.handover.miss()
	claim(t, s, all)
	_, err = s.Enqueue(ctx, deliveriesOf(newDelivery(t, "e", "a")))
	require.ErrorIs(t, err, context.Canceled)
	close(l.returned)
	require.Equal(t, "e", claimSome(t, s, all).ID.Event)
}

// TestReservation shows what becomes of room that was taken for what is still being stored.
func TestReservation(t *testing.T) {
	of := func(subscribers ...string) (list []outhook.Delivery) {
		for _, name := range subscribers {
			list = append(list, outhook.Delivery{ID: outhook.DeliveryID{Subscriber: name}})
		}
		return list
	}
	setUp := func() (*handover, *reservation) {
		h := &handover{patience: time.Hour}
		wake := func() {}
		h.listen(&wake)
		request := all
		request.Limit, request.Room = 4, map[string]int{"a": 2}
		taken := h.take(&request)
		require.True(t, taken.look, "it is the first")
		require.Nil(t, h.room)
		h.leave(taken, request, true, 0)
		r := h.reserve(of("a", "b"))
		require.Equal(t, []bool{true, true}, r.leases)
		return h, r
	}
	claims := []outhook.Claim{{Delivery: of("a")[0]}}
	request := func() *outhook.ClaimRequest {
		r := all
		r.Limit, r.Room = 4, map[string]int{"a": 2}
		return &r
	}

	// looking returns what a Claim has that looks, while nothing is stored.
	looking := func(t *testing.T) (*handover, taken, *outhook.ClaimRequest) {
		h, r := setUp()
		h.end(r)
		h.miss()
		left := request()
		taken := h.take(left)
		require.True(t, taken.look)
		return h, taken, left
	}

	t.Run("no Claim fills it", func(t *testing.T) {
		h, r := setUp()
		h.miss()
		left := request()
		taken := h.take(left)
		require.True(t, taken.look)
		require.True(t, taken.shared, "another Claim has to come soon")
		require.Equal(t, 2, left.Limit)
		require.Equal(t, map[string]int{"a": 1, "b": all.PerSubscriber - 1}, left.Room)
		require.Empty(t, h.hand(r, claims, nil))
		h.end(r)
		left = request()
		taken = h.take(left)
		require.Equal(t, claims[0].ID, taken.claims()[0].ID)
		require.Equal(t, 3, left.Limit, "what was not stored takes none any more")
	})
	t.Run("a Claim that does not look knows what the last one has seen", func(t *testing.T) {
		h, taken, left := looking(t)
		h.leave(taken, *left, true, lookEvery/2)
		next := h.take(request()).next
		require.LessOrEqual(t, next, lookEvery/2)
		h.due = time.Now()
		require.True(t, h.take(request()).look)
	})
	t.Run("a Claim that had no room for suspects is followed by one that has", func(t *testing.T) {
		h, first, left := looking(t)
		left.Suspects = 0 // it has found one
		h.leave(first, *left, true, 0)
		second := h.take(request())
		require.True(t, second.look)
		h.leave(second, *request(), true, 0)
		require.False(t, h.take(request()).look)
	})
	t.Run("what a Claim finds that looks at the same time may be more than it has room for", func(t *testing.T) {
		h, first, _ := looking(t)
		second := h.take(request())
		require.False(t, second.look)
		require.LessOrEqual(t, second.next, debounce)
		h.fail(first)
		h.leave(second, *request(), false, 0)
		third := h.take(request())
		require.True(t, third.look)
		h.leave(third, *request(), true, 0)
		require.Greater(t, h.take(request()).next, debounce)
	})
	t.Run("what was stored before Notify has begun could not be heard of", func(t *testing.T) {
		h, r := setUp()
		h.end(r)
		require.False(t, h.take(request()).look)
		wake := func() {}
		h.listen(&wake)
		require.True(t, h.take(request()).look)
	})
	t.Run("if nothing is to be claimed any more, all is given back", func(t *testing.T) {
		h, r := setUp()
		require.Empty(t, h.withdraw())
		require.Equal(t, claims, h.hand(r, claims, nil))
		h.end(r)
		require.Empty(t, h.take(request()).handed)
	})
	t.Run("nor is what is stored of a subscriber of which nothing is to be claimed", func(t *testing.T) {
		h, r := setUp()
		require.Empty(t, h.withdraw("b"))
		both := slices.Concat(claims, []outhook.Claim{{Delivery: of("b")[0]}})
		require.Equal(t, both[1:], h.hand(r, both, nil))
		taken := h.take(request())
		require.Equal(t, claims[0].ID, taken.claims()[0].ID)
		require.Len(t, taken.handed, 1)
	})
	t.Run("what is stored for too long takes no room, and waits no more", func(t *testing.T) {
		h, r := setUp()
		h.patience = 0
		h.miss()
		left := request()
		h.take(left)
		require.Equal(t, 4, left.Limit)
		h.timer = time.NewTimer(time.Hour) // is slow
		require.Empty(t, h.hand(r, claims, nil))
		taken := h.take(request())
		require.Empty(t, taken.handed)
		require.Equal(t, claims, taken.late)
	})
	t.Run("what was withdrawn meanwhile does not wait after a Claim that has failed", func(t *testing.T) {
		h, r := setUp()
		require.Empty(t, h.hand(r, claims, nil))
		h.miss()
		taken := h.take(request())
		require.Len(t, taken.handed, 1)
		require.Empty(t, h.withdraw("c"))
		require.Len(t, h.fail(taken), 1)
		require.Empty(t, h.waiting)
	})
	t.Run("a Claim that leaves no room is no leave for others", func(t *testing.T) {
		h, r := setUp()
		h.end(r)
		h.miss()
		none := request()
		none.Limit = 1
		taken := h.take(none)
		require.True(t, taken.look)
		none.Limit = 0 // it has found something
		h.leave(taken, *none, false, 0)
		require.Nil(t, h.reserve(of("a")).leases)
		taken = h.take(request())
		require.True(t, taken.look)
		require.Nil(t, h.reserve(of("a")).leases, "not even while the next one looks: there is more to be found")
		h.leave(taken, *request(), true, 0)
		require.Equal(t, []bool{true}, h.reserve(of("a")).leases)
	})
	t.Run("what is stored while a Claim looks takes its room, too, and waits for more if both did", func(t *testing.T) {
		h, taken, left := looking(t)
		r := h.reserve(of("a", "a", "a", "b"))
		require.Equal(t, []bool{true, true, false, true}, r.leases)
		stored := []outhook.Claim{{Delivery: of("a")[0], Token: 1}, {Delivery: of("a")[0], Token: 2}, {Delivery: of("b")[0], Token: 3}}
		require.Equal(t, map[string]int{"a": 2}, left.Room, "of the Claim itself")
		left.Limit, left.Room = 3, map[string]int{"a": 1} // it has found one
		h.leave(taken, *left, true, 0)
		require.Empty(t, h.hand(r, stored, []int{2}))
		h.end(r)
		require.Equal(t, []bool{false, true, false}, h.reserve(of("a", "c", "d")).leases, "a has taken all that was left of it, b one more")
		require.Empty(t, h.reserve(of("e")).full, "there is no room for any")

		one := request()
		one.Room["a"] = 1
		next := h.take(one)
		require.Equal(t, []int64{1, 3}, tokens(next.claims()))
		require.Empty(t, next.late)
		h.leave(next, *one, false, 0)
		next = h.take(request())
		require.Equal(t, []int64{2}, tokens(next.claims()))
	})
	t.Run("what takes room while a Claim looks does not before it has left the rest and again after", func(t *testing.T) {
		h, before := setUp() // one of a and one of b
		h.miss()
		left := request()
		taken := h.take(left)
		require.True(t, taken.look)
		during := h.reserve(of("b"))
		require.Empty(t, h.hand(during, []outhook.Claim{{Delivery: of("b")[0]}}, nil))
		h.leave(taken, *left, true, 0)
		require.Equal(t, 1, h.room.Limit, "of 4")
		require.Equal(t, map[string]int{"a": 1, "b": all.PerSubscriber - 2}, h.room.Room)
		h.end(before)
		require.Equal(t, 1, h.room.Limit, "it had another one's room")
	})
	t.Run("a subscriber has no room that others wait for", func(t *testing.T) {
		h, taken, left := looking(t)
		left.Room["a"] = 1
		h.leave(taken, *left, true, 0)
		r := h.reserve(of("a", "a"))
		require.Equal(t, []bool{true, false}, r.leases)
		require.Empty(t, h.hand(r, claims, []int{1}))
		one := request()
		one.Room["a"] = 1
		require.False(t, h.take(one).look)
		h.waiting, one.Room["a"] = nil, 1
		h.reserved = []*reservation{{room: map[string]int{"a": 1}}}
		require.False(t, h.take(one).look)
		require.True(t, h.take(request()).look)
	})
	t.Run("what was not stored gives the room back", func(t *testing.T) {
		h, r := setUp()
		require.Equal(t, 2, h.room.Limit)
		h.end(r)
		require.Equal(t, 4, h.room.Limit)
		require.Equal(t, map[string]int{"a": 2, "b": all.PerSubscriber}, h.room.Room)
	})
	t.Run("while a Claim looks nobody has the room of subscribers that the last one has not found all of", func(t *testing.T) {
		h, first, left := looking(t)
		left.Room["a"] = 0 // two were found
		h.leave(first, *left, true, 0)
		second := h.take(request())
		require.True(t, second.look)
		require.Equal(t, []bool{false, true}, h.reserve(of("a", "b")).leases)
		h.leave(second, *request(), true, 0)
		require.Equal(t, []bool{true}, h.reserve(of("a")).leases, "there were no more")
	})
	t.Run("nor any, if the last one took long or has failed", func(t *testing.T) {
		h, first, left := looking(t)
		h.patience = time.Nanosecond
		h.leave(first, *left, true, 0)
		h.patience = time.Hour
		require.Equal(t, []bool{true}, h.reserve(of("a")).leases)
		h.miss()
		second := h.take(request())
		require.Nil(t, h.reserve(of("a")).leases)
		h.leave(second, *request(), true, 0)
		h.miss()
		third := h.take(request())
		require.Equal(t, []bool{true}, h.reserve(of("a")).leases)
		h.fail(third)
		require.Nil(t, h.reserve(of("b")).leases)
		require.True(t, h.take(request()).look)
		require.Nil(t, h.reserve(of("b")).leases)
	})
	t.Run("what a Claim has seen counts more than what an earlier one has", func(t *testing.T) {
		h, first, left := looking(t)
		h.miss()
		second, after := request(), h.latest
		taken := h.take(second)
		require.True(t, taken.look)
		require.True(t, h.latest.After(after))
		second.Suspects = 0
		h.leave(taken, *second, false, time.Minute)
		h.leave(first, *left, true, 0)
		require.False(t, h.calm)
		require.True(t, h.suspects)
		require.NotZero(t, h.due)
	})
	t.Run("what is stored of a subscriber that has no room is looked for when it has", func(t *testing.T) {
		h, taken, left := looking(t)
		left.Room["a"] = 0 // two were found
		h.leave(taken, *left, true, 0)
		r := h.reserve(of("a"))
		require.Equal(t, map[int]string{0: "a"}, r.full)
		none := request()
		none.Room["a"] = 0
		require.True(t, h.take(none).idle)
		require.Empty(t, h.hand(r, nil, []int{0}))
		require.True(t, h.take(none).idle)
		taken = h.take(request())
		require.True(t, taken.look)
		require.Empty(t, h.hand(r, nil, []int{0}))
		h.leave(taken, *request(), true, 0)
		taken = h.take(request())
		require.True(t, taken.look, "it was stored after the look had begun")
		h.leave(taken, *request(), true, 0)
		require.False(t, h.take(request()).look)
	})
}

// TestHandoverLooks shows that Claims to which much is handed over look for what others have
// stored all the same.
func TestHandoverLooks(t *testing.T) {
	s, other := handing(t, all)
	enqueueNamed(t, other, "of-another", "a")
	found, began := false, time.Now()
	for i := 0; !found; i++ {
		require.Less(t, time.Since(began), time.Minute)
		enqueueNamed(t, s, fmt.Sprint("f", i), "b")
		claimed := claim(t, s, all)
		for _, c := range claimed.Claims {
			found = found || c.ID.Event == "of-another"
		}
		require.True(t, found || claimed.Next > 0 && claimed.Next <= lookEvery)
	}
}

// pretendLooked has a store believe that a Claim looks for what others have stored in d's time.
func pretendLooked(s *Store, d time.Duration) {
	s.handover.mu.Lock()
	defer s.handover.mu.Unlock()
	s.handover.looked = time.Now().Add(d)
}

// TestHandoverTells shows who hears of what was stored: of what is leased those who may claim
// it alone, and of the rest all, who look then.
func TestHandoverTells(t *testing.T) {
	t.Run("of what was leased nobody else", func(t *testing.T) {
		s, _ := handing(t, all)
		conn, err := s.listen(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close(context.Background())) }()
		enqueueNamed(t, s, "leased", "a", "b")
		later := newDelivery(t, "later", "a")
		later.Delay = time.Hour
		_, err = s.Enqueue(t.Context(), deliveriesOf(newDelivery(t, "leased-too", "a"), later))
		require.NoError(t, err)
		require.Equal(t, 3, leases(t, s))
		_, err = s.pool.Exec(t.Context(), `select pg_notify($1::text, 'the end')`, s.options.Schema)
		require.NoError(t, err)
		var heard []string
		for len(heard) == 0 || heard[len(heard)-1] != "the end" {
			n, err := conn.WaitForNotification(t.Context())
			require.NoError(t, err)
			if n.Payload == "" || n.Payload == "the end" { // others are probes
				heard = append(heard, n.Payload)
			}
		}
		require.Equal(t, []string{"", "the end"}, heard)
	})

	t.Run("of what was leased those who may claim it", func(t *testing.T) {
		s := newStore(t, nil)
		s.handover.patience = time.Hour
		first, _ := listening(t, s)
		second, _ := listening(t, s)
		claim(t, s, all)
		require.Empty(t, first)
		enqueue(t, s, "a")
		require.Equal(t, 1, leases(t, s))
		<-first
		<-second
	})

	t.Run("and who hears of something looks", func(t *testing.T) {
		s, other := handing(t, all)
		pretendLooked(s, time.Hour)
		require.Empty(t, claim(t, s, all).Claims)
		enqueue(t, other, "a")
		require.Equal(t, "e0", claimSome(t, s, all).ID.Event)
	})
}

// TestHandoverOfDead shows that what a process has leased that died is claimed when its lease
// has ended, by one that was not told of it.
func TestHandoverOfDead(t *testing.T) {
	dead := newStore(t, nil)
	sleep, err := freeze(dead)
	require.NoError(t, err)
	s, err := New(dead.pool, &dead.options)
	require.NoError(t, err)
	useFrozen(s)
	require.Zero(t, claim(t, s, all).Next, "nobody leases what it is not told of")
	dead.handover.patience = time.Hour
	listening(t, dead)
	listening(t, s)
	claim(t, dead, all)
	s.handover.miss()
	require.Equal(t, all.Lease, claim(t, s, all).Next)
	enqueue(t, dead, "a")
	require.Equal(t, 1, leases(t, dead))

	sleep(all.Lease)
	pretendLooked(s, -all.Lease)
	rest := claim(t, s, all)
	require.Empty(t, rest.Claims)
	require.Equal(t, dead.handover.patience, rest.Next)
	sleep(rest.Next)
	pretendLooked(s, -rest.Next)
	c := claim(t, s, all).Claims
	require.Len(t, c, 1)
	require.Equal(t, 1, c[0].Unfinished)
}

// TestEnqueueRace shows that deliveries which somebody else stores at the same time are
// known, and that nothing is stored beside one of other content.
func TestEnqueueRace(t *testing.T) {
	for name, digest := range map[string][32]byte{"the same": {}, "another": {1}} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, nil)
			enqueueNamed(t, s, "before", "a", "b")
			first := newDelivery(t, "e", "a")
			tx, err := s.pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = s.InTx(tx).Enqueue(t.Context(), deliveriesOf(first))
			require.NoError(t, err)
			second := first
			if digest != ([32]byte{}) {
				second.Digest = digest
			}
			type result struct {
				known []outhook.DeliveryID
				err   error
			}
			ended := make(chan result)
			go func() {
				known, err := s.Enqueue(context.Background(), deliveriesOf(newDelivery(t, "e", "b"), second))
				ended <- result{known, err}
			}()
			waits := func() (yes bool) {
				_ = s.pool.QueryRow(t.Context(), `select exists (select from pg_locks l join pg_class c on c.oid = l.relation
where not l.granted) or exists (select from pg_locks where locktype = 'transactionid' and not granted)`).Scan(&yes)
				return yes
			}
			require.Eventually(t, waits, time.Minute, time.Millisecond)
			require.NoError(t, tx.Commit(t.Context()))
			r := <-ended
			if digest == ([32]byte{}) {
				require.NoError(t, r.err)
				require.Equal(t, []outhook.DeliveryID{first.ID}, r.known)
				require.Equal(t, 4, count(t, s, "delivery"))
			} else {
				require.ErrorIs(t, r.err, outhook.ErrConflict)
				require.Equal(t, 3, count(t, s, "delivery"))
			}
		})
	}
}
