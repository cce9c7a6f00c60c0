package sqlitestore

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// gate holds the first commit of a store back until it is opened, so that what
// is called meanwhile is queued.
type gate struct {
	*Store
	t      *testing.T
	groups []int // how many calls each commit was for, but for the first
	opened chan struct{}
	first  chan error // what the first call returned
	second func()     // unless nil, called before a later commit
}

func newGate(t *testing.T) *gate {
	g := &gate{Store: newStore(t), t: t, opened: make(chan struct{}), first: make(chan error, 1)}
	held := make(chan struct{})
	g.writer.committing = func(calls int) {
		select {
		case <-held:
			g.groups = append(g.groups, calls)
			if g.second != nil {
				g.second()
			}
		default:
			close(held)
			<-g.opened
		}
	}
	go func() {
		_, err := g.Enqueue(context.Background(), []outhook.Delivery{newDelivery("first", "s")})
		g.first <- err
	}()
	<-held
	return g
}

// queued waits until so many calls are queued.
func (g *gate) queued(n int) {
	require.Eventually(g.t, func() bool {
		g.writer.mu.Lock()
		defer g.writer.mu.Unlock()
		return len(g.writer.queue) == n
	}, time.Minute, time.Millisecond)
}

func (g *gate) open() {
	close(g.opened)
	require.NoError(g.t, <-g.first)
}

func TestGroupCommit(t *testing.T) {
	t.Run("what is called while a commit is under way is committed at once", func(t *testing.T) {
		g := newGate(t)
		const n = 50
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() {
				if _, err := g.Enqueue(t.Context(), []outhook.Delivery{newDelivery(fmt.Sprint("e", i), "s")}); err != nil {
					t.Error(err)
				}
			})
		}
		g.queued(n)
		g.open()
		group.Wait()
		require.Equal(t, []int{n}, g.groups)
		require.Equal(t, outhook.Stats{Pending: n + 1}, stats(t, g.Store))
	})
	t.Run("one that fails fails alone", func(t *testing.T) {
		g := newGate(t)
		conflict := newDelivery("first", "s")
		conflict.Digest[0]++
		var group sync.WaitGroup
		group.Go(func() {
			_, err := g.Enqueue(t.Context(), []outhook.Delivery{newDelivery("a", "s"), conflict, newDelivery("b", "s")})
			if err == nil {
				t.Error("no conflict")
			}
		})
		group.Go(func() {
			if _, err := g.Enqueue(t.Context(), []outhook.Delivery{newDelivery("c", "s")}); err != nil {
				t.Error(err)
			}
		})
		g.queued(2)
		g.open()
		group.Wait()
		require.Equal(t, []int{2}, g.groups)
		require.Equal(t, outhook.Stats{Pending: 2}, stats(t, g.Store))
	})
	t.Run("one that undoes the transaction fails all", func(t *testing.T) { // as an error of the disk may
		g := newGate(t)
		var group sync.WaitGroup
		for i, call := range []func() error{
			func() error {
				_, err := g.Enqueue(t.Context(), []outhook.Delivery{newDelivery("a", "s")})
				return err
			},
			func() error {
				return g.writer.do(t.Context(), func(tr *transaction) error { return tr.exec("rollback") })
			},
			func() error {
				_, err := g.Enqueue(t.Context(), []outhook.Delivery{newDelivery("b", "s")})
				return err
			},
		} {
			group.Go(func() {
				if call() == nil {
					t.Error("no error")
				}
			})
			g.queued(i + 1)
		}
		g.open()
		group.Wait()
		require.Equal(t, outhook.Stats{Pending: 1}, stats(t, g.Store), "nothing of them is stored")
	})
	t.Run("a panic of one is its caller's", func(t *testing.T) {
		g := newGate(t)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				defer func() {
					if r := recover(); r != "mine" {
						t.Errorf("panic: %v", r)
					}
				}()
				_ = g.UpdateStandings(t.Context(), []string{"s"}, func(time.Time, *outhook.Standing) { panic("mine") })
			})
			group.Go(func() {
				err := g.UpdateStandings(t.Context(), []string{"s"}, func(_ time.Time, s *outhook.Standing) { s.Failures++ })
				if err != nil {
					t.Error(err)
				}
			})
		}
		g.queued(8)
		g.open()
		group.Wait()
		require.Equal(t, []int{8}, g.groups)
		for s, err := range g.Standings(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, 4, s.Failures)
		}
	})
	t.Run("one that takes its goroutine along fails all, and the next works", func(t *testing.T) {
		g := newGate(t)
		var group sync.WaitGroup
		group.Go(func() {
			defer func() { _ = recover() }() // if it leads itself
			_ = g.writer.do(t.Context(), func(*transaction) error { panic("not contained") })
		})
		g.queued(1)
		group.Go(func() {
			defer func() { _ = recover() }()
			if _, err := g.Enqueue(t.Context(), []outhook.Delivery{newDelivery("e", "s")}); err == nil {
				t.Error("no error")
			}
		})
		g.queued(2)
		g.open()
		group.Wait()
		require.Equal(t, outhook.Stats{Pending: 1}, stats(t, g.Store))
		enqueue(t, g, newDelivery("e", "s"))
	})
	t.Run("a call whose context ends while it is queued has not happened", func(t *testing.T) {
		g := newGate(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := g.Enqueue(ctx, []outhook.Delivery{newDelivery("e", "s")})
			done <- err
		}()
		g.queued(1)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		g.queued(0)
		g.open()
		require.Empty(t, g.groups)
		require.Equal(t, outhook.Stats{Pending: 1}, stats(t, g.Store))
	})
	t.Run("a call whose context ends when it is executed has happened", func(t *testing.T) {
		s := newStore(t)
		ctx, cancel := context.WithCancel(t.Context())
		s.writer.committing = func(int) { cancel() }
		_, err := s.Enqueue(ctx, []outhook.Delivery{newDelivery("e", "s")})
		require.NoError(t, err)
		require.Equal(t, outhook.Stats{Pending: 1}, stats(t, s))
	})
	t.Run("close waits for what is under way", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		s, err := Open(t.Context(), path, nil)
		require.NoError(t, err)
		closed := make(chan error, 1)
		s.writer.committing = func(int) {
			go func() { closed <- s.Close() }()
		}
		enqueue(t, s, newDelivery("e", "s"))
		require.NoError(t, <-closed)
		require.Equal(t, outhook.Stats{Pending: 1}, stats(t, reopen(t, path)))
	})
}

