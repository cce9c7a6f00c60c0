package storetest_test

import (
	"errors"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
)

// TestRules holds the rules and the sentences of store.go equal.
func TestRules(t *testing.T) {
	source, err := os.ReadFile("../store.go")
	require.NoError(t, err)
	var sentences []string
	for _, match := range regexp.MustCompile(`(?m)^\s*//\s+- (.*\bmust\b.*)$`).FindAllStringSubmatch(string(source), -1) {
		sentences = append(sentences, match[1])
	}
	require.Len(t, sentences, 29)

	var texts []string
	names := make(map[string]bool)
	for _, rule := range storetest.Rules() {
		if rule.Text != "" {
			texts = append(texts, rule.Text)
		}
		require.False(t, names[rule.Name], "%s stands twice", rule.Name)
		names[rule.Name] = true
	}
	require.Equal(t, sentences, texts)
}

// plain hides the optional interfaces of a store.
type plain struct{ outhook.Store }

// TestPlainStore runs the suite on a store of three methods.
func TestPlainStore(t *testing.T) {
	newBackend := func() (storetest.Backend, error) {
		return storetest.Backend{Store: plain{outhook.NewMemoryStore()}}, nil
	}
	require.NoError(t, storetest.Check(t.Context(), newBackend))
	skipped := make(map[string]string)
	for _, rule := range storetest.Rules() {
		if err := rule.Check(t.Context(), newBackend); errors.Is(err, storetest.ErrSkipped) {
			skipped[rule.Name] = err.Error()
		}
	}
	manager, standings := "skipped: the store is no outhook.Manager", "skipped: the store is no outhook.StandingStore"
	require.Equal(t, map[string]string{
		"StandingStore/change": standings, "StandingStore/admit": standings, "StandingStore/serial": standings, "Effects": standings,
		"Manager/terminal": manager, "Manager/replay": manager, "Manager/cancel": manager, "Manager/prune": manager,
		"Records": manager, "Filters": manager, "Stats": manager, "Attempts": manager, "Model": manager,
		"Handles": "skipped: Backend.Other is nil", "Notify": "skipped: the store is no outhook.Notifier",
	}, skipped)
}

// TestCheck shows how violations and the faults of a backend are reported.
func TestCheck(t *testing.T) {
	err := storetest.Check(t.Context(), simpleBackend("no fence"))
	require.ErrorContains(t, err, "storetest: Finish/lost: Finish reports [] as lost, want {e/s 1}: the delivery was claimed again")
	require.ErrorContains(t, err, "the rule: Finish must report any other outcome as lost, and change nothing by it.")

	broken := errors.New("no server")
	rule := storetest.Rules()[0]
	err = rule.Check(t.Context(), func() (storetest.Backend, error) { return storetest.Backend{}, broken })
	require.ErrorIs(t, err, broken)

	closed := 0
	newBackend := func() (storetest.Backend, error) {
		backend, err := memory()
		backend.Close = func() error { closed++; return broken }
		return backend, err
	}
	require.ErrorIs(t, rule.Check(t.Context(), newBackend), broken, "what Close returns is reported")
	require.Equal(t, 1, closed)
}
