package storetest

import (
	"time"

	"github.com/outhook/outhook"
)

func claimNext(t *trial) {
	const minute = time.Minute
	room := func(perSubscriber int, rooms map[string]int) func(*outhook.ClaimRequest) {
		return func(r *outhook.ClaimRequest) { r.PerSubscriber, r.Room = perSubscriber, rooms }
	}
	_, manages := t.Store.(outhook.Manager)
	_, stands := t.Store.(outhook.StandingStore)
	for _, test := range []struct {
		name    string
		needs   bool // what the store is
		prepare func()
		request []func(*outhook.ClaimRequest)
		want    time.Duration // 0: nothing waits that there is room for
		claims  int           // of the call itself
	}{
		{name: "nothing waits", needs: true, prepare: func() {}},
		{name: "all are settled", needs: true, prepare: func() {
			t.events("e")
			t.settles(t.one("e"), outhook.Dead)
		}},
		{name: "a delay", needs: true, want: 5 * minute, prepare: func() {
			t.enqueue(t.delivery("a", "s", delay(7*minute)), t.delivery("b", "u", delay(5*minute)))
		}},
		{name: "a retry", needs: true, want: 3 * minute, prepare: func() {
			t.events("e")
			t.finish(retry(t.one("e"), 3*minute))
		}},
		{name: "a lease", needs: true, want: hour, prepare: func() {
			t.events("e")
			t.one("e")
		}},
		{name: "the leases of the call itself", needs: true, want: hour, claims: 2, prepare: func() {
			t.events("a", "b")
		}},
		{name: "a delay beside a lease", needs: true, want: 4 * minute, prepare: func() {
			t.events("e")
			t.one("e")
			t.enqueue(t.delivery("later", "s", delay(4*minute)))
		}},
		{name: "no room", needs: true, request: []func(*outhook.ClaimRequest){room(9, map[string]int{"s": 0})}, prepare: func() {
			t.enqueue(t.delivery("e", "s", delay(minute)))
		}},
		{name: "no room for the earlier one", needs: true, want: 2 * minute, request: []func(*outhook.ClaimRequest){room(9, map[string]int{"s": 0})}, prepare: func() {
			t.enqueue(t.delivery("e", "s", delay(minute)), t.delivery("e", "u", delay(2*minute)))
		}},
		{name: "no room left", needs: true, want: 20 * minute, claims: 1, request: []func(*outhook.ClaimRequest){room(1, nil)}, prepare: func() {
			t.enqueue(t.delivery("a", "s"), t.delivery("b", "s"), t.delivery("c", "u", delay(20*minute)))
		}},
		{name: "the first of an order in its delay", needs: true, want: 3 * minute, prepare: func() {
			t.enqueue(t.delivery("a", "s", key("k"), delay(3*minute)), t.delivery("b", "s", key("k")))
		}},
		{name: "an order that a dead one holds", needs: true, prepare: func() {
			t.enqueue(t.delivery("a", "s", key("k"), hold), t.delivery("b", "s", key("k")))
			t.settles(t.one("a"), outhook.Dead)
		}},
		{name: "an order that a lease holds", needs: true, want: hour, prepare: func() {
			t.enqueue(t.delivery("a", "s", key("k")), t.delivery("b", "s", key("k")))
			t.one("a")
		}},
		{name: "an order that the lease of a cancelled one holds", needs: manages, want: hour, prepare: func() {
			t.enqueue(t.delivery("a", "s", key("k")), t.delivery("b", "s", key("k")))
			t.one("a")
			t.change("Cancel", only("a"), 1)
		}},
		{name: "an earlier one replayed behind the lease of a later one", needs: manages, want: hour, prepare: func() {
			t.enqueue(t.delivery("a", "s", key("k")), t.delivery("b", "s", key("k")))
			t.settles(t.one("a"), outhook.Dead)
			t.one("b")
			t.change("Replay", only("a"), 1)
		}},
		{name: "a pause", needs: stands, want: 6 * minute, prepare: func() {
			t.events("e")
			t.pause("s", 6*minute)
		}},
		{name: "a delay beyond a pause", needs: stands, want: 8 * minute, prepare: func() {
			t.enqueue(t.delivery("e", "s", delay(8*minute)))
			t.pause("s", 6*minute)
		}},
		{name: "a pause beyond a lease", needs: stands, want: 2 * hour, prepare: func() {
			t.events("e")
			t.one("e")
			t.pause("s", 2*hour)
		}},
		{name: "a disabled subscriber", needs: stands, prepare: func() {
			t.events("e")
			t.disable("s", false)
		}},
		{name: "a disabled subscriber beside a delay", needs: stands, want: minute, prepare: func() {
			t.events("e")
			t.disable("s", false)
			t.enqueue(t.delivery("e", "u", delay(minute)))
		}},
	} {
		if !test.needs {
			t.note("Next of " + test.name + ": it takes an outhook.Manager or outhook.StandingStore")
			continue
		}
		t.renew()
		began := time.Now()
		test.prepare()
		called := time.Now()
		claimed := t.claim(test.request...)
		if len(claimed.Claims) != test.claims {
			continue // which is for another rule to judge
		}
		earliest, latest := test.want, test.want
		if !t.exact() && test.want > 0 { // what was to come may have been set at any time of this
			earliest -= time.Since(began) + ms
			latest += time.Since(called) + ms
		}
		t.check(claimed.Next >= earliest && claimed.Next <= latest, "%s: Next is %v, want %v", test.name, claimed.Next, test.want)
	}

	// What waits behind suspects that there is no room for.
	t.renew()
	t.events("suspect")
	t.lapse("suspect")
	t.enqueue(t.delivery("innocent", "s", delay(5*minute)), t.delivery("far", "u", delay(hour)))
	claimed := t.claim(func(r *outhook.ClaimRequest) { r.SuspectAfter, r.Suspects = 1, 0 })
	if len(claimed.Claims) == 0 {
		t.check(claimed.Next <= 5*minute, "Next is %v, want at most 5m, when one behind a suspect is due, or 0: unknown", claimed.Next)
	}
}
