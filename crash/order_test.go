//go:build unix

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestCheckChains shows that the check of the order notices what it is there for, and
// nothing else. Without a change, events 0, 2 and 4 have one key and events 1, 3 and 5 another,
// and the requests have come in the order of their numbers.
func TestCheckChains(t *testing.T) {
	id := func(n int) outhook.DeliveryID {
		return outhook.DeliveryID{Event: eventID(n), Subscriber: subscriberID(0)}
	}
	fail := func(e *evidence, n, times int) {
		for range times {
			e.request(id(n), 500)
		}
	}
	accept := func(e *evidence, by string, numbers ...int) {
		for _, n := range numbers {
			e.request(id(n), 204)
			e.requests[len(e.requests)-1].by = by
		}
	}
	for _, test := range []struct {
		name string
		make func(e *evidence)
		want string // of the first violation; empty: none
	}{
		{"in order", func(e *evidence) { accept(e, "a", 0, 1, 2, 3, 4, 5) }, ""},
		{"keys apart", func(e *evidence) { accept(e, "a", 1, 3, 5, 0, 2, 4) }, ""},
		{"not all", func(e *evidence) { accept(e, "a", 0, 1, 2) }, ""},
		{"failed before", func(e *evidence) {
			fail(e, 0, e.plan.maxAttempts()-1)
			accept(e, "a", 0, 1, 2, 3, 4, 5)
		}, ""},
		{"the last first", func(e *evidence) { accept(e, "a", 0, 1, 4, 2, 3, 5) }, "event-4/subscriber-0 was attempted before the last attempt"},
		{"one was never attempted", func(e *evidence) { accept(e, "a", 0, 1, 3, 4, 5) }, "event-4/subscriber-0 was attempted before the one before it was accepted"},
		{"the one before had failed", func(e *evidence) {
			fail(e, 0, 1)
			fail(e, 2, 1)
			accept(e, "a", 0, 2)
		}, "event-2/subscriber-0 was attempted before"},
		{"the one before was not dead", func(e *evidence) {
			fail(e, 0, e.plan.maxAttempts()-1)
			accept(e, "a", 2)
		}, "event-2/subscriber-0 was attempted before the one before it was accepted"},
		{"the one before was dead", func(e *evidence) {
			fail(e, 0, e.plan.maxAttempts())
			accept(e, "a", 2)
		}, ""},
		{"it died afterwards", func(e *evidence) {
			fail(e, 0, e.plan.maxAttempts()-1)
			accept(e, "a", 2)
			fail(e, 0, 1)
		}, "event-2/subscriber-0 was attempted before the last attempt"},
		{"the one before had no answer yet", func(e *evidence) {
			accept(e, "a", 0, 2)
			e.requests[0].answered = e.requests[1].answered + 1
		}, "event-2/subscriber-0 was attempted before the one before it was accepted"},
		{"again by a worker that lives", func(e *evidence) { accept(e, "a", 0, 0) }, "event-0/subscriber-0 was accepted again"},
		{"again after no answer was heard", func(e *evidence) {
			accept(e, "a", 0, 0)
			e.detailed = []outhook.Record{{ID: id(0), Attempts: []outhook.Attempt{{Number: 1, Error: "timeout", Duration: 2 * time.Second}, {Number: 2, Status: 204}}}}
		}, ""},
		{"again after no answer was heard, and again", func(e *evidence) {
			accept(e, "a", 0, 0, 0)
			e.detailed = []outhook.Record{{ID: id(0), Attempts: []outhook.Attempt{{Number: 1, Error: "timeout", Duration: 2 * time.Second}, {Number: 2, Status: 204}}}}
		}, "event-0/subscriber-0 was accepted again"},
		{"again after an attempt that was cut off early", func(e *evidence) {
			accept(e, "a", 0, 0)
			e.detailed = []outhook.Record{{ID: id(0), Attempts: []outhook.Attempt{{Number: 1, Error: "timeout", Duration: time.Second}, {Number: 2, Status: 204}}}}
		}, "event-0/subscriber-0 was accepted again"},
		{"again after a kill", func(e *evidence) {
			accept(e, "killed", 0)
			accept(e, "a", 0, 2)
		}, ""},
		{"again after a kill, and again", func(e *evidence) {
			accept(e, "killed", 0)
			accept(e, "a", 0, 0)
		}, "event-0/subscriber-0 was accepted again"},
		{"again after a kill, behind the next", func(e *evidence) {
			accept(e, "killed", 0)
			accept(e, "a", 2, 0)
		}, "event-2/subscriber-0 was attempted before the last attempt"},
		{"again after an outcome that was late", func(e *evidence) {
			e.late = append(e.late, id(0))
			accept(e, "a", 0, 0)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := parse([]string{"-scenario", "order", "-keys", "2", "-deliveries", "6"})
			require.NoError(t, err)
			e := &evidence{plan: &p, sent: make([]bool, p.Events), killed: map[string]bool{"killed": true}}
			test.make(e)
			var found finding
			e.checkChains(&found)
			if test.want == "" {
				require.Empty(t, found.violations)
				return
			}
			require.NotEmpty(t, found.violations)
			require.Contains(t, found.violations[0], test.want)
		})
	}
}
