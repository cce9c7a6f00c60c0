package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

const (
	ms       = time.Millisecond
	hour     = time.Hour        // not while a test runs
	patience = 60 * time.Second // with a store whose clock is real
)

// A trial is the check of one rule on one backend. Its methods call the store
// and end the trial when that does not do what every store has to.
type trial struct {
	ctx  context.Context
	open func() (Backend, error)
	Backend
	*journal
	dispatcher *outhook.Dispatcher // makes deliveries
	notes      []string            // what could not be checked
}

func newTrial(ctx context.Context, newBackend func() (Backend, error)) *trial {
	return &trial{ctx: ctx, open: newBackend, journal: new(journal)}
}

// A journal has the calls of a trial, for the text of its failure.
type journal struct {
	mu    sync.Mutex // guards calls
	calls []string
}

func (j *journal) log(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, fmt.Sprintf(format, args...))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var s strings.Builder
	for _, call := range j.calls[max(0, len(j.calls)-20):] {
		s.WriteString("\n\t" + call)
	}
	return s.String()
}

// ended is the panic that ends a trial.
type ended struct{ err error }

func (t *trial) run(check func(*trial)) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case ended:
			err = r.err
		default:
			panic(r)
		}
		if closed := t.close(); err == nil {
			err = closed
		}
	}()
	t.dispatcher, err = outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		StoreKeysInPlaintext: true, // a store has to be able to keep them
		MaxPayload:           4 << 20,
	})
	t.must("make a Dispatcher", err)
	t.renew()
	check(t)
	return nil
}

// renew begins again with a new backend.
func (t *trial) renew() {
	t.must("close the backend", t.close())
	backend, err := t.open()
	t.must("open a backend", err)
	t.Backend = backend
	t.log("on a new backend:")
}

func (t *trial) close() error {
	closing := t.Close
	t.Backend = Backend{}
	if closing == nil {
		return nil
	}
	return closing()
}

func (t *trial) fail(format string, args ...any) {
	panic(ended{fmt.Errorf(format+"%s", append(args, t.journal)...)})
}

func (t *trial) check(ok bool, format string, args ...any) {
	if !ok {
		t.fail(format, args...)
	}
}

func (t *trial) must(call string, err error) {
	if err != nil {
		t.fail("%s: %w", call, err)
	}
}

func (t *trial) skip(why string) {
	panic(ended{fmt.Errorf("%w: %s", ErrSkipped, why)})
}

// note says that a part of the rule could not be checked.
func (t *trial) note(why string) { t.notes = append(t.notes, why) }

// other returns the trial as the second handle sees it.
func (t *trial) other() *trial {
	other := *t
	other.Store = t.Other
	return &other
}

func (t *trial) manages() bool {
	_, ok := t.Store.(outhook.Manager)
	if !ok {
		t.note("what a Manager does: the store is no outhook.Manager")
	}
	return ok
}

// manager returns the store as a Manager, or skips the rule.
func (t *trial) manager() outhook.Manager {
	m, ok := t.Store.(outhook.Manager)
	if !ok {
		t.skip("the store is no outhook.Manager")
	}
	return m
}

// standings returns the store as a StandingStore, or skips the rule.
func (t *trial) standings() outhook.StandingStore {
	s, ok := t.Store.(outhook.StandingStore)
	if !ok {
		t.skip("the store is no outhook.StandingStore")
	}
	return s
}

// exact reports whether the clock stands still between calls.
func (t *trial) exact() bool { return t.Sleep != nil }

// short is a duration to be waited for.
func (t *trial) short() time.Duration {
	if t.exact() {
		return 10 * time.Second
	}
	return 40 * ms
}

// pass lets a duration pass on the store's clock, or a little more if it is real.
func (t *trial) pass(d time.Duration) {
	t.log("%v pass", d)
	if t.exact() {
		t.Sleep(d)
	} else {
		time.Sleep(d + 5*ms)
	}
}

// until polls for what may take a while.
func (t *trial) until(what string, done func() bool) {
	for end := time.Now().Add(patience); !done(); time.Sleep(2 * ms) {
		t.check(time.Now().Before(end), "not within %v: %s", patience, what)
	}
}

