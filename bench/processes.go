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
// PostgreSQL.
func processes(ctx context.Context, b *bench) error {
	if !slices.Contains(b.plan.stores, postgres) {
		return nil
	}
	rates := make(map[int]series)
	for range min(b.plan.rounds, b.plan.long) {
		for _, k := range []int{1, 2, 4} {
			rate, err := b.processes(ctx, k)
			if err != nil {
				return fmt.Errorf("%d processes: %w", k, err)
			}
			b.logf("processes: %d make %.0f/s", k, rate)
			rates[k] = append(rates[k], rate)
		}
	}
	for _, several := range []struct {
		k    int
		name string
	}{{2, "two"}, {4, "four"}} {
		var s series
		for i, rate := range rates[several.k] {
			s = append(s, rate/rates[1][i])
		}
		b.figure(several.name+"_processes_vs_one", 2, s)
	}
	b.detail("one_process_per_second", 0, rates[1])
	return nil
}

func (b *bench) processes(ctx context.Context, k int) (rate float64, err error) {
	h, err := b.openOuthook(ctx, postgres, b.options(postgres))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	n := (3*b.plan.n + 1) / 2 // so many that the last ones, of which one may have none, do not count
	if err := h.enqueue(ctx, n); err != nil {
		return 0, err
	}
	var children []*child
	for range k {
		c, err := b.spawn(ctx, childPlan{Role: roleWorker, Schema: h.schema, Subscribers: len(b.subscribers)})
		if err != nil {
			return 0, err
		}
		defer c.kill()
		children = append(children, c)
	}
	arrived := b.record()
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
	return float64(n) / t.last.Sub(began).Seconds(), errors.Join(t.check(), arrived(n))
}
