package outhook

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// bubble runs a test on a fake clock.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// A wire is a Transport in memory that records requests and answers as its
// func says.
type wire struct {
	answer func(r *http.Request, n int) (*http.Response, error) // n: how often that subscriber was called before

	mu    sync.Mutex
	start time.Time
	calls []call
	seen  map[string]int
	most  int // requests at one time
	now   int
}

type call struct {
	host, event string
	at          time.Duration // since the first call of at
	header      http.Header
	body        string
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	w.mu.Lock()
	n := w.seen[r.URL.Host]
	if w.seen == nil {
		w.seen, w.start = make(map[string]int), time.Now()
	}
	w.seen[r.URL.Host]++
	w.calls = append(w.calls, call{r.URL.Host, r.Header.Get("Webhook-Id"), time.Since(w.start), r.Header, string(body)})
	w.now++
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.now--
	}()
	return w.answer(r, n)
}

// to returns the calls to a subscriber's host, all if it is empty.
func (w *wire) to(host string) []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	var calls []call
	for _, c := range w.calls {
		if host == "" || c.host == host {
			calls = append(calls, c)
		}
	}
	return calls
}

// status answers with one status.
func status(code int) func(*http.Request, int) (*http.Response, error) {
	return func(*http.Request, int) (*http.Response, error) { return response(code), nil }
}

func response(code int, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("body"))}
}

// okAfter answers 200 after a while.
func okAfter(d time.Duration) func(*http.Request, int) (*http.Response, error) {
	return func(*http.Request, int) (*http.Response, error) {
		time.Sleep(d)
		return response(200), nil
	}
}

// hang answers when the attempt is cut.
func hang(r *http.Request, _ int) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

var testKey = GenerateKey()

// subscriber returns one whose URL has its ID as the host.
func subscriber(id string) Subscriber {
	return Subscriber{ID: id, URL: "https://" + id + ".example.com/", Keys: []Key{testKey}}
}

func host(id string) string { return id + ".example.com" }

// dispatcher returns a Dispatcher on a store and a wire.
func dispatcher(t *testing.T, store Store, w *wire, options Options) *Dispatcher {
	t.Helper()
	options.Transport = w
	d, err := New(store, &options)
	require.NoError(t, err)
	return d
}

// send sends one event of type "test.event".
func send(t *testing.T, d *Dispatcher, id string, subscribers ...Subscriber) Receipt {
	t.Helper()
	receipt, err := d.Send(t.Context(), Event{ID: id, Type: "test.event", Data: id}, subscribers)
	require.NoError(t, err)
	return receipt
}

// run starts Run and returns what stops it, and checks its error.
func run(t *testing.T, d *Dispatcher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

// record returns what the store has of a delivery.
func record(t *testing.T, d *Dispatcher, event, subscriber string) Record {
	t.Helper()
	r, err := d.Get(t.Context(), DeliveryID{event, subscriber})
	require.NoError(t, err)
	return r
}

// plain hides the optional interfaces of a Store.
type plain struct{ Store }

// faulty is a Store whose calls fail while fail returns an error.
type faulty struct {
	*MemoryStore
	mu    sync.Mutex
	fail  func(call string) error
	calls map[string]int
}

func (f *faulty) check(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = make(map[string]int)
	}
	f.calls[call]++
	if f.fail == nil {
		return nil
	}
	return f.fail(call)
}

// count returns how often it was called so.
func (f *faulty) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *faulty) Claim(ctx context.Context, r ClaimRequest) (Claimed, error) {
	if err := f.check("Claim"); err != nil {
		return Claimed{}, err
	}
	return f.MemoryStore.Claim(ctx, r)
}

func (f *faulty) Finish(ctx context.Context, o []Outcome) ([]Lease, error) {
	if err := f.check("Finish"); err != nil {
		return nil, err
	}
	return f.MemoryStore.Finish(ctx, o)
}

func eventID(i int) string { return fmt.Sprintf("e%d", i) }
