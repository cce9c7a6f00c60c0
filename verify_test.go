package outhook

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// signedBy returns the headers of a message "e" that was sent at a time.
func signedBy(t testing.TB, at time.Time, body string, keys ...Key) http.Header {
	t.Helper()
	header, err := StandardWebhooks{}.Sign(context.Background(), Message{ID: "e", Time: at, Body: []byte(body)}, keys)
	require.NoError(t, err)
	return header
}

func TestVerifyVectors(t *testing.T) {
	for _, v := range vectorsV1(t) {
		bubble(t, v.Scheme, func(t *testing.T) {
			key, err := ParseKey(v.Secret)
			require.NoError(t, err)
			verifier := Verifier{Keys: []Key{key}, Tolerance: time.Since(time.Unix(v.Timestamp, 0)).Abs()}
			header := http.Header{}
			header.Set("webhook-id", v.ID)
			header.Set("webhook-timestamp", strconv.FormatInt(v.Timestamp, 10))
			header.Set("webhook-signature", v.Signature)
			require.NoError(t, verifier.Verify(header, []byte(v.Body)))
			require.ErrorIs(t, verifier.Verify(header, []byte(v.Body+" ")), ErrSignature)
		})
	}
}

func TestVerifyTolerance(t *testing.T) {
	for _, test := range []struct {
		name      string
		tolerance time.Duration
		sent      time.Duration // from now
		want      error
	}{
		{"now", 0, 0, nil},
		{"5 min ago", 0, -5 * time.Minute, nil},
		{"more than 5 min ago", 0, -5*time.Minute - time.Second, ErrTimestamp},
		{"in 5 min", 0, 5 * time.Minute, nil},
		{"in more than 5 min", 0, 5*time.Minute + time.Second, ErrTimestamp},
		{"as long ago as set", time.Second, -time.Second, nil},
		{"longer ago than set", time.Second, -2 * time.Second, ErrTimestamp},
		{"as far ahead as set", time.Second, time.Second, nil},
		{"further ahead than set", time.Second, 2 * time.Second, ErrTimestamp},
	} {
		bubble(t, test.name, func(t *testing.T) {
			verifier := Verifier{Keys: []Key{testKey}, Tolerance: test.tolerance}
			header := signedBy(t, time.Now().Add(test.sent), "b", testKey)
			require.ErrorIs(t, verifier.Verify(header, []byte("b")), test.want)
		})
	}
}

func TestVerifyHeaders(t *testing.T) {
	const id, timestamp, signature = "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"
	for _, test := range []struct {
		name, header string
		values       func(good string) []string
		want         error
	}{
		{"no ID", id, func(string) []string { return nil }, ErrHeader},
		{"no timestamp", timestamp, func(string) []string { return nil }, ErrHeader},
		{"no signature", signature, func(string) []string { return nil }, ErrHeader},
		{"ID empty", id, func(string) []string { return []string{""} }, ErrHeader},
		{"ID twice", id, func(s string) []string { return []string{s, s} }, ErrHeader},
		{"timestamp twice", timestamp, func(s string) []string { return []string{s, s} }, ErrHeader},
		{"signature twice", signature, func(s string) []string { return []string{s, s} }, ErrHeader},
		{"another ID", id, func(s string) []string { return []string{s + "x"} }, ErrSignature},
		{"timestamp a word", timestamp, func(string) []string { return []string{"now"} }, ErrHeader},
		{"timestamp a date", timestamp, func(string) []string { return []string{"2000-01-01T00:00:00Z"} }, ErrHeader},
		{"timestamp with plus", timestamp, func(s string) []string { return []string{"+" + s} }, ErrHeader},
		{"timestamp with zero", timestamp, func(s string) []string { return []string{"0" + s} }, ErrHeader},
		{"timestamp with space", timestamp, func(s string) []string { return []string{s + " "} }, ErrHeader},
		{"timestamp with fraction", timestamp, func(s string) []string { return []string{s + ".0"} }, ErrHeader},
		{"timestamp hexadecimal", timestamp, func(string) []string { return []string{"0x10"} }, ErrHeader},
		{"timestamp in milliseconds", timestamp, func(s string) []string { return []string{s + "000"} }, ErrTimestamp},
		{"timestamp far", timestamp, func(string) []string { return []string{"9223372036854775807"} }, ErrTimestamp},
		{"timestamp far past", timestamp, func(string) []string { return []string{"-9223372036854775808"} }, ErrTimestamp},
		{"timestamp beyond 64 bits", timestamp, func(string) []string { return []string{"9223372036854775808"} }, ErrHeader},
		{"another timestamp", timestamp, func(s string) []string { return []string{s[:len(s)-1] + "1"} }, ErrSignature},
		{"signature of another version", signature, func(s string) []string { return []string{"v1a" + s[2:]} }, ErrSignature},
		{"signature without version", signature, func(s string) []string { return []string{s[3:]} }, ErrSignature},
		{"signature without padding", signature, func(s string) []string { return []string{strings.TrimRight(s, "=")} }, ErrSignature},
		{"signature cut off", signature, func(string) []string { return []string{"v1,"} }, ErrSignature},
		{"signature no base64", signature, func(string) []string { return []string{"v1,!"} }, ErrSignature},
		{"signature of 31 bytes", signature, func(string) []string { return []string{"v1," + whsec(31)[6:]} }, ErrSignature},
		{"behind another version", signature, func(s string) []string { return []string{"v1a,AAAA " + s} }, nil},
		{"behind a wrong one", signature, func(s string) []string { return []string{"v1,AAAA " + s} }, nil},
		{"before a malformed one", signature, func(s string) []string { return []string{s + " x"} }, nil},
		{"last of 16", signature, func(s string) []string { return []string{strings.Repeat("v1,AAAA ", 15) + s} }, nil},
		{"last of 17", signature, func(s string) []string { return []string{strings.Repeat("v1,AAAA ", 16) + s} }, ErrHeader},
		{"first of 17", signature, func(s string) []string { return []string{s + strings.Repeat(" v1,AAAA", 16)} }, ErrHeader},
	} {
		bubble(t, test.name, func(t *testing.T) {
			verifier := Verifier{Keys: []Key{testKey}}
			header := signedBy(t, time.Now(), "b", testKey)
			header[test.header] = test.values(header.Get(test.header))
			err := verifier.Verify(header, []byte("b"))
			require.ErrorIs(t, err, test.want)
			if test.want == ErrHeader {
				require.NotErrorIs(t, err, ErrSignature)
			}
		})
	}
}

