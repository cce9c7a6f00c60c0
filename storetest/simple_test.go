package storetest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"iter"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

// A fault is a defect of a simple store, named by what it does wrong.
type fault string

// simple is a handle on a store as simple as can be: a slice that is scanned
// under a mutex, with one defect or none.
type simple struct {
	*simpleDB
	ahead time.Duration  // of the handle's own clock, with the fault that it counts
	own   map[string]int // turns, with the fault that they are the handle's own
}

type simpleDB struct {
	fault fault
	base  time.Time

	mu        sync.Mutex     // guards all below
	frozen    bool           // the clock, which then is at
	at        time.Duration  // since base
	rows      []*simpleRow   // in the order of Enqueue
	served    map[string]int // by subscriber: its last turn
	turn      int
	standings map[string]outhook.Standing
	holds     map[[2]string]time.Duration // by subscriber and key: end of the lease of a cancelled one
	damaged   map[outhook.DeliveryID]bool
	token     int64
	wakers    map[*func()]bool
	blockedBy *simple // the handle that has kept a lock
}

const never time.Duration = math.MaxInt64

// simpleRow is a delivery. Instants are counted from base.
type simpleRow struct {
	*outhook.Delivery
	state                             outhook.State
	reason                            string
	since, entered, expires, due, end time.Duration // end: of the lease
	until                             time.Duration // end of a lease that was cancelled
	token                             int64
	live                              bool
	attempts, unfinished, replay      int
	history                           []outhook.Attempt
	dropped                           bool // by a fault
}

func newSimple(f fault) *simpleDB {
	return &simpleDB{
		fault: f, base: time.Now(),
		served: map[string]int{}, standings: map[string]outhook.Standing{}, holds: map[[2]string]time.Duration{},
		damaged: map[outhook.DeliveryID]bool{}, wakers: map[*func()]bool{},
	}
}

func (s *simple) now() time.Duration {
	now := s.at
	if !s.frozen {
		now = time.Since(s.base)
	}
	if s.fault == "clock of the caller" {
		now += s.ahead
	}
	return now
}

func (s *simpleDB) sleep(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at += d
}

func (s *simpleDB) damage(_ context.Context, id outhook.DeliveryID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damaged[id] = true
	return nil
}

func (s *simpleDB) row(id outhook.DeliveryID) *simpleRow {
	i := slices.IndexFunc(s.rows, func(r *simpleRow) bool { return r.ID == id })
	if i < 0 {
		return nil
	}
	return s.rows[i]
}

func (s *simpleDB) wake() {
	for wake := range s.wakers {
		(*wake)()
	}
}

func add(a, b time.Duration) time.Duration {
	if a > never-b {
		return never
	}
	return a + b
}

