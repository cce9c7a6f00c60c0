package hostile_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

const (
	hangs    = 500 * time.Millisecond // the timeout where the receiver lets it pass
	patience = 20 * time.Second       // where it does not
)

// payload begins every body, so that a receiver can count what it reads.
const payload = "<payload>"

// canary is in whatever a receiver says, and must not come out in a record or log.
const canary = "canary"

// A receiverCase is a receiver that misbehaves, and what has to become of a delivery to it.
type receiverCase struct {
	name    string
	receive func(p *peer) // is called for each connection
	secure  bool          // the URL is https
	hangs   bool          // the attempt, or the rest of the answer, lasts until the deadline
	cut     bool          // with which the connection is closed, though others might use it
	size    int           // of the payload; 0: short, -1: there is none
	options outhook.Options
	want    outcome
	or      *outcome // where the receiver's system decides
	check   func(t *testing.T, r outhook.Record, w *receiver)
}

// An outcome is what the last attempt came to.
type outcome struct {
	state      outhook.State
	status     int
	error      string
	retryAfter time.Duration
	attempts   int  // 0: 1
	sent       int  // how often the receiver has read the payload; anySent: at most once for each attempt
	uncut      bool // the connection was to be, and is not
}

const anySent = -1

func delivered(status int) outcome {
	return outcome{state: outhook.Delivered, status: status, sent: 1}
}

func failed(status string, code int) outcome {
	return outcome{state: outhook.Pending, status: code, error: status, sent: 1}
}

func failure(text string, sent int) outcome {
	return outcome{state: outhook.Pending, error: text, sent: sent}
}

// Error texts of attempts.
const (
	timedOut  = "timeout"
	closed    = "the connection was closed before an answer"
	malformed = "the response is malformed"
	tooLong   = "the response header is too long"
	untaken   = "the receiver did not take the request"
	reset     = "the HTTP/2 stream was reset"
	noTLS     = "the TLS handshake failed"
	untrusted = "the TLS certificate is not valid"
)

// A receiver accepts connections.
type receiver struct {
	c    *receiverCase
	url  string
	done chan struct{} // the dispatcher is through

	mu       sync.Mutex // guards all below
	peers    []*peer
	sent     int
	requests int
}

// A peer is the receiver's end of a connection. What is read from it is counted.
type peer struct {
	net.Conn // that of TLS if there is
	raw      *net.TCPConn
	r        *bufio.Reader
	w        *receiver
	number   int // from 0
	served   chan struct{}
	tail     []byte
}

func (p *peer) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	text := append(p.tail, b[:n]...)
	p.w.mu.Lock()
	p.w.sent += bytes.Count(text, []byte(payload))
	p.w.mu.Unlock()
	p.tail = bytes.Clone(text[max(0, len(text)-len(payload)+1):])
	return n, err
}

// head reads the header of a request.
func (p *peer) head() (*http.Request, bool) {
	r, err := http.ReadRequest(p.r)
	if err == nil {
		p.w.mu.Lock()
		p.w.requests++
		p.w.mu.Unlock()
	}
	return r, err == nil
}

// request reads one.
func (p *peer) request() bool {
	r, ok := p.head()
	if !ok {
		return false
	}
	_, err := io.Copy(io.Discard, r.Body)
	return err == nil
}

func (p *peer) say(text string) bool {
	_, err := io.WriteString(p.Conn, text)
	return err == nil
}

