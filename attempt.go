package outhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Causes that end the context of an attempt.
var (
	errTimeout = errors.New("timeout")
	errCut     = errors.New("cut off when the dispatcher was stopped")
)

// errNoKey fails an attempt whose keys have all expired since Send.
var errNoKey = errors.New("no live signing key")

// drainLimit is how much of a response is read beyond what is kept, so that
// the connection can be used again.
const drainLimit = 16 << 10

// staleWindow bounds how soon a kept-alive connection that the receiver had closed
// shows. A receiver that closes it later may have worked on the request.
const staleWindow = 500 * time.Millisecond

// A slot makes one attempt after another. Its context and timer serve many of
// them, until one runs out.
type slot struct {
	d      *Dispatcher
	base   context.Context
	keep   int // bytes of the response's body
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer

	// What net/http has told of the latest connection.
	asked  bool // for one
	got    bool
	reused bool
}

// newSlot returns a slot whose attempts end with base at the latest.
func newSlot(d *Dispatcher, base context.Context, keep int) *slot {
	s := &slot{d: d, keep: keep}
	// All of these are called by the goroutine that calls RoundTrip.
	s.base = httptrace.WithClientTrace(base, &httptrace.ClientTrace{
		GetConn: func(string) { s.asked = true },
		GotConn: func(info httptrace.GotConnInfo) { s.got, s.reused = true, info.Reused },
	})
	return s
}

// begin returns the context for an attempt.
func (s *slot) begin(timeout time.Duration) context.Context {
	s.asked, s.got, s.reused = false, false, false
	if s.ctx != nil && s.ctx.Err() == nil {
		s.timer.Reset(timeout)
		return s.ctx
	}
	s.close()
	ctx, cancel := context.WithCancelCause(s.base)
	s.ctx, s.cancel = ctx, cancel
	s.timer = time.AfterFunc(timeout, func() { cancel(errTimeout) })
	return ctx
}

// end stops the timer of begin.
func (s *slot) end() {
	if !s.timer.Stop() {
		s.close() // it has ended the context, or is about to
	}
}

func (s *slot) close() {
	if s.cancel != nil {
		s.timer.Stop()
		s.cancel(nil)
		s.ctx, s.cancel = nil, nil
	}
}

// A result is what an attempt came to.
type result struct {
	attempt Attempt
	verdict Verdict
	err     error // nil if there was a response
	ctx     context.Context

	unsent  bool // no byte has left, since the dispatcher was stopped
	neutral bool // the failure says nothing of the receiver
	stale   bool // a kept-alive connection was found closed
	aborted bool // the receiver wants no further attempt of this delivery
}

// attempt makes one attempt: sign, send, classify. It never panics.
func (s *slot) attempt(c *Claim) (r result) {
	now := time.Now()
	r = result{ctx: s.base, attempt: Attempt{Number: c.Attempt, Replay: c.Replay, Time: now}}
	defer func() {
		if v := recover(); v != nil {
			r.err, r.verdict, r.neutral = panicError("the attempt"), Retry, true
		}
		r.attempt.Duration = time.Since(now)
		if r.err != nil {
			r.attempt.Error = errorText(r.err)
		} else if r.verdict != OK {
			r.attempt.Error = "status " + strconv.Itoa(r.attempt.Status)
		}
		s.d.observeAttempt(r.ctx, c, &r)
	}()

	t := c.Snapshot.target()
	timeout := t.timeout
	if timeout == 0 || timeout > s.d.options.Timeout {
		timeout = s.d.options.Timeout
	}
	r.ctx = s.begin(timeout)
	defer s.end()

	switch err := s.d.vet(t, c.Payload); {
	case errors.Is(err, ErrBlocked):
		r.err, r.verdict = err, s.d.classify(r.attempt, err)
		return r
	case err != nil:
		r.err, r.neutral = err, true
		return r
	}
	header, err := s.d.header(r.ctx, c, now)
	if err != nil {
		r.err, r.neutral, r.unsent = err, true, errors.Is(err, errCut)
		return r
	}
	if len(s.d.observers.list) > 0 {
		r.ctx = s.d.observers.attempting(r.ctx, s.d.observation(c, r.attempt))
	}
	if cause := context.Cause(r.ctx); cause != nil { // before anything has left
		r.err, r.neutral, r.unsent = cause, true, errors.Is(cause, errCut)
		return r
	}
	said := s.send(&r, request(r.ctx, t, header, c.Payload.Body))
	r.verdict = s.d.classify(r.attempt, r.err)
	if s.d.options.Steering && r.verdict != OK {
		r.steer(said)
	}
	return r
}

