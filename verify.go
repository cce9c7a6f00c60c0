package outhook

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Faults that Verify finds, for [errors.Is].
var (
	// ErrHeader: a webhook-* header is missing, stands twice or is malformed.
	ErrHeader = errors.New("outhook: webhook header missing, repeated or malformed")
	// ErrTimestamp: the timestamp is further from now than the tolerance.
	ErrTimestamp = errors.New("outhook: webhook timestamp out of tolerance")
	// ErrSignature: no signature is by one of the keys.
	ErrSignature = errors.New("outhook: webhook signature does not match")
)

// A Verifier is the receiver's side: it checks the signatures of Standard
// Webhooks 1.0.0 requests. It may be used concurrently, and must not be changed
// then: to rotate keys, put another in its place.
type Verifier struct {
	// Keys are accepted, each, until it expires: the current one and those
	// being rotated out. Required.
	Keys []Key

	// Tolerance bounds how far the timestamp may be from now, before and
	// after. Zero: 5 min.
	Tolerance time.Duration

	// MaxBody bounds the body that Handler reads, in bytes. Zero: 1 MiB.
	MaxBody int64
}

// Verify returns nil if one of the signatures in the header is by one of the
// keys, and an error that matches [ErrHeader], [ErrTimestamp] or [ErrSignature]
// otherwise, or none of them if a key is malformed. body must be the very bytes
// that were received. Comparison takes constant time.
func (v *Verifier) Verify(header http.Header, body []byte) error {
	now := time.Now()
	id, err := single(header, headerID)
	if err != nil {
		return err
	}
	timestamp, err := single(header, headerTimestamp)
	if err != nil {
		return err
	}
	signatures, err := single(header, headerSignature)
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != timestamp {
		return fmt.Errorf("%w: %s is no number of seconds", ErrHeader, headerTimestamp)
	}
	tolerance := v.Tolerance
	if tolerance == 0 {
		tolerance = 5 * time.Minute
	}
	if sent := time.Unix(seconds, 0); sent.Before(now.Add(-tolerance)) || sent.After(now.Add(tolerance)) {
		return ErrTimestamp
	}

	list := strings.Split(signatures, " ")
	if len(list) > maxKeys {
		return fmt.Errorf("%w: more than %d signatures", ErrHeader, maxKeys)
	}
	for _, key := range v.Keys {
		if !key.live(now) || key.Scheme != "" {
			continue
		}
		secret, err := decodeSecret(key.Secret.Reveal())
		if err != nil {
			return fmt.Errorf("outhook: verify: %w", err)
		}
		want := sumV1(secret, id, timestamp, body)
		for _, signature := range list {
			encoded, ok := strings.CutPrefix(signature, "v1,")
			if !ok {
				continue // of another version
			}
			got, err := base64.StdEncoding.DecodeString(encoded)
			if err == nil && hmac.Equal(got, want) {
				return nil
			}
		}
	}
	return ErrSignature
}

// single returns the one value of a header. Several would let a proxy and the
// receiver see different ones.
func single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) != 1 || values[0] == "" {
		return "", fmt.Errorf("%w: %s", ErrHeader, name)
	}
	return values[0], nil
}

// Handler returns a handler for the webhooks that a Dispatcher sends. It verifies
// each request and hands the event on: with its ID, its Payload, whose Header is
// that of the request, and, if the body is a Standard Webhooks envelope, its Type
// and Time; [Decode] returns the data.
//
// It answers 204 once handle has returned nil, so that what is not done is sent
// again; 500 if handle returned an error or panicked, or a key is malformed; 400 or
// 401 to what does not verify, without saying why, for which Verify is there; 405 to
// other methods than POST; 413 to a body above MaxBody. The same event can come
// more than once, under the same ID.
func (v *Verifier) Handler(handle func(ctx context.Context, event Event) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := v.serve(w, r, handle)
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return
		}
		http.Error(w, http.StatusText(status), status)
	})
}

func (v *Verifier) serve(w http.ResponseWriter, r *http.Request, handle func(context.Context, Event) error) (status int) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return http.StatusMethodNotAllowed
	}
	limit := v.MaxBody
	if limit == 0 {
		limit = 1 << 20
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return http.StatusRequestEntityTooLarge
		}
		return http.StatusBadRequest
	}
	switch err := v.Verify(r.Header, body); {
	case errors.Is(err, ErrHeader):
		return http.StatusBadRequest
	case errors.Is(err, ErrTimestamp), errors.Is(err, ErrSignature):
		return http.StatusUnauthorized
	case err != nil:
		return http.StatusInternalServerError // a key is malformed
	}
	event := Event{
		ID:      r.Header.Get(headerID),
		Payload: &Payload{ContentType: r.Header.Get("Content-Type"), Header: r.Header, Body: body},
	}
	var envelope struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
	}
	if json.Unmarshal(body, &envelope) == nil {
		event.Type, event.Time = envelope.Type, envelope.Timestamp
	}
	if err := contained(r.Context(), event, handle); err != nil {
		return http.StatusInternalServerError
	}
	return http.StatusNoContent
}

func contained(ctx context.Context, event Event, handle func(context.Context, Event) error) (err error) {
	defer containPanic("the handler", &err)
	return handle(ctx, event)
}
