package outhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Causes that end the context of an attempt.
var (
	errTimeout = errors.New("timeout")
	errCut     = errors.New("cut off when the dispatcher was stopped")
	errUntaken = errors.New("the receiver did not take the request")
)

// errMalformed fails an attempt whose response net/http lets pass.
var errMalformed = errors.New("the response is malformed")

// drainLimit is how much of a response is read beyond what is kept, so that
// the connection can be used again.
const drainLimit = 16 << 10

// staleWindow bounds how soon a kept-alive connection that the receiver had closed
// shows. A receiver that closes it later may have worked on the request.
const staleWindow = 500 * time.Millisecond

// cutDelay is how long an attempt that has run out may still hold its connection:
// net/http mostly lets go at once, but not while it writes to one that is stuck.
const cutDelay = 250 * time.Millisecond

// A slot makes one attempt after another. Its context and timer serve many of
// them, until one runs out.
type slot struct {
	d      *Dispatcher
	root   context.Context
	base   context.Context // root, with the trace
	keep   int             // bytes of the response's body
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	leash  *leash
	loose  func() bool
	until  atomic.Int64  // when the dials of the attempt end, by UnixNano
	bare   bool          // the request has no body
	fresh  bool          // it needs a connection of its own, if the transport is ours
	blank  *http.Request // has the context
	spare  *outgoing     // that nobody holds any more; nil: none
	loosed bool          // the latest may still be held

	// What net/http has told of the latest connection.
	asked  bool // for one
	got    bool
	reused bool
	wrote  *atomic.Bool // the request, whole
}

// newSlot returns a slot whose attempts end with base at the latest.
func newSlot(d *Dispatcher, base context.Context, keep int) *slot {
	s := &slot{d: d, root: base, keep: keep}
	s.trace()
	return s
}

// trace has net/http tell of the attempts from now on.
func (s *slot) trace() {
	wrote := new(atomic.Bool)
	s.wrote = wrote
	// All but the last of these are called by the goroutine that calls RoundTrip.
	s.base = httptrace.WithClientTrace(context.WithValue(s.root, untilKey{}, &s.until), &httptrace.ClientTrace{
		GetConn:      func(string) { s.asked = true },
		GotConn:      s.gotConn,
		WroteRequest: func(info httptrace.WroteRequestInfo) { wrote.Store(info.Err == nil) },
	})
}

func (s *slot) gotConn(info httptrace.GotConnInfo) {
	again := s.got
	s.got, s.reused = true, info.Reused
	if info.Conn == nil {
		return
	}
	s.leash.hold(info.Conn)
	_ = info.Conn.SetDeadline(time.Time{}) // that of dialFor, which one that is "reused" may have, too
	if again && s.bare && s.d.ownsIdle != nil {
		// Over HTTP/2, net/http repeats a request without a body as long as it is
		// refused, whatever its method.
		s.cancel(errUntaken)
	}
}

// begin returns the context for an attempt.
func (s *slot) begin(now time.Time, timeout time.Duration) context.Context {
	if s.loosed { // now, since observers have had its context until here
		s.close()
		s.trace() // of what was let go there may be something to tell yet
		s.loosed = false
	}
	s.asked, s.got, s.reused = false, false, false
	s.until.Store(now.Add(timeout + cutDelay).UnixNano())
	if s.ctx != nil && s.ctx.Err() == nil {
		s.leash.hold(nil)
		s.timer.Reset(timeout)
		return s.ctx
	}
	s.close()
	ctx, cancel := context.WithCancelCause(s.base)
	s.ctx, s.cancel, s.leash, s.blank = ctx, cancel, &leash{}, blank.WithContext(ctx)
	s.loose = context.AfterFunc(ctx, s.leash.pull)
	s.timer = time.AfterFunc(timeout, func() { cancel(errTimeout) })
	return ctx
}

// end stops the timer of begin.
func (s *slot) end() {
	if !s.timer.Stop() || s.ctx.Err() != nil {
		conn := s.leash.release() // the context has ended, or is about to
		s.close()
		unstick(conn)
	}
}

func (s *slot) close() {
	if s.cancel != nil {
		s.timer.Stop()
		s.loose()
		s.cancel(nil)
		s.ctx, s.cancel = nil, nil
	}
}

// A leash cuts the connection of an attempt that goes on after its context has ended.
type leash struct {
	mu    sync.Mutex // guards all below
	conn  net.Conn
	timer *time.Timer
	over  bool
}

func (l *leash) hold(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
}

// pull is called when the context has ended.
func (l *leash) pull() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.timer = time.AfterFunc(cutDelay, l.cut)
	}
}

func (l *leash) cut() {
	l.mu.Lock()
	conn := l.conn
	if l.over {
		conn = nil
	}
	l.mu.Unlock()
	cut(conn)
}

// release returns the connection of an attempt that has ended.
func (l *leash) release() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.timer != nil {
		l.timer.Stop()
	}
	return l.conn
}

// cut closes a connection without the farewell of TLS, which may be stuck.
func cut(conn net.Conn) {
	for {
		t, ok := conn.(*tls.Conn)
		if !ok {
			break
		}
		conn = t.NetConn()
	}
	if conn != nil {
		_ = conn.Close()
	}
}

