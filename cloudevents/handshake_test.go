package cloudevents_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/cloudevents"
	"github.com/stretchr/testify/require"
)

const origin = "events.shop.example"

// ask is what the tests ask for.
func ask() cloudevents.HandshakeOptions {
	return cloudevents.HandshakeOptions{Origin: origin, Guard: outhook.DevelopmentGuard()}
}

// answer returns the URL of a target that answers with a status and headers,
// given as names and values.
func answer(t *testing.T, status int, header ...string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for pair := range slices.Chunk(header, 2) {
			w.Header().Add(pair[0], pair[1])
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestHandshakeRequest(t *testing.T) {
	var got []*http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r)
		w.Header().Set("webhook-allowed-origin", origin)
		w.Header().Set("webhook-allowed-rate", "100")
	}))
	defer server.Close()
	target := server.URL + "/hooks/a%2Fb?tenant=1&x=%20"

	consent, err := cloudevents.Handshake(t.Context(), target, ask())
	require.NoError(t, err)
	require.Equal(t, cloudevents.Consent{Origin: origin, Rate: 100}, consent)
	require.Equal(t, http.Header{"Webhook-Request-Origin": {origin}}, consent.Header())
	require.Len(t, got, 1)
	require.Equal(t, http.MethodOptions, got[0].Method)
	require.Equal(t, "/hooks/a%2Fb?tenant=1&x=%20", got[0].RequestURI, "section 4.1: the exact target")
	require.Zero(t, got[0].ContentLength)
	require.Equal(t, http.Header{
		"Connection":             {"close"},
		"User-Agent":             {"outhook/1"},
		"Webhook-Request-Origin": {origin},
	}, got[0].Header)

	options := ask()
	options.Rate, options.Callback, options.UserAgent = 120, "https://shop.example/consent?id=1", "shop/2"
	_, err = cloudevents.Handshake(t.Context(), target, options)
	require.NoError(t, err)
	require.Equal(t, http.Header{
		"Connection":               {"close"},
		"User-Agent":               {"shop/2"},
		"Webhook-Request-Origin":   {origin},
		"Webhook-Request-Rate":     {"120"},
		"Webhook-Request-Callback": {"https://shop.example/consent?id=1"},
	}, got[1].Header)
}

