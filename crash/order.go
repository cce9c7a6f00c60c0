//go:build unix

package main

import (
	"cmp"
	"slices"

	"github.com/outhook/outhook"
)

// checkChains checks, from the log of the receiver, that the events of a key came in the
// order in which they were sent. No two sends of a run are under way at a time.
func (e *evidence) checkChains(f *finding) {
	requests := make(map[outhook.DeliveryID][]request)
	for _, r := range e.requests {
		requests[r.id] = append(requests[r.id], r)
	}
	type link struct{ subscriber, chain string }
	last := make(map[link]outhook.DeliveryID)
	for n := range e.sent {
		for i := range e.plan.Subscribers {
			at := link{subscriberID(i), e.plan.chain(n)}
			id := outhook.DeliveryID{Event: eventID(n), Subscriber: at.subscriber}
			slices.SortFunc(requests[id], func(a, b request) int { return cmp.Compare(a.began, b.began) })
			e.checkDuplicates(f, requests[id])
			if before, ok := last[at]; ok && len(requests[id]) > 0 {
				if what := e.overtakes(requests[id][0].began, requests[before]); what != "" {
					f.overtaken++
					f.violate("%v was attempted %s: %v", id, what, before)
				}
			}
			last[at] = id
		}
	}
}

// overtakes says what is wrong with a delivery whose first request began at an instant, given
// the requests for the one before it. One that was not accepted is known to be dead
// when it has failed as often as it may.
func (e *evidence) overtakes(began int, before []request) string {
	var failed int
	accepted := false
	for _, r := range before {
		switch {
		case r.began > began:
			return "before the last attempt of the one before it"
		case r.answered < began && r.accepted():
			accepted = true
		case r.answered < began && r.status != 0:
			failed++
		}
	}
	if !accepted && failed < e.plan.maxAttempts() {
		return "before the one before it was accepted or dead"
	}
	return ""
}

// checkDuplicates checks that a delivery was accepted again only if the worker that made
// the request before was killed, or was told that its outcome came too late, or has recorded
// that its time was over: on a machine that is slow it may be before the receiver, which has
// accepted it, is heard.
func (e *evidence) checkDuplicates(f *finding, requests []request) {
	var before *request // the accepted one
	unheard := 0        // attempts that must have been, to explain what came again
	for i := range requests {
		r := &requests[i]
		if !r.accepted() {
			continue
		}
		if before != nil && !e.killed[before.by] && !slices.Contains(e.late, r.id) {
			if unheard++; unheard > e.unheard(r.id) {
				f.violate("%v was accepted again, although the worker that made the attempt lives", r.id)
			}
		}
		before = r
	}
}

// unheard counts the attempts of a delivery whose time was over.
func (e *evidence) unheard(id outhook.DeliveryID) (n int) {
	for _, a := range e.attempts(id) {
		if a.Status == 0 && a.Error == "timeout" && a.Duration >= e.plan.timeout() {
			n++
		}
	}
	return n
}