// unstick cuts a connection of HTTP/2 that an attempt has left stuck in a write: others
// would get it, and its goroutines would stay.
func unstick(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		timer := time.AfterFunc(cutDelay, func() { cut(conn) })
		defer timer.Stop()
		_, _ = t.Write(nil) // nothing, after all that is being written
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
	stale   bool // a kept-alive connection was found closed, or the request refused unread
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
	r.ctx = s.begin(now, timeout)
	defer s.end()

	switch err := s.d.vet(t, c.Payload); {
	case errors.Is(err, ErrBlocked):
		r.err, r.verdict = err, s.d.classify(r.attempt, err)
		return r
	case err != nil:
		r.err, r.neutral = err, true
		return r
	}
	out := s.outgoing(t, c.Payload.Body)
	if err := s.d.header(r.ctx, out, c, now); err != nil {
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
	said := s.send(&r, out.in(r.ctx))
	s.reuse(out, r.err)
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
	s.bare = req.Body == nil
	response, err := s.roundTrip(req)
	if err == nil && (response.StatusCode < 100 || response.StatusCode > 999) {
		_ = response.Body.Close()
		err = errMalformed
	}
	if err != nil {
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
		r.err = err
		r.unsent = errors.Is(err, errCut) && s.asked && !s.got
		r.neutral = errors.Is(err, errCut) || errors.Is(err, errPanic)
		r.stale = (s.reused && isClosed(err) || isUntaken(err)) && time.Since(r.attempt.Time) < staleWindow
		return ""
	}
	body := response.Body
	defer func() { _ = body.Close() }()
	r.attempt.Status = response.StatusCode
	if response.StatusCode < 200 || response.StatusCode > 299 {
		r.attempt.RetryAfter = min(parseRetryAfter(response.Header, time.Now()), s.d.options.MaxRetryAfter)
	}
	if s.keep > 0 {
		r.attempt.Header = response.Header
	}
	said = response.Header.Get("Webhook-Delivery")
	s.read(r, body) // without the header, which may be large, and the body take long
	return said
}

// read reads the body. The status decides, whatever becomes of it.
func (s *slot) read(r *result, body io.Reader) {
	defer func() { _ = recover() }() // it may be a transport's own
	if r.attempt.Status == http.StatusSwitchingProtocols {
		return // what follows is no body, and without end
	}
	if s.keep > 0 {
		r.attempt.Body = readUpTo(body, s.keep)
	}
	if body != http.NoBody {
		_, _ = io.CopyN(io.Discard, body, drainLimit)
	}
}

// readUpTo reads at most n bytes, and holds few more: io.ReadAll would twice as many.
func readUpTo(r io.Reader, n int) []byte {
	const most = 32 << 10 // that may be held twice
	head, err := io.ReadAll(io.LimitReader(r, int64(min(n, most))))
	if err != nil || len(head) < most || n == most {
		return head
	}
	b := make([]byte, n)
	read, _ := io.ReadFull(r, b[copy(b, head):])
	return b[:len(head)+read]
}

func (s *slot) roundTrip(req *http.Request) (response *http.Response, err error) {
	defer containPanic("the transport", &err)
	transport := s.d.transport
	if s.fresh && s.d.ownsIdle != nil {
		single := s.d.ownsIdle.Clone()
		single.DisableKeepAlives, single.IdleConnTimeout = true, cutDelay
		transport = single
	}
	response, err = transport.RoundTrip(req)
	if response == nil && err == nil {
		err = errors.New("the transport returned neither response nor error")
	}
	return response, err
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
		errors.Is(err, net.ErrClosed) || // by net/http then, while it still wrote
		begins(err, "http: server closed idle connection", "http2: server sent GOAWAY and closed the connection",
			"http2: Transport received GOAWAY from server ")
}

// isUntaken reports whether an error says that the receiver has not begun to handle the
// request: by a GOAWAY, or a stream refused (RFC 9113, section 8.7).
func isUntaken(err error) bool {
	const cannot = "http2: Transport: cannot retry err [" // the body has left
	if errors.Is(err, errUntaken) || begins(err, cannot+"http2: Transport received Server's graceful shutdown GOAWAY") {
		return true
	}
	return begins(err, cannot+"stream error: ") && strings.Contains(err.Error(), "; REFUSED_STREAM; ")
}

// begins reports whether one of the errors in err begins with one of the texts: net/http
// exports few of its errors. What comes after may be the receiver's.
func begins(err error, texts ...string) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		said := err.Error()
		if slices.ContainsFunc(texts, func(text string) bool { return strings.HasPrefix(said, text) }) {
			return true
		}
	}
	return false
}

// A streamError is what net/http gives of a stream of HTTP/2 to whoever asks for an
// error with these fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (streamError) Error() string { return "stream error" }

// responseFault says in fixed words what was wrong with the response, if it was that.
func responseFault(err error) string {
	var stream streamError
	if errors.As(err, &stream) && stream.Cause != nil {
		if stream.Cause.Error() == "received from peer" {
			return "the HTTP/2 stream was reset"
		}
		err = stream.Cause
	}
	switch {
	case begins(err, "net/http: server response headers exceeded ", "http2: response header list larger than ", "header list too large"):
		return "the response header is too long"
	case begins(err, "http2: Transport: cannot retry err [stream error: "):
		return "the HTTP/2 stream was reset"
	case stream.Cause != nil, errors.Is(err, errMalformed), begins(err, "malformed ", "bad Content-Length ", "invalid empty Content-Length ",
		"invalid Trailer key ", "http: message cannot contain multiple Content-Length ", "unsupported transfer encoding", "too many transfer encodings",
		"connection error: ", "http2: frame too large"):
		return errMalformed.Error()
	}
	return ""
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
	fault := responseFault(err)
	switch {
	case errors.Is(err, ErrBlocked):
		return ErrBlocked.Error()
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
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
	case errors.As(err, &record), errors.As(err, &alert), begins(err, "tls: ", "remote error: tls: ", "local error: tls: ", "net/http: TLS handshake timeout"):
		return "the TLS handshake failed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case isUntaken(err):
		return errUntaken.Error()
	case fault != "":
		return fault
	case isClosed(err):
		return "the connection was closed before an answer"
	case errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		return "no connection"
	}
	return "the request failed"
}
