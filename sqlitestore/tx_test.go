package sqlitestore

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// orders adds a table of the host's.
func orders(t *testing.T, s *Store) (count func() int) {
	_, err := s.DB().Exec("create table orders (id integer)")
	require.NoError(t, err)
	return func() (n int) {
		require.NoError(t, s.DB().QueryRow("select count(*) from orders").Scan(&n))
		return n
	}
}

func TestInTx(t *testing.T) {
	event := outhook.Event{ID: "order-1", Type: "order.placed", Data: map[string]int{"order": 1}}

	t.Run("what is rolled back leaves nothing", func(t *testing.T) {
		s := newStore(t)
		count := orders(t, s)
		tx, err := s.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.Exec("insert into orders values (1)")
		require.NoError(t, err)
		enqueue(t, s.InTx(tx), newDelivery("e", "s"))
		require.NoError(t, tx.Rollback())
		require.Zero(t, count())
		require.Equal(t, outhook.Stats{}, stats(t, s))
		var rows int
		require.NoError(t, s.DB().QueryRow(`select (select count(*) from outhook_subscriber) + (select count(*) from outhook_payload)
			+ (select count(*) from outhook_delivery) + (select count(*) from outhook_pending)`).Scan(&rows))
		require.Zero(t, rows)
		enqueue(t, s, newDelivery("e", "s"))
	})
	t.Run("what is committed is delivered", func(t *testing.T) {
		s := newStore(t)
		count := orders(t, s)
		bodies := make(chan string, 1)
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			bodies <- string(body)
		}))
		defer receiver.Close()
		d, err := outhook.New(s, &outhook.Options{Guard: outhook.DevelopmentGuard(), Poll: time.Hour})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()

		tx, err := s.DB().BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = tx.Exec("insert into orders values (1)")
		require.NoError(t, err)
		_, err = d.Via(s.InTx(tx)).Send(ctx, event, []outhook.Subscriber{{ID: "s", URL: receiver.URL, Unsigned: true}})
		require.NoError(t, err)
		require.Equal(t, outhook.Stats{}, stats(t, s), "nobody else sees it before")
		require.NoError(t, tx.Commit())
		d.Wake()
		require.Contains(t, <-bodies, `"data":{"order":1}`)
		require.Equal(t, 1, count())
		require.Eventually(t, func() bool { return stats(t, s) == outhook.Stats{Delivered: 1} }, time.Minute, time.Millisecond)
		cancel()
		require.NoError(t, <-done)
	})
	t.Run("after an error the transaction can go on, without what has failed", func(t *testing.T) {
		s := newStore(t)
		count := orders(t, s)
		enqueue(t, s, newDelivery("a", "s"))
		tx, err := s.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.Exec("insert into orders values (1)")
		require.NoError(t, err)
		conflict := newDelivery("a", "s")
		conflict.Digest[0]++
		_, err = s.InTx(tx).Enqueue(t.Context(), []outhook.Delivery{newDelivery("x", "other"), conflict})
		require.ErrorIs(t, err, outhook.ErrConflict)
		unsaved := newDelivery("y", "s")
		unsaved.Snapshot = outhook.Snapshot{}
		_, err = s.InTx(tx).Enqueue(t.Context(), []outhook.Delivery{unsaved})
		require.ErrorContains(t, err, "sqlitestore: enqueue: ")
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = s.InTx(tx).Enqueue(cancelled, []outhook.Delivery{newDelivery("z", "s")})
		require.ErrorIs(t, err, context.Canceled)
		known, err := s.InTx(tx).Enqueue(t.Context(), []outhook.Delivery{newDelivery("a", "s"), newDelivery("b", "s")})
		require.NoError(t, err)
		require.Equal(t, []outhook.DeliveryID{{Event: "a", Subscriber: "s"}}, known)
		require.NoError(t, tx.Commit())
		require.Equal(t, 1, count())
		require.Equal(t, outhook.Stats{Pending: 2}, stats(t, s))
		require.Len(t, claim(t, s), 2)
	})
	t.Run("a transaction that has ended is an error", func(t *testing.T) {
		s := newStore(t)
		tx, err := s.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, tx.Rollback())
		_, err = s.InTx(tx).Enqueue(t.Context(), []outhook.Delivery{newDelivery("e", "s")})
		require.ErrorContains(t, err, "sqlitestore: enqueue: ")
	})
	t.Run("among many senders", func(t *testing.T) {
		s, err := Open(t.Context(), filepath.Join(t.TempDir(), "hooks.db"), &Options{BusyTimeout: time.Minute})
		require.NoError(t, err)
		const senders, n = 8, 25
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i := range senders {
			group.Go(func() {
				for j := 0; ctx.Err() == nil; j++ {
					d := newDelivery(fmt.Sprintf("sent-%d-%d", i, j), "s")
					if _, err := s.Enqueue(t.Context(), []outhook.Delivery{d}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range n {
			tx, err := s.DB().BeginTx(t.Context(), nil)
			require.NoError(t, err)
			enqueue(t, s.InTx(tx), newDelivery(fmt.Sprint("own-", i), "own"))
			require.NoError(t, tx.Commit())
		}
		cancel()
		group.Wait()
		sent := 0
		for _, err := range s.List(t.Context(), outhook.Filter{Subscriber: "own"}) {
			require.NoError(t, err)
			sent++
		}
		require.Equal(t, n, sent)
		require.NoError(t, s.Close())
	})
	t.Run("transactions begin with the right to write", func(t *testing.T) {
		s := newStore(t)
		tx, err := s.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = s.Enqueue(ctx, []outhook.Delivery{newDelivery("e", "s")})
		require.ErrorIs(t, err, context.DeadlineExceeded, "it waits, though tx has not written yet")
		require.NoError(t, tx.Rollback())
	})
}
