package pgxstore

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// catalog describes all that is in a schema, without its name.
func catalog(t *testing.T, s *Store) []string {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `
select replace(line, $1::text, 'X') from (
    select format('column %s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default) as line
    from information_schema.columns where table_schema = $1::text
    union all
    select indexdef from pg_indexes where schemaname = $1::text
    union all
    select format('%s %s %s', relkind, relname, reloptions) from pg_class where relnamespace = $1::text::regnamespace
    union all
    select format('constraint %s %s', conname, pg_get_constraintdef(oid)) from pg_constraint where connamespace = $1::text::regnamespace
) x order by 1`, s.options.Schema)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, lines)
	return lines
}

func TestMigrate(t *testing.T) {
	t.Run("again changes nothing", func(t *testing.T) {
		s := newStore(t, nil)
		before := catalog(t, s)
		fill(t, s, "s", 1, 3, 0)
		require.NoError(t, s.Migrate(t.Context()))
		require.Equal(t, before, catalog(t, s))
		stats, err := s.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, stats.Pending)
	})

	t.Run("by many at once", func(t *testing.T) {
		pool, err := newPool(server.URL(), pgx.QueryExecModeCacheStatement, 8)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		s, err := New(pool, &Options{Schema: newSchema()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, drop(s)) })
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { errs[i] = s.Migrate(context.Background()) })
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
	})

	t.Run("in a schema whose name is a key word", func(t *testing.T) {
		newStore(t, &Options{Schema: "order"})
	})

	t.Run("in a schema that is there, without the right to make one", func(t *testing.T) {
		admin, err := newPool(server.URL(), pgx.QueryExecModeExec, 1)
		require.NoError(t, err)
		t.Cleanup(admin.Close)
		schema := newSchema()
		_, err = admin.Exec(t.Context(), `create role `+schema+` login; create schema `+schema+` authorization `+schema)
		require.NoError(t, err)
		config := admin.Config()
		config.ConnConfig.User = schema
		pool, err := newPoolOf(config)
		require.NoError(t, err)
		t.Cleanup(func() {
			pool.Close()
			_, err := admin.Exec(context.Background(), `drop schema `+schema+` cascade; drop role `+schema)
			require.NoError(t, err)
		})
		s, err := New(pool, &Options{Schema: schema})
		require.NoError(t, err)
		require.NoError(t, s.Migrate(t.Context()))
		known, err := s.Enqueue(t.Context(), deliveriesOf(newDelivery(t, "e", "s")))
		require.NoError(t, err)
		require.Empty(t, known)
	})

	t.Run("plain SQL makes the same", func(t *testing.T) {
		s := newStore(t, nil)
		plain, err := New(s.pool, &Options{Schema: newSchema()})
		require.NoError(t, err)
		list, err := Migrations(plain.options.Schema)
		require.NoError(t, err)
		require.NotEmpty(t, list)
		for i, m := range list {
			require.Equal(t, i+1, m.Version)
			_, err := s.pool.Exec(t.Context(), m.SQL)
			require.NoError(t, err)
		}
		t.Cleanup(func() { require.NoError(t, drop(plain)) })
		require.NoError(t, plain.Migrate(t.Context()), "finds it made")
		require.Equal(t, catalog(t, s), catalog(t, plain))
	})

	t.Run("a newer schema is refused", func(t *testing.T) {
		s := newStore(t, nil)
		_, err := s.pool.Exec(t.Context(), s.sql(`insert into {schema}.migration (version) values (1000)`))
		require.NoError(t, err)
		require.ErrorContains(t, s.Migrate(t.Context()), "pgxstore: migrate: schema "+s.options.Schema+" has version 1000, newer than")
	})
}

func TestNew(t *testing.T) {
	_, err := New(nil, nil)
	require.EqualError(t, err, "pgxstore: new: no pool")
	pool, err := newPool("postgres://nobody@127.0.0.1:1/none", pgx.QueryExecModeExec, 1)
	require.NoError(t, err)
	defer pool.Close()
	for _, schema := range []string{"A", "1a", `a"b`, "a b", "a;", "0123456789012345678901234567890123456789012345678"} {
		_, err := New(pool, &Options{Schema: schema})
		require.ErrorContains(t, err, "Options.Schema", schema)
		_, err = Migrations(schema)
		require.Error(t, err, schema)
	}
	s, err := New(pool, nil)
	require.NoError(t, err, "no connection is made")
	require.Equal(t, "outhook", s.options.Schema)
	require.ErrorContains(t, s.Migrate(t.Context()), "pgxstore: migrate: ")
}
