package pgxstore

import (
	"context"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// hostTx is a transaction of a host, whichever way it was begun.
type hostTx struct {
	outhook.Enqueuer
	exec     func(text string) error
	commit   func() error
	rollback func() error
}

// hosts begin transactions in the two ways that there are.
func hosts(t *testing.T, s *Store) map[string]func() hostTx {
	db := stdlib.OpenDBFromPool(s.pool)
	t.Cleanup(func() { _ = db.Close() })
	ctx := context.Background()
	return map[string]func() hostTx{
		"pgx": func() hostTx {
			tx, err := s.pool.Begin(ctx)
			require.NoError(t, err)
			return hostTx{
				s.InTx(tx),
				func(text string) error { _, err := tx.Exec(ctx, text); return err },
				func() error { return tx.Commit(ctx) },
				func() error { return tx.Rollback(ctx) },
			}
		},
		"database/sql": func() hostTx {
			tx, err := db.BeginTx(ctx, &sql.TxOptions{})
			require.NoError(t, err)
			return hostTx{
				s.InSQLTx(tx),
				func(text string) error { _, err := tx.ExecContext(ctx, text); return err },
				tx.Commit, tx.Rollback,
			}
		},
	}
}

func deliveriesOf(d ...outhook.Delivery) []outhook.Delivery { return d }

func count(t *testing.T, s *Store, table string) (n int) {
	t.Helper()
	require.NoError(t, s.pool.QueryRow(context.Background(), s.sql(`select count(*) from {schema}.`+table)).Scan(&n))
	return n
}

func TestInTx(t *testing.T) {
	s := newStore(t, nil)
	_, err := s.pool.Exec(t.Context(), s.sql(`create table {schema}.business (id integer)`))
	require.NoError(t, err)
	insert := s.sql(`insert into {schema}.business values (1)`)
	for name, begin := range hosts(t, s) {
		tables := []string{"business", "subscriber", "payload", "delivery", "pending"}
		counts := func() (list []int) {
			for _, table := range tables {
				list = append(list, count(t, s, table))
			}
			return list
		}

		t.Run(name+": rolled back leaves nothing", func(t *testing.T) {
			before := counts()
			tx := begin()
			require.NoError(t, tx.exec(insert))
			known, err := tx.Enqueue(t.Context(), deliveriesOf(newDelivery(t, name[:3]+"rolled", "new"+name), newDelivery(t, name[:3]+"rolled", "other"+name)))
			require.NoError(t, err)
			require.Empty(t, known)
			require.NoError(t, tx.rollback())
			require.Equal(t, before, counts())

			// The numbers of the subscribers were not remembered.
			known, err = s.Enqueue(t.Context(), deliveriesOf(newDelivery(t, name[:3]+"rolled", "new"+name)))
			require.NoError(t, err)
			require.Empty(t, known)
			record, err := s.Get(t.Context(), outhook.DeliveryID{Event: name[:3] + "rolled", Subscriber: "new" + name})
			require.NoError(t, err)
			require.Equal(t, outhook.Pending, record.State)
		})

		t.Run(name+": an error leaves nothing and the transaction usable", func(t *testing.T) {
			taken := newDelivery(t, name[:3]+"taken", "s"+name)
			_, err := s.Enqueue(t.Context(), deliveriesOf(taken))
			require.NoError(t, err)
			before := counts()
			tx := begin()
			require.NoError(t, tx.exec(insert))
			conflicting := taken
			conflicting.Digest[0]++
			_, err = tx.Enqueue(t.Context(), deliveriesOf(newDelivery(t, name[:3]+"beside", "x"+name), conflicting))
			require.ErrorIs(t, err, outhook.ErrConflict)
			unmarshallable := newDelivery(t, name[:3]+"empty", "s"+name)
			unmarshallable.Snapshot = outhook.Snapshot{}
			_, err = tx.Enqueue(t.Context(), deliveriesOf(unmarshallable))
			require.Error(t, err)
			hostile := newDelivery(t, "e", "s"+name)
			hostile.ID.Event = "nul\x00"
			_, err = tx.Enqueue(t.Context(), deliveriesOf(hostile))
			require.Error(t, err, "PostgreSQL cannot store it")
			known, err := tx.Enqueue(t.Context(), deliveriesOf(taken, newDelivery(t, name[:3]+"good", "s"+name)))
			require.NoError(t, err)
			require.Equal(t, []outhook.DeliveryID{taken.ID}, known)
			require.NoError(t, tx.commit())
			after := counts()
			for i, grown := range []int{1, 0, 1, 1, 1} {
				require.Equal(t, before[i]+grown, after[i], tables[i])
			}
		})

		t.Run(name+": a call that is cancelled leaves nothing to commit", func(t *testing.T) {
			before := counts()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			tx := begin()
			_, err := tx.Enqueue(ctx, deliveriesOf(newDelivery(t, name[:3]+"cut", "s"+name)))
			require.ErrorIs(t, err, context.Canceled)
			_ = tx.commit() // it may be broken
			require.Equal(t, before, counts())
		})
	}
}

// TestInTxDelivers shows that nobody has to poll for what was committed.
func TestInTxDelivers(t *testing.T) {
	s := newStore(t, nil)
	for name, begin := range hosts(t, s) {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan string, 10)
			receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				arrived <- r.Header.Get("webhook-id")
			}))
			defer receiver.Close()
			options := &outhook.Options{
				StoreKeysInPlaintext: true, Poll: 24 * time.Hour,
				Guard: outhook.DevelopmentGuard(),
			}
			d, err := outhook.New(s, options)
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- d.Run(ctx) }()
			defer func() {
				stop()
				require.NoError(t, <-ended)
			}()
			sender, err := outhook.New(s, options) // in another process, so to speak: it wakes nobody
			require.NoError(t, err)
			subscribers := []outhook.Subscriber{{ID: "s", URL: receiver.URL, Unsigned: true}}
			for _, id := range []string{"one", "two"} {
				id = name[:3] + id
				tx := begin()
				_, err = sender.Via(tx).Send(t.Context(), outhook.Event{ID: id, Type: "order.placed", Data: 1}, subscribers)
				require.NoError(t, err)
				require.NoError(t, tx.commit())
				require.Equal(t, id, <-arrived)
			}
		})
	}
}

