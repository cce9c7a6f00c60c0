package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/outhook/outhook"
)

func claimDue(t *trial) {
	t.enqueue(t.delivery("delayed", "s", delay(hour)))
	t.events("delivered", "dead", "cancelled", "retried", "leased")
	claims := t.take("delivered", "dead", "cancelled", "retried", "leased")
	t.finish(
		outcome(claims[0], outhook.Delivered), outcome(claims[1], outhook.Dead),
		outcome(claims[2], outhook.Cancelled), retry(claims[3], hour),
	)
	t.none("it is settled, not due, or leased", "delayed", "delivered", "dead", "cancelled", "retried", "leased")

	since := time.Now()
	t.enqueue(t.delivery("soon", "s", delay(t.short())))
	t.exactly(since, t.short(), "soon")
	t.none("it is leased", "soon")

	// Leases end when the request said, each its own.
	t.events("long")
	t.oneFor(2*hour, "long")
	t.events("short")
	since = time.Now()
	t.oneFor(t.short(), "short")
	if t.manages() {
		t.leaseShown(of("long"), 2*hour)
	}
	c := t.exactly(since, t.short(), "short")
	t.none("it is leased for 2 hours", "long")
	t.settles(c, outhook.Delivered)
	if t.exact() {
		t.comes(2*hour-t.short(), "long")
	}
}

// leaseShown checks how a Manager shows a lease that was just given.
func (t *trial) leaseShown(id outhook.DeliveryID, length time.Duration) {
	r := t.get(id)
	t.check(r.Leased && r.State == outhook.Pending, "Get %s: State %s, Leased %v, want a pending one that is leased", id, r.State, r.Leased)
	if now := t.now(); !now.IsZero() && t.exact() {
		t.check(r.Due.Sub(now) == length, "Get %s: the lease ends in %v, want %v", id, r.Due.Sub(now), length)
	}
}

func claimTokens(t *trial) {
	last := make(map[string]int64)
	greater := func(what, name string) outhook.Claim {
		c := t.comesFor(t.short(), 0, name)
		t.check(c.Token > last[name], "%s has token %d %s, want a greater one than %d", name, c.Token, what, last[name])
		last[name] = c.Token
		return c
	}
	t.events("e", "f")
	c := greater("when it is claimed", "e")
	for range 2 {
		t.finish(retry(c, 0))
		c = greater("after an outcome", "e")
		t.finish(release(c))
		greater("after it was released", "e")
		t.pass(t.short())
		c = greater("after its lease has ended", "e")
	}
	if !t.manages() {
		return
	}
	for range 2 {
		t.settles(c, outhook.Dead)
		t.change("Replay", only("e"), 1)
		c = greater("after it was replayed", "e")
		t.settles(c, outhook.Delivered)
		t.change("Prune", only("e"), 1)
		t.events("e")
		c = greater("after it was pruned and enqueued again", "e")
	}
}

func claimCounts(t *trial) {
	t.events("e")
	expect := func(attempt, unfinished int) outhook.Claim {
		c := t.comesFor(t.short(), t.short(), "e")
		t.check(c.Attempt == attempt && c.Unfinished == unfinished,
			"Attempt and Unfinished are %d and %d, want %d and %d", c.Attempt, c.Unfinished, attempt, unfinished)
		t.check(c.Replay == 0, "Replay is %d, want 0", c.Replay)
		return c
	}
	t.finish(retry(expect(1, 0), 0))
	c := expect(2, 0)
	t.finish(retry(c, 0))
	expect(3, 0) // and its lease ends
	expect(3, 1)
	expect(3, 2)
	t.finish(retry(expect(3, 3), 0))
}

func claimRoom(t *trial) {
	room := func(perSubscriber int, rooms map[string]int) func(*outhook.ClaimRequest) {
		return func(r *outhook.ClaimRequest) { r.PerSubscriber, r.Room = perSubscriber, rooms }
	}
	subscribers := []string{"none", "one", "more", "rest"}
	var batch []outhook.Delivery
	for i := range 8 {
		for _, s := range subscribers {
			batch = append(batch, t.delivery(fmt.Sprintf("e%d", i), s))
		}
	}
	t.enqueue(batch...)
	count := func(claims []outhook.Claim) map[string]int {
		n := make(map[string]int)
		for _, c := range claims {
			n[c.ID.Subscriber]++
			t.settles(c, outhook.Delivered)
		}
		return n
	}
	for _, n := range []int{1, 2, 3} {
		claims := t.claim(limit(n)).Claims
		t.check(len(claims) > 0 && len(claims) <= n, "Claim returned %d deliveries, want at most Limit, which is %d", len(claims), n)
		count(claims)
	}
	for _, want := range []map[string]int{
		{"none": 0, "one": 1, "more": 3, "rest": 2},
		{"none": 0, "one": 1, "more": 1, "rest": 2},
		{"none": 0, "one": 0, "more": 0, "rest": 1},
	} {
		rooms := map[string]int{"none": 0, "one": want["one"], "more": want["more"]}
		claims := t.claim(room(want["rest"], rooms)).Claims
		got := count(claims)
		for _, s := range subscribers {
			t.check(got[s] <= want[s], "Claim returned %d deliveries of %q, which has room for %d", got[s], s, want[s])
		}
		t.check(len(claims) > 0, "Claim returned nothing, want what there is room for")
	}
	claims := t.claim(room(0, map[string]int{"one": 1})).Claims
	t.check(len(claims) == 1 && claims[0].ID.Subscriber == "one", "Claim returned %d deliveries, want one of %q, which alone has room", len(claims), "one")
}