// drip writes a text again and again, slowly.
func (p *peer) drip(text string) {
	for p.say(text) {
		select {
		case <-p.w.done:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// flood writes a text again and again.
func (p *peer) flood(text string) {
	text = strings.Repeat(text, max(1, 4096/len(text)))
	for p.say(text) {
	}
}

func (p *peer) wait() { <-p.w.done }

// fin ends what is written; the other direction stays.
func (p *peer) fin() { _ = p.raw.CloseWrite() }

// rst closes with a reset.
func (p *peer) rst() {
	_ = p.raw.SetLinger(0)
	_ = p.raw.Close()
}

// shorten has connections to a listener take little that is not read, where the system
// lets it: megabytes otherwise, which may not be written before the deadline.
var shorten func(network, address string, c syscall.RawConn) error

// listen accepts connections until the test ends.
func listen(t *testing.T, c *receiverCase) *receiver {
	t.Helper()
	var config net.ListenConfig
	if c.size == huge {
		config.Control = shorten
	}
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &receiver{c: c, url: "http://" + l.Addr().String() + "/hook", done: make(chan struct{})}
	if c.secure {
		w.url = "https" + strings.TrimPrefix(w.url, "http")
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p := &peer{Conn: conn, raw: conn.(*net.TCPConn), w: w, served: make(chan struct{})}
			p.r = bufio.NewReader(p)
			_ = p.raw.SetReadBuffer(64 << 10)
			w.mu.Lock()
			p.number = len(w.peers)
			w.peers = append(w.peers, p)
			w.mu.Unlock()
			go func() {
				defer close(p.served)
				c.receive(p)
			}()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
	return w
}

// slack is what anything may outlive an attempt by, as worked tells it.
const slack = time.Second

// worked is the time by a metronome, which goes as slowly as this process gets on: while
// the machine is late, or others have it, that stands still, and nothing is late by it.
func worked() time.Duration { return time.Duration(beats().Load()) * beat }

const beat = 10 * time.Millisecond

// beats starts the metronome and returns the count of its beats.
var beats = sync.OnceValue(func() *atomic.Int64 {
	n := new(atomic.Int64)
	go func() {
		for ; ; n.Add(1) {
			time.Sleep(beat)
			runtime.Gosched() // a beat has to wait for its turn as all do
		}
	}()
	return n
})

// requireClosed checks that the dispatcher has closed all connections by then. It may be
// asked again to close those that are idle: a stream of HTTP/2 can end a little after its
// attempt.
func (w *receiver) requireClosed(t *testing.T, d *outhook.Dispatcher, by time.Duration) {
	t.Helper()
	close(w.done)
	w.mu.Lock()
	peers := w.peers
	w.mu.Unlock()
	for _, p := range peers {
		_ = p.raw.SetDeadline(time.Unix(1, 0)) // ends what it does
		<-p.served
		for open := true; open; {
			_ = p.raw.SetDeadline(time.Now().Add(20 * time.Millisecond))
			_, err := io.Copy(io.Discard, p.raw)
			if open = errors.Is(err, os.ErrDeadlineExceeded); open {
				require.Less(t, worked(), by, "connection %d is open %v after the attempt's end", p.number, slack)
				_, err := d.Drain(t.Context())
				require.NoError(t, err)
			}
		}
		_ = p.raw.Close()
	}
}

// isCut reports whether this process has closed all connections by then, without
// reading what is left in them: that might set free who is stuck.
func (w *receiver) isCut(by time.Duration) bool {
	w.mu.Lock()
	peers := w.peers
	w.mu.Unlock()
	for _, p := range peers {
		for p.isOpen() {
			if worked() > by {
				return false
			}
			time.Sleep(beat)
		}
	}
	return true
}

// isOpen reports whether a process has the other end of the connection.
func (p *peer) isOpen() bool {
	inode := p.other(9)
	return inode != "" && inode != "0"
}

// stuck waits until nothing more is written at the other end.
func (p *peer) stuck() {
	for before, now := "-", ""; before != now; {
		select {
		case <-p.w.done:
			return
		case <-time.After(2 * beat):
		}
		before, now = now, p.other(4) // what is to be sent
	}
}

// other returns a field of what the system tells of the other end of the connection. Its
// port does not make it that: others may have connections from there to elsewhere.
func (p *peer) other(field int) string {
	const local, remote = 1, 2
	port := func(a net.Addr) string { return fmt.Sprintf(":%04X", a.(*net.TCPAddr).Port) }
	from, to := port(p.raw.RemoteAddr()), port(p.raw.LocalAddr())
	sockets, _ := os.ReadFile("/proc/self/net/tcp")
	for line := range strings.Lines(string(sockets)) {
		fields := strings.Fields(line)
		if strings.HasSuffix(fields[local], from) && strings.HasSuffix(fields[remote], to) {
			return fields[field]
		}
	}
	return ""
}

// post sends an event to a receiver and waits until it was attempted. It returns its record,
// how long that took, whether it took so long that a deadline may have passed and the machine
// was late for most of that, and whether connections that had to be cut are.
func post(t *testing.T, d *outhook.Dispatcher, w *receiver) (r outhook.Record, took time.Duration, late, cut bool) {
	t.Helper()
	event := outhook.Event{Type: "invoice.paid", Payload: &outhook.Payload{Body: []byte(payload)}}
	if w.c.size < 0 {
		event.Payload.Body = nil
	} else if w.c.size > 0 {
		event.Payload.Body = append(event.Payload.Body, bytes.Repeat([]byte("x"), w.c.size)...)
	}
	receipt, err := d.Send(t.Context(), event, []outhook.Subscriber{{ID: "customer", URL: w.url, Unsigned: true}})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	running := make(chan error, 1)
	from, began := worked(), time.Now()
	go func() { running <- d.Run(ctx) }()
	for len(r.Attempts) == 0 && time.Since(began) < 2*patience {
		time.Sleep(2 * time.Millisecond)
		r, err = d.Get(t.Context(), outhook.DeliveryID{Event: receipt.EventID, Subscriber: "customer"})
		require.NoError(t, err)
	}
	took = time.Since(began)
	late = took >= hangs && worked()-from < took/2
	cut = !w.c.cut || w.isCut(from+hangs+slack)
	stop()
	require.NoError(t, <-running)
	require.NotEmpty(t, r.Attempts)
	return r, took, late, cut
}

// runReceivers runs cases at the same time, and checks what is left of all.
func runReceivers(t *testing.T, cases []receiverCase) {
	std := &said{}
	log.SetOutput(std)
	t.Cleanup(func() {
		log.SetOutput(os.Stderr)
		require.NotContains(t, std.String(), "\x1b")
		requireNoGoroutines(t)
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			runReceiver(t, &c)
		})
	}
}

func runReceiver(t *testing.T, c *receiverCase) {
	for !tryReceiver(t, c) {
		t.Log("the machine was late, once more")
	}
}

// tryReceiver reports whether a case came out as it has to. If not, the test has failed,
// unless the machine was so late that a deadline may have come before what makes the case.
func tryReceiver(t *testing.T, c *receiverCase) bool {
	w := listen(t, c)
	text := &said{}
	o := c.options
	o.Guard = outhook.DevelopmentGuard()
	o.Retry = outhook.Schedule(time.Hour)
	o.Logger = slog.New(slog.NewTextHandler(text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.Timeout = patience
	o.MaxPayload = max(1, c.size) + len(payload)
	if c.hangs {
		o.Timeout = hangs
	}
	d, err := outhook.New(outhook.NewMemoryStore(), &o)
	require.NoError(t, err)
	began := worked()
	r, took, late, cut := post(t, d, w)
	ended := worked()
	by := min(ended, began+o.Timeout) + slack
	if !cut { // it is later already
		by = ended + slack
	}
	w.requireClosed(t, d, by)

	w.mu.Lock()
	defer w.mu.Unlock()
	last := r.Attempts[len(r.Attempts)-1]
	got := outcome{r.State, last.Status, last.Error, last.RetryAfter, len(r.Attempts), w.sent, !cut}
	what := fmt.Sprintf("%s, %s", got.state, cmp.Or(got.error, fmt.Sprintf("status %d", got.status)))
	if got.retryAfter > 0 {
		what += fmt.Sprintf(", paused for %v", got.retryAfter)
	}
	t.Logf("figures: %s | %s | %.1f s, %d attempts, payload read %d times", c.name, what, took.Seconds(), got.attempts, got.sent)
	wants := []outcome{c.want}
	if c.or != nil {
		wants = append(wants, *c.or)
	}
	for i := range wants {
		wants[i].attempts = cmp.Or(wants[i].attempts, 1)
		if wants[i].sent == anySent && got.sent <= got.attempts {
			wants[i].sent = got.sent
		}
	}
	if late && !slices.Contains(wants, got) {
		return false
	}
	require.Contains(t, wants, got)
	if c.hangs && (c.or == nil || got.error != c.or.error) {
		require.GreaterOrEqual(t, took, o.Timeout, "the receiver was to hang")
	}
	require.Less(t, ended-began, o.Timeout+slack)
	record, err := json.Marshal(r)
	require.NoError(t, err)
	if o.KeepResponse == 0 {
		require.NotContains(t, string(record), canary)
		require.NotContains(t, string(record), `\u001b`)
	}
	require.NotContains(t, text.String(), canary)
	require.NotContains(t, text.String(), "x1b")
	if c.check != nil {
		c.check(t, r, w)
	}
	return true
}

// requireNoGoroutines checks that there is none left of the dispatchers.
func requireNoGoroutines(t *testing.T) {
	t.Helper()
	left := func() (stacks []string) {
		buffer := make([]byte, 4<<20)
		for stack := range strings.SplitSeq(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
			for _, of := range []string{"net/http.(*persistConn)", "net/http.(*Transport)", "net/http.(*http2", "outhook.("} {
				if strings.Contains(stack, of) {
					stacks = append(stacks, stack)
					break
				}
			}
		}
		return stacks
	}
	for by := worked() + slack; len(left()) > 0; time.Sleep(beat) {
		require.Less(t, worked(), by, "goroutines outlive the deadline: %v", left())
	}
}

// said keeps what is written to it.
type said struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
