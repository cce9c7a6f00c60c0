package outhook

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// memModel is a Store written from the contract alone: a slice that is
// scanned. Instants are durations since it was made.
type memModel struct {
	rows      []*memModelRow       // in the order of Enqueue
	standings map[string]*Standing // of all subscribers
	locks     map[string]instant   // by subscriber and key: end of the lease of one that was cancelled
	wire      map[DeliveryID]instant
	epoch     time.Time
}

type memModelRow struct {
	Delivery
	state            State
	entered, expires instant
	due              instant // the next attempt, or the end of the lease
	claimed          int64   // the latest token of Claim, 0 if Cancel or Replay came after it
	live             bool
	attempts         int
	unfinished       int
	replay           int
}

func (r *memModelRow) key() string { return r.ID.Subscriber + " " + r.OrderKey }

func (r *memModelRow) leased(now instant) bool {
	return r.state == Pending && r.live && now < r.due
}

func (r *memModelRow) holds() bool {
	return r.state == Pending || r.state == Dead && r.HoldOnDead
}

// from returns the instant from which a row could be claimed if nothing changes
// but the time; never if that does not suffice.
func (m *memModel) from(r *memModelRow, now instant) instant {
	if r.state != Pending {
		return never
	}
	at := r.due
	if r.OrderKey != "" {
		at = max(at, m.locks[r.key()])
		earlier := true
		for _, other := range m.rows {
			if other == r {
				earlier = false
			} else if other.key() == r.key() {
				if earlier && other.holds() {
					return never
				}
				if other.leased(now) {
					at = max(at, other.due)
				}
			}
		}
	}
	s := m.standings[r.ID.Subscriber]
	switch {
	case s.Disabled && !s.CancelWaiting:
		return never
	case !s.Disabled:
		at = max(at, s.PausedUntil.Sub(m.epoch))
	}
	return at
}

func (m *memModel) row(id DeliveryID) *memModelRow {
	for _, r := range m.rows {
		if r.ID == id {
			return r
		}
	}
	return nil
}

func (m *memModel) begin(r *memModelRow, now instant, delay time.Duration) {
	r.state, r.entered, r.expires = Pending, now, never
	r.claimed, r.live, r.attempts, r.unfinished = 0, false, 0, 0
	if r.TTL > 0 {
		r.expires = now + r.TTL
	}
	r.due = min(now+delay, r.expires)
}

func (m *memModel) enqueue(d Delivery, now instant) (known bool) {
	if m.row(d.ID) != nil {
		return true
	}
	r := &memModelRow{Delivery: d}
	m.begin(r, now, d.Delay)
	m.rows = append(m.rows, r)
	return false
}

func (m *memModel) finish(o Outcome, now instant) (lost bool) {
	r := m.row(o.Lease.ID)
	if r == nil || r.claimed != o.Lease.Token {
		return true
	}
	if !r.live {
		return false
	}
	r.live = false
	if o.Effect != nil {
		m.standings[r.ID.Subscriber].Apply(m.epoch.Add(now), *o.Effect)
	}
	if o.Released {
		r.unfinished--
	} else {
		r.attempts++
		r.unfinished = 0
	}
	r.state = o.State
	if o.State == Pending {
		r.due = min(now+o.After, r.expires)
	}
	return false
}

func (m *memModel) cancel(r *memModelRow, now instant) {
	if r.leased(now) {
		m.wire[r.ID] = r.due
		if r.OrderKey != "" {
			m.locks[r.key()] = r.due
		}
	}
	r.state, r.live, r.claimed = Cancelled, false, 0
}

func (m *memModel) replay(r *memModelRow, now instant) {
	m.begin(r, now, 0)
	r.due = max(r.due, m.wire[r.ID])
	r.replay++
}

func (m *memModel) prune(r *memModelRow) {
	m.rows = slices.DeleteFunc(m.rows, func(x *memModelRow) bool { return x == r })
	delete(m.wire, r.ID) // it is another delivery when it is sent again
}

// memRun is one sequence of operations on a store and its model.
type memRun struct {
	t       *testing.T
	rand    *rand.Rand
	store   *MemoryStore
	model   *memModel
	suspect bool // suspects are told apart
	leases  []Claim
	applied map[Lease]bool
	last    map[DeliveryID]int64 // greatest token
	seed    uint64
	log     []func() string
}

