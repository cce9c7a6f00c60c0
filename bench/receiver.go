//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// maxPaths is how many subscribers a receiver tells apart, by the number in the path.
const maxPaths = 128

// How a receiver treats a path.
type treatment struct {
	hang       bool // until the client gives up
	status     int  // zero: 200
	retryAfter string
}

// A receiver answers and counts the requests of all contenders, in this process.
type receiver struct {
	url   string
	close func()

	paths [maxPaths]struct {
		requests atomic.Int64
		_        [56]byte // of the cache line
	}
	treatments atomic.Pointer[map[int]treatment]
	seen       atomic.Pointer[func(path int, id string)] // called before the body is read
	tally      atomic.Pointer[tally]
}

// A tally counts the requests to healthy paths up to the last that is expected.
type tally struct {
	want    int64
	got     atomic.Int64
	arrived chan struct{} // closed when all have
	last    time.Time     // when the last one did
}

func listen() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("receiver: %w", err)
	}
	r := &receiver{url: "http://" + l.Addr().String()}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: r}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	r.close = func() {
		_ = server.Close()
		serving.Wait()
	}
	return r, nil
}

func (r *receiver) path(i int) string { return r.url + "/" + strconv.Itoa(i) }

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path, err := strconv.Atoi(req.URL.Path[1:])
	if err != nil || path < 0 || path >= maxPaths {
		http.NotFound(w, req)
		return
	}
	if seen := r.seen.Load(); seen != nil {
		(*seen)(path, req.Header.Get("Webhook-Id"))
	}
	_, _ = io.Copy(io.Discard, req.Body)
	if t, ok := r.treatment(path); ok {
		t.serve(w, req)
		return
	}
	r.paths[path].requests.Add(1)
	if t := r.tally.Load(); t != nil && t.got.Add(1) == t.want {
		t.last = time.Now()
		close(t.arrived)
	}
}

// treatment returns that of a path that is not healthy.
func (r *receiver) treatment(path int) (t treatment, ok bool) {
	if treatments := r.treatments.Load(); treatments != nil {
		t, ok = (*treatments)[path]
	}
	return t, ok
}

func (t treatment) serve(w http.ResponseWriter, req *http.Request) {
	if t.hang {
		<-req.Context().Done()
		return
	}
	if t.retryAfter != "" {
		w.Header().Set("Retry-After", t.retryAfter)
	}
	w.WriteHeader(t.status)
}

// expect begins a tally of n requests.
func (r *receiver) expect(n int) *tally {
	for i := range r.paths {
		r.paths[i].requests.Store(0)
	}
	t := &tally{want: int64(n), arrived: make(chan struct{})}
	r.tally.Store(t)
	return t
}

// total is how many requests have come since expect, to paths that are healthy.
func (r *receiver) total() (n int64) {
	for i := range r.paths {
		n += r.paths[i].requests.Load()
	}
	return n
}

// stall is how long a run may go on without a request.
const stall = 30 * time.Second

// wait returns when all have arrived, or an error when none does any more.
func (t *tally) wait(ctx context.Context) error {
	ticker := time.NewTicker(stall)
	defer ticker.Stop()
	for before := int64(-1); ; {
		select {
		case <-t.arrived:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
			got := t.got.Load()
			if got == before {
				return fmt.Errorf("stalled: %d of %d have arrived, none in the last %v", got, t.want, stall)
			}
			before = got
		}
	}
}

// check tells when fewer or more have arrived than were expected.
func (t *tally) check() error {
	if got := t.got.Load(); got != t.want {
		return fmt.Errorf("the receiver has seen %d requests, not %d", got, t.want)
	}
	return nil
}

// A ledger notes each delivery, to tell whether each has arrived exactly once.
type ledger struct {
	mu    sync.Mutex
	times map[string]int
}

func (l *ledger) see(path int, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times[strconv.Itoa(path)+" "+id]++
}

func (l *ledger) check(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, times := range l.times {
		if times != 1 {
			return fmt.Errorf("%s has arrived %d times", id, times)
		}
	}
	if len(l.times) != n {
		return fmt.Errorf("%d deliveries have arrived, not %d", len(l.times), n)
	}
	return nil
}
