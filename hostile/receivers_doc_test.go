package hostile_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table of docs/hostile-receivers.md has a row for each case, and no other.
func TestReceiversTable(t *testing.T) {
	text, err := os.ReadFile("../docs/hostile-receivers.md")
	require.NoError(t, err)
	var rows []string
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if name := strings.Trim(cells[len(cells)-1], " `"); strings.HasPrefix(name, "TestReceivers") {
			require.Len(t, cells, 4, line)
			rows = append(rows, name)
		}
	}
	tests := []string{"TestReceiversIdle", "TestReceiversIdleAll"}
	add := func(test, name string) { tests = append(tests, test+"/"+strings.ReplaceAll(name, " ", "_")) }
	for _, c := range http1Cases() {
		add("TestReceiversHTTP1", c.name)
	}
	i := trustReceivers(t)
	for _, c := range tlsCases(i) {
		add("TestReceiversTLS", c.name)
	}
	for _, c := range http2Cases(i) {
		add("TestReceiversHTTP2", c.name)
	}
	for _, m := range memoryCases() {
		add("TestReceiversMemory", m.name)
	}
	require.ElementsMatch(t, tests, rows)
}