func TestVerifyKeys(t *testing.T) {
	a, b := GenerateKey(), GenerateKey()
	expiring := func(d time.Duration) Key { return Key{Secret: a.Secret, Expires: time.Now().Add(d)} }
	for _, test := range []struct {
		name   string
		keys   func() []Key
		signed []Key
		want   error
	}{
		{"one", func() []Key { return []Key{a} }, []Key{a}, nil},
		{"another", func() []Key { return []Key{a} }, []Key{b}, ErrSignature},
		{"none", func() []Key { return nil }, []Key{a}, ErrSignature},
		{"second of the receiver", func() []Key { return []Key{b, a} }, []Key{a}, nil},
		{"second of the sender", func() []Key { return []Key{b} }, []Key{a, b}, nil},
		{"expires later", func() []Key { return []Key{expiring(time.Second)} }, []Key{a}, nil},
		{"expired", func() []Key { return []Key{expiring(0)} }, []Key{a}, ErrSignature},
		{"expired before another", func() []Key { return []Key{expiring(0), b} }, []Key{b}, nil},
		{"of another scheme", func() []Key { return []Key{{Secret: a.Secret, Scheme: "stripe"}} }, []Key{a}, ErrHeader},
		{"of another scheme, too", func() []Key { return []Key{{Secret: a.Secret, Scheme: "stripe"}, a} }, []Key{a}, nil},
		{"of an unknown scheme", func() []Key { return []Key{{Secret: a.Secret, Scheme: "x"}} }, []Key{a}, ErrKey},
	} {
		bubble(t, test.name, func(t *testing.T) {
			verifier := Verifier{Keys: test.keys()}
			header := signedBy(t, time.Now(), "b", test.signed...)
			require.ErrorIs(t, verifier.Verify(header, []byte("b")), test.want)
		})
	}
	bubble(t, "malformed", func(t *testing.T) {
		verifier := Verifier{Keys: []Key{{Secret: NewSecret("hidden")}}}
		err := verifier.Verify(signedBy(t, time.Now(), "b", a), []byte("b"))
		require.EqualError(t, err, "outhook: verify: the secret does not begin with whsec_, whsk_ or whpk_")
		require.ErrorIs(t, err, ErrKey)
	})
}

func TestVerifyBody(t *testing.T) {
	for _, body := range []string{"", "{}", "\x00\xff", strings.Repeat("a", 1<<20)} {
		bubble(t, strconv.Itoa(len(body)), func(t *testing.T) {
			verifier := Verifier{Keys: []Key{testKey}}
			header := signedBy(t, time.Now(), body, testKey)
			require.NoError(t, verifier.Verify(header, []byte(body)))
			require.ErrorIs(t, verifier.Verify(header, []byte(body+"\n")), ErrSignature)
		})
	}
}
