package outhook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
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

func TestHandlerStatus(t *testing.T) {
	const body = `{"type":"x","timestamp":"2000-01-01T00:00:00Z","data":1}`
	handled := func(context.Context, Event) error { return nil }
	for _, test := range []struct {
		name     string
		verifier Verifier
		change   func(*http.Request)
		handle   func(context.Context, Event) error
		want     int
	}{
		{"handled", Verifier{}, nil, handled, 204},
		{"error", Verifier{}, nil, func(context.Context, Event) error { return errors.New("hidden") }, 500},
		{"panic", Verifier{}, nil, func(context.Context, Event) error { panic("hidden") }, 500},
		{"GET", Verifier{}, func(r *http.Request) { r.Method = "GET" }, handled, 405},
		{"no header", Verifier{}, func(r *http.Request) { r.Header.Del("Webhook-Id") }, handled, 400},
		{"timestamp", Verifier{}, func(r *http.Request) { r.Header.Set("Webhook-Timestamp", "1") }, handled, 401},
		{"signature", Verifier{}, func(r *http.Request) { r.Header.Set("Webhook-Id", "f") }, handled, 401},
		{"body cut off", Verifier{}, func(r *http.Request) {
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), broken{}))
		}, handled, 400},
		{"body at the limit", Verifier{MaxBody: int64(len(body))}, nil, handled, 204},
		{"body above the limit", Verifier{MaxBody: int64(len(body)) - 1}, nil, handled, 413},
	} {
		bubble(t, test.name, func(t *testing.T) {
			test.verifier.Keys = []Key{testKey}
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
			maps.Copy(r.Header, signedBy(t, time.Now(), body, testKey))
			if test.change != nil {
				test.change(r)
			}
			called := false
			w := httptest.NewRecorder()
			test.verifier.Handler(func(ctx context.Context, e Event) error {
				called = true
				return test.handle(ctx, e)
			}).ServeHTTP(w, r)
			require.Equal(t, test.want, w.Code)
			require.Equal(t, test.want == 204 || test.want == 500, called)
			require.NotContains(t, w.Body.String(), "hidden")
			if test.want == 204 {
				require.Empty(t, w.Body.String())
			}
			require.Equal(t, test.want == 405, w.Header().Get("Allow") == "POST")
		})
	}
}

// broken is a body that ends in an error.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestHandlerDefaultMaxBody(t *testing.T) {
	for size, want := range map[int]int{1 << 20: 204, 1<<20 + 1: 413} {
		bubble(t, strconv.Itoa(size), func(t *testing.T) {
			body := bytes.Repeat([]byte("a"), size)
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
			maps.Copy(r.Header, signedBy(t, time.Now(), string(body), testKey))
			w := httptest.NewRecorder()
			verifier := Verifier{Keys: []Key{testKey}}
			verifier.Handler(func(context.Context, Event) error { return nil }).ServeHTTP(w, r)
			require.Equal(t, want, w.Code)
		})
	}
}

func TestHandlerEvent(t *testing.T) {
	for _, test := range []struct {
		name, body string
		eventType  string
		time       time.Time
	}{
		{"envelope", `{"type":"invoice.paid","timestamp":"2000-01-02T03:04:05.6+01:00","data":{"n":1}}`, "invoice.paid", time.Date(2000, 1, 2, 2, 4, 5, 600_000_000, time.UTC)},
		{"other JSON", `[1]`, "", time.Time{}},
		{"half an envelope", `{"type":"x","timestamp":"yesterday"}`, "", time.Time{}},
		{"no JSON", "\x00", "", time.Time{}},
		{"empty", "", "", time.Time{}},
	} {
		bubble(t, test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(test.body))
			maps.Copy(r.Header, signedBy(t, time.Now(), test.body, testKey))
			r.Header.Set("Content-Type", "text/x")
			r.Header.Set("Ce-Source", "s")
			type contextKey struct{}
			r = r.WithContext(context.WithValue(r.Context(), contextKey{}, "of the request"))
			var got []Event
			verifier := Verifier{Keys: []Key{testKey}}
			verifier.Handler(func(ctx context.Context, e Event) error {
				require.Equal(t, "of the request", ctx.Value(contextKey{}))
				got = append(got, e)
				return nil
			}).ServeHTTP(httptest.NewRecorder(), r)

			require.Len(t, got, 1)
			e := got[0]
			require.Equal(t, "e", e.ID)
			require.Equal(t, test.eventType, e.Type)
			require.True(t, test.time.Equal(e.Time), e.Time)
			require.Equal(t, test.body, string(e.Payload.Body))
			require.Equal(t, "text/x", e.Payload.ContentType)
			require.Equal(t, "s", e.Payload.Header.Get("Ce-Source"))
		})
	}
}

// What Run sends, Handler accepts.
func TestHandlerOverTheWire(t *testing.T) {
	old := GenerateKey()
	verifier := Verifier{Keys: []Key{old}}
	var got []Event
	server, _ := receiver(t, verifier.Handler(func(_ context.Context, e Event) error {
		got = append(got, e)
		return nil
	}).ServeHTTP)
	d, err := New(NewMemoryStore(), &Options{Guard: DevelopmentGuard()})
	require.NoError(t, err)
	s := Subscriber{ID: "a", URL: server.URL, Keys: []Key{GenerateKey(), old}}
	_, err = d.Send(t.Context(), Event{ID: "e1", Type: "x.y", Data: []int{1, 2}}, []Subscriber{s})
	require.NoError(t, err)
	_, err = d.Drain(t.Context())
	require.NoError(t, err)

	require.Equal(t, Delivered, record(t, d, "e1", "a").State)
	require.Len(t, got, 1)
	require.Equal(t, "x.y", got[0].Type)
	data, err := Decode[[]int](got[0])
	require.NoError(t, err)
	require.True(t, slices.Equal([]int{1, 2}, data))
}

func TestHandlerWithMalformedKey(t *testing.T) {
	v := &Verifier{Keys: []Key{{Secret: NewSecret("hidden")}}}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: "e", Time: time.Now(), Body: []byte("{}")}, []Key{testKey})
	require.NoError(t, err)
	r.Header = header
	w := httptest.NewRecorder()
	v.Handler(func(context.Context, Event) error { return nil }).ServeHTTP(w, r)
	require.Equal(t, http.StatusInternalServerError, w.Code, "the receiver's own fault")
}
