//go:build unix

package main

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/outhook/outhook"
)

// An evidence is what is known when a run is over.
type evidence struct {
	plan          *plan
	sent          []bool // by event: Send has returned no error
	requests      []request
	records       map[outhook.DeliveryID]outhook.Record
	detailed      []outhook.Record // with their attempts
	late          []outhook.DeliveryID
	interruptions int // workers that were killed, or stopped beyond a lease
	stops         int
	killed        map[string]bool // workers, by User-Agent
	trips         int             // breaker: what the store has counted in the end
	beats         []beat          // rate: of the metronome
}

// A finding is what the check has counted.
type finding struct {
	deliveries, delivered, dead          int
	lost, corrupt, duplicates, overtaken int
	skewed                               int // requests by workers whose clocks are wrong
	violations                           []string
}

// bound is how many duplicates there may be: each interruption leaves at most what the
// worker held unsettled, and that is made again.
func (e *evidence) bound() int { return e.interruptions * inFlight }

// A fate is what the receiver has seen of a delivery.
type fate struct {
	requests, accepted int
	began              int // when the first request did
	done               int // when the first was accepted
}

func (e *evidence) fates() map[outhook.DeliveryID]fate {
	fates := make(map[outhook.DeliveryID]fate, len(e.records))
	for _, r := range e.requests {
		f := fates[r.id]
		if f.requests++; f.requests == 1 || r.began < f.began {
			f.began = r.began
		}
		if r.accepted() {
			if f.accepted++; f.accepted == 1 || r.answered < f.done {
				f.done = r.answered
			}
		}
		fates[r.id] = f
	}
	return fates
}

// curious names the deliveries whose attempts are looked at: those to which something
// happened, and some others.
func (e *evidence) curious() []outhook.DeliveryID {
	fates := e.fates()
	list := slices.Clone(e.late)
	n := 0
	for id, record := range e.records {
		if n++; record.State != outhook.Delivered || fates[id].requests != 1 || n%50 == 0 {
			list = append(list, id)
		}
	}
	return list
}

// check holds what has happened against what was accepted.
func (e *evidence) check() finding {
	var f finding
	fates := e.fates()
	e.checkRequests(&f)
	for n, sent := range e.sent {
		if !sent {
			f.violate("event %d was never accepted", n)
			continue
		}
		for i := range e.plan.Subscribers {
			id := outhook.DeliveryID{Event: eventID(n), Subscriber: subscriberID(i)}
			e.checkDelivery(&f, id, fates[id])
		}
	}
	for id := range e.records {
		if n := eventNumber(id.Event); n < 0 || n >= len(e.sent) {
			f.violate("%v is in the store, but in no plan", id)
		}
	}
	if f.duplicates > e.bound() {
		f.violate("%d duplicates are more than %d interruptions of %d in flight explain", f.duplicates, e.interruptions, inFlight)
	}
	if e.stops > 0 && len(e.late) == 0 {
		f.violate("of %d workers that were stopped beyond their lease, none was told that an outcome was lost", e.stops)
	}
	if e.plan.Scenario == scenarioOrder {
		e.checkChains(&f)
	} else {
		e.checkOrder(&f, fates)
	}
	for i := range e.detailed {
		if what := e.checkAttempts(&e.detailed[i], fates[e.detailed[i].ID]); what != "" {
			f.violate("%v: %s: %s", e.detailed[i].ID, what, e.known(e.detailed[i].ID, fates[e.detailed[i].ID]))
		}
	}
	return f
}

// checkScenario checks what the scenario is there to show, and returns its figures.
func (e *evidence) checkScenario(f *finding) (figures string) {
	switch e.plan.Scenario {
	case scenarioOrder:
		return fmt.Sprintf("keys=%d requests=%d overtaken=%d", e.plan.Keys, len(e.requests), f.overtaken)
	case scenarioRate:
		return e.checkRate(f)
	case scenarioPause:
		return e.checkPauses(f)
	case scenarioBreaker:
		return e.checkProbes(f)
	}
	return ""
}

// most bounds how many violations are told; the others are counted.
const most = 100

func (f *finding) violate(format string, args ...any) {
	switch n := len(f.violations); {
	case n < most:
		f.violations = append(f.violations, fmt.Sprintf(format, args...))
	case n == most:
		f.violations = append(f.violations, "and more")
	}
}

// checkRequests checks that each request is of the plan, signed and byte-identical.
func (e *evidence) checkRequests(f *finding) {
	bodies := make([][sha256.Size]byte, e.plan.Events)
	for n := range bodies {
		bodies[n] = sha256.Sum256(e.plan.payload(n).Body)
	}
	for i := range e.requests {
		r := &e.requests[i]
		if r.skewed {
			f.skewed++
		}
		n := eventNumber(r.id.Event)
		switch {
		case n < 0 || n >= len(bodies):
			f.violate("a request for %v, which is in no plan", r.id)
		case r.body != bodies[n]:
			f.violate("a request for %v with another body", r.id)
		case !r.signed:
			f.violate("a request for %v without a valid signature", r.id)
		default:
			continue
		}
		f.corrupt++
	}
}

