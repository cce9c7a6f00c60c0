//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/outhook/outhook"
)

// A poster signs and posts with an http.Client, as the standard library has it.
type poster struct {
	client    *http.Client
	transport *http.Transport
	secret    []byte
}

func newPoster(key outhook.Key, connections int) (*poster, error) {
	secret, err := base64.StdEncoding.DecodeString(key.Secret.Reveal()[len("whsec_"):])
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: connections}
	return &poster{client: &http.Client{Transport: transport}, transport: transport, secret: secret}, nil
}

func (p *poster) post(ctx context.Context, url, id string, body []byte) error {
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "outhook/1")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", timestamp)
	req.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(p.sum(nil, id, timestamp, body)))
	return answered(p.client.Do(req))
}

// answered reads a response, and returns an error if it is not what the receiver answers.
func answered(response *http.Response, err error) error {
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, response.Body)
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("post: %s", response.Status)
	}
	return nil
}

// sum appends the HMAC of what is signed.
func (p *poster) sum(b []byte, id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, p.secret)
	h.Write([]byte(id + "." + timestamp + "."))
	h.Write(body)
	return h.Sum(b)
}

func (p *poster) close() { p.transport.CloseIdleConnections() }
