package hostile_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An issuer signs the certificates of receivers.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer() (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := issued("receivers", time.Now().Add(time.Hour))
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return &issuer{cert, key}, err
}

func issued(name string, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
	}
}

// config returns that of a receiver at an address.
func (i *issuer) config(ip string, until time.Time, protocols ...string) *tls.Config {
	template := issued(canary, until)
	template.IPAddresses = []net.IP{net.ParseIP(ip)}
	raw, err := x509.CreateCertificate(rand.Reader, template, i.cert, i.key.Public(), i.key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: i.key}}, NextProtos: protocols}
}

// trusted is an authority of the system's, in this process.
var trusted = sync.OnceValues(func() (*issuer, error) {
	i, err := newIssuer()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "receivers*.pem")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := pem.Encode(f, &pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw}); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	defer restore("SSL_CERT_FILE")()
	if err := os.Setenv("SSL_CERT_FILE", f.Name()); err != nil { // which is read once
		return nil, err
	}
	_, err = x509.SystemCertPool()
	return i, err
})

func restore(name string) func() {
	old, ok := os.LookupEnv(name)
	return func() {
		if ok {
			_ = os.Setenv(name, old)
		} else {
			_ = os.Unsetenv(name)
		}
	}
}

// trustReceivers has the default transport trust receivers with TLS.
func trustReceivers(t *testing.T) *issuer {
	t.Helper()
	i, err := trusted()
	require.NoError(t, err)
	return i
}

// overTLS makes the handshake before it calls receive.
func overTLS(config *tls.Config, receive func(*peer)) func(*peer) {
	return func(p *peer) {
		conn := tls.Server(p.raw, config)
		if conn.Handshake() != nil {
			return
		}
		p.Conn = conn
		p.r = bufio.NewReader(p)
		receive(p)
	}
}

// stallAfter passes on so many bytes of what a connection writes, and then waits.
type stallAfter struct {
	net.Conn
	left int
	wait func()
}

func (s *stallAfter) Write(b []byte) (int, error) {
	if len(b) > s.left {
		n, _ := s.Conn.Write(b[:s.left])
		s.wait()
		return n, io.ErrClosedPipe
	}
	s.left -= len(b)
	return s.Conn.Write(b)
}

func tlsCases(i *issuer) []receiverCase {
	stranger, _ := newIssuer()
	later := time.Now().Add(time.Hour)
	good := i.config("127.0.0.1", later)
	old := i.config("127.0.0.1", later)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	cases := []receiverCase{
		{name: "delivers", want: delivered(200), receive: overTLS(good, reply(ok))},
		{name: "stalls before the handshake", hangs: true, want: failure(timedOut, 0), receive: (*peer).wait},
		{name: "stalls at the ClientHello", hangs: true, want: failure(timedOut, 0), receive: func(p *peer) {
			_, _ = io.ReadFull(p.raw, make([]byte, 100))
			p.wait()
		}},
		{name: "stalls in the handshake", hangs: true, want: failure(timedOut, 0), receive: func(p *peer) {
			_ = tls.Server(&stallAfter{p.raw, 200, p.wait}, good).Handshake()
		}},
		{name: "handshake dripped", hangs: true, want: failure(timedOut, 0), receive: func(p *peer) {
			if p.say("\x16\x03\x03\x40\x00") {
				p.drip("x")
			}
		}},
		{name: "stalls after the handshake", hangs: true, want: failure(timedOut, 0), receive: overTLS(good, (*peer).wait)},
		{name: "never reads the request", hangs: true, size: huge, want: failure(timedOut, 0), receive: overTLS(good, (*peer).wait)},
		{name: "body dripped", hangs: true, want: delivered(200),
			receive: overTLS(good, replyThen("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", dripping("x")))},
		{name: "endless body", want: delivered(200), receive: overTLS(good, replyThen("HTTP/1.1 200 OK\r\n\r\n", flooding("x")))},
		{name: "certificate of an unknown authority", want: failure(untrusted, 0),
			receive: overTLS(stranger.config("127.0.0.1", later), reply(ok))},
		{name: "certificate of another host", want: failure(untrusted, 0), receive: overTLS(i.config("127.0.0.2", later), reply(ok))},
		{name: "certificate expired", want: failure(untrusted, 0),
			receive: overTLS(i.config("127.0.0.1", time.Now().Add(-time.Hour)), reply(ok))},
		{name: "too old", want: failure(noTLS, 0), receive: overTLS(old, reply(ok))},
		{name: "an alert", want: failure(noTLS, 0), receive: func(p *peer) {
			if p.say("\x15\x03\x03\x00\x02\x02\x28") { // handshake_failure
				p.wait()
			}
		}},
		{name: "answered in plain text", want: failure(noTLS, 0), receive: func(p *peer) {
			if p.say("HTTP/1.1 400 " + canary + "\r\n\r\n") {
				p.wait()
			}
		}},
		{name: "garbage after the handshake", want: failure(noTLS, 1), receive: overTLS(good, func(p *peer) {
			if p.request() {
				_, _ = io.WriteString(p.raw, canary)
				p.wait()
			}
		})},
		{name: "RST at the ClientHello", want: failure(closed, 0), receive: (*peer).rst},
		{name: "FIN at the ClientHello", want: failure(closed, 0), receive: func(p *peer) { p.fin(); p.wait() }},
		{name: "RST after the request", want: failure(closed, 1), receive: overTLS(good, replyThen("", (*peer).rst))},
		{name: "FIN after the request", want: failure(closed, 1), receive: overTLS(good, replyThen("", func(p *peer) { p.fin(); p.wait() }))},
		{name: "RST after a 2xx", want: delivered(200), receive: overTLS(good, replyThen(ok, (*peer).rst))},
	}
	for i := range cases {
		cases[i].secure, cases[i].cut = true, cases[i].hangs
	}
	return cases
}

func TestReceiversTLS(t *testing.T) { runReceivers(t, tlsCases(trustReceivers(t))) }
