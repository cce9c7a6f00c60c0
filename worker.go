package outhook

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Run makes the attempts that are due until ctx ends, and returns nil after a
// clean stop. All goroutines of the package are its own, or Drain's, and have
// ended when it returns.
//
// When ctx ends, nothing more is claimed. Attempts in flight may go on for
// Options.Grace and are cut then; what was claimed but not begun is
// released, as if it had not been. All outcomes are still written: an error is
// returned if the store did not take them within 5 s after the grace. Those
// deliveries are attempted again when their leases end.
func (d *Dispatcher) Run(ctx context.Context) error {
	_, err := d.run(ctx, false)
	return err
}

// Drain makes the attempts that are due, until none is, and returns how long it
// is until the next delivery will be due or a pause ends, 0 if nothing is known to
// be. It is for hosts with a scheduler of their own: cron, a function that is called
// on demand. If ctx ends before all is done, it stops as Run does and returns the
// error of ctx.
func (d *Dispatcher) Drain(ctx context.Context) (next time.Duration, err error) {
	next, err = d.run(ctx, true)
	if err == nil {
		err = ctx.Err()
	}
	return next, err
}

func (d *Dispatcher) run(ctx context.Context, drain bool) (next time.Duration, err error) {
	if !d.running.CompareAndSwap(false, true) {
		return 0, ErrRunning
	}
	defer d.running.Store(false)
	if d.ownsIdle != nil {
		defer d.ownsIdle.CloseIdleConnections()
	}

	// Three lives: claiming ends with ctx, attempts after the grace, writing
	// outcomes a little later.
	attempts, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	writes, drop := context.WithCancel(context.WithoutCancel(ctx))
	defer drop()
	w := &worker{
		d:       d,
		drain:   drain,
		stop:    ctx,
		writes:  writes,
		lanes:   make(map[string]*workerLane),
		work:    make(chan *job, d.options.Concurrency+2*d.maxAhead()),
		reports: make(chan *job, min(2*maxBatch, max(64, 16*d.options.Concurrency))),
		ahead:   d.minAhead(),
		counted: time.Now(),
		moved:   time.Now(),
		looked:  time.Now(),
	}
	var slots, written, others sync.WaitGroup
	for range d.options.Concurrency {
		slots.Go(func() { w.attempt(attempts) })
	}
	written.Go(w.finish)
	watching, done := context.WithCancel(context.WithoutCancel(ctx))
	defer done()
	others.Go(func() {
		after(watching, ctx.Done(), max(d.options.Grace, 0), func() { cut(errCut) })
		after(watching, ctx.Done(), flushBudget, drop)
	})
	listening, hush := context.WithCancel(ctx)
	defer hush()
	if d.notifier != nil && !drain {
		others.Go(func() { w.listen(listening) })
	}

	next = w.claim()

	w.putBackWaiting(func(*workerLane) int { return 0 })
	close(w.work)
	slots.Wait()
	w.filled()
	close(w.reports)
	written.Wait()
	hush()
	done()
	others.Wait()
	if w.dropped > 0 {
		err = fmt.Errorf("outhook: run: %d outcomes could not be stored: %w", w.dropped, w.lastErr)
	}
	return next, err
}

// after calls f when d has passed since begin was closed, unless ctx ends first.
func after(ctx context.Context, begin <-chan struct{}, d time.Duration, f func()) {
	select {
	case <-begin:
	case <-ctx.Done():
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		f()
	case <-ctx.Done():
	}
}

// Deliveries are claimed ahead of the slots, so that one that becomes free finds its next
// job waiting, and a store is asked for many at once: what the slots lately did in
// aheadTime, or in twice the time that a claim takes, at least a quarter of them, and at most
// sixteen times as many as they are.
//
// So are those of a subscriber: what may be in flight to it or, if that is more, as many as were
// lately delivered to it in that time, which are none if it hangs or fails. What is more waits
// in its lane, where it keeps no others from being claimed or attempted. With these there may be
// twice as many ahead.
const (
	aheadTime  = 50 * time.Millisecond
	refillTime = 10 * time.Millisecond // after which room is filled that nobody needs at once
	stallTime  = time.Second           // without a free slot, after which most of it is given back
)

