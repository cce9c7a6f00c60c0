//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// A run is one measurement of n deliveries.
type run struct {
	perSecond  float64       // until the last had arrived
	allocs     float64       // per delivery, the receiver's included
	cpu        time.Duration // of this process, the receiver's included, per delivery
	server     time.Duration // CPU of PostgreSQL, per delivery
	wal        float64       // bytes per delivery
	statements float64       // per 1,000 deliveries
}

func (r run) String() string {
	s := fmt.Sprintf("%6.0f/s  %4.1f µs CPU  %3.0f allocs", r.perSecond, micros(r.cpu), r.allocs)
	if r.wal > 0 {
		s += fmt.Sprintf("  PostgreSQL: %4.1f µs CPU  %5.0f B WAL  %5.1f statements/1000", micros(r.server), r.wal, r.statements)
	}
	return s
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// measure opens a contender, and times how it drains a backlog of n deliveries or has
// them flow. It has made some before: connections are opened and statements prepared then.
func (b *bench) measure(ctx context.Context, name, scenario string, n int) (r run, err error) {
	c, err := b.open(ctx, name)
	if err != nil {
		return r, err
	}
	defer func() {
		if e := c.close(); err == nil {
			err = e
		}
	}()
	prepare := func(n int) error {
		if scenario == drain {
			return c.enqueue(ctx, n)
		}
		return nil
	}
	deliver := func(n int) (run, error) {
		return b.timed(ctx, name == postgres || name == riverJob, n, func(t *tally) error {
			if scenario == drain {
				return c.drain(ctx, t)
			}
			return b.flow(ctx, name, c, n, t)
		})
	}
	few := max(n/10, 1)
	if err := prepare(few); err != nil {
		return r, err
	}
	if _, err := deliver(few); err != nil {
		return r, fmt.Errorf("warming up: %w", err)
	}
	if err := prepare(n); err != nil {
		return r, err
	}
	stop, err := b.profile(scenario + "-" + name)
	if err != nil {
		return r, err
	}
	r, err = deliver(n)
	return r, errors.Join(err, stop())
}

// timed times f, which makes n deliveries, and checks that each has arrived, once.
func (b *bench) timed(ctx context.Context, asks bool, n int, f func(t *tally) error) (r run, err error) {
	spent := func() (cost, error) { return cost{}, nil }
	if asks {
		if spent, err = b.database.begin(ctx); err != nil {
			return r, err
		}
	}
	arrived := b.record()
	t := b.receiver.expect(n)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := ownCPU()
	began := time.Now()
	if err := f(t); err != nil {
		return r, err
	}
	cpu = ownCPU() - cpu
	runtime.ReadMemStats(&after)
	c, err := spent()
	if err = errors.Join(err, t.check(), arrived(n)); err != nil {
		return r, err
	}
	<-t.arrived
	per := float64(n)
	return run{
		perSecond:  per / t.last.Sub(began).Seconds(),
		allocs:     float64(after.Mallocs-before.Mallocs) / per,
		cpu:        time.Duration(float64(cpu) / per),
		server:     time.Duration(float64(c.cpu) / per),
		wal:        float64(c.wal) / per,
		statements: float64(c.statements) * 1000 / per,
	}, nil
}

// spend measures n times of something, in this process alone.
func spend(n int, f func() error) (run, error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := ownCPU()
	err := f()
	cpu = ownCPU() - cpu
	runtime.ReadMemStats(&after)
	return run{
		allocs: float64(after.Mallocs-before.Mallocs) / float64(n),
		cpu:    time.Duration(float64(cpu) / float64(n)),
	}, err
}

// record notes each delivery if the run is to. It returns how to check that each of n
// has arrived, once.
func (b *bench) record() (check func(n int) error) {
	if !b.plan.strict {
		return func(int) error { return nil }
	}
	l := &ledger{times: make(map[string]int)}
	see := func(path int, id string) {
		if _, ok := b.receiver.treatment(path); !ok {
			l.see(path, id)
		}
	}
	b.receiver.seen.Store(&see)
	return func(n int) error {
		b.receiver.seen.Store(nil)
		return l.check(n)
	}
}

// A series is one value of several rounds.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// A distribution is what durations are.
type distribution struct{ p50, p99, p999 time.Duration }

func distribute(all []time.Duration) distribution {
	slices.Sort(all)
	return distribution{percentile(all, 50), percentile(all, 99), percentile(all, 99.9)}
}

// percentile returns the p-th of durations that are sorted.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p/100*float64(len(sorted))))]
}
