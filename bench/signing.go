//go:build unix

package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/outhook/outhook"
)

// signing compares what a delivery costs more when it is signed with crypto/hmac
// alone. The deliveries end in this process. The difference is small, and what others do on
// the machine only adds to a measurement: of several in turns, the least is taken.
func signing(ctx context.Context, b *bench) error {
	p, err := newPoster(b.key, 1)
	if err != nil {
		return err
	}
	const n = 125 // deliveries of a measurement: short ones are rarely disturbed
	parts := b.plan.signatures / n
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // spend collects in between
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))  // or idle threads look for work, at random
	var ratio, allocs, bare, ours series
	for range b.plan.rounds + 2 {
		var signed, unsigned, alone run
		for part := range parts {
			for least, measure := range map[*run]func() (run, error){
				&signed:   func() (run, error) { return b.pretend(ctx, n, outhook.Subscriber{Keys: []outhook.Key{b.key}}) },
				&unsigned: func() (run, error) { return b.pretend(ctx, n, outhook.Subscriber{Unsigned: true}) },
				&alone:    func() (run, error) { return spend(n, func() error { return p.sums(n, b.body) }) },
			} {
				r, err := measure()
				if err != nil {
					return err
				}
				if part == 0 || r.cpu < least.cpu {
					*least = r
				}
			}
		}
		cpu := max(signed.cpu-unsigned.cpu, 0) // of few deliveries, noise may be more
		ratio = append(ratio, float64(cpu)/float64(alone.cpu))
		allocs = append(allocs, max(signed.allocs-unsigned.allocs, 0))
		bare, ours = append(bare, micros(alone.cpu)), append(ours, micros(cpu))
	}
	b.figure("sign_vs_hmac", 2, ratio)
	b.figure("sign_allocs", 1, allocs)
	b.detail("sign_us", 2, ours)
	b.detail("hmac_us", 2, bare)
	return nil
}

// sums makes n signatures of a body.
func (p *poster) sums(n int, body []byte) error {
	id, timestamp := newID(), "1767225600"
	var sum [32]byte
	for range n {
		p.sum(sum[:0], id, timestamp, body)
	}
	return nil
}

// pretend makes n deliveries to a subscriber, one after the other, from a store that
// keeps nothing, through a transport that sends nothing.
func (b *bench) pretend(ctx context.Context, n int, s outhook.Subscriber) (run, error) {
	options := b.options(memory)
	transport := &nowhere{}
	options.Transport = transport
	options.Concurrency, options.SubscriberConcurrency = 1, 1
	store := &endless{left: n}
	d, err := outhook.New(store, options)
	if err != nil {
		return run{}, err
	}
	s.ID, s.URL = subscriberID(0), b.receiver.path(0)
	if _, err := d.Via(&store.gathered).Send(ctx, b.event(), []outhook.Subscriber{s}); err != nil {
		return run{}, err
	}
	r, err := spend(n, func() error {
		_, err := d.Drain(ctx)
		return err
	})
	if err == nil && (transport.requests != n || (transport.signed == n) == s.Unsigned) {
		err = fmt.Errorf("%d requests were made and %d signed, of %d", transport.requests, transport.signed, n)
	}
	return r, err
}

// endless is a Store that has a delivery n times, of another event each.
type endless struct {
	gathered
	mu   sync.Mutex // guards left
	left int
}

func (s *endless) Claim(_ context.Context, request outhook.ClaimRequest) (claimed outhook.Claimed, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	room, ok := request.Room[s.deliveries[0].ID.Subscriber]
	if !ok {
		room = request.PerSubscriber
	}
	for range min(request.Limit, room, s.left) {
		c := outhook.Claim{Delivery: s.deliveries[0], Token: int64(s.left), Attempt: 1}
		c.ID.Event = strconv.Itoa(1<<40 + s.left)
		claimed.Claims = append(claimed.Claims, c)
		s.left--
	}
	return claimed, nil
}

func (*endless) Finish(context.Context, []outhook.Outcome) ([]outhook.Lease, error) { return nil, nil }

// nowhere answers one request after the other, and reads none.
type nowhere struct{ requests, signed int }

func (t *nowhere) RoundTrip(req *http.Request) (*http.Response, error) {
	t.requests++
	if req.Header.Get("Webhook-Signature") != "" {
		t.signed++
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
}