// checkDelivery checks the end of one that was accepted.
func (e *evidence) checkDelivery(f *finding, id outhook.DeliveryID, seen fate) {
	record, kept := e.records[id]
	lose := func(why string) {
		f.lost++
		f.violate("%v is lost: %s: %s", id, why, e.known(id, seen))
	}
	f.deliveries++
	f.duplicates += max(0, seen.accepted-1)
	switch {
	case !kept:
		lose("the store does not know it")
	case record.State == outhook.Delivered:
		f.delivered++
		if seen.accepted == 0 {
			lose("the receiver has not accepted it")
		}
	case record.State == outhook.Dead:
		f.dead++
		switch {
		case record.Reason == outhook.ReasonAbandoned && e.interruptions > 0:
		case record.Reason != outhook.ReasonExhausted:
			f.violate("%v is dead, for which there was no cause: %s", id, e.known(id, seen))
		case seen.accepted > 0 || e.plan.answer(id).failures < e.plan.maxAttempts():
			f.violate("%v is dead, although the receiver accepts it: %s", id, e.known(id, seen))
		}
	default:
		lose("it is not settled")
	}
}

// checkOrder checks that none of a chain was attempted before the one before it
// was accepted.
func (e *evidence) checkOrder(f *finding, fates map[outhook.DeliveryID]fate) {
	for i := range e.plan.Subscribers {
		last := make(map[string]outhook.DeliveryID) // by chain
		for n := range e.sent {
			chain := e.plan.chain(n)
			if chain == "" {
				continue
			}
			id := outhook.DeliveryID{Event: eventID(n), Subscriber: subscriberID(i)}
			before, ok := last[chain]
			last[chain] = id
			if !ok || e.records[before].State != outhook.Delivered || fates[id].requests == 0 {
				continue
			}
			if fates[id].began < fates[before].done {
				f.overtaken++
				f.violate("%v has overtaken %v: %s; %s", id, before, e.known(id, fates[id]), e.known(before, fates[before]))
			}
		}
	}
}

// checkAttempts says what is wrong with the history of a delivery.
func (e *evidence) checkAttempts(r *outhook.Record, seen fate) string {
	var answered, accepted int
	for i, a := range r.Attempts {
		if a.Number < 1 || a.Number > i+1 || i > 0 && a.Number < r.Attempts[i-1].Number || a.Replay != 0 {
			return "the attempts are not numbered in order"
		}
		if a.Status != 0 {
			answered++
		}
		if a.Status/100 == 2 {
			accepted++
		}
	}
	switch {
	case answered > seen.requests || accepted > seen.accepted:
		return "more attempts are recorded than were made"
	case accepted > 1:
		return "it was delivered twice, of which one outcome was late"
	case r.State == outhook.Delivered && (accepted != 1 || r.Attempts[len(r.Attempts)-1].Status/100 != 2):
		return "it is delivered, but its last attempt was not"
	case r.State == outhook.Dead && accepted != 0:
		return "it is dead, but an attempt was accepted"
	case r.State == outhook.Dead && r.Reason == outhook.ReasonExhausted && len(r.Attempts) < e.plan.maxAttempts():
		return "it is exhausted, but has not had all of its attempts"
	}
	return ""
}

// attempts returns those of a delivery that were looked at.
func (e *evidence) attempts(id outhook.DeliveryID) []outhook.Attempt {
	for i := range e.detailed {
		if e.detailed[i].ID == id {
			return e.detailed[i].Attempts
		}
	}
	return nil
}

// known tells all that is known of a delivery.
func (e *evidence) known(id outhook.DeliveryID, seen fate) string {
	var b strings.Builder
	if r, ok := e.records[id]; ok {
		fmt.Fprintf(&b, "%s %s since %s", r.State, r.Reason, r.Since.Format("15:04:05.000"))
	} else {
		b.WriteString("no record")
	}
	fmt.Fprintf(&b, ", %d requests, %d accepted", seen.requests, seen.accepted)
	for _, a := range e.attempts(id) {
		fmt.Fprintf(&b, ", attempt %d: status %d %s", a.Number, a.Status, a.Error)
	}
	for i := range e.requests {
		if r := &e.requests[i]; r.id == id {
			fmt.Fprintf(&b, ", request %d to %d: status %d", r.began, r.answered, r.status)
		}
	}
	if slices.Contains(e.late, id) {
		b.WriteString(", an outcome was late")
	}
	return b.String()
}
