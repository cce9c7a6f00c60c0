//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// processes compares one, two and four worker processes that share a backlog in
// PostgreSQL, and as many that only post.
func processes(ctx context.Context, b *bench) error {
	if !slices.Contains(b.plan.stores, postgres) {
		return nil
	}
	rates := make(map[string]map[int]series)
	for range min(b.plan.rounds, b.plan.long) {
		for role, measure := range map[string]func(ctx context.Context, k int) (float64, error){roleLoop: b.loops, roleWorker: b.workers} {
			if rates[role] == nil {
				rates[role] = make(map[int]series)
			}
			for _, k := range []int{1, 2, 4} {
				rate, err := measure(ctx, k)
				if err != nil {
					return fmt.Errorf("%d processes: %w", k, err)
				}
				b.logf("processes: %d of %s make %.0f/s", k, role, rate)
				rates[role][k] = append(rates[role][k], rate)
			}
		}
	}
	of := func(role string, k int) (s series) {
		for i, rate := range rates[role][k] {
			s = append(s, rate/rates[role][1][i])
		}
		return s
	}
	b.figure("two_processes_vs_one", 2, of(roleWorker, 2))
	b.figure("four_processes_vs_one", 2, of(roleWorker, 4))
	b.figure("two_loops_vs_one", 2, of(roleLoop, 2))
	b.figure("four_loops_vs_one", 2, of(roleLoop, 4))
	b.detail("one_process_per_second", 0, rates[roleWorker][1])
	return nil
}

// workers has k processes drain a backlog.
func (b *bench) workers(ctx context.Context, k int) (rate float64, err error) {
	h, err := b.openOuthook(ctx, postgres, b.options(postgres))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	n := (3*b.plan.n + 1) / 2 // so many that the last ones, of which one may have none, do not count
	if err := h.enqueue(ctx, n); err != nil {
		return 0, err
	}
	arrived := b.record()
	rate, err = b.processes(ctx, k, n, childPlan{Role: roleWorker, Schema: h.schema})
	return rate, errors.Join(err, arrived(n))
}

// loops has k processes post.
func (b *bench) loops(ctx context.Context, k int) (float64, error) {
	n := max(3*b.plan.n/2/k, 1)
	return b.processes(ctx, k, k*n, childPlan{Role: roleLoop, Posts: n, Body: b.body})
}

// processes has k of them make n requests in all.
func (b *bench) processes(ctx context.Context, k, n int, p childPlan) (rate float64, err error) {
	p.Subscribers = len(b.subscribers)
	var children []*child
	for range k {
		c, err := b.spawn(ctx, p)
		if err != nil {
			return 0, err
		}
		defer c.kill()
		children = append(children, c)
	}
	t := b.receiver.expect(n)
	began := time.Now()
	for _, c := range children {
		if _, err := c.ask("go"); err != nil {
			return 0, err
		}
	}
	if err := t.wait(ctx); err != nil {
		return 0, err
	}
	for _, c := range children {
		if err := c.end(); err != nil {
			return 0, err
		}
	}
	return float64(n) / t.last.Sub(began).Seconds(), t.check()
}
