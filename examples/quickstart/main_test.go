package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	name := filepath.Join(t.TempDir(), "requests.jsonl")
	var out bytes.Buffer
	require.NoError(t, run(&out, name), &out)

	file, err := os.Open(name)
	require.NoError(t, err)
	defer file.Close()
	requests := 0
	for lines := json.NewDecoder(file); lines.More(); requests++ {
		var line struct {
			Secret string
			Header http.Header
			Body   []byte
		}
		require.NoError(t, lines.Decode(&line))
		key, err := outhook.ParseKey(line.Secret)
		require.NoError(t, err)
		verifier := outhook.Verifier{Keys: []outhook.Key{key}}
		require.NoError(t, verifier.Verify(line.Header, line.Body))
	}
	attempts := 0
	for _, r := range want {
		attempts += r.attempts
	}
	require.Equal(t, attempts, requests)
}
