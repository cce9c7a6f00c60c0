//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/pgxstore"
	"github.com/outhook/outhook/sqlitestore"
)

// hooks is outhook on one of its stores.
type hooks struct {
	*bench
	store       outhook.Store
	schema      string // of PostgreSQL
	dispatcher  *outhook.Dispatcher
	subscribers []outhook.Subscriber
	end         func() error
}

// customers are a Directory, as services with a durable store have one.
type customers map[string]outhook.Subscriber

func (c customers) Subscriber(_ context.Context, id string) (outhook.Subscriber, error) {
	s, ok := c[id]
	if !ok {
		return s, outhook.ErrUnknownSubscriber
	}
	return s, nil
}

func directory(subscribers []outhook.Subscriber) customers {
	c := make(customers, len(subscribers))
	for _, s := range subscribers {
		c[s.ID] = s
	}
	return c
}

// options are those of a comparison with the bare loop, which knows no limit of a subscriber.
func (b *bench) options(store string) *outhook.Options {
	o := &outhook.Options{
		Guard:                 outhook.DevelopmentGuard(),
		Concurrency:           b.plan.concurrency,
		SubscriberConcurrency: b.plan.concurrency,
	}
	if store != memory {
		o.Directory = directory(b.subscribers)
	}
	return o
}

func (b *bench) openOuthook(ctx context.Context, name string, options *outhook.Options) (*hooks, error) {
	store, schema, end, err := b.openStore(ctx, name)
	if err != nil {
		return nil, err
	}
	d, err := outhook.New(store, options)
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return &hooks{bench: b, store: store, schema: schema, dispatcher: d, subscribers: b.subscribers, end: end}, nil
}

// openStore opens a store that is empty, and that end removes.
func (b *bench) openStore(ctx context.Context, name string) (store outhook.Store, schema string, end func() error, err error) {
	switch name {
	case memory:
		const most = 1 << 30
		return &outhook.MemoryStore{MaxPending: most, MaxPerSubscriber: most}, "", func() error { return nil }, nil
	case sqlite:
		dir, err := os.MkdirTemp("", "outhook-bench-")
		if err != nil {
			return nil, "", nil, err
		}
		s, err := sqlitestore.Open(ctx, filepath.Join(dir, "bench.db"), nil)
		if err != nil {
			return nil, "", nil, errors.Join(err, os.RemoveAll(dir))
		}
		return s, "", func() error { return errors.Join(s.Close(), os.RemoveAll(dir)) }, nil
	case postgres:
		db, err := b.database.fresh(ctx, "outhook", b.plan.connections)
		if err != nil {
			return nil, "", nil, err
		}
		s, err := pgxstore.New(db.pool, &pgxstore.Options{Schema: db.schema})
		if err == nil {
			err = s.Migrate(ctx)
		}
		if err != nil {
			return nil, "", nil, errors.Join(err, db.drop())
		}
		return s, db.schema, db.drop, nil
	}
	return nil, "", nil, fmt.Errorf("there is no store %q", name)
}

// enqueue goes through an Enqueuer that gathers, so that a backlog is there soon.
func (h *hooks) enqueue(ctx context.Context, n int) error {
	if err := h.load(ctx, h.subscribers, n); err != nil {
		return err
	}
	if h.schema != "" {
		return h.database.vacuum(ctx, h.schema)
	}
	return nil
}

// load stores n deliveries, spread over subscribers.
func (h *hooks) load(ctx context.Context, subscribers []outhook.Subscriber, n int) error {
	const batch = 1000 // deliveries of a call of Enqueue
	loaders := 4
	if h.schema == "" {
		loaders = 1
	}
	return inTurns(ctx, loaders, (n+batch-1)/batch, func(ctx context.Context, i int) error {
		var g gathered
		via := h.dispatcher.Via(&g)
		for left := min(batch, n-i*batch); left > 0; left -= len(subscribers) {
			if _, err := via.Send(ctx, h.event(), subscribers[:min(left, len(subscribers))]); err != nil {
				return err
			}
		}
		_, err := h.store.Enqueue(ctx, g.deliveries)
		return err
	})
}

type gathered struct{ deliveries []outhook.Delivery }

func (g *gathered) Enqueue(_ context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	g.deliveries = append(g.deliveries, deliveries...)
	return nil, nil
}

func (b *bench) event() outhook.Event {
	return outhook.Event{Type: "bench.event", Payload: &outhook.Payload{ContentType: "application/json", Body: b.body}}
}

func (h *hooks) drain(ctx context.Context, _ *tally) error {
	_, err := h.dispatcher.Drain(ctx)
	return err
}

// running calls f while Run works.
func (h *hooks) running(ctx context.Context, f func(ctx context.Context) error) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var run sync.WaitGroup
	var runErr error
	run.Go(func() {
		if runErr = h.dispatcher.Run(running); runErr != nil {
			fail(runErr)
		}
	})
	err := f(failed)
	stop()
	run.Wait()
	if errors.Is(err, runErr) {
		return err
	}
	return errors.Join(err, runErr)
}

func (h *hooks) send(ctx context.Context, id string, first, k int) error {
	event := h.event()
	event.ID = id
	_, err := h.dispatcher.Send(ctx, event, some(h.subscribers, first, k))
	return err
}

// some returns k of all, the first-th and those after it.
func some[T any](all []T, first, k int) []T {
	first %= len(all)
	if first+k <= len(all) {
		return all[first : first+k]
	}
	return append(all[first:len(all):len(all)], all[:first+k-len(all)]...)
}

func (h *hooks) close() error { return h.end() }