func TestHandshakeAnswers(t *testing.T) {
	const allowedOrigin, allowedRate = "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"
	for _, test := range []struct {
		name   string
		ask    int // rate
		status int
		header []string
		rate   int
		err    error // nil: consent
	}{
		{"this origin", 0, 200, []string{allowedOrigin, origin, allowedRate, "100"}, 100, nil},
		{"all origins", 0, 200, []string{allowedOrigin, "*", allowedRate, "100"}, 100, nil},
		{"no content", 0, 204, []string{allowedOrigin, "*", allowedRate, "1"}, 1, nil},
		{"no limit", 120, 200, []string{allowedOrigin, "*", allowedRate, "*"}, 0, nil},
		{"less than asked for", 120, 200, []string{allowedOrigin, "*", allowedRate, "60"}, 60, nil},
		{"more than asked for", 120, 200, []string{allowedOrigin, "*", allowedRate, "2147483647"}, 2147483647, nil},
		{"no rate", 0, 200, []string{allowedOrigin, origin}, 0, nil},
		{"no rate, asked for", 120, 200, []string{allowedOrigin, origin}, 0, cloudevents.ErrRate},

		{"nothing", 0, 200, nil, 0, cloudevents.ErrNoConsent},
		{"a rate alone", 0, 200, []string{allowedRate, "100"}, 0, cloudevents.ErrNoConsent},
		{"CORS", 0, 204, []string{"Access-Control-Allow-Origin", "*", "Allow", "POST"}, 0, cloudevents.ErrNoConsent},

		{"empty origin", 0, 200, []string{allowedOrigin, ""}, 0, cloudevents.ErrOrigin},
		{"another origin", 0, 200, []string{allowedOrigin, "shop.example"}, 0, cloudevents.ErrOrigin},
		{"a prefix", 0, 200, []string{allowedOrigin, "events."}, 0, cloudevents.ErrOrigin},
		{"a longer origin", 0, 200, []string{allowedOrigin, origin + ".evil.example"}, 0, cloudevents.ErrOrigin},
		{"a pattern", 0, 200, []string{allowedOrigin, "*.shop.example"}, 0, cloudevents.ErrOrigin},
		{"a list", 0, 200, []string{allowedOrigin, origin + ", other.example"}, 0, cloudevents.ErrOrigin},
		{"two origins", 0, 200, []string{allowedOrigin, origin, allowedOrigin, "*"}, 0, cloudevents.ErrOrigin},

		{"rate zero", 0, 200, []string{allowedOrigin, "*", allowedRate, "0"}, 0, cloudevents.ErrRate},
		{"negative rate", 0, 200, []string{allowedOrigin, "*", allowedRate, "-1"}, 0, cloudevents.ErrRate},
		{"signed rate", 0, 200, []string{allowedOrigin, "*", allowedRate, "+1"}, 0, cloudevents.ErrRate},
		{"fraction", 0, 200, []string{allowedOrigin, "*", allowedRate, "1.5"}, 0, cloudevents.ErrRate},
		{"leading zero", 0, 200, []string{allowedOrigin, "*", allowedRate, "010"}, 0, cloudevents.ErrRate},
		{"hexadecimal", 0, 200, []string{allowedOrigin, "*", allowedRate, "0x10"}, 0, cloudevents.ErrRate},
		{"underscore", 0, 200, []string{allowedOrigin, "*", allowedRate, "1_000"}, 0, cloudevents.ErrRate},
		{"empty rate", 0, 200, []string{allowedOrigin, "*", allowedRate, ""}, 0, cloudevents.ErrRate},
		{"words", 0, 200, []string{allowedOrigin, "*", allowedRate, "unlimited"}, 0, cloudevents.ErrRate},
		{"overflow", 0, 200, []string{allowedOrigin, "*", allowedRate, "2147483648"}, 0, cloudevents.ErrRate},
		{"overflow of 64 bits", 0, 200, []string{allowedOrigin, "*", allowedRate, "18446744073709551617"}, 0, cloudevents.ErrRate},
		{"two rates", 0, 200, []string{allowedOrigin, "*", allowedRate, "1", allowedRate, "*"}, 0, cloudevents.ErrRate},

		{"not supported", 0, 405, nil, 0, &cloudevents.StatusError{Status: 405}},
		{"failure with consent", 0, 500, []string{allowedOrigin, "*", allowedRate, "1"}, 0, &cloudevents.StatusError{Status: 500}},
		{"redirect with consent", 0, 301, []string{allowedOrigin, "*", allowedRate, "1"}, 0, &cloudevents.StatusError{Status: 301}},
	} {
		t.Run(test.name, func(t *testing.T) {
			options := ask()
			options.Rate = test.ask
			consent, err := cloudevents.Handshake(t.Context(), answer(t, test.status, test.header...), options)
			if test.err != nil {
				require.Equal(t, test.err, err)
				require.Zero(t, consent)
				return
			}
			require.NoError(t, err)
			require.Equal(t, cloudevents.Consent{Origin: origin, Rate: test.rate}, consent)
		})
	}
}

// TestConsentPace: whatever a target grants, events can be sent to it.
func TestConsentPace(t *testing.T) {
	for granted, want := range map[string]outhook.Rate{
		"*":          {},
		"1":          {N: 1, Per: time.Minute},
		"100":        {N: 100, Per: time.Minute},
		"2147483647": {N: 1_000_000, Per: time.Minute},
	} {
		target := answer(t, 200, "WebHook-Allowed-Origin", "*", "WebHook-Allowed-Rate", granted)
		consent, err := cloudevents.Handshake(t.Context(), target, ask())
		require.NoError(t, err)
		require.Equal(t, want, consent.Pace())
		subscriber := outhook.Subscriber{ID: "s", URL: target, Unsigned: true, Rate: consent.Pace()}
		_, err = dispatcher(t).Send(t.Context(), outhook.Event{Type: "order.paid"}, []outhook.Subscriber{subscriber})
		require.NoError(t, err)
	}
}

