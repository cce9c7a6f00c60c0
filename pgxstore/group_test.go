package pgxstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// occupied keeps all places for transactions of Enqueue taken, until it is called.
func occupied(s *Store) (free func()) {
	for range groupCommits {
		s.group.commits <- struct{}{}
	}
	return func() {
		for range groupCommits {
			<-s.group.commits
		}
	}
}

// waiting waits until so many calls wait.
func waiting(t *testing.T, s *Store, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		return len(s.group.waiting) == n
	}, time.Minute, time.Millisecond)
}

// TestGroup: calls that wait are stored in one transaction, and each learns what was known
// of its own deliveries.
func TestGroup(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 10, nil) // e1 to e10
	template := newDelivery(t, "e", "s")
	list := func(numbers ...int) (list []outhook.Delivery) {
		for _, n := range numbers {
			d := template
			d.ID.Event = fmt.Sprintf("e%d", n)
			list = append(list, d)
		}
		return list
	}
	free := occupied(s)
	calls := [][]outhook.Delivery{list(10, 11), list(12, 9, 8), list(13), list(14, 15), list(7)}
	known := make([][]outhook.DeliveryID, len(calls))
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			var err error
			known[i], err = s.Enqueue(context.Background(), calls[i])
			require.NoError(t, err)
		})
		waiting(t, s, i+1)
	}
	var before, after int64
	transactions := s.sql(`select count(distinct xmin::text) from {schema}.delivery`)
	require.NoError(t, s.pool.QueryRow(t.Context(), transactions).Scan(&before))
	<-s.group.commits // one alone: all are stored together
	wg.Wait()
	s.group.commits <- struct{}{}
	free()
	require.NoError(t, s.pool.QueryRow(t.Context(), transactions).Scan(&after))
	require.Equal(t, before+1, after)
	id := func(n int) outhook.DeliveryID { return list(n)[0].ID }
	require.Equal(t, [][]outhook.DeliveryID{{id(10)}, {id(9), id(8)}, nil, nil, {id(7)}}, known)
}

// TestGroupFault: what one call does wrong fails no other, and leaves nothing of its own.
func TestGroupFault(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil)
	conflicting := newDelivery(t, "e1", "s")
	conflicting.Digest[0]++
	calls := [][]outhook.Delivery{
		{newDelivery(t, "good1", "s")},
		{newDelivery(t, "bad", "s"), conflicting},
		{newDelivery(t, "good2", "s")},
	}
	free := occupied(s)
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() { _, errs[i] = s.Enqueue(context.Background(), calls[i]) })
		waiting(t, s, i+1)
	}
	free()
	wg.Wait()
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], outhook.ErrConflict)
	require.NoError(t, errs[2])
	for event, stored := range map[string]bool{"good1": true, "bad": false, "good2": true} {
		_, err := s.Get(t.Context(), outhook.DeliveryID{Event: event, Subscriber: "s"})
		require.Equal(t, stored, err == nil, event)
	}
}

// TestGroupLeave: a caller that leaves ends neither what others wait for nor waits itself,
// and when all have left, nothing goes on.
func TestGroupLeave(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil) // the subscriber is known
	free := occupied(s)
	ctx, leave := context.WithCancel(t.Context())
	gone, stays := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Enqueue(ctx, []outhook.Delivery{newDelivery(t, "gone", "s")})
		gone <- err
	}()
	waiting(t, s, 1)
	go func() {
		_, err := s.Enqueue(context.Background(), []outhook.Delivery{newDelivery(t, "stays", "s")})
		stays <- err
	}()
	waiting(t, s, 2)
	leave()
	require.ErrorIs(t, <-gone, context.Canceled)
	waiting(t, s, 1)
	free()
	require.NoError(t, <-stays)
	_, err := s.Get(t.Context(), outhook.DeliveryID{Event: "gone", Subscriber: "s"})
	require.ErrorIs(t, err, outhook.ErrNotFound)

	// Two are being stored, behind a lock, when they leave one after the other.
	lock := stopped(t, s, `lock table {schema}.delivery in exclusive mode`)
	var leaves []context.CancelFunc
	free = occupied(s)
	for i := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		leaves = append(leaves, cancel)
		go func() {
			_, err := s.Enqueue(ctx, []outhook.Delivery{newDelivery(t, fmt.Sprint("late", i), "s")})
			gone <- err
		}()
		waiting(t, s, i+1)
	}
	<-s.group.commits
	waiting(t, s, 0)
	leaves[0]()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.Len(t, s.group.commits, groupCommits, "it goes on for the other")
	leaves[1]()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.Eventually(t, func() bool { return len(s.group.commits) == groupCommits-1 }, time.Minute, time.Millisecond,
		"nothing goes on for nobody, although the lock is still there")
	s.group.commits <- struct{}{}
	free()
	require.NoError(t, lock.Rollback(t.Context()))
}

// TestPlaceOfAnother: a lease that is found at its place, but is not the latest there, is lost.
func TestPlaceOfAnother(t *testing.T) {
	s := newStore(t, nil)
	sleep, err := freeze(s)
	require.NoError(t, err)
	enqueued(t, s, 1, nil)
	first := claim(t, s, all).Claims[0]
	sleep(2 * time.Hour)
	second := claim(t, s, all).Claims[0]
	s.places.of[first.Lease()] = s.places.of[second.Lease()] // as after a vacuum
	lost, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: first.Lease(), State: outhook.Dead}})
	require.NoError(t, err)
	require.Equal(t, []outhook.Lease{first.Lease()}, lost)
	require.Empty(t, s.places.of[first.Lease()])
	lost, err = s.Finish(t.Context(), []outhook.Outcome{{Lease: second.Lease(), State: outhook.Delivered}})
	require.NoError(t, err)
	require.Empty(t, lost)
}
