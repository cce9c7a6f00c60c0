package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outhook/outhook"
)

// handles is that two handles share all that the store keeps.
func handles(t *trial) {
	if t.Other == nil {
		t.skip("Backend.Other is nil")
	}
	b := t.other()

	// Deliveries, leases and outcomes.
	t.enqueue(t.delivery("e", "s"), t.delivery("first", "s", key("k")))
	b.enqueue(b.delivery("second", "s", key("k")))
	known, err := b.send(b.delivery("e", "s"))
	t.must("Enqueue", err)
	t.check(slices.Equal(known, []outhook.DeliveryID{of("e")}), "known is %v, want e/s, which the other handle enqueued", known)
	claims := b.take("e", "first")
	t.none("the other handle leased it or what is before it", "e", "first", "second")
	t.finish(retry(claims[0], 0)) // of the other's lease
	old := b.one("e")
	t.settles(claims[1], outhook.Delivered)
	b.settles(b.one("second"), outhook.Delivered)
	b.finish(release(old))
	c := t.oneFor(t.short(), "e")
	t.check(c.Token > old.Token && c.Attempt == 2, "e has token %d and Attempt %d, want more than %d of the other handle, and 2", c.Token, c.Attempt, old.Token)
	c2 := b.comes(t.short(), "e")
	t.check(c2.Token > c.Token && c2.Unfinished == 1, "e has token %d and Unfinished %d, want more than %d, and 1", c2.Token, c2.Unfinished, c.Token)
	t.loses("the other handle claimed the delivery since", outcome(c, outhook.Dead))
	t.settles(c2, outhook.Delivered)
	b.finish(outcome(c2, outhook.Delivered)) // applied by the other

	// Turns.
	const n = 6
	var batch []outhook.Delivery
	for i := range n {
		for j := range 4 {
			batch = append(batch, t.delivery(fmt.Sprintf("turn%d", j), fmt.Sprintf("t%d", i)))
		}
	}
	t.enqueue(batch...)
	var served []string
	for range n / 2 {
		deliver := func(c outhook.Claim) outhook.Outcome { return outcome(c, outhook.Delivered) }
		served = append(served, t.round(1, deliver)...)
		served = append(served, b.round(1, deliver)...)
	}
	t.check(distinct(served) == n,
		"%v were served by two handles in turn, want each of %d subscribers once", served, n)

	// Standings.
	if _, ok := t.Store.(outhook.StandingStore); ok {
		t.enqueue(t.delivery("e", "p"))
		b.pause("p", hour)
		t.none("the other handle paused its subscriber", "e/p")
		t.enable("p")
		c := b.one("e/p")
		t.disable("p", false)
		b.finish(with(retry(c, 0), outhook.Effect{Disable: true})) // of an old epoch
		b.none("the other handle disabled its subscriber", "e/p")
		t.check(b.kept("p") == t.kept("p"), "the standings of two handles differ: %+v and %+v", b.kept("p"), t.kept("p"))
		b.enable("p")
		t.settles(t.one("e/p"), outhook.Delivered)
	}
	if _, ok := t.Store.(outhook.Manager); ok {
		t.events("cancelled")
		c := t.one("cancelled")
		b.change("Cancel", only("cancelled"), 1)
		t.loses("the other handle cancelled it", outcome(c, outhook.Delivered))
		b.change("Prune", only("cancelled"), 1)
		t.events("cancelled")
		again := t.one("cancelled")
		t.check(again.Token > c.Token, "cancelled was pruned and enqueued again, and has token %d, want more than %d", again.Token, c.Token)
	}
}