func TestHandshakeFollowsNoRedirect(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var hits atomic.Int32
		elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			hits.Add(1)
			w.Header().Set("WebHook-Allowed-Origin", "*")
		}))
		_, err := cloudevents.Handshake(t.Context(), answer(t, status, "Location", elsewhere.URL), ask())
		elsewhere.Close()
		require.Equal(t, &cloudevents.StatusError{Status: status}, err)
		require.Zero(t, hits.Load())
	}
}

// TestHandshakeGuard: what the guard refuses is not called.
func TestHandshakeGuard(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)

	for _, target := range []string{
		server.URL, "https://127.0.0.1:" + port, "https://localhost:" + port, "https://[::ffff:127.0.0.1]:" + port,
		"https://169.254.169.254/latest/meta-data", "ftp://shop.example", "https://a:b@shop.example", "://", "",
	} {
		_, err := cloudevents.Handshake(t.Context(), target, cloudevents.HandshakeOptions{Origin: origin})
		require.ErrorIs(t, err, outhook.ErrBlocked, target)
		require.NotErrorIs(t, err, cloudevents.ErrNoAnswer, "is found before anything is called")
	}

	// A name that passes is judged again by the address that it resolves to.
	options := ask()
	options.Guard.Allow = []outhook.Range{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
	_, err = cloudevents.Handshake(t.Context(), "http://localhost:"+port, options)
	require.ErrorIs(t, err, cloudevents.ErrNoAnswer)
	require.ErrorIs(t, err, outhook.ErrBlocked)
	require.Equal(t, cloudevents.ErrNoAnswer.Error(), err.Error(), "what the name resolves to is not told")
	require.Zero(t, connections.Load())

	_, err = cloudevents.Handshake(t.Context(), "http://localhost:"+port, ask())
	require.Equal(t, &cloudevents.StatusError{Status: 404}, err, "the guard alone made the difference")
	require.EqualValues(t, 1, connections.Load())
}

func TestHandshakeNoAnswer(t *testing.T) {
	serve := func(t *testing.T, greeting string) string {
		t.Helper()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, greeting)
				conn.Close()
			}
		})
		t.Cleanup(func() { listener.Close(); wg.Wait() })
		return "http://" + listener.Addr().String()
	}
	for name, greeting := range map[string]string{
		"no HTTP":    "220 secret.internal ESMTP\r\n",
		"nothing":    "",
		"big header": "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nX: " + strings.Repeat("x", 128<<10) + "\r\n\r\n",
		"no end":     "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cloudevents.Handshake(t.Context(), serve(t, greeting), ask())
			require.ErrorIs(t, err, cloudevents.ErrNoAnswer)
			require.Equal(t, cloudevents.ErrNoAnswer.Error(), err.Error(), "nothing of the answer is told")
		})
	}
	t.Run("refused", func(t *testing.T) {
		server := httptest.NewServer(nil)
		server.Close()
		_, err := cloudevents.Handshake(t.Context(), server.URL, ask())
		require.ErrorIs(t, err, cloudevents.ErrNoAnswer)
		_, ok := errors.AsType[*net.OpError](err)
		require.True(t, ok, "the cause is there for the operator")
		require.Equal(t, cloudevents.ErrNoAnswer.Error(), err.Error())
	})
}

// TestHandshakeReadsNoBody: a body that never ends does not hold it up.
func TestHandshakeReadsNoBody(t *testing.T) {
	body := &untouched{}
	options := ask()
	options.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Webhook-Allowed-Origin": {"*"}}, Body: body}, nil
	})
	_, err := cloudevents.Handshake(t.Context(), "https://shop.example", options)
	require.NoError(t, err)
	require.Equal(t, untouched{reads: 0, closed: 1}, *body)

	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(gone)
		w.Header().Set("WebHook-Allowed-Origin", "*")
		for {
			if _, err := w.Write(make([]byte, 4<<10)); err != nil {
				return // the connection was closed
			}
		}
	}))
	defer server.Close()
	_, err = cloudevents.Handshake(t.Context(), server.URL, ask())
	require.NoError(t, err)
	<-gone
}

// An untouched body counts what is done to it.
type untouched struct{ reads, closed int }

func (u *untouched) Read([]byte) (int, error) { u.reads++; return 0, io.EOF }
func (u *untouched) Close() error             { u.closed++; return nil }

