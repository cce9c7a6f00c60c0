package storetest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

// settled makes deliveries of subscriber "s" that are in terminal states, and
// are named by them.
func (t *trial) settled(changes ...func(*outhook.Delivery)) (claims []outhook.Claim) {
	var batch []outhook.Delivery
	var names []string
	for _, state := range settledStates {
		names = append(names, string(state))
		batch = append(batch, t.delivery(string(state), "s", changes...))
	}
	t.enqueue(batch...)
	claims = t.take(names...)
	for i, state := range settledStates {
		t.finish(outcome(claims[i], state))
	}
	return claims
}

func managerTerminal(t *trial) {
	m := t.manager()
	claims := t.settled(ttl(2 * t.short()))
	unchanged := func(what string) {
		for i, state := range settledStates {
			r := t.get(claims[i].ID)
			t.check(r.State == state, "%s is %s after %s", state, r.State, what)
		}
	}
	t.change("Cancel", outhook.Filter{}, 0)
	unchanged("Cancel of all that is pending")
	for _, states := range [][]outhook.State{settledStates, {outhook.Dead}, {outhook.Delivered, outhook.Dead}} {
		t.change("Cancel", outhook.Filter{States: states}, 0)
		unchanged("Cancel of those that are settled")
	}
	t.change("Cancel", outhook.Filter{Event: "dead", Subscriber: "s"}, 0)
	unchanged("Cancel of the dead one")
	for _, c := range claims { // another outcome of a lease that has had one
		_, err := t.apply(retry(c, 0))
		t.must("Finish", err)
	}
	unchanged("Finish with outcomes of leases that had one")
	t.pass(3 * t.short()) // they would have expired
	t.claim()
	unchanged("the time at which it would have expired")
	n, err := m.Replay(t.ctx, outhook.Filter{States: []outhook.State{outhook.Pending}})
	t.check(n == 0 && err == nil, "Replay of pending ones = %d, %v, want none", n, err)
	unchanged("Replay of those that are pending")
}

