package outhook

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzCheckURL: what is accepted has a host that could be dialled, and a
// literal address only if CheckAddr agrees.
func FuzzCheckURL(f *testing.F) {
	for _, row := range ssrfRows(f) {
		f.Add(row.url)
	}
	guard := Guard{PlainHTTP: true}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := guard.CheckURL(raw)
		if err != nil {
			require.ErrorIs(t, err, ErrBlocked)
			require.Nil(t, u)
			return
		}
		require.NotEmpty(t, u.Hostname())
		require.Nil(t, u.User)
		if addr, err := netip.ParseAddr(strings.TrimSuffix(u.Hostname(), ".")); err == nil {
			require.NoError(t, guard.CheckAddr(addr))
		}
		again, err := guard.CheckURL(u.String()) // as vet does with what came from a store
		require.NoError(t, err)
		require.Equal(t, u.Host, again.Host)
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "0", "120", "-1", "+1", " 1", "1.5", "99999999999999999999", "Fri, 02 Jan 2026 03:05:05 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, now := range []time.Time{{}, time.Unix(0, 0), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
			d := parseRetryAfter(http.Header{"Retry-After": {value}}, now)
			require.GreaterOrEqual(t, d, time.Duration(0))
			if value != "" && strings.Trim(value, "123456789") == "" {
				require.GreaterOrEqual(t, d, time.Second)
			}
		}
	})
}

// FuzzHeader: what checkHeader accepts, net/http sends, and as one line.
func FuzzHeader(f *testing.F) {
	f.Add("X-Team", "one")
	f.Add("x!#$%&'*+-.^_`|~", "tw\to é \xff")
	f.Add("X\r\nEvil", "a")
	f.Add("X", "a\r\nEvil: b")
	f.Add("Host", "x")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, name, value string) {
		var found faults
		checkHeader("s", "Header", http.Header{name: {value}}, &found)
		if found != nil {
			require.ErrorIs(t, found.err(), ErrInvalid)
			return
		}
		name = http.CanonicalHeaderKey(name)
		r, err := http.NewRequest(http.MethodPost, "https://example.com/", nil)
		require.NoError(t, err)
		r.Header = http.Header{name: {value}}

		// RoundTrip checks the header before it dials.
		_, err = (&http.Transport{DialContext: Guard{}.dialer().DialContext, Proxy: nil}).RoundTrip(blockedHost(r))
		require.ErrorIs(t, err, ErrBlocked)

		if name != "User-Agent" { // of which Write takes what is set
			var wire bytes.Buffer
			require.NoError(t, r.Write(&wire))
			require.Contains(t, wire.String(), fmt.Sprintf("\r\n%s: %s\r\n", name, strings.Trim(value, " \t")))
			require.Equal(t, 6, strings.Count(wire.String(), "\n"), "%q", wire.String())
		}
	})
}

// blockedHost lets a request go to an address that is never dialled.
func blockedHost(r *http.Request) *http.Request {
	u := *r.URL
	u.Host = "127.0.0.1:1"
	r = r.Clone(r.Context())
	r.URL = &u
	return r
}

func FuzzKey(f *testing.F) {
	f.Add(whsec(24))
	f.Add(whsec(64))
	f.Add(whsec(23))
	f.Add("whsec_")
	f.Add("whsec_ AAAA\n")
	f.Add(testSecret)
	f.Fuzz(func(t *testing.T, secret string) {
		key, err := ParseKey(secret)
		if err != nil {
			require.Equal(t, Key{}, key)
			if encoded, ok := strings.CutPrefix(secret, "whsec_"); ok && len(encoded) > 8 {
				require.NotContains(t, err.Error(), encoded)
			}
			return
		}
		require.Equal(t, secret, key.Secret.Reveal())
		b, err := base64.StdEncoding.DecodeString(secret[len("whsec_"):])
		require.NoError(t, err)
		require.True(t, 24 <= len(b) && len(b) <= 64)
		_, err = StandardWebhooks{}.Sign(t.Context(), Message{ID: "e"}, []Key{key})
		require.NoError(t, err)
	})
}

// FuzzVerify: what is signed verifies, and with any bit flipped it does not.
func FuzzVerify(f *testing.F) {
	f.Add("e", []byte("{}"), uint(0))
	f.Add("e.1", []byte{}, uint(3))
	f.Add("\xff", []byte("\x00\xff"), uint(1000))
	verifier := Verifier{Keys: []Key{GenerateKey()}}
	f.Fuzz(func(t *testing.T, id string, body []byte, bit uint) {
		header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: id, Time: time.Now(), Body: body}, verifier.Keys)
		require.NoError(t, err)
		err = verifier.Verify(header, body)
		if id == "" {
			require.ErrorIs(t, err, ErrHeader)
			return
		}
		require.NoError(t, err)

		require.ErrorIs(t, verifier.Verify(header, append(bytes.Clone(body), 0)), ErrSignature)
		if len(body) > 0 {
			flipped := bytes.Clone(body)
			flipped[bit/8%uint(len(body))] ^= 1 << (bit % 8)
			require.ErrorIs(t, verifier.Verify(header, flipped), ErrSignature)
		}
		other := header.Clone()
		other.Set("Webhook-Id", id+"x")
		require.ErrorIs(t, verifier.Verify(other, body), ErrSignature)
	})
}