func (d *Dispatcher) minAhead() int { return d.options.Concurrency / 4 }
func (d *Dispatcher) maxAhead() int { return d.options.Concurrency * 16 }

// A worker is one call of Run or Drain. Claims flow one way through it:
// claim → work → attempt → reports → finish.
type worker struct {
	d       *Dispatcher
	drain   bool
	stop    context.Context // claiming ends with it
	writes  context.Context // writing ends with it
	work    chan *job
	reports chan *job
	deaf    atomic.Bool // the Notifier cannot tell at present

	mu       sync.Mutex // guards all below
	lanes    map[string]*workerLane
	flying   int         // jobs that occupy a slot, or are to have the next ones
	open     int         // jobs whose outcome is not stored
	suspects int         // among those that are claimed
	hungry   bool        // the store may have more than there was room for
	behind   bool        // the finisher has outcomes that the store does not take
	down     bool        // the store's latest answer was an error
	round    int         // counts claims
	ahead    int         // how many are claimed beyond the slots
	left     int         // jobs that have left their slots, in all
	refill   *time.Timer // wakes the claimer; nil: it is not to be, for the sake of room

	took    time.Duration // of the latest claim; the claimer's, like those that follow
	counted time.Time     // when ahead was reckoned last
	before  int           // left then
	moved   time.Time     // when left was seen to have changed last
	seen    int           // left then
	looked  time.Time     // when giveBack looked at the lanes last

	doubt   bool  // the latest claim failed, but may have taken effect unseen; the claimer's
	dropped int   // outcomes that could not be stored; the finisher's
	lastErr error // why; the finisher's
}

// A workerLane is a subscriber that the worker has something to do for.
type workerLane struct {
	flying    int    // jobs that occupy a slot, or are to have the next ones
	waiting   []*job // for one of those to leave: they are ahead of what may be in flight
	ahead     int    // how many may be
	delivered int    // jobs, in all
	before    int    // delivered when ahead was reckoned last
	lately    int    // what was reckoned then
	seen      int    // delivered when giveBack looked last
	open      int    // jobs whose outcome is not stored
	closed    bool   // one that pauses or disables it has left, and not all that have left are stored
	limit     int    // of flying
	given     int    // by the latest claim that gave any
	round     int    // which claim that was
	more      bool   // the store may have more of it than there was room for
	shut      int    // the round in which it was last paused or disabled
	failures  int    // failed attempts in a row, as far as it is known here
}

// room is how many more may be claimed.
func (l *workerLane) room() int {
	if l.closed {
		return 0
	}
	return l.limit + l.ahead - l.flying - len(l.waiting)
}

// maxLanes bounds how many lanes are kept for the sake of what is known of them alone.
const maxLanes = 256

// A job is a claim on its way, and what becomes of it.
type job struct {
	*Claim
	lane     *workerLane
	standing *Standing // zero if none is kept
	round    int       // of its claim
	leaseEnd time.Time // reckoned from before the claim
	suspect  bool
	flying   bool  // it counts among those that are
	held     error // why it has to wait for what is not its receiver's; nil: it has not

	outcome Outcome
	room    [1]Attempt // for those of the outcome: mostly it is one
	closes  bool       // the outcome pauses or disables the subscriber, as far as it is known here
	detail  string     // what the guard refused
}

// none is the standing of a subscriber for which none is kept.
var none = new(Standing)

// last returns the latest attempt, zero if none was made.
func (j *job) last() (a Attempt) {
	if n := len(j.outcome.Attempts); n > 0 {
		a = j.outcome.Attempts[n-1]
	}
	return a
}