func managerReplay(t *trial) {
	t.manager()
	for _, state := range settledStates {
		// One that has a history: an outcome and claims without.
		event := string(state)
		t.enqueue(t.delivery(event, "s", ttl(hour)))
		t.finish(retry(t.one(event), 0))
		t.lapse(event)
		old := t.one(event)
		t.settles(old, state)
		t.change("Replay", outhook.Filter{Event: event, States: []outhook.State{state}}, 1)
		r := t.get(old.ID)
		t.check(r.State == outhook.Pending && r.Reason == "" && r.Replay == 1 && !r.Leased,
			"Get %s after Replay: State %s, Reason %q, Replay %d, Leased %v, want a pending one, replayed once", event, r.State, r.Reason, r.Replay, r.Leased)
		t.check(len(r.Attempts) == 2, "Get %s after Replay: %d attempts, want the history of 2 as it was", event, len(r.Attempts))
		if now := t.now(); t.exact() && !now.IsZero() {
			t.check(r.Since.Equal(now) && r.Due.Equal(now), "Get %s after Replay: Since and Due are %v and %v, want now, %v", event, r.Since, r.Due, now)
		}
		c := t.one(event)
		t.check(c.Attempt == 1 && c.Unfinished == 0 && c.Replay == 1,
			"%s was replayed, and has Attempt %d, Unfinished %d, Replay %d, want 1, 0, 1", event, c.Attempt, c.Unfinished, c.Replay)
		t.check(c.Age < hour/2 && (!t.exact() || c.Age == 0), "%s was replayed just now, and its Age is %v", event, c.Age)
		difference := compare(&c.Delivery, &old.Delivery)
		t.check(difference == "", "%s was replayed, and changed: %s", event, difference)
		t.settles(c, outhook.Delivered)
		c = t.replayed(event)
		t.check(c.Replay == 2, "%s was replayed twice, and Replay is %d", event, c.Replay)
		t.settles(c, outhook.Delivered)
	}

	// The expiry is counted from the replay.
	life := 5 * t.short()
	t.enqueue(t.delivery("expires", "s", ttl(life)))
	t.settles(t.one("expires"), outhook.Dead)
	t.pass(life)
	for range 10 {
		c := t.replayed("expires")
		t.check(c.Fault == "" || c.Age >= life, "%s was replayed %v ago, and has fault %q, want none before %v", c.ID, c.Age, c.Fault, life)
		t.settles(c, outhook.Dead)
		if c.Age < life {
			break
		} // else the machine is too slow to tell
	}

	// So is its due instant, if it waited for a retry.
	t.events("waits")
	t.finish(retry(t.one("waits"), hour))
	t.change("Cancel", only("waits"), 1)
	t.settles(t.replayed("waits"), outhook.Delivered)

	// Its place in the order is that of Enqueue.
	t.keyed("a", "b", "c")
	t.settles(t.one("a"), outhook.Dead)
	before := t.list(outhook.Filter{Subscriber: "s"})
	t.change("Replay", only("a"), 1)
	after := t.list(outhook.Filter{Subscriber: "s"})
	t.check(slices.Equal(before, after), "List after Replay is %v, want %v as before", after, before)
	t.settles(t.one("a"), outhook.Dead)
	b := t.one("b")
	t.change("Replay", only("a"), 1)
	t.finish(retry(b, 0))
	t.settles(t.one("a"), outhook.Delivered)
	t.one("b")

	// What may be on the wire is due when its lease ends.
	t.enqueue(t.delivery("wire", "s", ttl(t.short())), t.delivery("wire2", "s"))
	t.take("wire", "wire2")
	for range 2 {
		t.change("Cancel", only("wire"), 1)
		t.change("Replay", only("wire"), 1)
		t.pass(t.short())
		t.none("an attempt of its first lease may be on the wire", "wire")
	}
	t.events("soon")
	since := time.Now()
	c := t.oneFor(3*t.short(), "soon")
	t.change("Cancel", only("soon"), 1)
	t.change("Replay", only("soon"), 1)
	c2 := t.exactly(since, 3*t.short(), "soon")
	t.check(c2.Unfinished == 0 && c2.Token != c.Token, "soon has Unfinished %d and token %d after Replay, want 0 and another than %d", c2.Unfinished, c2.Token, c.Token)
}

// replayed replays a settled delivery of subscriber "s" and claims it.
func (t *trial) replayed(event string) outhook.Claim {
	t.change("Replay", outhook.Filter{Event: event, Subscriber: "s", States: settledStates}, 1)
	return t.one(event)
}

func managerCancel(t *trial) {
	t.manager()
	for _, d := range []time.Duration{hour, 3 * t.short()} {
		t.renew()
		t.keyed("a", "b")
		t.enqueue(t.delivery("c", "s", key("other")), t.delivery("d", "s"))
		since := time.Now()
		claims := t.takeFor(d, "a", "c", "d")
		for _, c := range claims {
			t.change("Cancel", only(c.ID.Event), 1)
			r := t.get(c.ID)
			t.check(r.State == outhook.Cancelled && r.Reason == outhook.ReasonCancelled && !r.Leased,
				"Get %s after Cancel: State %s, Reason %q, Leased %v, want a cancelled one", c.ID, r.State, r.Reason, r.Leased)
			t.loses("it was cancelled", outcome(c, outhook.Delivered))
			t.loses("it was cancelled", release(c))
			now := t.get(c.ID)
			difference := compareRecord(&now, &r, true)
			t.check(difference == "", "%s was changed by an outcome after Cancel: %s", c.ID, difference)
		}
		// The order waits for the lease: what was behind, what comes, and the
		// cancelled one itself.
		t.keyed("e")
		t.change("Prune", only("c"), 1)
		t.enqueue(t.delivery("c", "s", key("other")), t.delivery("x", "s", key("free")), t.delivery("y", "u", key("k")))
		if d == hour {
			t.take("x", "y")
			t.none("an attempt of the cancelled one may be on the wire", "a", "b", "c", "d", "e")
			continue
		}
		b := t.exactly(since, d, "b")
		t.settles(b, outhook.Delivered)
		t.one("e")
	}

	// What is not leased holds nothing, nor what was replayed and settled.
	t.enqueue(t.delivery("f", "s", key("k2")), t.delivery("g", "s", key("k2")), t.delivery("h", "s", key("k2")))
	t.finish(retry(t.one("f"), hour))
	t.change("Cancel", only("f"), 1)
	t.takeFor(t.short(), "g")
	t.pass(t.short())
	t.change("Cancel", only("g"), 1)
	t.one("h")

	// Nor does the replay of another of its order free it.
	t.enqueue(t.delivery("given-up", "s", key("o")), t.delivery("on-wire", "s", key("o")), t.delivery("behind", "s", key("o")))
	t.settles(t.one("given-up"), outhook.Dead)
	t.one("on-wire")
	t.change("Cancel", only("on-wire"), 1)
	t.change("Replay", only("given-up"), 1)
	t.none("one of its order may be on the wire", "given-up", "behind")
}

