//go:build unix

package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	// asked is the pause that the receiver asks for.
	asked = 2 * time.Second

	// tardy is how late what is due may be. It is there to notice what never comes.
	tardy = 5 * time.Second

	// clocks is how far the clock of the store may be from that of the receiver, over
	// a pause: both are that of the machine.
	clocks = 5 * time.Millisecond
)

// checkPauses checks that nothing was attempted for as long as the receiver asked for, and
// something after.
func (e *evidence) checkPauses(f *finding) (figures string) {
	log := e.log()
	var inFlight, firsts []string
	pauses, early := 0, 0
	for i := range log {
		r := &log[i]
		if r.status != http.StatusTooManyRequests {
			continue
		}
		pauses++
		later, n := e.after(f, r, log)
		inFlight = append(inFlight, fmt.Sprint(n))
		first := time.Duration(-1)
		for _, l := range later {
			if wait := l.at.Sub(r.left); wait < asked-clocks {
				early++
				f.violate("%v was attempted after %v, in pause %d", l.id, wait, pauses)
			} else if first < 0 {
				first = wait
			}
		}
		firsts = append(firsts, fmt.Sprintf("%.3fs", first.Seconds()))
		if first < 0 || first > asked+tardy {
			f.violate("nothing was attempted for long after pause %d", pauses)
		}
	}
	if pauses != e.plan.Repeats {
		f.violate("%d pauses were asked for, instead of %d", pauses, e.plan.Repeats)
	}
	return fmt.Sprintf("asked=%v pauses=%d in_flight=%s early=%d next_after=%s", asked, pauses, strings.Join(inFlight, ","), early, strings.Join(firsts, ","))
}
