package outhook

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// snapshotOf returns the Snapshot that Send makes of a subscriber.
func snapshotOf(t *testing.T, options Options, event Event, s Subscriber) Snapshot {
	t.Helper()
	options.Signers = map[string]Signer{"hub": fixedSigner{}}
	d, err := New(NewMemoryStore(), &options)
	require.NoError(t, err)
	var c catcher
	event.Type = "x"
	_, err = d.Via(&c).Send(t.Context(), event, []Subscriber{s})
	require.NoError(t, err)
	return c.deliveries[0].Snapshot
}

func TestSnapshotRoundTrip(t *testing.T) {
	expires := time.Date(2126, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, test := range []struct {
		name   string
		labels map[string]string
		change func(*Subscriber)
	}{
		{"least", nil, func(*Subscriber) {}},
		{"unsigned", nil, func(s *Subscriber) { s.Keys, s.Unsigned = nil, true }},
		{"all", map[string]string{"tenant": "é"}, func(s *Subscriber) {
			s.URL = "https://hooks.example.com:8443/a%2Fb//c?q=%41&r"
			s.Header = http.Header{"x-a": {"1", "2"}, "Authorization": {"Bearer é"}}
			s.Timeout = 3 * time.Second
			s.Concurrency = 5
			s.Keys = []Key{
				{Secret: testKey.Secret, Expires: expires},
				{Secret: NewSecret("any\x00text"), Scheme: "hub"},
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := subscriber("a")
			test.change(&s)
			before := snapshotOf(t, Options{StoreKeysInPlaintext: true}, Event{Labels: test.labels}, s)
			data, err := before.MarshalBinary()
			require.NoError(t, err)

			var after Snapshot
			require.NoError(t, after.UnmarshalBinary(data))
			require.Equal(t, s.URL, after.target().url.String())
			require.Equal(t, s.Header, after.target().header)
			require.Equal(t, s.Unsigned, after.target().unsigned)
			require.Equal(t, s.Timeout, after.target().timeout)
			require.Equal(t, s.Concurrency, after.target().concurrency)
			require.Equal(t, test.labels, after.target().labels)
			require.Len(t, after.target().keys, len(s.Keys))
			for i, key := range s.Keys {
				got := after.target().keys[i]
				require.Equal(t, key.Secret.Reveal(), got.Secret.Reveal())
				require.Equal(t, key.Scheme, got.Scheme)
				require.Equal(t, key.Expires, got.Expires)
			}
			require.NotNil(t, before.target().vetted)
			require.Nil(t, after.target().vetted, "the guard has to judge it again")

			again, err := after.MarshalBinary()
			require.NoError(t, err)
			require.Equal(t, string(data), string(again))
		})
	}
}

// A secret may be any bytes. What else is not UTF-8 is refused by Send, since not
// every store could keep it.
func TestSnapshotKeepsBytes(t *testing.T) {
	s := subscriber("a")
	s.Keys = []Key{{Secret: NewSecret("\xff\xfe"), Scheme: "hub"}}
	data, err := snapshotOf(t, Options{StoreKeysInPlaintext: true}, Event{}, s).MarshalBinary()
	require.NoError(t, err)
	var after Snapshot
	require.NoError(t, after.UnmarshalBinary(data))
	require.Equal(t, "\xff\xfe", after.target().keys[0].Secret.Reveal())

	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
	s = subscriber("a")
	s.Header = http.Header{"X": {"caf\xe9"}}
	s.URL = "https://example.com/?q=\xe9"
	_, err = d.Send(t.Context(), Event{Type: "x", Labels: map[string]string{"a": "\xe9"}}, []Subscriber{s})
	for _, field := range []string{"Header", "URL", "Event.Labels"} {
		require.ErrorContains(t, err, field)
	}
}

func TestSnapshotPlaintextKeys(t *testing.T) {
	signed, unsigned := subscriber("a"), subscriber("b")
	unsigned.Keys, unsigned.Unsigned = nil, true
	for _, test := range []struct {
		name      string
		plaintext bool
		s         Subscriber
		want      error
	}{
		{"signed", false, signed, ErrPlaintextKeys},
		{"signed, allowed", true, signed, nil},
		{"unsigned", false, unsigned, nil},
		{"unsigned, allowed", true, unsigned, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			snapshot := snapshotOf(t, Options{StoreKeysInPlaintext: test.plaintext}, Event{}, test.s)
			for name, marshal := range map[string]func() ([]byte, error){
				"binary":  snapshot.MarshalBinary,
				"method":  snapshot.MarshalJSON,
				"in JSON": func() ([]byte, error) { return json.Marshal(Delivery{Snapshot: snapshot}) },
			} {
				data, err := marshal()
				require.ErrorIs(t, err, test.want, name)
				require.Equal(t, test.want != nil, data == nil, name)
			}
		})
	}
}

func TestSnapshotInJSON(t *testing.T) {
	type row struct{ Snapshot Snapshot }
	before := row{snapshotOf(t, Options{StoreKeysInPlaintext: true}, Event{}, subscriber("a"))}
	data, err := json.Marshal(before)
	require.NoError(t, err)
	var after row
	require.NoError(t, json.Unmarshal(data, &after))
	require.Equal(t, testKey.Secret.Reveal(), after.Snapshot.target().keys[0].Secret.Reveal())
}

func TestSnapshotEmpty(t *testing.T) {
	_, err := Snapshot{}.MarshalBinary()
	require.EqualError(t, err, "outhook: marshal snapshot: it is empty")
	require.Equal(t, "(none)", Snapshot{}.String())
}

func TestSnapshotUnmarshalFaults(t *testing.T) {
	for _, test := range []struct {
		name, data, want string
	}{
		{"nothing", "", "outhook: unmarshal snapshot: not JSON of a snapshot"},
		{"no JSON", "\x00\xff", "outhook: unmarshal snapshot: not JSON of a snapshot"},
		{"cut off", `{"url":"https://a.example/","keys":[{"secret":"whsec_`, "outhook: unmarshal snapshot: not JSON of a snapshot"},
		{"array", "[]", "outhook: unmarshal snapshot: not JSON of a snapshot"},
		{"secret of another type", `{"url":"https://a.example/","keys":[{"secret":123456}]}`, "outhook: unmarshal snapshot: not JSON of a snapshot"},
		{"secret no base64", `{"url":"https://a.example/","keys":[{"secret":"whsec_"}]}`, "outhook: unmarshal snapshot: not JSON of a snapshot"},
		{"null", "null", "outhook: unmarshal snapshot: no URL"},
		{"empty", "{}", "outhook: unmarshal snapshot: no URL"},
		{"URL no URL", `{"url":":"}`, "outhook: unmarshal snapshot: no URL"},
		{"URL without host", `{"url":"https:///x"}`, "outhook: unmarshal snapshot: no URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s Snapshot
			require.EqualError(t, s.UnmarshalBinary([]byte(test.data)), test.want)
			require.EqualError(t, s.UnmarshalJSON([]byte(test.data)), test.want)
			require.Nil(t, s.target())
		})
	}
}

func TestSnapshotIgnoresNewFields(t *testing.T) {
	var s Snapshot
	require.NoError(t, s.UnmarshalBinary([]byte(`{"url":"https://a.example/","later":{"a":1}}`)))
	require.Equal(t, "https://a.example", s.String())
}

func TestSnapshotFormat(t *testing.T) {
	s := subscriber("a")
	s.URL = "https://hooks.example.com:8443/services/T000/token?key=token"
	s.Header = http.Header{"Authorization": {"Bearer token"}}
	snapshot := snapshotOf(t, Options{}, Event{Labels: map[string]string{"a": "token"}}, s)
	const want = "https://hooks.example.com:8443"
	require.Equal(t, want, snapshot.String())
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		t.Run(verb, func(t *testing.T) {
			require.Equal(t, want, fmt.Sprintf(verb, snapshot))
			require.Equal(t, want, fmt.Sprintf(verb, &snapshot))
		})
		t.Run(verb+" in an unexported field", func(t *testing.T) { // where fmt calls no method
			require.NotContains(t, fmt.Sprintf(verb, struct{ s Snapshot }{snapshot}), "token")
		})
	}
}