// FuzzVerifyHeader: no header that was not signed is accepted.
func FuzzVerifyHeader(f *testing.F) {
	f.Add("e", "1", "v1,AAAA")
	f.Add("e", "9223372036854775807", "v1, v1,= v1a,x ,")
	f.Add("", "", "")
	verifier := Verifier{Keys: []Key{GenerateKey()}, Tolerance: 1<<63 - 1}
	f.Fuzz(func(t *testing.T, id, timestamp, signature string) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		require.Error(t, verifier.Verify(h, []byte("{}")))
	})
}

// FuzzPattern: a pattern that is a type matches that type alone, one with ".*"
// what begins with its segments and has more.
func FuzzPattern(f *testing.F) {
	for _, test := range patterns {
		f.Add(test.pattern, test.eventType)
	}
	f.Fuzz(func(t *testing.T, pattern, eventType string) {
		if !validPattern(pattern) || !validType(eventType) {
			return
		}
		want := pattern == "*" || pattern == eventType
		if segments := strings.Split(pattern, "."); len(segments) > 1 && segments[len(segments)-1] == "*" {
			segments = segments[:len(segments)-1]
			of := strings.Split(eventType, ".")
			want = len(of) > len(segments)
			for i := range segments {
				want = want && of[i] == segments[i]
			}
		}
		require.Equal(t, want, matchType(pattern, eventType))
	})
}

// FuzzSnapshot: what is accepted marshals, and is the same after a second round.
func FuzzSnapshot(f *testing.F) {
	for _, seed := range []string{
		`{"url":"https://a.example/"}`,
		`{"url":"https://a.example:8443/x?q=1","header":{"X":["1",""]},"unsigned":true,"timeout":5,"concurrency":-1,"labels":{"a":"b"}}`,
		`{"url":"https://[::1%25lo]/","keys":[{"secret":"d2hzZWNf","scheme":"x","expires":"2026-01-02T03:04:05.6+01:00"},{}]}`,
		`{"sealed":{"key":"k1","data":"c2VhbGVk"},"url":"https://a.example/"}`, `{"sealed":{}}`, `{"directory":true,"labels":{"a":"b"}}`,
		`{"url":"//%41/\u0000"}`, `{"url":null}`, `null`, `[]`, ``, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second Snapshot
		if first.UnmarshalBinary(data) != nil {
			require.Nil(t, first.target())
			return
		}
		_, _ = fmt.Fprint(io.Discard, first)
		once, err := first.MarshalBinary()
		require.NoError(t, err)
		require.NoError(t, second.UnmarshalBinary(once), "%s", once)
		twice, err := second.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
		require.Equal(t, first.String(), second.String())
	})
}

// FuzzSealed: what is sealed opens as what it was and for its delivery alone, with
// any bit flipped it does not open, and nothing that was not sealed does.
func FuzzSealed(f *testing.F) {
	f.Add("e", "a", []byte(`{"url":"https://a.example/"}`), uint(0))
	f.Add("", "", []byte(`{"url":"https://[::1]/","keys":[{"secret":"d2hzZWNf"}]}`), uint(1000))
	f.Add("e/", "\xff", []byte("\x00"), uint(100))
	sealer := newSealer(f, sealingKey("k1", 1), sealingKey("k2", 2))
	f.Fuzz(func(t *testing.T, event, subscriber string, data []byte, bit uint) {
		id := DeliveryID{event, subscriber}
		_, err := sealer.open(&sealed{"k2", data}, id)
		require.ErrorIs(t, err, errUnopened)

		want, fault := decodeTarget(data)
		if fault == nil && want.url == nil {
			fault = errUnopened
		}
		stored, err := json.Marshal(storedTarget{Sealed: sealer.seal(data, id)})
		require.NoError(t, err)
		open := func(stored []byte, id DeliveryID) (*target, error) {
			t, err := decodeTarget(stored)
			if err != nil || t.sealed == nil {
				return nil, errUnopened
			}
			return sealer.open(t.sealed, id)
		}
		opened, err := open(stored, id)
		require.Equal(t, fault == nil, err == nil)
		if fault == nil {
			require.Equal(t, want.url, opened.url)
			require.Equal(t, want.header, opened.header)
		}
		_, err = open(stored, DeliveryID{event + "x", subscriber})
		require.ErrorIs(t, err, errUnopened)
		_, err = open(stored, DeliveryID{subscriber, event + "x"})
		require.ErrorIs(t, err, errUnopened)

		// A bit of the JSON around it, as the case of a name, may make no difference.
		stored[bit/8%uint(len(stored))] ^= 1 << (bit % 8)
		if flipped, err := open(stored, id); err == nil {
			require.Equal(t, opened.url, flipped.url)
			require.Equal(t, opened.header, flipped.header)
		}
		inside := sealer.seal(data, id)
		inside.Data[bit/8%uint(len(inside.Data))] ^= 1 << (bit % 8)
		_, err = sealer.open(inside, id)
		require.ErrorIs(t, err, errUnopened)
	})
}
