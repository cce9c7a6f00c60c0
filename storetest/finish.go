package storetest

import (
	"bytes"
	"net/http"
	"slices"
	"time"

	"github.com/outhook/outhook"
)

var settledStates = []outhook.State{outhook.Delivered, outhook.Dead, outhook.Cancelled}

func finishLive(t *trial) {
	manages := t.manages()
	for _, late := range []bool{false, true} {
		for _, state := range settledStates {
			event := string(state)
			d := hour
			if late {
				event, d = "late"+event, t.short()
			}
			t.events(event)
			c := t.oneFor(d, event)
			if late {
				t.pass(2 * d)
			}
			o := outcome(c, state)
			t.finish(o)
			t.none("its outcome was applied: "+event, event)
			if manages {
				r := t.get(of(event))
				t.check(r.State == state && r.Reason == o.Reason && len(r.Attempts) == 1,
					"Get %s: State %s, Reason %q, %d attempts, want %s, %q, 1", event, r.State, r.Reason, len(r.Attempts), state, o.Reason)
			}
		}
	}
	// Late outcomes that keep it pending.
	t.events("retried", "released")
	claims := t.takeFor(t.short(), "retried", "released")
	t.pass(2 * t.short())
	t.finish(retry(claims[0], hour), release(claims[1]))
	t.finish(release(t.one("released")))
	if manages {
		r := t.get(of("retried"))
		t.check(len(r.Attempts) == 1, "Get retried: %d attempts, want that of the outcome", len(r.Attempts))
	}
}

func finishLost(t *trial) {
	manages := t.manages()
	_, stands := t.Store.(outhook.StandingStore)
	record := func(event string) (r outhook.Record) {
		if manages {
			r = t.get(of(event))
		}
		return r
	}
	unchanged := func(event string, before outhook.Record) {
		if manages {
			now := record(event)
			difference := compareRecord(&now, &before, true)
			t.check(difference == "", "%s was changed by an outcome that was lost: %s", event, difference)
		}
		if stands {
			t.check(t.kept("s") == outhook.Standing{}, "the standing was changed by an outcome that was lost: %+v", t.kept("s"))
		}
	}

	// The lease has ended and another worker has it.
	t.events("e")
	old := t.oneFor(t.short(), "e")
	c := t.comes(t.short(), "e")
	for _, state := range []outhook.State{outhook.Delivered, outhook.Dead, outhook.Cancelled, outhook.Pending} {
		before := record("e")
		t.loses("the delivery was claimed again", with(outcome(old, state), outhook.Effect{Pause: hour, Disable: true}))
		unchanged("e", before)
	}
	before := record("e")
	t.loses("the delivery was claimed again", release(old))
	unchanged("e", before)
	t.finish(retry(c, 0))
	before = record("e")
	t.loses("the delivery was claimed again since", outcome(old, outhook.Dead))
	unchanged("e", before)
	again := t.one("e")
	t.check(again.Attempt == 2, "Attempt is %d, want 2: a lost outcome does not count", again.Attempt)
	t.loses("the delivery was claimed again", outcome(c, outhook.Delivered))
	t.settles(again, outhook.Delivered)
	before = record("e")
	t.loses("another lease settled the delivery", outcome(old, outhook.Dead))
	unchanged("e", before)

	// Leases that were never given.
	t.events("f")
	c = t.one("f")
	unknown := outcome(c, outhook.Delivered)
	unknown.Lease.ID.Event = "unknown"
	t.loses("there is no such delivery", unknown)
	future := outcome(c, outhook.Delivered)
	future.Lease.Token += 1000
	before = record("f")
	t.loses("no lease had that token", future)
	unchanged("f", before)
	t.settles(c, outhook.Delivered)
	t.events("g")
	t.loses("no lease had that token", outhook.Outcome{Lease: outhook.Lease{ID: of("g"), Token: 1 << 40}, State: outhook.Delivered})
	t.one("g")

	lost, err := t.apply()
	t.check(err == nil && len(lost) == 0, "Finish of nothing: lost %v, error %v, want nothing", lost, err)
}

func finishRepeated(t *trial) {
	manages := t.manages()
	same := func(event string, before outhook.Record) {
		if manages {
			now := t.get(of(event))
			difference := compareRecord(&now, &before, true)
			t.check(difference == "", "%s was changed by an outcome that had been applied before: %s", event, difference)
		}
	}
	for _, state := range append(settledStates, outhook.Pending, "released") {
		event := string(state)
		t.events(event)
		var o outhook.Outcome
		switch c := t.one(event); state {
		case outhook.Pending:
			o = retry(c, hour)
		case "released":
			o = later(release(c), hour)
		default:
			o = outcome(c, state)
		}
		t.finish(o)
		var before outhook.Record
		if manages {
			before = t.get(of(event))
		}
		t.finish(o)
		t.finish(o, o)
		same(event, before)
		t.none("its outcome was applied", event)
		// Of two outcomes of one lease the first counts. Whether the other one
		// is lost is open.
		o.State, o.Released, o.After = outhook.Dead, false, 0
		_, err := t.apply(o)
		t.must("Finish", err)
		same(event, before)
	}

	t.events("twice")
	c := t.one("twice")
	t.finish(retry(c, 0), retry(c, 0))
	again := t.one("twice")
	t.check(again.Attempt == c.Attempt+1, "Attempt is %d, want %d: the same outcome was given twice", again.Attempt, c.Attempt+1)
}

