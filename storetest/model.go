package storetest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

const (
	sequences = 8   // of random operations, each on a store of its own
	steps     = 120 // of a sequence
)

// model compares a store with a naive one, written from the contract alone, over
// random sequences of operations. It needs a clock that stands still.
func model(t *trial) { t.sequences(sequences) }

// Model is the rule of that name over so many sequences of random operations, each
// on a new backend. [Run] has a few.
func Model(ctx context.Context, newBackend func() (Backend, error), sequences int) error {
	return newTrial(ctx, newBackend).run(func(t *trial) { t.sequences(sequences) })
}

func (t *trial) sequences(n int) {
	t.manager()
	t.standings()
	if !t.exact() {
		t.skip("Backend.Sleep is nil")
	}
	claimed := 0
	for seed := range n {
		if seed > 0 {
			t.renew()
		}
		claimed += t.sequence(uint64(seed))
	}
	t.check(claimed > n*steps/10, "the sequences have %d claims, too few to show much", claimed)
}

// instant is a time on the store's clock, since a sequence began.
type instant = time.Duration

const never instant = math.MaxInt64

// naive is a Store as simple as can be: a slice that is scanned.
type naive struct {
	rows      []*naiveRow                  // in the order of Enqueue
	standings map[string]*outhook.Standing // of all subscribers
	locks     map[string]instant           // by subscriber and key: end of the lease of one that was cancelled
	wire      map[outhook.DeliveryID]instant
	epoch     time.Time
}

type naiveRow struct {
	outhook.Delivery
	state            outhook.State
	reason           string
	since            instant
	entered, expires instant
	due              instant // the next attempt, or the end of the lease
	claimed          int64   // the latest token of Claim, 0 if Cancel or Replay came after it
	live             bool
	attempts         int
	unfinished       int
	replay           int
	history          int
}

func (r *naiveRow) key() string { return r.ID.Subscriber + " " + r.OrderKey }

func (r *naiveRow) leased(now instant) bool {
	return r.state == outhook.Pending && r.live && now < r.due
}

func (r *naiveRow) holds() bool {
	return r.state == outhook.Pending || r.state == outhook.Dead && r.HoldOnDead
}

