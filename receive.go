package outhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
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
// not who repeats a recorded request: under another ID it is handed on again, and
// under that of an event yet to come it lets that one pass for known.
//
// The context that handle is given ends when the client goes away: a sender that
// has waited for long enough, say, and will send again. How long a client may take
// for the body is bounded by http.Server.ReadTimeout alone.
func (v *Verifier) Handler(handle func(ctx context.Context, event Event) error) http.Handler {
	dedup := v.Deduplicator
	if dedup == nil {
		dedup = NewMemoryDeduplicator(10_000)
	}
	verified := v.verified(func(w http.ResponseWriter, r *http.Request, m Message) {
		event := received(r.Header, m)
		do := func(ctx context.Context) error { return contained(ctx, event, handle) }
		var err error
		if event.ID == "" {
			err = do(r.Context())
		} else {
			err = dedup.Once(r.Context(), event.ID, do)
		}
		if err != nil {
			v.refuse(w, r, http.StatusInternalServerError, err)
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

// Event verifies as [Verifier.Verify] does and returns the event as Handler hands it
// on, for what is not served by net/http. What sees to it that an event is handled
// once is left to the caller.
func (v *Verifier) Event(header http.Header, body []byte) (Event, error) {
	m, err := v.message(header, body)
	if err != nil {
		return Event{}, err
	}
	return received(header, m), nil
}

// Middleware returns a handler that passes on the requests that verify, with the
// body to be read anew, and answers the others as Handler does. It takes all
// methods, and the same event as often as it comes. Method, path and query are not
// signed: a request can be repeated with others.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return v.verified(func(w http.ResponseWriter, r *http.Request, m Message) {
		r = r.Clone(r.Context())
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(m.Body)), int64(len(m.Body)), nil
		next.ServeHTTP(w, r)
	})
}

// A StatusError is returned by what handles an event to answer something else than
// 500: 410 for example to be sent nothing more, or 429 or 503 with a RetryAfter.
type StatusError struct {
	Status     int           // 400 to 599; anything else is answered as 500, with the RetryAfter
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
			v.refuse(w, r, http.StatusBadRequest, unread(err))
			return
		}
		m, err := v.message(r.Header, body)
		if err != nil {
			v.refuse(w, r, unverified(err), err)
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

func unverified(err error) (status int) {
	switch {
	case errors.Is(err, ErrHeader):
		return http.StatusBadRequest
	case errors.Is(err, ErrTimestamp), errors.Is(err, ErrSignature):
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError
}

// refuse answers with a status, or with that of a StatusError.
func (v *Verifier) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	if v.Refused != nil {
		v.Refused(r, err)
	}
	if answer, ok := errors.AsType[*StatusError](err); ok {
		if 400 <= answer.Status && answer.Status <= 599 {
			status = answer.Status
		}
		if after := answer.RetryAfter; after > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64((after-1)/time.Second)+1, 10)) // rounded up
		}
	}
	http.Error(w, http.StatusText(status), status)
}

// received restores the event of a request that verified.
func received(header http.Header, m Message) Event {
	event := Event{
		ID:      m.ID,
		Payload: &Payload{ContentType: header.Get("Content-Type"), Header: header, Body: m.Body},
	}
	var envelope struct {
		Type      string          `json:"type"`
		Timestamp json.RawMessage `json:"timestamp"`
	}
	if json.Unmarshal(m.Body, &envelope) == nil {
		event.Type = envelope.Type
		_ = json.Unmarshal(envelope.Timestamp, &event.Time) // or it has none: other senders write numbers
	}
	return event
}

// contained turns a panic into an error that says where, as nobody else will. The
// panic's value is dropped, as by containPanic.
func contained(ctx context.Context, event Event, handle func(context.Context, Event) error) (err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("%w\n%s", panicError("the handler"), debug.Stack())
		}
	}()
	return handle(ctx, event)
}
