// Package interop verifies outhook's requests with other people's libraries,
// and theirs with outhook.
package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// each runs a test for each of some libraries and each body.
func each(t *testing.T, libraries []library, test func(t *testing.T, l library, body []byte)) {
	for _, l := range libraries {
		for name, body := range bodies(t) {
			t.Run(l.path+"/"+name, func(t *testing.T) { test(t, l, body) })
		}
	}
}

// A library accepts what outhook sent, and not if a bit was flipped of what the
// scheme signs. What it does not sign may be changed.
func TestOursVerifiedByTheirs(t *testing.T) {
	each(t, libraries(), func(t *testing.T, l library, body []byte) {
		key := l.scheme.key()
		got := send(t, body, []outhook.Key{key}, func(r *http.Request, body []byte) error {
			return l.verify(key, r, body)
		})
		require.NotEmpty(t, got.header.Get(l.scheme.id))
		require.Equal(t, got.header.Get("Webhook-Id"), got.header.Get(l.scheme.id))
		require.NoError(t, got.theirs(l, key), "as it was")
		require.Error(t, got.theirs(l, l.scheme.key()), "with another key")
		flipped := make(map[string]int)
		for part, request := range got.flips(l.scheme) {
			flipped[part.placeholder]++
			if err := request.theirs(l, key); l.scheme.signs(part.placeholder) {
				require.Error(t, err, part.name)
			} else {
				require.NoError(t, err, part.name)
			}
		}
		requireFlips(t, l.scheme, flipped)
	})
}

// requireFlips checks that all that a scheme signs has been changed.
func requireFlips(t *testing.T, s scheme, flipped map[string]int) {
	t.Helper()
	for _, placeholder := range []string{"{body}", "{id}", "{timestamp}"} {
		if s.signs(placeholder) {
			require.Positive(t, flipped[placeholder], placeholder)
		}
	}
}

// outhook accepts what a library signed, and not if a bit was flipped of what it signs.
func TestTheirsVerifiedByOurs(t *testing.T) {
	signing := slices.DeleteFunc(libraries(), func(l library) bool { return l.sign == nil })
	each(t, signing, func(t *testing.T, l library, body []byte) {
		key := l.scheme.key()
		v := l.scheme.verifier(l.scheme.key(), key)
		header, err := l.sign(key, outhook.Message{ID: "msg_1", Time: time.Now(), Body: body})
		require.NoError(t, err)

		var events []outhook.Event
		v.Refused = func(_ *http.Request, err error) { t.Error(err) }
		server := httptest.NewServer(v.Handler(func(_ context.Context, event outhook.Event) error {
			events = append(events, event)
			return nil
		}))
		defer server.Close()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, bytes.NewReader(body))
		require.NoError(t, err)
		r.Header = header.Clone()
		response, err := server.Client().Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusNoContent, response.StatusCode)
		server.Close() // its handler has returned
		require.Len(t, events, 1)
		require.True(t, bytes.Equal(body, events[0].Payload.Body))
		require.Equal(t, header.Get(l.scheme.id), events[0].ID)

		flipped := make(map[string]int)
		for part, request := range (request{header, body}).flips(l.scheme) {
			err := v.Verify(request.header, request.body)
			if part.placeholder == "{timestamp}" && (errors.Is(err, outhook.ErrHeader) || errors.Is(err, outhook.ErrTimestamp)) {
				continue // it is no time any more, or one far from now
			}
			require.ErrorIs(t, err, outhook.ErrSignature, part.name)
			flipped[part.placeholder]++
		}
		requireFlips(t, l.scheme, flipped)
		require.ErrorIs(t, l.scheme.verifier(l.scheme.key()).Verify(header, body), outhook.ErrSignature)
	})
}