// steer obeys what the receiver said besides its status.
func (r *result) steer(said string) {
	switch said {
	case "disable":
		r.verdict = Gone
	case "abort-message":
		r.verdict, r.aborted = Permanent, true
	}
}

// send makes the request and reads the response into r. It returns the header by
// which a receiver may steer.
func (s *slot) send(r *result, req *http.Request) (said string) {
	response, err := s.roundTrip(req)
	if err != nil {
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
		r.err = err
		r.unsent = errors.Is(err, errCut) && s.asked && !s.got
		r.neutral = errors.Is(err, errCut) || errors.Is(err, errPanic)
		r.stale = s.reused && isClosed(err) && time.Since(r.attempt.Time) < staleWindow
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	r.attempt.Status = response.StatusCode
	if response.StatusCode < 200 || response.StatusCode > 299 {
		r.attempt.RetryAfter = min(parseRetryAfter(response.Header, time.Now()), s.d.options.MaxRetryAfter)
	}
	s.read(r, response)
	return response.Header.Get("Webhook-Delivery")
}

// read reads the body. The status decides, whatever becomes of it.
func (s *slot) read(r *result, response *http.Response) {
	defer func() { _ = recover() }() // it may be a transport's own
	if s.keep > 0 {
		r.attempt.Header = response.Header
		r.attempt.Body, _ = io.ReadAll(io.LimitReader(response.Body, int64(s.keep)))
	}
	if response.Body != http.NoBody {
		_, _ = io.CopyN(io.Discard, response.Body, drainLimit)
	}
}

func (s *slot) roundTrip(req *http.Request) (response *http.Response, err error) {
	defer containPanic("the transport", &err)
	response, err = s.d.transport.RoundTrip(req)
	if response == nil && err == nil {
		err = errors.New("the transport returned neither response nor error")
	}
	return response, err
}

// request is a POST that net/http sends at most once: without GetBody, it
// cannot repeat one whose body has left. The body has to be a bytes.Reader for
// net/http to write it together with the header.
func request(ctx context.Context, t *target, header http.Header, body []byte) *http.Request {
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "/", nil) // cannot fail
	*req.URL = *t.url                                                    // parsed already, and not to be shared
	req.Host = t.url.Host
	req.Header = header
	if len(body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
	}
	return req
}

// vet checks a target that a Directory has given, or that another Dispatcher has
// accepted, under another Guard perhaps, and the headers that a store has kept.
func (d *Dispatcher) vet(t *target, p *Payload) error {
	if t.fault != nil {
		return t.fault
	}
	var f faults
	if t.vetted != d {
		if _, err := d.options.Guard.CheckURL(t.url.String()); err != nil {
			return err
		}
		checkHeader("", "the subscriber's Header", t.header, &f)
	}
	if len(p.Header) > 0 || p.ContentType != "" {
		checkPayload("", "the payload", p, len(p.Body), &f)
	}
	if f != nil {
		return block("the header may not be sent")
	}
	return nil
}

// header returns the header of a request. The signature comes last, so that
// nothing else can take its place.
func (d *Dispatcher) header(ctx context.Context, c *Claim, now time.Time) (http.Header, error) {
	t := c.Snapshot.target()
	h := make(http.Header, len(c.Payload.Header)+len(t.header)+8)
	for name, values := range c.Payload.Header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	for name, values := range t.header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	values := make([]string, 0, 5) // one allocation for all
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	if h["User-Agent"] == nil {
		set("User-Agent", d.options.UserAgent)
	}
	set("Content-Type", cmp.Or(c.Payload.ContentType, "application/json"))
	message := Message{ID: c.ID.Event, Time: now, Body: c.Payload.Body}
	set(headerID, message.ID)
	set(headerTimestamp, message.timestamp())
	if err := d.sign(ctx, h, message, t); err != nil {
		return nil, err
	}
	return h, nil
}