func (s *simple) Enqueue(ctx context.Context, deliveries []outhook.Delivery) (known []outhook.DeliveryID, err error) {
	if s.blockedBy != nil && s.blockedBy != s {
		time.Sleep(time.Hour)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blockedBy = nil
	if err := ctx.Err(); err != nil {
		if s.fault == "lock kept by a cancelled call" {
			s.blockedBy = s
		}
		return nil, err
	}
	if s.fault != "half of a batch stored before a conflict" {
		for i := range deliveries {
			if row := s.row(deliveries[i].ID); row != nil && row.Digest != deliveries[i].Digest && s.fault != "conflict not noticed" {
				return nil, outhook.ErrConflict
			}
		}
	}
	for i := range deliveries {
		d := deliveries[i]
		if row := s.row(d.ID); row == nil {
			row = &simpleRow{Delivery: &d}
			switch s.fault {
			case "caller's slice kept":
				row.Delivery = &deliveries[i]
			case "time counted in nanoseconds": // which overflow in distant years
				d.Time = time.Unix(0, d.Time.UnixNano())
			case "body cut at a zero byte":
				body, _, _ := bytes.Cut(d.Payload.Body, []byte{0})
				d.Payload = &outhook.Payload{ContentType: d.Payload.ContentType, Header: d.Payload.Header, Body: body}
			}
			s.begin(row, d.Delay)
			s.rows = append(s.rows, row)
			continue
		} else if row.Digest != d.Digest && s.fault != "conflict not noticed" {
			return nil, outhook.ErrConflict
		} else if s.fault == "settled one revived by Enqueue" && row.state != outhook.Pending {
			s.begin(row, 0)
		}
		if s.fault != "known ones not named" {
			known = append(known, d.ID)
		}
	}
	s.wake()
	return known, nil
}

// begin makes a row pending, as if new.
func (s *simple) begin(r *simpleRow, delay time.Duration) {
	now := s.now()
	if r.replay == 0 || s.fault != "old expiry kept by Replay" {
		r.expires = never
		if r.TTL > 0 {
			r.expires = add(now, r.TTL)
		}
	}
	if s.fault != "counts kept by Replay" {
		r.attempts, r.unfinished = 0, 0
	}
	r.state, r.reason, r.since, r.entered, r.live = outhook.Pending, "", now, now, false
	r.dropped = false
	r.due = min(add(now, delay), r.expires)
	if s.fault != "lease of a cancelled one forgotten by Replay" {
		r.due = max(r.due, r.until)
	}
}

func (r *simpleRow) leased(now time.Duration) bool {
	return r.state == outhook.Pending && r.live && now < r.end
}

// from returns the instant from which a row can be claimed if only time passes
// and its subscriber has that standing.
func (s *simple) from(r *simpleRow, now time.Duration, standing outhook.Standing) time.Duration {
	if r.state != outhook.Pending {
		return never
	}
	at := r.due
	if r.OrderKey != "" {
		at = max(at, s.holds[[2]string{r.ID.Subscriber, r.OrderKey}])
		earlier := true
		for _, other := range s.rows {
			if other == r {
				earlier = false
				continue
			}
			same := other.ID.Subscriber == r.ID.Subscriber && other.OrderKey == r.OrderKey
			if s.fault == "orders that run together" {
				same = other.ID.Subscriber+other.OrderKey == r.ID.Subscriber+r.OrderKey
			}
			if !same {
				continue
			}
			holds := other.state == outhook.Pending || other.state == outhook.Dead && other.HoldOnDead
			if s.fault == "dead one that holds passed by" {
				holds = other.state == outhook.Pending
			}
			if earlier && holds && s.fault != "earlier one that is not due passed by" {
				return never
			}
			if other.leased(now) && s.fault != "earlier one beside the lease of a later one" {
				at = max(at, other.end)
			}
			if earlier && other.leased(now) { // by either
				at = max(at, other.end)
			}
		}
	}
	if n, next := standing.Admit(s.base.Add(now), 1); n == 0 {
		if next.IsZero() {
			return never
		}
		at = max(at, next.Sub(s.base))
	}
	return at
}

// claimable reports whether a row can be claimed now.
func (s *simple) claimable(r *simpleRow, now time.Duration) bool {
	standing := s.standings[r.ID.Subscriber]
	switch s.fault {
	case "pause ignored":
		if standing.Trips == 0 {
			standing.PausedUntil = time.Time{}
		}
	case "no lease":
		if n, _ := standing.Admit(s.base.Add(now), 1); n > 0 && r.state == outhook.Pending && r.live {
			return true
		}
	case "given up after 5 lapses":
		if r.unfinished >= 5 {
			return false
		}
	case "retry dropped":
		if r.dropped {
			return false
		}
	case "expired one never returned":
		if r.expires <= now && r.attempts == 0 {
			return false
		}
	case "poisoned head":
		for _, other := range s.rows {
			if other.ID.Subscriber == r.ID.Subscriber && other.state == outhook.Pending && s.damaged[other.ID] {
				return false
			}
		}
	}
	return s.from(r, now, standing) <= now
}

func (s *simple) Claim(ctx context.Context, request outhook.ClaimRequest) (outhook.Claimed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return outhook.Claimed{}, err
	}
	now := s.now()
	given := map[string]int{}
	suspects := 0
	room := func(r *simpleRow) bool {
		n, ok := request.Room[r.ID.Subscriber]
		if !ok {
			n = request.PerSubscriber
		}
		return given[r.ID.Subscriber] < n
	}
	doubtful := func(r *simpleRow) bool {
		return r.unfinished >= request.SuspectAfter && suspects >= request.Suspects && s.fault != "suspects ignored"
	}
	limit := request.Limit
	if s.fault == "one more than the limit" {
		limit++
	}
	var claimed outhook.Claimed
	leased := map[*simpleRow]bool{} // by this call
	for len(claimed.Claims) < limit {
		var next *simpleRow
		for _, r := range s.rows {
			if leased[r] || !room(r) && s.fault != "room ignored" || doubtful(r) || !s.claimable(r, now) {
				continue
			}
			if next == nil || s.before(r, next) {
				next = r
			}
		}
		if next == nil {
			break
		}
		leased[next] = true
		if s.fault == "claims that overlap" {
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
		}
		if next.unfinished >= request.SuspectAfter {
			suspects++
		}
		given[next.ID.Subscriber]++
		s.turn++
		s.turns()[next.ID.Subscriber] = s.turn
		claimed.Claims = append(claimed.Claims, s.lease(next, now, request.Lease))
		s.grant(next.ID.Subscriber, now, request.Lease)
		if kept, ok := s.standings[next.ID.Subscriber]; ok {
			if claimed.Standings == nil {
				claimed.Standings = map[string]outhook.Standing{}
			}
			claimed.Standings[next.ID.Subscriber] = kept
		}
	}
	if len(claimed.Claims) < request.Limit {
		at := never
		for _, r := range s.rows {
			if room(r) && !doubtful(r) {
				at = min(at, s.from(r, now, s.standings[r.ID.Subscriber]))
			}
		}
		if at < never {
			claimed.Next = at - now
			switch s.fault {
			case "Next too early":
				claimed.Next /= 2
			case "Next too late":
				claimed.Next += time.Second
			}
		}
	}
	return claimed, nil
}

