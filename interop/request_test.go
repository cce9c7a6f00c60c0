package interop

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

// bodies are what must arrive and verify, by name.
func bodies(t *testing.T) map[string][]byte {
	t.Helper()
	long := fmt.Appendf(nil, `{"text":"%s"}`, bytes.Repeat([]byte{'x'}, 256<<10-len(`{"text":""}`)))
	b := map[string][]byte{
		"ASCII":        []byte(`{"text":"hello"}`),
		"UTF-8":        []byte(`{"text":"grüße, 世界 🎉"}`),
		"empty object": []byte(`{}`),
		"256 KiB":      long,
	}
	require.Len(t, long, 256<<10)
	for event, body := range recorded(t) {
		b["recorded "+event] = body
	}
	return b
}

// recorded are payloads that GitHub has sent, by what their files are called.
func recorded(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/github-*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	b := make(map[string][]byte)
	for _, name := range files {
		b[filepath.Base(name)], err = os.ReadFile(name)
		require.NoError(t, err)
	}
	return b
}

// A request is what a receiver got.
type request struct {
	header http.Header
	body   []byte
}

// http returns it as a handler gets it.
func (r request) http() *http.Request {
	return &http.Request{
		Method: http.MethodPost, Header: r.header, ContentLength: int64(len(r.body)),
		Body: io.NopCloser(bytes.NewReader(r.body)),
	}
}

// theirs asks a library whether it accepts the request.
func (r request) theirs(l library, key outhook.Key) error {
	return l.verify(key, r.http(), r.body)
}

// post sends an event through a Dispatcher to a server that accepts it, and returns
// what the server got. Nil: it accepts all.
func post(t *testing.T, event outhook.Event, s outhook.Subscriber, accept func(r *http.Request, body []byte) error) request {
	t.Helper()
	var got []request
	var refused error
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		got = append(got, request{r.Header.Clone(), body})
		if err == nil && accept != nil {
			r.Body = io.NopCloser(bytes.NewReader(body))
			err = accept(r, body)
		}
		if err != nil {
			refused = err
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard(), MaxPayload: 1 << 20})
	require.NoError(t, err)
	s.ID, s.URL = "s", server.URL
	receipt, err := d.Send(t.Context(), event, []outhook.Subscriber{s})
	require.NoError(t, err)
	_, err = d.Drain(t.Context())
	require.NoError(t, err)
	server.Close() // its handler has returned

	require.Len(t, got, 1)
	require.NoError(t, refused)
	record, err := d.Get(t.Context(), outhook.DeliveryID{Event: receipt.EventID, Subscriber: "s"})
	require.NoError(t, err)
	require.Equal(t, outhook.Delivered, record.State)
	return got[0]
}

// send is post with a body as it is.
func send(t *testing.T, body []byte, keys []outhook.Key, accept func(r *http.Request, body []byte) error) request {
	t.Helper()
	event := outhook.Event{Type: "interop.test", Payload: &outhook.Payload{Body: body}}
	got := post(t, event, outhook.Subscriber{Keys: keys}, accept)
	require.True(t, bytes.Equal(body, got.body), "the body comes as it was sent")
	return got
}

// A part of a request is what may be changed on the way.
type part struct {
	placeholder string // as scheme.signed has it
	name        string
}

// flips are requests that differ from one in one bit of the body, the ID or the time:
// each bit of the first, middle and last byte of each, and, if the body is short, one
// bit of each other byte.
func (r request) flips(s scheme) iter.Seq2[part, request] {
	return func(yield func(part, request) bool) {
		flip := func(placeholder string, value []byte, with func([]byte) request) bool {
			for i := range value {
				all := i == 0 || i == len(value)/2 || i == len(value)-1
				for bit := range 8 {
					if !all && (len(r.body) > 64 || bit != i%8) {
						continue
					}
					flipped := bytes.Clone(value)
					flipped[i] ^= 1 << bit
					name := fmt.Sprintf("bit %d of byte %d of %d of %s", bit, i, len(value), placeholder)
					if !yield(part{placeholder, name}, with(flipped)) {
						return false
					}
				}
			}
			return true
		}
		within := func(name string, from, to int) func([]byte) request {
			return func(flipped []byte) request {
				value := r.header.Get(name)
				header := r.header.Clone()
				header.Set(name, value[:from]+string(flipped)+value[to:])
				return request{header, r.body}
			}
		}
		if !flip("{body}", r.body, func(b []byte) request { return request{r.header, b} }) {
			return
		}
		if id := r.header.Get(s.id); id != "" && !flip("{id}", []byte(id), within(s.id, 0, len(id))) {
			return
		}
		value := r.header.Get(s.timestamp)
		if at := seconds.FindStringIndex(value); at != nil {
			flip("{timestamp}", []byte(value[at[0]:at[1]]), within(s.timestamp, at[0], at[1]))
		}
	}
}

// seconds is a time as the headers have it, Stripe's behind "t=".
var seconds = regexp.MustCompile(`\d{10}`)
