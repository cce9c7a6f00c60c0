//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/outhook/outhook"
)

// What processes say to the parent, first on a line of their output.
const (
	saidSent    = "sent"    // and the number of the event that was accepted
	saidLate    = "late"    // and the event and subscriber whose outcome was lost
	saidPoint   = "point"   // and the point at which it kills itself
	saidStopped = "stopped" // and the event and subscriber of the attempt after which it stops itself
	saidDown    = "down"    // the store cannot be used
	saidReady   = "ready"   // a worker begins
	saidClaimed = "claimed" // rate: of its first claim, which is held back
	saidFailed  = "failed"  // and the event and subscriber of an attempt that has failed, which is stored
)

// Points at which a process can be told to kill or to stop itself.
const (
	afterEnqueue = "after-enqueue" // of a sender, the others of a worker
	afterClaim   = "after-claim"
	afterSend    = "after-send" // the response was read
	beforeFinish = "before-finish"
	afterFinish  = "after-finish"
)

var workerPoints = []string{afterClaim, afterSend, beforeFinish, afterFinish}

func (p *plan) options() *outhook.Options {
	return &outhook.Options{
		Guard:                 outhook.DevelopmentGuard(),
		StoreKeysInPlaintext:  true,
		Retry:                 outhook.Schedule(p.delays()...),
		Breaker:               p.breaker(),
		Timeout:               p.timeout(),
		Lease:                 p.lease(),
		Poll:                  p.poll(),
		Concurrency:           concurrency,
		SubscriberConcurrency: p.subscriberConcurrency(),
		UserAgent:             userAgent(os.Getpid()),
	}
}

// options are those of a process that passes the points of a worker.
func (s *points) options(p *plan) *outhook.Options {
	o := p.options()
	o.Observers = []outhook.Observer{{
		Attempted: func(_ context.Context, o outhook.Observation) { s.passWith(afterSend, o.ID) },
		LeaseLost: func(_ context.Context, o outhook.Observation) {
			fmt.Println(saidLate, o.ID.Event, o.ID.Subscriber)
		},
		StoreDown: func(_ context.Context, err error) { fmt.Println(saidDown, err) },
	}}
	return o
}

// userAgent tells the receiver which process makes a request.
func userAgent(pid int) string { return fmt.Sprint("crash/", pid) }

// work is the role of a worker.
func work(ctx context.Context, p *plan, index int, s *points) error {
	store, end, err := openStore(ctx, p, index)
	if err != nil {
		return err
	}
	defer end()
	d, err := outhook.New(s.around(store), s.options(p))
	if err != nil {
		return err
	}
	fmt.Println(saidReady)
	return d.Run(ctx)
}

// points end or stop this process when it passes one that was armed.
type points struct {
	armed atomic.Pointer[order]

	// inStore is held while the store is called, and to stop: a process that
	// stops inside of a transaction would keep the others waiting, and its own
	// outcome would not come too late.
	inStore sync.RWMutex

	// together is closed when all workers have claimed something. Until then the
	// first claim of each is held back, so that none has learned anything of
	// the others. Nil: it is not held back.
	together chan struct{}
	first    sync.Once
}

// An order is what the parent says, on a line: "kill after-claim", or "go".
type order struct{ what, point string }

// obey takes orders until the parent has ended.
func (s *points) obey(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		what, point, _ := strings.Cut(lines.Text(), " ")
		if what == "go" {
			close(s.together)
			continue
		}
		s.armed.Store(&order{what, point})
	}
	os.Exit(1)
}

func (s *points) pass(point string) { s.passWith(point, outhook.DeliveryID{}) }

func (s *points) passWith(point string, id outhook.DeliveryID) {
	o := s.armed.Load()
	if o == nil || o.point != point || !s.armed.CompareAndSwap(o, nil) {
		return
	}
	if o.what == "stop" {
		s.inStore.Lock()
		defer s.inStore.Unlock()
		fmt.Println(saidStopped, id.Event, id.Subscriber)
		goesOn := make(chan os.Signal, 1)
		signal.Notify(goesOn, syscall.SIGCONT)
		defer signal.Stop(goesOn)
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		<-goesOn // threads go on for an instant after the signal, as far as into a call of the store
		return
	}
	fmt.Println(saidPoint, point)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the others may go on for an instant
}

func (s *points) gather() {
	if s.together != nil {
		fmt.Println(saidClaimed)
		<-s.together
	}
}

// A durable is what the stores of a run are, with a Notifier or without.
type durable interface {
	outhook.Store
	outhook.StandingStore
	outhook.Manager
}

// around returns the store with the points in it.
func (s *points) around(store durable) outhook.Store {
	wrapped := &pointed{durable: store, points: s}
	if n, ok := store.(outhook.Notifier); ok {
		return struct {
			*pointed
			outhook.Notifier
		}{wrapped, n}
	}
	return wrapped
}

type pointed struct {
	durable
	points *points
}

func (s *pointed) Enqueue(ctx context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	known, err := s.durable.Enqueue(ctx, deliveries)
	s.points.pass(afterEnqueue)
	return known, err
}

func (s *pointed) Claim(ctx context.Context, request outhook.ClaimRequest) (outhook.Claimed, error) {
	claimed, err := s.claim(ctx, request)
	if len(claimed.Claims) > 0 {
		s.points.pass(afterClaim)
		s.points.first.Do(s.points.gather)
	}
	return claimed, err
}

func (s *pointed) claim(ctx context.Context, request outhook.ClaimRequest) (outhook.Claimed, error) {
	s.points.inStore.RLock()
	defer s.points.inStore.RUnlock()
	return s.durable.Claim(ctx, request)
}

func (s *pointed) Finish(ctx context.Context, outcomes []outhook.Outcome) ([]outhook.Lease, error) {
	s.points.pass(beforeFinish)
	lost, err := s.finish(ctx, outcomes)
	s.points.pass(afterFinish)
	if err == nil {
		for _, o := range outcomes {
			if e := o.Effect; e != nil && !e.Success && !e.Unmade && !slices.Contains(lost, o.Lease) {
				fmt.Println(saidFailed, o.Lease.ID.Event, o.Lease.ID.Subscriber)
			}
		}
	}
	return lost, err
}

func (s *pointed) finish(ctx context.Context, outcomes []outhook.Outcome) ([]outhook.Lease, error) {
	s.points.inStore.RLock()
	defer s.points.inStore.RUnlock()
	return s.durable.Finish(ctx, outcomes)
}

func (s *pointed) UpdateStandings(ctx context.Context, subscribers []string, update func(time.Time, *outhook.Standing)) error {
	s.points.inStore.RLock()
	defer s.points.inStore.RUnlock()
	return s.durable.UpdateStandings(ctx, subscribers, update)
}