// TestBusy is of writers other than those of the handle.
func TestBusy(t *testing.T) {
	t.Run("after BusyTimeout all that wait fail, and can be repeated", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		s, err := Open(t.Context(), path, &Options{BusyTimeout: time.Millisecond})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		tx, err := reopen(t, path).DB().Begin()
		require.NoError(t, err)
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				_, err := s.Enqueue(t.Context(), []outhook.Delivery{newDelivery(fmt.Sprint("e", i), "s")})
				if !busy(err) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		require.Equal(t, outhook.Stats{}, stats(t, s), "reading does not wait")
		require.NoError(t, tx.Rollback())
		enqueue(t, s, newDelivery("e0", "s"))
	})
	t.Run("who leads gives up alone when its context ends", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		s, err := Open(t.Context(), path, &Options{BusyTimeout: time.Hour})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		tx, err := reopen(t, path).DB().Begin()
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		leader, other := make(chan error), make(chan error)
		send := func(ctx context.Context, event string, done chan<- error) {
			_, err := s.Enqueue(ctx, []outhook.Delivery{newDelivery(event, "s")})
			done <- err
		}
		go send(ctx, "a", leader)
		require.Eventually(t, func() bool { return len(s.writer.lead) == 1 }, time.Minute, time.Millisecond)
		go send(t.Context(), "b", other)
		require.Eventually(t, func() bool {
			s.writer.mu.Lock()
			defer s.writer.mu.Unlock()
			return len(s.writer.queue) == 2
		}, time.Minute, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-leader, context.Canceled)
		require.NoError(t, tx.Rollback())
		require.NoError(t, <-other)
		require.Equal(t, outhook.Stats{Pending: 1}, stats(t, s))
	})
}

// TestCommitFails is of an error that is that of a whole group.
func TestCommitFails(t *testing.T) {
	s := newStore(t)
	enqueue(t, s, newDelivery("before", "s"))
	conn := s.writer.conn
	s.writer.committing = func(int) {
		s.writer.committing = func(int) {}
		_, err := conn.execute("rollback", nil) // the commit finds no transaction
		require.NoError(t, err)
	}
	_, err := s.Enqueue(t.Context(), []outhook.Delivery{newDelivery("e", "other")})
	require.ErrorContains(t, err, "sqlitestore: enqueue: ")
	require.Equal(t, outhook.Stats{Pending: 1}, stats(t, s))
	enqueue(t, s, newDelivery("e", "third"), newDelivery("e", "other"))
	require.Len(t, claim(t, s), 3, "what the failed call has numbered is forgotten")
	require.NotSame(t, conn, s.writer.conn, "the connection is not used again")
}