func (r *memRun) now() instant { return time.Since(r.model.epoch) }

// require fails with what led here.
func (r *memRun) require(ok bool, format string, args ...any) {
	r.t.Helper()
	if !ok {
		r.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), r.history())
	}
}

func (r *memRun) history() string {
	var s strings.Builder
	fmt.Fprintf(&s, "seed %d", r.seed)
	for _, line := range r.log[max(0, len(r.log)-40):] {
		s.WriteString("\n" + line())
	}
	return s.String()
}

func (r *memRun) say(format string, args ...any) {
	now := r.now()
	r.log = append(r.log, func() string { return fmt.Sprintf("%4.0fs ", now.Seconds()) + fmt.Sprintf(format, args...) })
}

func (r *memRun) seconds(n int) time.Duration { return time.Duration(r.rand.IntN(n)) * time.Second }

func (r *memRun) oneIn(n int) bool { return r.rand.IntN(n) == 0 }

func (r *memRun) subscriber() string { return string(rune('s' + r.rand.IntN(3))) }

func (r *memRun) enqueue() {
	var batch []Delivery
	seen := map[DeliveryID]bool{}
	for range 1 + r.rand.IntN(3) {
		d := memDelivery(eventID(r.rand.IntN(12)), r.subscriber())
		if seen[d.ID] {
			continue
		}
		seen[d.ID] = true
		d.OrderKey = []string{"", "j", "k"}[r.rand.IntN(3)]
		d.HoldOnDead = r.oneIn(3)
		if r.oneIn(3) {
			d.Delay = r.seconds(8)
		}
		if r.oneIn(3) {
			d.TTL = r.seconds(15)
		}
		batch = append(batch, d)
		r.say("enqueue %v key %q hold %v delay %v ttl %v", d.ID, d.OrderKey, d.HoldOnDead, d.Delay, d.TTL)
	}
	var want []DeliveryID
	for _, d := range batch {
		if r.model.enqueue(d, r.now()) {
			want = append(want, d.ID)
		}
	}
	known, err := r.store.Enqueue(context.Background(), batch)
	r.require(err == nil, "%v", err)
	r.require(slices.Equal(want, known), "known: %v, want %v", known, want)
}

func (r *memRun) claim() {
	request := ClaimRequest{
		Limit: 1 + r.rand.IntN(6), PerSubscriber: 1 + r.rand.IntN(4),
		SuspectAfter: 1000, Lease: time.Second + r.seconds(6),
	}
	if r.suspect {
		request.SuspectAfter, request.Suspects = 1+r.rand.IntN(2), r.rand.IntN(2)
	}
	if r.oneIn(3) {
		request.Room = map[string]int{r.subscriber(): r.rand.IntN(3)}
	}
	r.say("claim %+v", request)
	claimed, err := r.store.Claim(context.Background(), request)
	r.require(err == nil, "%v", err)
	now := r.now()
	m := r.model
	room := func(id string) int {
		n, ok := request.Room[id]
		if !ok {
			n = request.PerSubscriber
		}
		for _, c := range claimed.Claims {
			if c.ID.Subscriber == id {
				n--
			}
		}
		return n
	}
	r.require(len(claimed.Claims) <= request.Limit, "%d claims", len(claimed.Claims))
	suspects := 0
	standings := map[string]Standing{}
	for _, c := range claimed.Claims {
		row := m.row(c.ID)
		r.say("  %v token %d", c.ID, c.Token)
		r.require(row != nil && m.from(row, now) <= now, "%v cannot be claimed", c.ID)
		r.require(c.Token > r.last[c.ID], "%v: token %d after %d", c.ID, c.Token, r.last[c.ID])
		want := Claim{
			Delivery: row.Delivery, Token: c.Token, Attempt: row.attempts + 1,
			Unfinished: row.unfinished, Replay: row.replay, Age: now - row.entered,
		}
		if row.expires <= now {
			want.Fault = ReasonExpired
		}
		r.require(c == want, "claim\n%v, want\n%v", c, want)
		if c.Unfinished >= request.SuspectAfter {
			suspects++
		}
		r.require(room(c.ID.Subscriber) >= 0, "no room for %v", c.ID)
		row.claimed, row.live, row.due = c.Token, true, now+request.Lease
		row.unfinished++
		r.last[c.ID] = c.Token
		r.leases = append(r.leases, c)
		if s := m.standings[c.ID.Subscriber]; *s != (Standing{Subscriber: c.ID.Subscriber}) {
			standings[c.ID.Subscriber] = *s
		}
	}
	r.require(suspects <= request.Suspects || !r.suspect, "%d suspects", suspects)
	r.require(len(standings) == len(claimed.Standings), "standings %v, want %v", claimed.Standings, standings)
	for id, s := range standings {
		r.require(claimed.Standings[id] == s, "standing %v, want %v", claimed.Standings[id], s)
	}
	if len(claimed.Claims) == request.Limit {
		return
	}
	next, doubtful := never, false
	for _, row := range m.rows {
		at := m.from(row, now)
		if at == never || room(row.ID.Subscriber) == 0 {
			continue
		}
		if row.unfinished >= request.SuspectAfter {
			doubtful = true
			if suspects == request.Suspects {
				continue
			}
		}
		r.require(at > now, "%v was not claimed", row.ID)
		next = min(next, at)
	}
	want := next - now
	if next == never {
		want = 0
	}
	r.require(claimed.Next == want || doubtful, "next is %v, want %v", claimed.Next, want)
}