func managerPrune(t *trial) {
	m := t.manager()
	t.settled()
	t.enqueue(t.delivery("delayed", "s", delay(hour)))
	t.events("leased", "retried")
	claims := t.take("leased", "retried")
	t.finish(retry(claims[1], hour))
	t.events("pending")
	pending := []string{"delayed/s", "leased/s", "retried/s", "pending/s"}
	remain := func(want ...string) {
		var got []string
		for r, err := range m.List(t.ctx, outhook.Filter{}) {
			t.must("List", err)
			got = append(got, r.ID.String())
		}
		t.check(slices.Equal(got, want), "List after Prune is %v, want %v", got, want)
	}
	prune := func(filter outhook.Filter) int {
		n, err := m.Prune(t.ctx, filter)
		t.log("Prune(%+v) = %d, error %v", filter, n, err)
		t.must("Prune", err)
		return n
	}
	prune(outhook.Filter{States: []outhook.State{outhook.Pending}})
	remain(append([]string{"delivered/s", "dead/s", "cancelled/s"}, pending...)...)
	prune(outhook.Filter{Event: "leased"})
	prune(outhook.Filter{Event: "pending", Subscriber: "s"})
	prune(outhook.Filter{States: []outhook.State{outhook.Pending, outhook.Dead}})
	remain(append([]string{"delivered/s", "cancelled/s"}, pending...)...)
	n := prune(outhook.Filter{})
	remain(pending...)
	t.check(n == 2, "Prune = %d, want 2", n)

	_, err := m.Get(t.ctx, of("dead"))
	t.check(errors.Is(err, outhook.ErrNotFound), "Get of a delivery that was pruned: error %v, want ErrNotFound", err)
	t.events("dead") // it can be sent again, and has no history
	r := t.get(of("dead"))
	t.check(len(r.Attempts) == 0 && r.Replay == 0, "a delivery that was pruned and enqueued again has %d attempts of before", len(r.Attempts))
	t.settles(claims[0], outhook.Delivered)
}