// A roundTripper is a Transport in memory.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestHandshakeTimeout(t *testing.T) {
	hang := roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	for _, test := range []struct {
		name          string
		timeout, want time.Duration
	}{
		{"by default", 0, 15 * time.Second},
		{"its own", time.Minute, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := cloudevents.HandshakeOptions{Origin: origin, Transport: hang, Timeout: test.timeout}
				begin := time.Now()
				_, err := cloudevents.Handshake(t.Context(), "https://shop.example", options)
				require.ErrorIs(t, err, cloudevents.ErrNoAnswer)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, test.want, time.Since(begin))
			})
		})
	}
	t.Run("its context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := cloudevents.Handshake(ctx, "https://shop.example", cloudevents.HandshakeOptions{Origin: origin, Transport: hang})
		require.ErrorIs(t, err, cloudevents.ErrNoAnswer)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestHandshakeTimeoutOnSockets(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	options := ask()
	options.Timeout = 50 * time.Millisecond
	_, err := cloudevents.Handshake(t.Context(), server.URL, options)
	require.ErrorIs(t, err, cloudevents.ErrNoAnswer)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestHandshakeOptions(t *testing.T) {
	called := roundTripper(func(*http.Request) (*http.Response, error) { panic("called") })
	fields := func(options cloudevents.HandshakeOptions) (names []string) {
		options.Transport = called
		_, err := cloudevents.Handshake(t.Context(), "https://shop.example", options)
		require.ErrorIs(t, err, outhook.ErrInvalid)
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			fault, ok := errors.AsType[*outhook.FieldError](err)
			require.True(t, ok)
			names = append(names, strings.TrimPrefix(fault.Field, "HandshakeOptions."))
		}
		return names
	}
	require.Equal(t, []string{"Origin"}, fields(cloudevents.HandshakeOptions{}))
	require.Equal(t, []string{"Origin", "Rate", "Timeout", "Callback"},
		fields(cloudevents.HandshakeOptions{Rate: -1, Timeout: -1, Callback: "/consent"}))
	for _, bad := range []string{"*", "a b", "a,b", "a\r\nX: y", "https://a", "größe.example", strings.Repeat("a", 254)} {
		require.Equal(t, []string{"Origin"}, fields(cloudevents.HandshakeOptions{Origin: bad}), bad)
	}
	for _, bad := range []string{"http://shop.example", "https:///x", "https://a:b@shop.example", "https://shop.example/#x", "x\r\ny: z"} {
		require.Equal(t, []string{"Callback"}, fields(cloudevents.HandshakeOptions{Origin: origin, Callback: bad}), bad)
	}
	require.Equal(t, []string{"Callback"},
		fields(cloudevents.HandshakeOptions{Origin: origin, Callback: "ftp://shop.example", Guard: outhook.DevelopmentGuard()}))
}

// sdkTarget is the receiver's side as the SDK has it.
func sdkTarget(t *testing.T, origins []string, acknowledge bool) string {
	t.Helper()
	protocol, err := cehttp.New(cehttp.WithDefaultOptionsHandlerFunc([]string{http.MethodPost}, 77, origins, acknowledge))
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(protocol.OptionsHandler))
	t.Cleanup(server.Close)
	return server.URL
}

// TestHandshakeWithTheSDK has the SDK consent.
func TestHandshakeWithTheSDK(t *testing.T) {
	for _, test := range []struct {
		name    string
		origins []string
		ask     int
		want    cloudevents.Consent
		err     error
	}{
		{"this origin", []string{"other.example", origin}, 120, cloudevents.Consent{Origin: origin, Rate: 77}, nil},
		{"all origins", []string{"*"}, 0, cloudevents.Consent{Origin: origin, Rate: 77}, nil},
		{"another origin", []string{"other.example"}, 0, cloudevents.Consent{}, &cloudevents.StatusError{Status: 400}},
		// The SDK takes a prefix and answers with it, which section 4.2.1 does not allow.
		{"a prefix", []string{"events."}, 0, cloudevents.Consent{}, cloudevents.ErrOrigin},
	} {
		t.Run(test.name, func(t *testing.T) {
			options := ask()
			options.Rate = test.ask
			consent, err := cloudevents.Handshake(t.Context(), sdkTarget(t, test.origins, false), options)
			require.Equal(t, test.err, err)
			require.Equal(t, test.want, consent)
		})
	}
}