// from returns the instant from which a row could be claimed if nothing changes
// but the time; never if that does not suffice.
func (m *naive) from(r *naiveRow, now instant) instant {
	if r.state != outhook.Pending {
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
	if n, next := m.standings[r.ID.Subscriber].Admit(m.epoch.Add(now), 1); n == 0 {
		if next.IsZero() {
			return never
		}
		at = max(at, next.Sub(m.epoch))
	}
	return at
}

func (m *naive) row(id outhook.DeliveryID) *naiveRow {
	for _, r := range m.rows {
		if r.ID == id {
			return r
		}
	}
	return nil
}

func (m *naive) begin(r *naiveRow, now instant, delay time.Duration) {
	r.state, r.reason, r.since, r.entered, r.expires = outhook.Pending, "", now, now, never
	r.claimed, r.live, r.attempts, r.unfinished = 0, false, 0, 0
	if r.TTL > 0 {
		r.expires = now + r.TTL
	}
	r.due = min(now+delay, r.expires)
}

func (m *naive) enqueue(d outhook.Delivery, now instant) (known bool) {
	if m.row(d.ID) != nil {
		return true
	}
	r := &naiveRow{Delivery: d}
	m.begin(r, now, d.Delay)
	m.rows = append(m.rows, r)
	return false
}

func (m *naive) finish(o outhook.Outcome, now instant) (lost bool) {
	r := m.row(o.Lease.ID)
	if r == nil || r.claimed != o.Lease.Token {
		return true
	}
	if !r.live {
		return false
	}
	r.live = false
	r.history += len(o.Attempts)
	if o.Effect != nil {
		m.standings[r.ID.Subscriber].Apply(m.epoch.Add(now), *o.Effect)
	}
	if o.Released {
		r.unfinished--
	} else {
		r.attempts++
		r.unfinished = 0
	}
	if o.State == outhook.Pending {
		r.due = min(now+o.After, r.expires)
	} else {
		r.state, r.reason, r.since = o.State, o.Reason, now
	}
	return false
}

func (m *naive) cancel(r *naiveRow, now instant) {
	if r.leased(now) {
		m.wire[r.ID] = r.due
		if r.OrderKey != "" {
			m.locks[r.key()] = r.due
		}
	}
	r.state, r.reason, r.since, r.live, r.claimed = outhook.Cancelled, outhook.ReasonCancelled, now, false, 0
}

func (m *naive) replay(r *naiveRow, now instant) {
	m.begin(r, now, 0)
	r.due = max(r.due, m.wire[r.ID])
	r.replay++
}

func (m *naive) prune(r *naiveRow) {
	m.rows = slices.DeleteFunc(m.rows, func(x *naiveRow) bool { return x == r })
	delete(m.wire, r.ID) // it is another delivery when it is sent again
}

// sequence is one sequence of operations on a store and its model.
type sequence struct {
	*trial
	rand    *rand.Rand
	model   *naive
	now     instant
	suspect bool // suspects are told apart
	leases  []outhook.Claim
	applied map[outhook.Lease]bool
	last    map[outhook.DeliveryID]int64 // greatest token
	made    map[outhook.DeliveryID]outhook.Delivery
}

// sequence runs one and returns how many claims it had.
func (t *trial) sequence(seed uint64) int {
	s := &sequence{
		trial: t, rand: rand.New(rand.NewPCG(seed, 1)), suspect: seed%2 == 1,
		model: &naive{
			standings: make(map[string]*outhook.Standing),
			locks:     make(map[string]instant),
			wire:      make(map[outhook.DeliveryID]instant),
			epoch:     t.now(),
		},
		applied: make(map[outhook.Lease]bool),
		last:    make(map[outhook.DeliveryID]int64),
		made:    make(map[outhook.DeliveryID]outhook.Delivery),
	}
	t.log("sequence of seed %d:", seed)
	for i := range 3 {
		id := string(rune('s' + i))
		s.model.standings[id] = &outhook.Standing{Subscriber: id}
		for e := range 12 {
			d := t.delivery(fmt.Sprintf("e%d", e), id)
			s.made[d.ID] = d
		}
	}
	defer func() { // say what it was
		switch r := recover().(type) {
		case nil:
		case ended:
			panic(ended{fmt.Errorf("sequence of seed %d: %w", seed, r.err)})
		default:
			panic(r)
		}
	}()
	for i := range steps {
		s.step()
		if i%3 == 2 { // each costs more than a step
			s.compare()
		}
	}
	return len(s.leases)
}

// on returns the trial on one of the handles.
func (s *sequence) on() *trial {
	if s.Other != nil && s.oneIn(2) {
		return s.other()
	}
	return s.trial
}

func (s *sequence) seconds(n int) time.Duration { return time.Duration(s.rand.IntN(n)) * time.Second }

func (s *sequence) oneIn(n int) bool { return s.rand.IntN(n) == 0 }

func (s *sequence) subscriber() string { return string(rune('s' + s.rand.IntN(3))) }

func (s *sequence) event() string { return fmt.Sprintf("e%d", s.rand.IntN(12)) }

func (s *sequence) step() {
	m := s.model
	switch n := s.rand.IntN(100); {
	case n < 16:
		s.enqueue()
	case n < 46:
		s.claim()
	case n < 66:
		s.finish()
	case n < 71:
		s.manage("Cancel", func(state outhook.State) bool { return state == outhook.Pending },
			func(r *naiveRow) { m.cancel(r, s.now) })
	case n < 78:
		s.manage("Replay", func(state outhook.State) bool { return state == outhook.Dead || state == outhook.Cancelled },
			func(r *naiveRow) { m.replay(r, s.now) })
	case n < 82:
		s.manage("Prune", func(state outhook.State) bool { return state != outhook.Pending }, m.prune)
	case n < 86:
		s.standing()
	default:
		d := s.seconds(7)
		s.pass(d)
		s.now += d
	}
}

func (s *sequence) enqueue() {
	var batch []outhook.Delivery
	seen := make(map[outhook.DeliveryID]bool)
	for range 1 + s.rand.IntN(3) {
		d := s.made[outhook.DeliveryID{Event: s.event(), Subscriber: s.subscriber()}]
		if seen[d.ID] {
			continue
		}
		seen[d.ID] = true
		d.OrderKey = []string{"", "j", "k"}[s.rand.IntN(3)]
		d.HoldOnDead = s.oneIn(3)
		if s.oneIn(3) {
			d.Delay = s.seconds(8)
		}
		if s.oneIn(3) {
			d.TTL = d.Delay + time.Second + s.seconds(15)
		}
		batch = append(batch, d)
	}
	var want []outhook.DeliveryID
	for _, d := range batch {
		if s.model.enqueue(d, s.now) {
			want = append(want, d.ID)
		}
	}
	known, err := s.on().send(batch...)
	s.must("Enqueue", err)
	s.check(sameIDs(known, want), "known are %v, want %v", known, want)
}

// sameIDs compares without regard to the order.
func sameIDs(a, b []outhook.DeliveryID) bool {
	byName := func(x, y outhook.DeliveryID) int { return strings.Compare(x.String(), y.String()) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), byName), slices.SortedFunc(slices.Values(b), byName))
}

