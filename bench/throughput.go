//go:build unix

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Scenarios that compare all contenders.
const (
	drain  = "drain"  // of a backlog
	flow   = "flow"   // with Send
	single = "single" // with Send to one subscriber
)

// throughput measures each contender in turns, and relates it to the bare loop of
// the same round, and the stores of PostgreSQL to River.
func throughput(scenario string) func(ctx context.Context, b *bench) error {
	return func(ctx context.Context, b *bench) error {
		infix := "_" + scenario
		switch scenario {
		case drain:
			infix = ""
		case single:
			defer func(p plan) { b.plan = p }(b.plan)
			b.plan.fanout, b.plan.senders = 1, 4*b.plan.senders
			b.plan.n, b.plan.tries = (b.plan.n+3)/4, 1
		}
		runs, err := b.compare(ctx, scenario)
		if err != nil {
			return err
		}
		if runs[prepared] != nil {
			b.figure("prepared_vs_nethttp", 2, ratios(runs[prepared], runs[nethttp]))
		}
		for _, name := range b.plan.stores {
			b.figure(short(name)+infix+"_vs_nethttp", 2, ratios(runs[name], runs[nethttp]))
		}
		if runs[postgres] != nil && runs[riverJob] != nil {
			b.figure("pg"+infix+"_vs_river", 2, ratios(runs[postgres], runs[riverJob]))
		}
		for _, name := range b.contenders() {
			b.rates(scenario, name, runs[name], runs[nethttp])
		}
		return nil
	}
}

// compare measures each contender in turns.
func (b *bench) compare(ctx context.Context, scenario string) (map[string][]run, error) {
	runs := make(map[string][]run)
	names := b.contenders()
	if scenario == drain {
		names = slices.Insert(names, 1, prepared)
	}
	for round := range b.plan.rounds {
		b.last = round == b.plan.rounds-1
		tries := make(map[string][]run)
		for try := range b.plan.tries {
			for _, name := range names {
				if try > 0 && !isQuick(name) {
					continue
				}
				r, err := b.measure(ctx, name, scenario, b.enough(name, b.plan.n))
				if err != nil {
					return nil, fmt.Errorf("%s of %s: %w", scenario, name, err)
				}
				tries[name] = append(tries[name], r)
			}
		}
		for _, name := range names {
			r := middle(tries[name])
			runs[name] = append(runs[name], r)
			ratio := r.perSecond / runs[nethttp][len(runs[nethttp])-1].perSecond
			b.logf("%-6s %-8s %v  ratio %.2f", scenario, name, r, ratio)
		}
	}
	return runs, nil
}

// isQuick reports whether a contender makes many in a second, so that a measurement of it is
// soon done, and easily disturbed: it has more deliveries to make, and several tries.
func isQuick(name string) bool { return name == nethttp || name == prepared || name == memory }

// middle returns the run that was neither faster than most nor slower.
func middle(tries []run) run {
	slices.SortFunc(tries, func(a, b run) int { return cmp.Compare(a.perSecond, b.perSecond) })
	return tries[len(tries)/2]
}

// enough is n, but more for those who are done with that before it can be timed well.
func (b *bench) enough(name string, n int) int {
	if isQuick(name) && !b.plan.strict {
		return max(n, b.plan.least*1024/max(len(b.body), 1024))
	}
	return n
}

func perSecond(r run) float64 { return r.perSecond }

// ratios relates the runs of two contenders, round by round.
func ratios(of, to []run) (s series) {
	for i := range of {
		s = append(s, of[i].perSecond/to[i].perSecond)
	}
	return s
}

func column(runs []run, value func(run) float64) (s series) {
	for _, r := range runs {
		s = append(s, value(r))
	}
	return s
}

// rates prints what a contender did in a second, and what that cost.
func (b *bench) rates(scenario, name string, runs, bare []run) {
	prefix := short(name) + "_" + scenario + "_"
	b.detail(prefix+"per_second", 0, column(runs, perSecond))
	b.detail(prefix+"cpu_us", 1, column(runs, func(r run) float64 { return micros(r.cpu) }))
	var times series // less than the rate does this depend on what else the machine does
	for i := range runs {
		times = append(times, float64(runs[i].cpu+runs[i].server)/float64(bare[i].cpu))
	}
	b.detail(prefix+"cpu_vs_nethttp", 2, times)
	if name == postgres || name == riverJob {
		b.detail(prefix+"server_cpu_us", 1, column(runs, func(r run) float64 { return micros(r.server) }))
		b.detail(prefix+"wal_bytes", 0, column(runs, func(r run) float64 { return r.wal }))
		b.detail(prefix+"statements_per_1000", 1, column(runs, func(r run) float64 { return r.statements }))
	}
}