// records is what Get and List show.
func records(t *trial) {
	m := t.manager()
	id := outhook.DeliveryID{Event: "x", Subscriber: "nobody"}
	_, err := m.Get(t.ctx, id)
	t.check(errors.Is(err, outhook.ErrNotFound), "Get of an unknown delivery: error %v, want one that matches ErrNotFound", err)

	t.events("other")
	d := t.delivery("e", "s", key("k"), delay(hour), func(d *outhook.Delivery) { d.Time = time.Unix(1_600_000_000, 123_456_789) })
	t.enqueue(d)
	now := t.now()
	var listed outhook.Record
	for r, err := range m.List(t.ctx, outhook.Filter{Event: "e"}) {
		t.must("List", err)
		listed = r
	}
	for call, r := range map[string]outhook.Record{"Get": t.get(d.ID), "List": listed} {
		want := outhook.Record{ID: d.ID, Type: d.Type, Time: d.Time, OrderKey: "k", Payload: d.Payload, State: outhook.Pending}
		difference := compareRecord(&r, &want, false)
		t.check(difference == "", "%s of a delivery that was enqueued: %s", call, difference)
		t.check(r.Due.Sub(r.Since) == hour, "%s: it is due %v after Since, want its Delay of an hour", call, r.Due.Sub(r.Since))
		if t.exact() && !now.IsZero() {
			t.check(r.Since.Equal(now), "%s: Since is %v, want now, %v", call, r.Since, now)
		}
	}

	c := t.one("other")
	r := t.get(c.ID)
	t.check(r.Leased && r.State == outhook.Pending, "Get of a leased one: State %s, Leased %v, want pending and true", r.State, r.Leased)
	t.check(r.Due.Sub(r.Since) >= hour, "Get of a leased one: Due is %v after it was enqueued, want the end of its lease of an hour", r.Due.Sub(r.Since))
	t.settles(c, outhook.Dead)
	r = t.get(c.ID)
	t.check(!r.Leased && r.Due.IsZero() && r.State == outhook.Dead && r.Reason == outhook.ReasonPermanent,
		"Get of a dead one: State %s, Reason %q, Leased %v, Due %v, want no lease and no due instant", r.State, r.Reason, r.Leased, r.Due)

	t.events("lapsed")
	t.lapse("lapsed")
	t.check(!t.get(of("lapsed")).Leased, "Get of one whose lease has ended: Leased is true")

	// A loop over List can be left, and can call the store.
	t.events("a", "b", "c")
	n := 0
	for r, err := range m.List(t.ctx, outhook.Filter{States: []outhook.State{outhook.Pending}}) {
		t.must("List", err)
		t.change("Cancel", outhook.Filter{Event: r.ID.Event}, 1)
		if n++; n == 2 {
			break
		}
	}
	got := t.list(outhook.Filter{States: []outhook.State{outhook.Cancelled}})
	t.check(len(got) == 2, "%v are cancelled, want the 2 of the loop", got)
}

// filters is what a Filter selects.
func filters(t *trial) {
	t.manager()
	t.enqueue(t.delivery("b", "s"), t.delivery("a", "s"), t.delivery("a", "u"))
	t.pass(t.short())
	t.enqueue(t.delivery("c", "u", func(d *outhook.Delivery) { d.Type = "test.other" }))
	t.settles(t.one("b"), outhook.Dead)
	type filter = outhook.Filter
	dead, pending, delivered := outhook.Dead, outhook.Pending, outhook.Delivered
	tests := []struct {
		filter filter
		want   string
	}{
		{filter{}, "b/s a/s a/u c/u"},
		{filter{Limit: 2}, "b/s a/s"},
		{filter{Limit: 9}, "b/s a/s a/u c/u"},
		{filter{Event: "a"}, "a/s a/u"},
		{filter{Event: "a", Limit: 1}, "a/s"},
		{filter{Event: "a", Subscriber: "u"}, "a/u"},
		{filter{Event: "a", Subscriber: "u", Type: "test.other"}, ""},
		{filter{Event: "b", Subscriber: "u"}, ""},
		{filter{Event: "%", Subscriber: "_"}, ""},
		{filter{Subscriber: "u"}, "a/u c/u"},
		{filter{Subscriber: "u", Limit: 1}, "a/u"},
		{filter{Type: "test.other"}, "c/u"},
		{filter{Type: "test"}, ""},
		{filter{States: []outhook.State{dead}}, "b/s"},
		{filter{States: []outhook.State{dead, pending}, Subscriber: "s"}, "b/s a/s"},
		{filter{States: []outhook.State{delivered}}, ""},
		{filter{OlderThan: hour}, ""},
		{filter{NewerThan: hour}, "b/s a/s a/u c/u"},
		{filter{Event: "x"}, ""},
	}
	if t.exact() {
		t.pass(5 * time.Second) // the first three are 15 s in their states but for b, 5 s
		tests = append(tests, []struct {
			filter filter
			want   string
		}{
			{filter{OlderThan: 15 * time.Second}, "a/s a/u"},
			{filter{OlderThan: 15*time.Second + ms}, ""},
			{filter{NewerThan: 5 * time.Second}, "b/s c/u"},
			{filter{NewerThan: 5*time.Second - ms}, ""},
			{filter{OlderThan: 5 * time.Second, NewerThan: 14 * time.Second}, "b/s c/u"},
		}...)
	}
	for _, test := range tests {
		got := strings.Join(t.list(test.filter), " ")
		t.check(got == test.want, "List(%+v) = %q, want %q", test.filter, got, test.want)
	}

	// Without States, each call means what it can change.
	t.renew()
	t.events("a", "b", "c", "d")
	claims := t.take("a", "b", "c")
	for i, state := range settledStates {
		t.settles(claims[i], state)
	}
	t.change("Replay", filter{States: []outhook.State{pending}}, 0)
	t.change("Replay", filter{}, 2) // the dead and the cancelled one
	t.change("Replay", filter{}, 0)
	t.change("Replay", filter{States: []outhook.State{pending, delivered}}, 1)
	t.change("Cancel", filter{Limit: 3}, 3)
	t.change("Cancel", filter{States: []outhook.State{outhook.Cancelled, pending}}, 1)
	t.change("Prune", filter{OlderThan: hour}, 0)
	t.change("Prune", filter{Limit: 1}, 1)
	got := t.list(filter{})
	t.check(slices.Equal(got, []string{"b/s", "c/s", "d/s"}), "List is %v after Prune of one, want b/s, c/s and d/s", got)
	t.change("Prune", filter{States: []outhook.State{dead}}, 0)
	t.change("Prune", filter{}, 3)
}