// turns returns the last turn of each subscriber.
func (s *simple) turns() map[string]int {
	if s.fault == "turns of each handle" {
		if s.own == nil {
			s.own = map[string]int{}
		}
		return s.own
	}
	return s.served
}

// before reports whether a has its turn before b.
func (s *simple) before(a, b *simpleRow) bool {
	if x, y := s.turns()[a.ID.Subscriber], s.turns()[b.ID.Subscriber]; x != y && s.fault != "no turns" {
		return x < y
	}
	return a.due < b.due
}

func (s *simple) lease(r *simpleRow, now, length time.Duration) outhook.Claim {
	s.token++
	switch s.fault {
	case "tokens shrink":
		r.token = 1<<40 - s.token
	case "tokens restart after Prune":
		r.token++
	default:
		r.token = s.token
	}
	c := outhook.Claim{
		Delivery: *r.Delivery, Token: r.token, Attempt: r.attempts + 1, Unfinished: r.unfinished,
		Replay: r.replay, Age: now - r.entered,
	}
	if s.fault == "lapses counted as attempts" {
		c.Attempt += r.unfinished
	}
	if s.damaged[r.ID] && s.fault != "damage not noticed" {
		c.Payload, c.Snapshot, c.Fault = nil, outhook.Snapshot{}, "its payload cannot be read"
	} else if r.expires <= now {
		c.Fault = outhook.ReasonExpired
	}
	r.live, r.end = true, add(now, length)
	r.due = r.end
	r.unfinished++
	return c
}

func (s *simple) Finish(ctx context.Context, outcomes []outhook.Outcome) (lost []outhook.Lease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		if s.fault == "lease forgotten by a call that fails" {
			for _, o := range outcomes {
				if r := s.row(o.Lease.ID); r != nil {
					r.token = -1
				}
			}
		}
		return nil, err
	}
	for i := range outcomes {
		o := &outcomes[i]
		r := s.row(o.Lease.ID)
		switch {
		case r == nil, r.token != o.Lease.Token && (s.fault != "no fence" || !r.live),
			r.live && s.now() >= r.end && s.fault == "ended lease refused":
			lost = append(lost, o.Lease)
			if s.fault == "effect of a lost outcome applied" && r != nil && o.Effect != nil {
				s.affect(r, o)
			}
			if s.fault == "others dropped beside a lost outcome" {
				return lost, nil
			}
		case r.live:
			s.apply(r, o)
		case s.fault == "applied outcome reported as lost":
			lost = append(lost, o.Lease)
		}
	}
	s.wake()
	return lost, nil
}

