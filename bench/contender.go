//go:build unix

package main

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
)

// Contenders, by name. The store of outhook names the contender.
const (
	nethttp  = "nethttp"  // a loop of http.Client that signs and posts: the least that a service could do
	prepared = "prepared" // a loop that hands prepared requests to http.Transport: the most that can be had of it
	memory   = "memory"
	sqlite   = "sqlite"
	postgres = "postgres"
	riverJob = "river" // a job of River for each delivery, on the same PostgreSQL
)

// short is how figures name a contender.
func short(name string) string {
	if name == postgres {
		return "pg"
	}
	return name
}

// A contender has a fresh store or database of its own.
type contender interface {
	// enqueue stores n deliveries. They are spread over all subscribers.
	enqueue(ctx context.Context, n int) error

	// drain makes what was enqueued, and returns when it is recorded as made.
	drain(ctx context.Context, t *tally) error

	// send sends an event with an ID to k subscribers, the first-th and those after it.
	send(ctx context.Context, id string, first, k int) error

	// running calls f while workers make what is sent, and returns when all that
	// was made is recorded as made.
	running(ctx context.Context, f func(ctx context.Context) error) error

	close() error
}

func (b *bench) open(ctx context.Context, name string) (contender, error) {
	switch name {
	case nethttp:
		return b.openLoop()
	case prepared:
		return b.openPrepared()
	case riverJob:
		return b.openRiver(ctx)
	default:
		return b.openOuthook(ctx, name, b.options(name))
	}
}

// contenders are those of the run, the bare loop first.
func (b *bench) contenders() []string { return append([]string{nethttp}, b.plan.stores...) }

// flow has concurrent senders send n deliveries while workers make them.
func (b *bench) flow(ctx context.Context, name string, c contender, n int, t *tally) error {
	senders, fanout := b.plan.senders, min(b.plan.fanout, len(b.subscribers))
	if name == nethttp { // which makes what it sends itself
		senders = b.plan.concurrency
	}
	return c.running(ctx, func(ctx context.Context) error {
		err := inTurns(ctx, senders, (n+fanout-1)/fanout, func(ctx context.Context, i int) error {
			return c.send(ctx, newID(), i*fanout, min(fanout, n-i*fanout))
		})
		if err != nil {
			return err
		}
		return t.wait(ctx)
	})
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// inTurns has so many workers call do for 0 to n-1, until one fails.
func inTurns(ctx context.Context, workers, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
