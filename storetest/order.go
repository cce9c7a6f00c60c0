package storetest

import (
	"fmt"

	"github.com/outhook/outhook"
)

func claimOrder(t *trial) {
	// only claims, and sees to it that of these that are ordered only one comes.
	only := func(name string, among ...string) outhook.Claim {
		claims := t.claim().Claims
		for _, other := range among {
			t.check(other == name || index(claims, other) < 0, "Claim returned %s, want of its order only %s", other, name)
		}
		i := index(claims, name)
		t.check(i >= 0, "Claim did not return %s, which is the earliest of its order", name)
		return claims[i]
	}

	// The earliest that is not settled, and none beside it while it is leased.
	t.keyed("a", "b", "c", "d")
	c := only("a", "b", "c", "d")
	t.none("a is leased", "b", "c", "d")
	t.late(retry(c, 0)) // whether none leased a once more is for another rule to judge
	c = only("a", "b", "c", "d")
	t.finish(release(c))
	c = only("a", "b", "c", "d")
	t.settles(c, outhook.Delivered)
	t.settles(only("b", "a", "c", "d"), outhook.Dead)
	t.settles(only("c", "a", "b", "d"), outhook.Cancelled)
	t.settles(only("d", "a", "b", "c"), outhook.Delivered)

	// In its delay it holds the others, and when its lease has ended.
	t.keyed("a2", "b2")
	t.finish(retry(t.one("a2"), hour))
	t.none("a2 is earlier and waits for its retry", "b2")
	t.enqueue(t.delivery("a3", "s", key("k3"), delay(hour)), t.delivery("b3", "s", key("k3")))
	t.none("a3 is earlier and waits for its delay", "b3")
	t.enqueue(t.delivery("a4", "s", key("k4")), t.delivery("b4", "s", key("k4")))
	for range 2 {
		t.lapse("a4")
	}
	only("a4", "b4")
	t.none("a4 is leased", "b4")

	// Other keys, other subscribers and those without a key are not held.
	t.enqueue(
		t.delivery("a5", "s", key("k5")), t.delivery("b5", "s", key("k5")), t.delivery("c5", "s", key("K5")),
		t.delivery("d5", "u", key("k5")), t.delivery("e5", "s"), t.delivery("f5", "s"),
	)
	t.take("a5", "c5", "d5", "e5", "f5")

	// A dead one holds if it is to, any other settled one does not.
	t.enqueue(t.delivery("a6", "s", key("k6"), hold), t.delivery("b6", "s", key("k6"), hold), t.delivery("c6", "s", key("k6")))
	t.settles(t.one("a6"), outhook.Delivered)
	t.settles(t.one("b6"), outhook.Dead)
	t.none("b6 is dead with HoldOnDead", "c6")
	t.enqueue(t.delivery("d6", "s", key("k6")))
	t.none("b6 is dead with HoldOnDead", "c6", "d6")
	t.enqueue(t.delivery("a7", "s", key("k7"), hold), t.delivery("b7", "s", key("k7")))
	t.settles(t.one("a7"), outhook.Cancelled)
	t.one("b7")
	if t.manages() {
		t.orderByHand()
	}
}

// orderByHand is what Replay and Prune do to an order.
func (t *trial) orderByHand() {
	t.change("Replay", only("b6"), 1)
	t.settles(t.one("b6"), outhook.Delivered)
	t.settles(t.one("c6"), outhook.Delivered)
	t.settles(t.one("d6"), outhook.Delivered)
	t.enqueue(t.delivery("a8", "s", key("k8"), hold), t.delivery("b8", "s", key("k8")))
	t.settles(t.one("a8"), outhook.Dead)
	t.none("a8 is dead with HoldOnDead", "b8")
	t.change("Prune", only("a8"), 1)
	t.one("b8")

	// An earlier one is replayed while a later one is leased.
	for i, then := range []func(b outhook.Claim) outhook.Outcome{
		func(b outhook.Claim) outhook.Outcome { return outcome(b, outhook.Delivered) },
		func(b outhook.Claim) outhook.Outcome { return outcome(b, outhook.Dead) },
		func(b outhook.Claim) outhook.Outcome { return retry(b, 0) },
		release,
	} {
		t.replayedBefore(fmt.Sprintf("early%d", i), then, false)
		t.replayedBefore(fmt.Sprintf("late%d", i), then, true)
	}
}

// replayedBefore replays the first of an order while the second is leased, whose
// outcome comes then, or late: after its lease, when the first is leased again.
func (t *trial) replayedBefore(order string, then func(outhook.Claim) outhook.Outcome, late bool) {
	first, second, third := "first-"+order, "second-"+order, "third-"+order
	t.enqueue(t.delivery(first, "s", key(order)), t.delivery(second, "s", key(order), hold), t.delivery(third, "s", key(order)))
	t.settles(t.one(first), outhook.Dead)
	var a, b outhook.Claim
	if late {
		b = t.oneFor(t.short(), second)
		t.change("Replay", only(first), 1)
		a = t.comes(t.short(), first)
	} else {
		b = t.one(second)
		t.change("Replay", only(first), 1)
		t.none("a later one of its order is leased", first, third)
	}
	o := then(b)
	if !t.late(o) {
		return
	}
	if !late {
		a = t.one(first)
	}
	t.none("the first of its order is leased", second, third)
	t.settles(a, outhook.Delivered)
	switch o.State {
	case outhook.Dead:
		t.none("it or the one before is dead with HoldOnDead", second, third)
		t.change("Prune", only(second), 1)
	case outhook.Pending:
		t.settles(t.one(second), outhook.Delivered)
	}
	t.one(third)
}