// A key is rotated, and the subscriber's keys go through four states. With a signature by
// each key, receivers that know one of the two accept what is sent in between, whichever
// they know; with one signature, those that know the key which stands first.
func TestRotation(t *testing.T) {
	for _, l := range libraries() {
		old, current := l.scheme.key(), l.scheme.key()
		for _, step := range []struct {
			name                   string
			keys                   []outhook.Key
			old, current           bool // who accepts it, if there is a signature by each key
			oldIfOne, currentIfOne bool // who does, if there is one signature
		}{
			{"before", []outhook.Key{old}, true, false, true, false},
			{"the new key is known", []outhook.Key{old, current}, true, true, true, false},
			{"the new key is first", []outhook.Key{current, old}, true, true, false, true},
			{"after", []outhook.Key{current}, false, true, false, true},
		} {
			t.Run(l.path+"/"+step.name, func(t *testing.T) {
				acceptsOld, acceptsCurrent := step.old, step.current
				if !l.scheme.several {
					acceptsOld, acceptsCurrent = step.oldIfOne, step.currentIfOne
				}
				got := send(t, []byte(`{"text":"grüße"}`), step.keys, nil)
				require.Equal(t, acceptsOld, got.theirs(l, old) == nil, "a receiver that knows the old key")
				require.Equal(t, acceptsCurrent, got.theirs(l, current) == nil, "a receiver that knows the new key")
				require.NoError(t, l.scheme.verifier(old, current).Verify(got.header, got.body), "one that knows both")
				if l.sign == nil {
					return
				}
				for _, key := range step.keys {
					header, err := l.sign(key, outhook.Message{ID: "msg_1", Time: time.Now(), Body: []byte("{}")})
					require.NoError(t, err)
					require.NoError(t, l.scheme.verifier(old, current).Verify(header, []byte("{}")))
				}
			})
		}
	}
}

// A receiver migrates: one request is signed under all schemes, and each library
// accepts it.
func TestAllSchemesAtOnce(t *testing.T) {
	all, keys := libraries(), []outhook.Key(nil)
	for _, l := range all {
		keys = append(keys, l.scheme.key())
	}
	send(t, []byte(`{}`), keys, func(r *http.Request, body []byte) error {
		for i, l := range all {
			if err := (request{r.Header, body}).theirs(l, keys[i]); err != nil {
				return errors.Join(errors.New(l.path), err)
			}
		}
		return nil
	})
}

// The recorded signatures are what outhook and the libraries compute, and both accept
// them, at their time.
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
	require.NotEmpty(t, file.Vectors)
	for _, v := range file.Vectors {
		tested := 0
		for _, l := range libraries() {
			if l.scheme.vector == "" || !strings.HasPrefix(v.Scheme, l.scheme.vector) {
				continue
			}
			tested++
			t.Run(v.Scheme+"/"+l.path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := outhook.Message{ID: v.ID, Time: time.Unix(v.Timestamp, 0), Body: []byte(v.Body)}
					time.Sleep(time.Until(m.Time)) // of the bubble's clock
					key := outhook.Key{Scheme: l.scheme.name, Secret: outhook.NewSecret(v.Secret)}
					ours, err := l.scheme.ours.Sign(t.Context(), m, []outhook.Key{key})
					require.NoError(t, err)
					require.Equal(t, v.Signature, ours.Get(l.scheme.signature))
					if l.sign != nil {
						theirs, err := l.sign(key, m)
						require.NoError(t, err)
						require.Equal(t, v.Signature, theirs.Get(l.scheme.signature))
					}

					header := http.Header{"Content-Type": {"application/json"}}
					header.Set(l.scheme.signature, v.Signature)
					if l.scheme.signs("{id}") {
						header.Set(l.scheme.id, v.ID)
					}
					if l.scheme.signs("{timestamp}") {
						header.Set(l.scheme.timestamp, standardHeader(m, "").Get("Webhook-Timestamp"))
					}
					recorded := request{header, m.Body}
					verifier := l.scheme.verifier(key)
					require.NoError(t, recorded.theirs(l, key))
					require.NoError(t, verifier.Verify(header, m.Body))
					flipped := make(map[string]int)
					for part, request := range recorded.flips(l.scheme) {
						flipped[part.placeholder]++
						require.Error(t, request.theirs(l, key), part.name)
						require.Error(t, verifier.Verify(request.header, request.body), part.name)
					}
					requireFlips(t, l.scheme, flipped)
				})
			})
		}
		require.Positive(t, tested, v.Scheme)
	}
}