// TestInTxOpen shows what an open transaction of the host holds up.
func TestInTxOpen(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	one := newDelivery(t, "one", "s")
	one.OrderKey = "k"
	_, err := s.Enqueue(ctx, deliveriesOf(newDelivery(t, "zero", "s"))) // so that the subscriber is known
	require.NoError(t, err)
	tx, err := s.pool.Begin(ctx)
	require.NoError(t, err)
	_, err = s.InTx(tx).Enqueue(ctx, deliveriesOf(one))
	require.NoError(t, err)

	two := newDelivery(t, "two", "s")
	two.OrderKey = "k"
	_, err = s.Enqueue(ctx, deliveriesOf(two))
	require.NoError(t, err, "other Sends are not held up")
	request := outhook.ClaimRequest{Limit: 5, PerSubscriber: 5, SuspectAfter: 9, Lease: time.Hour}
	claimed, err := s.Claim(ctx, request)
	require.NoError(t, err)
	require.Len(t, claimed.Claims, 2, "nor claims")
	require.NoError(t, tx.Commit(ctx))

	again, err := s.Claim(ctx, request)
	require.NoError(t, err)
	require.Empty(t, again.Claims, "the one that was committed late waits for the one of its order that is leased")
	for _, c := range claimed.Claims {
		_, err = s.Finish(ctx, []outhook.Outcome{{Lease: c.Lease(), State: outhook.Delivered}})
		require.NoError(t, err)
	}
	again, err = s.Claim(ctx, request)
	require.NoError(t, err)
	require.Len(t, again.Claims, 1)
	require.Equal(t, one.ID, again.Claims[0].ID)
}

func TestRepeatableReadTx(t *testing.T) {
	s := newStore(t, nil)
	d := newDelivery(t, "e", "s")
	tx, err := s.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `select 1`)
	require.NoError(t, err)
	_, err = s.Enqueue(t.Context(), deliveriesOf(d))
	require.NoError(t, err)
	_, err = s.InTx(tx).Enqueue(t.Context(), deliveriesOf(d))
	require.ErrorContains(t, err, "40001")
	_, err = tx.Exec(t.Context(), `select 1`)
	require.NoError(t, err, "the transaction is usable")
}
