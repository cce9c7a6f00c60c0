//go:build unix

package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCheckProbes shows what is held against a breaker. In each case, it opens after 100 ms,
// while three attempts are in flight; then two probes fail, the worker of one in between is killed,
// and the last succeeds. late shifts one of them and what comes after.
func TestCheckProbes(t *testing.T) {
	const ms = time.Millisecond
	type late = map[string]time.Duration
	for _, test := range []struct {
		name  string
		late  late
		trips int
		more  func(e *evidence)
		want  string // of the first violation; empty: none
	}{
		{"one at a time", late{}, 3, nil, ""},
		{"later", late{"first": 50 * ms, "killed": time.Second, "second": 50 * ms, "last": time.Second}, 3, nil, ""},
		{"the first early", late{"first": -20 * ms}, 3, nil, "was attempted 20ms before a probe was due"},
		{"the second early", late{"second": -20 * ms}, 3, nil, "was attempted 20ms before a probe was due"},
		{"the last early", late{"last": -20 * ms}, 3, nil, "was attempted 20ms before a probe was due"},
		{"lost for longer than its lease", late{"second": tardy + ms}, 3, nil, "a probe was 5.001s late"},
		{"two at a time", late{}, 3, func(e *evidence) { e.add("b", 301*ms, ms, 500) }, "before a probe was due"},
		{"within the lease", late{}, 3, func(e *evidence) { e.add("b", 5*time.Second, ms, 500) }, "before a probe was due"},
		{"not all in flight", late{}, 3, func(e *evidence) { e.requests = slices.Delete(e.requests, 1, 2) }, "3 attempts were in flight instead of 4"},
		{"one too many was counted", late{}, 4, nil, "the store has counted 4 trips instead of 3"},
		{"none succeeds", late{}, 3, func(e *evidence) { e.requests = e.requests[:len(e.requests)-1] }, "one has succeeded: false"},
		{"given up", late{}, 3, func(e *evidence) { e.killed = nil }, "was given up by its worker, which lives"},
		{"one less", late{}, 3, func(e *evidence) { e.plan.Repeats = 3 }, "2 probes have failed and 1 were killed instead of 3 and 1"},
		{"never open", late{}, 3, func(e *evidence) { e.requests = e.requests[:0] }, "the breaker never opened"},
		{"all flows at the end", late{}, 3, func(e *evidence) {
			last := e.requests[len(e.requests)-1]
			for _, by := range []string{"a", "b"} {
				last.by, last.at = by, last.at.Add(ms)
				e.requests = append(e.requests, last)
			}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := evidenceOf(t, scenarioBreaker, "-repeats", "2")
			e.trips, e.killed = test.trips, map[string]bool{"b": true}
			e.add("a", 0, 100*ms, 500) // opens it
			e.add("a", 50*ms, 100*ms, 500)
			e.add("b", 50*ms, 100*ms, 500)
			e.add("b", 50*ms, 100*ms, 500)
			at := 100*ms + e.plan.nthPause(1) + test.late["first"]
			e.add("a", at, 10*ms, 500)
			at += 10*ms + e.plan.nthPause(2) + test.late["killed"]
			e.add("b", at, ms, 0)
			at += e.plan.lease() + test.late["second"]
			if test.late["second"] > 0 {
				at -= test.late["killed"] // the lease is reckoned from when the probe was due
			}
			e.add("a", at, 10*ms, 500)
			at += 10*ms + e.plan.nthPause(3) + test.late["last"]
			e.add("a", at, 10*ms, 204)
			if test.more != nil {
				test.more(e)
			}
			var found finding
			e.checkProbes(&found)
			if test.want == "" {
				require.Empty(t, found.violations)
				return
			}
			require.NotEmpty(t, found.violations)
			require.Contains(t, found.violations[0], test.want)
		})
	}
}
