package outhook

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Message is what a signature covers.
type Message struct {
	ID   string    // of the event
	Time time.Time // of the attempt, to the second
	Body []byte    // must not be changed
}

// A Signer computes the signature headers of a request under one scheme.
//
// Sign is called once for each attempt with the subscriber's live keys of that
// scheme, the current one first, at least one. It may be called concurrently.
// It may ask a service that holds the keys: ctx ends with the attempt.
// An error, or a panic, fails the attempt, to be retried. It must not keep the
// message or the keys, and must not put a key into an error.
//
// A Signer may have two further methods. CheckKey(Key) error is asked by Send whether
// a key is well formed, again only when the subscriber has changed, and Headers() []string which headers a subscriber or payload
// may not set, as Sign does.
type Signer interface {
	Sign(ctx context.Context, m Message, keys []Key) (http.Header, error)
}

// A Scheme is a Signer that can also verify what it signed, for [Verifier]. Those
// that are built in are Schemes.
type Scheme interface {
	Signer

	// Verify returns what a request says of itself if it is signed by one of
	// the keys, of which there is at least one. The Message has a zero Time if
	// the scheme signs none. Signatures are compared in constant time. An error
	// matches [ErrHeader], [ErrKey] or [ErrSignature]; with the latter, the
	// Message is what the request claims.
	Verify(header http.Header, body []byte, keys []Key) (Message, error)
}

// schemes are those that are built in, by the names that Key.Scheme has.
func schemes() map[string]Scheme {
	return map[string]Scheme{
		"":        StandardWebhooks{},
		"github":  GitHub(),
		"shopify": Shopify(),
		"slack":   Slack(),
		"stripe":  Stripe{},
	}
}

// Headers of Standard Webhooks 1.0.0.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// StandardWebhooks signs as Standard Webhooks 1.0.0 specifies: in webhook-signature,
// for each key and separated by spaces, the base64 of the signature of
// "id.timestamp.body", with the prefix "v1," for HMAC-SHA256 by a key "whsec_…" and
// "v1a," for Ed25519 by a key "whsk_…". It sets webhook-id and webhook-timestamp too.
//
// See https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.
type StandardWebhooks struct{}

var _ Scheme = StandardWebhooks{}

// Sign implements [Signer].
func (StandardWebhooks) Sign(_ context.Context, m Message, keys []Key) (http.Header, error) {
	timestamp := m.timestamp()
	signature, err := signStandard(m, timestamp, keys)
	if err != nil {
		return nil, err
	}
	return http.Header{
		headerID:        {m.ID},
		headerTimestamp: {timestamp},
		headerSignature: {signature},
	}, nil
}

// CheckKey returns an error that matches [ErrKey] if the key cannot sign.
func (StandardWebhooks) CheckKey(key Key) error {
	k, err := decodeKey(key.Secret.Reveal())
	if err == nil && k.hmac == nil && k.private == nil {
		err = keyFault("a public key cannot sign")
	}
	return err
}

// Verify implements [Scheme].
func (StandardWebhooks) Verify(header http.Header, body []byte, keys []Key) (m Message, err error) {
	if m.ID, err = single(header, headerID); err != nil {
		return Message{}, err
	}
	timestamp, err := single(header, headerTimestamp)
	if err != nil {
		return Message{}, err
	}
	signatures, err := single(header, headerSignature)
	if err != nil {
		return Message{}, err
	}
	if m.Time, err = parseTimestamp(headerTimestamp, timestamp); err != nil {
		return Message{}, err
	}
	m.Body = body
	list := strings.Split(signatures, " ")
	if len(list) > maxKeys {
		return Message{}, fmt.Errorf("%w: more than %d signatures", ErrHeader, maxKeys)
	}
	for _, key := range keys {
		k, err := decodeKey(key.Secret.Reveal())
		if err != nil {
			return Message{}, err
		}
		if k.verifies(list, m.ID, timestamp, body) {
			return m, nil
		}
	}
	return m, ErrSignature
}

// verifies reports whether one of the signatures is by this key, by the one
// algorithm that it is for.
func (k *standardKey) verifies(signatures []string, id, timestamp string, body []byte) bool {
	version, content := "v1,", []byte(nil)
	if k.hmac != nil {
		content = newMAC(k.hmac).sum(id, timestamp, body)
	} else {
		version, content = "v1a,", contentV1(id, timestamp, body)
	}
	for _, signature := range signatures {
		encoded, ok := strings.CutPrefix(signature, version)
		if !ok {
			continue // of another version
		}
		got, err := base64.StdEncoding.Strict().DecodeString(encoded)
		switch {
		case err != nil:
		case k.hmac != nil && hmac.Equal(got, content):
			return true
		case k.public != nil && ed25519.Verify(k.public, content, got):
			return true
		}
	}
	return false
}

// timestamp is the time as the webhook-timestamp header has it.
func (m *Message) timestamp() string { return strconv.FormatInt(m.Time.Unix(), 10) }

func parseTimestamp(header, s string) (time.Time, error) {
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != s {
		return time.Time{}, fmt.Errorf("%w: %s has no number of seconds", ErrHeader, header)
	}
	return time.Unix(seconds, 0), nil
}

