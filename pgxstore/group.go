package pgxstore

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

const (
	groupDeliveries = 1000 // in a transaction, unless a call has more
	groupBytes      = 8 << 20
	groupTime       = 50 * time.Millisecond // of one transaction, after which there may be a second one
)

// A group lets concurrent calls of Enqueue share transactions: each costs a commit, which
// waits for the disk, and statements that cost more than a row of theirs. So there is one
// at a time, and a second one if that takes long, as one does that waits for a lock, or if
// more waits than it could take.
type group struct {
	first, second chan struct{} // hold a value while such a transaction is being made
	long          time.Duration // how long a call waits for the first one alone

	mu      sync.Mutex
	waiting []*enqueueCall // guarded by mu
	n       int            // deliveries of those; guarded by mu
}

// An enqueueCall is one call of Enqueue.
type enqueueCall struct {
	deliveries []outhook.Delivery // its own: the caller may have left when they are stored
	batch      *enqueueBatch      // nil: it waits; guarded by group.mu
	done       chan struct{}      // closed when the transaction has ended
	known      []outhook.DeliveryID
	err        error
	alone      bool // it is to be tried alone: nothing was stored, perhaps for another's fault
	panicked   any  // in the transaction, by a tracer of the host's, say
}

// An enqueueBatch is what is stored in one transaction.
type enqueueBatch struct {
	calls  []*enqueueCall
	here   int // calls whose callers wait; guarded by group.mu
	cancel context.CancelFunc
}

func newGroup() *group {
	return &group{first: make(chan struct{}, 1), second: make(chan struct{}, 1), long: groupTime}
}

// Enqueue implements [outhook.Store]. Calls that come while others are being stored are
// stored together, with the values of the context of one of them. If that fails, each is
// tried alone, so that none fails for another. What a call that was cancelled has asked for
// may be stored after it has returned.
func (s *Store) Enqueue(ctx context.Context, deliveries []outhook.Delivery) (known []outhook.DeliveryID, err error) {
	if err := ctx.Err(); err != nil || len(deliveries) == 0 {
		return nil, failure("enqueue", err)
	}
	c := &enqueueCall{deliveries: slices.Clone(deliveries), done: make(chan struct{})}
	s.await(ctx, c)
	select {
	case <-c.done:
	case <-ctx.Done():
		s.group.leave(c)
		return nil, failure("enqueue", ctx.Err())
	}
	switch {
	case c.panicked != nil:
		panic(c.panicked)
	case c.alone:
		return s.enqueueAlone(ctx, deliveries)
	}
	return c.known, c.err
}

// await returns when a call is done or ctx is, and sees to it that what waits is stored.
func (s *Store) await(ctx context.Context, c *enqueueCall) {
	first, second := s.group.first, chan struct{}(nil)
	if s.group.enter(c) > groupDeliveries {
		second = s.group.second
	}
	long := time.NewTimer(s.group.long)
	defer long.Stop()
	for {
		// Not by this call, which may end before those that it is stored with.
		storing := context.WithoutCancel(ctx)
		select {
		case first <- struct{}{}:
			go s.enqueueWaiting(storing, s.group.first, true)
			first, second = nil, nil
			long.Stop()
		case second <- struct{}{}:
			go s.enqueueWaiting(storing, s.group.second, false)
			second = nil // until there is reason again, if this call is not among what it takes
			long.Reset(s.group.long)
		case <-long.C:
			second = s.group.second
		case <-c.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// enqueueWaiting stores what waits, in one transaction or until nothing does, and gives the
// place of its transactions back.
func (s *Store) enqueueWaiting(ctx context.Context, place <-chan struct{}, all bool) {
	defer func() { <-place }()
	for s.enqueueNext(ctx) && all {
	}
}

// groupPatience is how long the transaction of a group waits for a lock: one that a
// transaction of the host's holds, perhaps for long, is to keep no others.
const groupPatience = ", set_config('lock_timeout', '100ms', true)"

// enqueueNext stores the next batch, and returns false if nothing waited.
func (s *Store) enqueueNext(ctx context.Context) (more bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batch := s.group.take(cancel)
	var all []outhook.Delivery
	for _, c := range batch.calls {
		all = append(all, c.deliveries...)
	}
	if len(all) == 0 {
		return false
	}
	more = true // also if this batch panics: others may wait behind it
	var isKnown []bool
	var err error
	undone := false
	defer func() {
		panicked := recover()
		for _, c := range batch.calls {
			c.err, c.panicked = err, panicked
			c.alone = undone && (len(batch.calls) > 1 || hasCode(err, lockNotAvailable))
			if err == nil && panicked == nil {
				n := len(c.deliveries)
				c.known, isKnown = knownOf(c.deliveries, isKnown[:n]), isKnown[n:]
			}
			close(c.done)
		}
	}()
	reserved := s.handover.reserve(all)
	defer s.handover.end(reserved)
	isKnown, undone, err = s.enqueueAtOnce(ctx, all, groupPatience, reserved)
	return true
}

// enqueueAlone is Enqueue of one call.
func (s *Store) enqueueAlone(ctx context.Context, deliveries []outhook.Delivery) (known []outhook.DeliveryID, err error) {
	isKnown, _, err := s.enqueueAtOnce(ctx, deliveries, "", &reservation{})
	if err != nil {
		return nil, err
	}
	return knownOf(deliveries, isKnown), nil
}

// enter returns how many deliveries wait.
func (g *group) enter(c *enqueueCall) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, c)
	g.n += len(c.deliveries)
	return g.n
}

// take returns what is to be stored next. cancel ends that.
func (g *group) take(cancel context.CancelFunc) *enqueueBatch {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, deliveries, bytes := 0, 0, 0
	for ; n < len(g.waiting); n++ {
		more := g.waiting[n].deliveries
		deliveries += len(more)
		for i := range more {
			if p := more[i].Payload; p != nil && (i == 0 || p != more[i-1].Payload) {
				bytes += len(p.Body)
			}
		}
		if n > 0 && (deliveries > groupDeliveries || bytes > groupBytes) {
			break
		}
	}
	batch := &enqueueBatch{calls: slices.Clone(g.waiting[:n]), here: n, cancel: cancel}
	g.waiting = slices.Delete(g.waiting, 0, n)
	for _, c := range batch.calls {
		g.n -= len(c.deliveries)
		c.batch = batch
	}
	return batch
}

// leave is called when nobody wants to know any more what becomes of a call.
func (g *group) leave(c *enqueueCall) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.batch == nil {
		g.waiting = slices.DeleteFunc(g.waiting, func(other *enqueueCall) bool { return other == c })
		g.n -= len(c.deliveries)
		return
	}
	if c.batch.here--; c.batch.here == 0 {
		c.batch.cancel()
	}
}
