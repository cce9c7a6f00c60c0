package outhook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// memStore is a MemoryStore with calls that check their errors.
type memStore struct {
	*MemoryStore
	t *testing.T
}

func memNew(t *testing.T) memStore { return memStore{NewMemoryStore(), t} }

// memBubble runs a test of a new store on a fake clock.
func memBubble(t *testing.T, name string, f func(t *testing.T, m memStore)) {
	bubble(t, name, func(t *testing.T) { f(t, memNew(t)) })
}

var memPayload = &Payload{Body: []byte("body")}

// memDelivery returns one that is due at once and never expires.
func memDelivery(event, subscriber string) Delivery {
	return Delivery{
		ID: DeliveryID{event, subscriber}, Type: "test.event",
		Digest: [32]byte{1}, Payload: memPayload,
	}
}

// memKeyed returns one for subscriber "s" with order key "k".
func memKeyed(event string) Delivery {
	d := memDelivery(event, "s")
	d.OrderKey = "k"
	return d
}

func memWith(d Delivery, change func(d *Delivery)) Delivery {
	change(&d)
	return d
}

// enqueue stores deliveries that are new.
func (m memStore) enqueue(deliveries ...Delivery) {
	m.t.Helper()
	known, err := m.Enqueue(context.Background(), deliveries)
	require.NoError(m.t, err)
	require.Empty(m.t, known)
}

// send enqueues events for subscriber "s".
func (m memStore) send(events ...string) {
	m.t.Helper()
	for _, event := range events {
		m.enqueue(memDelivery(event, "s"))
	}
}

// claim claims with much room and a lease of 10 seconds, unless told otherwise.
func (m memStore) claim(change ...func(r *ClaimRequest)) Claimed {
	m.t.Helper()
	r := ClaimRequest{Limit: 100, PerSubscriber: 100, SuspectAfter: 100, Suspects: 1, Lease: 10 * time.Second}
	for _, f := range change {
		f(&r)
	}
	claimed, err := m.Claim(context.Background(), r)
	require.NoError(m.t, err)
	return claimed
}

// one claims what has to be a single delivery.
func (m memStore) one(change ...func(r *ClaimRequest)) Claim {
	m.t.Helper()
	claimed := m.claim(change...)
	require.Len(m.t, claimed.Claims, 1)
	return claimed.Claims[0]
}

// claims claims what has to be these events, in any order.
func (m memStore) claims(events ...string) []Claim {
	m.t.Helper()
	claims := m.claim().Claims
	require.ElementsMatch(m.t, events, memEvents(claims))
	return claims
}

func memEvents(claims []Claim) []string {
	events := []string{}
	for _, c := range claims {
		events = append(events, c.ID.Event)
	}
	return events
}

func memPick(claims []Claim, event string) Claim {
	return claims[slices.IndexFunc(claims, func(c Claim) bool { return c.ID.Event == event })]
}

// finish applies outcomes of which none may be lost.
func (m memStore) finish(outcomes ...Outcome) {
	m.t.Helper()
	lost, err := m.Finish(context.Background(), outcomes)
	require.NoError(m.t, err)
	require.Empty(m.t, lost)
}

// lose applies outcomes that all have to be lost.
func (m memStore) lose(outcomes ...Outcome) {
	m.t.Helper()
	lost, err := m.Finish(context.Background(), outcomes)
	require.NoError(m.t, err)
	var want []Lease
	for _, o := range outcomes {
		want = append(want, o.Lease)
	}
	require.Equal(m.t, want, lost)
}

func memOutcome(c Claim, state State) Outcome { return Outcome{Lease: c.Lease(), State: state} }

func memRetry(c Claim, after time.Duration) Outcome {
	return Outcome{Lease: c.Lease(), State: Pending, After: after}
}

func memRelease(c Claim) Outcome { return Outcome{Lease: c.Lease(), State: Pending, Released: true} }

func (o Outcome) memEffect(e Effect) Outcome {
	o.Effect = &e
	return o
}

// get returns a delivery to subscriber "s".
func (m memStore) get(event string) Record {
	m.t.Helper()
	r, err := m.Get(context.Background(), DeliveryID{event, "s"})
	require.NoError(m.t, err)
	return r
}

func (m memStore) list(f Filter) []string {
	m.t.Helper()
	ids := []string{}
	for r, err := range m.List(context.Background(), f) {
		require.NoError(m.t, err)
		require.Nil(m.t, r.Attempts, "List shows no attempts")
		ids = append(ids, r.ID.String())
	}
	return ids
}

// change calls Replay, Cancel or Prune, which has to change n deliveries.
func (m memStore) change(f func(context.Context, Filter) (int, error), filter Filter, n int) {
	m.t.Helper()
	got, err := f(context.Background(), filter)
	require.NoError(m.t, err)
	require.Equal(m.t, n, got)
}

func (m memStore) standing(subscriber string, update func(now time.Time, s *Standing)) {
	m.t.Helper()
	require.NoError(m.t, m.UpdateStandings(context.Background(), []string{subscriber}, update))
}

func (m memStore) pause(subscriber string, d time.Duration) {
	m.t.Helper()
	m.standing(subscriber, func(now time.Time, s *Standing) { s.PausedUntil = now.Add(d) })
}

func (m memStore) disable(subscriber string, cancelWaiting bool) {
	m.t.Helper()
	m.standing(subscriber, func(now time.Time, s *Standing) { s.Disable(now, "test", cancelWaiting) })
}

func (m memStore) enable(subscriber string) {
	m.t.Helper()
	m.standing(subscriber, func(_ time.Time, s *Standing) { s.Enable() })
}

// standingOf returns what the store keeps, zero if it keeps none.
func (m memStore) standingOf(subscriber string) (kept Standing) {
	m.t.Helper()
	for s, err := range m.Standings(context.Background()) {
		require.NoError(m.t, err)
		if s.Subscriber == subscriber {
			kept = s
		}
	}
	return kept
}

func (m memStore) stats() Stats {
	m.t.Helper()
	stats, err := m.Stats(context.Background())
	require.NoError(m.t, err)
	return stats
}

// requireEmpty looks inside for what was left of deliveries that are gone.
func (m memStore) requireEmpty() {
	m.t.Helper()
	require.Empty(m.t, m.lanes, "lanes")
	require.Zero(m.t, m.waiting.len(), "waiting")
	require.Zero(m.t, m.turns.Len(), "turns")
	require.Zero(m.t, m.MemoryStore.settled.len(), "settled")
	require.Zero(m.t, m.MemoryStore.dead.len(), "dead")
	require.Empty(m.t, m.held, "held")
	require.Equal(m.t, Stats{}, m.stats())
}

