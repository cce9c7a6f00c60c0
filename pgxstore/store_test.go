package pgxstore

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
)

// opener opens backends of storetest: two handles, each with a pool of its own, on
// a fresh schema.
type opener struct {
	url    string // of what the pools connect to
	mode   pgx.QueryExecMode
	frozen bool // the clock stands still between calls
}

func (o opener) open() (backend storetest.Backend, err error) {
	ctx := context.Background()
	options := &Options{Schema: newSchema()}
	if options.Listen, err = pgx.ParseConfig(server.URL()); err != nil {
		return backend, err
	}
	var stores [2]*Store
	for i := range stores {
		pool, err := newPool(o.url, o.mode, 8)
		if err != nil {
			return backend, err
		}
		if stores[i], err = New(pool, options); err != nil {
			return backend, err
		}
	}
	s, other := stores[0], stores[1]
	if err := s.Migrate(ctx); err != nil {
		return backend, err
	}
	backend = storetest.Backend{
		Store: s, Other: other,
		Damage: func(ctx context.Context, id outhook.DeliveryID) error {
			_, err := s.pool.Exec(ctx, s.sql(`update {schema}.delivery set snapshot = 'damaged' where event = $1::text
				and subscriber = (select id from {schema}.subscriber where name = $2::text)`), id.Event, id.Subscriber)
			return err
		},
		Close: func() error {
			defer s.pool.Close()
			defer other.pool.Close()
			return drop(s)
		},
	}
	if o.frozen {
		if backend.Sleep, err = freeze(s); err != nil {
			return backend, err
		}
		useFrozen(other)
	}
	return backend, nil
}

func TestStore(t *testing.T) {
	for name, frozen := range map[string]bool{"real clock": false, "frozen clock": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, opener{server.URL(), pgx.QueryExecModeCacheStatement, frozen}.open)
		})
	}
}

// TestExecModes runs the suite in the other modes in which pgx executes
// statements; TestStore uses the default.
func TestExecModes(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec,
		pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			runRules(t, opener{server.URL(), mode, true})
		})
	}
}

// runRules runs all of storetest but the model, which is long and makes the same statements.
func runRules(t *testing.T, o opener) {
	for _, rule := range storetest.Rules() {
		if rule.Name == "Model" {
			continue
		}
		t.Run(rule.Name, func(t *testing.T) {
			require.NoError(t, rule.Check(t.Context(), o.open))
		})
	}
}

func TestPgBouncer(t *testing.T) {
	bouncer, err := server.Bouncer()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bouncer.Stop()) })
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			runRules(t, opener{bouncer.URL(), mode, true})
		})
	}
	t.Run("notifications that do not arrive are noticed", func(t *testing.T) {
		t.Parallel()
		pool, err := newPool(bouncer.URL(), pgx.QueryExecModeExec, 2)
		require.NoError(t, err)
		defer pool.Close()
		s, err := New(pool, nil)
		require.NoError(t, err)
		require.ErrorIs(t, s.Notify(t.Context(), func() {}), errDeaf)
	})
}

func BenchmarkStore(b *testing.B) {
	storetest.Benchmark(b, opener{server.URL(), pgx.QueryExecModeCacheStatement, false}.open)
}
