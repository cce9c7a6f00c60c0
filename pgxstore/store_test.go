package pgxstore

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
)

// opener opens backends of storetest: two handles, each on a pool of its own, on a
// fresh schema.
type opener struct {
	pools  [2]*pgxpool.Pool
	listen *pgx.ConnConfig
	frozen bool // the clock stands still between calls
}

func newOpener(t testing.TB, url string, mode pgx.QueryExecMode, frozen bool) opener {
	t.Helper()
	o := opener{frozen: frozen}
	var err error
	o.listen, err = pgx.ParseConfig(server.URL())
	require.NoError(t, err)
	for i := range o.pools {
		o.pools[i], err = newPool(url, mode, 10)
		require.NoError(t, err)
		t.Cleanup(o.pools[i].Close)
	}
	return o
}

func (o opener) open() (backend storetest.Backend, err error) {
	ctx := context.Background()
	options := &Options{Schema: newSchema(), Listen: o.listen}
	var stores [2]*Store
	for i, pool := range o.pools {
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
		Close: func() error { return drop(s) },
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
			storetest.Run(t, newOpener(t, server.URL(), pgx.QueryExecModeCacheStatement, frozen).open)
		})
	}
}

// TestExecModes runs the suite in other modes in which pgx executes statements.
// TestStore has the default, and TestPgBouncer the two that are left.
func TestExecModes(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			runRules(t, newOpener(t, server.URL(), mode, true))
		})
	}
}

// runRules runs all of storetest but two long ones, which make the same statements.
func runRules(t *testing.T, o opener) {
	for _, rule := range storetest.Rules() {
		if rule.Name == "Model" || rule.Name == "Contexts" {
			continue
		}
		t.Run(rule.Name, func(t *testing.T) {
			require.NoError(t, rule.Check(t.Context(), o.open))
		})
	}
}

func TestPgBouncer(t *testing.T) {
	if testing.Short() {
		t.Skip("short: the statements are those of TestStore")
	}
	bouncer, err := server.Bouncer()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bouncer.Stop()) })
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			runRules(t, newOpener(t, bouncer.URL(), mode, true))
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
	storetest.Benchmark(b, newOpener(b, server.URL(), pgx.QueryExecModeCacheStatement, false).open)
}
