//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// A preparedLoop is a loop that hands requests straight to http.Transport, with all prepared
// that may be: what is left for a store and all that a delivery needs beside its request.
type preparedLoop struct {
	*loop
	urls  []*url.URL // by subscriber
	spare sync.Pool  // of *preparedRequest
}

// A preparedRequest is used for one request after the other.
type preparedRequest struct {
	header    http.Header
	mac       hash.Hash
	content   []byte
	signature []byte
}

func (b *bench) openPrepared() (contender, error) {
	p, err := newPoster(b.key, b.plan.concurrency)
	if err != nil {
		return nil, err
	}
	p.transport.DisableCompression = true
	l := &preparedLoop{loop: &loop{bench: b, poster: p}}
	for _, s := range b.subscribers {
		u, err := url.Parse(s.URL)
		if err != nil {
			return nil, err
		}
		l.urls = append(l.urls, u)
	}
	l.spare.New = func() any {
		return &preparedRequest{
			mac: hmac.New(sha256.New, p.secret),
			header: http.Header{
				"Content-Type": {"application/json"}, "User-Agent": {"outhook/1"},
				"Webhook-Id": {""}, "Webhook-Timestamp": {""}, "Webhook-Signature": {""},
			},
		}
	}
	return l, nil
}

func (l *preparedLoop) drain(ctx context.Context, _ *tally) error {
	return inTurns(ctx, l.plan.concurrency, l.backlog(), func(ctx context.Context, i int) error {
		p := l.spare.Get().(*preparedRequest)
		defer l.spare.Put(p)
		id, timestamp := newID(), strconv.FormatInt(time.Now().Unix(), 10)
		p.header["Webhook-Id"][0], p.header["Webhook-Timestamp"][0] = id, timestamp
		p.header["Webhook-Signature"][0] = p.sign(id, timestamp, l.body)
		u := l.urls[i%len(l.urls)]
		request := (&http.Request{
			Method: http.MethodPost, URL: u, Host: u.Host, Header: p.header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Body: io.NopCloser(bytes.NewReader(l.body)), ContentLength: int64(len(l.body)),
		}).WithContext(ctx)
		return answered(l.transport.RoundTrip(request))
	})
}

func (p *preparedRequest) sign(id, timestamp string, body []byte) string {
	p.content = append(append(append(append(p.content[:0], id...), '.'), timestamp...), '.')
	p.mac.Reset()
	p.mac.Write(p.content)
	p.mac.Write(body)
	p.content = p.mac.Sum(p.content[:0])
	p.signature = base64.StdEncoding.AppendEncode(append(p.signature[:0], "v1,"...), p.content)
	return string(p.signature)
}
