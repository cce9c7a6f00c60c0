package outhook

import (
	"container/list"
	"context"
	"fmt"
	"iter"
	"sync"
	"time"
)

// MemoryStore is a [Store] in the memory of one process, for tests, for
// services that can afford to lose what waits when they end, and as the reference for
// stores of your own. It implements [Notifier], [StandingStore] and [Manager].
//
// The zero value is ready to use. The fields must not be changed afterwards.
type MemoryStore struct {
	MaxPending       int // pending deliveries in all, more are [ErrFull]; zero: 100,000
	MaxPerSubscriber int // pending deliveries of each subscriber; zero: 10,000

	// MaxSettled bounds how many dead ones are kept, and how many delivered and
	// cancelled ones; the oldest are forgotten. A forgotten event ID can be
	// sent again, and a forgotten dead one no longer holds its order.
	// Zero: 10,000.
	MaxSettled int

	mu      sync.Mutex             // guards all below
	base    time.Time              // instants are counted from here, on the monotonic clock
	lanes   map[string]*memoryLane // of subscribers that have deliveries or a standing
	waiting queue[memoryLane]      // lanes that can be served later, by when
	turns   list.List              // of *memoryLane that can be served now; the front is next
	settled queue[memoryRow]       // delivered and cancelled, by since when
	dead    queue[memoryRow]       // by since when
	count   Stats                  // but for the age
	leased  []*memoryRow           // by the Claim that holds mu
	token   int64
	serial  int64
	held    []memoryHold // keys that wait for the lease of one that was cancelled
	wakers  map[*func()]struct{}
}

var (
	_ Store         = (*MemoryStore)(nil)
	_ Notifier      = (*MemoryStore)(nil)
	_ StandingStore = (*MemoryStore)(nil)
	_ Manager       = (*MemoryStore)(nil)
)

// NewMemoryStore returns an empty store with the default bounds.
func NewMemoryStore() *MemoryStore { return new(MemoryStore) }

// instant is a time on the store's clock, since its base.
type instant = time.Duration

const never instant = 1<<63 - 1

// memoryRow is a delivery. Many may wait, and the garbage collector looks at each of
// their pointers again and again: they have few.
type memoryRow struct {
	lane     *memoryLane
	event    *Delivery // what it has in common with others of its event: no subscriber, no snapshot
	snapshot Snapshot
	past     *memoryPast // nil: none yet

	serial  int64 // in the order of Enqueue
	state   State
	since   instant
	entered instant // enqueued or replayed
	due     instant // of a pending one
	until   instant // the end of a lease that Cancel has ended: a request may be on the wire
	expires instant

	token      int64
	leaseEnd   instant // of the latest token
	live       bool    // the latest token has had no outcome
	attempts   int32   // with an outcome
	unfinished int32   // claims in a row without one
	replay     int32

	index    int32 // in lane.queue, settled or dead
	keyIndex int32 // in key.rows
}

// memoryPast is what a delivery has after its first attempt.
type memoryPast struct {
	history []Attempt
	reason  string
	first   [1]Attempt // of the history: mostly there is no other
}

// begun returns the past, which begins with this call if there was none.
func (r *memoryRow) begun() *memoryPast {
	if r.past == nil {
		r.past = new(memoryPast)
		r.past.history = r.past.first[:0]
	}
	return r.past
}

func (r *memoryRow) id() DeliveryID { return DeliveryID{r.event.ID.Event, r.lane.subscriber} }

// leased reports whether a lease runs.
func (r *memoryRow) leased(now instant) bool { return r.live && now < r.leaseEnd }

// memoryLane is a subscriber.
type memoryLane struct {
	subscriber string
	standing   Standing
	kept       bool                  // the standing says something
	rows       map[string]*memoryRow // by event
	pending    int
	queue      queue[memoryRow]      // what can be claimed when it is due
	keys       map[string]*memoryKey // by OrderKey

	at      instant       // when it can be served next
	index   int32         // in waiting
	element *list.Element // in turns
	request int64         // the claim that given counts for
	given   int
}

// changed is to be called after each change of the standing.
func (l *memoryLane) changed() { l.kept = l.standing != (Standing{Subscriber: l.subscriber}) }

