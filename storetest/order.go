package storetest

import "github.com/outhook/outhook"

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
		for _, late := range []bool{false, true} {
			t.renew()
			t.enqueue(t.delivery("a", "s", key("k")), t.delivery("b", "s", key("k"), hold), t.delivery("c", "s", key("k")))
			t.settles(t.one("a"), outhook.Dead)
			var b, a outhook.Claim
			if late { // the outcome comes after the lease, when a is leased
				b = t.oneFor(t.short(), "b")
				t.change("Replay", only("a"), 1)
				a = t.comes(t.short(), "a")
				if !t.late(then(b)) {
					continue
				}
			} else {
				b = t.one("b")
				t.change("Replay", only("a"), 1)
				t.none("a later one of its order is leased", "a", "c")
				if !t.late(then(b)) {
					continue
				}
				a = t.one("a")
			}
			t.none("a is leased", "b", "c")
			t.settles(a, outhook.Delivered)
			switch i {
			case 1:
				t.none("b is dead with HoldOnDead", "b", "c")
				t.change("Prune", only("b"), 1)
			case 2, 3:
				t.settles(t.one("b"), outhook.Delivered)
			}
			t.one("c")
		}
	}
}
