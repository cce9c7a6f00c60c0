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
	lookEvery = debounce    // how long Claims may follow each other that do not look for what others have stored
	handTime  = time.Second // how long what is handed over may wait for its Claim
)

// A handover spares most deliveries a claim in the database. A Claim that has found all that
// is due leaves the rest of its room here. Enqueue takes it for what it stores, leases that in
// the same statement, and leaves it to the next Claim, which does not look for anything else
// if the last look is not long ago. All this happens only while Notify is called: when that
// ends, the Dispatcher is about to stop, and what waits is given back.
//
// For the database, such a lease begins with Enqueue. What somebody else changes after that,
// a standing or by Cancel, comes too late for it.
type handover struct {
	release func([]outhook.Claim) // gives leases back

	mu        sync.Mutex // guards all below
	listeners int        // calls of Notify
	withdrawn int        // how often what waits was given back
	room      *outhook.ClaimRequest
	reserved  map[string]int  // room that was taken for what is being stored, by subscriber
	waiting   []handed        // for the next Claim
	timer     *time.Timer     // calls expire; nil: nothing has waited lately
	looked    time.Time       // when a Claim looked last; zero: it has not found all, or there is more since
	full      map[string]bool // the subscribers for which it had no room left
}

// handed is a delivery that is leased, and waits for its Claim.
type handed struct {
	claim  *outhook.Claim // among those that were stored together
	stored time.Time      // or shortly before
	lease  time.Duration
}

// A reservation is the room that an Enqueue has taken.
type reservation struct {
	at        time.Time
	withdrawn int            // handover.withdrawn then
	leases    []bool         // which deliveries are to be leased; nil: none
	room      map[string]int // that they take, by subscriber
	lease     time.Duration  // that their Claim has to have; the row is leased for handTime more
}

// reserve takes room for those of deliveries that may be leased at once: that are due and
// have no order to be kept.
func (h *handover) reserve(deliveries []outhook.Delivery) reservation {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := reservation{at: time.Now(), withdrawn: h.withdrawn}
	if h.room == nil {
		return r
	}
	r.leases, r.room, r.lease = make([]bool, len(deliveries)), make(map[string]int), h.room.Lease
	for i := range deliveries {
		d := &deliveries[i]
		if d.Delay <= 0 && d.OrderKey == "" && takeRoom(h.room, d.ID.Subscriber) {
			r.leases[i] = true
			r.room[d.ID.Subscriber]++
			h.reserved[d.ID.Subscriber]++
		}
	}
	return r
}

// end gives the room of a reservation back.
func (h *handover) end(r reservation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for subscriber, n := range r.room {
		if h.reserved[subscriber] -= n; h.reserved[subscriber] == 0 {
			delete(h.reserved, subscriber)
		}
	}
}

// hand is called when deliveries were stored, with what was leased of them, and whether that
// is all. It returns what is to be given back.
func (h *handover) hand(r reservation, leased []outhook.Claim, all bool) (back []outhook.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !all {
		h.looked = time.Time{}
	}
	if h.withdrawn != r.withdrawn {
		return leased
	}
	for i := range leased {
		h.waiting = append(h.waiting, handed{&leased[i], r.at, r.lease})
	}
	if h.timer == nil && len(h.waiting) > 0 {
		h.timer = time.AfterFunc(handTime, h.expire)
	}
	return nil
}

// expire gives back what no Claim has come for.
func (h *handover) expire() {
	var late []outhook.Claim
	h.mu.Lock()
	h.waiting = slices.DeleteFunc(h.waiting, func(w handed) bool {
		if time.Since(w.stored) < handTime {
			return false
		}
		late = append(late, *w.claim)
		return true
	})
	if h.timer = nil; len(h.waiting) > 0 {
		h.timer = time.AfterFunc(handTime, h.expire)
	}
	h.mu.Unlock()
	h.release(late)
}