// send calls Enqueue.
func (t *trial) send(deliveries ...outhook.Delivery) (known []outhook.DeliveryID, err error) {
	known, err = t.Store.Enqueue(t.ctx, deliveries)
	t.log("Enqueue(%s) = known %v, error %v", describe(deliveries), known, err)
	return known, err
}

// enqueue stores deliveries that are new.
func (t *trial) enqueue(deliveries ...outhook.Delivery) {
	known, err := t.send(deliveries...)
	t.must("Enqueue", err)
	t.check(len(known) == 0, "Enqueue of new deliveries: known is %v, want none", known)
}

// events enqueues deliveries of subscriber "s" that are due.
func (t *trial) events(events ...string) {
	var batch []outhook.Delivery
	for _, event := range events {
		batch = append(batch, t.delivery(event, "s"))
	}
	t.enqueue(batch...)
}

// keyed enqueues deliveries of subscriber "s" and order key "k" that are due.
func (t *trial) keyed(events ...string) {
	for _, event := range events {
		t.enqueue(t.delivery(event, "s", key("k")))
	}
}

// claim calls Claim with much room and a long lease, unless told otherwise.
func (t *trial) claim(changes ...func(*outhook.ClaimRequest)) outhook.Claimed {
	request := outhook.ClaimRequest{Limit: 1000, PerSubscriber: 1000, SuspectAfter: 1000, Suspects: 1000, Lease: hour}
	for _, change := range changes {
		change(&request)
	}
	claimed, err := t.Store.Claim(t.ctx, request)
	var got []string
	for i := range claimed.Claims {
		c := &claimed.Claims[i]
		line := fmt.Sprintf("%s token %d attempt %d unfinished %d", c.ID, c.Token, c.Attempt, c.Unfinished)
		if c.Fault != "" {
			line += fmt.Sprintf(" fault %q", c.Fault)
		}
		if got = append(got, line); len(got) == 10 {
			got = append(got, fmt.Sprintf("%d in all", len(claimed.Claims)))
			break
		}
	}
	t.log("Claim(limit %d, room %d %v, suspects %d from %d, lease %v) = [%s], next %v, error %v",
		request.Limit, request.PerSubscriber, request.Room, request.Suspects, request.SuspectAfter, request.Lease,
		strings.Join(got, "; "), claimed.Next, err)
	t.must("Claim", err)
	return claimed
}

// prompt makes calls that something that was left of another one might hold up.
func (t *trial) prompt(what string, calls func()) {
	done := make(chan any, 1)
	go func() {
		defer func() { done <- recover() }()
		calls()
	}()
	select {
	case r := <-done:
		if r != nil {
			panic(r)
		}
	case <-time.After(patience):
		t.fail("%s has not returned for %v: something is left that holds it up", what, patience)
	}
}

// lease is how long a claim of a trial lasts.
func lease(d time.Duration) func(*outhook.ClaimRequest) {
	return func(r *outhook.ClaimRequest) { r.Lease = d }
}

func limit(n int) func(*outhook.ClaimRequest) {
	return func(r *outhook.ClaimRequest) { r.Limit = n }
}

// index returns where the claim of a delivery is, named by event, or by event
// and subscriber; -1 if nowhere.
func index(claims []outhook.Claim, name string) int {
	return slices.IndexFunc(claims, func(c outhook.Claim) bool { return c.ID.Event == name || c.ID.String() == name })
}

// take claims until it has all that are named, and returns them in that order.
// Others may come, too.
func (t *trial) take(names ...string) []outhook.Claim { return t.takeFor(hour, names...) }

func (t *trial) takeFor(d time.Duration, names ...string) []outhook.Claim {
	found := make([]outhook.Claim, len(names))
	missing := slices.Clone(names)
	for len(missing) > 0 {
		claims := t.claim(lease(d)).Claims
		before := len(missing)
		for i, name := range names {
			if j := index(claims, name); j >= 0 {
				found[i] = claims[j] // perhaps once more, if the lease is short
				missing = slices.DeleteFunc(missing, func(x string) bool { return x == name })
			}
		}
		t.check(len(missing) < before, "Claim did not return %v, which can be claimed", missing)
	}
	return found
}

