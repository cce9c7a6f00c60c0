//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// probe holds the first probes until their workers are killed, fails the next, and holds
// the last until the standing was looked at, which its success changes.
func (t *trial) probe(seen *request, gone <-chan struct{}) (status int) {
	t.mu.Lock()
	t.probes++
	n := t.probes
	t.mu.Unlock()
	switch n -= t.plan.Kills; {
	case n <= 0:
		t.doomed <- seen.by
		<-gone
		return 0
	case n <= t.plan.Repeats:
		time.Sleep(30 * time.Millisecond) // in which a second one would come
		return http.StatusInternalServerError
	case n == t.plan.Repeats+1:
		close(t.last)
		select {
		case <-t.judged:
		case <-gone:
			return 0
		}
	}
	return http.StatusNoContent
}

// probe kills the workers that make the first probes, and looks at the standing when
// the last one is under way.
func (r *parent) probe(ctx context.Context, store durable) error {
	for range r.plan.Kills {
		select {
		case by := <-r.trial.doomed:
			for _, w := range r.workers {
				if c := w.current.Load(); c.userAgent() == by {
					c.signal(syscall.SIGKILL)
				}
			}
		case <-time.After(patience):
			return errors.New("there was no probe")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if !within(ctx, patience, r.trial.last) {
		return errors.New("the last probe has not come")
	}
	for s, err := range store.Standings(ctx) {
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.trips = s.Trips
		r.mu.Unlock()
	}
	close(r.trial.judged)
	return nil
}

// checkProbes checks that one probe comes after each pause of the breaker, until one succeeds,
// and after the lease of one whose worker was killed.
func (e *evidence) checkProbes(f *finding) (figures string) {
	log := e.log()
	var opening *request
	for i := range log {
		if r := &log[i]; r.status == http.StatusInternalServerError && (opening == nil || r.left.Before(opening.left)) {
			opening = r
		}
	}
	if opening == nil {
		f.violate("the breaker never opened")
		return "probes=0"
	}
	later, inFlight := e.after(f, opening, log)
	var waits []string
	trips, killed, failed, early := 1, 0, 0, 0
	from, due := opening.left, opening.left.Add(e.plan.nthPause(1))
	closed := false
	for _, r := range later {
		if r.at.Before(due.Add(-clocks)) {
			early++
			f.violate("%v was attempted %v before a probe was due", r.id, due.Sub(r.at))
		}
		waits = append(waits, fmt.Sprintf("%.3fs", r.at.Sub(from).Seconds()))
		if late := r.at.Sub(due); late > tardy {
			f.violate("a probe was %v late", late)
		}
		if r.accepted() {
			closed = true
			break
		}
		if r.status == 0 && !e.killed[r.by] {
			f.violate("%v was given up by its worker, which lives", r.id)
			continue
		}
		if r.status == 0 { // its lease began when it was claimed, when it was due at the earliest
			killed++
			from, due = r.at, due.Add(e.plan.lease())
			continue
		}
		trips++
		failed++
		from, due = r.left, r.left.Add(e.plan.nthPause(trips))
	}
	if !closed || failed != e.plan.Repeats || killed != e.plan.Kills {
		f.violate("%d probes have failed and %d were killed instead of %d and %d, and one has succeeded: %t", failed, killed, e.plan.Repeats, e.plan.Kills, closed)
	}
	if e.trips != trips {
		f.violate("the store has counted %d trips instead of %d", e.trips, trips)
	}
	return fmt.Sprintf("in_flight=%d probes_failed=%d probes_killed=%d early=%d trips=%d after=%s", inFlight, failed, killed, early, e.trips, strings.Join(waits, ","))
}

// nthPause is the n-th pause of the breaker, at least.
func (p *plan) nthPause(n int) time.Duration {
	b := p.breaker()
	return min(b.Pause<<(n-1), b.MaxPause)
}