// claim claims what is due, as there is room for it, until the worker is to
// stop, or, draining, until nothing is left. It returns the Next of its last claim.
func (w *worker) claim() (next time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := outage()
	for w.stop.Err() == nil {
		later := w.giveBack(time.Now())
		idle := w.idle() // before the claim: what ends meanwhile may leave room
		request, ok := w.request()
		wait := time.Duration(-1) // until woken
		if ok {
			claimed, asked, err := w.ask(request)
			doubted := w.doubt // so that there was no room for suspects
			w.doubt = err != nil
			if err != nil {
				wait = retry.NextBackOff()
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-w.stop.Done():
				}
				continue
			}
			retry.Reset()
			next = claimed.Next
			if w.start(claimed, asked, request) || doubted {
				continue
			}
			if w.drain && idle && len(claimed.Claims) == 0 {
				return next
			}
			wait = w.pause(next)
		}
		if later && (wait < 0 || wait > stallTime) {
			wait = stallTime
		}
		if wait >= 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-w.d.wake:
		case <-timer.C:
		case <-w.stop.Done():
		}
	}
	return next
}

// pause returns how long to wait for the next claim, negative for until woken.
func (w *worker) pause(next time.Duration) time.Duration {
	wait := next
	if next <= 0 {
		wait = -1
	}
	if w.d.notifier == nil || w.deaf.Load() {
		poll := w.d.options.Poll
		poll -= time.Duration(rand.Int64N(int64(poll)/10 + 1)) // so that processes spread out
		if wait < 0 || poll < wait {
			wait = poll
		}
	}
	return wait
}