func claimSuspects(t *trial) {
	t.events("a", "b", "c")
	for range 2 {
		t.takeFor(t.short(), "a", "b", "c")
		t.pass(t.short())
	}
	t.events("new")
	t.enqueue(t.delivery("late", "s", delay(t.short())))
	claim := func(after, n int) []outhook.Claim {
		claims := t.claim(func(r *outhook.ClaimRequest) { r.SuspectAfter, r.Suspects = after, n }).Claims
		suspects := 0
		for _, c := range claims {
			if c.Unfinished >= after {
				suspects++
			}
			t.finish(release(c))
		}
		t.check(suspects <= n, "Claim returned %d deliveries with Unfinished of %d or more, want at most %d", suspects, after, n)
		t.check(index(claims, "new") >= 0, "Claim did not return new, want it beside the suspects that there is no room for")
		return claims
	}
	for _, after := range []int{1, 2} {
		for n := range 4 {
			claim(after, n)
		}
	}
	claims := claim(3, 0) // none is one
	for _, name := range []string{"a", "b", "c", "new"} {
		t.check(index(claims, name) >= 0, "Claim did not return %s: its leases ended 2 times, and SuspectAfter is 3", name)
	}
	// Those that there is no room for do not hide what falls due behind them.
	t.pass(t.short())
	claims = t.claim(func(r *outhook.ClaimRequest) { r.SuspectAfter, r.Suspects = 2, 0 }).Claims
	t.check(index(claims, "late") >= 0, "Claim did not return late, which is behind suspects that there is no room for")

	// One that there is no room for holds its key, as it is the earliest.
	t.keyed("first", "second")
	t.lapse("first")
	claims = t.claim(func(r *outhook.ClaimRequest) { r.SuspectAfter, r.Suspects = 1, 0 }).Claims
	t.check(index(claims, "first") < 0, "Claim returned first, of which a lease ended, want no suspect")
	t.suspectKeys()
}

// suspectKeys has suspects at the heads of some order keys of a subscriber: they must
// not hide the head of another, even when the room for suspects is used up meanwhile.
func (t *trial) suspectKeys() {
	t.renew()
	for _, s := range []string{"p", "q"} {
		for _, k := range []string{"1", "2", "3"} {
			t.enqueue(t.delivery(s+k, s, key(k)))
		}
	}
	t.takeFor(t.short(), "p1", "p2", "p3", "q1", "q2", "q3")
	t.pass(t.short())
	t.enqueue(t.delivery("p4", "p", key("4")), t.delivery("q4", "q", key("4")))
	for range 20 { // the order of keys, and the place in it, are the store's
		claims := t.claim(func(r *outhook.ClaimRequest) {
			r.PerSubscriber, r.SuspectAfter, r.Suspects = 1, 1, 1
		}).Claims
		for _, to := range []string{"p", "q"} {
			t.check(slices.ContainsFunc(claims, func(c outhook.Claim) bool { return c.ID.Subscriber == to }),
				"Claim returned nothing of %s, which has one at the head of an order key that is no suspect", to)
		}
		for _, c := range claims {
			t.finish(later(release(c), t.short())) // so that others come next
		}
		t.pass(t.short())
	}
}

// A round claims one delivery at a time, and says whose it was.
func (t *trial) round(n int, then func(outhook.Claim) outhook.Outcome, changes ...func(*outhook.ClaimRequest)) (served []string) {
	one := func(r *outhook.ClaimRequest) { r.Limit, r.PerSubscriber = 1, 1 }
	for range n {
		claims := t.claim(append(changes, one)...).Claims
		t.check(len(claims) > 0, "Claim returned nothing, want one of those that wait")
		for _, c := range claims { // more would be for another rule to judge
			t.finish(then(c))
			served = append(served, c.ID.Subscriber)
		}
	}
	return served
}

func distinct(names []string) int { return len(slices.Compact(slices.Sorted(slices.Values(names)))) }