func finishDue(t *trial) {
	t.events("retried", "released", "late")
	claims := t.take("retried", "released")
	t.finish(retry(claims[0], hour), later(release(claims[1]), hour))
	t.none("it is due in an hour", "retried", "released")

	t.events("e")
	c := t.one("e")
	t.pass(t.short())
	since := time.Now()
	t.finish(retry(c, t.short()))
	if t.manages() && t.exact() && !t.now().IsZero() {
		r, now := t.get(of("e")), t.now()
		t.check(r.Due.Sub(now) == t.short() && !r.Leased, "Get e: due in %v, Leased %v, want %v, and not leased", r.Due.Sub(now), r.Leased, t.short())
	}
	c = t.exactly(since, t.short(), "e")
	since = time.Now()
	t.finish(later(release(c), t.short()))
	c = t.exactly(since, t.short(), "e")
	t.finish(retry(c, 0))
	t.settles(t.one("e"), outhook.Delivered)

	// A late outcome counts from when it comes.
	t.events("f")
	c = t.oneFor(t.short(), "f")
	t.pass(3 * t.short())
	since = time.Now()
	if t.late(retry(c, t.short())) {
		t.exactly(since, t.short(), "f")
	}

	// Not later than it expires, when its Fault says so.
	const n = 3
	for _, event := range []string{"expires", "expires2"} {
		since = time.Now()
		t.enqueue(t.delivery(event, "s", ttl(n*t.short())))
		t.finish(retry(t.one(event), 0))
		if c = t.one(event); event == "expires" {
			t.finish(retry(c, hour))
		} else {
			t.finish(later(release(c), hour))
		}
		c = t.exactly(since, n*t.short(), event)
		t.settles(c, outhook.Dead)
	}
}

func finishReleased(t *trial) {
	t.events("e")
	same := func(c, before outhook.Claim) {
		t.check(c.Attempt == before.Attempt && c.Unfinished == before.Unfinished,
			"Attempt and Unfinished are %d and %d after a release, want %d and %d as before", c.Attempt, c.Unfinished, before.Attempt, before.Unfinished)
	}
	releases := func(before outhook.Claim) outhook.Claim {
		for range 3 {
			t.finish(release(before))
			c := t.one("e")
			same(c, before)
			before = c
		}
		return before
	}
	c := releases(t.one("e"))
	t.finish(retry(c, 0))
	c = releases(t.one("e"))
	t.finish(release(c))
	for range 2 {
		t.lapse("e")
	}
	c = releases(t.one("e"))
	t.finish(release(c))

	// A late one gives back what the claim had added.
	before := t.oneFor(t.short(), "e")
	t.pass(2 * t.short())
	if t.late(release(before)) {
		same(t.one("e"), before)
	}
}

func finishCounts(t *trial) {
	t.events("e")
	c := t.one("e")
	for _, n := range []int{0, 1, 2, 5} {
		o := retry(c, 0)
		o.Attempts = slices.Repeat(o.Attempts, n)
		if n == 0 {
			o.Attempts = nil
		}
		t.finish(o)
		again := t.one("e")
		t.check(again.Attempt == c.Attempt+1, "Attempt is %d after an outcome of attempt %d with %d records, want %d", again.Attempt, c.Attempt, n, c.Attempt+1)
		c = again
	}
	t.finish(release(c))
	for range 2 {
		t.lapse("e")
	}
	t.finish(retry(t.one("e"), 0))
	c = t.one("e")
	t.check(c.Unfinished == 0, "Unfinished is %d after an outcome, want 0", c.Unfinished)
}

func finishOthers(t *trial) {
	// Outcomes that have nowhere to go, among others.
	t.events("a", "b", "c", "d")
	claims := t.take("a", "b", "c", "d")
	unknown := outhook.Outcome{Lease: outhook.Lease{ID: outhook.DeliveryID{Event: "x", Subscriber: "nobody"}, Token: 1}, State: outhook.Dead}
	never := outcome(claims[3], outhook.Dead)
	never.Lease.Token += 1000
	lost, err := t.apply(unknown, outcome(claims[0], outhook.Delivered), never, outcome(claims[1], outhook.Delivered), unknown, outcome(claims[2], outhook.Delivered))
	t.must("Finish", err)
	for _, l := range lost {
		t.check(l == unknown.Lease || l == never.Lease, "Finish reports %v as lost, which is live", l)
	}
	// Whether they were applied shows in what the leases are worth now.
	for i, name := range []string{"a", "b", "c"} {
		t.stored(claims[i], name)
	}

	// Attempts that hold whatever a receiver sent.
	t.events("e", "f", "g", "h", "i")
	claims = t.take("e", "f", "g", "h", "i")
	outcomes := make([]outhook.Outcome, len(claims))
	for i, c := range claims {
		outcomes[i] = outcome(c, outhook.Delivered)
	}
	outcomes[0].Attempts[0].Body = []byte("\x00\xff\xfe not UTF-8 \x00")
	outcomes[1].Attempts[0].Error = "NUL \x00, no UTF-8 \xff\xc0, a line\nand a quote '\"\\"
	outcomes[2].Attempts[0].Header = http.Header{"X-Odd": {"\xff\xfe", "", "{}\x7f"}}
	outcomes[3].Attempts[0].Body = bytes.Repeat([]byte{0}, 1<<20)
	lost, err = t.apply(outcomes...)
	t.must("Finish", err)
	t.check(len(lost) == 0, "Finish reports %v as lost, want none: these leases are live", lost)
	for i, name := range []string{"e", "f", "g", "h", "i"} {
		t.stored(claims[i], name)
	}
}

// stored checks that a delivery was delivered.
func (t *trial) stored(c outhook.Claim, name string) {
	if _, ok := t.Store.(outhook.Manager); ok {
		r := t.get(c.ID)
		t.check(r.State == outhook.Delivered, "%s is %s, want it to be delivered by the outcome beside the others", name, r.State)
	}
	// Had it not been applied, this would retry it.
	_, err := t.apply(retry(c, 0))
	t.must("Finish", err)
	t.none("it was delivered by an outcome beside others", name)
}
