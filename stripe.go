package outhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
)

// Stripe is the scheme of Stripe's webhooks: "t=timestamp,v1=signature" in
// Stripe-Signature, with a v1 for each key, each the hex of the HMAC-SHA256 of
// "timestamp.body". The key is the Secret's text, byte for byte: a "whsec_" belongs
// to it. The event's ID is in webhook-id, not signed.
//
// See https://docs.stripe.com/webhooks?verify=verify-manually.
type Stripe struct{}

var _ Scheme = Stripe{}

const headerStripe = "Stripe-Signature"

// Sign implements [Signer].
func (Stripe) Sign(_ context.Context, m Message, keys []Key) (http.Header, error) {
	timestamp := m.timestamp()
	var value strings.Builder
	value.WriteString("t=" + timestamp)
	for _, key := range keys {
		secret := key.Secret.Reveal()
		if secret == "" {
			return nil, errEmptySecret
		}
		value.WriteString(",v1=" + hex.EncodeToString(sumStripe(secret, timestamp, m.Body)))
	}
	return http.Header{headerStripe: {value.String()}}, nil
}

// CheckKey returns an error that matches [ErrKey] if the secret is empty.
func (Stripe) CheckKey(key Key) error { return HMAC{}.CheckKey(key) }

// Headers returns the names of the headers that Sign sets.
func (Stripe) Headers() []string { return []string{headerStripe} }

// Verify implements [Scheme].
func (Stripe) Verify(header http.Header, body []byte, keys []Key) (m Message, err error) {
	m.Body = body
	m.ID, _ = single(header, headerID)
	value, err := single(header, headerStripe)
	if err != nil {
		return Message{}, err
	}
	timestamp, signatures := "", []string(nil)
	for part := range strings.SplitSeq(value, ",") {
		switch name, v, _ := strings.Cut(part, "="); name {
		case "t":
			if timestamp != "" {
				return Message{}, fmt.Errorf("%w: %s has two times", ErrHeader, headerStripe)
			}
			timestamp = v
		case "v1":
			if signatures = append(signatures, v); len(signatures) > maxKeys {
				return Message{}, fmt.Errorf("%w: more than %d signatures", ErrHeader, maxKeys)
			}
		}
	}
	if m.Time, err = parseTimestamp(headerStripe, timestamp); err != nil {
		return Message{}, err
	}
	for _, key := range keys {
		if err := (Stripe{}).CheckKey(key); err != nil {
			return Message{}, err
		}
		want := sumStripe(key.Secret.Reveal(), timestamp, body)
		for _, signature := range signatures {
			if got, err := hex.DecodeString(signature); err == nil && hmac.Equal(got, want) {
				return m, nil
			}
		}
	}
	return m, ErrSignature
}

func sumStripe(secret, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(timestamp))
	h.Write([]byte{'.'})
	h.Write(body)
	return h.Sum(nil)
}
