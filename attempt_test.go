package outhook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// listen calls serve for each connection, with its number from 0, and returns the URL.
func listen(t *testing.T, serve func(n int, c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(n, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

// local returns a Dispatcher that may call this machine, and a subscriber.
func local(t *testing.T, url string, options Options) (*Dispatcher, Subscriber) {
	t.Helper()
	options.Guard = DevelopmentGuard()
	d, err := New(NewMemoryStore(), &options)
	require.NoError(t, err)
	t.Cleanup(d.ownsIdle.CloseIdleConnections)
	return d, Subscriber{ID: "a", URL: url, Keys: []Key{testKey}}
}

func TestStaleConnection(t *testing.T) {
	// The receiver answers the first request of its first connection, reads
	// the second and closes, as one does that is restarted.
	var requests atomic.Int32
	url := listen(t, func(n int, c net.Conn) {
		r := bufio.NewReader(c)
		for i := range 2 {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			requests.Add(1)
			_, _ = io.Copy(io.Discard, req.Body)
			if n == 0 && i == 1 {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	d, s := local(t, url, Options{Concurrency: 1})
	for i := range 2 {
		send(t, d, eventID(i), s)
	}
	_, err := d.Drain(t.Context())
	require.NoError(t, err)
	r := record(t, d, "e1", "a")
	require.Equal(t, Delivered, r.State, "at once, without a retry delay")
	require.Len(t, r.Attempts, 2)
	require.Equal(t, "the connection was closed before an answer", r.Attempts[0].Error)
	require.Equal(t, 1, r.Attempts[0].Number)
	require.Equal(t, 1, r.Attempts[1].Number, "it costs no attempt")
	require.EqualValues(t, 3, requests.Load())
}

func TestAttemptErrors(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	tlsServer := httptest.NewUnstartedServer(http.NotFoundHandler())
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0)
	tlsServer.StartTLS()
	defer tlsServer.Close()
	redirect := httptest.NewServer(http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect))
	defer redirect.Close()
	eof := listen(t, func(_ int, c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) })
	garbage := listen(t, func(_ int, c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "hello, here is a secret\r\n\r\n")
	})
	plainText := listen(t, func(_ int, c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 no\r\n\r\n") })

	for name, test := range map[string]struct{ url, want string }{
		"refused":     {closed.URL, "connection refused"},
		"certificate": {tlsServer.URL, "the TLS certificate is not valid"},
		"no TLS":      {"https" + plainText[len("http"):], "the TLS handshake failed"},
		"closed":      {eof, "the connection was closed before an answer"},
		"garbage":     {garbage, "the response is malformed"},
		"redirect":    {redirect.URL, "status 307"},
	} {
		t.Run(name, func(t *testing.T) {
			d, s := local(t, test.url, Options{})
			a, err := d.Try(t.Context(), Event{Type: "x"}, s)
			require.Equal(t, test.want, a.Error)
			require.Equal(t, a.Status == 0, err != nil)
		})
	}

	for want, err := range map[string]error{
		"outhook: target is not allowed":             fmt.Errorf("dial: %w", ErrBlocked),
		"timeout":                                    context.DeadlineExceeded,
		"cancelled":                                  context.Canceled,
		"the host name could not be resolved":        &net.OpError{Op: "dial", Err: &net.DNSError{Name: "canary"}},
		"no connection":                              &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH},
		"the TLS handshake failed":                   tls.AlertError(40),
		"the connection was closed before an answer": errors.New("http: server closed idle connection"),
		"the request failed":                         errors.New("anything"),
		"the response is malformed":                  errors.New(`malformed HTTP response "http: server closed idle connection"`),
		"the response header is too long":            fmt.Errorf("broken: %w", errors.New("net/http: server response headers exceeded 8 bytes; aborted")),
		"the receiver did not take the request":      fmt.Errorf("x: %w", errUntaken),
	} {
		require.Equal(t, want, errorText(err))
	}
}

func TestResponse(t *testing.T) {
	t.Run("the status decides, whatever becomes of the body", func(t *testing.T) {
		url := listen(t, func(_ int, c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
		})
		d, s := local(t, url, Options{KeepResponse: 100})
		send(t, d, "e", s)
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		r := record(t, d, "e", "a")
		require.Equal(t, Delivered, r.State)
		require.Equal(t, "short", string(r.Attempts[0].Body))
	})

	bubble(t, "which are failures", func(t *testing.T) {
		for _, code := range []int{101, 199, 300, 301, 404, 500, 600, 999} {
			w := &wire{answer: status(code)}
			d := dispatcher(t, NewMemoryStore(), w, Options{})
			a, err := d.Try(t.Context(), Event{Type: "x"}, subscriber("a"))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("status %d", code), a.Error)
		}
	})
}

func TestKeysExpire(t *testing.T) {
	bubble(t, "between Send and the attempt", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		s := subscriber("a")
		s.Keys[0].Expires = time.Now().Add(time.Minute)
		_, err := d.Send(t.Context(), Event{ID: "e", Type: "x", Delay: time.Hour}, []Subscriber{s})
		require.NoError(t, err)
		time.Sleep(time.Hour)
		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		require.Empty(t, w.to(""))
		require.Equal(t, errNoKey.Error(), record(t, d, "e", "a").Attempts[0].Error)
	})
}

func TestForeignSnapshot(t *testing.T) {
	bubble(t, "is judged by this dispatcher's guard", func(t *testing.T) {
		store := NewMemoryStore()
		w := &wire{answer: status(200)}
		lax := dispatcher(t, store, w, Options{Guard: DevelopmentGuard()})
		strict := dispatcher(t, store, w, Options{})
		s := subscriber("a")
		s.URL = "http://127.0.0.1/"
		send(t, lax, "e", s)
		_, err := strict.Drain(t.Context())
		require.NoError(t, err)
		require.Empty(t, w.to(""))
		r := record(t, strict, "e", "a")
		require.Equal(t, ReasonPermanent, r.Reason)
		require.Equal(t, ErrBlocked.Error(), r.Attempts[0].Error)
	})
}

func TestNilResponse(t *testing.T) {
	d := dispatcher(t, NewMemoryStore(), &wire{answer: func(*http.Request, int) (*http.Response, error) { return nil, nil }}, Options{})
	_, err := d.Try(t.Context(), Event{Type: "x"}, subscriber("a"))
	require.ErrorContains(t, err, "the request failed")
}

type failingSigner struct{ err error }

func (s failingSigner) Sign(context.Context, Message, []Key) (http.Header, error) { return nil, s.err }

func TestSignerFails(t *testing.T) {
	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{Signers: map[string]Signer{"": failingSigner{errors.New("canary")}}})
	a, err := d.Try(t.Context(), Event{Type: "x"}, subscriber("a"))
	require.ErrorContains(t, err, "the signer failed")
	require.NotContains(t, err.Error(), "canary")
	require.Zero(t, a.Status)
}

// A deadlineConn notes the deadline it has.
type deadlineConn struct {
	net.Conn
	deadline time.Time
}

func (c *deadlineConn) SetDeadline(t time.Time) error { c.deadline = t; return nil }

func TestConnectionOutlivesItsAttempt(t *testing.T) {
	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
	s := newSlot(d, t.Context(), 0)
	defer s.close()
	// net/http calls a connection reused that was dialled for an attempt which found another.
	for _, reused := range []bool{false, true} {
		s.begin(time.Now(), time.Minute)
		c := &deadlineConn{deadline: time.Now()} // of dialFor
		s.gotConn(httptrace.GotConnInfo{Conn: c, Reused: reused})
		require.Zero(t, c.deadline)
		s.end()
	}
}

func TestReadUpTo(t *testing.T) {
	for _, size := range []int{0, 1, 32<<10 - 1, 32 << 10, 32<<10 + 1, 100_000} {
		for _, n := range []int{1, 32 << 10, 32<<10 + 1, 200_000} {
			text := bytes.Repeat([]byte("x"), size)
			require.Len(t, readUpTo(bytes.NewReader(text), n), min(size, n))
		}
	}

	text := bytes.NewReader(make([]byte, 1<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.Len(t, readUpTo(text, 1<<20), 1<<20)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(3<<19), "io.ReadAll takes more than twice as much as it reads")
}

// TestAttemptedContext: the context that observers have of an attempt does not end with it,
// unless the attempt ran out.
func TestAttemptedContext(t *testing.T) {
	var ended error
	d, err := New(NewMemoryStore(), &Options{Guard: DevelopmentGuard(), Observers: []Observer{{
		Attempted: func(ctx context.Context, _ Observation) { ended = ctx.Err() },
	}}})
	require.NoError(t, err)
	_, err = d.Try(t.Context(), Event{Type: "x"}, Subscriber{ID: "a", URL: "http://127.0.0.1:1/", Keys: []Key{testKey}})
	require.ErrorContains(t, err, "connection refused")
	require.NoError(t, ended)
}