// signStandard returns the value of webhook-signature.
func signStandard(m Message, timestamp string, keys []Key) (string, error) {
	signers := make([]*standardSigner, len(keys))
	for i, key := range keys {
		k, err := decodeKey(key.Secret.Reveal())
		if err != nil {
			return "", err
		}
		if k.hmac == nil && k.private == nil {
			return "", keyFault("a public key cannot sign")
		}
		signers[i] = &standardSigner{standardKey: k}
	}
	return joinV1(m, timestamp, signers), nil
}

// A standardSigner signs with a decoded key. It keeps the state of an HMAC, which costs
// more to set up than to use for a short body, for the next signature.
type standardSigner struct {
	standardKey
	spare atomic.Pointer[mac]
}

// append appends the signature of a message to b.
func (s *standardSigner) append(b []byte, m Message, timestamp string) []byte {
	if s.hmac == nil {
		b = append(b, "v1a,"...)
		return base64.StdEncoding.AppendEncode(b, ed25519.Sign(s.private, contentV1(m.ID, timestamp, m.Body)))
	}
	h := s.spare.Swap(nil) // nil: another is at work, or this is the first
	if h == nil {
		h = newMAC(s.hmac)
	} else {
		h.hash.Reset()
	}
	b = append(b, "v1,"...)
	b = base64.StdEncoding.AppendEncode(b, h.sum(m.ID, timestamp, m.Body))
	s.spare.Store(h)
	return b
}

// joinV1 returns the signatures of a message, separated by spaces.
func joinV1(m Message, timestamp string, signers []*standardSigner) string {
	var room [2 * (len("v1a,") + 88 + 1)]byte // for two Ed25519 signatures
	b := room[:0]
	for i, s := range signers {
		if i > 0 {
			b = append(b, ' ')
		}
		b = s.append(b, m, timestamp)
	}
	return string(b)
}

// A mac computes HMACs of the signed content of Standard Webhooks.
type mac struct {
	hash   hash.Hash
	buffer []byte
}

func newMAC(secret []byte) *mac { return &mac{hmac.New(sha256.New, secret), make([]byte, 0, 128)} }

// sum returns the HMAC, which the next call overwrites.
func (h *mac) sum(id, timestamp string, body []byte) []byte {
	h.buffer = appendV1(h.buffer[:0], id, timestamp)
	h.hash.Write(h.buffer)
	h.hash.Write(body)
	h.buffer = h.hash.Sum(h.buffer[:0])
	return h.buffer
}

// contentV1 is the signed content of Standard Webhooks.
func contentV1(id, timestamp string, body []byte) []byte {
	b := make([]byte, 0, len(id)+len(timestamp)+len(body)+2)
	return append(appendV1(b, id, timestamp), body...)
}

func appendV1(b []byte, id, timestamp string) []byte {
	return append(append(append(append(b, id...), '.'), timestamp...), '.')
}

// checkKeys reports the faults of a subscriber's keys.
func checkKeys(s *Subscriber, signers map[string]Signer, now time.Time, f *faults) {
	live := 0
	for i, key := range s.Keys {
		field := fmt.Sprintf("Keys[%d]", i)
		if key.live(now) {
			live++
		}
		signer := signers[key.Scheme]
		if signer == nil {
			f.add(s.ID, field, "its Scheme %q is neither built in nor in Options.Signers", clip(key.Scheme))
			continue
		}
		if checker, ok := signer.(interface{ CheckKey(Key) error }); ok {
			if err := checkKey(checker, key); err != nil {
				*f = append(*f, &FieldError{Subscriber: s.ID, Field: field, Reason: err.Error(), cause: err})
			}
		}
	}
	switch {
	case len(s.Keys) > maxKeys:
		f.add(s.ID, "Keys", "%d keys are more than %d", len(s.Keys), maxKeys)
	case live == 0 && !s.Unsigned:
		f.add(s.ID, "Keys", "there is no live key; set Unsigned for a receiver that needs none")
	case len(s.Keys) > 0 && s.Unsigned:
		f.add(s.ID, "Unsigned", "is set together with Keys")
	}
}

func checkKey(checker interface{ CheckKey(Key) error }, key Key) (err error) {
	defer containPanic("the signer", &err)
	return checker.CheckKey(key)
}

// checkSchemeHeaders reports the names in a header that the schemes of a subscriber's
// keys set.
func checkSchemeHeaders(s *Subscriber, field string, h http.Header, signers map[string]Signer, f *faults) {
	if len(h) == 0 {
		return
	}
	own := make(map[string]bool)
	for _, key := range s.Keys {
		if namer, ok := signers[key.Scheme].(interface{ Headers() []string }); ok {
			for _, name := range namer.Headers() {
				own[http.CanonicalHeaderKey(name)] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if canonical := http.CanonicalHeaderKey(name); own[canonical] {
			f.add(s.ID, field, "%s belongs to the signature", canonical)
		}
	}
}

// maxKeys bounds the signatures of a request; receivers refuse long lists.
const maxKeys = 16