func TestMemoryStoreEnqueue(t *testing.T) {
	ctx := context.Background()
	memBubble(t, "each is pending and due when its delay has passed", func(t *testing.T, m memStore) {
		m.enqueue(memDelivery("now", "s"), memWith(memDelivery("later", "s"), func(d *Delivery) { d.Delay = 5 * time.Second }))
		r := m.get("later")
		require.Equal(t, Pending, r.State)
		require.Equal(t, 5*time.Second, time.Until(r.Due))
		require.False(t, r.Leased)
		m.claims("now")
		time.Sleep(5*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		m.claims("later")
	})
	memBubble(t, "keeps the fields and returns them", func(t *testing.T, m memStore) {
		d := Delivery{
			ID: DeliveryID{"e", "s"}, Type: "a.b", Time: time.Unix(1, 2), OrderKey: "k", HoldOnDead: true,
			TTL: time.Hour, Digest: [32]byte{7}, Payload: &Payload{Body: []byte("x")},
			Snapshot: newSnapshot(&target{unsigned: true}),
		}
		m.enqueue(d)
		c := m.one()
		require.Equal(t, d, c.Delivery)
		require.Same(t, d.Payload, c.Payload)
	})
	memBubble(t, "stores those that it does not have and names the known", func(t *testing.T, m memStore) {
		m.send("b")
		known, err := m.Enqueue(ctx, []Delivery{memDelivery("a", "s"), memDelivery("b", "s"), memDelivery("c", "s")})
		require.NoError(t, err)
		require.Equal(t, []DeliveryID{{"b", "s"}}, known)
		require.Equal(t, []string{"b/s", "a/s", "c/s"}, m.list(Filter{}))
	})
	memBubble(t, "one event for several subscribers is several deliveries", func(t *testing.T, m memStore) {
		m.enqueue(memDelivery("e", "s1"), memDelivery("e", "s2"))
		require.Len(t, m.claim().Claims, 2)
	})
	for _, state := range []State{Pending, "leased", Delivered, Dead, Cancelled} {
		memBubble(t, fmt.Sprintf("leaves a known one as it is when %s", state), func(t *testing.T, m memStore) {
			m.send("e")
			switch state {
			case Pending:
			case "leased":
				m.one()
			default:
				m.finish(memOutcome(m.one(), state))
			}
			before := m.get("e")
			time.Sleep(time.Second)
			known, err := m.Enqueue(ctx, []Delivery{memWith(memDelivery("e", "s"), func(d *Delivery) { d.Delay, d.TTL, d.Payload = time.Hour, time.Hour, nil })})
			require.NoError(t, err)
			require.Equal(t, []DeliveryID{{"e", "s"}}, known)
			require.Equal(t, before, m.get("e"))
			if state != Pending {
				m.claims()
			}
		})
	}
	memBubble(t, "a conflict stores nothing", func(t *testing.T, m memStore) {
		m.send("b")
		m.finish(memOutcome(m.one(), Delivered))
		batch := []Delivery{memDelivery("a", "s"), memDelivery("b", "s"), memDelivery("c", "s")}
		batch[1].Digest[5]++
		for range 2 {
			known, err := m.Enqueue(ctx, batch)
			require.ErrorIs(t, err, ErrConflict)
			require.ErrorContains(t, err, `event "b" for subscriber "s"`)
			require.Empty(t, known)
			require.Equal(t, []string{"b/s"}, m.list(Filter{}))
		}
	})
	memBubble(t, "full overall stores nothing and can be repeated", func(t *testing.T, m memStore) {
		m.MaxPending = 2
		m.send("a")
		batch := []Delivery{memDelivery("a", "s"), memDelivery("b", "t"), memDelivery("c", "u")}
		_, err := m.Enqueue(ctx, batch)
		require.ErrorIs(t, err, ErrFull)
		require.Equal(t, []string{"a/s"}, m.list(Filter{}))
		m.finish(memOutcome(m.one(), Delivered))
		known, err := m.Enqueue(ctx, batch)
		require.NoError(t, err)
		require.Equal(t, []DeliveryID{{"a", "s"}}, known)
		_, err = m.Enqueue(ctx, []Delivery{memDelivery("d", "v")})
		require.ErrorIs(t, err, ErrFull)
		require.ErrorContains(t, err, `"v"`)
		known, err = m.Enqueue(ctx, batch) // all known: needs no room
		require.NoError(t, err)
		require.Len(t, known, 3)
	})
	memBubble(t, "full for a subscriber names it and stores nothing", func(t *testing.T, m memStore) {
		m.MaxPerSubscriber = 2
		m.send("a")
		batch := []Delivery{memDelivery("b", "other"), memDelivery("b", "s"), memDelivery("c", "s")}
		_, err := m.Enqueue(ctx, batch)
		require.ErrorIs(t, err, ErrFull)
		require.ErrorContains(t, err, `subscriber "s"`)
		require.Equal(t, []string{"a/s"}, m.list(Filter{}))
		m.enqueue(batch[:2]...)
		require.Equal(t, 3, m.stats().Pending)
	})
	memBubble(t, "the default bounds are 10,000 for a subscriber and 100,000 in all", func(t *testing.T, m memStore) {
		for s := range 10 {
			batch := make([]Delivery, 10_000)
			for i := range batch {
				batch[i] = memDelivery(eventID(i), fmt.Sprintf("s%d", s))
			}
			m.enqueue(batch...)
			if s == 0 {
				_, err := m.Enqueue(ctx, []Delivery{memDelivery("more", "s0")})
				require.ErrorIs(t, err, ErrFull)
				m.enqueue(memDelivery("fits", "x"))
				m.change(m.Cancel, Filter{Event: "fits", Subscriber: "x"}, 1)
			}
		}
		_, err := m.Enqueue(ctx, []Delivery{memDelivery("more", "x")})
		require.ErrorIs(t, err, ErrFull)
	})
	memBubble(t, "nothing is stored for a cancelled context", func(t *testing.T, m memStore) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		_, err := m.Enqueue(ctx, []Delivery{memDelivery("e", "s")})
		require.ErrorIs(t, err, context.Canceled)
		m.send("other")
		require.Equal(t, []string{"other/s"}, m.list(Filter{}))
	})
	memBubble(t, "empty slices are nothing to do", func(t *testing.T, m memStore) {
		m.enqueue()
		m.finish()
		require.NoError(t, m.UpdateStandings(ctx, nil, func(time.Time, *Standing) { t.Error("called") }))
		require.Equal(t, Claimed{}, m.claim())
		m.requireEmpty()
	})
	memBubble(t, "keeps no slice or map of the caller", func(t *testing.T, m memStore) {
		batch := []Delivery{memDelivery("e", "s")}
		m.enqueue(batch...)
		batch[0] = Delivery{}
		room := map[string]int{"s": 1}
		c := m.one(func(r *ClaimRequest) { r.Room = room })
		require.Equal(t, map[string]int{"s": 1}, room)
		attempts := []Attempt{{Number: 1, Status: 500}}
		o := memRetry(c, 0)
		o.Attempts = attempts
		m.finish(o)
		attempts[0].Status = 200
		got := m.get("e")
		require.Equal(t, 500, got.Attempts[0].Status)
		got.Attempts[0].Status = 200
		require.Equal(t, 500, m.get("e").Attempts[0].Status)
	})
}

func TestMemoryStoreClaim(t *testing.T) {
	memBubble(t, "a lease keeps others out and ends exactly at its end", func(t *testing.T, m memStore) {
		m.send("e")
		m.claims("e")
		r := m.get("e")
		require.True(t, r.Leased)
		require.Equal(t, 10*time.Second, time.Until(r.Due))
		m.claims()
		time.Sleep(10*time.Second - 1)
		m.claims()
		require.True(t, m.get("e").Leased)
		time.Sleep(time.Nanosecond)
		require.False(t, m.get("e").Leased)
		m.claims("e")
	})
	memBubble(t, "settled ones are not leased", func(t *testing.T, m memStore) {
		m.send("a", "b", "c")
		for i, c := range m.claim().Claims {
			m.finish(memOutcome(c, []State{Delivered, Dead, Cancelled}[i]))
		}
		time.Sleep(time.Hour)
		require.Equal(t, Claimed{}, m.claim())
	})
	memBubble(t, "tokens grow with each lease", func(t *testing.T, m memStore) {
		m.send("e")
		last := int64(0)
		for i := range 6 {
			c := m.one()
			require.Greater(t, c.Token, last)
			last = c.Token
			switch i % 3 {
			case 0:
				m.finish(memRetry(c, 0))
			case 1:
				m.finish(memRelease(c))
			case 2:
				time.Sleep(10 * time.Second)
			}
		}
	})
	memBubble(t, "tokens grow also after prune and a re-send with an old lease still out", func(t *testing.T, m memStore) {
		m.send("e")
		old := m.one()
		m.change(m.Cancel, Filter{Event: "e"}, 1)
		m.change(m.Prune, Filter{Event: "e"}, 1)
		m.send("e")
		m.lose(memOutcome(old, Delivered))
		c := m.one()
		require.Greater(t, c.Token, old.Token)
		require.Equal(t, 1, c.Attempt)
		m.lose(memOutcome(old, Dead))
		require.Equal(t, Pending, m.get("e").State)
		m.finish(memOutcome(c, Delivered))
	})
	memBubble(t, "the attempt counts those with an outcome, unfinished the lapses just before", func(t *testing.T, m memStore) {
		m.send("e")
		require := require.New(t)
		expect := func(attempt, unfinished int) Claim {
			t.Helper()
			c := m.one()
			require.Equal([]int{attempt, unfinished}, []int{c.Attempt, c.Unfinished})
			return c
		}
		lapse := func() { time.Sleep(10 * time.Second) }
		expect(1, 0)
		lapse()
		expect(1, 1)
		lapse()
		m.finish(memRetry(expect(1, 2), 0))
		expect(2, 0)
		lapse()
		m.finish(memRetry(expect(2, 1), 0))
		m.finish(memRetry(expect(3, 0), 0))
		expect(4, 0)
	})
	memBubble(t, "age is since it was enqueued, or replayed", func(t *testing.T, m memStore) {
		m.send("e")
		time.Sleep(3 * time.Second)
		c := m.one()
		require.Equal(t, 3*time.Second, c.Age)
		require.Zero(t, c.Replay)
		m.finish(memOutcome(c, Dead))
		time.Sleep(3 * time.Second)
		m.change(m.Replay, Filter{}, 1)
		time.Sleep(time.Second)
		c = m.one()
		require.Equal(t, time.Second, c.Age)
		require.Equal(t, 1, c.Replay)
	})
	memBubble(t, "no more than the limit in all, the longest due first", func(t *testing.T, m memStore) {
		for _, e := range []string{"a", "b", "c"} {
			m.send(e)
			time.Sleep(time.Nanosecond)
		}
		limit := func(r *ClaimRequest) { r.Limit = 2 }
		require.Equal(t, []string{"a", "b"}, memEvents(m.claim(limit).Claims))
		require.Equal(t, []string{"c"}, memEvents(m.claim(limit).Claims))
	})
	memBubble(t, "no more of a subscriber than its room", func(t *testing.T, m memStore) {
		for i := range 5 {
			for _, s := range []string{"none", "one", "rest", "more"} {
				m.enqueue(memDelivery(eventID(i), s))
			}
		}
		count := map[string]int{}
		for _, c := range m.claim(func(r *ClaimRequest) {
			r.PerSubscriber, r.Room = 2, map[string]int{"none": 0, "one": 1, "more": 4}
		}).Claims {
			count[c.ID.Subscriber]++
		}
		require.Equal(t, map[string]int{"one": 1, "rest": 2, "more": 4}, count)
	})
	memBubble(t, "no more suspects than asked for, and the others all the same", func(t *testing.T, m memStore) {
		m.send("a", "b", "c")
		for range 2 {
			m.claims("a", "b", "c")
			time.Sleep(10 * time.Second)
		}
		m.send("new")
		suspects := func(after, n int) []string {
			claims := m.claim(func(r *ClaimRequest) { r.SuspectAfter, r.Suspects = after, n }).Claims
			for _, c := range claims {
				m.finish(memRelease(c))
			}
			return memEvents(claims)
		}
		require.Equal(t, []string{"new"}, suspects(2, 0))
		require.Equal(t, []string{"new"}, suspects(1, 0))
		got := suspects(2, 1)
		require.Len(t, got, 2)
		require.Contains(t, got, "new")
		require.Len(t, suspects(2, 2), 3)
		require.Len(t, suspects(3, 0), 4, "2 lapses are less than 3")
		require.Len(t, suspects(2, 100), 4, "none was forgotten")
	})
	memBubble(t, "a suspect that the room does not admit holds its key", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"))
		m.claims("a")
		time.Sleep(10 * time.Second)
		require.Empty(t, m.claim(func(r *ClaimRequest) { r.SuspectAfter, r.Suspects = 1, 0 }).Claims)
		require.Equal(t, []string{"a"}, memEvents(m.claim(func(r *ClaimRequest) { r.SuspectAfter, r.Suspects = 1, 1 }).Claims))
	})
	memBubble(t, "an expired one is returned at the exact instant, with its fault", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memDelivery("e", "s"), func(d *Delivery) { d.TTL, d.Delay = 5*time.Second, time.Hour }))
		require.Equal(t, 5*time.Second, m.claim().Next)
		time.Sleep(5*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		c := m.one()
		require.Equal(t, ReasonExpired, c.Fault)
		require.Equal(t, Pending, m.get("e").State, "the Dispatcher makes it dead")
		m.finish(Outcome{Lease: c.Lease(), State: Dead, Reason: ReasonExpired})
		require.Equal(t, ReasonExpired, m.get("e").Reason)
	})
	memBubble(t, "one that has not expired has no fault", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memDelivery("e", "s"), func(d *Delivery) { d.TTL = 5 * time.Second }))
		m.send("forever")
		time.Sleep(5*time.Second - 1)
		for _, c := range m.claims("e", "forever") {
			require.Empty(t, c.Fault)
			m.finish(memRelease(c))
		}
		time.Sleep(time.Nanosecond)
		for _, c := range m.claims("e", "forever") {
			require.Equal(t, c.ID.Event == "e", c.Fault != "")
		}
	})
	memBubble(t, "an expired one with a lapsed lease is found again", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memDelivery("e", "s"), func(d *Delivery) { d.TTL = 5 * time.Second }))
		require.Empty(t, m.one().Fault)
		time.Sleep(10 * time.Second)
		require.Equal(t, ReasonExpired, m.one().Fault)
	})
}

