package storetest

import (
	"fmt"
	"time"

	"github.com/outhook/outhook"
)

// A wait is a case of what Next has to be for two subscribers, s and u.
type wait struct {
	name    string
	prepare func(t *trial, s, u string)
	room    func(s, u string) map[string]int // nil: plenty for both
	claims  int                              // of the call itself
	want    time.Duration                    // 0: nothing waits that there is room for
}

const minute = time.Minute

// waits are those of any store.
var waits = []wait{
	{name: "nothing waits", prepare: func(*trial, string, string) {}},
	{name: "all are settled", prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s))
		t.settles(t.one("e/"+s), outhook.Dead)
	}},
	{name: "a delay", want: 5 * minute, prepare: func(t *trial, s, u string) {
		t.enqueue(t.delivery("a", s, delay(7*minute)), t.delivery("b", u, delay(5*minute)))
	}},
	{name: "a retry", want: 3 * minute, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s))
		t.finish(retry(t.one("e/"+s), 3*minute))
	}},
	{name: "a lease", want: hour, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s))
		t.one("e/" + s)
	}},
	{name: "the leases of the call itself", want: hour, claims: 2, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("a", s), t.delivery("b", s))
	}},
	{name: "a delay beside a lease", want: 4 * minute, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s))
		t.one("e/" + s)
		t.enqueue(t.delivery("later", s, delay(4*minute)))
	}},
	{name: "no room", room: func(s, _ string) map[string]int { return map[string]int{s: 0} }, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s, delay(minute)))
	}},
	{name: "no room for the earlier one", want: 2 * minute, room: func(_, u string) map[string]int { return map[string]int{u: 1} }, prepare: func(t *trial, s, u string) {
		t.enqueue(t.delivery("e", s, delay(minute)), t.delivery("e", u, delay(2*minute)))
	}},
	{name: "no room left", want: 20 * minute, claims: 1, room: func(s, u string) map[string]int { return map[string]int{s: 1, u: 1} }, prepare: func(t *trial, s, u string) {
		t.enqueue(t.delivery("a", s), t.delivery("b", s), t.delivery("c", u, delay(20*minute)))
	}},
	{name: "the first of an order in its delay", want: 3 * minute, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("a", s, key("k"), delay(3*minute)), t.delivery("b", s, key("k")))
	}},
	{name: "an order that a dead one holds", prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("a", s, key("k"), hold), t.delivery("b", s, key("k")))
		t.settles(t.one("a/"+s), outhook.Dead)
	}},
	{name: "an order that a lease holds", want: hour, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("a", s, key("k")), t.delivery("b", s, key("k")))
		t.one("a/" + s)
	}},
}

// managedWaits are those of a Manager.
var managedWaits = []wait{
	{name: "an order that the lease of a cancelled one holds", want: hour, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("a", s, key("k")), t.delivery("b", s, key("k")))
		t.one("a/" + s)
		t.change("Cancel", outhook.Filter{Event: "a", Subscriber: s}, 1)
	}},
	{name: "an earlier one replayed behind the lease of a later one", want: hour, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("a", s, key("k")), t.delivery("b", s, key("k")))
		t.settles(t.one("a/"+s), outhook.Dead)
		t.one("b/" + s)
		t.change("Replay", outhook.Filter{Event: "a", Subscriber: s}, 1)
	}},
}

// pausedWaits are those of a StandingStore.
var pausedWaits = []wait{
	{name: "a pause", want: 6 * minute, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s))
		t.pause(s, 6*minute)
	}},
	{name: "a delay beyond a pause", want: 8 * minute, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s, delay(8*minute)))
		t.pause(s, 6*minute)
	}},
	{name: "a pause beyond a lease", want: 2 * hour, prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s))
		t.one("e/" + s)
		t.pause(s, 2*hour)
	}},
	{name: "a disabled subscriber", prepare: func(t *trial, s, _ string) {
		t.enqueue(t.delivery("e", s))
		t.disable(s, false)
	}},
	{name: "a disabled subscriber beside a delay", want: minute, prepare: func(t *trial, s, u string) {
		t.enqueue(t.delivery("e", s), t.delivery("e", u, delay(minute)))
		t.disable(s, false)
	}},
}

func claimNext(t *trial) {
	// The room of a call keeps each case apart from those before.
	cases := waits
	if t.manages() {
		cases = append(cases[:len(cases):len(cases)], managedWaits...)
	}
	if _, ok := t.Store.(outhook.StandingStore); ok {
		cases = append(cases[:len(cases):len(cases)], pausedWaits...)
	} else {
		t.note("Next of a subscriber that is paused: the store is no outhook.StandingStore")
	}
	for i, test := range cases {
		s, u := fmt.Sprintf("s%d", i), fmt.Sprintf("u%d", i)
		room := map[string]int{s: 9, u: 9}
		if test.room != nil {
			room = test.room(s, u)
		}
		began := time.Now()
		test.prepare(t, s, u)
		called := time.Now()
		claimed := t.claim(func(r *outhook.ClaimRequest) { r.PerSubscriber, r.Room = 0, room })
		if len(claimed.Claims) != test.claims {
			continue // which is for another rule to judge
		}
		earliest, latest := test.want, test.want
		if !t.exact() && test.want > 0 { // what is to come may have been set at any time of this
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
