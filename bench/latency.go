//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// latency measures the time from Send to the receiver's first byte, of events for one
// subscriber, at half of what each store can do, and of bare posts at the rate of the
// memory.
func latency(ctx context.Context, b *bench) error {
	defer func(p plan) { b.plan = p }(b.plan)
	b.plan.fanout, b.plan.senders = 1, 4*b.plan.senders
	rates := make(map[string]float64)
	for _, name := range b.plan.stores {
		c, err := b.capacity(ctx, name)
		if err != nil {
			return err
		}
		rates[name] = c / 2
	}
	rates[nethttp] = rates[memory]
	found := make(map[string][]distribution)
	var commits series
	for round := range b.plan.rounds {
		b.last = round == b.plan.rounds-1
		for _, name := range b.contenders() {
			if rates[name] == 0 {
				continue
			}
			d, rate, err := b.latency(ctx, name, rates[name])
			if err != nil {
				return fmt.Errorf("latency of %s: %w", name, err)
			}
			found[name] = append(found[name], d)
			b.logf("latency %-8s at %5.0f/s  p50 %.3f ms  p99 %.3f ms  p99.9 %.3f ms", name, rate, millis(d.p50), millis(d.p99), millis(d.p999))
		}
		commit, err := b.database.commit(ctx)
		if err != nil {
			return err
		}
		commits = append(commits, millis(commit))
	}
	of := func(name string, value func(i int, d distribution) float64) (s series) {
		for i, d := range found[name] {
			s = append(s, value(i, d))
		}
		return s
	}
	if found[memory] != nil {
		b.figure("latency_p50_vs_post", 2, of(memory, func(i int, d distribution) float64 {
			return float64(d.p50) / float64(found[nethttp][i].p50)
		}))
	}
	if found[postgres] != nil {
		b.figure("pg_latency_p50_over_commit_ms", 2, of(postgres, func(i int, d distribution) float64 {
			return max(millis(d.p50)-commits[i], 0)
		}))
		b.figure("pg_latency_p99_vs_p50", 2, of(postgres, func(_ int, d distribution) float64 {
			return float64(d.p99) / float64(d.p50)
		}))
		b.detail("pg_commit_ms", 2, commits)
	}
	for _, name := range b.contenders() {
		if found[name] == nil {
			continue
		}
		prefix := short(name) + "_latency_"
		b.detail(prefix+"rate", 0, series{rates[name]})
		b.detail(prefix+"p50_ms", 3, of(name, func(_ int, d distribution) float64 { return millis(d.p50) }))
		b.detail(prefix+"p99_ms", 3, of(name, func(_ int, d distribution) float64 { return millis(d.p99) }))
		b.detail(prefix+"p999_ms", 3, of(name, func(_ int, d distribution) float64 { return millis(d.p999) }))
	}
	return nil
}

func (b *bench) latency(ctx context.Context, name string, rate float64) (d distribution, achieved float64, err error) {
	c, err := b.open(ctx, name)
	if err != nil {
		return d, 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	stop, err := b.profile("latency-" + name)
	if err != nil {
		return d, 0, err
	}
	var latencies []time.Duration
	err = c.running(ctx, func(ctx context.Context) (err error) {
		latencies, achieved, err = b.steady(ctx, c, load{rate: rate, fanout: 1, healthy: len(b.subscribers), lasts: b.plan.steady})
		return err
	})
	return distribute(latencies), achieved, errors.Join(err, stop())
}

// commit returns how long it takes to store one small row.
func (s *databaseServer) commit(ctx context.Context) (time.Duration, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "create table if not exists bench_commit (at timestamptz)"); err != nil {
		return 0, err
	}
	var all []time.Duration
	for range 200 {
		began := time.Now()
		if _, err := conn.Exec(ctx, "insert into bench_commit values (now())"); err != nil {
			return 0, err
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return percentile(all, 50), nil
}
