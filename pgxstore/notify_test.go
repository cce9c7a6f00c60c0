package pgxstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// listening runs Notify until the test ends, and returns the calls of wake.
func listening(t *testing.T, s *Store) (woken <-chan struct{}, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	wakes, done, over := make(chan struct{}, 1000), make(chan error, 1), make(chan struct{})
	go func() {
		defer close(over)
		done <- s.Notify(ctx, func() { wakes <- struct{}{} })
	}()
	t.Cleanup(func() {
		cancel()
		<-over
	})
	<-wakes // it begins
	return wakes, done
}

func TestNotify(t *testing.T) {
	t.Run("a retry that is due later is told, too", func(t *testing.T) {
		s := newStore(t, nil)
		enqueued(t, s, 1, nil)
		c := claim(t, s, all).Claims[0]
		woken, _ := listening(t, s)
		_, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: c.Lease(), State: outhook.Pending, After: time.Hour}})
		require.NoError(t, err)
		<-woken
	})

	t.Run("many are few", func(t *testing.T) {
		s := newStore(t, nil)
		woken, _ := listening(t, s)
		const n = 500
		for range n {
			_, err := s.pool.Exec(t.Context(), `select pg_notify($1::text, '')`, s.options.Schema)
			require.NoError(t, err)
		}
		<-woken
		require.Less(t, len(woken), n/2)
	})

	t.Run("ends with its connection", func(t *testing.T) {
		s := newStore(t, nil)
		_, ended := listening(t, s)
		_, err := s.pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where query = 'listen ' || $1::text`, quote(s.options.Schema))
		require.NoError(t, err)
		require.ErrorContains(t, <-ended, "pgxstore: notify: ")
	})

	t.Run("Silent sends none", func(t *testing.T) {
		s := newStore(t, &Options{Silent: true})
		require.ErrorIs(t, s.Notify(t.Context(), func() {}), errors.ErrUnsupported)
		loud, err := New(s.pool, &Options{Schema: s.options.Schema})
		require.NoError(t, err)
		woken, _ := listening(t, loud)
		enqueued(t, s, 1, nil)
		_, err = loud.Enqueue(t.Context(), deliveriesOf(newDelivery(t, "loud", "s")))
		require.NoError(t, err)
		<-woken
		require.Empty(t, woken, "one for the two")
	})
}
