package outhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Handler returns a handler for the webhooks that a Dispatcher sends. It verifies
// each request and hands the event on: with its ID, its Payload, whose Header is
// that of the request, and, if the body is a Standard Webhooks envelope, its Type
// and Time; [Decode] returns the data. A [Mux] hands it on by its type.
//
// It answers 204 once handle has returned nil, so that what is not done is sent
// again, and to what the Deduplicator knows. If handle returns a [StatusError],
// its status is the answer; 500 if handle returned another error or panicked, or a key
// is malformed; 400 or 401 to what does not verify, without saying why, which
// Refused is told; 405 to other methods than POST; 413 to a body above MaxBody.
//
// An ID that the scheme does not sign, see there, shows who sends again, but
// not who repeats a recorded request under another ID.
func (v *Verifier) Handler(handle func(ctx context.Context, event Event) error) http.Handler {
	dedup := v.Deduplicator
	if dedup == nil {
		dedup = NewMemoryDeduplicator(10_000)
	}
	verified := v.verified(func(w http.ResponseWriter, r *http.Request, m Message) {
		event := received(r, m)
		do := func(ctx context.Context) error { return contained(ctx, event, handle) }
		var err error
		if event.ID == "" {
			err = do(r.Context())
		} else {
			err = dedup.Once(r.Context(), event.ID, do)
		}
		if err != nil {
			v.refuse(w, r, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		verified(w, r)
	})
}

// Middleware returns a handler that passes on the requests that verify, with the
// body to be read anew, and answers the others as Handler does. It takes all
// methods, and the same event as often as it comes.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return v.verified(func(w http.ResponseWriter, r *http.Request, m Message) {
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(m.Body)), int64(len(m.Body))
		next.ServeHTTP(w, r)
	})
}

// A StatusError is returned by what handles an event to answer something else than
// 500: 410 for example to be sent nothing more, or 429 or 503 with a RetryAfter.
type StatusError struct {
	Status     int           // 400 to 599; anything else is answered as 500
	RetryAfter time.Duration // rounded up to seconds; 0: not said
	Err        error         // for Verifier.Refused; nil: nothing to say
}

func (e *StatusError) Error() string {
	if e.Err == nil {
		return "outhook: status " + strconv.Itoa(e.Status)
	}
	return fmt.Sprintf("outhook: status %d: %v", e.Status, e.Err)
}

// Unwrap returns Err.
func (e *StatusError) Unwrap() error { return e.Err }

// verified reads and verifies requests.
func (v *Verifier) verified(next func(http.ResponseWriter, *http.Request, Message)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		limit := v.MaxBody
		if limit == 0 {
			limit = 1 << 20
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
		if err != nil {
			v.refuse(w, r, unread(err))
			return
		}
		m, err := v.message(r.Header, body)
		if err != nil {
			v.refuse(w, r, err)
			return
		}
		next(w, r, m)
	}
}

func unread(err error) error {
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return &StatusError{Status: http.StatusRequestEntityTooLarge, Err: err}
	}
	return &StatusError{Status: http.StatusBadRequest, Err: err}
}

// refuse answers with what an error stands for.
func (v *Verifier) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if v.Refused != nil {
		v.Refused(r, err)
	}
	status := http.StatusInternalServerError
	answer, ok := errors.AsType[*StatusError](err)
	switch {
	case ok && 400 <= answer.Status && answer.Status <= 599:
		status = answer.Status
		if answer.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64((answer.RetryAfter+time.Second-1)/time.Second), 10))
		}
	case errors.Is(err, ErrHeader):
		status = http.StatusBadRequest
	case errors.Is(err, ErrTimestamp), errors.Is(err, ErrSignature):
		status = http.StatusUnauthorized
	}
	http.Error(w, http.StatusText(status), status)
}

// received restores the event of a request that verified.
func received(r *http.Request, m Message) Event {
	event := Event{
		ID:      m.ID,
		Payload: &Payload{ContentType: r.Header.Get("Content-Type"), Header: r.Header, Body: m.Body},
	}
	var envelope struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
	}
	if json.Unmarshal(m.Body, &envelope) == nil {
		event.Type, event.Time = envelope.Type, envelope.Timestamp
	}
	return event
}

func contained(ctx context.Context, event Event, handle func(context.Context, Event) error) (err error) {
	defer containPanic("the handler", &err)
	return handle(ctx, event)
}
