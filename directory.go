package outhook

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// A Directory knows the subscribers. With one, an attempt uses the subscriber as
// it is then, not as it was at Send: new URLs, rotated keys and deletions
// reach what waits to be attempted, and stores hold no keys.
type Directory interface {
	// Subscriber returns the subscriber with an ID, as [Dispatcher.Send]
	// would need it without a Directory. Of it, ID may be empty, and Events,
	// Ordered, HoldOnDead and Encode are not looked at: they take effect at Send.
	// It must not be changed later.
	//
	// For an ID that there is no subscriber of, it returns an error that
	// matches [ErrUnknownSubscriber]: deliveries to it are cancelled. After
	// any other error, or a panic, they wait, and it is asked again.
	//
	// It may be called concurrently, but not for the same ID. ctx ends after
	// Options.Timeout, or when Run is to stop. If Subscriber goes on
	// regardless, Run waits for it.
	Subscriber(ctx context.Context, id string) (Subscriber, error)
}

// maxKnown bounds how many subscribers are kept of a Directory.
const maxKnown = 10_000

// A directory asks the Directory of a Dispatcher, and keeps the answers for a while.
type directory struct {
	d *Dispatcher

	mu      sync.Mutex                  // guards all below, and what the maps hold
	known   map[string]*knownSubscriber // by ID
	failing map[string]*knownSubscriber // those that are not to be asked for at present
}

// A knownSubscriber is what a Directory has answered for an ID.
type knownSubscriber struct {
	asking   chan struct{} // closed when the lookup that is under way has ended; nil: none is
	target   *target       // of the last answer; nil: there was none
	err      error         // of the last lookup
	until    time.Time     // when to ask again
	failures int           // in a row
}

func newDirectory(d *Dispatcher) *directory {
	return &directory{d: d, known: make(map[string]*knownSubscriber), failing: make(map[string]*knownSubscriber)}
}

// look gives a job the subscriber as the Directory knows it now. If it is not ready
// to be attempted then, look returns its outcome.
func (w *worker) look(j *job) (_ Outcome, ready bool) {
	if w.d.directory == nil {
		return Outcome{}, true
	}
	t, wait, err := w.d.directory.lookUp(w.stop, j.ID.Subscriber)
	switch {
	case errors.Is(err, ErrUnknownSubscriber):
		return Outcome{Lease: j.Lease(), State: Cancelled, Reason: ReasonUnknown}, false
	case err != nil && w.stop.Err() == nil:
		j.held = errDirectory
		return held(j, wait), false
	case err != nil, w.shut(j), !w.mayBegin(j): // the lookup may have taken long
		return released(j), false
	}
	j.Snapshot = t.snapshotOf(j.ID, j.Snapshot.target().labels)
	if paces := pacesOf([]*job{j}); paces != nil {
		paces[j.ID.Subscriber] = paced{kept: j.standing.Rate, wanted: t.rate, leased: 1}
		w.d.pace(w.writes, paces)
	}
	return Outcome{}, true
}

// lookUp returns the subscriber as the Directory knows it, from a lookup of this slot
// or of another, or from one before that is still good. After a failure, wait is
// how long it will not be asked for.
func (dir *directory) lookUp(stop context.Context, id string) (t *target, wait time.Duration, err error) {
	dir.mu.Lock()
	k := dir.entry(id)
	theirs := k.asking
	ask := theirs == nil && !time.Now().Before(k.until)
	if ask {
		k.asking = make(chan struct{})
	}
	dir.mu.Unlock()

	if ask || theirs != nil {
		ctx, cancel := context.WithTimeout(stop, dir.d.options.Timeout)
		defer cancel()
		if ask {
			t, err := dir.ask(ctx, id)
			dir.learn(id, k, t, err, stop.Err() != nil)
		} else {
			select {
			case <-theirs:
			case <-ctx.Done(): // the other does not heed its own
				return nil, holdDelay(0), ctx.Err()
			}
		}
	}

	dir.mu.Lock()
	defer dir.mu.Unlock()
	return k.target, max(time.Until(k.until), 0), k.err
}