func (t *trial) one(name string) outhook.Claim { return t.take(name)[0] }

// oneFor is one with a lease of d.
func (t *trial) oneFor(d time.Duration, name string) outhook.Claim { return t.takeFor(d, name)[0] }

// none claims and sees to it that certain deliveries do not come.
func (t *trial) none(why string, names ...string) {
	claims := t.claim().Claims
	for _, name := range names {
		t.check(index(claims, name) < 0, "Claim returned %s, want it to be held back: %s", name, why)
	}
}

// comes claims a delivery that is due after d.
func (t *trial) comes(d time.Duration, name string) outhook.Claim { return t.comesFor(hour, d, name) }

// comesFor is comes with a lease.
func (t *trial) comesFor(leased, d time.Duration, name string) (c outhook.Claim) {
	if t.exact() {
		t.pass(d)
		return t.oneFor(leased, name)
	}
	t.until(fmt.Sprintf("Claim returns %s, which can be claimed after %v", name, d), func() bool {
		claims := t.claim(lease(leased)).Claims
		i := index(claims, name)
		if i >= 0 {
			c = claims[i]
		}
		return i >= 0
	})
	return c
}

// exactly is comes for a delivery that is due no earlier than d after since, and
// also sees to that. On a clock that stands still, since is now.
func (t *trial) exactly(since time.Time, d time.Duration, name string) outhook.Claim {
	if t.exact() {
		t.pass(d - ms)
		t.none(fmt.Sprintf("it can be claimed %v later", ms), name)
		return t.comes(ms, name)
	}
	c := t.comes(d, name)
	took := time.Since(since)
	t.check(took >= d-ms, "Claim returned %s within %v, want it to be held back for %v", name, took, d)
	return c
}

// apply calls Finish.
func (t *trial) apply(outcomes ...outhook.Outcome) (lost []outhook.Lease, err error) {
	lost, err = t.Store.Finish(t.ctx, outcomes)
	var given []string
	for _, o := range outcomes {
		line := fmt.Sprintf("%s token %d %s", o.Lease.ID, o.Lease.Token, o.State)
		if o.State == outhook.Pending {
			line += fmt.Sprintf(" after %v", o.After)
		}
		if o.Released {
			line += " released"
		}
		if o.Effect != nil {
			line += fmt.Sprintf(" effect %+v", *o.Effect)
		}
		if given = append(given, line); len(given) == 10 {
			given = append(given, fmt.Sprintf("%d in all", len(outcomes)))
			break
		}
	}
	t.log("Finish(%s) = lost %v, error %v", strings.Join(given, "; "), lost, err)
	return lost, err
}

// finish applies outcomes of live leases.
func (t *trial) finish(outcomes ...outhook.Outcome) {
	lost, err := t.apply(outcomes...)
	t.must("Finish", err)
	t.check(len(lost) == 0, "Finish reports %v as lost, want none: these leases are live", lost)
}

// loses applies an outcome that has to be lost.
func (t *trial) loses(why string, o outhook.Outcome) {
	lost, err := t.apply(o)
	t.must("Finish", err)
	t.check(slices.Equal(lost, []outhook.Lease{o.Lease}), "Finish reports %v as lost, want %v: %s", lost, o.Lease, why)
}

// late applies an outcome after its lease, and reports whether it was applied: if
// not, it is for another rule to judge.
func (t *trial) late(o outhook.Outcome) bool {
	lost, err := t.apply(o)
	t.must("Finish", err)
	return len(lost) == 0
}

// settles finishes a claim.
func (t *trial) settles(c outhook.Claim, state outhook.State) { t.finish(outcome(c, state)) }

// outcome settles a claim after one attempt.
func outcome(c outhook.Claim, state outhook.State) outhook.Outcome {
	o := outhook.Outcome{Lease: c.Lease(), State: state, Attempts: []outhook.Attempt{{
		Number: c.Attempt, Replay: c.Replay, Time: time.Unix(1_700_000_000, 0), Status: 500,
	}}}
	switch state {
	case outhook.Delivered:
		o.Attempts[0].Status = 200
	case outhook.Dead:
		o.Reason = outhook.ReasonPermanent
	case outhook.Cancelled:
		o.Reason = outhook.ReasonDisabled
	}
	return o
}