func (s *simple) grant(id string, now, lease time.Duration) {
	standing, ok := s.standings[id]
	if ok && s.fault != "grants dropped" {
		standing.Grant(s.base.Add(now), 1, lease)
		s.keep(standing)
	}
}

func (s *simple) affect(r *simpleRow, o *outhook.Outcome) {
	id := r.ID.Subscriber
	standing := cmp.Or(s.standings[id], outhook.Standing{Subscriber: id})
	standing.Apply(s.base.Add(s.now()), *o.Effect)
	s.keep(standing)
}

func (s *simple) keep(standing outhook.Standing) {
	if standing == (outhook.Standing{Subscriber: standing.Subscriber}) {
		delete(s.standings, standing.Subscriber)
	} else {
		s.standings[standing.Subscriber] = standing
	}
}

func (s *simple) apply(r *simpleRow, o *outhook.Outcome) {
	now := s.now()
	r.live = false
	r.history = append(r.history, o.Attempts...)
	if s.fault == "text made valid UTF-8" {
		for i := range r.history {
			r.history[i].Error = strings.ToValidUTF8(r.history[i].Error, "?")
		}
	}
	if o.Effect != nil && s.fault != "effects dropped" {
		s.affect(r, o)
	}
	if o.Released {
		r.unfinished--
		switch s.fault {
		case "counts reset by a release":
			r.unfinished = 0
		case "attempt burnt by a release":
			r.attempts++
		}
	} else {
		r.attempts++
		if s.fault == "records counted as attempts" {
			r.attempts += len(o.Attempts) - 1
		}
		if r.unfinished--; s.fault != "lapses kept by an outcome" {
			r.unfinished = 0
		}
	}
	if o.State != outhook.Pending {
		r.state, r.reason, r.since = o.State, o.Reason, now
		return
	}
	r.due = min(add(now, o.After), r.expires)
	if s.fault == "due beyond the expiry" {
		r.due = add(now, o.After)
	}
	r.dropped = o.After > 0 && !o.Released
}

func (s *simple) Notify(ctx context.Context, wake func()) error {
	s.mu.Lock()
	s.wakers[&wake] = true
	s.mu.Unlock()
	wake()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.wakers, &wake)
	return ctx.Err()
}

func (s *simple) UpdateStandings(ctx context.Context, subscribers []string, update func(time.Time, *outhook.Standing)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := ctx.Err() // once: what has begun is done wholly
	switch {
	case err != nil && s.fault == "half of a cancelled call done":
		subscribers = subscribers[:len(subscribers)/2]
	case err != nil:
		return err
	}
	for _, id := range subscribers {
		standing := cmp.Or(s.standings[id], outhook.Standing{Subscriber: id})
		now := s.base.Add(s.now())
		if s.fault == "change of a standing lost" {
			s.mu.Unlock()
			runtime.Gosched()
		}
		update(now, &standing)
		if s.fault == "change of a standing lost" {
			s.mu.Lock()
		}
		s.keep(standing)
	}
	s.wake()
	return err
}

func (s *simple) Standings(context.Context) iter.Seq2[outhook.Standing, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []outhook.Standing
	for _, standing := range s.standings {
		kept = append(kept, standing)
	}
	return func(yield func(outhook.Standing, error) bool) {
		for _, standing := range kept {
			if !yield(standing, nil) {
				return
			}
		}
	}
}

func (s *simple) record(r *simpleRow) outhook.Record {
	record := outhook.Record{
		ID: r.ID, Type: r.Type, Time: r.Time, OrderKey: r.OrderKey, Payload: r.Payload,
		State: r.state, Reason: r.reason, Since: s.base.Add(r.since), Leased: r.leased(s.now()), Replay: r.replay,
	}
	if r.state == outhook.Pending || s.fault == "settled one shown as due" {
		record.Due = s.base.Add(r.due)
	}
	return record
}

func (s *simple) Get(_ context.Context, id outhook.DeliveryID) (outhook.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.row(id)
	if r == nil {
		return outhook.Record{}, outhook.ErrNotFound
	}
	record := s.record(r)
	record.Attempts = slices.Clone(r.history)
	return record, nil
}

func (s *simple) List(_ context.Context, f outhook.Filter) iter.Seq2[outhook.Record, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var records []outhook.Record
	for _, r := range s.find(f) {
		records = append(records, s.record(r))
	}
	return func(yield func(outhook.Record, error) bool) {
		for _, record := range records {
			if !yield(record, nil) {
				return
			}
		}
	}
}

