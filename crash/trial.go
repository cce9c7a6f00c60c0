//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

// A trial is how the receiver treats a subscriber whose pace, pauses or breaker is to be shown.
//
// Pauses and breakers begin at a gate, where the receiver holds back as many attempts as all
// workers may have in flight, so that none of them has claimed any other. It fails
// the first, and lets the others go when that failure is stored. Between the two, and from then
// on, nothing may begin that the standing does not admit. If not all come in time,
// those that have are accepted, and it is tried again.
type trial struct {
	plan   *plan
	doomed chan string   // a process that is to be killed, whose attempt is held
	last   chan struct{} // closed when the last probe has begun, which is held
	judged chan struct{} // closed when it may succeed

	mu     sync.Mutex // guards all below
	gate   *gate      // the present one, or the last
	passed int        // gates at which one has failed
	probes int        // that have begun
}

type gate struct {
	first  outhook.DeliveryID
	held   int
	full   chan struct{} // closed when all are held
	opened chan struct{} // closed when the first has failed, which is stored, or not all have come
	failed bool          // the former
	open   bool          // opened is closed
}

// newTrial returns nil if the plan itself says how requests are answered.
func newTrial(p *plan) *trial {
	switch p.Scenario {
	case scenarioRate, scenarioPause, scenarioBreaker:
		return &trial{plan: p, doomed: make(chan string, p.Kills), last: make(chan struct{}), judged: make(chan struct{})}
	}
	return nil
}

// answer returns the status of the answer, or 0 if gone was closed, since the worker has
// given the attempt up.
func (t *trial) answer(seen *request, gone <-chan struct{}) (status int) {
	gates, failure := 0, http.StatusInternalServerError
	switch t.plan.Scenario {
	case scenarioPause:
		gates, failure = t.plan.Repeats, http.StatusTooManyRequests
	case scenarioBreaker:
		gates = 1
	}
	if g, first := t.enter(seen, gates); g != nil {
		return t.hold(g, first, failure, gone)
	}
	if t.plan.Scenario == scenarioBreaker {
		return t.probe(seen, gone)
	}
	return http.StatusNoContent
}

// enter returns the gate that holds a request, of so many in all, nil if all are passed.
func (t *trial) enter(seen *request, gates int) (_ *gate, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gate == nil || t.gate.open {
		if t.passed == gates {
			return nil, false
		}
		t.gate = &gate{first: seen.id, full: make(chan struct{}), opened: make(chan struct{})}
	}
	g := t.gate
	if g.held++; g.held == t.plan.flying() {
		close(g.full)
	}
	return g, g.held == 1
}

// hold holds a request back and returns the status of its answer.
func (t *trial) hold(g *gate, first bool, failure int, gone <-chan struct{}) (status int) {
	if first {
		within(context.Background(), t.plan.timeout()/2, g.full)
		if t.decide(g) {
			return failure
		}
		return http.StatusNoContent
	}
	select {
	case <-g.opened:
	case <-gone:
		return 0
	}
	if t.plan.Scenario == scenarioBreaker && g.failed { // what was in flight fails, too
		return failure
	}
	return http.StatusNoContent
}

// decide reports whether the first at a gate is to fail. If not all have come, it opens it.
func (t *trial) decide(g *gate) (fail bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.failed = g.held == t.plan.flying(); !g.failed {
		g.open = true
		close(g.opened)
	}
	return g.failed
}

// stored notes that a failure is stored. That of the first at a gate opens it.
func (t *trial) stored(id outhook.DeliveryID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.gate; g != nil && g.first == id && g.failed && !g.open {
		g.open = true
		t.passed++
		close(g.opened)
	}
}

// try shows what a pace, a pause or a breaker does.
func (r *parent) try(ctx context.Context, store durable) error {
	if r.plan.Scenario == scenarioRate {
		return r.tryRate(ctx, store)
	}
	return r.employ(ctx, func() error {
		if err := r.all(ctx, saidReady); err != nil {
			return err
		}
		var probing sync.WaitGroup
		defer probing.Wait()
		if r.plan.Scenario == scenarioBreaker {
			probing.Go(func() { r.check(r.probe(ctx, store)) })
		}
		if err := r.send(ctx, store); err != nil {
			return err
		}
		probing.Wait()
		return r.settled(ctx, store)
	})
}

// tryRate gives the workers a backlog, of which each claims as much as it may before any
// of them has stored the pace.
func (r *parent) tryRate(ctx context.Context, store durable) error {
	if err := r.send(ctx, store); err != nil {
		return err
	}
	return r.employ(ctx, func() error {
		if err := r.all(ctx, saidClaimed); err != nil {
			return err
		}
		var measuring sync.WaitGroup
		defer measuring.Wait()
		measured, end := context.WithCancel(ctx)
		defer end()
		measuring.Go(func() { r.check(r.metronome.run(measured, filepath.Join(r.dir, "metronome"))) })
		for _, w := range r.workers {
			w.current.Load().tell("go")
		}
		return r.settled(ctx, store)
	})
}

// send sends all events.
func (r *parent) send(ctx context.Context, store durable) error {
	d, err := outhook.New(store, r.plan.options())
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	const senders = 8
	var errs [senders]error
	for i := range senders {
		sending.Go(func() {
			for n := i; n < r.plan.Events && errs[i] == nil; n += senders {
				for end := time.Now().Add(patience); ; { // a store may be busy
					_, errs[i] = d.Send(ctx, r.plan.event(n), r.plan.subscribers())
					if errs[i] == nil || ctx.Err() != nil || time.Now().After(end) {
						break
					}
				}
				r.mu.Lock()
				r.sent[n] = errs[i] == nil
				r.mu.Unlock()
			}
		})
	}
	sending.Wait()
	return errors.Join(errs[:]...)
}

// all waits until every worker has said something.
func (r *parent) all(ctx context.Context, word string) error {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		r.mu.Lock()
		n := r.said[word]
		r.mu.Unlock()
		if n >= r.plan.Workers {
			return nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("not every worker has said that it is %s", word)
}

// flying is how many attempts all workers may have in flight to a subscriber.
func (p *plan) flying() int { return p.Workers * p.subscriberConcurrency() }

// log returns the requests by when they began.
func (e *evidence) log() []request {
	return slices.SortedFunc(slices.Values(e.requests), func(a, b request) int { return a.at.Compare(b.at) })
}

// after returns the requests that began after the answer to one that has failed, and how
// many were in flight then: as many as there can be, or a worker may have claimed another.
func (e *evidence) after(f *finding, failed *request, log []request) (later []request, inFlight int) {
	for _, r := range log {
		switch {
		case r.at.After(failed.left):
			later = append(later, r)
		case !r.left.Before(failed.left):
			inFlight++
		}
	}
	if inFlight != e.plan.flying() {
		f.violate("%d attempts were in flight instead of %d", inFlight, e.plan.flying())
	}
	return later, inFlight
}
