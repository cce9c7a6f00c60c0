package webhooktest

import (
	"slices"
	"time"
)

// Wait waits until n deliveries have been accepted, which is answered 2xx, since
// the Receiver was made, and returns the first n of these requests, in that
// order. A delivery that came again counts once. The test fails if they do not
// come in time, and at once if something came that cannot be verified.
//
// The sender knows of the acceptance a little later. In a bubble, synctest.Wait
// waits for that.
func (r *Receiver) Wait(n int) Requests {
	r.t.Helper()
	return r.wait(n, "deliveries have been accepted", func() Requests { return r.accepted })
}

// WaitFor is [Receiver.Wait] for one delivery of the event with an ID.
func (r *Receiver) WaitFor(id string) Request {
	r.t.Helper()
	got := r.wait(1, "deliveries of event "+id+" have been accepted", func() Requests {
		return r.accepted.filter(func(q *Request) bool { return q.ID == id })
	})
	if len(got) == 0 {
		return Request{} // only if Fatal has returned
	}
	return got[0]
}

// WaitRequests waits until n requests have arrived, whatever they are answered, and
// returns them in that order.
func (r *Receiver) WaitRequests(n int) Requests {
	r.t.Helper()
	return r.wait(n, "requests have arrived", func() Requests { return r.log })
}

// Requests returns what has arrived, in that order.
func (r *Receiver) Requests() Requests {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// wait waits until pick, which is called with r.mu held, finds n requests.
func (r *Receiver) wait(n int, what string, pick func() Requests) Requests {
	r.t.Helper()
	// The channel is made here, so that in a bubble it belongs to it, and time
	// passes while it is waited for.
	woken := make(chan struct{}, 1)
	r.mu.Lock()
	r.waiting = append(r.waiting, woken)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.waiting = slices.DeleteFunc(r.waiting, func(c chan struct{}) bool { return c == woken })
	}()

	bound := r.bound()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for late := false; ; {
		if text := r.complaint(); text != "" {
			r.t.Fatal(text)
			return nil
		}
		got, found := r.first(n, pick)
		if found == n {
			return got
		}
		if late {
			r.t.Fatalf("webhooktest: %d of %d %s within %v\n%s", found, n, what, bound, r.Requests())
			return nil
		}
		select {
		case <-woken:
		case <-timer.C:
			late = true
		}
	}
}

// first returns n requests that pick finds, and how many there are.
func (r *Receiver) first(n int, pick func() Requests) (got Requests, found int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := pick()
	if len(all) < n {
		return nil, len(all)
	}
	return slices.Clone(all[:n]), n
}

// wake tells those who wait to look again. r.mu is held.
func (r *Receiver) wake() {
	for _, woken := range r.waiting {
		select {
		case woken <- struct{}{}:
		default: // it has been told
		}
	}
}

// bound is how long is waited.
func (r *Receiver) bound() time.Duration {
	if r.Timeout > 0 {
		return r.Timeout
	}
	if inBubble() {
		return 7 * 24 * time.Hour
	}
	bound := 30 * time.Second
	if t, ok := r.t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := t.Deadline(); ok {
			left := time.Until(deadline)
			bound = min(bound, left-left/10) // the rest is for telling of it
		}
	}
	return bound
}

// inBubble reports whether the caller is in a synctest bubble: there, times have
// no monotonic part, which Round would take away.
func inBubble() bool {
	now := time.Now()
	return now == now.Round(0)
}
