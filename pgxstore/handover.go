package pgxstore

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

const (
	lookEvery = time.Second // how long Claims may follow each other that do not look for what others have stored, if nothing is heard of it
	handTime  = time.Second // how long what is handed over may wait for its Claim
)

// A handover spares most deliveries a claim in the database. A Claim that has found all that
// is due leaves the rest of its room here. Enqueue takes it for what it stores, leases that in
// the same statement, and leaves it to the next Claim, which does not look for anything else
// if it has heard of nothing since the last look. All this happens only while Notify is called:
// when that ends, with the Run that calls it or with its connection, what waits is given back.
//
// While a Claim looks, Enqueue may take the same room, if the last look was soon over and had
// room left: then there is little to find, except of subscribers that had none. If Enqueue had
// to wait, what is stored meanwhile would need another look, and so on without end. If both
// take the same room, what was handed over waits for more.
//
// For the database, such a lease begins with Enqueue. What another process changes after
// that, a standing or by Cancel, comes too late for it. No other process is told of it: each
// looks as often as leases end, for those of one that has died.
type handover struct {
	release  func([]outhook.Claim) // gives leases back
	patience time.Duration         // handTime

	mu       sync.Mutex // guards all below
	wakes    []*func()  // of the calls of Notify
	room     *outhook.ClaimRequest
	reserved []*reservation  // those whose deliveries are being stored
	waiting  []handed        // for the next Claim
	timer    *time.Timer     // calls expire; nil: nothing has waited lately
	looked   time.Time       // when a Claim looked last; zero: it has not found all, or there is more since
	latest   time.Time       // the same, whatever it has found
	calm     bool            // it was soon over, and nothing is known to be due for which there is room
	due      time.Time       // when something will be that it has seen; zero: nothing
	full     map[string]bool // the subscribers for which it had no room left, or one has stored something since and had none
	suspects bool            // it had none left for suspects
	looking  int             // Claims that look
	changes  int             // calls of withdraw
}

// handed is a delivery that is leased, and waits for its Claim.
type handed struct {
	claim  *outhook.Claim // among those that were stored together
	stored time.Time      // or shortly before
	lease  time.Duration  // that its Claim may have
}

// A reservation is the room that an Enqueue has taken.
type reservation struct {
	at        time.Time
	from      *outhook.ClaimRequest // where it has taken it
	leases    []bool                // which deliveries are to be leased; nil: none
	full      map[int]string        // those for whose subscriber, by name, there was no room
	room      map[string]int        // that they take, by subscriber
	lease     time.Duration         // that their Claim may have; the row is leased for longer, by patience
	withdrawn bool                  // none of them is to wait for a Claim
	refused   map[string]bool       // the subscribers of which none is to
}

// reserve takes room for those of deliveries that may be leased at once: that are due and
// have no order to be kept.
func (h *handover) reserve(deliveries []outhook.Delivery) *reservation {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &reservation{at: time.Now()}
	if h.room == nil {
		return r
	}
	r.from, r.leases, r.full, r.room, r.lease = h.room, make([]bool, len(deliveries)), make(map[int]string), make(map[string]int), h.room.Lease
	for i := range deliveries {
		d := &deliveries[i]
		switch subscriber := d.ID.Subscriber; {
		case d.Delay > 0 || d.OrderKey != "":
		case takeRoom(h.room, subscriber):
			r.leases[i] = true
			r.room[subscriber]++
		case roomOf(h.room, subscriber) <= 0:
			r.full[i] = subscriber
		}
	}
	if len(r.room) == 0 {
		r.leases = nil
		return r
	}
	h.reserved = append(h.reserved, r)
	return r
}

// end gives the room of a reservation back, unless it was handed over.
func (h *handover) end(r *reservation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.room == r.from && slices.Contains(h.reserved, r) {
		for subscriber, n := range r.room {
			h.room.Limit += n
			h.room.Room[subscriber] += n
		}
	}
	h.free(r)
}

// free has a reservation count no more for the room of Claims. h.mu is locked.
func (h *handover) free(r *reservation) {
	h.reserved = slices.DeleteFunc(h.reserved, func(other *reservation) bool { return other == r })
}

// hand is called when deliveries were stored, with what was leased of them, and the places of
// the others. It wakes those who claim, and returns what is to be given back.
func (h *handover) hand(r *reservation, leased []outhook.Claim, others []int) (back []outhook.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range others {
		if subscriber, ok := r.full[i]; ok { // it is to be looked for when there is room
			h.fill(subscriber)
		} else {
			h.looked = time.Time{}
		}
	}
	if len(leased) == 0 {
		return nil
	}
	h.free(r)
	var list []handed
	for i := range leased {
		if r.withdrawn || r.refused[leased[i].ID.Subscriber] {
			back = append(back, leased[i])
		} else {
			list = append(list, handed{&leased[i], r.at, r.lease})
		}
	}
	if len(list) == 0 {
		return back
	}
	h.wait(list)
	for _, wake := range h.wakes { // here, so that none is called when Notify has returned
		(*wake)()
	}
	return back
}