// contexts is that a call that is cancelled happens wholly or not at all, may be
// repeated, and holds nothing up.
func contexts(t *trial) {
	// cancelled calls f with contexts that end before or during the call.
	cancelled := func(round int, f func(context.Context) error) {
		ctx, cancel := context.WithCancel(t.ctx)
		var group sync.WaitGroup
		if round%4 == 0 {
			cancel()
		} else {
			group.Go(func() {
				for range 100 * (round % 4) {
					ctx.Err() // so little that it is mostly in the middle
				}
				cancel()
			})
		}
		t.log("with a context that ends: error %v", f(ctx))
		group.Wait()
	}
	next := t // makes the calls after those that were cancelled
	const rounds = 6
	request := outhook.ClaimRequest{Limit: 9, PerSubscriber: 9, SuspectAfter: 1000, Suspects: 9, Lease: t.short()}
	for round := range rounds {
		if t.Other != nil && round%2 == 0 { // what is left of one must not hold up another process
			next = t.other()
		} else {
			next = t
		}
		name := fmt.Sprintf("e%d", round)
		batch := []outhook.Delivery{t.delivery(name, "s"), t.delivery(name, "u"), t.delivery(name, "v", key("k"))}
		cancelled(round, func(ctx context.Context) error {
			_, err := t.Store.Enqueue(ctx, batch)
			return err
		})
		var known []outhook.DeliveryID
		t.prompt("Enqueue after one that was cancelled", func() {
			var err error
			known, err = next.send(batch...)
			t.must("Enqueue after one that was cancelled", err)
		})
		t.check(len(known) == 0 || len(known) == 3, "known is %v after an Enqueue that was cancelled, want all or none", known)

		var maybe []outhook.Claim
		cancelled(round+1, func(ctx context.Context) error {
			claimed, err := t.Store.Claim(ctx, request)
			maybe = claimed.Claims
			return err
		})
		claims := maybe
		if len(maybe) < 3 { // what was leased falls due again
			t.pass(t.short())
			t.prompt("Claim after one that was cancelled", func() { claims = next.take(name+"/s", name+"/u", name+"/v") })
		}
		var outcomes []outhook.Outcome
		for _, c := range claims {
			outcomes = append(outcomes, outcome(c, outhook.Delivered))
		}
		cancelled(round+2, func(ctx context.Context) error {
			_, err := t.Store.Finish(ctx, outcomes)
			return err
		})
		t.prompt("Finish after one that was cancelled", func() { next.finish(outcomes...) })
		next.none("it is delivered", name+"/s", name+"/u", name+"/v")

		if s, ok := t.Store.(outhook.StandingStore); ok {
			before := t.kept("s").Failures
			cancelled(round+3, func(ctx context.Context) error {
				return s.UpdateStandings(ctx, []string{"s", "u"}, func(_ time.Time, s *outhook.Standing) { s.Failures++ })
			})
			a, b := t.kept("s").Failures, t.kept("u").Failures
			t.check(a == b && (a == before || a == before+1), "Failures are %d and %d after an update of %d that was cancelled, want both changed or none", a, b, before)
		}
		if m, ok := t.Store.(outhook.Manager); ok {
			for i, call := range []func(context.Context, outhook.Filter) (int, error){m.Replay, m.Cancel, m.Prune} {
				cancelled(round+i, func(ctx context.Context) error {
					_, err := call(ctx, outhook.Filter{Event: name, States: append(settledStates, outhook.Pending)})
					return err
				})
				got := make(map[outhook.State]int)
				for r, err := range m.List(t.ctx, outhook.Filter{Event: name}) {
					t.must("List", err)
					got[r.State]++
				}
				t.check(len(got) <= 1, "of 3 deliveries are %v after a call that was cancelled, want all changed or none", got)
			}
			_, err := m.Cancel(t.ctx, outhook.Filter{}) // those replayed, lest they come later
			t.must("Cancel", err)
		}
	}
}

