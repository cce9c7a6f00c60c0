package pgxstore

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// statement is one that a call has made.
type statement struct {
	sql  string
	args []any
}

// spy collects the statements of a pool.
type spy struct{ statements []statement }

func (s *spy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.statements = append(s.statements, statement{data.SQL, data.Args})
	return ctx
}

func (s *spy) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *spy) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (s *spy) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	s.statements = append(s.statements, statement{data.SQL, data.Args})
}

func (s *spy) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// explained makes a call of a store and explains the statements that it made, in
// a transaction that is rolled back.
func explained(t testing.TB, s *Store, how string, call func(s *Store)) (plans []string) {
	t.Helper()
	ctx := context.Background()
	seen := &spy{}
	config := s.pool.Config()
	config.ConnConfig.Tracer = seen
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer pool.Close()
	watched, err := New(pool, &s.options)
	require.NoError(t, err)
	call(watched)
	for _, st := range seen.statements {
		text := strings.TrimSpace(st.sql)
		if !strings.HasPrefix(text, "with") && !strings.HasPrefix(text, "select") && !strings.HasPrefix(text, "insert") {
			continue
		}
		tx, err := s.pool.Begin(ctx)
		require.NoError(t, err)
		rows, err := tx.Query(ctx, "explain ("+how+") "+text, st.args...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, text)
		require.NoError(t, tx.Rollback(ctx))
		plans = append(plans, strings.Join(lines, "\n"))
	}
	return plans
}

func TestExplain(t *testing.T) {
	s := newStore(t, nil)
	fill(t, s, "s", 50, 100_000, 0)
	vacuum(t, s)
	for range 10 {
		timeClaim(t, s)
	}
	for _, p := range explained(t, s, "analyze, buffers", func(s *Store) { timeClaim(t, s) }) {
		t.Log("\n" + p)
	}
}