func (s *sequence) claim() {
	request := outhook.ClaimRequest{
		Limit: 1 + s.rand.IntN(6), PerSubscriber: 1 + s.rand.IntN(4),
		SuspectAfter: 1000, Lease: time.Second + s.seconds(6),
	}
	if s.suspect {
		request.SuspectAfter, request.Suspects = 1+s.rand.IntN(2), s.rand.IntN(2)
	}
	if s.oneIn(3) {
		request.Room = map[string]int{s.subscriber(): s.rand.IntN(3)}
	}
	claimed := s.on().claim(func(r *outhook.ClaimRequest) { *r = request })
	m, now := s.model, s.now
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
	s.check(len(claimed.Claims) <= request.Limit, "%d claims, want at most %d", len(claimed.Claims), request.Limit)
	suspects := 0
	granted := make(map[string]int)
	for _, c := range claimed.Claims {
		granted[c.ID.Subscriber]++
		row := m.row(c.ID)
		s.check(row != nil, "%v was claimed, which does not exist", c.ID)
		s.check(m.from(row, now) <= now, "%v was claimed, which is not due or held back", c.ID)
		s.check(c.Token > s.last[c.ID], "%v has token %d after %d", c.ID, c.Token, s.last[c.ID])
		difference := compare(&c.Delivery, &row.Delivery)
		s.check(difference == "", "%v: %s", c.ID, difference)
		fault := ""
		if row.expires <= now {
			fault = outhook.ReasonExpired
		}
		type facts struct {
			Attempt, Unfinished, Replay int
			Age                         time.Duration
			Fault                       string
		}
		got := facts{c.Attempt, c.Unfinished, c.Replay, c.Age, c.Fault}
		want := facts{row.attempts + 1, row.unfinished, row.replay, now - row.entered, fault}
		s.check(got == want, "%v is claimed with %+v, want %+v", c.ID, got, want)
		if c.Unfinished >= request.SuspectAfter {
			suspects++
		}
		s.check(room(c.ID.Subscriber) >= 0, "%v was claimed, for which there is no room", c.ID)
		row.claimed, row.live, row.due = c.Token, true, now+request.Lease
		row.unfinished++
		s.last[c.ID] = c.Token
		s.leases = append(s.leases, c)
	}
	standings := make(map[string]outhook.Standing)
	for id, n := range granted {
		kept, at := m.standings[id], m.epoch.Add(now)
		admitted, _ := kept.Admit(at, n)
		s.check(n <= admitted, "%d of %s were claimed, of which its standing admits %d", n, id, admitted)
		kept.Grant(at, n, request.Lease)
		if *kept != (outhook.Standing{Subscriber: id}) {
			standings[id] = *kept
		}
	}
	s.check(suspects <= request.Suspects || !s.suspect, "%d suspects, want at most %d", suspects, request.Suspects)
	s.check(len(standings) == len(claimed.Standings), "Standings are %v, want %v", claimed.Standings, standings)
	for id, want := range standings {
		got := claimed.Standings[id]
		s.check(sameStanding(got, want), "the standing of the claim is %+v, want %+v", got, want)
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
			doubtful = true // Next may be unknown behind it
			if suspects == request.Suspects {
				continue
			}
		}
		s.check(at > now, "%v was not claimed, which is due and has room", row.ID)
		next = min(next, at)
	}
	want := next - now
	if next == never {
		want = 0
	}
	s.check(claimed.Next == want || doubtful, "Next is %v, want %v", claimed.Next, want)
}

