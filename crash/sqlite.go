//go:build unix && !skewed

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/outhook/outhook/sqlitestore"
)

type sqlite struct {
	path  string
	store *sqlitestore.Store
	locks atomic.Int64
}

func startSQLite(dir string) database { return &sqlite{path: filepath.Join(dir, "crash.db")} }

func openSQLite(ctx context.Context, path string) (durable, func(), error) {
	store, err := sqlitestore.Open(ctx, path, nil)
	for err != nil { // the file may be locked by a fault
		if sleep(ctx, 100*time.Millisecond) != nil {
			return nil, nil, err
		}
		store, err = sqlitestore.Open(ctx, path, nil)
	}
	return store, func() { _ = store.Close() }, nil
}

func (s *sqlite) address() string { return s.path }

func (s *sqlite) open(ctx context.Context) (durable, func(), error) {
	store, err := sqlitestore.Open(ctx, s.path, nil)
	if err != nil {
		return nil, nil, err
	}
	s.store = store
	return store, func() { _ = store.Close() }, nil
}

// disturb locks the file for longer than calls wait by default.
func (s *sqlite) disturb(ctx context.Context) error {
	tx, err := s.store.DB().BeginTx(ctx, nil)
	for err != nil { // the others may leave no gap for as long as a call waits
		if sleep(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("sqlite: lock the file: %w", err)
		}
		tx, err = s.store.DB().BeginTx(ctx, nil)
	}
	defer tx.Rollback()
	s.locks.Add(1)
	return sleep(ctx, 7*time.Second)
}

// idle reads, and lets the write-ahead log grow meanwhile.
func (s *sqlite) idle(ctx context.Context) error {
	for ctx.Err() == nil {
		conn, err := s.store.DB().Conn(ctx)
		if err != nil {
			return fmt.Errorf("sqlite: %w", err)
		}
		_, err = conn.ExecContext(ctx, "BEGIN DEFERRED")
		if err == nil {
			var n int
			err = conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&n)
			_ = sleep(ctx, 20*time.Second)
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
		if err := conn.Close(); err != nil {
			return fmt.Errorf("sqlite: %w", err)
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("sqlite: %w", err)
		}
		_ = sleep(ctx, time.Second)
	}
	return nil
}

func (s *sqlite) faults() string { return fmt.Sprintf("locks=%d", s.locks.Load()) }

func (s *sqlite) close() error { return nil }
