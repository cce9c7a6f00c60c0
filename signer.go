package outhook

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers of Standard Webhooks 1.0.0.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

const (
	secretPrefix = "whsec_" // of a symmetric Standard Webhooks secret
	minSecret    = 24       // bytes
	maxSecret    = 64
)

// A Key signs the requests to a subscriber, and verifies them at the receiver.
type Key struct {
	// Secret is, for Standard Webhooks, "whsec_" and 24 to 64 random bytes in
	// base64, as made by [GenerateKey]. Each customer has secrets of its own.
	Secret Secret

	// Scheme names the [Signer] in Options.Signers that signs with this key.
	// Empty: Standard Webhooks.
	Scheme string

	// Expires ends the key's use, for rotation. Zero: never. Without a Directory,
	// deliveries that wait keep the keys that they were sent with, also when
	// they are replayed: let old keys live longer than the retry schedule.
	Expires time.Time
}

// GenerateKey makes a Standard Webhooks key of 32 bytes from crypto/rand.
func GenerateKey() Key {
	b := make([]byte, 32)
	rand.Read(b) // never fails: it ends the program instead
	return Key{Secret: NewSecret(secretPrefix + base64.StdEncoding.EncodeToString(b))}
}

// ParseKey returns the Standard Webhooks key of a secret such as "whsec_MfKQ9…".
// The error says what is wrong with it and does not repeat it.
func ParseKey(secret string) (Key, error) {
	if _, err := decodeSecret(secret); err != nil {
		return Key{}, fmt.Errorf("outhook: parse key: %w", err)
	}
	return Key{Secret: NewSecret(secret)}, nil
}

// live reports whether the key may be used at an instant.
func (k Key) live(now time.Time) bool { return k.Expires.IsZero() || now.Before(k.Expires) }

func decodeSecret(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return nil, errors.New("the secret does not begin with whsec_")
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("the secret behind whsec_ is not base64")
	}
	if len(b) < minSecret || len(b) > maxSecret {
		return nil, fmt.Errorf("the secret has %d bytes, not %d to %d", len(b), minSecret, maxSecret)
	}
	return b, nil
}

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
// An error, or a panic, fails the attempt, to be retried. It must not keep the
// message or the keys, and must not put a key into an error.
type Signer interface {
	Sign(ctx context.Context, m Message, keys []Key) (http.Header, error)
}

// StandardWebhooks signs with HMAC-SHA256 as Standard Webhooks 1.0.0 specifies
// for symmetric signatures: the base64 of the HMAC of "id.timestamp.body", with the
// prefix "v1,", for each key, separated by spaces, in webhook-signature. It sets
// webhook-id and webhook-timestamp too.
//
// See https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.
type StandardWebhooks struct{}

var _ Signer = StandardWebhooks{}

// Sign implements [Signer].
func (StandardWebhooks) Sign(_ context.Context, m Message, keys []Key) (http.Header, error) {
	timestamp := m.timestamp()
	signature, err := signV1(m, timestamp, keys)
	if err != nil {
		return nil, err
	}
	return http.Header{
		headerID:        {m.ID},
		headerTimestamp: {timestamp},
		headerSignature: {signature},
	}, nil
}

// timestamp is the time as the webhook-timestamp header has it.
func (m *Message) timestamp() string { return strconv.FormatInt(m.Time.Unix(), 10) }

// signV1 returns the value of webhook-signature.
func signV1(m Message, timestamp string, keys []Key) (string, error) {
	signature := make([]byte, 0, len(keys)*(len("v1,")+base64.StdEncoding.EncodedLen(sha256.Size)+1))
	for _, key := range keys {
		secret, err := decodeSecret(key.Secret.Reveal())
		if err != nil {
			return "", err
		}
		if len(signature) > 0 {
			signature = append(signature, ' ')
		}
		signature = append(signature, "v1,"...)
		signature = base64.StdEncoding.AppendEncode(signature, sumV1(secret, m.ID, timestamp, m.Body))
	}
	return string(signature), nil
}

// sumV1 is the HMAC of the signed content of Standard Webhooks.
func sumV1(secret []byte, id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, secret)
	buffer := make([]byte, 0, 128)
	buffer = append(append(append(append(buffer, id...), '.'), timestamp...), '.')
	h.Write(buffer)
	h.Write(body)
	return h.Sum(buffer[:0])
}

// checkKeys reports the faults of a subscriber's keys.
func checkKeys(s *Subscriber, signers map[string]Signer, now time.Time, f *faults) {
	live := 0
	for i, key := range s.Keys {
		field := fmt.Sprintf("Keys[%d]", i)
		if signers[key.Scheme] == nil {
			f.add(s.ID, field, "its Scheme is not in Options.Signers")
		} else if _, standard := signers[key.Scheme].(StandardWebhooks); standard {
			if _, err := decodeSecret(key.Secret.Reveal()); err != nil {
				f.add(s.ID, field, "%v", err)
			}
		}
		if key.live(now) {
			live++
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

// maxKeys bounds the signatures of a request; receivers refuse long lists.
const maxKeys = 16