func TestMemoryStoreTurns(t *testing.T) {
	fill := func(m memStore) {
		batch := make([]Delivery, 10_000)
		for i := range batch {
			batch[i] = memDelivery(eventID(i), "hog")
		}
		m.enqueue(batch...)
		for s := range 19 {
			for i := range 10 {
				m.enqueue(memDelivery(eventID(i), fmt.Sprintf("s%d", s)))
			}
		}
	}
	served := func(claims []Claim) map[string]int {
		count := map[string]int{}
		for _, c := range claims {
			count[c.ID.Subscriber]++
		}
		return count
	}
	memBubble(t, "across calls with limit 1, one of 20 has 10,000", func(t *testing.T, m memStore) {
		fill(m)
		for range 10 {
			var round []Claim
			for range 20 {
				c := m.one(func(r *ClaimRequest) { r.Limit, r.PerSubscriber = 1, 1 })
				m.finish(memOutcome(c, Delivered))
				round = append(round, c)
			}
			require.Len(t, served(round), 20)
		}
		require.Equal(t, map[string]int{"hog": 5}, served(m.claim(func(r *ClaimRequest) { r.Limit = 5 }).Claims))
	})
	memBubble(t, "within a call each has as much as its room", func(t *testing.T, m memStore) {
		fill(m)
		count := served(m.claim(func(r *ClaimRequest) { r.Limit, r.PerSubscriber = 60, 3 }).Claims)
		require.Len(t, count, 20)
		for s, n := range count {
			require.Equal(t, 3, n, s)
		}
	})
	memBubble(t, "one without room does not keep others waiting", func(t *testing.T, m memStore) {
		fill(m)
		var all []Claim
		for range 19 {
			all = append(all, m.one(func(r *ClaimRequest) { r.Limit, r.Room = 1, map[string]int{"hog": 0} }))
		}
		count := served(all)
		require.Len(t, count, 19)
		require.NotContains(t, count, "hog")
		require.Equal(t, "hog", m.one(func(r *ClaimRequest) { r.Limit = 1 }).ID.Subscriber, "every other one had a turn")
	})
	memBubble(t, "one that is due later has its turn before a second one of those before it", func(t *testing.T, m memStore) {
		m.send("a", "b", "c", "d")
		m.enqueue(memWith(memDelivery("x", "late"), func(d *Delivery) { d.Delay = time.Second }))
		one := func(r *ClaimRequest) { r.Limit = 1 }
		require.Equal(t, "s", m.one(one).ID.Subscriber)
		time.Sleep(time.Second)
		got := []string{m.one(one).ID.Subscriber, m.one(one).ID.Subscriber}
		require.Contains(t, got, "late")
	})
}

func TestMemoryStoreNext(t *testing.T) {
	delayed := func(event, subscriber string, d time.Duration) Delivery {
		return memWith(memDelivery(event, subscriber), func(x *Delivery) { x.Delay = d })
	}
	for _, test := range []struct {
		name    string
		prepare func(m memStore)
		request func(r *ClaimRequest)
		next    time.Duration
		later   int // claims at next
	}{
		{"nothing waits", func(memStore) {}, nil, 0, 0},
		{"all are settled", func(m memStore) { m.send("e"); m.finish(memOutcome(m.one(), Dead)) }, nil, 0, 0},
		{"a delay", func(m memStore) {
			m.enqueue(delayed("a", "s", 7*time.Second), delayed("b", "t", 5*time.Second))
			time.Sleep(time.Second)
		}, nil, 4 * time.Second, 1},
		{"a retry", func(m memStore) { m.send("e"); m.finish(memRetry(m.one(), 3*time.Second)) }, nil, 3 * time.Second, 1},
		{"the end of a lease", func(m memStore) { m.send("e"); m.one(); time.Sleep(time.Second) }, nil, 9 * time.Second, 1},
		{"the end of the leases of this call", func(m memStore) { m.send("e", "f") }, nil, 10 * time.Second, 2},
		{"a delay behind a lease", func(m memStore) {
			m.enqueue(delayed("later", "s", 4*time.Second))
			m.send("e")
			m.one()
		}, nil, 4 * time.Second, 1},
		{"the end of a pause", func(m memStore) { m.send("e"); m.pause("s", 6*time.Second) }, nil, 6 * time.Second, 1},
		{"a delay beyond a pause", func(m memStore) {
			m.enqueue(delayed("e", "s", 8*time.Second))
			m.pause("s", 6*time.Second)
		}, nil, 8 * time.Second, 1},
		{"a pause beyond a lease", func(m memStore) { m.send("e"); m.one(); m.pause("s", time.Minute) }, nil, time.Minute, 1},
		{"disabled", func(m memStore) { m.send("e"); m.disable("s", false) }, nil, 0, 0},
		{"disabled beside a delay", func(m memStore) {
			m.send("e")
			m.disable("s", false)
			m.enqueue(delayed("e", "t", time.Second))
		}, nil, time.Second, 1},
		{"no room", func(m memStore) {
			m.enqueue(delayed("e", "s", time.Second))
		}, func(r *ClaimRequest) { r.Room = map[string]int{"s": 0} }, 0, 0},
		{"no room for the earlier one", func(m memStore) {
			m.enqueue(delayed("e", "s", time.Second), delayed("e", "t", 2*time.Second))
		}, func(r *ClaimRequest) { r.Room = map[string]int{"s": 0} }, 2 * time.Second, 1},
		{"no room left", func(m memStore) {
			m.send("a", "b")
			m.enqueue(delayed("e", "t", 20*time.Second))
		}, func(r *ClaimRequest) { r.PerSubscriber = 1 }, 20 * time.Second, 2},
		{"the limit is reached", func(m memStore) { m.send("a", "b") }, func(r *ClaimRequest) { r.Limit = 1 }, 0, 1},
		{"an expiry", func(m memStore) {
			m.enqueue(memWith(delayed("e", "s", time.Hour), func(d *Delivery) { d.TTL = time.Minute }))
		}, nil, time.Minute, 1},
		{"the head of a key in its delay", func(m memStore) {
			m.enqueue(memWith(memKeyed("a"), func(d *Delivery) { d.Delay = 3 * time.Second }), memKeyed("b"))
		}, nil, 3 * time.Second, 1},
		{"a key held by a dead one", func(m memStore) {
			m.enqueue(memWith(memKeyed("a"), func(d *Delivery) { d.HoldOnDead = true }), memKeyed("b"))
			m.finish(memOutcome(m.one(), Dead))
		}, nil, 0, 0},
		{"a key held by the lease of a cancelled one", func(m memStore) {
			m.enqueue(memKeyed("a"), memKeyed("b"))
			m.one()
			m.change(m.Cancel, Filter{Event: "a"}, 1)
			time.Sleep(time.Second)
		}, nil, 9 * time.Second, 1},
		{"an earlier one replayed behind the lease of a later one", func(m memStore) {
			m.enqueue(memKeyed("a"), memKeyed("b"))
			m.finish(memOutcome(m.one(), Dead))
			m.one()
			time.Sleep(time.Second)
			m.change(m.Replay, Filter{Event: "a"}, 1)
		}, nil, 9 * time.Second, 1},
	} {
		memBubble(t, test.name, func(t *testing.T, m memStore) {
			test.prepare(m)
			var change []func(*ClaimRequest)
			if test.request != nil {
				change = append(change, test.request)
			}
			claimed := m.claim(change...)
			require.Equal(t, test.next, claimed.Next)
			if test.next > 0 {
				time.Sleep(test.next - 1)
				if test.name != "no room left" {
					require.Empty(t, m.claim(change...).Claims, "just before Next")
				}
				time.Sleep(time.Nanosecond)
				require.Len(t, m.claim(change...).Claims, test.later, "at Next")
			}
		})
	}
	memBubble(t, "suspects without room do not hide a later one of the same subscriber", func(t *testing.T, m memStore) {
		m.send("suspect")
		m.one()
		time.Sleep(10 * time.Second)
		m.enqueue(delayed("innocent", "s", 5*time.Second), delayed("far", "t", time.Minute))
		request := func(r *ClaimRequest) { r.SuspectAfter, r.Suspects = 1, 0 }
		claimed := m.claim(request)
		require.Empty(t, claimed.Claims)
		require.LessOrEqual(t, claimed.Next, 5*time.Second) // 0: unknown, which is allowed
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{"innocent"}, memEvents(m.claim(request).Claims))
	})
}

