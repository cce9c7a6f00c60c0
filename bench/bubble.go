//go:build unix

package main

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
)

// inBubble runs f where time passes as soon as nothing else is to be done, and exits.
// Bubbles are for tests alone, so that this process becomes one.
func inBubble(f func(ctx context.Context) error) {
	all := func(_, _ string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "Bubble", F: func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if err := f(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}}}, nil, nil)
}

// be is the role of a process that simulates.
func (s *simulation) be(answers *json.Encoder) {
	inBubble(func(ctx context.Context) error {
		if err := answers.Encode(childReport{}); err != nil { // it is ready
			return err
		}
		if err := s.run(ctx); err != nil {
			return err
		}
		return answers.Encode(s.report())
	})
}
