package pgxstore

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

const (
	lookEvery = 20 * time.Millisecond // how long Claims may follow each other that look for nothing
	handTime  = time.Second           // how long what is handed over may wait for its Claim
)

// A handover spares most deliveries a claim in the database. A Claim that has found all that
// is due leaves the rest of its room here. Enqueue takes it for what it stores, leases that in
// the same statement, and leaves it for the next Claim, which has nothing to look for if it
// follows soon. For the database, the lease begins with Enqueue. So that it cannot outlive
// those who would use it, there is room only while Notify is called, and when that ends, what
// waits is given back.
type handover struct {
	mu        sync.Mutex // guards all below
	listeners int        // calls of Notify
	withdrawn int        // how often what waits was given back
	room      *outhook.ClaimRequest
	reserved  map[string]int  // of it, by subscriber, for what is being stored
	looked    time.Time       // when a Claim looked that has found all that it had room for; zero: more may be
	full      map[string]bool // the subscribers that it left no room
	waiting   []handed
}

// handed is a delivery that is leased, and waits for its Claim.
type handed struct {
	claim  outhook.Claim
	stored time.Time // or shortly before
	until  time.Time // when the lease that it has now would be shorter than lease
	lease  time.Duration
}

// A reservation is the room that an Enqueue has taken.
type reservation struct {
	at        time.Time
	withdrawn int            // handover.withdrawn then
	room      map[string]int // by subscriber
	leases    []bool         // which deliveries are to be leased; nil: none
	lease     time.Duration  // for how long they are to be
}

// reserve takes the room for those of deliveries that may be leased at once: they are due,
// and have no order to be kept.
func (h *handover) reserve(deliveries []outhook.Delivery) reservation {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := reservation{at: time.Now(), withdrawn: h.withdrawn}
	if h.room == nil {
		return r
	}
	r.lease = h.room.Lease
	r.leases = make([]bool, len(deliveries))
	r.room = make(map[string]int)
	for i := range deliveries {
		d := &deliveries[i]
		if d.Delay == 0 && d.OrderKey == "" && takeRoom(h.room, d.ID.Subscriber) {
			r.leases[i] = true
			r.room[d.ID.Subscriber]++
		}
	}
	h.count(r.room, 1)
	return r
}

func (h *handover) count(room map[string]int, sign int) {
	if h.reserved == nil {
		h.reserved = make(map[string]int)
	}
	for subscriber, n := range room {
		if h.reserved[subscriber] += sign * n; h.reserved[subscriber] == 0 {
			delete(h.reserved, subscriber)
		}
	}
}

// hand is called when deliveries were stored, with what was leased of them, and whether that
// is all. It returns what is to be given back.
func (h *handover) hand(r reservation, leased []outhook.Claim, all bool) (back []outhook.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count(r.room, -1)
	if !all {
		h.looked = time.Time{}
	}
	if h.withdrawn != r.withdrawn {
		return leased
	}
	for _, c := range leased {
		h.waiting = append(h.waiting, handed{c, r.at, r.at.Add(handTime), r.lease})
	}
	return nil
}

// take returns what waits and the request has room for, which it takes, and what came too
// late. look says whether there may be more.
func (h *handover) take(request *outhook.ClaimRequest) (claims, late []outhook.Claim, look bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, w := range h.waiting {
		c := w.claim
		c.Age = now.Sub(w.stored)
		if c.TTL > 0 && c.Age >= c.TTL && c.Fault == "" {
			c.Fault = outhook.ReasonExpired
		}
		if now.Before(w.until) && request.Lease <= w.lease && request.SuspectAfter > 0 && takeRoom(request, c.ID.Subscriber) {
			claims = append(claims, c)
		} else {
			late = append(late, c)
		}
	}
	for subscriber, n := range h.reserved {
		for range n {
			takeRoom(request, subscriber)
		}
	}
	h.waiting, h.room = nil, nil
	look = h.listeners == 0 || now.Sub(h.looked) >= lookEvery
	for subscriber := range h.full {
		look = look || roomOf(request, subscriber) > 0
	}
	if look {
		h.looked = now
	}
	return claims, late, look
}

// leave leaves the room that a Claim has left, and returns when the next one is to look. all:
// it has found all that was due when it looked.
func (h *handover) leave(room outhook.ClaimRequest, all bool) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full = make(map[string]bool)
	for subscriber, n := range room.Room {
		if n <= 0 {
			h.full[subscriber] = true
		}
	}
	if !all {
		h.looked = time.Time{}
	} else if h.listeners > 0 && room.Limit > 0 && room.SuspectAfter > 0 {
		h.room = &room
	}
	return max(time.Until(h.looked.Add(lookEvery)), time.Millisecond)
}

// listen says that a call of Notify has begun, or has ended.
func (h *handover) listen(begun bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if begun {
		h.listeners++
	} else {
		h.listeners--
	}
}

// withdraw returns what waits, and sees to it that nothing is handed over that is being
// stored. It is called when deliveries may not be claimed any more.
func (h *handover) withdraw() (back []outhook.Claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.withdrawn++
	for _, w := range h.waiting {
		back = append(back, w.claim)
	}
	h.waiting, h.room, h.looked = nil, nil, time.Time{}
	return back
}

// miss says that something may be due that no Claim has found.
func (h *handover) miss() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looked = time.Time{}
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
	var claims []outhook.Claim
	places := make(map[outhook.Lease]place, len(fresh.leased))
	for _, l := range fresh.leased {
		l.restore(s.snapshots)
		l.complete(l.claim.ID.Subscriber, fresh.payloads)
		claims = append(claims, l.claim)
		places[l.claim.Lease()] = place{ctid: l.ctid, delivery: l.id, subscriber: fresh.numbers[l.claim.ID.Subscriber]}
	}
	s.places.Keep(places)
	s.release(ctx, s.handover.hand(r, claims, fresh.waiting == 0))
}

// release gives leases back, if it can, that nobody will use, so that their deliveries need
// not wait for the end of them.
func (s *Store) release(ctx context.Context, claims []outhook.Claim) {
	if len(claims) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var outcomes []outhook.Outcome
	for i := range claims {
		outcomes = append(outcomes, outhook.Outcome{Lease: claims[i].Lease(), State: outhook.Pending, Released: true})
	}
	_, _ = s.Finish(ctx, outcomes)
}