// request says what the worker has room for, and false if for nothing.
func (w *worker) request() (ClaimRequest, bool) {
	o := &w.d.options
	request := ClaimRequest{
		PerSubscriber: o.SubscriberConcurrency,
		SuspectAfter:  o.MaxUnfinished - suspectSlack,
		Suspects:      1,
		Lease:         o.Lease,
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.round++
	w.filled()
	w.reckon(time.Now())
	request.Limit = o.Concurrency + w.ahead - w.flying
	for _, lane := range w.lanes {
		request.Limit += max(lane.ahead-len(lane.waiting), 0)
	}
	if request.Limit <= 0 || w.behind {
		w.hungry = true
		return request, false
	}
	if w.suspects > 0 || w.doubt {
		request.Suspects = 0
	}
	request.Room = make(map[string]int, len(w.lanes))
	for id, lane := range w.lanes {
		// Lanes end here alone: during a claim, what they know of it is needed.
		known := lane.limit != o.SubscriberConcurrency || lane.delivered != lane.before || lane.lately > 0
		if lane.open == 0 && (!known || len(w.lanes) > maxLanes) {
			delete(w.lanes, id)
			continue
		}
		room := lane.room()
		lane.more = room <= 0
		if room != o.SubscriberConcurrency {
			request.Room[id] = max(room, 0)
		}
	}
	return request, true
}

// reckon sets how many deliveries are claimed ahead. w.mu is locked.
func (w *worker) reckon(now time.Time) {
	since := now.Sub(w.counted)
	if since < aheadTime/5 {
		return
	}
	left := w.left - w.before
	share := min(float64(max(aheadTime, 2*w.took))/float64(since), float64(w.d.maxAhead())/float64(max(left, 1)))
	w.ahead = max(int(share*float64(left)), w.d.minAhead())
	w.before, w.counted = w.left, now
	for _, l := range w.lanes {
		lately := int(share * float64(l.delivered-l.before))
		l.ahead = max((lately+l.lately)/2-l.limit, 0)
		l.before, l.lately = l.delivered, lately
	}
}

// giveBack releases what has become too much, since receivers have become slow, and others may
// have slots: what waits for a slot beyond minAhead, if none has become free for stallTime, and
// what waits in a lane and is more than was delivered to its subscriber in that time. It
// reports whether that may still become necessary.
func (w *worker) giveBack(now time.Time) (later bool) {
	if now.Sub(w.looked) >= stallTime {
		w.looked = now
		w.putBackWaiting(func(l *workerLane) (soon int) {
			soon, l.seen = l.delivered-l.seen, l.delivered
			return soon
		})
	}
	w.mu.Lock()
	if w.left != w.seen {
		w.seen, w.moved = w.left, now
	}
	for _, l := range w.lanes {
		later = later || len(l.waiting) > 0
	}
	w.mu.Unlock()
	for len(w.work) > w.d.minAhead() {
		if now.Sub(w.moved) < stallTime {
			return true
		}
		select {
		case j := <-w.work:
			w.putBack(j)
		default: // a slot was faster
		}
	}
	return later
}

// putBackWaiting releases what waits in each lane beyond the first ones, as many as keep says.
func (w *worker) putBackWaiting(keep func(*workerLane) int) {
	var back []*job
	w.mu.Lock()
	for _, l := range w.lanes {
		n := min(keep(l), len(l.waiting))
		back = append(back, l.waiting[n:]...)
		l.waiting = slices.Delete(l.waiting, n, len(l.waiting))
	}
	w.mu.Unlock()
	for _, j := range back {
		w.putBack(j)
	}
}

// ask calls the store's Claim. It is not cancelled when the worker is to stop: what
// the store has leased must be known to be released.
func (w *worker) ask(request ClaimRequest) (claimed Claimed, asked time.Time, err error) {
	ctx, cancel := context.WithTimeout(w.writes, writeBudget)
	defer cancel()
	var resume time.Duration
	if w.d.local != nil {
		resume = w.d.local.admit(&request)
	}
	if w.d.directory != nil {
		if at := w.d.directory.admit(request.Room); resume == 0 || at > 0 && at < resume {
			resume = at
		}
	}
	asked = time.Now()
	err = w.call(func() (err error) {
		claimed, err = w.d.store.Claim(ctx, request)
		return err
	})
	w.took = time.Since(asked)
	if resume > 0 && (claimed.Next <= 0 || resume < claimed.Next) {
		claimed.Next = resume
	}
	return claimed, asked, err
}

// start hands claims to the slots. It reports whether there is room for more of what
// the store may have, since slots became free meanwhile.
func (w *worker) start(claimed Claimed, asked time.Time, request ClaimRequest) (again bool) {
	if w.d.local != nil {
		claimed.Standings = w.d.local.grant(claimed.Claims, request.Lease)
	}
	together := make([]job, len(claimed.Claims)) // like the claims
	jobs := make([]*job, len(together))
	for i := range together {
		c := &claimed.Claims[i]
		jobs[i] = &together[i]
		together[i] = job{
			Claim:    c,
			round:    w.round,
			leaseEnd: asked.Add(request.Lease),
			suspect:  c.Unfinished >= request.SuspectAfter,
			held:     w.d.open(c),
			standing: none,
		}
		if _, ok := claimed.Standings[c.ID.Subscriber]; ok {
			kept := claimed.Standings[c.ID.Subscriber] // on the heap, so not for all
			together[i].standing = &kept
		}
	}
	if paces := pacesOf(jobs); paces != nil {
		w.d.pace(w.writes, paces)
	}
	for _, j := range jobs {
		switch w.enter(j, &request) {
		case flies:
			w.work <- j
		case tooMany:
			w.putBack(j)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hungry = len(claimed.Claims) >= request.Limit
	again = w.starving()
	for _, j := range jobs {
		again = again || w.lacks(j.lane)
	}
	return again
}

// starving reports whether the slots will soon have nothing to do although the store may
// have more. w.mu is locked.
func (w *worker) starving() bool {
	return w.hungry && w.flying <= w.d.options.Concurrency+w.ahead/2
}

// lacks reports whether the store may have more of a subscriber than it was asked for, and
// there is room for it that is to be filled at once: half of it, or any while there are
// slots with nothing to do. Less is filled after refillTime, not with a claim for each that
// has left. w.mu is locked.
func (w *worker) lacks(l *workerLane) bool {
	room := l.room()
	if !l.more || room <= 0 {
		return false
	}
	if 2*room >= l.limit+l.ahead || len(w.work) == 0 && l.flying < l.limit {
		return true
	}
	if w.refill == nil && len(l.waiting) == 0 {
		w.refill = time.AfterFunc(refillTime, w.d.Wake)
	}
	return false
}

// filled says that no room is to be filled later. w.mu is locked, or all have ended.
func (w *worker) filled() {
	if w.refill != nil {
		w.refill.Stop()
		w.refill = nil
	}
}

// What becomes of a job that is claimed.
type fate int

const (
	flies   fate = iota // it is to have one of the next slots
	waits               // for one of its subscriber to leave
	tooMany             // its limit is lower than the store may have known
)

// enter counts a job.
func (w *worker) enter(j *job, request *ClaimRequest) fate {
	limit := w.d.limit(j.Claim)
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.lanes[j.ID.Subscriber]
	if l == nil {
		l = &workerLane{}
		w.lanes[j.ID.Subscriber] = l
	}
	j.lane, l.limit = l, limit
	w.advance(l)
	w.open++
	l.open++
	if j.suspect {
		w.suspects++
	}
	if l.round != j.round {
		l.round, l.given = j.round, 0
	}
	l.given++
	asked, ok := request.Room[j.ID.Subscriber]
	if !ok {
		asked = request.PerSubscriber
	}
	l.more = l.given >= asked

	switch {
	case l.flying < limit:
		w.fly(j)
		return flies
	case len(l.waiting) < l.ahead:
		l.waiting = append(l.waiting, j)
		return waits
	}
	return tooMany
}

// fly counts a job among those that have slots, or are to have the next ones. w.mu is locked.
func (w *worker) fly(j *job) {
	j.flying = true
	j.lane.flying++
	w.flying++
}

// advance has those of a lane fly that wait for it to be short of its limit. There is room for
// them in work, unless a store returns more than it was asked for. w.mu is locked.
func (w *worker) advance(l *workerLane) {
	for len(l.waiting) > 0 && l.flying < l.limit {
		next := l.waiting[0]
		select {
		case w.work <- next:
		default:
			return
		}
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		w.fly(next)
	}
}

// putBack releases a job that has had no slot.
func (w *worker) putBack(j *job) {
	j.outcome = released(j)
	w.leave(j, false)
	w.reports <- j
}

// leave frees the slot of a job, or its place ahead of the slots, and wakes the claimer if
// that may let it claim.
func (w *worker) leave(j *job, slot bool) {
	e := j.outcome.Effect
	w.mu.Lock()
	if slot {
		w.left++
	}
	if j.outcome.State == Delivered {
		j.lane.delivered++
	}
	if j.flying {
		j.flying = false
		j.lane.flying--
		w.flying--
		w.advance(j.lane)
	}
	lacks := w.lacks(j.lane)
	if lacks {
		j.lane.more = false // it is claimed for now
	}
	wake := w.starving() || lacks || j.suspect
	if j.closes = e.closes(); e != nil && !e.Unmade {
		if e.Success {
			j.lane.failures = 0
		} else {
			j.lane.failures = max(j.lane.failures, j.standing.Failures) + 1
			j.closes = j.closes || j.standing.Trips > 0 || e.Breaker.Failures > 0 && j.lane.failures >= e.Breaker.Failures
		}
	}
	if j.closes {
		j.lane.closed = true
		j.lane.shut = w.round
	}
	if j.suspect {
		w.suspects--
	}
	w.mu.Unlock()
	if wake {
		w.d.Wake()
	}
}

// close ends the jobs of a batch whose outcomes are stored, or dropped.
func (w *worker) close(batch []*job) {
	w.mu.Lock()
	w.open -= len(batch)
	wake := w.drain && w.open == 0
	for _, j := range batch {
		j.lane.open--
		if j.lane.closed && j.lane.open == j.lane.flying+len(j.lane.waiting) {
			j.lane.closed = false
			wake = true // to learn when it may be attempted again
		}
		if o := &j.outcome; o.State == Pending || o.Effect != nil || j.OrderKey != "" {
			wake = true // it is due again, or another is now
		}
		j.outcome, j.room = Outcome{}, [1]Attempt{} // others of its claim may take long
	}
	w.mu.Unlock()
	if wake {
		w.d.Wake()
	}
}

func (w *worker) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open == 0
}

// shut reports whether the subscriber of a job was paused or disabled since its
// claim began: what was claimed before is not to be started after.
func (w *worker) shut(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return j.round <= j.lane.shut
}

// failed reports whether an attempt for the subscriber of a job has failed,
// perhaps since its claim.
func (w *worker) failed(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return j.lane.failures > 0 || !j.standing.Clean()
}

// attempt is a slot: it makes the attempts of jobs until there are no more.
func (w *worker) attempt(base context.Context) {
	s := newSlot(w.d, base, w.d.options.KeepResponse)
	defer s.close()
	for j := range w.work {
		j.outcome = w.deliver(s, j)
		w.leave(j, true)
		w.reports <- j
	}
}

// maxStale bounds the attempts that are made at once after one whose connection was found
// closed: where there is one, there are others. The last has a connection of its own.
const maxStale = 3

// deliver makes the attempt of a job, if it is to be made, and returns its outcome.
func (w *worker) deliver(s *slot, j *job) Outcome {
	settle := func(state State, reason string) Outcome {
		return Outcome{Lease: j.Lease(), State: state, Reason: reason}
	}
	switch {
	case j.Fault != "":
		return settle(Dead, j.Fault)
	case j.Payload == nil || j.Snapshot.target() == nil:
		return settle(Dead, "the store returned no payload or snapshot")
	case j.Unfinished >= w.d.options.MaxUnfinished:
		return settle(Dead, ReasonAbandoned)
	case j.standing.Disabled && j.standing.CancelWaiting:
		return settle(Cancelled, ReasonDisabled)
	case j.standing.Disabled, w.shut(j), !w.mayBegin(j):
		return released(j)
	case j.held != nil:
		return held(j, holdDelay(maxFailures))
	}
	if o, ready := w.look(j); !ready {
		return o
	}

	r := s.attempt(j.Claim)
	if r.unsent {
		return released(j)
	}
	attempts := append(j.room[:0], r.attempt)
	for len(attempts) <= maxStale && r.stale && w.mayBegin(j) {
		s.fresh = len(attempts) == maxStale
		again := s.attempt(j.Claim)
		if again.unsent {
			break
		}
		r, attempts = again, append(attempts, again.attempt)
	}
	s.fresh = false
	j.detail = detail(r.err)
	if !r.neutral {
		w.d.gauges.add(j.ID.Subscriber, r.attempt, r.verdict == OK)
	}
	o := w.judge(j, &r)
	o.Attempts = attempts
	return o
}

// mayBegin reports whether an attempt may begin: the worker is not to stop, and enough
// is left of the lease for the attempt and for writing its outcome.
func (w *worker) mayBegin(j *job) bool {
	return w.stop.Err() == nil && time.Until(j.leaseEnd) >= w.d.options.Timeout+writeBudget/2
}

// judge turns the result of an attempt into an outcome.
func (w *worker) judge(j *job, r *result) Outcome {
	o := Outcome{Lease: j.Lease(), State: Pending}
	switch r.verdict {
	case OK:
		o.State = Delivered
		if w.failed(j) {
			o.Effect = &Effect{Epoch: j.standing.Epoch, Success: true}
		}
		return o
	case Permanent:
		if o.State, o.Reason = Dead, ReasonPermanent; r.aborted {
			o.Reason = ReasonAborted
		}
	case Gone:
		o.State, o.Reason = Dead, ReasonGone
	default:
		delay, ok := w.delay(j.ID, r.attempt)
		if !ok {
			o.State, o.Reason = Dead, ReasonExhausted
			break
		}
		o.After = max(delay, r.attempt.RetryAfter, 0)
	}
	if !r.neutral {
		o.Effect = &Effect{
			Epoch: j.standing.Epoch, Pause: r.attempt.RetryAfter, Cancel: w.d.options.CancelDisabled,
			Breaker: w.d.options.Breaker, DisableAfter: w.d.options.DisableAfter,
		}
		switch {
		case r.verdict == Gone:
			o.Effect.Disable, o.Effect.Reason = true, ReasonGone
		case o.Effect.Pause > 0:
			o.Effect.Reason = "Retry-After"
		}
	}
	return o
}

// delay asks the retry policy. If it panics, the default one decides.
func (w *worker) delay(id DeliveryID, last Attempt) (delay time.Duration, ok bool) {
	defer func() {
		if recover() != nil {
			w.d.observers.log("retry policy panicked")
			delay, ok = StandardSchedule()(id, last)
		}
	}()
	return w.d.options.Retry(id, last)
}

func released(j *job) Outcome {
	o := Outcome{Lease: j.Lease(), State: Pending, Released: true}
	if j.standing.Trips > 0 { // it was to be the probe
		o.Effect = &Effect{Epoch: j.standing.Epoch, Unmade: true}
	}
	return o
}

// maxBatch bounds how many outcomes are stored at once, and gatherTime how long the first of
// them waits for others, if there may be some, and nobody waits for it.
const (
	maxBatch   = 500
	gatherTime = 5 * time.Millisecond
)

// finish stores outcomes until there are no more reports.
func (w *worker) finish() {
	batch := make([]*job, 0, maxBatch)
	for first := range w.reports {
		batch = append(batch[:0], first)
		if !w.awaited(first) {
			time.Sleep(gatherTime)
		}
	gather:
		for len(batch) < maxBatch {
			select {
			case next, ok := <-w.reports:
				if !ok {
					break gather
				}
				batch = append(batch, next)
			default:
				break gather
			}
		}
		w.write(batch)
		w.close(batch)
		clear(batch) // of what is done nothing is kept while there is nothing to do
		if len(w.reports) == 0 {
			w.fallBehind(false)
		}
	}
}

// awaited reports whether an outcome is to be stored at once: nothing else is under way, the
// worker is to stop, or something cannot be claimed before.
func (w *worker) awaited(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	idle := w.flying == 0 || w.drain && len(w.work) == 0 // whose caller waits for the last
	return idle || w.stop.Err() != nil || j.OrderKey != "" || j.outcome.Effect != nil || j.lane.closed
}

// write stores a batch, again and again until the store has answered or the
// worker gives up.
func (w *worker) write(batch []*job) {
	outcomes := make([]Outcome, len(batch))
	for i, j := range batch {
		outcomes[i] = j.outcome
	}
	var lost []Lease
	retry := outage()
	for {
		ctx, cancel := context.WithTimeout(w.writes, writeBudget)
		err := w.call(func() (err error) {
			lost, err = w.d.store.Finish(ctx, outcomes)
			return err
		})
		cancel()
		if err == nil {
			break
		}
		w.fallBehind(true)
		timer := time.NewTimer(retry.NextBackOff())
		select {
		case <-timer.C:
		case <-w.writes.Done():
		}
		timer.Stop()
		if w.writes.Err() != nil {
			w.dropped += len(batch)
			w.lastErr = err
			return
		}
	}
	w.report(batch, lost)
}

// fallBehind holds back the claimer while outcomes cannot be stored: when the
// store is back, they come first, before a lease that ended meanwhile is given anew.
func (w *worker) fallBehind(behind bool) {
	w.mu.Lock()
	changed := w.behind != behind
	w.behind = behind
	w.mu.Unlock()
	if changed && !behind {
		w.d.Wake()
	}
}

// report tells the observers of outcomes that are stored.
func (w *worker) report(batch []*job, lost []Lease) {
	os := &w.d.observers
	var turned []string // subscribers
	for _, j := range batch {
		o := &j.outcome
		late := len(lost) > 0 && slices.Contains(lost, o.Lease)
		if w.d.local != nil && o.Effect != nil && !late {
			w.d.local.apply(o.Lease.ID.Subscriber, *o.Effect)
		}
		if len(os.list) == 0 {
			continue
		}
		ob := w.d.observation(j.Claim, j.last())
		ob.Reason, ob.After, ob.Detail = o.Reason, o.After, j.detail
		if j.held != nil && o.Released {
			ob.Reason = j.held.Error()
		}
		if pick := tells(o, late); pick != nil {
			os.observe(w.writes, ob, pick)
		}
		if !late && w.turns(j) {
			turned = append(turned, o.Lease.ID.Subscriber)
		}
	}
	if len(turned) > 0 {
		slices.Sort(turned)
		w.d.tell(w.writes, slices.Compact(turned))
	}
}

// turns reports whether an outcome may have changed the state of its subscriber's
// standing. Other processes may know of failures that this one does not.
func (w *worker) turns(j *job) bool {
	e, before := j.outcome.Effect, j.standing
	switch {
	case e == nil || e.Unmade:
		return false
	case e.Success:
		return before.Told != ""
	case e.closes() || j.closes:
		return true
	}
	o := &w.d.options
	return 2*before.Failures >= o.Breaker.Failures && o.Breaker.Failures > 0 ||
		o.DisableAfter > 0 && !before.FailingSince.IsZero() && time.Since(before.FailingSince) > o.DisableAfter/2
}

// tells returns which func of an Observer an outcome is for, nil for none.
func tells(o *Outcome, late bool) func(*Observer) func(context.Context, Observation) {
	switch {
	case late:
		return leaseLost
	case o.Released && o.After > 0:
		return heldBack
	case o.Released:
		return nil
	case o.State == Delivered:
		return delivered
	case o.State == Dead:
		return died
	case o.State == Cancelled:
		return cancelled
	}
	return retrying
}

// call makes a call of the store, contains its panics, and tells the
// observers when the store is lost and when it is back.
func (w *worker) call(f func() error) error {
	err := func() (err error) {
		defer containPanic("the store", &err)
		return f()
	}()
	w.mu.Lock()
	changed := w.down != (err != nil)
	w.down = err != nil
	w.mu.Unlock()
	switch {
	case changed && err != nil:
		w.d.observers.storeDown(w.writes, err)
	case changed:
		w.d.observers.storeUp(w.writes)
	}
	return err
}

// listen lets the store wake the claimer; while it cannot, the claimer polls.
func (w *worker) listen(ctx context.Context) {
	retry := outage()
	for ctx.Err() == nil {
		began := time.Now()
		err := func() (err error) {
			defer containPanic("the store", &err)
			return w.d.notifier.Notify(ctx, func() {
				w.deaf.Store(false)
				w.d.Wake()
			})
		}()
		if ctx.Err() != nil {
			return
		}
		w.deaf.Store(true)
		w.d.Wake()
		w.d.observers.log("store cannot notify, polling", "error", err)
		if time.Since(began) > time.Minute {
			retry.Reset()
		}
		timer := time.NewTimer(retry.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// outage spaces the repetitions of a call that the store has failed: from
// 100 ms to 15 s, jittered, without end.
func outage() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(15*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}
