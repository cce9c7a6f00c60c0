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
	signed bool   // the signature is valid
	skewed bool   // by a worker whose clock is wrong
	by     string // its User-Agent, of which each process has its own
	status int    // of the answer; 0: there was none, since the worker has gone

	began, answered int       // places in the order of all that began and was answered
	at, left        time.Time // when it began and was answered
}

// accepted reports whether the answer was 2xx.
func (r *request) accepted() bool { return r.status/100 == 2 }

// A receiver is the server behind all subscribers.
type receiver struct {
	plan  *plan
	url   string
	stop  func()
	trial *trial // says how a request is answered; nil: the plan does

	mu    sync.Mutex // guards all below
	tick  int
	count map[outhook.DeliveryID]int
	by    map[outhook.DeliveryID]string // of the latest request
	log   []request
}

func listen(p *plan, t *trial) (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("receiver: %w", err)
	}
	r := &receiver{plan: p, trial: t, url: "http://" + l.Addr().String(), count: make(map[outhook.DeliveryID]int), by: make(map[outhook.DeliveryID]string)}
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
		by:     req.UserAgent(),
	}
	if at, err := strconv.ParseInt(req.Header.Get("webhook-timestamp"), 10, 64); err == nil {
		seen.skewed = r.plan.Skew > 0 && time.Since(time.Unix(at, 0)).Abs() > r.plan.Skew/2
	}
	before := r.begin(&seen)
	switch a := r.plan.answer(seen.id); {
	case !seen.signed:
		seen.status = http.StatusUnauthorized
	case r.trial != nil:
		if seen.status = r.trial.answer(&seen, req.Context().Done()); seen.status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", strconv.Itoa(int(asked/time.Second)))
		}
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
	if seen.status != 0 {
		w.WriteHeader(seen.status)
	}
}

// begin counts a request and returns how many there were before.
func (r *receiver) begin(seen *request) (before int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick++
	seen.began, seen.at = r.tick, time.Now()
	before = r.count[seen.id]
	r.count[seen.id]++
	r.by[seen.id] = seen.by
	return before
}

func (r *receiver) end(seen request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick++
	seen.answered, seen.left = r.tick, time.Now()
	r.log = append(r.log, seen)
}

// latest returns the User-Agent of the latest request for a delivery.
func (r *receiver) latest(id outhook.DeliveryID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[id]
}

// requests returns the log. The receiver has to be stopped.
func (r *receiver) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log
}
