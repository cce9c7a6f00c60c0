//go:build unix

package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outhook/outhook/internal/pgserver"
	"github.com/outhook/outhook/pgxstore"
)

const maxConnections = 40 // of the server

type postgres struct {
	server     *pgserver.Server
	restarts   atomic.Int64
	terminated atomic.Int64 // connections
	exhausted  atomic.Int64 // times
}

func startPostgres() (*postgres, error) {
	server, err := pgserver.Start(fmt.Sprint("max_connections=", maxConnections))
	if err != nil {
		return nil, err
	}
	return &postgres{server: server}, nil
}

// openPostgres opens the store with a pool that is small, and too small for all
// that the worker with index 0 does at a time.
func openPostgres(ctx context.Context, url string, index int) (durable, func(), error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, nil, fmt.Errorf("postgres: %w", err)
	}
	config.MaxConns = int32(2 + index%3)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("postgres: %w", err)
	}
	store, err := pgxstore.New(pool, nil)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return store, pool.Close, nil
}

func (p *postgres) address() string { return p.server.URL() }

func (p *postgres) open(ctx context.Context) (durable, func(), error) {
	store, end, err := openPostgres(ctx, p.server.URL(), 0)
	if err != nil {
		return nil, nil, err
	}
	if err := store.(*pgxstore.Store).Migrate(ctx); err != nil {
		end()
		return nil, nil, err
	}
	return store, end, nil
}

func (p *postgres) disturb(ctx context.Context) error {
	if err := p.server.Restart(); err != nil {
		return err
	}
	p.restarts.Add(1)
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	for range 10 { // twice a second
		if err := p.terminate(ctx); err != nil {
			return err
		}
		if err := sleep(ctx, time.Second/2); err != nil {
			return err
		}
	}
	return p.exhaust(ctx)
}

const others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity " +
	"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"

// terminate ends all connections but its own.
func (p *postgres) terminate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.server.URL())
	if err != nil {
		return fmt.Errorf("postgres: terminate backends: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var n int64
	if err := conn.QueryRow(ctx, others).Scan(&n); err != nil {
		return fmt.Errorf("postgres: terminate backends: %w", err)
	}
	p.terminated.Add(n)
	return nil
}

// exhaust takes all connections that the server has, for some seconds.
func (p *postgres) exhaust(ctx context.Context) error {
	if err := p.terminate(ctx); err != nil {
		return err
	}
	var taken []*pgx.Conn
	defer func() {
		for _, conn := range taken {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		if conn, err := pgx.Connect(ctx, p.server.URL()); err == nil {
			taken = append(taken, conn)
		} else if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	p.exhausted.Add(1)
	return nil
}

// idle holds a snapshot, so that nothing of what is deleted can be vacuumed. It begins
// another transaction when the one that it has was ended by a fault.
func (p *postgres) idle(ctx context.Context) error {
	for ctx.Err() == nil {
		if conn, err := pgx.Connect(ctx, p.server.URL()); err == nil {
			_, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ")
			for err == nil {
				if _, err = conn.Exec(ctx, "SELECT 1 FROM pg_class LIMIT 1"); err == nil {
					err = sleep(ctx, time.Second)
				}
			}
			_ = conn.Close(context.WithoutCancel(ctx))
		}
		_ = sleep(ctx, 100*time.Millisecond)
	}
	return nil
}

func (p *postgres) faults() string {
	return fmt.Sprintf("restarts=%d backends_terminated=%d exhausted=%d", p.restarts.Load(), p.terminated.Load(), p.exhausted.Load())
}

func (p *postgres) close() error { return p.server.Stop() }