// sign adds the headers of each scheme that the target has live keys for.
func (d *Dispatcher) sign(ctx context.Context, h http.Header, m Message, t *target) error {
	signed := t.unsigned
	for i := range t.keys {
		scheme := t.keys[i].Scheme
		if hasScheme(t.keys[:i], scheme) {
			continue
		}
		keys := make([]Key, 0, len(t.keys))
		for _, k := range t.keys[i:] {
			if k.Scheme == scheme && k.live(m.Time) {
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			continue
		}
		if err := d.signScheme(ctx, h, scheme, m, keys); err != nil {
			return err
		}
		signed = true
	}
	if !signed {
		return errNoKey
	}
	return nil
}

func hasScheme(keys []Key, scheme string) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return k.Scheme == scheme })
}

// errSigner hides the text of a signer's error, which might hold a key.
var errSigner = errors.New("the signer failed")

func (d *Dispatcher) signScheme(ctx context.Context, h http.Header, scheme string, m Message, keys []Key) (err error) {
	defer containPanic("the signer", &err)
	signer := d.options.Signers[scheme]
	if _, standard := signer.(StandardWebhooks); standard { // spares its header and a copy
		signature, err := signStandard(m, h[headerTimestamp][0], keys)
		h[headerSignature] = []string{signature}
		return err
	}
	if signer == nil {
		return errSigner
	}
	signature, err := signer.Sign(ctx, m, keys)
	if err != nil || len(signature) == 0 {
		return cmp.Or(context.Cause(ctx), errSigner)
	}
	for name, values := range signature {
		h[http.CanonicalHeaderKey(name)] = values
	}
	return nil
}

// classify contains the classifier's panics: then the attempt is to be retried.
func (d *Dispatcher) classify(a Attempt, err error) (v Verdict) {
	defer func() {
		if recover() != nil {
			d.observers.log("classifier panicked")
			v = Retry
		}
	}()
	return d.options.Classify(a, err)
}

func (d *Dispatcher) observeAttempt(ctx context.Context, c *Claim, r *result) {
	if len(d.observers.list) > 0 {
		o := d.observation(c, r.attempt)
		o.Detail = detail(r.err)
		d.observers.observe(ctx, o, attempted)
	}
}

// detail says what the guard refused.
func detail(err error) string {
	if b, ok := errors.AsType[*blocked](err); ok {
		return b.detail
	}
	return ""
}

// observation says what is known of a claim.
func (d *Dispatcher) observation(c *Claim, a Attempt) Observation {
	o := Observation{ID: c.ID, Type: c.Type, Age: c.Age, Attempt: a}
	if t := c.Snapshot.target(); t != nil {
		o.Labels, o.Target = t.labels, c.Snapshot.String()
	}
	return o
}

// errPanic is matched by what containPanic makes of a panic.
var errPanic = errors.New("panic")

func panicError(where string) error { return fmt.Errorf("%w in %s", errPanic, where) }

// containPanic turns a panic of host code into an error. The panic's value is
// dropped: it might hold anything.
func containPanic(where string, err *error) {
	if recover() != nil {
		*err = panicError(where)
	}
}

// isClosed reports whether an error says that the peer has closed the
// connection before it answered.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(err.Error(), "server closed idle connection") // net/http does not export it
}

// errorText says in fixed words what failed. Errors of net/http may hold what
// the receiver sent, and others whatever their authors liked.
func errorText(err error) string {
	var (
		dns     *net.DNSError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		invalid *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		op      *net.OpError
	)
	switch {
	case errors.Is(err, ErrBlocked):
		return ErrBlocked.Error()
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded):
		return errTimeout.Error()
	case errors.Is(err, errCut), errors.Is(err, errPanic), errors.Is(err, errNoKey), errors.Is(err, errSigner),
		errors.Is(err, errSubscriber):
		return err.Error()
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, &dns):
		return "the host name could not be resolved"
	case errors.As(err, &invalid), errors.As(err, &unknown):
		return "the TLS certificate is not valid"
	case errors.As(err, &record), errors.As(err, &alert):
		return "the TLS handshake failed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case isClosed(err):
		return "the connection was closed before an answer"
	case errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		return "no connection"
	}
	return "the request failed"
}
