//go:build unix

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCheckRate shows what is held against a pace. In each case, the two workers have made 64
// attempts at once, and from the end of that debt on one each 20 ms, for half a minute.
func TestCheckRate(t *testing.T) {
	const ms = time.Millisecond
	const steady, end = 1100 * ms, 30 * time.Second
	at := func(n int) time.Duration { return steady + time.Duration(n)*20*ms }
	drop := func(e *evidence, from, n int) { // of the steady ones
		e.requests = append(e.requests[:64+from], e.requests[64+from+n:]...)
	}
	extra := func(e *evidence, at time.Duration, n int) {
		for range n {
			e.add("a", at, ms, 204)
		}
	}
	late := func(e *evidence, at, awake, stored time.Duration) {
		e.beats = append(e.beats, beat{begin.Add(at), awake, stored})
	}
	for _, test := range []struct {
		name   string
		change func(e *evidence)
		want   string // of the first violation; empty: none
	}{
		{"kept", func(*evidence) {}, ""},
		{"a burst more", func(e *evidence) { extra(e, 15*time.Second, 25) }, ""},
		{"too many in the middle", func(e *evidence) { extra(e, 15*time.Second, 26) }, "526 attempts in 10s, from 5.02s on, are more than 525"},
		{"too many at the beginning", func(e *evidence) { extra(e, ms, 32) }, "541 attempts in 10s, from 0s on, are more than 525"},
		{"too many at the end", func(e *evidence) { extra(e, end, 27) }, "526 attempts in 10s"},
		{"too many, but the receiver was late", func(e *evidence) {
			extra(e, 15*time.Second, 30)
			late(e, 15*time.Second, 110*ms, 110*ms)
		}, ""},
		{"too many, and only the disk was late", func(e *evidence) {
			extra(e, 15*time.Second, 30)
			late(e, 15*time.Second, 0, 110*ms)
		}, "530 attempts in 10s"},
		{"a burst less", func(e *evidence) { drop(e, 600, 25) }, ""},
		{"too few", func(e *evidence) { drop(e, 600, 26) }, "474 attempts in 10s, from 3.62s on, are less than 475"},
		{"too few, but the disk was late", func(e *evidence) {
			drop(e, 600, 26)
			late(e, at(600), 0, 520*ms)
		}, ""},
		{"too few, and the disk was late elsewhere", func(e *evidence) {
			drop(e, 600, 26)
			late(e, at(0), 0, 520*ms)
		}, "474 attempts in 10s"},
		{"too few, and the disk was hardly late", func(e *evidence) {
			drop(e, 600, 26)
			late(e, at(600), 0, 49*ms)
		}, "474 attempts in 10s"},
		{"no pace", func(e *evidence) {
			e.requests = e.requests[:0]
			extra(e, 0, 526)
		}, "526 attempts in 10s, from 0s on, are more than 525"},
		{"too short", func(e *evidence) { e.requests = e.requests[:64+500] }, "are too few to see a steady pace"},
		{"one worker", func(e *evidence) {
			for i := range e.requests {
				e.requests[i].by = "a"
			}
		}, "1 workers of 2"},
		{"none", func(e *evidence) { e.requests = nil }, "there were no attempts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := evidenceOf(t, scenarioRate)
			for i := range 64 {
				e.add([]string{"a", "b"}[i%2], 0, ms, 204)
			}
			for n := 0; at(n) < end; n++ {
				e.add("b", at(n), ms, 204)
			}
			test.change(e)
			var found finding
			e.checkRate(&found)
			if test.want == "" {
				require.Empty(t, found.violations)
				return
			}
			require.NotEmpty(t, found.violations)
			require.Contains(t, found.violations[0], test.want)
		})
	}
}
