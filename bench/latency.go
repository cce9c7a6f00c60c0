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
	found := make(map[string][]latencyRun)
	var commits series
	for round := range b.plan.rounds {
		b.last = round == b.plan.rounds-1
		for _, name := range b.contenders() {
			if rates[name] == 0 {
				continue
			}
			r, err := b.latency(ctx, name, rates[name])
			if err != nil {
				return fmt.Errorf("latency of %s: %w", name, err)
			}
			found[name] = append(found[name], r)
			b.logf("latency %-8s at %5.0f/s  p50 %.3f ms  p99 %.3f ms  p99.9 %.3f ms, on %.2f processors, %.2f threads waited for one",
				name, r.rate, millis(r.p50), millis(r.p99), millis(r.p999), r.ran, r.waited)
		}
		commit, err := b.database.commit(ctx)
		if err != nil {
			return err
		}
		commits = append(commits, millis(commit))
	}
	of := func(name string, value func(i int, r latencyRun) float64) (s series) {
		for i, r := range found[name] {
			s = append(s, value(i, r))
		}
		return s
	}
	if found[memory] != nil {
		b.figure("latency_p50_vs_post", 2, of(memory, func(i int, r latencyRun) float64 {
			return float64(r.p50) / float64(found[nethttp][i].p50)
		}))
	}
	if found[postgres] != nil {
		b.figure("pg_latency_p50_over_commit_ms", 2, of(postgres, func(i int, r latencyRun) float64 {
			return max(millis(r.p50)-commits[i], 0)
		}))
		b.figure("pg_latency_p99_vs_p50", 2, of(postgres, func(_ int, r latencyRun) float64 {
			return float64(r.p99) / float64(r.p50)
		}))
		b.detail("pg_commit_ms", 2, commits)
	}
	for _, name := range b.contenders() {
		if found[name] == nil {
			continue
		}
		prefix := short(name) + "_latency_"
		b.detail(prefix+"rate", 0, series{rates[name]})
		b.detail(prefix+"p50_ms", 3, of(name, func(_ int, r latencyRun) float64 { return millis(r.p50) }))
		b.detail(prefix+"p99_ms", 3, of(name, func(_ int, r latencyRun) float64 { return millis(r.p99) }))
		b.detail(prefix+"p999_ms", 3, of(name, func(_ int, r latencyRun) float64 { return millis(r.p999) }))
		b.detail(prefix+"ran", 2, of(name, func(_ int, r latencyRun) float64 { return r.ran }))
		b.detail(prefix+"waited", 2, of(name, func(_ int, r latencyRun) float64 { return r.waited }))
	}
	return nil
}

// A latencyRun is one steady load. Threads of this process that waited while a processor
// was free tell of a scheduler that had put two of them on one.
type latencyRun struct {
	distribution
	rate        float64
	ran, waited float64 // threads, on average
}

func (b *bench) latency(ctx context.Context, name string, rate float64) (r latencyRun, err error) {
	c, err := b.open(ctx, name)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	stop, err := b.profile("latency-" + name)
	if err != nil {
		return r, err
	}
	var latencies []time.Duration
	err = c.running(ctx, func(ctx context.Context) (err error) {
		began, before := time.Now(), ownThreads()
		latencies, r.rate, err = b.steady(ctx, c, load{rate: rate, fanout: 1, healthy: len(b.subscribers), lasts: b.plan.steady})
		took, after := time.Since(began), ownThreads()
		r.ran, r.waited = float64(after.ran-before.ran)/float64(took), float64(after.waited-before.waited)/float64(took)
		return err
	})
	r.distribution = distribute(latencies)
	return r, errors.Join(err, stop())
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
