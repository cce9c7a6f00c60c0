//go:build unix

package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCheckPauses shows what is held against a pause. In each case, worker a gets 429
// after 100 ms, while three attempts are in flight until 200 ms, the last of which is b's.
func TestCheckPauses(t *testing.T) {
	const ms = time.Millisecond
	over := 100*ms + asked
	for _, test := range []struct {
		name string
		make func(e *evidence)
		want string // of the first violation; empty: none
	}{
		{"kept", func(e *evidence) {
			e.add("a", over, ms, 204)
			e.add("b", over+ms, ms, 204)
		}, ""},
		{"broken by the same worker", func(e *evidence) { e.add("a", over-10*ms, ms, 204) }, "was attempted after 1.99s, in pause 1"},
		{"broken by the other", func(e *evidence) { e.add("b", 300*ms, ms, 204) }, "was attempted after 200ms, in pause 1"},
		{"broken later", func(e *evidence) {
			e.add("a", over, ms, 204)
			e.add("b", over-time.Second, ms, 204)
		}, "was attempted after 1s, in pause 1"},
		{"never", func(e *evidence) { e.requests = e.requests[1:] }, "0 pauses were asked for"},
		{"one was not in flight", func(e *evidence) { e.requests = e.requests[:3] }, "3 attempts were in flight instead of 4"},
		{"for ever", func(*evidence) {}, "nothing was attempted for long after pause 1"},
		{"for too long", func(e *evidence) { e.add("a", over+tardy+ms, ms, 204) }, "nothing was attempted for long after pause 1"},
		{"twice", func(e *evidence) {
			e.add("a", over, ms, http.StatusTooManyRequests)
			for range 3 {
				e.add("b", over, 2*ms, 204)
			}
			e.add("a", over+ms+asked, ms, 204)
		}, "2 pauses were asked for, instead of 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := evidenceOf(t, scenarioPause, "-repeats", "1")
			e.add("a", 0, 100*ms, http.StatusTooManyRequests)
			e.add("a", 0, 200*ms, 204)
			e.add("b", 0, 200*ms, 204)
			e.add("b", 0, 200*ms, 204)
			test.make(e)
			var found finding
			e.checkPauses(&found)
			if test.want == "" {
				require.Empty(t, found.violations)
				return
			}
			require.NotEmpty(t, found.violations)
			require.Contains(t, found.violations[0], test.want)
		})
	}
}