func (r *memRun) finish() {
	var outcomes []Outcome
	var want []Lease
	open := map[Lease]bool{} // the contract leaves open whether they are lost
	for range 1 + r.rand.IntN(3) {
		if len(r.leases) == 0 {
			break
		}
		i := r.rand.IntN(len(r.leases))
		if !r.oneIn(4) { // mostly one of the latest
			i = max(len(r.leases)-1-r.rand.IntN(4), 0)
		}
		c := r.leases[i]
		o := Outcome{Lease: c.Lease(), State: []State{Pending, Pending, Delivered, Dead, Cancelled}[r.rand.IntN(5)]}
		if o.State == Pending {
			o.After = r.seconds(8)
			o.Released = r.oneIn(2)
		}
		if r.oneIn(4) {
			o.Effect = &Effect{Epoch: r.model.standings[c.ID.Subscriber].Epoch - int64(r.rand.IntN(2)), Success: r.oneIn(3)}
			if r.oneIn(2) {
				o.Effect.Pause = r.seconds(5)
			} else if r.oneIn(5) {
				o.Effect.Disable, o.Effect.Cancel = true, r.oneIn(2)
			}
		}
		r.say("finish %v %s after %v released %v effect %+v", o.Lease, o.State, o.After, o.Released, o.Effect)
		outcomes = append(outcomes, o)
		lost := r.model.finish(o, r.now())
		switch {
		case !lost:
			r.applied[o.Lease] = true
		case r.applied[o.Lease] && r.last[o.Lease.ID] == o.Lease.Token:
			open[o.Lease] = true // a Manager changed the delivery since
		default:
			want = append(want, o.Lease)
		}
	}
	lost, err := r.store.Finish(context.Background(), outcomes)
	r.require(err == nil, "%v", err)
	lost = slices.DeleteFunc(lost, func(l Lease) bool { return open[l] })
	r.require(slices.Equal(want, lost), "lost %v, want %v", lost, want)
}

// manage calls one of the Manager's methods with some filter.
func (r *memRun) manage(name string, call func(context.Context, Filter) (int, error), selects func(State) bool, change func(*memModelRow)) {
	var filter Filter
	if !r.oneIn(4) {
		filter.Event = eventID(r.rand.IntN(12))
	}
	if r.oneIn(2) {
		filter.Subscriber = r.subscriber()
	}
	if filter.Event == "" || r.oneIn(3) {
		filter.Limit = 1 + r.rand.IntN(3)
	}
	want := 0
	for _, row := range slices.Clone(r.model.rows) {
		if (filter.Event == "" || row.ID.Event == filter.Event) &&
			(filter.Subscriber == "" || row.ID.Subscriber == filter.Subscriber) &&
			selects(row.state) && (filter.Limit == 0 || want < filter.Limit) {
			r.say("%s %v", name, row.ID)
			change(row)
			want++
		}
	}
	n, err := call(context.Background(), filter)
	r.require(err == nil, "%v", err)
	r.require(n == want, "%s %+v: %d, want %d", name, filter, n, want)
}

