package webhooktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

// bubble runs a test on a fake clock.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// A form is one of the two ways to reach a Receiver.
type form struct {
	inMemory bool
	r        *Receiver
	wire     http.RoundTripper
}

// both runs a test in memory, in a bubble, and on a socket.
func both(t *testing.T, name string, f func(t *testing.T, form form)) {
	bubble(t, name+"/memory", func(t *testing.T) {
		r := New(t)
		f(t, form{true, r, r})
	})
	t.Run(name+"/socket", func(t *testing.T) {
		transport := outhook.NewTransport(outhook.DevelopmentGuard())
		t.Cleanup(transport.CloseIdleConnections)
		f(t, form{false, NewServer(t), transport})
	})
}

// with returns the form with a Receiver of another test.
func (f form) with(t testing.TB) form {
	if f.inMemory {
		f.r = New(t)
		f.wire = f.r
	} else {
		f.r = NewServer(t)
	}
	return f
}

// signed returns a request as a Dispatcher would make it.
func signed(t *testing.T, ctx context.Context, to outhook.Subscriber, id, body string) *http.Request {
	t.Helper()
	header, err := outhook.StandardWebhooks{}.Sign(ctx, outhook.Message{ID: id, Time: time.Now(), Body: []byte(body)}, to.Keys)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	header.Set("Content-Type", "application/json")
	req.Header = header
	return req
}

// post sends one and reads the answer.
func (f form) post(t *testing.T, ctx context.Context, to outhook.Subscriber, id, body string) (*http.Response, string, error) {
	t.Helper()
	response, err := f.wire.RoundTrip(signed(t, ctx, to, id, body))
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	return response, string(got), err
}

// send sends one event of type "test.event" with its ID as the data.
func send(t *testing.T, d *outhook.Dispatcher, id string, to ...outhook.Subscriber) {
	t.Helper()
	_, err := d.Send(t.Context(), outhook.Event{ID: id, Type: "test.event", Data: id}, to)
	require.NoError(t, err)
}

// constant repeats up to nine times.
func constant(delay time.Duration) outhook.RetryPolicy {
	return func(_ outhook.DeliveryID, last outhook.Attempt) (time.Duration, bool) {
		return delay, last.Number < 10
	}
}

func statuses(qs Requests) []int {
	var list []int
	for _, q := range qs {
		list = append(list, q.Status)
	}
	return list
}

// A fake is a *testing.T that keeps what it is told.
type fake struct {
	testing.TB // of the real test, for what is not here
	deadline   time.Time

	mu       sync.Mutex
	texts    []string
	cleanups []func()
}

func (f *fake) Helper() {}

func (f *fake) Deadline() (time.Time, bool) { return f.deadline, !f.deadline.IsZero() }

func (f *fake) Cleanup(c func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cleanups = append(f.cleanups, c)
}

func (f *fake) Error(args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts = append(f.texts, fmt.Sprint(args...))
}

func (f *fake) Errorf(format string, args ...any) { f.Error(fmt.Sprintf(format, args...)) }

func (f *fake) Fatal(args ...any) {
	f.Error(args...)
	runtime.Goexit()
}

func (f *fake) Fatalf(format string, args ...any) { f.Fatal(fmt.Sprintf(format, args...)) }

// failures runs a test with a fake and its cleanups, and returns what it was told.
func failures(t *testing.T, test func(t *fake)) []string {
	t.Helper()
	f := &fake{TB: t}
	var running sync.WaitGroup
	running.Go(func() { test(f) })
	running.Wait()
	for _, cleanup := range slices.Backward(f.cleanups) {
		cleanup()
	}
	return f.texts
}

var errCancelled = errors.New("cancelled by the test")
