//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outhook/outhook/internal/pgserver"
)

// A databaseServer is the PostgreSQL of a run, which writes to the disk as it does
// in production.
type databaseServer struct {
	server     *pgserver.Server
	pool       *pgxpool.Pool // of what the bench itself asks
	schemas    int
	statements bool // are counted
	cpu        func() time.Duration
}

func startDatabase(ctx context.Context) (_ *databaseServer, err error) {
	server, err := pgserver.Start(
		"shared_buffers=256MB", "min_wal_size=1GB", "max_wal_size=4GB", "max_connections=200",
		"shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_utility=off",
	)
	if err != nil {
		return nil, err
	}
	s := &databaseServer{server: server}
	if s.pool, err = connect(ctx, server.URL(), 4); err == nil {
		err = s.age(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if _, err := s.pool.Exec(ctx, "create extension if not exists pg_stat_statements"); err == nil {
		s.statements = s.resetStatements(ctx) == nil // a server that was there may not count them
	}
	s.cpu = s.processes(ctx)
	return s, nil
}

// age has the server write and keep some segments of its log, as one does that has run for a
// while: it uses them again. To make one takes tens of milliseconds, for which all commits wait.
func (s *databaseServer) age(ctx context.Context) error {
	for range 20 {
		if _, err := s.pool.Exec(ctx, "select pg_logical_emit_message(false, 'bench', '')"); err != nil {
			return err
		}
		if _, err := s.pool.Exec(ctx, "select pg_switch_wal()"); err != nil {
			return err
		}
	}
	_, err := s.pool.Exec(ctx, "checkpoint")
	return err
}

func (s *databaseServer) stop() error {
	if s.pool != nil {
		s.pool.Close()
	}
	return s.server.Stop()
}

func connect(ctx context.Context, url string, connections int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(connections)
	return pgxpool.NewWithConfig(ctx, config)
}

// A database is a schema of its own with a pool.
type database struct {
	server *databaseServer
	schema string
	pool   *pgxpool.Pool
}

// fresh returns one that is empty. Whoever is measured next finds the server just
// after a checkpoint.
func (s *databaseServer) fresh(ctx context.Context, what string, connections int) (*database, error) {
	s.schemas++
	d := &database{server: s, schema: fmt.Sprintf("bench_%s_%d", what, s.schemas)}
	if _, err := s.pool.Exec(ctx, "create schema "+d.schema); err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, "checkpoint"); err != nil {
		return nil, err
	}
	var err error
	d.pool, err = connect(ctx, s.server.URL(), connections)
	return d, err
}

func (d *database) drop() error {
	d.pool.Close()
	_, err := d.server.pool.Exec(context.Background(), "drop schema "+d.schema+" cascade")
	return err
}

// vacuum does for the tables of a schema what autovacuum does before long.
func (s *databaseServer) vacuum(ctx context.Context, schema string) error {
	rows, err := s.pool.Query(ctx, "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = $1", schema)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range tables {
		if _, err := s.pool.Exec(ctx, "vacuum (analyze) "+table); err != nil {
			return err
		}
	}
	return nil
}

// A cost is what the server has spent.
type cost struct {
	wal        int64 // bytes
	statements int64 // 0: they are not counted
	cpu        time.Duration
}

// begin returns how to ask what was spent since.
func (s *databaseServer) begin(ctx context.Context) (func() (cost, error), error) {
	if err := s.resetStatements(ctx); s.statements && err != nil {
		return nil, err
	}
	wal, err := s.wal(ctx)
	if err != nil {
		return nil, err
	}
	cpu := s.cpu()
	return func() (c cost, err error) {
		c.cpu = max(s.cpu()-cpu, 0) // one that ends while they are read is left out
		if c.statements, err = s.countStatements(ctx); err != nil {
			return c, err
		}
		now, err := s.wal(ctx)
		c.wal = now - wal
		return c, err
	}, nil
}

func (s *databaseServer) wal(ctx context.Context) (at int64, err error) {
	err = s.pool.QueryRow(ctx, "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").Scan(&at)
	return at, err
}

func (s *databaseServer) resetStatements(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, "select pg_stat_statements_reset()")
	return err
}

// countStatements counts all but its own and those of begin.
func (s *databaseServer) countStatements(ctx context.Context) (n int64, err error) {
	if !s.statements {
		return 0, nil
	}
	err = s.pool.QueryRow(ctx, `select coalesce(sum(calls), 0)::bigint from pg_stat_statements
where query not like '%pg_stat_statements%' and query not like '%pg_current_wal_insert_lsn%' and query not like 'select set_config(%'`).Scan(&n)
	return n, err
}
