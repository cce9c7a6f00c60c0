//go:build unix

package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestScenarios is a short run of each scenario on each store. They wait more than they
// work, and so run at the same time.
func TestScenarios(t *testing.T) {
	scenarios := []struct {
		args string
		want []string // in the output
	}{
		{"rate -deliveries 700", []string{" delivered=700 "}},
		{"pause -repeats 2", []string{" pauses=2 "}},
		{"breaker -repeats 2", []string{" probes_failed=2 probes_killed=1 "}},
		{"order -keys 20 -deliveries 400 -spread 3s", []string{" kills=2 ", " deliveries=400 ", " keys=20 "}},
	}
	for _, store := range []string{"postgres", "sqlite"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			var running sync.WaitGroup
			outs, errs := make([]strings.Builder, len(scenarios)), make([]error, len(scenarios))
			for i, s := range scenarios {
				p, err := parse(append([]string{"-store", store, "-scenario"}, strings.Fields(s.args)...))
				require.NoError(t, err)
				running.Go(func() { errs[i] = run(t.Context(), p, &outs[i]) })
			}
			running.Wait()
			for i, s := range scenarios {
				t.Log(outs[i].String())
				if errs[i] != nil {
					t.Errorf("%s: %v", s.args, errs[i])
				}
				for _, want := range s.want {
					if !strings.Contains(outs[i].String(), want) {
						t.Errorf("%s: no %q", s.args, want)
					}
				}
			}
		})
	}
}

// evidenceOf is the evidence of a run of a scenario with two workers, a and b, in which nothing
// has happened yet.
func evidenceOf(t *testing.T, scenario string, args ...string) *evidence {
	t.Helper()
	p, err := parse(append([]string{"-scenario", scenario, "-processes", "2"}, args...))
	require.NoError(t, err)
	return &evidence{plan: &p}
}

// begin is when the requests of evidence that was made up begin.
var begin = time.Unix(1_000_000, 0)

// add adds a request that began at an instant and took a while.
func (e *evidence) add(by string, at, took time.Duration, status int) {
	e.requests = append(e.requests, request{by: by, status: status, at: begin.Add(at), left: begin.Add(at + took)})
}
