package pgxstore

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// standing begins a transaction of the store's own whose client will stand still.
func standing(t *testing.T, s *Store) pgx.Tx {
	t.Helper()
	tx, err := s.pool.BeginTx(t.Context(), pgx.TxOptions{BeginQuery: s.begin()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// TestStoppedFinish shows that a client that stands still within Finish, and has locked
// a standing, loses its transaction, so that others go on.
func TestStoppedFinish(t *testing.T) {
	s := newStore(t, nil)
	require.Equal(t, "10s", s.stopped)
	s.stopped = "100ms"
	enqueued(t, s, 2, nil)
	claims := claim(t, s, all).Claims
	require.Len(t, claims, 2)
	failed := func(c outhook.Claim) outhook.Outcome {
		return outhook.Outcome{Lease: c.Lease(), State: outhook.Pending, After: time.Hour, Effect: &outhook.Effect{}}
	}
	f := newFinishing(s, standing(t, s), []outhook.Outcome{failed(claims[0])})
	require.NoError(t, f.apply(t.Context()))
	require.NoError(t, f.end(t.Context()))

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lost, err := s.Finish(ctx, []outhook.Outcome{failed(claims[1])})
	require.NoError(t, err)
	require.Empty(t, lost)
	lost, err = s.Finish(ctx, []outhook.Outcome{failed(claims[0])})
	require.NoError(t, err)
	require.Empty(t, lost, "the outcome of the one that stood still is as if it had never been")
}

// TestStoppedClaimOfKeys shows that keys which a client has locked, as many as
// there is room for, do not hide those behind them.
func TestStoppedClaimOfKeys(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 100, func(d *outhook.Delivery) { d.OrderKey = "k" + d.ID.Event })
	request := all
	request.Limit, request.PerSubscriber = 8, 8
	first := &claiming{s: s, request: request, tx: standing(t, s), suspects: 1}
	require.NoError(t, first.pick(t.Context()))
	require.Len(t, first.picked, 8)
	other, err := New(s.pool, &s.options) // another process, which begins with the same keys
	require.NoError(t, err)
	total := 0
	for range 12 {
		total += len(claim(t, other, outhook.ClaimRequest{
			Limit: 8, PerSubscriber: 8, SuspectAfter: 9, Suspects: 1, Lease: time.Hour,
		}).Claims)
	}
	require.Equal(t, 92, total, "all whose keys nobody has locked")
}

// TestLostKey shows that the room of a row that was picked but not leased, since another
// claim has taken its key meanwhile, counts for Next.
func TestLostKey(t *testing.T) {
	s := newStore(t, nil)
	early, late := newDelivery(t, "a", "s"), newDelivery(t, "b", "s")
	early.OrderKey, late.OrderKey = "k", "k"
	_, err := s.Enqueue(t.Context(), deliveriesOf(newDelivery(t, "known", "s")))
	require.NoError(t, err)
	claim(t, s, all)
	host, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = s.InTx(host).Enqueue(t.Context(), deliveriesOf(early))
	require.NoError(t, err)
	_, err = s.Enqueue(t.Context(), deliveriesOf(late))
	require.NoError(t, err)

	request := all
	request.PerSubscriber = 1
	tx := standing(t, s)
	c := &claiming{s: s, request: request, tx: tx, suspects: 1}
	require.NoError(t, c.pick(t.Context()))
	require.Len(t, c.picked, 1)
	require.NoError(t, host.Commit(t.Context()))
	require.Len(t, claim(t, s, request).Claims, 1, "another claim takes the earlier one")
	require.NoError(t, c.lease(t.Context()))
	require.Empty(t, c.leased)
	batch, next := &pgx.Batch{}, time.Duration(0)
	c.findNext(batch, nextPlain, &next)
	require.NoError(t, send(t.Context(), tx, batch))
	require.Positive(t, next, "0 would be to sleep until woken, also if the other one dies")
}

// TestEncodings shows that the database may have another encoding than UTF-8.
func TestEncodings(t *testing.T) {
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		t.Run(encoding, func(t *testing.T) {
			ctx := context.Background()
			admin, err := pgx.Connect(ctx, server.URL())
			require.NoError(t, err)
			defer func() { _ = admin.Close(ctx) }()
			name := "outhook_" + strings.ToLower(encoding)
			_, err = admin.Exec(ctx, fmt.Sprintf("create database %s encoding '%s' template template0 lc_collate 'C' lc_ctype 'C'", name, encoding))
			require.NoError(t, err)
			defer func() {
				_, err := admin.Exec(ctx, "drop database "+name+" with (force)")
				require.NoError(t, err)
			}()
			config, err := pgxpool.ParseConfig(server.URL())
			require.NoError(t, err)
			config.ConnConfig.Database = name
			pool, err := pgxpool.NewWithConfig(ctx, config)
			require.NoError(t, err)
			defer pool.Close()
			s, err := New(pool, nil)
			require.NoError(t, err)
			require.NoError(t, s.Migrate(ctx))
			d := newDelivery(t, "e", "s")
			d.OrderKey = "k"
			_, err = s.Enqueue(ctx, deliveriesOf(d, newDelivery(t, "f", "s")))
			require.NoError(t, err)
			require.Len(t, claim(t, s, all).Claims, 2)
		})
	}
}

// ender ends a context when the statement that stores deliveries has been executed.
type ender struct {
	silent
	end atomic.Pointer[context.CancelFunc]
}

func (e *ender) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	return context.WithValue(ctx, e, data.Batch.QueuedQueries[0].SQL)
}

func (e *ender) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) {
	text, _ := ctx.Value(e).(string)
	if end := e.end.Load(); end != nil && strings.Contains(text, "delivery_id_seq") {
		(*end)()
	}
}

// TestInTxRelease shows that a context which ends at the very end of a call leaves
// nothing of it in the transaction of the host.
func TestInTxRelease(t *testing.T) {
	base := newStore(t, nil)
	config, tracer := base.pool.Config(), &ender{}
	config.ConnConfig.Tracer = tracer
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	defer pool.Close()
	s, err := New(pool, &base.options)
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	ctx, cancel := context.WithCancel(context.Background())
	tracer.end.Store(&cancel)
	_, err = s.InTx(tx).Enqueue(ctx, deliveriesOf(newDelivery(t, "e", "s")))
	require.ErrorIs(t, err, context.Canceled)
	tracer.end.Store(nil)
	require.NoError(t, tx.Commit(t.Context()))
	require.Zero(t, count(t, base, "delivery"))
}
