//go:build unix

package main

import (
	"context"
	"errors"
	"slices"
	"time"
)

// idle measures what workers with nothing to do cost: on a MemoryStore how often
// the process wakes, beside one that has no worker, and what is asked of PostgreSQL.
func idle(ctx context.Context, b *bench) (err error) {
	plans := []childPlan{{Role: roleNothing}, {Role: roleWorker}}
	if slices.Contains(b.plan.stores, postgres) {
		h, err := b.openOuthook(ctx, postgres, b.options(postgres))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, h.close()) }()
		plans = append(plans, childPlan{Role: roleWorker, Schema: h.schema})
	}
	var children []*child
	for _, p := range plans {
		c, err := b.spawn(ctx, p)
		if err != nil {
			return err
		}
		defer c.kill()
		if _, err := c.ask("go"); err != nil {
			return err
		}
		children = append(children, c)
	}
	time.Sleep(min(b.plan.idle, time.Second)) // until all is calm
	spent, err := b.database.begin(ctx)
	if err != nil {
		return err
	}
	// A report wakes the process, too, some more than others: short windows and long ones
	// differ in what was not for the report, and of each the least counts.
	const pairs = 4
	long := b.plan.idle * 9 / 10 / pairs
	windows := [2]time.Duration{long / 9, long}
	waits := make([][2]series, len(children))
	cpu := make([]time.Duration, len(children))
	before, err := reports(children)
	if err != nil {
		return err
	}
	for window := range 2 * pairs {
		select {
		case <-time.After(windows[window%2]):
		case <-ctx.Done():
			return ctx.Err()
		}
		now, err := reports(children)
		if err != nil {
			return err
		}
		for i := range now {
			waits[i][window%2] = append(waits[i][window%2], float64(now[i].Waits-before[i].Waits))
			cpu[i] += now[i].CPU - before[i].CPU
		}
		before = now
	}
	c, err := spent()
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := c.end(); err != nil {
			return err
		}
	}
	seconds := b.plan.idle.Seconds()
	wakes := func(i int) float64 { return max(slices.Min(waits[i][1])-slices.Min(waits[i][0]), 0) }
	b.logf("idle for %v: woke %.0f times with no worker, %.0f with one on memory", windows[1], wakes(0), wakes(1))
	b.figure("idle_wakeups_memory", 1, series{max(wakes(1)-wakes(0), 0) / (windows[1] - windows[0]).Seconds()})
	b.detail("idle_cpu_us_per_second_memory", 0, series{micros(cpu[1]) / seconds})
	if len(cpu) > 2 {
		b.figure("idle_queries_per_second", 2, series{float64(c.statements) / seconds})
		b.detail("idle_cpu_us_per_second_pg", 0, series{micros(cpu[2]) / seconds})
		b.detail("idle_server_cpu_ms_per_second", 1, series{millis(c.cpu) / seconds})
	}
	return nil
}

// reports asks all of them for one.
func reports(children []*child) (all []childReport, err error) {
	for _, c := range children {
		r, err := c.ask("report")
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}
