// Partitioned spreads subscribers over several databases, each with a Dispatcher of its
// own, for more deliveries than one database can take. The databases are MemoryStores
// here; nothing changes with those of pgxstore. It sends events to many subscribers and
// prints how many each database had.
package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/outhook/outhook"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Partitions send through several Dispatchers. All that belongs to a subscriber, its
// turns, its pauses, its order, is in one of them.
type Partitions []*outhook.Dispatcher

// Of returns the Dispatcher of a subscriber. By rendezvous hashing, one more Dispatcher
// takes over its share of the subscribers and moves nobody else: let the deliveries that
// wait for those run out where they are.
func (p Partitions) Of(subscriber string) *outhook.Dispatcher {
	best, highest := 0, uint64(0)
	for i := range p {
		h := fnv.New64a()
		fmt.Fprintf(h, "%s/%d", subscriber, i)
		if sum := mix(h.Sum64()); sum >= highest {
			best, highest = i, sum
		}
	}
	return p[best]
}

// mix spreads the last bytes that FNV was given over all bits (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Send is Dispatcher.Send, but all or nothing for each partition only. After an error,
// send the event again under the same ID: who has it already is passed over.
func (p Partitions) Send(ctx context.Context, event outhook.Event, subscribers []outhook.Subscriber) (outhook.Receipt, error) {
	if event.ID == "" {
		event.ID = uuid.Must(uuid.NewV7()).String()
	}
	parts := make(map[*outhook.Dispatcher][]outhook.Subscriber)
	for _, s := range subscribers {
		d := p.Of(s.ID)
		parts[d] = append(parts[d], s)
	}
	receipt := outhook.Receipt{EventID: event.ID}
	var errs []error
	for d, part := range parts {
		r, err := d.Send(ctx, event, part)
		receipt.Accepted = append(receipt.Accepted, r.Accepted...)
		receipt.Known = append(receipt.Known, r.Known...)
		receipt.Filtered = append(receipt.Filtered, r.Filtered...)
		errs = append(errs, err)
	}
	return receipt, errors.Join(errs...)
}

// Run runs all of them until ctx ends, in this process. In production each partition has
// processes of its own.
func (p Partitions) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(p))
	for i, d := range p {
		wg.Go(func() { errs[i] = d.Run(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

const (
	partitions  = 4
	subscribers = 400
	events      = 5
)

func run(out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var arrived atomic.Int64
	done := make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if arrived.Add(1) == subscribers*events {
			close(done)
		}
	}))
	defer receiver.Close()

	var p Partitions
	for range partitions {
		d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
		if err != nil {
			return err
		}
		p = append(p, d)
	}
	to := make([]outhook.Subscriber, subscribers)
	for i := range to {
		to[i] = outhook.Subscriber{ID: fmt.Sprintf("customer-%d", i), URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()}}
	}

	running, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var runErr error
	wg.Go(func() { runErr = p.Run(running) })
	sendErr := func() error {
		for i := range events {
			if _, err := p.Send(ctx, outhook.Event{Type: "price.changed", Data: i}, to); err != nil {
				return err
			}
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%d of %d have arrived: %w", arrived.Load(), subscribers*events, ctx.Err())
		}
	}()
	stop()
	wg.Wait()
	if err := errors.Join(sendErr, runErr); err != nil {
		return err
	}
	for i, d := range p {
		stats, err := d.Stats(context.Background())
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "partition %d: %d delivered\n", i, stats.Delivered)
	}
	return nil
}
