//go:build unix

package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

// A request is what the receiver notes of one.
type request struct {
	id     outhook.DeliveryID
	body   [sha256.Size]byte
	signed bool // the signature is valid
	skewed bool // by a worker whose clock is wrong
	status int  // of the answer

	began, answered int // places in the order of all that began and was answered
}

// accepted reports whether the answer was 2xx.
func (r *request) accepted() bool { return r.status/100 == 2 }

// A receiver is the server behind all subscribers.
type receiver struct {
	plan *plan
	url  string
	stop func()

	mu    sync.Mutex // guards all below
	tick  int
	count map[outhook.DeliveryID]int
	log   []request
}

func listen(p *plan) (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("receiver: %w", err)
	}
	r := &receiver{plan: p, url: "http://" + l.Addr().String(), count: make(map[outhook.DeliveryID]int)}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	r.stop = func() {
		_ = server.Close()
		serving.Wait()
	}
	return r, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the worker was killed in the middle of it
	}
	subscriber := strings.TrimPrefix(req.URL.Path, "/")
	// The clocks of workers are wrong by Skew.
	verifier := outhook.Verifier{Keys: []outhook.Key{r.plan.key(subscriber)}, Tolerance: r.plan.Skew + 5*time.Minute}
	seen := request{
		id:     outhook.DeliveryID{Event: req.Header.Get("webhook-id"), Subscriber: subscriber},
		body:   sha256.Sum256(body),
		signed: verifier.Verify(req.Header, body) == nil,
	}
	if at, err := strconv.ParseInt(req.Header.Get("webhook-timestamp"), 10, 64); err == nil {
		seen.skewed = r.plan.Skew > 0 && time.Since(time.Unix(at, 0)).Abs() > r.plan.Skew/2
	}
	var before int
	before, seen.began = r.begin(seen.id)
	switch a := r.plan.answer(seen.id); {
	case !seen.signed:
		seen.status = http.StatusUnauthorized
	case before < a.failures:
		seen.status = a.status
		if a.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
	default:
		seen.status = http.StatusNoContent
		time.Sleep(a.slow)
	}
	r.end(seen) // first: a worker that is killed may leave the answer unread
	w.WriteHeader(seen.status)
}

// begin counts a request and returns how many there were before.
func (r *receiver) begin(id outhook.DeliveryID) (before, tick int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick++
	before = r.count[id]
	r.count[id]++
	return before, r.tick
}

func (r *receiver) end(seen request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick++
	seen.answered = r.tick
	r.log = append(r.log, seen)
}

// attempts returns how many requests there were for a delivery.
func (r *receiver) attempts(id outhook.DeliveryID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[id]
}

// requests returns the log. The receiver has to be stopped.
func (r *receiver) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log
}