// wait has deliveries wait for the next Claim. h.mu is locked.
func (h *handover) wait(list []handed) {
	h.waiting = append(h.waiting, list...)
	if h.timer == nil && len(h.waiting) > 0 {
		h.timer = time.AfterFunc(time.Until(h.waiting[0].stored.Add(h.patience)), h.expire)
	}
}

// expire gives back what no Claim has come for.
func (h *handover) expire() {
	var late []outhook.Claim
	h.mu.Lock()
	h.waiting = slices.DeleteFunc(h.waiting, func(w handed) bool {
		if time.Since(w.stored) < h.patience {
			return false
		}
		late = append(late, *w.claim)
		return true
	})
	h.timer = nil
	h.wait(nil)
	h.mu.Unlock()
	h.release(late)
}

// taken is what a Claim gets.
type taken struct {
	handed []handed        // what has waited for it
	late   []outhook.Claim // what has waited too long for it; to be given back
	at     time.Time       // when: room that was reserved before is not in the request any more
	look   bool            // whether it is to look for more
	shared bool            // not all of its room is for what it may find
	idle   bool            // there is nothing to do, and the room that was left is still there
	next   time.Duration   // until one is to look again, if this one does not, or has not all of its room
	before int             // handover.changes then
}

// take takes the room of the request for what waits, as far as it has it, and for what is
// reserved. The request's Room becomes its own.
func (h *handover) take(request *outhook.ClaimRequest) (t taken) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	t.at, t.before = now, h.changes
	until := h.looked.Add(lookEvery)
	if !h.due.IsZero() && h.due.Before(until) {
		until = h.due
	}
	if t.next = until.Sub(now); len(h.wakes) == 0 || t.next <= 0 {
		t.look, t.next = true, debounce
	}
	t.look = t.look || h.opened(request) || h.suspects && request.Suspects > 0
	if h.looking > 0 { // it may find more than it has room for
		t.next = min(t.next, debounce)
	}
	t.shared = len(h.waiting) > 0 || len(h.reserved) > 0
	if !t.look && len(h.waiting) == 0 && h.room != nil {
		t.idle = true
		return t
	}
	request.Room = ownRoom(*request)
	var rest []handed
	for _, w := range h.waiting {
		age := now.Sub(w.stored)
		switch {
		case age >= h.patience, w.claim.TTL > 0 && age >= w.claim.TTL, // the database knows when it has expired
			request.Lease > w.lease, request.SuspectAfter <= 0:
			t.late = append(t.late, *w.claim)
		case takeRoom(request, w.claim.ID.Subscriber):
			t.handed = append(t.handed, w)
		default:
			rest = append(rest, w)
		}
	}
	h.waiting, h.room = rest, nil
	for _, r := range h.reserved {
		if now.Sub(r.at) < h.patience { // else it will be late
			r.takeRoom(request)
		}
	}
	if t.look = t.look && request.Limit > 0; t.look {
		if h.calm {
			room := *request
			room.Room = ownRoom(room)
			for subscriber := range h.full {
				room.Room[subscriber] = 0
			}
			h.offer(&room)
		}
		h.looked, h.latest, h.full = now, now, nil // before what is stored meanwhile says that there is more
		h.looking++
	}
	return t
}

// opened reports whether a subscriber that had no room has some now, beside what waits and
// what is reserved. h.mu is locked.
func (h *handover) opened(request *outhook.ClaimRequest) bool {
	for subscriber := range h.full {
		room := roomOf(request, subscriber)
		if room <= 0 {
			continue
		}
		for _, w := range h.waiting {
			if w.claim.ID.Subscriber == subscriber {
				room--
			}
		}
		for _, r := range h.reserved {
			room -= r.room[subscriber]
		}
		if room > 0 {
			return true
		}
	}
	return false
}

// offer leaves room to Enqueue, if it may have any. h.mu is locked.
func (h *handover) offer(room *outhook.ClaimRequest) {
	if len(h.wakes) > 0 && room.Limit > 0 && room.SuspectAfter > 0 {
		h.room = room
	}
}

// claims returns what was handed over.
func (t *taken) claims() []outhook.Claim {
	claims := make([]outhook.Claim, len(t.handed))
	for i, w := range t.handed {
		claims[i] = *w.claim
		claims[i].Age = time.Since(w.stored)
	}
	return claims
}

// leave leaves the room that a Claim has left, but for what has taken it meanwhile. all: it
// has found all that it had room for, if it has looked, and next is how long it is until more
// is due.
func (h *handover) leave(t taken, room outhook.ClaimRequest, all bool, next time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.room = nil; t.look {
		h.looking--
		if now := time.Now(); !t.at.Before(h.latest) {
			h.calm = all && now.Sub(t.at) < h.patience/4
			h.suspects = room.Suspects <= 0
			if h.due = (time.Time{}); next > 0 {
				h.due = now.Add(next)
			}
		}
		for subscriber, n := range room.Room {
			if n <= 0 {
				h.fill(subscriber)
			}
		}
		if !all {
			h.looked = time.Time{}
			return
		}
	}
	for _, w := range h.waiting {
		if w.stored.After(t.at) {
			takeRoom(&room, w.claim.ID.Subscriber)
		}
	}
	for _, r := range h.reserved {
		if r.at.After(t.at) {
			r.takeRoom(&room)
		}
	}
	h.offer(&room)
}