// memoryKey is the order of the deliveries of one OrderKey.
type memoryKey struct {
	rows   queue[memoryRow] // not settled, by serial
	placed *memoryRow       // the one in the lane's queue
	until  instant          // end of the lease of one that was cancelled
}

type memoryHold struct {
	id       DeliveryID
	orderKey string
	until    instant
}

func (s *MemoryStore) init() {
	if s.lanes != nil {
		return
	}
	s.base = time.Now()
	s.lanes = make(map[string]*memoryLane)
	s.wakers = make(map[*func()]struct{})
	s.waiting = queue[memoryLane]{
		less:  func(a, b *memoryLane) bool { return a.at < b.at },
		place: func(l *memoryLane) *int32 { return &l.index },
	}
	s.settled = queue[memoryRow]{
		less:  func(a, b *memoryRow) bool { return a.since < b.since },
		place: func(r *memoryRow) *int32 { return &r.index },
	}
	s.dead = s.settled
}

func (s *MemoryStore) lock() (now instant) {
	s.mu.Lock()
	s.init()
	return time.Since(s.base)
}

func (s *MemoryStore) time(at instant) time.Time { return s.base.Add(at) }

// later returns the instant d after now.
func later(now instant, d time.Duration) instant { return addSaturating(now, max(d, 0)) }