func TestMemoryStoreFinish(t *testing.T) {
	memBubble(t, "an outcome is applied, and its attempts are added to the history", func(t *testing.T, m memStore) {
		m.send("e")
		o := memRetry(m.one(), time.Second)
		o.Attempts = []Attempt{{Number: 1, Status: 500}}
		m.finish(o)
		r := m.get("e")
		require.Equal(t, Pending, r.State)
		require.False(t, r.Leased)
		time.Sleep(time.Second)
		o = memOutcome(m.one(), Dead)
		o.Reason, o.Attempts = ReasonPermanent, []Attempt{{Number: 2}, {Number: 2, Status: 404}}
		m.finish(o)
		r = m.get("e")
		require.Equal(t, Dead, r.State)
		require.Equal(t, ReasonPermanent, r.Reason)
		require.Equal(t, time.Now(), r.Since)
		require.Zero(t, r.Due)
		require.Equal(t, []Attempt{{Number: 1, Status: 500}, {Number: 2}, {Number: 2, Status: 404}}, r.Attempts)
	})
	memBubble(t, "even after the lease has ended, if nobody claimed since", func(t *testing.T, m memStore) {
		m.send("e")
		c := m.one()
		time.Sleep(time.Hour)
		m.finish(memOutcome(c, Delivered))
		require.Equal(t, Delivered, m.get("e").State)
		m.claims()
	})
	memBubble(t, "any other is lost and changes neither delivery nor standing", func(t *testing.T, m memStore) {
		m.send("e")
		old := m.one()
		time.Sleep(10 * time.Second)
		c := m.one()
		before := m.get("e")
		o := memOutcome(old, Delivered).memEffect(Effect{Pause: time.Hour})
		o.Attempts = []Attempt{{Number: 1}}
		m.lose(o)
		require.Equal(t, before, m.get("e"))
		require.Zero(t, m.standingOf("s"))
		m.finish(memRetry(c, 0))
		m.lose(memOutcome(old, Dead))
		require.Equal(t, Pending, m.get("e").State)
		require.Equal(t, 2, m.one().Attempt)
	})
	for name, over := range map[string]func(m memStore){
		"cancelled": func(m memStore) { m.change(m.Cancel, Filter{}, 1) },
		"cancelled and replayed": func(m memStore) {
			m.change(m.Cancel, Filter{}, 1)
			m.change(m.Replay, Filter{}, 1)
		},
		"cancelled after its lease and replayed": func(m memStore) {
			time.Sleep(time.Minute)
			m.change(m.Cancel, Filter{}, 1)
			m.change(m.Replay, Filter{}, 1)
		},
	} {
		memBubble(t, "lost is the outcome of one that was "+name, func(t *testing.T, m memStore) {
			m.send("e")
			c := m.one()
			over(m)
			before := m.get("e")
			m.lose(memOutcome(c, Delivered))
			require.Equal(t, before, m.get("e"))
		})
	}
	memBubble(t, "lost are unknown ones, which keep no others from being stored", func(t *testing.T, m memStore) {
		m.send("a", "b")
		claims := m.claims("a", "b")
		unknown := Outcome{Lease: Lease{DeliveryID{"x", "s"}, 1}, State: Dead}
		never := memOutcome(claims[0], Dead)
		never.Lease.Token += 1000
		lost, err := m.Finish(t.Context(), []Outcome{unknown, memOutcome(claims[0], Delivered), never, memOutcome(claims[1], Delivered)})
		require.NoError(t, err)
		require.ElementsMatch(t, []Lease{unknown.Lease, never.Lease}, lost)
		require.Equal(t, Stats{Delivered: 2}, m.stats())
	})
	memBubble(t, "a repeated one neither changes nor is lost until the next claim", func(t *testing.T, m memStore) {
		m.send("e")
		o := memRetry(m.one(), 5*time.Second).memEffect(Effect{})
		o.Attempts = []Attempt{{Number: 1}}
		m.finish(o)
		before := m.get("e")
		time.Sleep(time.Second)
		m.finish(o)
		m.finish(o, o)
		require.Equal(t, before, m.get("e"))
		require.Equal(t, 1, m.standingOf("s").Failures)
		time.Sleep(4 * time.Second)
		c := m.one()
		require.Equal(t, 2, c.Attempt)
		m.lose(o)
		m.finish(memOutcome(c, Delivered))
		m.finish(memOutcome(c, Delivered))
		m.finish(memOutcome(c, Dead)) // the first one counts
		require.Equal(t, Stats{Delivered: 1}, m.stats())
	})
	memBubble(t, "a repeated release neither changes nor is lost", func(t *testing.T, m memStore) {
		m.send("e")
		m.one()
		time.Sleep(10 * time.Second)
		o := memRelease(m.one())
		m.finish(o)
		m.finish(o)
		require.Equal(t, 1, m.one().Unfinished)
	})
	memBubble(t, "one that stays pending is due exactly when after has passed", func(t *testing.T, m memStore) {
		m.send("e")
		c := m.one()
		time.Sleep(2 * time.Second)
		m.finish(memRetry(c, 30*time.Second))
		require.Equal(t, 30*time.Second, time.Until(m.get("e").Due))
		time.Sleep(30*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		m.claims("e")
	})
	memBubble(t, "but no later than it expires", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memDelivery("e", "s"), func(d *Delivery) { d.TTL = 20 * time.Second }))
		m.finish(memRetry(m.one(), time.Hour))
		require.Equal(t, 20*time.Second, m.claim().Next)
		time.Sleep(20*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		require.Equal(t, ReasonExpired, m.one().Fault)
	})
	memBubble(t, "a negative after is none", func(t *testing.T, m memStore) {
		m.send("e")
		m.finish(memRetry(m.one(), -time.Hour))
		require.Equal(t, time.Now(), m.get("e").Due)
	})
	memBubble(t, "a release restores the counts exactly, also after lapses", func(t *testing.T, m memStore) {
		m.send("e")
		m.finish(memRetry(m.one(), 0))
		for range 2 {
			m.one()
			time.Sleep(10 * time.Second)
		}
		for range 3 {
			c := m.one()
			require.Equal(t, []int{2, 2}, []int{c.Attempt, c.Unfinished})
			m.finish(memRelease(c))
		}
		m.one()
		time.Sleep(10 * time.Second)
		require.Equal(t, 3, m.one().Unfinished)
	})
	memBubble(t, "a release is due when after has passed", func(t *testing.T, m memStore) {
		m.send("e")
		o := memRelease(m.one())
		o.After = 4 * time.Second
		m.finish(o)
		require.Equal(t, 4*time.Second, m.claim().Next)
		time.Sleep(4 * time.Second)
		require.Equal(t, 1, m.one().Attempt)
	})
	memBubble(t, "a late release gives back one lapse", func(t *testing.T, m memStore) {
		m.send("e")
		c := m.one()
		time.Sleep(time.Minute)
		m.finish(memRelease(c))
		c = m.one()
		require.Equal(t, []int{1, 0}, []int{c.Attempt, c.Unfinished})
	})
}

