package interop

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

// TestQuickstart verifies every request that the quickstart makes.
func TestQuickstart(t *testing.T) {
	record := filepath.Join(t.TempDir(), "requests")
	command := exec.CommandContext(t.Context(), "go", "run", "./examples/quickstart", "-record", record)
	command.Dir = ".."
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	file, err := os.Open(record)
	require.NoError(t, err)
	defer file.Close()
	n := 0
	for lines := bufio.NewScanner(file); lines.Scan(); n++ {
		var request struct {
			Secret string
			Header http.Header
			Body   []byte
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &request))
		w, err := standardwebhooks.NewWebhook(request.Secret)
		require.NoError(t, err)
		require.NoError(t, w.Verify(request.Body, request.Header), "request "+strconv.Itoa(n))
	}
	require.Greater(t, n, 5)
}