// entry returns what is known of a subscriber. If there is no room for one more,
// another is forgotten, whichever comes.
func (dir *directory) entry(id string) *knownSubscriber {
	k := dir.known[id]
	if k != nil {
		return k
	}
	for other, o := range dir.known {
		if len(dir.known) < maxKnown {
			break
		}
		if o.asking == nil {
			dir.forget(other)
		}
	}
	k = &knownSubscriber{}
	dir.known[id] = k
	return k
}

func (dir *directory) forget(id string) {
	delete(dir.known, id)
	delete(dir.failing, id)
}

// ask makes a lookup and validates the answer, as Send does without a Directory.
func (dir *directory) ask(ctx context.Context, id string) (t *target, err error) {
	s, err := func() (_ Subscriber, err error) {
		defer containPanic("the directory", &err)
		return dir.d.options.Directory.Subscriber(ctx, id)
	}()
	if err != nil {
		return nil, err
	}
	var f faults
	t = dir.d.target(&s, &f)
	if s.ID != "" && s.ID != id {
		f.add(id, "ID", "is another")
	}
	switch fault, _ := errors.AsType[*FieldError](f.err()); {
	case errors.Is(f.err(), ErrBlocked):
		t.fault = f.err()
	case fault != nil:
		t.fault = fmt.Errorf("%w: %s", errSubscriber, fault.Field)
	}
	return t, nil
}

// errDirectory holds back the claims of a subscriber that could not be looked up.
var errDirectory = errors.New("the directory failed")

// errSubscriber fails an attempt to a subscriber as Send would not accept it.
var errSubscriber = errors.New("the directory's subscriber has a fault")

// learn keeps what a lookup came to. One that failed because Run is to stop says
// nothing of the Directory.
func (dir *directory) learn(id string, k *knownSubscriber, t *target, err error, stopped bool) {
	outage := err != nil && !stopped && !errors.Is(err, ErrUnknownSubscriber)
	if outage {
		dir.d.observers.alarm("directory failed", "subscriber", id, "error", err)
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	close(k.asking)
	k.asking, k.err, k.until = nil, err, time.Now()
	delete(dir.failing, id)
	switch {
	case outage:
		k.until = k.until.Add(holdDelay(k.failures))
		k.failures++
		dir.failing[id] = k
	case err == nil:
		k.until = k.until.Add(dir.d.options.DirectoryTTL)
		k.target, k.failures = t, 0
	case !stopped: // unknown, which may change: a Send can be faster than its subscriber
		dir.forget(id)
	}
}

// concurrency returns how many attempts a subscriber allows by the latest answer, 0 if
// it leaves that to the options. Before the first answer it is one, so that no
// more are begun than are allowed, and no more slots wait for one lookup.
func (dir *directory) concurrency(id string) int {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if k := dir.known[id]; k != nil && k.target != nil {
		return k.target.concurrency
	}
	return 1
}

// limit is how many attempts to the subscriber of a claim may be in flight.
func (d *Dispatcher) limit(c *Claim) int {
	n := 0
	if d.directory != nil {
		n = d.directory.concurrency(c.ID.Subscriber)
	} else if t := c.Snapshot.target(); t != nil {
		n = t.concurrency
	}
	if n > 0 {
		return n
	}
	return d.options.SubscriberConcurrency
}

// admit withdraws from room the subscribers that are not to be asked for now, and
// returns when the first of them may be, 0 if none.
func (dir *directory) admit(room map[string]int) (next time.Duration) {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	for id, k := range dir.failing {
		wait := time.Until(k.until)
		if wait <= 0 {
			delete(dir.failing, id)
			continue
		}
		room[id] = 0
		if next == 0 || wait < next {
			next = wait
		}
	}
	return next
}

// held is the outcome of a job that is given back until what it waits for may be there.
func held(j *job, wait time.Duration) Outcome {
	return Outcome{Lease: j.Lease(), State: Pending, Released: true, After: wait}
}

// holdDelay is how long claims are held for a cause that was met so often before: from
// 5 s to a minute, less up to a quarter, so that not all come back at once.
func holdDelay(failures int) time.Duration {
	d := min(5*time.Second<<min(failures, maxFailures), time.Minute)
	return d - rand.N(d/4)
}

const maxFailures = 4 // beyond which the delay stays
