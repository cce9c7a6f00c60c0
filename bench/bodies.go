//go:build unix

package main

import (
	"context"
	"fmt"
)

// bodies compares drains of larger bodies, of fewer deliveries.
func bodies(ctx context.Context, b *bench) error {
	defer func(p plan, body []byte) { b.plan, b.body = p, body }(b.plan, b.body)
	b.plan.rounds, b.plan.tries = min(b.plan.rounds, b.plan.long, 3), 1
	n := b.plan.n
	for _, s := range []struct{ kib, fewer int }{{20, 8}, {256, 80}} {
		b.body = text(s.kib << 10)
		b.plan.n = max(n/s.fewer, len(b.subscribers))
		runs, err := b.compare(ctx, drain)
		if err != nil {
			return err
		}
		for _, name := range b.plan.stores {
			b.figure(fmt.Sprintf("%s_%dk_vs_nethttp", short(name), s.kib), 2, ratios(runs[name], runs[nethttp]))
		}
		b.detail(fmt.Sprintf("nethttp_%dk_per_second", s.kib), 0, column(runs[nethttp], perSecond))
	}
	return nil
}