// stats is what Stats counts.
func stats(t *trial) {
	m := t.manager()
	is := func(want outhook.Stats) {
		got, err := m.Stats(t.ctx)
		t.log("Stats() = %+v, error %v", got, err)
		t.must("Stats", err)
		if !t.exact() { // only whether something is due can be told
			if (got.OldestDue > 0) != (want.OldestDue > 0) {
				t.fail("OldestDue is %v, want %v or a little more", got.OldestDue, want.OldestDue)
			}
			got.OldestDue = want.OldestDue
		}
		t.check(got == want, "Stats is %+v, want %+v", got, want)
		var sum outhook.Stats
		for b, err := range m.Backlogs(t.ctx) {
			t.must("Backlogs", err)
			t.check(b.Pending > 0, "Backlogs has %+v, of which nothing waits", b)
			sum.Pending += b.Pending
			sum.OldestDue = max(sum.OldestDue, b.OldestDue)
		}
		if !t.exact() && sum.OldestDue > 0 {
			sum.OldestDue = want.OldestDue
		}
		t.check(sum.Pending == want.Pending && sum.OldestDue == want.OldestDue, "Backlogs have %d pending, the oldest due for %v, and Stats %d and %v",
			sum.Pending, sum.OldestDue, want.Pending, want.OldestDue)
	}
	is(outhook.Stats{})
	d := t.short()
	t.enqueue(t.delivery("later", "s", delay(hour)))
	is(outhook.Stats{Pending: 1})
	t.enqueue(t.delivery("e", "u"), t.delivery("a", "s", key("k")), t.delivery("b", "s", key("k")))
	t.pass(d)
	is(outhook.Stats{Pending: 4, OldestDue: d})
	claims := t.take("e", "a")
	is(outhook.Stats{Pending: 4}) // what is claimed does not count, nor what is behind
	t.finish(retry(claims[0], 0))
	t.pass(d)
	is(outhook.Stats{Pending: 4, OldestDue: d})
	t.settles(claims[1], outhook.Delivered)
	t.settles(t.take("b", "e")[1], outhook.Dead)
	t.change("Cancel", only("later"), 1)
	is(outhook.Stats{Pending: 1, Delivered: 1, Dead: 1, Cancelled: 1})
	t.change("Prune", outhook.Filter{}, 3)
	is(outhook.Stats{Pending: 1})
	if _, ok := t.Store.(outhook.StandingStore); ok { // a pause hides nothing
		t.enqueue(t.delivery("paused", "p"))
		t.pause("p", hour)
		t.pass(d)
		is(outhook.Stats{Pending: 2, OldestDue: d})
		for b, err := range m.Backlogs(t.ctx) {
			t.must("Backlogs", err)
			t.check(b.Pending == 1, "Backlogs has %+v, want 1 pending", b)
			break
		}
	}
}
