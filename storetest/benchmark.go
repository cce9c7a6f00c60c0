package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/outhook/outhook"
)

// Benchmark measures a store: what it takes to enqueue an event for one and for
// many subscribers, and to claim and finish one delivery and many at a time, with
// few and with many others waiting. Each sub-benchmark has a backend of its own
// and also reports the time for each delivery.
func Benchmark(b *testing.B, newBackend func() (Backend, error)) {
	body := &outhook.Payload{Body: make([]byte, 1024)}
	run := func(name string, waiting, batch int, measure func(b *testing.B, t *trial)) {
		b.Run(name, func(b *testing.B) {
			t := &trial{ctx: b.Context(), open: newBackend, journal: new(journal)}
			err := t.run(func(t *trial) {
				for i := 0; i < waiting; i += 1000 {
					if _, err := t.Store.Enqueue(t.ctx, t.many(fmt.Sprintf("waiting%d", i), min(1000, waiting-i), body)); err != nil {
						t.fail("Enqueue: %w", err)
					}
				}
				measure(b, t)
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/delivery")
		})
	}
	for _, n := range []int{1, 100} {
		run(fmt.Sprintf("enqueue/batch=%d", n), 0, n, func(b *testing.B, t *trial) {
			batch := t.many("e", n, body)
			i := 0
			for b.Loop() {
				for j := range batch {
					batch[j].ID.Event = fmt.Sprintf("e%d", i)
				}
				i++
				if _, err := t.Store.Enqueue(t.ctx, batch); err != nil {
					t.fail("Enqueue: %w", err)
				}
			}
		})
	}
	for _, waiting := range []int{1000, 10_000} {
		for _, n := range []int{1, 100} {
			run(fmt.Sprintf("claim+finish/waiting=%d/batch=%d", waiting, n), waiting, n, func(b *testing.B, t *trial) {
				request := outhook.ClaimRequest{Limit: n, PerSubscriber: n, SuspectAfter: 3, Suspects: 1, Lease: time.Minute}
				outcomes := make([]outhook.Outcome, n)
				for b.Loop() {
					claimed, err := t.Store.Claim(t.ctx, request)
					if err != nil || len(claimed.Claims) != n {
						t.fail("Claim returned %d deliveries, want %d, error %v", len(claimed.Claims), n, err)
					}
					for i, c := range claimed.Claims { // what waits stays the same
						outcomes[i] = retry(c, 0)
					}
					lost, err := t.Store.Finish(t.ctx, outcomes)
					if err != nil || len(lost) > 0 {
						t.fail("Finish: lost %v, error %v", lost, err)
					}
				}
			})
		}
	}
}

// many returns deliveries of one event to as many subscribers as are needed, or
// of several events to 100 of them.
func (t *trial) many(event string, n int, body *outhook.Payload) []outhook.Delivery {
	d := t.delivery("e", "s")
	d.Payload = body
	batch := make([]outhook.Delivery, n)
	for i := range batch {
		batch[i] = d
		batch[i].ID = outhook.DeliveryID{Event: fmt.Sprintf("%s-%d", event, i/100), Subscriber: fmt.Sprintf("s%d", i%100)}
	}
	return batch
}
