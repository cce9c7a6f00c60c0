//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/outhook/outhook"
)

// A company is healthy subscribers beside some that are not.
type company struct {
	name    string
	stores  []string
	healthy int
	others  []treatment
	timeout time.Duration // of an attempt; zero: the default
	rounds  int           // at most
}

// hung is one subscriber of 20 that hangs all the time.
func hung() company {
	return company{
		name:    "hung",
		stores:  []string{memory, sqlite, postgres},
		healthy: 19,
		others:  []treatment{{hang: true}},
		rounds:  5,
	}
}

// unhealthy is 15 subscribers of 100 that hang until the timeout, fail, or want a pause.
func unhealthy() company {
	c := company{name: "health", stores: []string{memory, postgres}, healthy: 85, timeout: 2 * time.Second, rounds: 3}
	for _, t := range []treatment{
		{hang: true},
		{status: http.StatusInternalServerError},
		{status: http.StatusTooManyRequests, retryAfter: "2"},
	} {
		c.others = append(c.others, slices.Repeat([]treatment{t}, 5)...)
	}
	return c
}

// beside compares the healthy subscribers of a company, under full load and under a
// steady one at half the capacity, with the same load without the others.
func beside(c company) func(ctx context.Context, b *bench) error {
	return func(ctx context.Context, b *bench) error {
		for _, store := range c.stores {
			if !slices.Contains(b.plan.stores, store) {
				continue
			}
			if err := b.beside(ctx, c, store); err != nil {
				return fmt.Errorf("%s on %s: %w", c.name, store, err)
			}
		}
		return nil
	}
}

func (b *bench) beside(ctx context.Context, c company, store string) error {
	capacity, err := b.capacity(ctx, store)
	if err != nil {
		return err
	}
	rounds := min(b.plan.rounds, b.plan.long, c.rounds)
	alone := c
	alone.others = nil
	var throughput, p99 series
	for round := range rounds {
		b.last = round == rounds-1
		without, err := b.accompany(ctx, alone, store, capacity/2)
		if err != nil {
			return fmt.Errorf("alone: %w", err)
		}
		with, err := b.accompany(ctx, c, store, capacity/2)
		if err != nil {
			return fmt.Errorf("beside %d others: %w", len(c.others), err)
		}
		throughput = append(throughput, with.perSecond/without.perSecond)
		p99 = append(p99, float64(with.p99)/float64(without.p99))
		b.logf("%s %-8s alone %v   beside %d others %v", c.name, store, without, len(c.others), with)
	}
	b.figure(c.name+"_throughput_"+short(store), 2, throughput)
	b.figure(c.name+"_p99_"+short(store), 2, p99)
	return nil
}

// An experience is how healthy subscribers fared.
type experience struct {
	perSecond float64 // under full load
	rate      float64 // under the steady one
	p50, p99  time.Duration
}

func (e experience) String() string {
	return fmt.Sprintf("%6.0f/s, at %5.0f/s p50 %.2f ms, p99 %.2f ms", e.perSecond, e.rate, millis(e.p50), millis(e.p99))
}

func (b *bench) accompany(ctx context.Context, c company, store string, rate float64) (e experience, err error) {
	subscribers := make([]outhook.Subscriber, 0, c.healthy+len(c.others))
	treatments := make(map[int]treatment)
	for i := range cap(subscribers) {
		subscribers = append(subscribers, b.subscriber(i))
		if i >= c.healthy {
			treatments[i] = c.others[i-c.healthy]
		}
	}
	b.receiver.treatments.Store(&treatments)
	defer b.receiver.treatments.Store(nil)
	options := &outhook.Options{Guard: outhook.DevelopmentGuard(), Concurrency: b.plan.concurrency, Timeout: c.timeout, Grace: -1}
	if store != memory {
		options.Directory = directory(subscribers)
	}
	h, err := b.openOuthook(ctx, store, options)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	healthy, others := subscribers[:c.healthy], subscribers[c.healthy:]
	h.subscribers = healthy
	if len(others) > 0 {
		if err := h.load(ctx, others, len(others)*b.plan.waiting); err != nil {
			return e, err
		}
	}
	n := 2 * b.plan.n // of which the half is done in less than a second
	if err := h.enqueue(ctx, n); err != nil {
		return e, err
	}
	stop, err := b.profile(fmt.Sprintf("%s-%s-%d", c.name, store, len(others)))
	if err != nil {
		return e, err
	}
	r, err := b.timed(ctx, false, n, func(t *tally) error { return h.running(ctx, t.wait) })
	if err = errors.Join(err, stop()); err != nil {
		return e, fmt.Errorf("full load: %w", err)
	}
	e.perSecond = r.perSecond

	for _, s := range others { // as if nothing was known of them
		if err := h.dispatcher.Enable(ctx, s.ID); err != nil {
			return e, err
		}
	}
	var latencies []time.Duration
	err = h.running(ctx, func(ctx context.Context) (err error) {
		latencies, e.rate, err = b.steady(ctx, h, load{rate: rate, fanout: min(b.plan.fanout, c.healthy), healthy: c.healthy, lasts: b.plan.steady})
		return err
	})
	if err != nil {
		return e, fmt.Errorf("steady load: %w", err)
	}
	d := distribute(latencies)
	e.p50, e.p99 = d.p50, d.p99
	return e, nil
}
