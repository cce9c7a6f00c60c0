package outhook

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
)

// HMAC is a scheme with an HMAC-SHA256 in a header of its own, for receivers with an
// existing contract. The key is the Secret's text, byte for byte. There is one
// signature, by the first live key: a receiver has to know a new key before it
// becomes the first.
//
// For a contract that is signed with HMAC but does not fit, write a [Signer].
type HMAC struct {
	// Header has the signature, such as "X-Signature". Required.
	Header string

	// Prefix stands before the signature, such as "sha256=". Empty: nothing.
	Prefix string

	// Base64 encodes the signature as standard base64. By default it is hex, of
	// small letters.
	Base64 bool

	// Timestamp is the header that has the time in Unix seconds. It is signed, too,
	// if Content has it. Empty: webhook-timestamp.
	Timestamp string

	// ID is the header that has the event's ID. Empty: webhook-id.
	ID string

	// Content is what is signed: {body}, exactly once, and, if they are
	// signed, {timestamp} and {id}, such as "{timestamp}.{body}". Empty: "{body}".
	// What is not signed can be changed on the way: without {timestamp} a recorded
	// request can be repeated for ever.
	Content string
}

var _ Scheme = HMAC{}

// GitHub returns the scheme of GitHub's webhooks: the HMAC of the body in
// X-Hub-Signature-256, after "sha256=" and in hex. The time is not signed. The
// event's ID is in X-GitHub-Delivery, not signed either.
//
// See https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries.
func GitHub() HMAC {
	return HMAC{Header: "X-Hub-Signature-256", Prefix: "sha256=", ID: "X-GitHub-Delivery"}
}

// Slack returns the scheme of Slack's requests: the HMAC of "v0:timestamp:body" in
// X-Slack-Signature, after "v0=" and in hex, the time in X-Slack-Request-Timestamp.
//
// See https://docs.slack.dev/authentication/verifying-requests-from-slack.
func Slack() HMAC {
	return HMAC{
		Header: "X-Slack-Signature", Prefix: "v0=",
		Timestamp: "X-Slack-Request-Timestamp", Content: "v0:{timestamp}:{body}",
	}
}

// Shopify returns the scheme of Shopify's webhooks: the HMAC of the body in
// X-Shopify-Hmac-SHA256, in base64. The time is not signed. The event's ID is in
// X-Shopify-Webhook-Id, not signed either.
//
// See https://shopify.dev/docs/apps/build/webhooks/subscribe/https.
func Shopify() HMAC {
	return HMAC{Header: "X-Shopify-Hmac-Sha256", Base64: true, ID: "X-Shopify-Webhook-Id"}
}

// Sign implements [Signer].
func (s HMAC) Sign(_ context.Context, m Message, keys []Key) (http.Header, error) {
	secret := keys[0].Secret.Reveal()
	if secret == "" {
		return nil, errEmptySecret
	}
	timestamp := m.timestamp()
	sum := s.sum(secret, m.ID, timestamp, m.Body)
	h := make(http.Header, 3)
	h.Set(cmp.Or(s.ID, headerID), m.ID)
	if s.signs("{timestamp}") || s.Timestamp != "" {
		h.Set(cmp.Or(s.Timestamp, headerTimestamp), timestamp)
	}
	if s.Base64 {
		h.Set(s.Header, s.Prefix+base64.StdEncoding.EncodeToString(sum))
	} else {
		h.Set(s.Header, s.Prefix+hex.EncodeToString(sum))
	}
	return h, nil
}

// CheckKey returns an error that matches [ErrKey] if the secret is empty.
func (s HMAC) CheckKey(key Key) error {
	if key.Secret.Reveal() == "" {
		return errEmptySecret
	}
	return nil
}

const errEmptySecret = keyFault("the secret is empty")

// Headers returns the names of the headers that Sign sets.
func (s HMAC) Headers() []string {
	return []string{s.Header, cmp.Or(s.ID, headerID), cmp.Or(s.Timestamp, headerTimestamp)}
}

// Verify implements [Scheme]. The ID is empty if there is none and it is not
// signed, the Time zero if it is not signed.
func (s HMAC) Verify(header http.Header, body []byte, keys []Key) (m Message, err error) {
	m.Body = body
	m.ID, err = single(header, cmp.Or(s.ID, headerID))
	if err != nil && s.signs("{id}") {
		return Message{}, err
	}
	timestamp := ""
	if s.signs("{timestamp}") {
		name := cmp.Or(s.Timestamp, headerTimestamp)
		if timestamp, err = single(header, name); err != nil {
			return Message{}, err
		}
		if m.Time, err = parseTimestamp(name, timestamp); err != nil {
			return Message{}, err
		}
	}
	signature, err := single(header, s.Header)
	if err != nil {
		return Message{}, err
	}
	signature, ok := strings.CutPrefix(signature, s.Prefix)
	if !ok {
		return Message{}, fmt.Errorf("%w: %s does not begin with %q", ErrHeader, s.Header, s.Prefix)
	}
	decode := hex.DecodeString
	if s.Base64 {
		decode = base64.StdEncoding.Strict().DecodeString
	}
	got, err := decode(signature)
	if err != nil {
		return Message{}, fmt.Errorf("%w: %s has no signature in its encoding", ErrHeader, s.Header)
	}
	for _, key := range keys {
		if err := s.CheckKey(key); err != nil {
			return Message{}, err
		}
		if hmac.Equal(got, s.sum(key.Secret.Reveal(), m.ID, timestamp, body)) {
			return m, nil
		}
	}
	return m, ErrSignature
}

func (s HMAC) content() string               { return cmp.Or(s.Content, "{body}") }
func (s HMAC) signs(placeholder string) bool { return strings.Contains(s.content(), placeholder) }

// sum is the HMAC of the content.
func (s HMAC) sum(secret, id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	before, after, _ := strings.Cut(s.content(), "{body}")
	values := strings.NewReplacer("{id}", id, "{timestamp}", timestamp)
	h.Write([]byte(values.Replace(before)))
	h.Write(body)
	h.Write([]byte(values.Replace(after)))
	return h.Sum(nil)
}

// fault says what is wrong with the scheme itself.
func (s HMAC) fault() string {
	switch {
	case !validHeaderName(s.Header):
		return fmt.Sprintf("its Header %q is no header name", clip(s.Header))
	case s.Timestamp != "" && !validHeaderName(s.Timestamp):
		return fmt.Sprintf("its Timestamp %q is no header name", clip(s.Timestamp))
	case s.ID != "" && !validHeaderName(s.ID):
		return fmt.Sprintf("its ID %q is no header name", clip(s.ID))
	case !validHeaderValue(s.Prefix):
		return fmt.Sprintf("its Prefix %q is no header value", clip(s.Prefix))
	case strings.Count(s.content(), "{body}") != 1:
		return fmt.Sprintf("its Content %q does not have {body} once", clip(s.Content))
	}
	return ""
}
