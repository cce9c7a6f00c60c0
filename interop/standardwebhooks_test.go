// Package interop verifies outhook's requests with other people's libraries,
// and theirs with outhook.
package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outhook/outhook"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bodies are what must arrive and verify, by name.
func bodies(t *testing.T) map[string][]byte {
	t.Helper()
	b := map[string][]byte{
		"ASCII":        []byte(`{"text":"hello"}`),
		"UTF-8":        []byte(`{"text":"grüße, 世界 🎉"}`),
		"empty object": []byte(`{}`),
		"256 KiB":      bytes.Repeat([]byte{'x'}, 256<<10),
	}
	files, err := filepath.Glob("testdata/github-*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, name := range files {
		b[filepath.Base(name)], err = os.ReadFile(name)
		require.NoError(t, err)
	}
	return b
}

// post sends a body through a Dispatcher and returns what a receiver gets.
func post(t *testing.T, body []byte, keys ...outhook.Key) (http.Header, []byte) {
	t.Helper()
	var header http.Header
	var got []byte
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header
		got, _ = io.ReadAll(r.Body)
	}))
	defer server.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	require.NoError(t, err)
	event := outhook.Event{Type: "interop.test", Payload: &outhook.Payload{Body: body}}
	_, err = d.Send(t.Context(), event, []outhook.Subscriber{{ID: "s", URL: server.URL, Keys: keys}})
	require.NoError(t, err)
	_, err = d.Drain(t.Context())
	require.NoError(t, err)
	require.NotNil(t, header, "the receiver was called")
	return header, got
}

func webhook(t *testing.T, key outhook.Key) *standardwebhooks.Webhook {
	t.Helper()
	w, err := standardwebhooks.NewWebhook(key.Secret.Reveal())
	require.NoError(t, err)
	return w
}

func TestOursVerifiedByTheirs(t *testing.T) {
	current, old := outhook.GenerateKey(), outhook.GenerateKey()
	for name, body := range bodies(t) {
		t.Run(name, func(t *testing.T) {
			header, got := post(t, body, current, old)
			require.Equal(t, body, got)
			require.NoError(t, webhook(t, current).Verify(got, header), "with the current key")
			require.NoError(t, webhook(t, old).Verify(got, header), "with the key being rotated out")
			require.Error(t, webhook(t, outhook.GenerateKey()).Verify(got, header), "with another key")

			flipped := bytes.Clone(got)
			flipped[len(flipped)/2] ^= 1
			require.Error(t, webhook(t, current).Verify(flipped, header))
			for _, h := range []string{"webhook-id", "webhook-timestamp"} {
				changed := header.Clone()
				value := []byte(header.Get(h))
				value[len(value)-1] ^= 1
				changed.Set(h, string(value))
				require.Error(t, webhook(t, current).Verify(got, changed), h)
			}
		})
	}
}

func TestTheirsVerifiedByOurs(t *testing.T) {
	key := outhook.GenerateKey()
	v := &outhook.Verifier{Keys: []outhook.Key{outhook.GenerateKey(), key}}
	for name, body := range bodies(t) {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			signature, err := webhook(t, key).Sign("msg_1", now, body)
			require.NoError(t, err)
			header := http.Header{}
			header.Set("webhook-id", "msg_1")
			header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
			header.Set("webhook-signature", signature)
			require.NoError(t, v.Verify(header, body))
			header.Set("webhook-id", "msg_2")
			require.ErrorIs(t, v.Verify(header, body), outhook.ErrSignature)
		})
	}
}

func TestVectors(t *testing.T) {
	var file struct {
		Vectors []struct {
			Scheme, Secret, ID, Body, Signature string
			Timestamp                           int64
		}
	}
	data, err := os.ReadFile("testdata/signature-vectors.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &file))
	tested := 0
	for _, v := range file.Vectors {
		if !strings.HasPrefix(v.Scheme, "standard-webhooks v1 ") {
			continue // of a scheme that is not built in
		}
		tested++
		key, err := outhook.ParseKey(v.Secret)
		require.NoError(t, err)
		at := time.Unix(v.Timestamp, 0)
		header, err := outhook.StandardWebhooks{}.Sign(t.Context(), outhook.Message{ID: v.ID, Time: at, Body: []byte(v.Body)}, []outhook.Key{key})
		require.NoError(t, err)
		require.Equal(t, v.Signature, header.Get("webhook-signature"))
		theirs, err := webhook(t, key).Sign(v.ID, at, []byte(v.Body))
		require.NoError(t, err)
		require.Equal(t, v.Signature, theirs)
		require.NoError(t, webhook(t, key).VerifyIgnoringTimestamp([]byte(v.Body), header))
		verifier := &outhook.Verifier{Keys: []outhook.Key{key}, Tolerance: time.Since(at) + time.Hour}
		require.NoError(t, verifier.Verify(header, []byte(v.Body)))
	}
	require.Equal(t, 1, tested)
}

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
		require.NoError(t, w.Verify(request.Body, request.Header), fmt.Sprintf("request %d", n))
	}
	require.Greater(t, n, 5)
}