func (s *simple) find(f outhook.Filter, states ...outhook.State) (found []*simpleRow) {
	for _, r := range s.rows {
		age := s.now() - r.since
		if (f.Event == "" || f.Event == r.ID.Event) && (f.Subscriber == "" || f.Subscriber == r.ID.Subscriber) &&
			(f.Type == "" || f.Type == r.Type) && (len(f.States) == 0 || slices.Contains(f.States, r.state)) &&
			(states == nil || slices.Contains(states, r.state)) &&
			(age >= f.OlderThan || s.fault == "age ignored by a filter") && (f.NewerThan == 0 || age <= f.NewerThan) && (f.Limit == 0 || len(found) < f.Limit) {
			found = append(found, r)
		}
	}
	return found
}

func (s *simple) Replay(_ context.Context, f outhook.Filter) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(f.States) == 0 {
		f.States = []outhook.State{outhook.Dead, outhook.Cancelled}
	}
	found := s.find(f, outhook.Delivered, outhook.Dead, outhook.Cancelled)
	for _, r := range found {
		s.token++
		if s.fault != "tokens restart after Prune" && s.fault != "tokens shrink" {
			r.token = s.token
		}
		r.replay++
		if s.fault == "held order freed by Replay" {
			delete(s.holds, [2]string{r.ID.Subscriber, r.OrderKey})
		}
		s.begin(r, 0)
	}
	s.wake()
	return len(found), nil
}

func (s *simple) Cancel(_ context.Context, f outhook.Filter) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := []outhook.State{outhook.Pending}
	if s.fault == "settled one cancelled" {
		states = append(states, outhook.Dead)
	}
	found := s.find(f, states...)
	for _, r := range found {
		if r.leased(s.now()) {
			r.until = r.end
			if s.fault != "order freed by Cancel" {
				s.holds[[2]string{r.ID.Subscriber, r.OrderKey}] = r.end
			}
		}
		r.state, r.reason, r.since = outhook.Cancelled, outhook.ReasonCancelled, s.now()
		if s.fault != "token kept by Cancel" {
			s.token++
			r.token, r.live = r.token+1, false
		}
	}
	if s.fault != "no wake after Cancel" {
		s.wake()
	}
	return len(found), nil
}

func (s *simple) Prune(_ context.Context, f outhook.Filter) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := []outhook.State{outhook.Delivered, outhook.Dead, outhook.Cancelled}
	if s.fault == "pending one pruned" {
		states = append(states, outhook.Pending)
	}
	found := s.find(f, states...)
	s.rows = slices.DeleteFunc(s.rows, func(r *simpleRow) bool { return slices.Contains(found, r) })
	s.wake()
	return len(found), nil
}

func (s *simple) Stats(context.Context) (stats outhook.Stats, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		switch r.state {
		case outhook.Pending:
			stats.Pending++
			at := s.from(r, s.now(), outhook.Standing{}) // what is paused counts
			if s.fault == "leased one counted as overdue" {
				at = r.entered
			}
			if at < never {
				stats.OldestDue = max(stats.OldestDue, s.now()-at)
			}
		case outhook.Delivered:
			stats.Delivered++
		case outhook.Dead:
			stats.Dead++
		case outhook.Cancelled:
			stats.Cancelled++
		default:
			return stats, errors.New("a state that there is not")
		}
	}
	return stats, nil
}

func (s *simple) Backlogs(context.Context) iter.Seq2[outhook.Backlog, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := map[string]outhook.Backlog{}
	for _, r := range s.rows {
		if r.state != outhook.Pending {
			continue
		}
		b := of[r.ID.Subscriber]
		b.Subscriber = r.ID.Subscriber
		b.Pending++
		at := s.from(r, s.now(), outhook.Standing{})
		if s.fault == "leased one counted as overdue" {
			at = r.entered
		}
		if at < never {
			b.OldestDue = max(b.OldestDue, s.now()-at)
		}
		of[b.Subscriber] = b
	}
	return func(yield func(outhook.Backlog, error) bool) {
		for _, b := range of {
			if !yield(b, nil) {
				return
			}
		}
	}
}