func TestMemoryStoreStanding(t *testing.T) {
	memBubble(t, "of a paused subscriber nothing is claimed until the exact end", func(t *testing.T, m memStore) {
		m.send("e")
		m.pause("s", 5*time.Second)
		m.claims()
		time.Sleep(5*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		m.claims("e")
	})
	memBubble(t, "of a disabled subscriber nothing is claimed until it is enabled", func(t *testing.T, m memStore) {
		m.disable("s", false)
		m.send("e")
		m.enqueue(memDelivery("e", "t"))
		require.Equal(t, "t", m.one().ID.Subscriber)
		time.Sleep(1000 * time.Hour)
		require.Equal(t, "t", m.one().ID.Subscriber)
		m.enable("s")
		m.claims("e")
	})
	memBubble(t, "of a disabled subscriber that cancels what waits all is claimed, with its standing", func(t *testing.T, m memStore) {
		m.send("e")
		m.disable("s", false)
		m.claims()
		m.disable("s", true)
		claimed := m.claim()
		require.Len(t, claimed.Claims, 1)
		require.True(t, claimed.Standings["s"].CancelWaiting)
	})
	memBubble(t, "a change that comes between claims is kept to, and a lease that is out is not touched", func(t *testing.T, m memStore) {
		m.send("a", "b")
		c := m.one(func(r *ClaimRequest) { r.Limit = 1 })
		m.disable("s", false)
		m.claims()
		m.finish(memOutcome(c, Delivered))
		require.Equal(t, 1, m.stats().Delivered)
	})
	memBubble(t, "standings are those kept of the subscribers in claims", func(t *testing.T, m memStore) {
		m.send("e")
		m.enqueue(memDelivery("e", "clean"))
		m.standing("s", func(_ time.Time, s *Standing) { s.Failures = 2 })
		m.standing("other", func(_ time.Time, s *Standing) { s.Failures = 3 })
		require.Equal(t, map[string]Standing{"s": {Subscriber: "s", Failures: 2}}, m.claim().Standings)
		require.Nil(t, m.claim().Standings)
	})
	memBubble(t, "an effect is applied with its outcome", func(t *testing.T, m memStore) {
		m.send("a", "b", "c", "d")
		claims := m.claims("a", "b", "c", "d")
		m.finish(memRetry(claims[0], 0).memEffect(Effect{Pause: 5 * time.Second, Reason: "slow"}))
		s := m.standingOf("s")
		require.Equal(t, 1, s.Failures)
		require.Equal(t, "slow", s.Reason)
		require.Equal(t, time.Now().Add(5*time.Second).UTC(), s.PausedUntil)
		require.Equal(t, 5*time.Second, m.claim().Next)
		m.finish(memRetry(claims[1], 0).memEffect(Effect{Disable: true}))
		require.True(t, m.standingOf("s").Disabled)
		epoch := m.standingOf("s").Epoch
		m.enable("s")
		require.Greater(t, m.standingOf("s").Epoch, epoch)
		m.finish(memRetry(claims[2], 0).memEffect(Effect{Disable: true}))
		require.True(t, m.standingOf("s").Clean(), "an effect of an older epoch is void")
		m.finish(memOutcome(claims[3], Delivered).memEffect(Effect{Epoch: m.standingOf("s").Epoch}))
		require.Equal(t, 1, m.standingOf("s").Failures)
	})
	memBubble(t, "a pause is never shortened", func(t *testing.T, m memStore) {
		m.send("a", "b", "c")
		claims := m.claims("a", "b", "c")
		m.finish(memRetry(claims[0], 0).memEffect(Effect{Pause: time.Hour}))
		m.finish(memRetry(claims[1], 0).memEffect(Effect{Pause: time.Second}))
		m.finish(memRetry(claims[2], 0).memEffect(Effect{Success: true}))
		require.Equal(t, time.Hour, m.claim().Next)
		time.Sleep(time.Hour - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		m.claims("a", "b", "c")
	})
	memBubble(t, "enabling resets all counters", func(t *testing.T, m memStore) {
		m.standing("s", func(now time.Time, s *Standing) {
			s.Failures = 9
			s.PausedUntil = now.Add(time.Hour)
			s.Disable(now, "test", true)
		})
		epoch := m.standingOf("s").Epoch
		m.enable("s")
		require.Equal(t, Standing{Subscriber: "s", Epoch: epoch + 1}, m.standingOf("s"))
	})
	memBubble(t, "update is given the store's clock and the standing, zero but for the ID", func(t *testing.T, m memStore) {
		time.Sleep(time.Second)
		var got []Standing
		err := m.UpdateStandings(t.Context(), []string{"a", "b"}, func(now time.Time, s *Standing) {
			require.Equal(t, time.Now(), now)
			got = append(got, *s)
		})
		require.NoError(t, err)
		require.Equal(t, []Standing{{Subscriber: "a"}, {Subscriber: "b"}}, got)
		m.requireEmpty()
	})
	t.Run("changes are applied one after the other", func(t *testing.T) {
		m := memNew(t)
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 100 {
					m.standing("s", func(_ time.Time, s *Standing) { s.Failures++ })
				}
			})
		}
		group.Wait()
		require.Equal(t, 800, m.standingOf("s").Failures)
	})
	memBubble(t, "the loop over standings can be left", func(t *testing.T, m memStore) {
		m.disable("a", false)
		m.disable("b", false)
		n := 0
		for range m.Standings(t.Context()) {
			n++
			break
		}
		require.Equal(t, 1, n)
	})
}

