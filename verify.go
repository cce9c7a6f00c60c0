package outhook

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Faults that Verify finds, for [errors.Is].
var (
	// ErrHeader: a header of the signature is missing, stands twice or is malformed.
	ErrHeader = errors.New("outhook: webhook header missing, repeated or malformed")
	// ErrTimestamp: the timestamp is further from now than the tolerance.
	ErrTimestamp = errors.New("outhook: webhook timestamp out of tolerance")
	// ErrSignature: no signature is by one of the keys.
	ErrSignature = errors.New("outhook: webhook signature does not match")
	// ErrKey: a key, of sender or receiver, is malformed: of the wrong length, say.
	ErrKey = errors.New("outhook: malformed key")
)

// A Verifier is the receiver's side: it checks the signatures of requests, of
// Standard Webhooks 1.0.0 and of all other schemes. It may be used concurrently, and
// must not be changed then: to rotate keys, put another in its place.
type Verifier struct {
	// Keys are accepted, each, until it expires: the current one and those
	// being rotated out, also of several schemes. Required.
	Keys []Key

	// Schemes are further schemes by the name that Key.Scheme has. One under a
	// name that is built in takes its place. Nil: those that are built in alone.
	Schemes map[string]Scheme

	// Tolerance bounds how far the timestamp may be from now, before and
	// after, if the scheme signs one. Zero: 5 min.
	Tolerance time.Duration

	// MaxBody bounds the body that Handler and Middleware read, in bytes. Zero: 1 MiB.
	MaxBody int64

	// Deduplicator sees to it that Handler hands on an event once, by its ID.
	// Nil: a [MemoryDeduplicator] of 10,000 IDs for each Handler.
	Deduplicator Deduplicator

	// Refused is told why Handler or Middleware refused a request: a fault of
	// Verify, of the body, or of what handles the event. The response does not
	// say it. Nil: nobody is told.
	Refused func(r *http.Request, err error)
}

// Verify returns nil if the request is signed by one of the keys, and otherwise an
// error that matches [ErrHeader], [ErrTimestamp], [ErrSignature] or [ErrKey]. body
// must be the very bytes that were received. Signatures are compared in constant time.
func (v *Verifier) Verify(header http.Header, body []byte) error {
	_, err := v.message(header, body)
	return err
}

// message verifies a request and returns what is signed of it.
func (v *Verifier) message(header http.Header, body []byte) (Message, error) {
	now := time.Now()
	failed := error(nil)
	for i, key := range v.Keys {
		if hasScheme(v.Keys[:i], key.Scheme) {
			continue
		}
		scheme := v.scheme(key.Scheme)
		if scheme == nil {
			return Message{}, fmt.Errorf("%w: its scheme %q is not in Verifier.Schemes", ErrKey, clip(key.Scheme))
		}
		var keys []Key
		for _, k := range v.Keys[i:] {
			if k.Scheme == key.Scheme && k.live(now) {
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			continue
		}
		m, err := scheme.Verify(header, body, keys)
		if err == nil || errors.Is(err, ErrSignature) {
			err = cmp.Or(v.checkTime(m.Time, now), err)
		}
		switch {
		case err == nil:
			return m, nil
		case errors.Is(err, ErrKey):
			return Message{}, fmt.Errorf("outhook: verify: %w", err)
		case failed == nil || errors.Is(failed, ErrHeader): // it may be signed by another scheme
			failed = err
		}
	}
	if failed == nil {
		failed = fmt.Errorf("%w: the Verifier has no live key", ErrSignature)
	}
	return Message{}, failed
}

func (v *Verifier) scheme(name string) Scheme {
	if scheme, ok := v.Schemes[name]; ok {
		return scheme
	}
	return schemes()[name]
}

// checkTime judges the time of a request, which may be an old one that was recorded.
func (v *Verifier) checkTime(sent, now time.Time) error {
	tolerance := v.Tolerance
	if tolerance == 0 {
		tolerance = 5 * time.Minute
	}
	if !sent.IsZero() && (sent.Before(now.Add(-tolerance)) || sent.After(now.Add(tolerance))) {
		return ErrTimestamp
	}
	return nil
}

// single returns the one value of a header. Several would let a proxy and the
// receiver see different ones.
func single(h http.Header, name string) (string, error) {
	values := h[http.CanonicalHeaderKey(name)]
	if len(values) != 1 || values[0] == "" {
		return "", fmt.Errorf("%w: %s", ErrHeader, name)
	}
	return values[0], nil
}