func sameStanding(a, b outhook.Standing) bool {
	for _, s := range []*outhook.Standing{&a, &b} {
		for _, at := range []*time.Time{&s.PausedUntil, &s.Since, &s.FailingSince, &s.RateSince, &s.Refilled} {
			*at = at.Round(0).UTC()
		}
	}
	return a == b
}

func (s *sequence) finish() {
	var outcomes []outhook.Outcome
	var want []outhook.Lease
	open := make(map[outhook.Lease]bool) // the contract leaves open whether they are lost
	for range 1 + s.rand.IntN(3) {
		if len(s.leases) == 0 {
			break
		}
		i := s.rand.IntN(len(s.leases))
		if !s.oneIn(4) { // mostly one of the latest
			i = max(len(s.leases)-1-s.rand.IntN(4), 0)
		}
		c := s.leases[i]
		o := outcome(c, []outhook.State{outhook.Pending, outhook.Pending, outhook.Delivered, outhook.Dead, outhook.Cancelled}[s.rand.IntN(5)])
		if o.State == outhook.Pending {
			o.After = s.seconds(8)
			if s.oneIn(2) {
				o = later(release(c), o.After)
			}
		}
		if s.oneIn(4) {
			o.Effect = &outhook.Effect{Epoch: s.model.standings[c.ID.Subscriber].Epoch - int64(s.rand.IntN(2)), Success: s.oneIn(3)}
			if s.oneIn(2) {
				o.Effect.Pause = s.seconds(5)
			} else if s.oneIn(5) {
				o.Effect.Disable, o.Effect.Cancel = true, s.oneIn(2)
			}
			if s.oneIn(4) {
				o.Effect.Breaker = outhook.Breaker{Failures: 1 + s.rand.IntN(3), Pause: time.Second, MaxPause: 4 * time.Second}
			}
			if s.oneIn(8) {
				o.Effect.DisableAfter = 20 * time.Second
			}
			o.Effect.Unmade = o.Released && s.oneIn(2)
		}
		outcomes = append(outcomes, o)
		lost := s.model.finish(o, s.now)
		switch {
		case !lost:
			s.applied[o.Lease] = true
		case s.applied[o.Lease] && s.last[o.Lease.ID] == o.Lease.Token:
			open[o.Lease] = true // a Manager changed the delivery since
		default:
			want = append(want, o.Lease)
		}
	}
	lost, err := s.on().apply(outcomes...)
	s.must("Finish", err)
	for _, l := range want {
		s.check(slices.Contains(lost, l), "Finish does not report %v as lost", l)
	}
	for _, l := range lost {
		s.check(open[l] || slices.Contains(want, l), "Finish reports %v as lost, which is live or was applied", l)
	}
}