// concurrency is that claims of many workers do not overlap, and that each
// delivery is delivered once.
func concurrency(t *trial) {
	const n, workers = 300, 8
	var batch []outhook.Delivery
	for i := range n {
		d := t.delivery(fmt.Sprintf("e%d", i), fmt.Sprintf("s%d", i%13))
		if i%3 == 0 {
			d.OrderKey = fmt.Sprintf("k%d", i%5)
		}
		if batch = append(batch, d); len(batch) == 50 {
			t.enqueue(batch...)
			batch = nil
		}
	}
	stores := []outhook.Store{t.Store, t.Store}
	if t.Other != nil {
		stores[1] = t.Other
	} else {
		t.note("claims by two handles: Backend.Other is nil")
	}
	var (
		f         failures
		mu        sync.Mutex          // guards the maps
		out       = map[string]bool{} // what is leased: deliveries and orders
		tokens    = map[outhook.Lease]bool{}
		times     = map[outhook.DeliveryID]int{}
		delivered atomic.Int64
		failed    atomic.Int64 // calls
		group     sync.WaitGroup
		end       = time.Now().Add(patience)
	)
	leased := func(c *outhook.Claim, begins bool) {
		mu.Lock()
		defer mu.Unlock()
		names := []string{c.ID.String()}
		if c.OrderKey != "" {
			names = append(names, "the order "+c.ID.Subscriber+" "+c.OrderKey)
		}
		for _, name := range names {
			if begins && out[name] {
				f.add("%s is leased twice at one time", name)
			}
			out[name] = begins
		}
		if begins && tokens[c.Lease()] {
			f.add("token %d of %s was given twice", c.Token, c.ID)
		}
		tokens[c.Lease()] = true
	}
	// again is what a Dispatcher does: it repeats, but not for ever.
	again := func(call string, err error) {
		if n := failed.Add(1); n > 50 {
			f.add("%s has failed too often: %w", call, err)
		} else if n == 1 {
			mu.Lock()
			t.note(fmt.Sprintf("why %s failed once at least beside others, and was repeated: %v", call, err))
			mu.Unlock()
		}
		time.Sleep(ms)
	}
	for g := range workers {
		group.Go(func() {
			for i := 0; delivered.Load() < n && !f.any() && time.Now().Before(end); i++ {
				claimed, err := stores[g%2].Claim(t.ctx, outhook.ClaimRequest{Limit: 10, PerSubscriber: 3, SuspectAfter: 3, Suspects: 1, Lease: hour})
				if err != nil {
					again("Claim", err)
					continue
				}
				if len(claimed.Claims) == 0 {
					time.Sleep(ms)
					continue
				}
				var outcomes []outhook.Outcome
				for j := range claimed.Claims {
					c := &claimed.Claims[j]
					leased(c, true)
					o := outcome(*c, outhook.Delivered)
					if (g+i+j)%4 == 0 {
						o = release(*c)
					}
					outcomes = append(outcomes, o)
				}
				for j := range claimed.Claims {
					leased(&claimed.Claims[j], false)
				}
				lost, err := stores[(g+i)%2].Finish(t.ctx, outcomes)
				for err != nil && !f.any() {
					again("Finish", err)
					lost, err = stores[(g+i)%2].Finish(t.ctx, outcomes)
				}
				if len(lost) > 0 {
					f.add("Finish reports %v as lost, want none: these leases are live", lost)
				}
				mu.Lock()
				for _, o := range outcomes {
					if o.State == outhook.Delivered {
						times[o.Lease.ID]++
						delivered.Add(1)
					}
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.must("of concurrent calls", f.err())
	t.check(len(times) == n && delivered.Load() == n, "%d of %d deliveries were delivered, %d times in all, want each once", len(times), n, delivered.Load())
	t.check(len(t.claim().Claims) == 0, "Claim returned a delivery when all are delivered")
	if m, ok := t.Store.(outhook.Manager); ok {
		got, err := m.Stats(t.ctx)
		t.must("Stats", err)
		t.check(got == outhook.Stats{Delivered: n}, "Stats is %+v, want %d delivered", got, n)
	}
}
