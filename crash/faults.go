//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/outhook/outhook"
)

// at waits for the i-th of n times that are spread over the run.
func (r *parent) at(ctx context.Context, i, n int) error {
	share := (float64(i) + 0.5) / float64(n)
	return sleep(ctx, time.Until(r.plan.Begin.Add(time.Duration(share*float64(r.plan.Spread)))))
}

// kill kills workers, one after the other, at once or at a point of their work, and
// now and then a sender.
func (r *parent) kill(ctx context.Context) error {
	random := r.plan.draw("kill")
	for i := range r.plan.Kills {
		if err := r.at(ctx, i, r.plan.Kills); err != nil {
			return err
		}
		if i%4 == 3 {
			r.killSender(random)
		}
		w, c, err := r.take(ctx, random)
		if err != nil {
			return err
		}
		if point := r.plan.point(random); point != "" {
			c.tell("kill", point)
			within(ctx, 3*time.Second, c.done) // it may not get there, with nothing to do
		}
		c.signal(syscall.SIGKILL)
		<-c.done
		w.taken.Store(false)
	}
	return nil
}

func (r *parent) killSender(random *rand.Rand) {
	c := r.senders[random.IntN(len(r.senders))].current.Load()
	switch {
	case c == nil:
	case random.IntN(2) == 0:
		c.tell("kill", afterEnqueue)
	default:
		c.signal(syscall.SIGKILL)
	}
}

// take returns a place with a worker that runs, and keeps other faults away from it.
func (r *parent) take(ctx context.Context, random *rand.Rand) (*place, *child, error) {
	for {
		w := r.workers[random.IntN(len(r.workers))]
		if w.taken.CompareAndSwap(false, true) {
			if c := w.current.Load(); c != nil && !c.ended() {
				return w, c, nil
			}
			w.taken.Store(false)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, nil, err
		}
	}
}

// stop stops workers for longer than their lease, and lets them go on: the first, third
// and so on between an attempt and its outcome, which has to come too late then, the others
// wherever they are.
func (r *parent) stop(ctx context.Context) error {
	random := r.plan.draw("stop")
	for i := range r.plan.Stops {
		if err := r.at(ctx, i, r.plan.Stops); err != nil {
			return err
		}
		w, c, err := r.take(ctx, random)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			err = r.stopAfterAttempt(ctx, c)
		} else {
			c.signal(syscall.SIGSTOP)
			err = sleep(ctx, r.plan.lease()+4*time.Second)
		}
		r.mu.Lock()
		r.stops++
		r.mu.Unlock()
		c.signal(syscall.SIGCONT)
		r.tell("worker %d goes on", w.role.Index)
		if err != nil {
			return err
		}
		if i%2 == 0 && !within(ctx, patience, c.late) {
			return fmt.Errorf("a worker that was stopped until its delivery was attempted again has heard of no late outcome: %w", context.Cause(ctx))
		}
		w.taken.Store(false)
	}
	return nil
}

// stopAfterAttempt lets a worker stop itself between an attempt and its outcome, and
// returns when another one has attempted the same delivery again. Then the lease has
// ended, and the outcome is late, whatever else has happened meanwhile.
func (r *parent) stopAfterAttempt(ctx context.Context, c *child) error {
	c.tell("stop", afterSend)
	var id outhook.DeliveryID
	select {
	case id = <-c.stopped:
	case <-time.After(patience):
		return errors.New("a worker has made no attempt, after which it was to stop")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// Another one may have done so before: a worker stops itself between calls of the
	// store, and waits for one that may take longer than a lease.
	for end := time.Now().Add(patience); r.receiver.latest(id) == c.userAgent(); {
		if time.Now().After(end) {
			return fmt.Errorf("nobody has attempted %v again, whose worker was stopped", id)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// disturb causes the faults of the database.
func (r *parent) disturb(ctx context.Context) error {
	for i := range r.plan.Rounds {
		if err := r.at(ctx, i, r.plan.Rounds); err != nil {
			return err
		}
		r.tell("the database is disturbed")
		if err := r.database.disturb(ctx); err != nil {
			return err
		}
		r.tell("the database is left in peace")
	}
	return nil
}

// A word is something that a process says once, or more often.
type word chan struct{}

func (w word) say() {
	select {
	case w <- struct{}{}:
	default: // it was said before
	}
}

// within waits for something to happen, for a while, and reports whether it did.
func within(ctx context.Context, d time.Duration, what <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-what:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
