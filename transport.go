package outhook

import (
	"crypto/tls"
	"net/http"
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
// guard's, no redirects, no decompression, response headers of at most 64 KiB.
//
// It is there to be wrapped, for tracing say, or to have a client certificate
// added; an own DialContext or Proxy takes the guard's place.
func NewTransport(guard Guard) *http.Transport {
	guard = guard.clone()
	t := &http.Transport{
		DialContext:            guard.dial,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns:           512,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second,
	}
	if guard.Proxy != nil { // never from the environment: the guard could not see the address
		t.Proxy = http.ProxyURL(guard.Proxy)
	}
	return t
}
