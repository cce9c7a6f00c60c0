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
	calm := func() { time.Sleep(min(b.plan.idle, time.Second)) }
	calm()
	var before []childReport
	for _, c := range children {
		r, err := c.ask("report")
		if err != nil {
			return err
		}
		before = append(before, r)
	}
	calm() // a report wakes them
	slept := make([]int, len(children))
	for i, c := range children {
		slept[i] = c.sleeps()
	}
	told := slept[0] >= 0
	spent, err := b.database.begin(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(b.plan.idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := spent()
	if err != nil {
		return err
	}
	for i, c := range children {
		slept[i] = c.sleeps() - slept[i]
	}
	var cpu []time.Duration
	for i, c := range children {
		r, err := c.ask("report")
		if err == nil {
			err = c.end()
		}
		if err != nil {
			return err
		}
		cpu = append(cpu, r.CPU-before[i].CPU)
	}
	seconds := b.plan.idle.Seconds()
	b.logf("idle for %v: went to sleep %d times with no worker, %d with one on memory", b.plan.idle, slept[0], slept[1])
	if told {
		b.figure("idle_wakeups_memory", 1, series{float64(max(slept[1]-slept[0], 0)) / seconds})
	}
	b.detail("idle_cpu_us_per_second_memory", 0, series{micros(cpu[1]) / seconds})
	if len(cpu) > 2 {
		b.figure("idle_queries_per_second", 2, series{float64(c.statements) / seconds})
		b.detail("idle_cpu_us_per_second_pg", 0, series{micros(cpu[2]) / seconds})
		b.detail("idle_server_cpu_ms_per_second", 1, series{millis(c.cpu) / seconds})
	}
	return nil
}