// taken is what a Claim gets.
type taken struct {
	claims []outhook.Claim // that have waited for it
	late   []outhook.Claim // too long, or in vain; to be given back
	look   bool            // for more
	idle   bool            // there is nothing to do, and the room that was left is still there
	shared bool            // not all of its room is for what it may find
}

// take returns what waits, for which it takes the room of the request, whose Room becomes its
// own.
func (h *handover) take(request *outhook.ClaimRequest) (t taken) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	t.look = h.listeners == 0 || now.Sub(h.looked) >= lookEvery
	for subscriber := range h.full {
		t.look = t.look || roomOf(request, subscriber) > 0
	}
	if t.shared = len(h.waiting) > 0 || len(h.reserved) > 0; !t.look && len(h.waiting) == 0 && h.room != nil {
		t.idle = true
		return t
	}
	request.Room = ownRoom(*request)
	t.claims = make([]outhook.Claim, 0, len(h.waiting))
	for _, w := range h.waiting {
		c := *w.claim
		c.Age = now.Sub(w.stored)
		if c.TTL > 0 && c.Age >= c.TTL && c.Fault == "" {
			c.Fault = outhook.ReasonExpired
		}
		if c.Age < handTime && request.Lease <= w.lease && request.SuspectAfter > 0 && takeRoom(request, c.ID.Subscriber) {
			t.claims = append(t.claims, c)
		} else {
			t.late = append(t.late, c)
		}
	}
	for subscriber, n := range h.reserved {
		for range n {
			takeRoom(request, subscriber)
		}
	}
	clear(h.waiting)
	h.waiting, h.room = h.waiting[:0], nil
	if t.look = t.look && request.Limit > 0; t.look {
		h.looked = now // before what is stored meanwhile says that there is more
	}
	return t
}

// leave leaves the room that a Claim has left. all: it has found all that it had room for,
// if it has looked.
func (h *handover) leave(room outhook.ClaimRequest, looked, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if looked {
		h.full = make(map[string]bool)
		for subscriber, n := range room.Room {
			if n <= 0 {
				h.full[subscriber] = true
			}
		}
	}
	if looked && !all {
		h.looked = time.Time{}
	} else if h.listeners > 0 && room.Limit > 0 && room.SuspectAfter > 0 {
		h.room = &room
	}
}

// miss says that something may be due that no Claim has looked for.
func (h *handover) miss() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looked = time.Time{}
}

// withdraw returns what waits, and sees to it that what is being stored is given back, too.
func (h *handover) withdraw() (back []outhook.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.withdrawn++
	for _, w := range h.waiting {
		back = append(back, *w.claim)
	}
	h.waiting, h.room, h.looked = nil, nil, time.Time{}
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	return back
}

// listen counts the calls of Notify.
func (h *handover) listen(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners += n
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

// ownRoom returns the room of a request, not to be shared with the caller.
func ownRoom(request outhook.ClaimRequest) map[string]int {
	if request.Room == nil {
		return make(map[string]int)
	}
	return maps.Clone(request.Room)
}

// handOver hands over what an Enqueue has leased.
func (s *Store) handOver(ctx context.Context, r reservation, fresh *enqueueResult) {
	claims := make([]outhook.Claim, len(fresh.leased))
	places := make(map[outhook.Lease]place, len(fresh.leased))
	for i, l := range fresh.leased {
		l.restore(s.snapshots)
		l.complete(l.claim.ID.Subscriber, fresh.payloads)
		claims[i] = l.claim
		places[l.claim.Lease()] = place{ctid: l.ctid, delivery: l.id, subscriber: fresh.numbers[l.claim.ID.Subscriber]}
	}
	s.places.Keep(places)
	s.release(ctx, s.handover.hand(r, claims, fresh.waiting == 0))
}

// withdraw gives back what waits to be claimed, and is not to be.
func (s *Store) withdraw(ctx context.Context) { s.release(ctx, s.handover.withdraw()) }

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
	_, _ = s.Finish(ctx, outcomes)
}
