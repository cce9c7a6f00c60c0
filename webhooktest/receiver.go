package webhooktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outhook/outhook"
)

// A Receiver stands for all customers of a test: it verifies, records and answers
// what they are sent. It is an [http.RoundTripper] and an [http.Handler], over
// one script and one record, and may be used concurrently. What waits or checks
// belongs to the test's own goroutine, since it may call Fatal.
//
// All that it does ends with the test: requests that hang are let go, the server
// is closed.
type Receiver struct {
	// URL is what the URLs of its subscribers begin with:
	// "https://receiver.example" in memory, else that of the server. It may be
	// changed before the first Subscriber is asked for.
	URL string

	// Timeout bounds how long is waited. Zero: 30 s, or less if the test's
	// own deadline comes earlier; in a synctest bubble, where waiting costs
	// nothing, a week, which is more than the standard retry schedule.
	Timeout time.Duration

	t testing.TB

	mu          sync.Mutex             // guards all below
	keys        map[string]outhook.Key // by the subscriber that was given it
	trusted     []outhook.Key
	lenient     bool // what cannot be verified is no fault
	script      []Answer
	eventScript map[string][]Answer
	respond     func(Request) Answer
	log         Requests // in the order of arrival
	accepted    Requests // the first of each delivery that was answered 2xx, in the order of the answers
	attempts    map[delivery]int
	delivered   map[delivery]bool // those of accepted
	faults      []string          // that fail the test, and that it has not been told of
	waiting     []chan struct{}
	open        map[*exchange]bool
	over        bool
}

var (
	_ http.RoundTripper = (*Receiver)(nil)
	_ http.Handler      = (*Receiver)(nil)
)

// A delivery is what attempts are counted of.
type delivery struct{ event, url string }

// New returns a Receiver in memory, to be the Transport of a Dispatcher. In a
// synctest bubble, call it there.
func New(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{
		URL:         "https://receiver.example",
		t:           t,
		keys:        make(map[string]outhook.Key),
		eventScript: make(map[string][]Answer),
		attempts:    make(map[delivery]int),
		delivered:   make(map[delivery]bool),
		open:        make(map[*exchange]bool),
	}
	t.Cleanup(func() {
		t.Helper()
		r.end()
		if text := r.complaint(); text != "" {
			t.Error(text)
		}
	})
	return r
}

// NewServer returns a Receiver on a loopback socket. Each request has a
// connection of its own, so that no reset is taken for a kept-alive connection
// that had been closed before. A synctest bubble cannot wait for sockets: there,
// NewServer fails the test.
func NewServer(t testing.TB) *Receiver {
	t.Helper()
	if inBubble() {
		t.Fatal("webhooktest: NewServer: a synctest bubble cannot wait for sockets; use New")
		return nil
	}
	r := New(t)
	server := httptest.NewUnstartedServer(r)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it would tell of the connections that a script cuts
	server.Config.SetKeepAlivesEnabled(false)
	server.Start()
	r.URL = server.URL
	t.Cleanup(func() {
		r.end() // or Close would wait for those that hang
		server.Close()
	})
	return r
}

// Subscriber returns a subscriber to all events, with a URL of this Receiver and a
// key of its own, the same for each call with the ID. A request to that URL is
// verified by that key, so that one that was signed with another customer's
// fails the test. The result may be changed.
func (r *Receiver) Subscriber(id string) outhook.Subscriber {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ok := r.keys[id]
	if !ok {
		key = outhook.GenerateKey()
		r.keys[id] = key
	}
	return outhook.Subscriber{ID: id, URL: r.URL + "/" + url.PathEscape(id), Keys: []outhook.Key{key}}
}

// Trust adds keys that requests to any URL may be signed with, for hosts that
// make the keys of their customers themselves.
func (r *Receiver) Trust(keys ...outhook.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trusted = append(r.trusted, keys...)
}

// AllowUnverified lets requests pass that cannot be verified, such as those to
// an Unsigned subscriber: they are recorded with their Err and answered like
// others. By default they are recorded, answered 401, and fail the test.
func (r *Receiver) AllowUnverified() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lenient = true
}

// Script gives answers to the next requests, in the order of their arrival, behind
// those that were given before. When there is none left, the answer is 204.
func (r *Receiver) Script(answers ...Answer) {
	r.t.Helper()
	r.check(answers)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script = append(r.script, answers...)
}

// ScriptEvent is [Receiver.Script] for the requests of one event. They take
// nothing from the answers of Script while they have their own.
func (r *Receiver) ScriptEvent(id string, answers ...Answer) {
	r.t.Helper()
	r.check(answers)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.eventScript[id] = append(r.eventScript[id], answers...)
}

// Respond has f answer the requests that no script has an answer for. It is called
// concurrently. Nil: they are answered 204.
func (r *Receiver) Respond(f func(Request) Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.respond = f
}

func (r *Receiver) check(answers []Answer) {
	r.t.Helper()
	for _, a := range answers {
		if err := a.check(); err != nil {
			r.t.Fatalf("webhooktest: script: %v", err)
		}
	}
}

