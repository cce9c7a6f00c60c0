package outhook

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// A Transport makes one HTTP request and returns its response, as an
// [http.RoundTripper] does: it neither retries nor follows redirects, and an
// answer of any status is no error. The Dispatcher bounds the request by its
// context.
//
// A Transport other than that of [NewTransport] decides by itself which addresses
// it dials: of the Guard only the check of the URL is left.
type Transport = http.RoundTripper

// NewTransport returns the transport that a Dispatcher uses by default:
// HTTP/1.1 and HTTP/2, TLS 1.2 or newer, every address judged by the guard just
// before it is dialled, 10 s to connect and 10 s more for TLS, no proxy but the
// guard's, no redirects, no decompression, response headers of at most 6 KiB: more than reverse proxies let through
// by default, and no more than 128 KiB to hold, whatever is in them.
//
// It is there to be wrapped, for tracing say, or to have a client certificate
// added; an own DialContext or Proxy takes the guard's place.
func NewTransport(guard Guard) *http.Transport {
	guard = guard.clone()
	t := &http.Transport{
		DialContext:            guard.dialFor,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 6 << 10,
		ReadBufferSize:         2 << 10, // net/http makes room for as many fields as it holds lines
		MaxIdleConns:           512,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: 32 << 10}, // else 4 MiB
	}
	if guard.Proxy != nil { // never from the environment: the guard could not see the address
		t.Proxy = http.ProxyURL(guard.Proxy)
	}
	return t
}

type untilKey struct{}

// dialFor dials as the guard does. For an attempt it ends with that, and so does the
// TLS handshake, if no attempt gets the connection: net/http goes on with both, so that
// another request may use the connection.
func (g Guard) dialFor(ctx context.Context, network, address string) (net.Conn, error) {
	until, ok := ctx.Value(untilKey{}).(*atomic.Int64)
	if !ok {
		return g.dial(ctx, network, address)
	}
	deadline := time.Unix(0, until.Load())
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := g.dial(ctx, network, address)
	if err == nil {
		_ = conn.SetDeadline(deadline)
	}
	return conn, err
}