// TestCallbackWithTheSDK has the SDK consent later.
func TestCallbackWithTheSDK(t *testing.T) {
	target := sdkTarget(t, []string{origin}, true)
	granted := make(chan []any, 1)
	callback := &cloudevents.Callback{
		Secret: outhook.NewSecret(strings.Repeat("k", 32)),
		URLOf:  func(context.Context, string) (string, error) { return target, nil },
		Grant: func(_ context.Context, subscriber, url string, rate int) error {
			granted <- []any{subscriber, url, rate}
			return nil
		},
	}
	server := httptest.NewServer(callback)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections() // by which the SDK calls back
	callback.URL = server.URL + "/consent"

	options := ask()
	var err error
	options.Callback, err = callback.For("customer-1", target)
	require.NoError(t, err)
	_, err = cloudevents.Handshake(t.Context(), target, options)
	require.Equal(t, cloudevents.ErrNoConsent, err)
	require.Equal(t, []any{"customer-1", target, 77}, <-granted)
}

func TestCallback(t *testing.T) {
	const target = "https://customer.example/hooks"
	current := target
	failure := errors.New("database away")
	var grantErr error
	var granted []string
	callback := &cloudevents.Callback{
		URL:    "https://shop.example/consent?v=1",
		Secret: outhook.NewSecret(strings.Repeat("k", 32)),
		URLOf: func(_ context.Context, subscriber string) (string, error) {
			switch subscriber {
			case "c 1&2", "other":
				return current, nil
			case "failing":
				return "", failure
			}
			return "", outhook.ErrUnknownSubscriber
		},
		Grant: func(_ context.Context, subscriber, url string, rate int) error {
			granted = append(granted, subscriber+" "+url+" "+http.StatusText(rate))
			return grantErr
		},
	}
	link := func(subscriber, target string) string {
		s, err := callback.For(subscriber, target)
		require.NoError(t, err)
		return s
	}
	call := func(method, link string, rate ...string) int {
		granted = nil
		r := httptest.NewRequestWithContext(t.Context(), method, link, nil)
		if rate != nil {
			r.Header["Webhook-Allowed-Rate"] = rate
		}
		w := httptest.NewRecorder()
		callback.ServeHTTP(w, r)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		return w.Code
	}
	good := link("c 1&2", target)
	u, err := url.Parse(good)
	require.NoError(t, err)
	require.Equal(t, "shop.example", u.Host)
	require.Equal(t, "1", u.Query().Get("v"), "the URL's own query is kept")
	require.Equal(t, "c 1&2", u.Query().Get("id"))

	// 200 stands for the rate, which the status text shows.
	require.Equal(t, 200, call("GET", good, "200"))
	require.Equal(t, []string{"c 1&2 " + target + " OK"}, granted)
	require.Equal(t, 204, call("POST", good))
	require.Equal(t, []string{"c 1&2 " + target + " "}, granted, "no rate is no limit")
	require.Equal(t, 204, call("POST", good, "*"), "and so is a star")

	refused := func(want int, method, link string, rate ...string) {
		t.Helper()
		require.Equal(t, want, call(method, link, rate...))
		require.Empty(t, granted)
	}
	for _, method := range []string{"HEAD", "PUT", "OPTIONS", "DELETE"} {
		refused(405, method, good)
	}
	refused(400, "GET", good, "0")
	refused(400, "GET", good, "1", "2")
	refused(403, "GET", "https://shop.example/consent")
	refused(403, "GET", strings.Replace(good, "key=", "key=A", 1))
	refused(403, "GET", strings.Replace(good, "key=", "x=", 1))
	for i := range []byte(u.Query().Get("key"))[:42] { // a last digit has bits that mean nothing
		key := []byte(u.Query().Get("key"))
		key[i] ^= 1
		changed := u.Query()
		changed.Set("key", string(key))
		refused(403, "GET", "https://shop.example/consent?"+changed.Encode())
	}
	refused(403, "GET", strings.Replace(link("other", target), "id=other", "id=c+1%262", 1))
	refused(403, "GET", strings.Replace(good, "id=c+1%262", "id=other", 1))
	refused(403, "GET", link("unknown", target))
	refused(500, "GET", link("failing", target))

	// Who had the URL for the old target cannot consent for the new one.
	current = "https://victim.example/hooks"
	refused(403, "GET", good)
	current = target
	require.Equal(t, 200, call("GET", good))

	grantErr = failure
	require.Equal(t, 500, call("GET", good))
	grantErr = nil

	// Without a secret nothing can be made, and nothing made by others holds.
	callback.Secret = outhook.Secret{}
	_, err = callback.For("other", target)
	require.ErrorIs(t, err, outhook.ErrInvalid)
	refused(403, "GET", good)
	guess := hmac.New(sha256.New, nil)
	fmt.Fprintf(guess, "outhook consent %d %s %s", len("other"), "other", target)
	refused(403, "GET", "https://shop.example/consent?id=other&key="+base64.RawURLEncoding.EncodeToString(guess.Sum(nil)))
	unset := *callback
	unset.Secret = outhook.NewSecret(strings.Repeat("k", 31))
	_, err = unset.For("other", target)
	require.ErrorIs(t, err, outhook.ErrInvalid)
	unset = cloudevents.Callback{Secret: outhook.NewSecret(strings.Repeat("k", 32)), URL: "/consent"}
	_, err = unset.For("other", target)
	require.ErrorIs(t, err, outhook.ErrInvalid)
}