// Dispatcher returns a Dispatcher on a MemoryStore that runs until the test ends,
// and sends to this Receiver. Options may be nil. Of those that are zero, Transport
// and Guard are such that the Receiver is reached, and Retry has ten attempts,
// 10 ms apart, and Breaker never opens. It may be called once for each Dispatcher that a test needs.
func (r *Receiver) Dispatcher(options *outhook.Options) *outhook.Dispatcher {
	r.t.Helper()
	var o outhook.Options
	if options != nil {
		o = *options
	}
	if strings.HasPrefix(r.URL, "http:") { // a server's: the default transport will do
		if reflect.ValueOf(o.Guard).IsZero() {
			o.Guard = outhook.DevelopmentGuard()
		}
	} else if o.Transport == nil {
		o.Transport = r
	}
	if o.Retry == nil {
		o.Retry = outhook.Schedule(slices.Repeat([]time.Duration{10 * time.Millisecond}, 9)...)
	}
	if o.Breaker == (outhook.Breaker{}) {
		o.Breaker.Failures = -1
	}
	d, err := outhook.New(outhook.NewMemoryStore(), &o)
	if err != nil {
		r.t.Fatalf("webhooktest: dispatcher: %v", err)
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var runErr error
	running.Go(func() { runErr = d.Run(ctx) })
	r.t.Cleanup(func() {
		stop()
		r.end() // so that Run need not wait for those that hang
		running.Wait()
		if runErr != nil {
			r.t.Errorf("webhooktest: dispatcher: %v", runErr)
		}
	})
	return d
}

// errOver ends what is in flight when the test has ended, and refuses what comes
// after.
var errOver = errors.New("webhooktest: the test has ended")

// end lets go what hangs. Nothing is recorded any more.
func (r *Receiver) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	for x := range r.open {
		x.cancel(errOver)
	}
}

// An exchange is a request that is being answered.
type exchange struct {
	r      *Receiver
	ctx    context.Context // ends with the request, or with the test
	cancel context.CancelCauseFunc
	index  int // in the record
	answer Answer
	fault  string // that fails the test, told of with the answer
}

// begin verifies and records a request and finds its answer.
func (r *Receiver) begin(req *http.Request, target string, body []byte) (*exchange, error) {
	request := newRequest(req.Header, target, body)
	keys, subscriber := r.keysOf(target)
	request.Subscriber = subscriber
	request.Err = (&outhook.Verifier{Keys: keys}).Verify(request.Header, body)
	x := &exchange{r: r}
	x.ctx, x.cancel = context.WithCancelCause(req.Context())

	respond, err := x.record(&request)
	if err != nil {
		x.cancel(nil)
		return nil, err
	}
	if respond != nil {
		if x.answer, err = ask(respond, request); err != nil {
			x.fault = err.Error()
			x.answer = Status(http.StatusInternalServerError)
		}
	}
	return x, nil
}

// ask contains a panic of the test's, which a Dispatcher would hide otherwise.
func ask(respond func(Request) Answer, request Request) (a Answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the func of Respond has panicked: %v", v)
		}
	}()
	a = respond(request)
	if err := a.check(); err != nil {
		return a, fmt.Errorf("the func of Respond has given an answer that cannot be sent: %w", err)
	}
	return a, nil
}

// keysOf returns the keys that a request to a URL may be signed with, and which
// subscriber has that URL, if one has.
func (r *Receiver) keysOf(target string) (keys []outhook.Key, subscriber string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys = slices.Clone(r.trusted)
	if path, ok := strings.CutPrefix(target, r.URL+"/"); ok {
		path, _, _ = strings.Cut(path, "?")
		if id, err := url.PathUnescape(path); err == nil {
			if key, known := r.keys[id]; known {
				return append(keys, key), id
			}
		}
	}
	for _, key := range r.keys { // a subscriber whose URL the host has changed
		keys = append(keys, key)
	}
	return keys, ""
}

// record records a request and finds its answer, or the func that is to give it.
func (x *exchange) record(request *Request) (respond func(Request) Answer, err error) {
	r := x.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, errOver
	}
	of := delivery{request.ID, request.URL}
	r.attempts[of]++
	request.Attempt = r.attempts[of]
	switch script := r.eventScript[request.ID]; {
	case request.Err != nil && !r.lenient:
		request.Status = http.StatusUnauthorized
		x.answer = Status(request.Status)
		r.faults = append(r.faults, "a request could not be verified (see AllowUnverified): "+request.Err.Error())
	case len(script) > 0:
		x.answer, r.eventScript[request.ID] = script[0], script[1:]
	case len(r.script) > 0:
		x.answer, r.script = r.script[0], r.script[1:]
	default:
		respond = r.respond
	}
	x.index = len(r.log)
	r.log = append(r.log, *request)
	r.open[x] = true
	r.wake()
	return respond, nil
}

// answered records what a request is about to be answered.
func (x *exchange) answered(status int, fault string) {
	r := x.r
	r.mu.Lock()
	defer r.mu.Unlock()
	q := &r.log[x.index]
	q.Status, q.fault = status, fault
	if x.fault != "" {
		r.faults = append(r.faults, x.fault)
	}
	if of := (delivery{q.ID, q.URL}); 200 <= status && status <= 299 && !r.delivered[of] {
		r.delivered[of] = true
		r.accepted = append(r.accepted, *q)
	}
	r.wake()
}

// end ends the exchange. It may be called again.
func (x *exchange) end() {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	delete(x.r.open, x)
	x.cancel(nil)
}

// complaint says what fails the test, once.
func (r *Receiver) complaint() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.faults) == 0 {
		return ""
	}
	text := "webhooktest: " + r.faults[0]
	if more := len(r.faults) - 1; more > 0 {
		text += " (and " + strconv.Itoa(more) + " more)"
	}
	r.faults = nil
	return text + "\n" + r.log.String()
}
