package pgxstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// enqueued stores deliveries for one subscriber, named e1, e2, and so on.
func enqueued(t testing.TB, s *Store, n int, change func(*outhook.Delivery)) {
	t.Helper()
	template := newDelivery(t, "e", "s")
	var list []outhook.Delivery
	for i := range n {
		d := template
		d.ID.Event = fmt.Sprintf("e%d", i+1)
		if change != nil {
			change(&d)
		}
		list = append(list, d)
	}
	_, err := s.Enqueue(t.Context(), list)
	require.NoError(t, err)
}

var all = outhook.ClaimRequest{Limit: 50, PerSubscriber: 50, SuspectAfter: 5, Suspects: 1, Lease: time.Hour}

func claim(t testing.TB, s *Store, request outhook.ClaimRequest) outhook.Claimed {
	t.Helper()
	claimed, err := s.Claim(t.Context(), request)
	require.NoError(t, err)
	return claimed
}

// stopped begins a transaction that is not ended until the test has: that of a client
// that stands still.
func stopped(t testing.TB, s *Store, text string, args ...any) pgx.Tx {
	t.Helper()
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	_, err = tx.Exec(t.Context(), s.sql(text), args...)
	require.NoError(t, err)
	return tx
}

func TestStoppedClient(t *testing.T) {
	t.Run("in the middle of a claim holds up no other", func(t *testing.T) {
		s := newStore(t, nil)
		enqueued(t, s, 4, nil)
		tx := stopped(t, s, `select from {schema}.pending where id <= 2 for update`)
		claimed := claim(t, s, all)
		require.Len(t, claimed.Claims, 2)
		require.Positive(t, claimed.Next, "what is locked may be let go at any time")
		require.Less(t, claimed.Next, time.Second)
		require.NoError(t, tx.Rollback(t.Context()))
		require.Len(t, claim(t, s, all).Claims, 2)
	})

	t.Run("that has taken a key holds up no other", func(t *testing.T) {
		s := newStore(t, nil)
		enqueued(t, s, 3, func(d *outhook.Delivery) {
			d.OrderKey = d.ID.Event // a key each
		})
		// As a claim does that has seen another delivery at the head of the key.
		tx := stopped(t, s, holdKeys, []int64{1}, []string{"e1"}, []int64{99}, micros(time.Hour))
		claimed := claim(t, s, all)
		require.Len(t, claimed.Claims, 2)
		require.Positive(t, claimed.Next)
		require.NoError(t, tx.Rollback(t.Context()))
		require.Len(t, claim(t, s, all).Claims, 1)
	})
}

// TestClaimSeesLateOrder shows that an ordered row that was picked is not leased
// if an earlier one has turned up since.
func TestClaimSeesLateOrder(t *testing.T) {
	s := newStore(t, nil)
	ordered := func(d *outhook.Delivery) { d.OrderKey = "k" }
	enqueued(t, s, 2, ordered)
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	c := &claiming{s: s, request: all, tx: tx, suspects: 1}
	second := picked{lane: &lane{id: 1, room: 1, standing: outhook.Standing{Subscriber: "s"}}, key: "k"}
	require.NoError(t, tx.QueryRow(t.Context(), s.sql(`select id, ctid::text from {schema}.pending where id = 2`)).Scan(&second.id, &second.ctid))
	c.picked, c.turn = []picked{second}, second.lane
	require.NoError(t, c.lease(t.Context()))
	require.Empty(t, c.leased)
	require.NoError(t, tx.Commit(t.Context()))
	require.Zero(t, count(t, s, "hold"), "the key was given back")
	claimed := claim(t, s, all)
	require.Len(t, claimed.Claims, 1)
	require.Equal(t, "e1", claimed.Claims[0].ID.Event)
}

// lapsed returns a store of one delivery, whose lease has ended without an outcome.
func lapsed(t *testing.T) (*Store, outhook.Claim) {
	t.Helper()
	s := newStore(t, nil)
	sleep, err := freeze(s)
	require.NoError(t, err)
	enqueued(t, s, 1, nil)
	first := claim(t, s, all).Claims[0]
	sleep(2 * time.Hour)
	return s, first
}

