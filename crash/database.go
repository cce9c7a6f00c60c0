//go:build unix

package main

import (
	"context"
	"fmt"
)

// A database is what the store of a run is in, and what can be done to it.
type database interface {
	// address is by what other processes find it.
	address() string

	// open returns the store. end ends its connections.
	open(ctx context.Context) (store durable, end func(), err error)

	// disturb causes each fault once.
	disturb(ctx context.Context) error

	// idle keeps transactions open that do nothing, until ctx ends.
	idle(ctx context.Context) error

	// faults tells what was done.
	faults() string

	close() error
}

func startDatabase(p *plan, dir string) (database, error) {
	switch p.Store {
	case "postgres":
		return startPostgres()
	case "sqlite":
		return startSQLite(dir), nil
	}
	return nil, fmt.Errorf("-store %q is neither postgres nor sqlite", p.Store)
}

// openStore opens the store in another process than the parent.
func openStore(ctx context.Context, p *plan, index int) (store durable, end func(), err error) {
	if p.Store == "postgres" {
		return openPostgres(ctx, p.Database, index)
	}
	return openSQLite(ctx, p.Database)
}