// fill says that a subscriber has no room, and perhaps something due. h.mu is locked.
func (h *handover) fill(subscriber string) {
	if h.full == nil {
		h.full = make(map[string]bool)
	}
	h.full[subscriber] = true
}

// fail is called instead of leave, when a Claim has failed to look. What was handed to it
// waits for the next one.
func (h *handover) fail(t taken) (back []outhook.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looked, h.room = time.Time{}, nil
	if t.look {
		h.looking--
		h.calm = false
	}
	if len(h.wakes) == 0 || h.changes != t.before {
		return t.claims()
	}
	h.waiting = slices.Concat(t.handed, h.waiting) // the oldest first
	h.wait(nil)
	return nil
}

// miss says that something may be due that no Claim has looked for.
func (h *handover) miss() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looked = time.Time{}
}

// withdraw returns what waits, of some subscribers or of all, and sees to it that what is
// being stored does not wait either.
func (h *handover) withdraw(subscribers ...string) (back []outhook.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes++
	h.waiting = slices.DeleteFunc(h.waiting, func(w handed) bool {
		gone := len(subscribers) == 0 || slices.Contains(subscribers, w.claim.ID.Subscriber)
		if gone {
			back = append(back, *w.claim)
		}
		return gone
	})
	for _, r := range h.reserved {
		if len(subscribers) == 0 {
			r.withdrawn = true
		}
		for _, subscriber := range subscribers {
			if r.refused == nil {
				r.refused = make(map[string]bool)
			}
			r.refused[subscriber] = true
		}
	}
	if len(subscribers) > 0 {
		return back
	}
	h.reserved, h.room, h.looked = nil, nil, time.Time{}
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	return back
}

// listen is called when Notify begins, and stop when it ends.
func (h *handover) listen(wake *func()) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakes = append(h.wakes, wake)
	h.looked = time.Time{} // what was stored before could not be heard of
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.wakes = slices.DeleteFunc(h.wakes, func(other *func()) bool { return other == wake })
	}
}

// listening reports whether Notify is called.
func (h *handover) listening() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.wakes) > 0
}

// roomOf returns the room of a subscriber.
func roomOf(request *outhook.ClaimRequest, subscriber string) int {
	if room, ok := request.Room[subscriber]; ok {
		return room
	}
	return request.PerSubscriber
}

// takeRoom takes the room for a delivery, if the request has it. Its Room has to be its own.
func takeRoom(request *outhook.ClaimRequest, subscriber string) bool {
	room := roomOf(request, subscriber)
	if request.Limit <= 0 || room <= 0 {
		return false
	}
	request.Limit--
	request.Room[subscriber] = room - 1
	return true
}

// takeRoom takes the room of a request for a reservation, as far as the request has it.
func (r *reservation) takeRoom(request *outhook.ClaimRequest) {
	for subscriber, n := range r.room {
		for range n {
			takeRoom(request, subscriber)
		}
	}
}

// ownRoom returns the room of a request, not to be shared with the caller.
func ownRoom(request outhook.ClaimRequest) map[string]int {
	if request.Room == nil {
		return make(map[string]int)
	}
	return maps.Clone(request.Room)
}

// handOver hands over what an Enqueue has leased.
func (s *Store) handOver(ctx context.Context, r *reservation, fresh *enqueueResult) {
	claims := make([]outhook.Claim, len(fresh.leased))
	places := make(map[outhook.Lease]place, len(fresh.leased))
	for i, l := range fresh.leased {
		l.restore(s.snapshots)
		l.complete(l.claim.ID.Subscriber, fresh.payloads)
		claims[i] = l.claim
		places[l.claim.Lease()] = place{ctid: l.ctid, delivery: l.id, subscriber: fresh.numbers[l.claim.ID.Subscriber]}
	}
	s.places.Keep(places)
	s.release(ctx, s.handover.hand(r, claims, fresh.others))
}

// withdraw gives back what waits to be claimed, of some subscribers or of all, and is not to be.
func (s *Store) withdraw(ctx context.Context, subscribers ...string) {
	s.release(ctx, s.handover.withdraw(subscribers...))
}

// release gives leases back, if it can, that nobody will use, so that their deliveries need
// not wait for the end of them.
func (s *Store) release(ctx context.Context, claims []outhook.Claim) {
	if len(claims) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	outcomes := make([]outhook.Outcome, len(claims))
	for i := range claims {
		outcomes[i] = outhook.Outcome{Lease: claims[i].Lease(), State: outhook.Pending, Released: true}
	}
	for range 2 { // a connection may have been lost
		if _, err := s.Finish(ctx, outcomes); err == nil {
			return
		}
	}
}
