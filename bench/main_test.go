//go:build unix

package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if beChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

// TestScenarios runs each scenario as small as it can be, and checks that each delivery
// arrives once and that all figures are printed.
func TestScenarios(t *testing.T) {
	dir := t.TempDir()
	markdown, svg := filepath.Join(dir, "table.md"), filepath.Join(dir, "chart.svg")
	p, err := parse([]string{"-n", "205", "-rounds", "1", "-strict", "-markdown", markdown, "-svg", svg})
	require.NoError(t, err)
	p.waiting, p.steady, p.idle = 20, 50*time.Millisecond, 50*time.Millisecond
	p.backlogs, p.claims = []int{1000, 2000}, 2
	p.pending, p.signatures = 1000, 1000
	p.simulated.Subscribers, p.simulated.Lasts = 500, 20*time.Second
	var out strings.Builder
	require.NoError(t, start(t.Context(), p, &out))
	found := make(map[string]bool)
	for line := range strings.Lines(out.String()) {
		if rest, ok := strings.CutPrefix(line, "bench: "); ok {
			require.Regexp(t, `^[a-z0-9_]+=\d+(\.\d+)?\n$`, rest)
			name, _, _ := strings.Cut(rest, "=")
			require.False(t, found[name], name)
			found[name] = true
		}
	}
	for name := range aims() {
		name = strings.Replace(name, "_1m", "_2k", 1)
		require.True(t, found[name], "%s is not among\n%s", name, &out)
	}
	table, err := os.ReadFile(markdown)
	require.NoError(t, err)
	require.Contains(t, string(table), "| `pg_vs_river` | PostgreSQL against River, drain | ")
	chart, err := os.ReadFile(svg)
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal(chart, new(struct{ XMLName xml.Name })))
}

// TestSimulationRepeats shows that nothing but the seed decides what a simulation comes to.
func TestSimulationRepeats(t *testing.T) {
	p := simulationPlan{Seed: 7, Subscribers: 300, Rate: 50, Lasts: 30 * time.Second}
	first, err := new(bench).simulate(t.Context(), p)
	require.NoError(t, err)
	again, err := new(bench).simulate(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, "healthy", first[0].Name)
	require.InDelta(t, 1, first[0].Delivered, 0)
}

func TestParseRefuses(t *testing.T) {
	for _, args := range []string{"-scenario drain,none", "-stores redis", "-n -1", "-subscribers 1000"} {
		_, err := parse(strings.Fields(args))
		require.Error(t, err, args)
	}
}

func TestAims(t *testing.T) {
	for _, test := range []struct {
		aim   aim
		value float64
		text  string
		met   bool
	}{
		{aim{}, 7, "", true},
		{aim{least: 0.9}, 0.89, "≥ 0.9", false},
		{aim{least: 0.9}, 0.9, "≥ 0.9", true},
		{aim{most: 2}, 2.1, "≤ 2", false},
		{aim{most: 2}, 0, "≤ 2", true},
		{aim{zero: true}, 0.1, "0", false},
	} {
		require.Equal(t, test.text, test.aim.String())
		require.Equal(t, test.met, test.aim.met(test.value), test.text)
	}
}

func TestSome(t *testing.T) {
	all := []int{0, 1, 2, 3, 4}
	require.Equal(t, []int{3, 4}, some(all, 3, 2))
	require.Equal(t, []int{4, 0, 1}, some(all, 9, 3))
	require.Equal(t, all, some(all, 5, 5))
	require.Equal(t, []int{0, 1, 2, 3, 4}, all)
}

func TestSeries(t *testing.T) {
	require.InDelta(t, 2.0, series{3, 1, 2}.median(), 0)
	require.InDelta(t, 1.5, series{2, 1}.median(), 0)
	var durations []time.Duration
	for i := range 1000 {
		durations = append(durations, time.Duration(999-i))
	}
	require.Equal(t, distribution{500, 990, 999}, distribute(durations))
}
