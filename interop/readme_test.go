package interop

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadme holds the table of schemes in README.md against libraries and go.mod.
func TestReadme(t *testing.T) {
	var rows []string
	verified := make(map[string][]string) // by whom, of each row
	for _, l := range libraries() {
		s := l.scheme
		by := "the first"
		if s.several {
			by = "each"
		}
		row := fmt.Sprintf("| %s | `%q` | `%s` | `%s` | %s | %s | ", s.row, s.name, s.signature, s.signed, s.form, by)
		if verified[row] == nil {
			rows = append(rows, row)
		}
		verified[row] = append(verified[row], "`"+l.path+"`"+version(t, l.path))
	}
	for i, row := range rows {
		rows[i] = row + strings.Join(verified[row], ", ") + " |\n"
	}
	table := strings.Join(rows, "")
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	require.True(t, strings.Contains(string(readme), table), "README.md lacks these lines:\n%s", table)
}

// version returns that of a module which go.mod requires, and nothing of a package of
// Go itself.
func version(t *testing.T, path string) string {
	t.Helper()
	if host, _, _ := strings.Cut(path, "/"); !strings.Contains(host, ".") {
		return ""
	}
	text, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == path {
			return " " + fields[1]
		}
	}
	require.Fail(t, "go.mod does not require "+path)
	return ""
}
