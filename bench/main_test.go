package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCompare(t *testing.T) {
	var out strings.Builder
	require.NoError(t, compare(t.Context(), config{deliveries: 205, rounds: 2, concurrency: 8, subscribers: 10, body: 64}, &out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Regexp(t, `^bench: memory_vs_nethttp=\d+\.\d\d$`, lines[len(lines)-1])
	require.Len(t, lines, 6)
}