func TestMemoryStoreOrder(t *testing.T) {
	hold := func(d *Delivery) { d.HoldOnDead = true }
	memBubble(t, "only the earliest that is not settled is claimed", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"), memKeyed("c"))
		for i, state := range []State{Delivered, Dead, Cancelled} {
			c := m.one()
			require.Equal(t, string(rune('a'+i)), c.ID.Event)
			m.claims()
			m.finish(memOutcome(c, state))
		}
		m.claims()
	})
	memBubble(t, "also when the lease of the earliest lapses", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"))
		for range 3 {
			m.claims("a")
			time.Sleep(10 * time.Second)
		}
	})
	memBubble(t, "the earliest in its retry delay holds the others", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"))
		m.finish(memRetry(m.one(), time.Minute))
		time.Sleep(time.Minute - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		m.claims("a")
	})
	memBubble(t, "a released one is still the first", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"))
		m.finish(memRelease(m.one()))
		m.claims("a")
	})
	memBubble(t, "other keys, other subscribers and those without a key are unaffected", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"),
			memWith(memKeyed("c"), func(d *Delivery) { d.OrderKey = "other" }),
			memWith(memKeyed("d"), func(d *Delivery) { d.ID.Subscriber = "t" }),
			memDelivery("e", "s"), memDelivery("f", "s"))
		m.claims("a", "c", "d", "e", "f")
	})
	memBubble(t, "a later one that was due before the earliest waits", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memKeyed("a"), func(d *Delivery) { d.Delay = time.Minute }), memKeyed("b"))
		m.claims()
		time.Sleep(time.Minute)
		m.finish(memOutcome(m.claims("a")[0], Delivered))
		m.claims("b")
	})
	memBubble(t, "the next one keeps its own delay", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memWith(memKeyed("b"), func(d *Delivery) { d.Delay = time.Minute }))
		m.finish(memOutcome(m.one(), Delivered))
		require.Equal(t, time.Minute, m.claim().Next)
	})
	memBubble(t, "a dead one that does not hold lets the next one go", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memWith(memKeyed("b"), hold))
		m.finish(memOutcome(m.one(), Dead))
		m.claims("b")
	})
	memBubble(t, "a dead one that holds, holds until replay", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memKeyed("a"), hold), memKeyed("b"))
		m.finish(memOutcome(m.one(), Dead))
		time.Sleep(1000 * time.Hour)
		m.claims()
		m.enqueue(memKeyed("c"))
		m.claims()
		m.change(m.Replay, Filter{Event: "a"}, 1)
		m.finish(memOutcome(m.claims("a")[0], Delivered))
		m.finish(memOutcome(m.claims("b")[0], Delivered))
		m.claims("c")
	})
	memBubble(t, "a dead one that holds, holds until prune", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memKeyed("a"), hold), memKeyed("b"))
		m.finish(memOutcome(m.one(), Dead))
		m.claims()
		m.change(m.Prune, Filter{States: []State{Dead}}, 1)
		m.claims("b")
	})
	memBubble(t, "a dead one that holds, holds until it makes room for later dead ones", func(t *testing.T, m memStore) {
		m.MaxSettled = 1
		m.enqueue(memWith(memKeyed("a"), hold), memKeyed("b"))
		m.finish(memOutcome(m.one(), Dead))
		m.send("x")
		m.finish(memOutcome(m.claims("x")[0], Dead))
		_, err := m.Get(t.Context(), DeliveryID{"a", "s"})
		require.ErrorIs(t, err, ErrNotFound)
		m.claims("b")
	})
	memBubble(t, "one that holds and is delivered or cancelled does not hold", func(t *testing.T, m memStore) {
		m.enqueue(memWith(memKeyed("a"), hold), memWith(memKeyed("b"), hold), memKeyed("c"))
		m.finish(memOutcome(m.one(), Delivered))
		m.change(m.Cancel, Filter{Event: "b"}, 1)
		m.claims("c")
	})
	memBubble(t, "one that is cancelled in its delay lets the next one go", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"))
		m.finish(memRetry(m.one(), time.Minute))
		m.change(m.Cancel, Filter{Event: "a"}, 1)
		m.claims("b")
	})
	memBubble(t, "one that is cancelled in flight holds the key until its lease ends", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"))
		c := m.one()
		m.change(m.Cancel, Filter{Event: "a"}, 1)
		m.claims()
		m.enqueue(memKeyed("c"))
		m.lose(memOutcome(c, Delivered))
		m.claims()
		time.Sleep(10*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		m.finish(memOutcome(m.claims("b")[0], Delivered))
		m.claims("c")
	})
	memBubble(t, "also when it was the only one, and is pruned and sent again", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"))
		m.one()
		m.change(m.Cancel, Filter{}, 1)
		m.change(m.Prune, Filter{}, 1)
		m.enqueue(memKeyed("a"))
		require.Equal(t, 10*time.Second, m.claim().Next)
		time.Sleep(10 * time.Second)
		m.claims("a")
	})
	memBubble(t, "one that is cancelled after its lease ended lets the next one go", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"))
		m.one()
		time.Sleep(10 * time.Second)
		m.change(m.Cancel, Filter{Event: "a"}, 1)
		m.claims("b")
	})
	memBubble(t, "all of a key cancelled at once", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"), memKeyed("b"), memKeyed("c"))
		m.one()
		m.change(m.Cancel, Filter{}, 3)
		m.change(m.Replay, Filter{Event: "b"}, 1)
		require.Equal(t, 10*time.Second, m.claim().Next)
		time.Sleep(10 * time.Second)
		m.claims("b")
	})

	// replayed: a is dead and replayed while b, which is later, is leased.
	replayed := func(m memStore, change ...func(*Delivery)) (b Claim) {
		second := memKeyed("b")
		for _, f := range change {
			f(&second)
		}
		m.enqueue(memKeyed("a"), second, memKeyed("c"))
		m.finish(memOutcome(m.claims("a")[0], Dead))
		b = m.claims("b")[0]
		m.change(m.Replay, Filter{Event: "a"}, 1)
		m.claims()
		return b
	}
	memBubble(t, "an earlier one replayed while a later one is leased comes when that is finished", func(t *testing.T, m memStore) {
		m.finish(memOutcome(replayed(m), Delivered))
		m.finish(memOutcome(m.claims("a")[0], Delivered))
		m.claims("c")
	})
	memBubble(t, "or when that is to be retried, which waits then", func(t *testing.T, m memStore) {
		m.finish(memRetry(replayed(m), 0))
		m.finish(memOutcome(m.claims("a")[0], Delivered))
		m.finish(memOutcome(m.claims("b")[0], Delivered))
		m.claims("c")
	})
	memBubble(t, "or when that is dead and holds, which it does after the earlier one", func(t *testing.T, m memStore) {
		m.finish(memOutcome(replayed(m, hold), Dead))
		m.finish(memOutcome(m.claims("a")[0], Delivered))
		m.claims()
		m.change(m.Prune, Filter{Event: "b"}, 1)
		m.claims("c")
	})
	memBubble(t, "or when that is cancelled and its lease has ended", func(t *testing.T, m memStore) {
		replayed(m)
		m.change(m.Cancel, Filter{Event: "b"}, 1)
		time.Sleep(10*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		m.finish(memOutcome(m.claims("a")[0], Delivered))
		m.claims("c")
	})
	memBubble(t, "or when the lease of that lapses", func(t *testing.T, m memStore) {
		replayed(m)
		time.Sleep(10*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		a := m.claims("a")[0]
		m.claims()
		m.finish(memOutcome(a, Delivered))
		b := m.claims("b")[0]
		require.Equal(t, 1, b.Unfinished)
		m.finish(memOutcome(b, Delivered))
		m.claims("c")
	})
	for _, state := range []State{Pending, "released", Delivered, Dead} {
		late := func(c Claim) Outcome {
			if state == "released" {
				return memRelease(c)
			}
			return memOutcome(c, state)
		}
		after := func(m memStore, a Claim) {
			m.claims()
			m.finish(memOutcome(a, Delivered))
			if state == Pending || state == "released" {
				m.finish(memOutcome(m.claims("b")[0], Delivered))
			}
			m.claims("c")
		}
		memBubble(t, fmt.Sprintf("a late outcome of that, %s, while the earlier one is leased, leaves the order as it is", state), func(t *testing.T, m memStore) {
			b := replayed(m)
			time.Sleep(10 * time.Second)
			a := m.claims("a")[0]
			m.finish(late(b))
			require.Nil(t, Misplaced(m.MemoryStore), "Claim would not return")
			after(m, a)
		})
		memBubble(t, fmt.Sprintf("a late outcome, %s, after the earlier one was replayed leaves the order as it is", state), func(t *testing.T, m memStore) {
			m.enqueue(memKeyed("a"), memKeyed("b"), memKeyed("c"))
			m.finish(memOutcome(m.claims("a")[0], Dead))
			b := m.claims("b")[0]
			time.Sleep(10 * time.Second)
			m.change(m.Replay, Filter{Event: "a"}, 1)
			m.finish(late(b))
			require.Nil(t, Misplaced(m.MemoryStore), "Claim would not return")
			after(m, m.claims("a")[0])
		})
	}

	memBubble(t, "a lapsed one that waits for the lease of a cancelled one is not leased itself", func(t *testing.T, m memStore) {
		replayed(m)
		time.Sleep(10 * time.Second)
		m.claims("a")
		m.change(m.Cancel, Filter{Event: "a"}, 1)
		require.False(t, m.get("b").Leased)
		m.claims()
		time.Sleep(10 * time.Second)
		require.Equal(t, 1, memPick(m.claims("b"), "b").Unfinished)
	})

	memBubble(t, "finished keys leave no memory behind", func(t *testing.T, m memStore) {
		for i := range 50 {
			for j := range 3 {
				d := memDelivery(fmt.Sprintf("e%d-%d", i, j), fmt.Sprintf("s%d", i%7))
				d.OrderKey, d.HoldOnDead = fmt.Sprintf("k%d", i), i%2 == 0
				m.enqueue(d)
			}
		}
		for i, c := range m.claim().Claims {
			switch i % 5 {
			case 0:
				m.finish(memOutcome(c, Delivered))
			case 1, 2:
				m.finish(memOutcome(c, Dead))
			case 3:
				m.change(m.Cancel, Filter{Event: c.ID.Event, Subscriber: c.ID.Subscriber}, 1)
			}
		}
		m.change(m.Replay, Filter{States: []State{Dead}, Limit: 5}, 5)
		for range 3 {
			for _, c := range m.claim().Claims {
				m.finish(memOutcome(c, Cancelled))
			}
		}
		time.Sleep(time.Minute)
		_, err := m.Cancel(t.Context(), Filter{})
		require.NoError(t, err)
		m.change(m.Prune, Filter{}, 150)
		m.claims()
		m.requireEmpty()
	})
	memBubble(t, "a key held by a cancelled lease is forgotten when that has ended", func(t *testing.T, m memStore) {
		m.enqueue(memKeyed("a"))
		m.one()
		m.change(m.Cancel, Filter{}, 1)
		m.change(m.Prune, Filter{}, 1)
		require.Len(t, m.lanes, 1)
		time.Sleep(10 * time.Second)
		m.claims()
		m.requireEmpty()
	})
}

func TestMemoryStoreManager(t *testing.T) {
	ctx := context.Background()
	memBubble(t, "get returns the delivery or not found", func(t *testing.T, m memStore) {
		_, err := m.Get(ctx, DeliveryID{"e", "s"})
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorContains(t, err, `event "e" for subscriber "s"`)
		when := time.Now().Add(-time.Hour)
		m.enqueue(memWith(memKeyed("e"), func(d *Delivery) { d.Time = when }))
		require.Equal(t, Record{
			ID: DeliveryID{"e", "s"}, Type: "test.event", Time: when, OrderKey: "k", Payload: memPayload,
			State: Pending, Since: time.Now(), Due: time.Now(),
		}, m.get("e"))
	})
	memBubble(t, "list selects by each field, in the order of enqueue", func(t *testing.T, m memStore) {
		m.enqueue(memDelivery("b", "s"), memDelivery("a", "s"), memDelivery("a", "t"))
		time.Sleep(10 * time.Second)
		m.enqueue(memWith(memDelivery("c", "t"), func(d *Delivery) { d.Type = "test.other" }))
		c := m.one(func(r *ClaimRequest) { r.Limit, r.Room = 1, map[string]int{"t": 0} })
		require.Equal(t, "b", c.ID.Event)
		m.finish(memOutcome(c, Dead))
		time.Sleep(5 * time.Second)
		for _, test := range []struct {
			filter Filter
			want   string
		}{
			{Filter{}, "b/s a/s a/t c/t"},
			{Filter{Limit: 2}, "b/s a/s"},
			{Filter{Limit: 9}, "b/s a/s a/t c/t"},
			{Filter{Event: "a"}, "a/s a/t"},
			{Filter{Event: "a", Limit: 1}, "a/s"},
			{Filter{Event: "a", Subscriber: "t"}, "a/t"},
			{Filter{Event: "a", Subscriber: "t", Type: "test.other"}, ""},
			{Filter{Event: "b", Subscriber: "t"}, ""},
			{Filter{Subscriber: "t"}, "a/t c/t"},
			{Filter{Type: "test.other"}, "c/t"},
			{Filter{Type: "test"}, ""},
			{Filter{States: []State{Dead}}, "b/s"},
			{Filter{States: []State{Dead, Pending}, Subscriber: "s"}, "b/s a/s"},
			{Filter{States: []State{Delivered}}, ""},
			{Filter{OlderThan: 15 * time.Second}, "a/s a/t"},
			{Filter{OlderThan: 15*time.Second + 1}, ""},
			{Filter{NewerThan: 5 * time.Second}, "b/s c/t"},
			{Filter{NewerThan: 5*time.Second - 1}, ""},
			{Filter{OlderThan: 5 * time.Second, NewerThan: 14 * time.Second}, "b/s c/t"},
			{Filter{Event: "x"}, ""},
		} {
			require.Equal(t, test.want, strings.Join(m.list(test.filter), " "), "%+v", test.filter)
		}
	})
	memBubble(t, "the loop over a list can be left, and calls the store", func(t *testing.T, m memStore) {
		m.send("a", "b", "c")
		n := 0
		for r := range m.List(ctx, Filter{}) {
			m.change(m.Cancel, Filter{Event: r.ID.Event}, 1)
			if n++; n == 2 {
				break
			}
		}
		require.Equal(t, Stats{Pending: 1, Cancelled: 2}, m.stats())
	})
	for _, state := range []State{Delivered, Dead, Cancelled} {
		memBubble(t, fmt.Sprintf("replay of one that is %s keeps ID, payload and place, with counts and expiry as if new", state), func(t *testing.T, m memStore) {
			m.enqueue(memWith(memDelivery("a", "s"), func(d *Delivery) { d.TTL, d.Delay = time.Minute, time.Second }))
			m.send("b")
			time.Sleep(time.Second)
			a := memPick(m.claims("a", "b"), "a")
			o := memRetry(a, 20*time.Second)
			o.Attempts = []Attempt{{Number: 1}}
			m.finish(o)
			time.Sleep(20 * time.Second)
			m.claims("a", "b") // lapses
			time.Sleep(10 * time.Second)
			a = memPick(m.claims("a", "b"), "a")
			m.finish(Outcome{Lease: a.Lease(), State: state, Reason: "why"})
			time.Sleep(time.Hour)
			m.change(m.Replay, Filter{States: []State{state}}, 1)
			r := m.get("a")
			require.Equal(t, Pending, r.State)
			require.Empty(t, r.Reason)
			require.Equal(t, []any{time.Now(), time.Now(), 1}, []any{r.Since, r.Due, r.Replay})
			require.Len(t, r.Attempts, 1, "the history stays")
			require.Equal(t, []string{"a/s", "b/s"}, m.list(Filter{}))
			_, err := m.Finish(ctx, []Outcome{memOutcome(a, Delivered)}) // applied before, and of an old token: lost or not
			require.NoError(t, err)
			require.Equal(t, r, m.get("a"))
			m.change(m.Cancel, Filter{Event: "b"}, 1)
			c := m.one()
			require.Equal(t, []int{1, 0, 1}, []int{c.Attempt, c.Unfinished, c.Replay})
			require.Greater(t, c.Token, a.Token)
			require.Equal(t, a.Delivery, c.Delivery)
			require.Same(t, memPayload, c.Payload)
			require.Empty(t, c.Fault)
			m.finish(memRetry(c, time.Hour))
			require.Equal(t, time.Minute, m.claim().Next, "the expiry is anew")
		})
	}
	memBubble(t, "replay without states means dead and cancelled, pending ones are passed over", func(t *testing.T, m memStore) {
		m.send("a", "b", "c", "d")
		for i, c := range m.claims("a", "b", "c", "d")[:3] {
			m.finish(memOutcome(c, []State{Delivered, Dead, Cancelled}[i]))
		}
		m.change(m.Replay, Filter{States: []State{Pending}}, 0)
		m.change(m.Replay, Filter{}, 2)
		require.Equal(t, Stats{Pending: 3, Delivered: 1}, m.stats())
		m.change(m.Replay, Filter{States: []State{Pending, Delivered}}, 1)
		require.Equal(t, Stats{Pending: 4}, m.stats())
		m.change(m.Replay, Filter{}, 0)
	})
	memBubble(t, "replay of one that may still be on the wire is due when that lease ends", func(t *testing.T, m memStore) {
		m.send("e")
		c := m.one()
		time.Sleep(time.Second)
		m.change(m.Cancel, Filter{}, 1)
		m.change(m.Replay, Filter{}, 1)
		require.Equal(t, 9*time.Second, m.claim().Next)
		m.lose(memOutcome(c, Delivered))
		time.Sleep(9*time.Second - 1)
		m.claims()
		time.Sleep(time.Nanosecond)
		require.Zero(t, m.one().Unfinished)
	})
	memBubble(t, "also when it is cancelled and replayed once more", func(t *testing.T, m memStore) {
		m.send("e")
		m.one()
		for range 2 {
			m.change(m.Cancel, Filter{}, 1)
			m.change(m.Replay, Filter{}, 1)
		}
		m.claims() // the request of the first lease may still be under way
		time.Sleep(10 * time.Second)
		m.claims("e")
	})
	memBubble(t, "replay after that lease is due at once", func(t *testing.T, m memStore) {
		m.send("e")
		m.one()
		m.change(m.Cancel, Filter{}, 1)
		time.Sleep(time.Minute)
		m.change(m.Replay, Filter{}, 1)
		require.Equal(t, time.Now(), m.get("e").Due)
		m.claims("e")
	})
	memBubble(t, "replay of one that was cancelled in its delay is due at once", func(t *testing.T, m memStore) {
		m.send("e")
		m.finish(memRetry(m.one(), time.Hour))
		m.change(m.Cancel, Filter{}, 1)
		m.change(m.Replay, Filter{}, 1)
		m.claims("e")
	})
	memBubble(t, "cancel takes pending ones alone and ends the token", func(t *testing.T, m memStore) {
		m.send("a", "b", "c", "d")
		claims := m.claims("a", "b", "c", "d")
		m.finish(memOutcome(claims[0], Delivered), memOutcome(claims[1], Dead), memRetry(claims[2], time.Hour))
		m.change(m.Cancel, Filter{States: []State{Delivered, Dead, Cancelled}}, 0)
		m.change(m.Cancel, Filter{}, 2)
		m.change(m.Cancel, Filter{}, 0)
		m.lose(memOutcome(claims[3], Delivered))
		require.Equal(t, Stats{Delivered: 1, Dead: 1, Cancelled: 2}, m.stats())
		r := m.get(claims[3].ID.Event)
		require.Equal(t, ReasonCancelled, r.Reason)
		require.False(t, r.Leased)
		time.Sleep(2 * time.Hour)
		m.claims()
	})
	memBubble(t, "cancel of what is asked for together with settled states", func(t *testing.T, m memStore) {
		m.send("a", "b")
		m.finish(memOutcome(m.claims("a", "b")[0], Dead))
		m.change(m.Cancel, Filter{States: []State{Dead, Pending}}, 1)
		require.Equal(t, Stats{Dead: 1, Cancelled: 1}, m.stats())
	})
	memBubble(t, "prune removes settled ones alone, with their attempts", func(t *testing.T, m memStore) {
		m.send("a", "b", "c", "d", "e")
		for i, c := range m.claims("a", "b", "c", "d", "e")[:3] {
			o := memOutcome(c, []State{Delivered, Dead, Cancelled}[i])
			o.Attempts = []Attempt{{Number: 1}}
			m.finish(o)
		}
		m.change(m.Prune, Filter{States: []State{Pending}}, 0)
		m.change(m.Prune, Filter{States: []State{Pending, Dead}}, 1)
		m.change(m.Prune, Filter{OlderThan: time.Second}, 0)
		m.change(m.Prune, Filter{}, 2)
		require.Equal(t, Stats{Pending: 2}, m.stats())
		m.send("a")
		require.Empty(t, m.get("a").Attempts)
		m.claims("a")
	})
	memBubble(t, "stats count and tell what has been due longest", func(t *testing.T, m memStore) {
		require.Equal(t, Stats{}, m.stats())
		m.enqueue(memWith(memDelivery("later", "s"), func(d *Delivery) { d.Delay = 10 * time.Second }))
		require.Equal(t, Stats{Pending: 1}, m.stats())
		m.enqueue(memDelivery("e", "t"))
		time.Sleep(13 * time.Second)
		require.Equal(t, Stats{Pending: 2, OldestDue: 13 * time.Second}, m.stats())
		c := m.one(func(r *ClaimRequest) { r.Room = map[string]int{"s": 0} })
		require.Equal(t, Stats{Pending: 2, OldestDue: 3 * time.Second}, m.stats(), "not those that are claimed")
		m.finish(memRetry(c, 0))
		time.Sleep(time.Second)
		require.Equal(t, Stats{Pending: 2, OldestDue: 4 * time.Second}, m.stats())
		m.change(m.Cancel, Filter{Subscriber: "s"}, 1)
		require.Equal(t, Stats{Pending: 1, Cancelled: 1, OldestDue: time.Second}, m.stats())
	})
	memBubble(t, "settled ones are bounded, the dead apart from the others", func(t *testing.T, m memStore) {
		m.MaxSettled = 3
		settle := func(state State, events ...string) {
			m.send(events...)
			for _, c := range m.claims(events...) {
				m.finish(memOutcome(c, state))
			}
		}
		for _, e := range []string{"d1", "d2", "d3"} {
			settle(Dead, e)
		}
		for _, e := range []string{"o1", "o2", "o3", "o4"} {
			settle([]State{Delivered, Cancelled}[e[1]%2], e)
		}
		require.Equal(t, []string{"d1/s", "d2/s", "d3/s", "o2/s", "o3/s", "o4/s"}, m.list(Filter{}))
		settle(Dead, "d4")
		require.Equal(t, []string{"d2/s", "d3/s", "o2/s", "o3/s", "o4/s", "d4/s"}, m.list(Filter{}))
		m.change(m.Replay, Filter{Event: "d2"}, 1) // is no longer bounded
		m.one()
		settle(Delivered, "o5")
		require.Equal(t, []string{"d2/s", "d3/s", "o3/s", "o4/s", "d4/s", "o5/s"}, m.list(Filter{}))
		require.Equal(t, 1, m.stats().Pending)
	})
	memBubble(t, "one that settles may take the place of another one of its order", func(t *testing.T, m memStore) {
		m.MaxSettled = 2
		m.enqueue(memKeyed("a"), memKeyed("b"), memWith(memKeyed("c"), func(d *Delivery) { d.HoldOnDead = true }))
		m.finish(memOutcome(m.claims("a")[0], Delivered))
		m.finish(memOutcome(m.claims("b")[0], Delivered))
		m.finish(memOutcome(m.claims("c")[0], Dead))
		m.send("other")
		m.finish(memOutcome(m.claims("other")[0], Dead))
		m.change(m.Replay, Filter{Event: "b", States: []State{Delivered}}, 1)
		b := m.claims("b")[0]
		m.change(m.Replay, Filter{Event: "a", States: []State{Delivered}}, 1)
		m.finish(memOutcome(b, Dead)) // c is forgotten
		require.Nil(t, Misplaced(m.MemoryStore))
		require.Equal(t, []string{"a/s", "b/s", "other/s"}, m.list(Filter{}))
		m.finish(memOutcome(m.claims("a")[0], Dead))
		require.Equal(t, []string{"a/s", "b/s"}, m.list(Filter{}))
	})
}

func TestMemoryStoreNotify(t *testing.T) {
	memBubble(t, "wakes once at the begin and after each change, until the context ends", func(t *testing.T, m memStore) {
		ctx, cancel := context.WithCancel(context.Background())
		var woken atomic.Int64
		done := make(chan error, 1)
		go func() { done <- m.Notify(ctx, func() { woken.Add(1) }) }()
		synctest.Wait()
		require.EqualValues(t, 1, woken.Load())
		wakes := func(what string, f func()) {
			t.Helper()
			woken.Store(0)
			f()
			synctest.Wait()
			require.NotZero(t, woken.Load(), what)
		}
		hold := memWith(memKeyed("a"), func(d *Delivery) { d.HoldOnDead = true })
		wakes("Enqueue", func() { m.enqueue(hold, memKeyed("b"), memKeyed("c"), memKeyed("d")) })
		a := m.one()
		wakes("Finish of one that is to be retried", func() { m.finish(memRetry(a, 0)) })
		a = m.one()
		wakes("Finish of one that is released", func() { m.finish(memRelease(a)) })
		m.finish(memOutcome(m.one(), Dead))
		wakes("Prune of one that held", func() { m.change(m.Prune, Filter{}, 1) })
		b := m.one()
		wakes("Finish of the first of a key", func() { m.finish(memOutcome(b, Delivered)) })
		wakes("Cancel of the first of a key", func() { m.change(m.Cancel, Filter{Event: "c"}, 1) })
		wakes("Replay", func() { m.change(m.Replay, Filter{}, 1) })
		wakes("UpdateStandings", func() { m.enable("s") })
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		woken.Store(0)
		m.send("x")
		require.Zero(t, woken.Load())
		require.Empty(t, m.wakers)
	})
	memBubble(t, "wakes all who asked, and returns why it ended", func(t *testing.T, m memStore) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var woken [2]atomic.Int64
		done := make(chan error, 2)
		for i := range woken {
			go func() { done <- m.Notify(ctx, func() { woken[i].Add(1) }) }()
		}
		synctest.Wait()
		m.send("e")
		require.EqualValues(t, 2, woken[0].Load())
		require.EqualValues(t, 2, woken[1].Load())
		require.ErrorIs(t, errors.Join(<-done, <-done), context.DeadlineExceeded)
	})
}