// manage calls one of the Manager's methods with some filter.
func (s *sequence) manage(name string, selects func(outhook.State) bool, change func(*naiveRow)) {
	var filter outhook.Filter
	if !s.oneIn(4) {
		filter.Event = s.event()
	}
	if s.oneIn(2) {
		filter.Subscriber = s.subscriber()
	}
	if filter.Event == "" || s.oneIn(3) {
		filter.Limit = 1 + s.rand.IntN(3)
	}
	if s.oneIn(4) {
		filter.OlderThan = s.seconds(4)
	}
	want := 0
	for _, row := range slices.Clone(s.model.rows) {
		if (filter.Event == "" || row.ID.Event == filter.Event) &&
			(filter.Subscriber == "" || row.ID.Subscriber == filter.Subscriber) &&
			s.now-row.since >= filter.OlderThan &&
			selects(row.state) && (filter.Limit == 0 || want < filter.Limit) {
			change(row)
			want++
		}
	}
	s.on().change(name, filter, want)
}

func (s *sequence) standing() {
	id := s.subscriber()
	n, pause := s.rand.IntN(7), s.seconds(6)
	rate := outhook.Rate{N: 1 + s.rand.IntN(4), Per: 4 * time.Second, Burst: s.rand.IntN(4)}
	if s.oneIn(2) {
		rate = outhook.Rate{}
	}
	update := func(now time.Time, s *outhook.Standing) {
		switch n {
		case 0:
			s.Disable(now, "test", false)
		case 1:
			s.Disable(now, "test", true)
		case 2:
			s.PausedUntil = now.Add(pause)
		case 3:
			s.SetRate(rate, now)
		default:
			s.Enable()
		}
	}
	update(s.model.epoch.Add(s.now), s.model.standings[id])
	s.on().standing(id, update)
}

// compare checks that the store shows what the model has.
func (s *sequence) compare() {
	m, now := s.model, s.now
	on := s.on()
	var want outhook.Stats
	i := 0
	for got, err := range on.manager().List(s.ctx, outhook.Filter{}) {
		s.must("List", err)
		s.check(i < len(m.rows), "List returned %v, and is to have %d deliveries", got.ID, len(m.rows))
		row := m.rows[i]
		i++
		s.check(got.ID == row.ID, "List returned %v, want %v", got.ID, row.ID)
		type facts struct {
			State  outhook.State
			Reason string
			Replay int
			Leased bool
			Since  time.Duration
		}
		has := facts{got.State, got.Reason, got.Replay, got.Leased, got.Since.Sub(m.epoch)}
		wants := facts{row.state, row.reason, row.replay, row.leased(now), row.since}
		s.check(has == wants, "%v is %+v, want %+v", row.ID, has, wants)
		if row.state == outhook.Pending && row.OrderKey == "" {
			s.check(got.Due.Equal(m.epoch.Add(row.due)), "%v is due at %v, want %v", row.ID, got.Due.Sub(m.epoch), row.due)
		}
		switch row.state {
		case outhook.Pending:
			want.Pending++
		case outhook.Delivered:
			want.Delivered++
		case outhook.Dead:
			want.Dead++
		case outhook.Cancelled:
			want.Cancelled++
		}
	}
	s.check(i == len(m.rows), "List returned %d deliveries, want %d", i, len(m.rows))
	if len(m.rows) > 0 {
		row := m.rows[s.rand.IntN(len(m.rows))]
		got := on.get(row.ID)
		s.check(len(got.Attempts) == row.history, "Get %v returned %d attempts, want %d", row.ID, len(got.Attempts), row.history)
	}
	got, err := on.manager().Stats(s.ctx)
	s.must("Stats", err)
	got.OldestDue = 0
	s.check(got == want, "Stats is %+v, want %+v", got, want)
	kept := make(map[string]outhook.Standing)
	for standing, err := range on.standings().Standings(s.ctx) {
		s.must("Standings", err)
		kept[standing.Subscriber] = standing
	}
	for id, want := range m.standings {
		got, ok := kept[id]
		if !ok {
			got = outhook.Standing{Subscriber: id}
		}
		s.check(sameStanding(got, *want), "the standing of %s is %+v, want %+v", id, got, *want)
	}
}
