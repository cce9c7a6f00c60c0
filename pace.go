package outhook

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// A Rate is the pace of a subscriber: N attempts per Per, over all processes that
// share a store. The zero Rate is no limit.
type Rate struct {
	N     int           // attempts per Per; 0: no limit
	Per   time.Duration // zero: 1 s
	Burst int           // how many may come at once; zero: what N gives in 200 ms, at least 1
}

func (r Rate) burst() int {
	if r.Burst > 0 {
		return r.Burst
	}
	return int(max(int64(r.N)*int64(200*time.Millisecond)/int64(r.per()), 1))
}

func (r Rate) per() time.Duration {
	if r.Per == 0 {
		return time.Second
	}
	return r.Per
}

// lot returns how many attempts are let go together, and how often: half a burst,
// so that a store is not asked for each delivery.
func (r Rate) lot() (n int, every time.Duration) {
	n = max(r.burst()/2, 1)
	return n, max(time.Duration(float64(r.per())*float64(n)/float64(r.N)).Truncate(time.Microsecond), time.Microsecond)
}

// check reports the faults of a rate.
func (r Rate) check(subscriber, field string, f *faults) {
	const most = 1_000_000
	switch {
	case r.N < 0 || r.Per < 0 || r.Burst < 0:
		f.add(subscriber, field, "%d per %v with bursts of %d is negative", r.N, r.Per, r.Burst)
	case r.N > most || r.Burst > most:
		f.add(subscriber, field, "N %d or Burst %d is above %d", r.N, r.Burst, most)
	case r.N == 0 && r != Rate{}:
		f.add(subscriber, field, "N is 0, but Per or Burst is not")
	}
}

// refill returns the tokens of a paced standing and the instant they are as of. They
// come in lots, on a grid of instants.
func (s *Standing) refill(now time.Time) (tokens int, at time.Time) {
	burst := s.Rate.burst()
	if s.Refilled.IsZero() {
		return burst, now
	}
	lot, every := s.Rate.lot()
	lots := max(now.Sub(s.Refilled)/every, 0)
	at = s.Refilled.Add(lots * every)
	if lots > time.Duration((burst-s.Tokens)/lot) { // they may be too many to multiply
		return burst, at
	}
	return min(s.Tokens+int(lots)*lot, burst), at
}

// maxPaces bounds how many subscribers a Dispatcher remembers the paces of.
const maxPaces = 10_000

// paces remembers which paces were brought by later deliveries than those that still
// wait, so that the store is not asked again for each claim of these.
type paces struct {
	mu sync.Mutex
	of map[string]latestPace // by subscriber; guarded by mu
}

// A latestPace is that of a standing, and when the delivery that brought it was enqueued, by the
// clock of this process and with something to spare.
type latestPace struct {
	rate  Rate
	since time.Time
}

// settled reports whether the pace that a claim shows would change nothing.
func (ps *paces) settled(subscriber string, p paced) bool {
	if p.wanted == p.kept {
		return true
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	latest, ok := ps.of[subscriber]
	return ok && latest.rate == p.kept && time.Now().Add(-p.age).Before(latest.since)
}

func (ps *paces) note(of map[string]latestPace) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.of == nil || len(ps.of)+len(of) > maxPaces {
		ps.of = make(map[string]latestPace)
	}
	maps.Copy(ps.of, of)
}

// A paced subscriber is one whose claims show which pace it should have.
type paced struct {
	kept   Rate          // that of its standing
	wanted Rate          // that of its latest delivery
	age    time.Duration // of that
	leased int           // deliveries that were leased at the pace that was kept
}

// pace sees to it that standings have the paces that claims show.
func (d *Dispatcher) pace(ctx context.Context, subscribers map[string]paced) {
	var ids []string
	for id, p := range subscribers {
		if !d.paces.settled(id, p) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	ctx, cancel := context.WithTimeout(ctx, writeBudget)
	defer cancel()
	const spare = time.Second // the clocks are read at different times
	latest := make(map[string]latestPace)
	err := d.standings.UpdateStandings(ctx, ids, func(now time.Time, s *Standing) {
		p := subscribers[s.Subscriber]
		s.SetRate(p.wanted, now.Add(-p.age))
		if s.Rate != p.kept { // also if another process has changed it since the claim
			s.debit(now.Round(0).UTC(), p.leased)
		}
		delete(latest, s.Subscriber) // if the store asks again
		if s.Rate != p.wanted {
			latest[s.Subscriber] = latestPace{s.Rate, time.Now().Add(s.RateSince.Sub(now) - spare)}
		}
	})
	if err == nil { // otherwise the next claim tries again
		d.paces.note(latest)
	}
}

// pacesOf returns what the jobs of a claim show of the paces of their subscribers.
func pacesOf(jobs []*job) map[string]paced {
	var found map[string]paced
	for _, j := range jobs {
		t := j.Snapshot.target()
		if t == nil || t.url == nil || t.rate == (Rate{}) && j.standing.Rate == (Rate{}) {
			continue
		}
		if found == nil {
			found = make(map[string]paced)
		}
		p, ok := found[j.ID.Subscriber]
		if p.leased++; !ok || j.Age < p.age {
			p.kept, p.wanted, p.age = j.standing.Rate, t.rate, j.Age
		}
		found[j.ID.Subscriber] = p
	}
	return found
}

// A Breaker says when failures pause a subscriber, so that what waits for it does
// not use up its attempts, nor others' slots. When the pause has passed, one delivery
// is attempted as a probe: success ends it all, failure brings the next pause.
type Breaker struct {
	// Failures in a row that open it. Zero: 10. Negative: it never opens.
	Failures int

	// Pause is the first pause. Each after it is twice as long, up to
	// MaxPause, and lengthened by up to a tenth. Zero: 10 s.
	Pause time.Duration

	// MaxPause bounds the pauses. Zero: 15 min.
	MaxPause time.Duration
}

// pause returns the n-th pause in a row, from 1.
func (b Breaker) pause(subscriber string, n int) time.Duration {
	d := b.MaxPause
	if doubled := float64(b.Pause) * math.Pow(2, float64(n-1)); doubled < float64(d) {
		d = time.Duration(doubled)
	}
	return addSaturating(d, jitter(DeliveryID{Subscriber: subscriber}, Attempt{Number: n}, d/10).Truncate(time.Millisecond))
}