func TestMemoryStoreConcurrentClaims(t *testing.T) {
	t.Run("of 8 goroutines never overlap", func(t *testing.T) {
		m := memNew(t)
		const n = 2000
		for i := range n {
			d := memDelivery(eventID(i), fmt.Sprintf("s%d", i%13))
			if i%3 == 0 {
				d.OrderKey = fmt.Sprintf("k%d", i%5)
			}
			m.enqueue(d)
		}
		var mu sync.Mutex
		out := map[string]bool{} // leased deliveries and keys
		tokens := map[Lease]bool{}
		hold := func(c Claim, held bool) {
			mu.Lock()
			defer mu.Unlock()
			names := []string{c.ID.String()}
			if c.OrderKey != "" {
				names = append(names, c.ID.Subscriber+" "+c.OrderKey)
			}
			for _, name := range names {
				if out[name] == held {
					t.Errorf("%s is leased twice", name)
				}
				out[name] = held
			}
			if held {
				if tokens[c.Lease()] {
					t.Errorf("%v is not new", c.Lease())
				}
				tokens[c.Lease()] = true
			}
		}
		var delivered atomic.Int64
		var group sync.WaitGroup
		for g := range 8 {
			group.Go(func() {
				for i := 0; delivered.Load() < n && !t.Failed(); i++ {
					claimed, err := m.Claim(context.Background(), ClaimRequest{Limit: 7, PerSubscriber: 3, SuspectAfter: 3, Suspects: 1, Lease: time.Hour})
					if err != nil {
						t.Error(err)
						return
					}
					for j, c := range claimed.Claims {
						hold(c, true)
						o := memOutcome(c, Delivered)
						if (g+i+j)%4 == 0 {
							o = memRelease(c)
						}
						hold(c, false)
						if lost, err := m.Finish(context.Background(), []Outcome{o}); err != nil || len(lost) > 0 {
							t.Errorf("lost %v, %v", lost, err)
						}
						if o.State == Delivered {
							delivered.Add(1)
						}
					}
				}
			})
		}
		group.Wait()
		require.Equal(t, Stats{Delivered: n}, m.stats())
	})
}

