package outhook

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"time"
)

// A Health is how a subscriber fares.
type Health struct {
	Standing
	State SubscriberState

	Pending   int           // deliveries that wait; -1: the store is no Manager
	OldestDue time.Duration // how long the one that waits longest has been due; 0: none is, or the store is no Manager

	// What this Dispatcher has seen in the last 5 to 6 minutes.
	Attempts    int
	Successes   int
	LastSuccess time.Time     // zero: not known
	P50, P99    time.Duration // of attempts, to within a quarter; 0: there were none
}

// Health returns how the subscribers fare that something waits for, that are not in good
// order, that have a pace, or that this Dispatcher has attempted in the last minutes, by ID.
// It reads the standings and the backlogs of the store once.
func (d *Dispatcher) Health(ctx context.Context) ([]Health, error) {
	all := make(map[string]*Health)
	of := func(id string) *Health {
		h := all[id]
		if h == nil {
			h = &Health{Standing: Standing{Subscriber: id}, State: Active, Pending: -1}
			if d.manager != nil {
				h.Pending = 0
			}
			all[id] = h
		}
		return h
	}
	for s, err := range d.standings.Standings(ctx) {
		if err != nil {
			return nil, fmt.Errorf("outhook: health: %w", err)
		}
		if !s.Clean() || s.Rate != (Rate{}) {
			h := of(s.Subscriber)
			h.Standing, h.State = s, s.State()
		}
	}
	if d.manager != nil {
		for b, err := range d.manager.Backlogs(ctx) {
			if err != nil {
				return nil, fmt.Errorf("outhook: health: %w", err)
			}
			h := of(b.Subscriber)
			h.Pending, h.OldestDue = b.Pending, b.OldestDue
		}
	}
	d.gauges.each(time.Now(), func(id string, g *gauge) { g.show(of(id)) })
	list := make([]Health, 0, len(all))
	for _, h := range all {
		list = append(list, *h)
	}
	slices.SortFunc(list, func(a, b Health) int { return cmp.Compare(a.Subscriber, b.Subscriber) })
	return list, nil
}

// tell tells observers of the subscribers whose state is another than they were last
// told. What they were told is in the standing, so that of all processes one does it.
func (d *Dispatcher) tell(ctx context.Context, subscribers []string) {
	ctx, cancel := context.WithTimeout(ctx, writeBudget)
	defer cancel()
	changes := make(map[string]StandingChange)
	err := d.standings.UpdateStandings(ctx, subscribers, func(_ time.Time, s *Standing) {
		delete(changes, s.Subscriber) // if the store asks again
		from, to := s.told(), s.State()
		if from == to {
			return
		}
		if s.Told = to; to == Active {
			s.Told = ""
		}
		changes[s.Subscriber] = StandingChange{Standing: *s, From: from, To: to, Pending: -1}
	})
	if err != nil {
		return // the next outcome of such a subscriber finds it still to be told
	}
	d.count(ctx, changes)
	for _, id := range slices.Sorted(maps.Keys(changes)) {
		d.observers.standing(ctx, changes[id])
	}
}

// count says of changes how much waits.
func (d *Dispatcher) count(ctx context.Context, changes map[string]StandingChange) {
	if d.manager == nil || len(changes) == 0 {
		return
	}
	pending := make(map[string]int)
	for b, err := range d.manager.Backlogs(ctx) {
		if err != nil {
			return
		}
		pending[b.Subscriber] = b.Pending
	}
	for id, change := range changes {
		change.Pending = pending[id]
		changes[id] = change
	}
}

// told is the state that observers were last told.
func (s *Standing) told() SubscriberState {
	if s.Told == "" {
		return Active
	}
	return s.Told
}

const (
	gaugeMinutes = 6
	maxGauges    = 10_000 // subscribers
)

// gauges count the attempts of a Dispatcher by subscriber and minute.
type gauges struct {
	mu sync.Mutex
	of map[string]*gauge // guarded by mu
}

// A gauge counts those of a subscriber.
type gauge struct {
	minutes     [gaugeMinutes]gaugeMinute // a ring
	lastSuccess time.Time
}

type gaugeMinute struct {
	minute              int64 // since the epoch
	attempts, successes int
	durations           [72]int32 // by durationClass
}

// durationClass numbers durations of milliseconds: four classes for each doubling.
func durationClass(d time.Duration) int {
	ms := uint64(max(d.Milliseconds(), 0)) + 4
	n := bits.Len64(ms) // at least 3
	return min(4*(n-3)+int(ms>>(n-3)&3), len(gaugeMinute{}.durations)-1)
}

// classDuration is the upper end of a class.
func classDuration(class int) time.Duration {
	n, quarter := class/4, uint64(class%4)
	return time.Duration((5+quarter)<<n-4) * time.Millisecond
}

func (gs *gauges) add(subscriber string, a Attempt, ok bool) {
	now := a.Time.Add(a.Duration)
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.of[subscriber]
	if g == nil {
		if gs.of == nil || len(gs.of) >= maxGauges {
			gs.of = make(map[string]*gauge)
		}
		g = &gauge{}
		gs.of[subscriber] = g
	}
	minute := now.Unix() / 60
	m := &g.minutes[minute%gaugeMinutes]
	if m.minute != minute {
		*m = gaugeMinute{minute: minute}
	}
	m.attempts++
	m.durations[durationClass(a.Duration)]++
	if ok {
		m.successes++
		g.lastSuccess = now
	}
}

// each calls show with the gauges of subscribers attempted in the last minutes, without
// what is older, and forgets the others.
func (gs *gauges) each(now time.Time, show func(id string, g *gauge)) {
	oldest := now.Unix()/60 - gaugeMinutes + 1
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for id, g := range gs.of {
		recent := false
		for i := range g.minutes {
			if m := &g.minutes[i]; m.minute < oldest {
				*m = gaugeMinute{}
			} else {
				recent = true
			}
		}
		if !recent {
			delete(gs.of, id)
			continue
		}
		show(id, g)
	}
}

// show enters what was counted into h.
func (g *gauge) show(h *Health) {
	var durations [len(gaugeMinute{}.durations)]int
	for i := range g.minutes {
		m := &g.minutes[i]
		h.Attempts += m.attempts
		h.Successes += m.successes
		for class, n := range m.durations {
			durations[class] += int(n)
		}
	}
	h.LastSuccess = g.lastSuccess
	quantile := func(q float64) time.Duration {
		rank, seen := int(q*float64(h.Attempts-1))+1, 0
		for class, n := range durations {
			if seen += n; seen >= rank {
				return classDuration(class)
			}
		}
		return 0
	}
	h.P50, h.P99 = quantile(0.5), quantile(0.99)
}
