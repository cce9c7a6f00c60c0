//go:build unix

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// capacity returns how many deliveries a contender makes in a second at present, Send
// included.
func (b *bench) capacity(ctx context.Context, name string) (float64, error) {
	var s series
	for range 3 {
		r, err := b.measure(ctx, name, flow, b.enough(name, (b.plan.n+3)/4))
		if err != nil {
			return 0, fmt.Errorf("capacity of %s: %w", name, err)
		}
		s = append(s, r.perSecond)
	}
	return s.median(), nil
}

// A load is steady.
type load struct {
	rate    float64 // deliveries per second
	fanout  int     // subscribers of an event
	healthy int     // subscribers, the first
	lasts   time.Duration
}

// warm is for how long a load flows before it is measured: connections are opened
// and statements prepared meanwhile.
const warm = 500 * time.Millisecond

// steady sends while workers run. It returns the time from each Send to the receiver's
// first byte, once the load is steady, and how many were made in a second.
func (b *bench) steady(ctx context.Context, c contender, l load) (latencies []time.Duration, rate float64, err error) {
	first := max(int(l.rate*warm.Seconds())/l.fanout, 1)
	measured := max(int(l.rate*l.lasts.Seconds())/l.fanout, 1)
	events := first + measured
	n := events * l.fanout
	sent := make([]atomic.Int64, events)
	latencies = make([]time.Duration, measured*l.fanout)
	var arrived atomic.Int64
	began := time.Now()
	see := func(path int, id string) {
		i, err := strconv.Atoi(strings.TrimPrefix(id, steadyPrefix))
		if err != nil || path >= l.healthy {
			return // of those that waited before
		}
		if i < first {
			return
		}
		if at := arrived.Add(1) - 1; at < int64(len(latencies)) {
			latencies[at] = time.Since(began) - time.Duration(sent[i].Load())
		}
	}
	t := b.receiver.expect(n)
	b.receiver.seen.Store(&see)
	defer b.receiver.seen.Store(nil)
	interval := (warm + l.lasts) / time.Duration(events)
	err = inTurns(ctx, b.plan.senders, events, func(ctx context.Context, i int) error {
		due := time.Duration(i) * interval
		if wait := due - time.Since(began); wait > 0 {
			time.Sleep(wait)
		}
		sent[i].Store(int64(time.Since(began)))
		return c.send(ctx, steadyPrefix+strconv.Itoa(i), i*l.fanout, l.fanout)
	})
	if err == nil {
		err = t.wait(ctx)
	}
	if err != nil {
		return nil, 0, err
	}
	rate = float64(n) / t.last.Sub(began).Seconds()
	if rate < 0.9*l.rate {
		b.logf("%.0f/s is less than the %.0f/s that were wanted: the machine was busy with something else", rate, l.rate)
	}
	return latencies, rate, t.check()
}

// steadyPrefix is of the IDs of events that are sent steadily.
const steadyPrefix = "steady-"