func BenchmarkMemoryStore(b *testing.B) {
	ctx := context.Background()
	fill := func(b *testing.B, n int) *MemoryStore {
		s := &MemoryStore{MaxPending: 10 * n, MaxPerSubscriber: 10 * n}
		for i := range n {
			_, err := s.Enqueue(ctx, []Delivery{memDelivery(eventID(i), fmt.Sprintf("s%d", i%100))})
			require.NoError(b, err)
		}
		return s
	}
	for _, size := range []struct {
		name string
		n    int
	}{{"1k", 1000}, {"100k", 100_000}} {
		b.Run("enqueue/"+size.name, func(b *testing.B) {
			s := fill(b, size.n)
			batch := make([]Delivery, 100)
			for i := range batch {
				batch[i] = memDelivery("more"+eventID(i), fmt.Sprintf("s%d", i))
			}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Enqueue(ctx, batch[i:i+1]); err != nil {
					b.Fatal(err)
				}
				if i++; i == len(batch) { // back to the size
					b.StopTimer()
					for _, d := range batch {
						f := Filter{Event: d.ID.Event, Subscriber: d.ID.Subscriber}
						_, _ = s.Cancel(ctx, f)
						_, _ = s.Prune(ctx, f)
					}
					i = 0
					b.StartTimer()
				}
			}
		})
		b.Run("claim+finish/"+size.name, func(b *testing.B) {
			s := fill(b, size.n)
			request := ClaimRequest{Limit: 1, PerSubscriber: 8, SuspectAfter: 3, Suspects: 1, Lease: time.Minute}
			outcomes := make([]Outcome, 1)
			b.ReportAllocs()
			for b.Loop() {
				claimed, err := s.Claim(ctx, request)
				if err != nil || len(claimed.Claims) != 1 {
					b.Fatal(claimed, err)
				}
				outcomes[0] = memRelease(claimed.Claims[0])
				if lost, err := s.Finish(ctx, outcomes); err != nil || len(lost) > 0 {
					b.Fatal(lost, err)
				}
			}
		})
	}
}