func TestTarget(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, test := range []struct {
		name    string
		target  cloudevents.Target
		method  string
		origins []string // that ask
		want    int
		header  http.Header
	}{
		{"one of several", cloudevents.Target{Origins: []string{"other.example", origin}, Rate: 5}, "OPTIONS", []string{origin}, 200,
			http.Header{"Allow": {"POST"}, "Webhook-Allowed-Origin": {origin}, "Webhook-Allowed-Rate": {"5"}}},
		{"all", cloudevents.Target{Origins: []string{"*"}}, "OPTIONS", []string{origin}, 200,
			http.Header{"Allow": {"POST"}, "Webhook-Allowed-Origin": {"*"}, "Webhook-Allowed-Rate": {"*"}}},
		{"another", cloudevents.Target{Origins: []string{"other.example"}}, "OPTIONS", []string{origin}, 403, nil},
		{"the star asks", cloudevents.Target{Origins: []string{origin}}, "OPTIONS", []string{"*"}, 403, nil},
		{"two ask", cloudevents.Target{Origins: []string{origin}}, "OPTIONS", []string{origin, "other.example"}, 403, nil},
		{"none may", cloudevents.Target{}, "OPTIONS", []string{origin}, 403, nil},
		{"nobody asks", cloudevents.Target{Origins: []string{"*"}}, "OPTIONS", nil, http.StatusTeapot, nil},
		{"delivery", cloudevents.Target{Origins: []string{"*"}}, "POST", []string{origin}, http.StatusTeapot, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), test.method, "/", nil)
			r.Header["Webhook-Request-Origin"] = test.origins
			w := httptest.NewRecorder()
			test.target.Handler(next).ServeHTTP(w, r)
			require.Equal(t, test.want, w.Code)
			if test.header != nil {
				require.Equal(t, test.header, w.Header())
			}
			if test.want != http.StatusOK {
				require.NotContains(t, w.Header(), "Webhook-Allowed-Origin")
			}
		})
	}
}

// TestHandshakeWithTarget joins both halves.
func TestHandshakeWithTarget(t *testing.T) {
	target := &cloudevents.Target{Origins: []string{origin}, Rate: 30}
	server := httptest.NewServer(target.Handler((&outhook.Verifier{}).Handler(nil)))
	defer server.Close()
	consent, err := cloudevents.Handshake(t.Context(), server.URL, ask())
	require.NoError(t, err)
	require.Equal(t, cloudevents.Consent{Origin: origin, Rate: 30}, consent)

	options := ask()
	options.Origin = "other.example"
	_, err = cloudevents.Handshake(t.Context(), server.URL, options)
	require.Equal(t, &cloudevents.StatusError{Status: 403}, err)
}