// TestFinishWaits shows that Finish applies to the row as it is when it gets it.
func TestFinishWaits(t *testing.T) {
	for _, committed := range []bool{true, false} {
		t.Run(fmt.Sprintf("for a claim that is made: %v", committed), func(t *testing.T) {
			s, first := lapsed(t)
			tx, err := s.pool.Begin(t.Context())
			require.NoError(t, err)
			other := &claiming{s: s, request: all, tx: tx, suspects: 1}
			require.NoError(t, other.pick(t.Context()))
			require.NoError(t, other.lease(t.Context()))
			claims, _ := other.claims(nil)
			require.Len(t, claims, 1)

			var lost []outhook.Lease
			var wg sync.WaitGroup
			wg.Go(func() {
				lost, err = s.Finish(context.Background(), []outhook.Outcome{{Lease: first.Lease(), State: outhook.Delivered}})
			})
			waiting := func() bool {
				var n int
				require.NoError(t, s.pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like $1::text`,
					"%"+s.options.Schema+"%").Scan(&n))
				return n > 0
			}
			require.Eventually(t, waiting, time.Minute, time.Millisecond)
			if committed {
				require.NoError(t, tx.Commit(t.Context()))
			} else {
				require.NoError(t, tx.Rollback(t.Context()))
			}
			wg.Wait()
			require.NoError(t, err)
			record, err := s.Get(t.Context(), first.ID)
			require.NoError(t, err)
			if !committed {
				require.Empty(t, lost)
				require.Equal(t, outhook.Delivered, record.State)
				return
			}
			require.Equal(t, []outhook.Lease{first.Lease()}, lost)
			require.Equal(t, outhook.Pending, record.State)
			lost, err = s.Finish(t.Context(), []outhook.Outcome{{Lease: claims[0].Lease(), State: outhook.Delivered}})
			require.NoError(t, err)
			require.Empty(t, lost)
		})
	}

	t.Run("and finds the row where it was moved to", func(t *testing.T) {
		s := newStore(t, nil)
		enqueued(t, s, 1, nil)
		c := claim(t, s, all).Claims[0]
		tx := stopped(t, s, `update {schema}.pending set due = due + interval '1 hour'`)
		var lost []outhook.Lease
		var err error
		var wg sync.WaitGroup
		wg.Go(func() {
			lost, err = s.Finish(context.Background(), []outhook.Outcome{{Lease: c.Lease(), State: outhook.Delivered}})
		})
		require.Eventually(t, func() bool {
			var n int
			require.NoError(t, s.pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like $1::text`,
				"%"+s.options.Schema+"%").Scan(&n))
			return n > 0
		}, time.Minute, time.Millisecond)
		require.NoError(t, tx.Commit(t.Context()))
		wg.Wait()
		require.NoError(t, err)
		require.Empty(t, lost)
		require.Zero(t, count(t, s, "pending"))
		require.Equal(t, 1, count(t, s, "outcome"))
	})
}

func TestMissingRows(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil)
	other := newDelivery(t, "other", "s")
	gone := newDelivery(t, "gone", "s")
	gone.OrderKey = "k"
	behind := newDelivery(t, "behind", "s")
	behind.OrderKey = "k"
	for _, d := range []outhook.Delivery{other, gone, behind} {
		_, err := s.Enqueue(t.Context(), deliveriesOf(d))
		require.NoError(t, err)
	}
	_, err := s.pool.Exec(t.Context(), s.sql(`delete from {schema}.payload where event = 'other'`))
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), s.sql(`delete from {schema}.delivery where event = 'gone'`))
	require.NoError(t, err)
	another, err := New(s.pool, &s.options) // which remembers nothing
	require.NoError(t, err)
	faults := map[string]string{}
	for range 2 { // the second claim finds what stood behind the missing one
		for _, c := range claim(t, another, all).Claims {
			faults[c.ID.Event] = c.Fault
		}
	}
	require.Equal(t, map[string]string{"e1": "", "other": "its payload is missing or cannot be restored", "behind": ""}, faults)
}

func TestConcurrentEnqueue(t *testing.T) {
	s := newStore(t, nil)
	var list []outhook.Delivery
	template := newDelivery(t, "e", "s")
	for i := range 20 {
		d := template
		d.ID.Subscriber = fmt.Sprintf("s%d", i)
		list = append(list, d)
	}
	var wg sync.WaitGroup
	known := make([]int, 8)
	errs := make([]error, 8)
	for i := range known {
		mine := append(append([]outhook.Delivery{}, list[i:]...), list[:i]...) // each in another order
		if i == 7 {
			for j := range mine {
				mine[j].Digest = [32]byte{1} // other content
			}
		}
		wg.Go(func() {
			ids, err := s.Enqueue(context.Background(), mine)
			known[i], errs[i] = len(ids), err
		})
	}
	wg.Wait()
	stored := 0
	for i, err := range errs {
		if errors.Is(err, outhook.ErrConflict) {
			continue
		}
		require.NoError(t, err)
		stored += 20 - known[i]
	}
	require.Equal(t, 20, stored, "each was stored by one of the calls")
	require.Equal(t, 20, count(t, s, "delivery"))
	require.Equal(t, 20, count(t, s, "pending"))
	require.Equal(t, 1, count(t, s, "payload"))
}