func (r *memRun) standing() {
	id := r.subscriber()
	n, pause := r.rand.IntN(5), r.seconds(6)
	update := func(now time.Time, s *Standing) {
		switch n {
		case 0:
			s.Disable(now, "test", false)
		case 1:
			s.Disable(now, "test", true)
		case 2:
			s.PausedUntil = now.Add(pause)
		default:
			s.Enable()
		}
	}
	update(r.model.epoch.Add(r.now()), r.model.standings[id])
	r.say("standing %+v", *r.model.standings[id])
	err := r.store.UpdateStandings(context.Background(), []string{id}, update)
	r.require(err == nil, "%v", err)
}

// compare checks that the store shows what the model has.
func (r *memRun) compare() {
	if id := (memStore{r.store, r.t}).misplaced(); id != nil {
		r.require(false, "%v is queued, but not placed", id)
	}
	m, now := r.model, r.now()
	var stats Stats
	i := 0
	for got, err := range r.store.List(context.Background(), Filter{}) {
		r.require(err == nil && i < len(m.rows), "%v has more", got.ID)
		row := m.rows[i]
		i++
		r.require(got.ID == row.ID && got.State == row.state && got.Replay == row.replay && got.Leased == row.leased(now),
			"has %+v, want %+v", got, row)
		if row.state == Pending && row.OrderKey == "" {
			r.require(got.Due.Equal(m.epoch.Add(row.due)), "%v is due at %v, want %v", row.ID, got.Due.Sub(m.epoch), row.due)
		}
		switch row.state {
		case Pending:
			stats.Pending++
		case Delivered:
			stats.Delivered++
		case Dead:
			stats.Dead++
		case Cancelled:
			stats.Cancelled++
		}
	}
	r.require(i == len(m.rows), "has %d deliveries, want %d", i, len(m.rows))
	got, _ := r.store.Stats(context.Background())
	got.OldestDue = 0
	r.require(got == stats, "stats %+v, want %+v", got, stats)
	kept := 0
	for s := range r.store.Standings(context.Background()) {
		kept++
		r.require(s == *m.standings[s.Subscriber], "standing %+v, want %+v", s, *m.standings[s.Subscriber])
	}
	for id, s := range m.standings {
		if *s != (Standing{Subscriber: id}) {
			kept--
		}
	}
	r.require(kept == 0, "%d standings more than wanted", kept)
}

func (r *memRun) step() {
	m := r.model
	switch n := r.rand.IntN(100); {
	case n < 16:
		r.enqueue()
	case n < 46:
		r.claim()
	case n < 66:
		r.finish()
	case n < 71:
		r.manage("cancel", r.store.Cancel, func(s State) bool { return s == Pending },
			func(row *memModelRow) { m.cancel(row, r.now()) })
	case n < 78:
		r.manage("replay", r.store.Replay, func(s State) bool { return s == Dead || s == Cancelled },
			func(row *memModelRow) { m.replay(row, r.now()) })
	case n < 82:
		r.manage("prune", r.store.Prune, func(s State) bool { return s != Pending }, m.prune)
	case n < 86:
		r.standing()
	default:
		time.Sleep(r.seconds(7))
	}
}

// TestMemoryStoreModel compares the store with the model over many random
// sequences of operations.
func TestMemoryStoreModel(t *testing.T) {
	const sequences, steps = 400, 150
	claimed := 0
	for seed := range uint64(sequences) {
		synctest.Test(t, func(t *testing.T) {
			r := &memRun{
				t: t, rand: rand.New(rand.NewPCG(seed, 1)), store: NewMemoryStore(), suspect: seed%2 == 1,
				model: &memModel{
					standings: make(map[string]*Standing),
					locks:     make(map[string]instant),
					wire:      make(map[DeliveryID]instant),
					epoch:     time.Now(),
				},
				applied: make(map[Lease]bool),
				last:    make(map[DeliveryID]int64),
				seed:    seed,
			}
			for i := range 3 {
				id := string(rune('s' + i))
				r.model.standings[id] = &Standing{Subscriber: id}
			}
			for range steps {
				r.step()
				r.compare()
			}
			claimed += len(r.leases)
		})
		if t.Failed() {
			return
		}
	}
	require.Greater(t, claimed, sequences*steps/10, "the sequences claim too little to show much")
}