func bound(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

// Enqueue implements [Store].
func (s *MemoryStore) Enqueue(ctx context.Context, deliveries []Delivery) (known []DeliveryID, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := s.lock()
	defer s.mu.Unlock()

	fresh := make(map[string]int, len(deliveries)) // by subscriber
	for i := range deliveries {
		id := deliveries[i].ID
		if row := s.row(id); row == nil {
			fresh[id.Subscriber]++
		} else if row.event.Digest != deliveries[i].Digest {
			return nil, fmt.Errorf("%w: event %q for subscriber %q", ErrConflict, id.Event, id.Subscriber)
		} else {
			known = append(known, id)
		}
	}
	for subscriber, n := range fresh {
		waiting := 0
		if lane := s.lanes[subscriber]; lane != nil {
			waiting = lane.pending
		}
		if limit := bound(s.MaxPerSubscriber, 10_000); waiting+n > limit {
			return nil, fmt.Errorf("%w: subscriber %q has %d deliveries pending of at most %d", ErrFull, subscriber, waiting, limit)
		}
		if limit := bound(s.MaxPending, 100_000); s.count.Pending+len(deliveries)-len(known) > limit {
			return nil, fmt.Errorf("%w: %d deliveries are pending of at most %d, with subscriber %q to be added", ErrFull, s.count.Pending, limit, subscriber)
		}
	}

	var event *Delivery
	for i := range deliveries {
		id := deliveries[i].ID
		if s.row(id) != nil {
			continue
		}
		event = commonOf(&deliveries[i], event)
		lane := s.lane(id.Subscriber)
		s.serial++
		row := &memoryRow{lane: lane, event: event, snapshot: deliveries[i].Snapshot, serial: s.serial, index: -1, keyIndex: -1}
		if lane.rows == nil {
			lane.rows = make(map[string]*memoryRow)
		}
		lane.rows[event.ID.Event] = row
		s.begin(row, now, event.Delay)
		s.refresh(lane, now)
	}
	s.wake()
	return known, nil
}

// commonOf returns what a delivery has in common with others of its event: last, if that is
// the same.
func commonOf(d, last *Delivery) *Delivery {
	common := *d
	common.ID.Subscriber, common.Snapshot = "", Snapshot{}
	if last != nil && *last == common {
		return last
	}
	fresh := common // which alone is on the heap
	return &fresh
}

// row returns a delivery, nil if it is not there.
func (s *MemoryStore) row(id DeliveryID) *memoryRow {
	if lane := s.lanes[id.Subscriber]; lane != nil {
		return lane.rows[id.Event]
	}
	return nil
}

// begin makes a row pending, as if new.
func (s *MemoryStore) begin(row *memoryRow, now instant, delay time.Duration) {
	row.state, row.since, row.entered = Pending, now, now
	row.attempts, row.unfinished, row.live = 0, 0, false
	row.expires = never
	if row.event.TTL > 0 {
		row.expires = later(now, row.event.TTL)
	}
	row.due = max(row.until, min(later(now, delay), row.expires))
	s.count.Pending++
	lane := row.lane
	lane.pending++
	if row.event.OrderKey == "" {
		lane.queue.put(row)
		return
	}
	key := lane.keys[row.event.OrderKey]
	if key == nil {
		key = &memoryKey{rows: queue[memoryRow]{
			less:  func(a, b *memoryRow) bool { return a.serial < b.serial },
			place: func(r *memoryRow) *int32 { return &r.keyIndex },
		}}
		if lane.keys == nil {
			lane.keys = make(map[string]*memoryKey)
		}
		lane.keys[row.event.OrderKey] = key
	}
	key.rows.put(row)
	lane.order(key, now)
}

func (s *MemoryStore) lane(subscriber string) *memoryLane {
	lane := s.lanes[subscriber]
	if lane == nil {
		lane = &memoryLane{subscriber: subscriber, standing: Standing{Subscriber: subscriber}, index: -1}
		lane.queue = queue[memoryRow]{
			less: func(a, b *memoryRow) bool {
				if a.due != b.due {
					return a.due < b.due
				}
				return a.serial < b.serial
			},
			place: func(r *memoryRow) *int32 { return &r.index },
		}
		s.lanes[subscriber] = lane
	}
	return lane
}

// order sees to it that of a key the earliest row alone is in the lane's queue,
// and none but a leased one while that is leased.
func (l *memoryLane) order(key *memoryKey, now instant) {
	head := key.rows.first()
	if p := key.placed; p != nil && p != head {
		if p.leased(now) {
			return
		}
		l.queue.remove(p)
		key.placed = nil
	}
	if head == nil || head.state != Pending {
		return // nothing, or one that is dead and holds
	}
	head.due = max(head.due, key.until)
	key.placed = head
	l.queue.put(head)
}

// refresh puts a lane where it belongs: among the turns, among those that wait,
// or, if it has nothing to say, nowhere.
func (s *MemoryStore) refresh(l *memoryLane, now instant) {
	l.at = never
	if head := l.queue.first(); head != nil {
		l.at = head.due
		if n, next := s.admit(l, now, 1); n == 0 {
			l.at = max(l.at, next)
		}
	}
	switch {
	case l.at <= now:
		s.waiting.remove(l)
		if l.element == nil {
			l.element = s.turns.PushBack(l)
		}
		return
	case l.at < never:
		s.waiting.put(l)
	default:
		s.waiting.remove(l)
		if len(l.rows) == 0 && len(l.keys) == 0 && !l.kept {
			delete(s.lanes, l.subscriber)
		}
	}
	if l.element != nil {
		s.turns.Remove(l.element)
		l.element = nil
	}
}

// admit says how many of want due rows the standing of a lane lets go, and when more.
func (s *MemoryStore) admit(l *memoryLane, now instant, want int) (n int, next instant) {
	if !l.kept {
		return want, never
	}
	n, at := l.standing.Admit(s.time(now), want)
	if at.IsZero() {
		return n, never
	}
	return n, at.Sub(s.base)
}

// Claim implements [Store].
func (s *MemoryStore) Claim(_ context.Context, request ClaimRequest) (Claimed, error) {
	now := s.lock()
	defer s.mu.Unlock()
	for l := s.waiting.first(); l != nil && l.at <= now; l = s.waiting.first() {
		s.refresh(l, now)
	}
	for ; len(s.held) > 0 && s.held[0].until <= now; s.held = s.held[1:] {
		s.release(s.held[0], now)
	}

	s.token++ // also the number of this request
	number := s.token
	room := func(l *memoryLane) int {
		if l.request != number {
			l.request, l.given = number, 0
		}
		room, ok := request.Room[l.subscriber]
		if !ok {
			room = request.PerSubscriber
		}
		return room - l.given
	}

	var claimed Claimed
	hidden := never // the earliest due instant of a row behind suspects
	for passed := 0; len(s.leased) < request.Limit && passed < s.turns.Len(); {
		front := s.turns.Front()
		lane := front.Value.(*memoryLane)
		s.turns.MoveToBack(front)
		var row *memoryRow
		if n, _ := s.admit(lane, now, room(lane)); n > 0 {
			var behind instant
			row, behind = lane.take(now, &request)
			hidden = min(hidden, behind)
			s.refresh(lane, now)
		}
		if row == nil {
			if lane.element != nil {
				passed++ // it keeps its turn for when it has room
			}
			continue
		}
		s.lease(lane, row, now, request.Lease)
		if lane.kept {
			lane.standing.Grant(s.time(now), 1, request.Lease)
			lane.changed()
			if claimed.Standings == nil {
				claimed.Standings = make(map[string]Standing)
			}
			claimed.Standings[lane.subscriber] = lane.standing
		}
		lane.given++
		passed = 0
		s.refresh(lane, now)
	}

	if len(s.leased) < request.Limit {
		if at := min(hidden, s.next(room)); at < never {
			claimed.Next = at - now
		}
	}
	if len(s.leased) > 0 {
		claimed.Claims = make([]Claim, len(s.leased))
		for i, row := range s.leased {
			row.claim(&claimed.Claims[i], now)
		}
		clear(s.leased)
		s.leased = s.leased[:0]
	}
	return claimed, nil
}

// take returns the first row of a lane that is due and that the request has
// room for. If there is none because of suspects, it returns when the first row
// behind them is due.
func (l *memoryLane) take(now instant, request *ClaimRequest) (_ *memoryRow, behind instant) {
	var suspects []*memoryRow
	defer func() {
		for _, row := range suspects {
			l.queue.put(row)
		}
	}()
	for row := l.queue.first(); row != nil && row.due <= now; row = l.queue.first() {
		if key := l.keys[row.event.OrderKey]; key != nil && key.rows.first() != row {
			l.order(key, now) // its lease has ended, and an earlier one was replayed meanwhile
			continue
		}
		if int(row.unfinished) < request.SuspectAfter {
			return row, never
		}
		if request.Suspects > 0 {
			request.Suspects--
			return row, never
		}
		l.queue.remove(row)
		suspects = append(suspects, row)
	}
	if next := l.queue.first(); next != nil && len(suspects) > 0 {
		return nil, next.due
	}
	return nil, never
}

func (s *MemoryStore) lease(l *memoryLane, row *memoryRow, now instant, d time.Duration) {
	s.token++
	row.token, row.live = s.token, true
	row.unfinished++
	row.leaseEnd = later(now, d)
	row.due = row.leaseEnd
	l.queue.put(row)
	s.leased = append(s.leased, row)
}

// claim says what a row was leased as.
func (r *memoryRow) claim(c *Claim, now instant) {
	c.Delivery = *r.event
	c.ID, c.Snapshot = r.id(), r.snapshot
	c.Token = r.token
	c.Attempt, c.Unfinished = int(r.attempts)+1, int(r.unfinished)-1
	c.Replay, c.Age = int(r.replay), now-r.entered
	if r.expires <= now {
		c.Fault = ReasonExpired
	}
}

// next returns when the first lane that has room can be served.
func (s *MemoryStore) next(room func(*memoryLane) int) instant {
	var passed []*memoryLane
	defer func() {
		for _, l := range passed {
			s.waiting.put(l)
		}
	}()
	for l := s.waiting.first(); l != nil; l = s.waiting.first() {
		if room(l) > 0 {
			return l.at
		}
		s.waiting.remove(l)
		passed = append(passed, l)
	}
	return never
}

// Finish implements [Store].
func (s *MemoryStore) Finish(_ context.Context, outcomes []Outcome) (lost []Lease, err error) {
	now := s.lock()
	defer s.mu.Unlock()
	for i := range outcomes {
		o := &outcomes[i]
		row := s.row(o.Lease.ID)
		switch {
		case row == nil || row.token != o.Lease.Token:
			lost = append(lost, o.Lease)
		case row.live:
			s.apply(row, o, now)
		} // else it was applied before
	}
	return lost, nil
}

func (s *MemoryStore) apply(row *memoryRow, o *Outcome, now instant) {
	lane := row.lane
	row.live = false
	past := row.begun()
	past.history = append(past.history, o.Attempts...)
	row.unfinished--
	if !o.Released {
		row.attempts++
		row.unfinished = 0
	}
	if o.Effect != nil {
		lane.standing.Apply(s.time(now), *o.Effect)
		lane.changed()
	}
	if o.State != Pending {
		s.settle(lane, row, o.State, o.Reason, now)
	} else {
		row.due = min(later(now, o.After), row.expires)
		key := lane.keys[row.event.OrderKey]
		if key == nil || key.placed == row {
			lane.queue.put(row)
		}
		if key != nil {
			lane.order(key, now)
		}
		s.wake()
	}
	s.refresh(lane, now)
}

// settle makes a pending row terminal.
func (s *MemoryStore) settle(lane *memoryLane, row *memoryRow, state State, reason string, now instant) {
	lane.pending--
	s.count.Pending--
	row.state, row.since = state, now
	row.begun().reason = reason
	lane.queue.remove(row)
	kept, n := s.kept(state)
	kept.put(row)
	*n++
	if key := lane.keys[row.event.OrderKey]; key != nil {
		if key.placed == row {
			key.placed = nil
		}
		if state == Dead && row.event.HoldOnDead {
			lane.order(key, now) // an earlier one may have been replayed meanwhile
		} else {
			s.leave(lane, key, row, now)
		}
	}
	for kept.len() > bound(s.MaxSettled, 10_000) { // now that nothing takes it for a pending one
		s.forget(kept.first(), now)
	}
}

// release forgets a key that nothing else is in.
func (s *MemoryStore) release(h memoryHold, now instant) {
	lane := s.lanes[h.id.Subscriber]
	if lane == nil {
		return
	}
	if key := lane.keys[h.orderKey]; key != nil && key.rows.len() == 0 && key.until <= now {
		delete(lane.keys, h.orderKey)
		s.refresh(lane, now)
	}
}

// leave takes a row out of the order of its key.
func (s *MemoryStore) leave(lane *memoryLane, key *memoryKey, row *memoryRow, now instant) {
	key.rows.remove(row)
	if key.rows.len() == 0 && key.until <= now {
		delete(lane.keys, row.event.OrderKey)
		return
	}
	lane.order(key, now)
	s.wake()
}

// kept returns where rows of a terminal state are kept, and their number.
func (s *MemoryStore) kept(state State) (*queue[memoryRow], *int) {
	switch state {
	case Delivered:
		return &s.settled, &s.count.Delivered
	case Cancelled:
		return &s.settled, &s.count.Cancelled
	}
	return &s.dead, &s.count.Dead
}

// forget removes a settled row.
func (s *MemoryStore) forget(row *memoryRow, now instant) {
	s.unsettle(row)
	lane := row.lane
	delete(lane.rows, row.event.ID.Event)
	if row.keyIndex != -1 { // it held its key
		s.leave(lane, lane.keys[row.event.OrderKey], row, now)
	}
	s.refresh(lane, now)
}

func (s *MemoryStore) unsettle(row *memoryRow) {
	kept, n := s.kept(row.state)
	kept.remove(row)
	*n--
	row.past.reason = ""
}

// Notify implements [Notifier].
func (s *MemoryStore) Notify(ctx context.Context, wake func()) error {
	s.lock()
	s.wakers[&wake] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.wakers, &wake)
	}()
	wake()
	<-ctx.Done()
	return ctx.Err()
}

func (s *MemoryStore) wake() {
	for wake := range s.wakers {
		(*wake)()
	}
}

// UpdateStandings implements [StandingStore].
func (s *MemoryStore) UpdateStandings(_ context.Context, subscribers []string, update func(time.Time, *Standing)) error {
	now := s.lock()
	defer s.mu.Unlock()
	for _, id := range subscribers {
		lane := s.lane(id)
		update(s.time(now), &lane.standing)
		lane.standing.Subscriber = id
		lane.changed()
		s.refresh(lane, now)
	}
	s.wake()
	return nil
}

// Standings implements [StandingStore].
func (s *MemoryStore) Standings(context.Context) iter.Seq2[Standing, error] {
	return func(yield func(Standing, error) bool) {
		s.lock()
		var kept []Standing
		for _, lane := range s.lanes {
			if lane.kept {
				kept = append(kept, lane.standing)
			}
		}
		s.mu.Unlock()
		for _, standing := range kept {
			if !yield(standing, nil) {
				return
			}
		}
	}
}