// TestConcurrentPrune shows that the body that deliveries share goes with the last.
func TestConcurrentPrune(t *testing.T) {
	s := newStore(t, nil)
	template := newDelivery(t, "e", "s")
	for range 5 {
		var list []outhook.Delivery
		for i := range 30 {
			d := template
			d.ID.Subscriber = fmt.Sprintf("s%d", i)
			list = append(list, d)
		}
		_, err := s.Enqueue(t.Context(), list)
		require.NoError(t, err)
		require.Equal(t, 1, count(t, s, "payload"))
		_, err = s.Cancel(t.Context(), outhook.Filter{})
		require.NoError(t, err)
		pruned := make([]int, 6)
		errs := make([]error, 6)
		var wg sync.WaitGroup
		for i := range pruned {
			wg.Go(func() {
				for j := i; j < 30; j += 3 { // each is pruned by two
					n, err := s.Prune(context.Background(), outhook.Filter{Event: "e", Subscriber: fmt.Sprintf("s%d", j)})
					pruned[i] += n
					errs[i] = errors.Join(errs[i], err)
				}
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		sum := 0
		for _, n := range pruned {
			sum += n
		}
		require.Equal(t, 30, sum)
		for _, table := range []string{"payload", "delivery", "outcome", "pending"} {
			require.Zero(t, count(t, s, table), table)
		}
	}
}

// TestChangesByPages shows that calls that change much do so page by page.
func TestChangesByPages(t *testing.T) {
	s := newStore(t, nil)
	const n = 2*changePage + 10
	enqueued(t, s, n, nil)
	changed, err := s.Cancel(t.Context(), outhook.Filter{Limit: n - 5})
	require.NoError(t, err)
	require.Equal(t, n-5, changed)
	changed, err = s.Cancel(t.Context(), outhook.Filter{})
	require.NoError(t, err)
	require.Equal(t, 5, changed)
	changed, err = s.Replay(t.Context(), outhook.Filter{Limit: changePage + 1})
	require.NoError(t, err)
	require.Equal(t, changePage+1, changed)
	changed, err = s.Prune(t.Context(), outhook.Filter{})
	require.NoError(t, err)
	require.Equal(t, n-changePage-1, changed)
	listed := 0
	for r, err := range s.List(t.Context(), outhook.Filter{}) {
		require.NoError(t, err)
		listed++
		require.Equal(t, fmt.Sprintf("e%d", listed), r.ID.Event)
		if listed == listPage+1 { // no transaction is open, and no connection taken
			require.Zero(t, s.pool.Stat().AcquiredConns())
		}
	}
	require.Equal(t, changePage+1, listed)
}

func TestBackendTerminated(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 3, nil)
	claimed := claim(t, s, all)
	outcomes := []outhook.Outcome{}
	for i := range claimed.Claims {
		outcomes = append(outcomes, outhook.Outcome{Lease: claimed.Claims[i].Lease(), State: outhook.Delivered})
	}
	blocker := stopped(t, s, `select from {schema}.pending where id = 3 for update`)
	finished := make(chan error, 1)
	go func() {
		_, err := s.Finish(context.Background(), outcomes)
		finished <- err
	}()
	require.Eventually(t, func() bool {
		tag, err := s.pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' and query like $1::text`,
			"%"+s.options.Schema+"%")
		require.NoError(t, err)
		return tag.RowsAffected() > 0
	}, time.Minute, time.Millisecond)
	err := <-finished
	require.ErrorContains(t, err, "pgxstore: finish: ")
	require.NoError(t, blocker.Rollback(t.Context()))
	require.Equal(t, 3, count(t, s, "pending"), "nothing was half done")
	lost, err := s.Finish(t.Context(), outcomes)
	require.NoError(t, err)
	require.Empty(t, lost)
	require.Equal(t, 3, count(t, s, "outcome"))
}

func TestPoolExhausted(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil)
	var taken []interface{ Release() }
	for range s.pool.Config().MaxConns {
		conn, err := s.pool.Acquire(t.Context())
		require.NoError(t, err)
		taken = append(taken, conn)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := s.Claim(ctx, all)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	for _, conn := range taken {
		conn.Release()
	}
	require.Len(t, claim(t, s, all).Claims, 1)
}

func TestDeadlock(t *testing.T) {
	s := newStore(t, nil)
	calls := 0
	fail := func(times int) func(pgx.Tx) error {
		calls = 0
		return func(pgx.Tx) error {
			if calls++; calls <= times {
				return &pgconn.PgError{Code: "40P01", Message: "deadlock detected"}
			}
			return nil
		}
	}
	require.NoError(t, s.inTx(t.Context(), "test", fail(maxDeadlocks)))
	require.Equal(t, maxDeadlocks+1, calls)
	require.ErrorContains(t, s.inTx(t.Context(), "test", fail(maxDeadlocks+1)), "pgxstore: test: ")
	require.Equal(t, maxDeadlocks+1, calls)
}

func TestDatabase(t *testing.T) {
	s := newStore(t, nil)
	sleep, err := freeze(s)
	require.NoError(t, err)
	enqueued(t, s, 2, nil)
	sleep(time.Minute)
	stopped(t, s, `select 1`)
	stats, err := s.Database(t.Context())
	require.NoError(t, err)
	require.Equal(t, time.Minute, stats.OldestDue)
	require.Positive(t, stats.OldestTransaction)
	sizes := map[string]int64{}
	for _, table := range stats.Tables {
		sizes[table.Name] = table.Bytes
	}
	for _, name := range []string{"pending", "delivery", "payload", "outcome", "subscriber"} {
		require.Positive(t, sizes[name], name)
	}
}
