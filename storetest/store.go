package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/outhook/outhook"
)

func storeClock(t *trial) {
	// What a caller says of time is data.
	const decade = 10 * 365 * 24 * hour
	at := func(when time.Time) func(*outhook.Delivery) {
		return func(d *outhook.Delivery) { d.Time = when }
	}
	past, future := time.Now().Add(-decade), time.Now().Add(decade)
	t.enqueue(t.delivery("past", "s", at(past), ttl(hour)), t.delivery("future", "s", at(future), ttl(hour)))
	for _, c := range t.take("past", "future") {
		t.check(c.Fault == "", "%s has fault %q, want none: it expires an hour after Enqueue, not after its Time", c.ID, c.Fault)
		t.check(c.Age < hour, "the Age of %s is %v, want that since Enqueue, not since its Time", c.ID, c.Age)
		o := retry(c, 0)
		o.Attempts[0].Time = future
		t.finish(o)
	}
	for _, c := range t.take("past", "future") {
		t.settles(c, outhook.Delivered)
	}

	if t.Other == nil {
		t.note("two handles whose callers' clocks differ: Backend.Other is nil")
		return
	}
	// The machines of two handles may be minutes apart: the store is not.
	for i, pair := range [][2]*trial{{t, t.other()}, {t.other(), t}} {
		a, b := pair[0], pair[1]
		name := func(event string) string { return event + []string{"1", "2"}[i] }
		const d = 5 * time.Minute
		a.enqueue(t.delivery(name("delayed"), "s", delay(d)))
		b.none("the other handle enqueued it with a Delay", name("delayed"))
		a.enqueue(t.delivery(name("now"), "s"), t.delivery(name("expires"), "s", ttl(d)))
		claims := b.take(name("now"), name("expires"))
		for _, c := range claims {
			t.check(c.Age <= patience && c.Age >= -ms, "the Age of %s is %v, though it was just enqueued by the other handle", c.ID, c.Age)
			t.check(c.Fault == "", "%s has fault %q, though it was just enqueued by the other handle and expires in %v", c.ID, c.Fault, d)
		}
		b.finish(later(release(claims[0]), d), outcome(claims[1], outhook.Delivered))
		a.none("the other handle made it due in 5 minutes", name("now"))
		if t.exact() {
			a.pass(d)
			a.take(name("now"), name("delayed"))
		}
	}
}

func storeClaimable(t *trial) {
	// A process that dies after Claim leaves a lease. It may do so often.
	t.enqueue(t.delivery("e", "s"), t.delivery("ordered", "s", key("k")), t.delivery("e", "u", ttl(hour)))
	t.takeFor(t.short(), "e/s", "ordered", "e/u")
	for range 8 {
		t.pass(t.short())
		t.takeFor(t.short(), "e/s", "ordered", "e/u")
	}
	t.pass(t.short())
	claims := t.take("e/s", "ordered", "e/u")

	// It may fail first and succeed then.
	t.finish(retry(claims[0], 0), retry(claims[1], 0), release(claims[2]))
	claims = t.take("e/s", "ordered", "e/u")
	t.finish(outcome(claims[0], outhook.Delivered), outcome(claims[1], outhook.Dead), outcome(claims[2], outhook.Cancelled))
	t.none("it is settled", "e/s", "ordered", "e/u")
}

func storeRepeatable(t *trial) {
	done, cancel := context.WithCancel(t.ctx)
	cancel()

	// Each call is made with a context that has ended, and may or may not
	// happen; then again, and has to.
	batch := []outhook.Delivery{t.delivery("a", "s"), t.delivery("b", "s", key("k")), t.delivery("a", "u")}
	_, err := t.Store.Enqueue(done, batch)
	t.log("Enqueue(%s) with a context that has ended = error %v", describe(batch), err)
	known, again := t.send(batch...)
	t.must("Enqueue, repeated", again)
	t.check(len(known) == 0 || len(known) == len(batch), "Enqueue, repeated: known is %v, want none or all", known)

	request := outhook.ClaimRequest{Limit: 10, PerSubscriber: 10, SuspectAfter: 9, Suspects: 9, Lease: t.short()}
	_, err = t.Store.Claim(done, request)
	t.log("Claim with a context that has ended = error %v", err)
	t.pass(t.short()) // it may have leased them
	claims := t.take("a/s", "b/s", "a/u")

	outcomes := []outhook.Outcome{outcome(claims[0], outhook.Delivered), retry(claims[1], 0), release(claims[2])}
	_, err = t.Store.Finish(done, outcomes)
	t.log("Finish with a context that has ended = error %v", err)
	t.finish(outcomes...)
	t.none("it is delivered", "a/s")

	// An error that stays is the same again.
	conflict := t.delivery("a", "s")
	conflict.Digest[0]++
	for range 2 {
		_, err := t.send(t.delivery("new", "s"), conflict)
		if err == nil {
			break // by another rule it had to fail
		}
		t.check(errors.Is(err, outhook.ErrConflict), "Enqueue, repeated: error %v, want ErrConflict as before", err)
	}
}
