package outhook

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// post makes a POST request by the transport.
func post(t *testing.T, transport http.RoundTripper, url string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
	require.NoError(t, err)
	response, err := transport.RoundTrip(r)
	if err == nil {
		t.Cleanup(func() { _ = response.Body.Close() })
	}
	return response, err
}

func testTransport(t *testing.T) *http.Transport {
	transport := NewTransport(DevelopmentGuard())
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// trusting returns a transport that trusts a TLS server of httptest.
func trusting(t *testing.T, server *httptest.Server) *http.Transport {
	transport := testTransport(t)
	transport.TLSClientConfig = transport.TLSClientConfig.Clone()
	transport.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	return transport
}

// quiet is the log of a server whose handshakes are to fail.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func TestTransportUsesNoProxy(t *testing.T) {
	proxy, proxied := receiver(t, func(http.ResponseWriter, *http.Request) {})
	// net/http never proxies to loopback by the environment, and reads that only
	// once, so that a request alone would show nothing.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	transport := testTransport(t)
	require.Nil(t, transport.Proxy)
	_, err := post(t, transport, "http://10.0.0.1/")
	require.ErrorIs(t, err, ErrBlocked, "it is the address that was to be dialled, not the proxy's")
	require.Zero(t, proxied.Load())
}

func TestTransportDoesNotRedirect(t *testing.T) {
	var requests atomic.Int32
	server, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	response, err := post(t, testTransport(t), server.URL)
	require.NoError(t, err)
	require.Equal(t, http.StatusTemporaryRedirect, response.StatusCode)
	require.EqualValues(t, 1, requests.Load())
}

func TestTransportDoesNotDecompress(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(make([]byte, 1<<20))
	require.NoError(t, z.Close())
	var asked atomic.Value
	server, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Accept-Encoding"))
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(zipped.Bytes())
	})
	response, err := post(t, testTransport(t), server.URL)
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, zipped.Bytes(), body)
	require.Empty(t, asked.Load())
}

func TestTransportBoundsHeaders(t *testing.T) {
	answer := func(size int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for range size >> 8 { // in lines of 256 bytes
				w.Header().Add("X", strings.Repeat("a", 1<<8-len("X: \r\n")))
			}
		}
	}
	for _, test := range []struct {
		name   string
		size   int
		h2, ok bool
	}{
		{"5 KiB, HTTP/1.1", 5 << 10, false, true},
		{"7 KiB, HTTP/1.1", 7 << 10, false, false},
		{"5 KiB, HTTP/2", 5 << 10, true, true},
		{"7 KiB, HTTP/2", 7 << 10, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(answer(test.size))
			server.EnableHTTP2 = test.h2
			server.StartTLS()
			defer server.Close()
			response, err := post(t, trusting(t, server), server.URL)
			if test.ok {
				require.NoError(t, err)
				require.Len(t, response.Header["X"], test.size>>8)
			} else {
				require.Error(t, err)
			}
		})
	}
}

func TestTransportBoundsHTTP2(t *testing.T) {
	require.Equal(t, 32<<10, testTransport(t).HTTP2.MaxReceiveBufferPerStream)
}

func TestTransportDialsNoLongerThanTheAttempt(t *testing.T) {
	server, _ := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var until atomic.Int64
	until.Store(time.Now().Add(-time.Second).UnixNano())
	ctx := context.WithValue(t.Context(), untilKey{}, &until)
	_, err := testTransport(t).DialContext(ctx, "tcp", server.Listener.Addr().String())
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestTransportTLS(t *testing.T) {
	for _, test := range []struct {
		name    string
		version uint16
		ok      bool
	}{
		{"1.0", tls.VersionTLS10, false},
		{"1.1", tls.VersionTLS11, false},
		{"1.2", tls.VersionTLS12, true},
		{"1.3", tls.VersionTLS13, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: test.version}
			server.Config.ErrorLog = quiet()
			server.StartTLS()
			defer server.Close()
			response, err := post(t, trusting(t, server), server.URL)
			if test.ok {
				require.NoError(t, err)
				require.Equal(t, test.version, response.TLS.Version)
			} else {
				require.ErrorContains(t, err, "protocol version")
			}
		})
	}
}

func TestTransportChecksCertificates(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	defer server.Close()
	_, err := post(t, testTransport(t), server.URL)
	require.ErrorContains(t, err, "certificate")
}

func TestTransportHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Request-Proto", r.Proto)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	response, err := post(t, trusting(t, server), server.URL)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", response.Proto)
	require.Equal(t, "HTTP/2.0", response.Header.Get("Request-Proto"))
}

// The proxy of a guard makes the connections, and judges their addresses; URLs
// are judged as ever.
func TestTransportUsesProxyOfGuard(t *testing.T) {
	var asked atomic.Value
	proxy, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.URL.String())
		w.WriteHeader(204)
	})
	u, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	d, err := New(NewMemoryStore(), &Options{Guard: Guard{PlainHTTP: true, Proxy: u}})
	require.NoError(t, err)
	try := func(url string) (Attempt, error) {
		return d.Try(t.Context(), Event{Type: "x"}, Subscriber{ID: "a", URL: url, Unsigned: true})
	}
	attempt, err := try("http://hooks.example.com/a")
	require.NoError(t, err)
	require.Equal(t, 204, attempt.Status)
	require.Equal(t, "POST http://hooks.example.com/a", asked.Load())

	asked.Store("")
	_, err = try("https://hooks.example.com/a") // no TLS behind this proxy
	require.Error(t, err)
	require.Equal(t, "CONNECT //hooks.example.com:443", asked.Load())

	asked.Store("")
	for _, url := range []string{"http://10.0.0.1/", "http://localhost/", "http://metadata.google.internal/"} {
		_, err = try(url)
		require.ErrorIs(t, err, ErrBlocked)
	}
	require.Empty(t, asked.Load())

	proxy.Close()
	d.ownsIdle.CloseIdleConnections()
	attempt, err = try("http://hooks.example.com/a")
	require.Error(t, err)
	require.Equal(t, "connection refused", attempt.Error)
}