func claimTurns(t *trial) {
	deliver := func(c outhook.Claim) outhook.Outcome { return outcome(c, outhook.Delivered) }
	var batch []outhook.Delivery
	for i := range 200 {
		batch = append(batch, t.delivery(fmt.Sprintf("e%d", i), "hog"))
	}
	t.enqueue(batch...)
	const others = 9
	batch = nil
	for i := range 20 {
		for s := range others {
			batch = append(batch, t.delivery(fmt.Sprintf("e%d", i), fmt.Sprintf("s%d", s)))
		}
	}
	t.enqueue(batch...)

	// One at a time, each has one turn in a round, also after a release.
	for i := range 4 {
		then := deliver
		if i%2 == 1 {
			then = release
		}
		served := t.round(others+1, then)
		t.check(distinct(served) == others+1,
			"in %d claims of one delivery each, %v were served, want each of as many subscribers once", others+1, served)
	}

	// One without room waits, and keeps none waiting.
	served := t.round(others, deliver, func(r *outhook.ClaimRequest) { r.Room = map[string]int{"hog": 0} })
	if !slices.Contains(served, "hog") { // else it is for another rule to judge
		t.check(distinct(served) == others, "%v were served, want each of %d subscribers that have room once", served, others)
		served = t.round(1, deliver)
		t.check(served[0] == "hog", "%s was served, want hog: every other one had a turn since", served[0])
	}

	// One that comes late has its turn before any has a second one.
	t.enqueue(t.delivery("e", "late"))
	served = t.round(others+2, deliver)
	t.check(slices.Contains(served, "late"), "%v were served, want late among them before any of the others is twice", served)

	// In larger claims, none is served two turns while another waits.
	const room = 3
	idle := make(map[string]map[string]int) // by subscriber, what others got since its last turn
	for s := range others {
		idle[fmt.Sprintf("s%d", s)] = make(map[string]int)
	}
	for range 8 {
		claims := t.claim(limit(7), func(r *outhook.ClaimRequest) { r.PerSubscriber = room }).Claims
		for _, c := range claims {
			for _, got := range idle {
				got[c.ID.Subscriber]++
			}
		}
		for _, c := range claims {
			if got := idle[c.ID.Subscriber]; got != nil {
				clear(got)
			}
			t.settles(c, outhook.Delivered)
		}
		for waits, got := range idle {
			for s, n := range got {
				t.check(n <= 2*room, "%s got %d deliveries while %s waited, want no second turn", s, n, waits)
			}
		}
	}

	// In a claim that has room for all, each has a turn.
	claims := t.claim(limit(100), func(r *outhook.ClaimRequest) { r.PerSubscriber = 1 }).Claims
	t.check(len(claims) >= others+1, "Claim returned %d deliveries, want one of each of %d subscribers", len(claims), others+1)
}

func claimFaults(t *trial) {
	t.enqueue(
		t.delivery("expires", "s", ttl(t.short())), t.delivery("first", "s", key("k"), ttl(t.short())),
		t.delivery("lasts", "s", ttl(hour)), t.delivery("forever", "s"),
	)
	if t.exact() {
		t.pass(t.short() - ms)
		for _, c := range t.take("expires", "first", "lasts", "forever") {
			t.check(c.Fault == "", "%s has fault %q, want none: it has not expired", c.ID, c.Fault)
			t.finish(release(c))
		}
		t.pass(ms)
	} else {
		t.pass(t.short())
	}
	claims := t.take("expires", "first", "lasts", "forever")
	for i, c := range claims {
		want := ""
		if i < 2 {
			want = outhook.ReasonExpired
		}
		t.check(c.Fault == want, "%s has fault %q, want %q", c.ID, c.Fault, want)
		t.check(c.Type != "" && c.Payload != nil && c.Snapshot != outhook.Snapshot{}, "%s came back without its type, payload or snapshot, which observers are told of", c.ID)
	}
	// The Dispatcher makes it dead, and the next of its order comes.
	t.enqueue(t.delivery("second", "s", key("k")))
	t.settles(claims[0], outhook.Dead)
	t.settles(claims[1], outhook.Dead)
	c := t.one("second")
	t.check(c.Fault == "", "%s has fault %q, want none", c.ID, c.Fault)

	// One that expires in its lease is found when that has ended.
	t.enqueue(t.delivery("leased", "s", ttl(2*t.short())))
	t.oneFor(3*t.short(), "leased")
	c = t.comes(3*t.short(), "leased")
	t.check(c.Fault == outhook.ReasonExpired, "%s has fault %q, want %q", c.ID, c.Fault, outhook.ReasonExpired)

	if t.Damage == nil {
		t.note("a delivery that cannot be restored: Backend.Damage is nil")
		return
	}
	t.enqueue(
		t.delivery("damaged", "v"), t.delivery("sound", "v"), t.delivery("sound", "w"),
		t.delivery("damaged", "x", key("k")), t.delivery("behind", "x", key("k")),
	)
	for _, to := range []string{"v", "x"} {
		t.must("Damage", t.Damage(t.ctx, outhook.DeliveryID{Event: "damaged", Subscriber: to}))
	}
	claims = t.take("damaged/v", "sound/v", "sound/w", "damaged/x")
	for i, c := range claims {
		damaged := i == 0 || i == 3
		t.check((c.Fault != "") == damaged, "%s has fault %q, want one that says what is wrong if it is damaged", c.ID, c.Fault)
		t.check(c.Attempt == 1 && c.Unfinished == 0, "%s has Attempt %d and Unfinished %d, want 1 and 0", c.ID, c.Attempt, c.Unfinished)
		o := outcome(c, outhook.Dead)
		if damaged {
			o.Reason, o.Attempts = c.Fault, nil
		}
		t.finish(o)
	}
	t.one("behind")
	t.none("it is dead", "damaged/v", "damaged/x")
}