// retry is an outcome after which the delivery is due again.
func retry(c outhook.Claim, after time.Duration) outhook.Outcome {
	o := outcome(c, outhook.Pending)
	o.After = after
	return o
}

func release(c outhook.Claim) outhook.Outcome {
	return outhook.Outcome{Lease: c.Lease(), State: outhook.Pending, Released: true}
}

// later is an outcome after which the delivery is due when d has passed.
func later(o outhook.Outcome, d time.Duration) outhook.Outcome {
	o.After = d
	return o
}

// with adds an effect to an outcome.
func with(o outhook.Outcome, e outhook.Effect) outhook.Outcome {
	o.Effect = &e
	return o
}

// lapse claims a delivery that is due, and lets the lease end.
func (t *trial) lapse(name string) {
	t.oneFor(t.short(), name)
	t.pass(t.short())
}

// get returns a delivery as the Manager shows it.
func (t *trial) get(id outhook.DeliveryID) outhook.Record {
	r, err := t.manager().Get(t.ctx, id)
	t.must("Get "+id.String(), err)
	return r
}

// list returns what List shows, as IDs.
func (t *trial) list(filter outhook.Filter) (ids []string) {
	for r, err := range t.manager().List(t.ctx, filter) {
		t.must("List", err)
		ids = append(ids, r.ID.String())
	}
	t.log("List(%+v) = %v", filter, ids)
	return ids
}

// change calls Replay, Cancel or Prune, which has to change n deliveries.
func (t *trial) change(call string, filter outhook.Filter, n int) {
	m := t.manager()
	do := map[string]func(context.Context, outhook.Filter) (int, error){
		"Replay": m.Replay, "Cancel": m.Cancel, "Prune": m.Prune,
	}[call]
	got, err := do(t.ctx, filter)
	t.log("%s(%+v) = %d, error %v", call, filter, got, err)
	t.must(call, err)
	t.check(got == n, "%s(%+v) changed %d deliveries, want %d", call, filter, got, n)
}

// only selects one delivery of subscriber "s".
func only(event string) outhook.Filter { return outhook.Filter{Event: event, Subscriber: "s"} }

// standing changes a standing.
func (t *trial) standing(subscriber string, update func(now time.Time, s *outhook.Standing)) {
	var result outhook.Standing
	err := t.standings().UpdateStandings(t.ctx, []string{subscriber}, func(now time.Time, s *outhook.Standing) {
		update(now, s)
		result = *s
	})
	t.log("UpdateStandings(%s) = %+v, error %v", subscriber, result, err)
	t.must("UpdateStandings", err)
}

func (t *trial) pause(subscriber string, d time.Duration) {
	t.standing(subscriber, func(now time.Time, s *outhook.Standing) { s.PausedUntil = now.Add(d) })
}

func (t *trial) disable(subscriber string, cancelWaiting bool) {
	t.standing(subscriber, func(now time.Time, s *outhook.Standing) { s.Disable(now, "by hand", cancelWaiting) })
}

func (t *trial) enable(subscriber string) {
	t.standing(subscriber, func(_ time.Time, s *outhook.Standing) { s.Enable() })
}

// kept returns the standing that the store keeps, zero if it keeps none.
func (t *trial) kept(subscriber string) (kept outhook.Standing) {
	for s, err := range t.standings().Standings(t.ctx) {
		t.must("Standings", err)
		if s.Subscriber == subscriber {
			kept = s
		}
	}
	return kept
}

// now returns the store's clock, if it shows it.
func (t *trial) now() (now time.Time) {
	s, ok := t.Store.(outhook.StandingStore)
	if !ok {
		return time.Time{}
	}
	t.must("UpdateStandings", s.UpdateStandings(t.ctx, []string{"clock"}, func(at time.Time, _ *outhook.Standing) { now = at }))
	return now
}

// failures collects what goes wrong in several goroutines.
type failures struct {
	mu   sync.Mutex // guards errs
	errs []error
}

func (f *failures) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, fmt.Errorf(format, args...))
}

func (f *failures) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.errs) > 0
}

// err returns the first few.
func (f *failures) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.errs[:min(len(f.errs), 5)]...)
}
