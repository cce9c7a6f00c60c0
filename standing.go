package outhook

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

// A Standing is what is remembered of a subscriber beyond its deliveries: whether
// it is paused, failing or disabled, and why, and its pace. The zero Standing, but
// for the ID, is that of a subscriber in good order, and need not be kept.
//
// Its transitions are methods that depend on their arguments alone, shared by all
// stores: a store keeps the value, in any form that keeps every field, such as JSON,
// and compares it with == to see whether it changed. Its instants are in UTC.
type Standing struct {
	Subscriber string

	Disabled      bool      // nothing is attempted until it is enabled
	CancelWaiting bool      // while disabled, what falls due is cancelled instead of held
	PausedUntil   time.Time // nothing is attempted before; zero: not paused
	Reason        string    // why it is disabled, failing or was paused
	Since         time.Time // when it was disabled, began to fail or was last paused

	Failures     int       // failed attempts in a row
	FailingSince time.Time // when the first of them ended; zero: there are none
	Trips        int       // pauses of the breaker since the last success; 0: it is closed

	Rate      Rate      // its pace; zero: none
	RateSince time.Time // when the delivery that brought the pace was enqueued; zero: none did
	Tokens    int       // deliveries that its pace lets go, as of Refilled; negative: so many went ahead
	Refilled  time.Time // zero: all of a burst

	Told  SubscriberState // what observers were last told; empty: that it is active
	Epoch int64           // changes when it is disabled or enabled, and with each trip and probe; effects of an older one are void
}

// A SubscriberState sums up a Standing.
type SubscriberState string

const (
	Active   SubscriberState = "active"   // attempts are made as they fall due
	Paused   SubscriberState = "paused"   // the receiver asked for a pause
	Failing  SubscriberState = "failing"  // the breaker is open: one probe after each pause
	Disabled SubscriberState = "disabled" // nothing is attempted until it is enabled
)

// State sums the standing up. A pause counts until an attempt succeeds after it.
func (s Standing) State() SubscriberState {
	switch {
	case s.Disabled:
		return Disabled
	case s.Trips > 0:
		return Failing
	case !s.PausedUntil.IsZero():
		return Paused
	}
	return Active
}

// Clean reports whether the standing is that of a subscriber in good order, with
// no failures and nothing that an outcome could change.
func (s Standing) Clean() bool {
	return !s.Disabled && s.PausedUntil.IsZero() && s.Failures == 0
}

// Admit says how many of want due deliveries may be leased now. If n is below want,
// next is the instant from which more could be, and zero if only a change of the
// standing, as by Grant, can bring it.
func (s Standing) Admit(now time.Time, want int) (n int, next time.Time) {
	switch {
	case s.Disabled && s.CancelWaiting:
		return want, time.Time{}
	case s.Disabled:
		return 0, time.Time{}
	case now.Before(s.PausedUntil):
		return 0, s.PausedUntil
	case s.Trips > 0:
		return min(want, 1), time.Time{}
	case s.Rate.N == 0:
		return want, time.Time{}
	}
	tokens, at := s.refill(now)
	if tokens >= want {
		return want, time.Time{}
	}
	lot, every := s.Rate.lot()
	return max(tokens, 0), at.Add(every * time.Duration(1+max(-tokens, 0)/lot))
}

// Grant records that n deliveries, at most what Admit said, were leased for the given
// lease. A store that keeps standings calls it in the transaction of the claim, and keeps
// the standing if it changed: Admit is to be asked again then, and the claims are
// of the Epoch that it has now.
func (s *Standing) Grant(now time.Time, n int, lease time.Duration) {
	if n <= 0 || s.Disabled {
		return
	}
	now = now.Round(0).UTC()
	s.debit(now, n)
	if s.Trips > 0 { // a probe: if nothing is heard of it, the next may go when its lease ends
		s.Epoch++
		s.PausedUntil = now.Add(lease)
	}
}

// debit takes n tokens, also if there are not so many.
func (s *Standing) debit(now time.Time, n int) {
	if s.Rate.N > 0 {
		tokens, at := s.refill(now)
		s.Tokens, s.Refilled = tokens-n, at
	}
}

// SetRate changes the pace to that of a delivery which was enqueued at since, unless
// a later one has brought another. A full burst may go then.
func (s *Standing) SetRate(r Rate, since time.Time) {
	if s.Rate == r || since.Before(s.RateSince) {
		return
	}
	s.Rate, s.RateSince, s.Tokens, s.Refilled = r, since.Round(0).UTC(), 0, time.Time{}
}

// An Effect is what an outcome says of the subscriber.
type Effect struct {
	Epoch   int64         // of the standing that came with the claim
	Success bool          // the receiver answered well; else it failed
	Unmade  bool          // no attempt was made after all, and nothing is known; a probe is still to be made
	Pause   time.Duration // attempt nothing for so long; 0: no pause
	Disable bool          // the receiver wants no more
	Cancel  bool          // if it is disabled: cancel what waits
	Reason  string        // of the pause or of being disabled

	Breaker      Breaker       // of a failure: when to pause the subscriber; zero: never
	DisableAfter time.Duration // of a failure: disable it when it has failed for so long; 0: never
}

// closes reports whether the effect keeps the subscriber from being attempted.
func (e *Effect) closes() bool { return e != nil && (e.Pause > 0 || e.Disable) }

// Apply changes the standing by an effect, unless the effect is of another
// epoch. A pause never ends earlier than one that was there.
func (s *Standing) Apply(now time.Time, e Effect) {
	if e.Epoch != s.Epoch {
		return
	}
	now = now.Round(0).UTC()
	switch {
	case e.Unmade:
		if s.Trips > 0 && now.Before(s.PausedUntil) {
			s.PausedUntil = now
		}
	case e.Success:
		s.succeed(now)
	default:
		s.fail(now, e)
	}
}

func (s *Standing) succeed(now time.Time) {
	probed := s.Trips > 0
	s.Failures, s.FailingSince, s.Trips = 0, time.Time{}, 0
	if !s.Disabled && (probed || !now.Before(s.PausedUntil)) {
		s.PausedUntil, s.Reason, s.Since = time.Time{}, "", time.Time{}
	}
}

func (s *Standing) fail(now time.Time, e Effect) {
	if s.Failures++; s.FailingSince.IsZero() {
		s.FailingSince = now
	}
	pause, reason := e.Pause, e.Reason
	probed := s.Trips > 0 // its pause was the lease of the probe
	switch b := e.Breaker; {
	case b.Failures > 0 && (probed || s.Failures >= b.Failures):
		s.Trips++
		s.Epoch++
		if p := b.pause(s.Subscriber, s.Trips); p > pause {
			pause, reason = p, ReasonFailing
		}
	case b.Failures < 0 && probed: // there is no breaker any more
		s.Trips, s.PausedUntil, s.Reason, s.Since, probed = 0, time.Time{}, "", time.Time{}, false
	}
	if until := now.Add(pause); pause > 0 && (probed || until.After(s.PausedUntil)) {
		s.PausedUntil = until
		if !s.Disabled && !probed {
			s.Reason, s.Since = reason, now
		}
	}
	switch {
	case e.Disable:
		s.Disable(now, e.Reason, e.Cancel)
	case e.DisableAfter > 0 && now.Sub(s.FailingSince) >= e.DisableAfter:
		s.Disable(now, ReasonFailing, e.Cancel)
	}
}

// Disable stops all attempts until Enable.
func (s *Standing) Disable(now time.Time, reason string, cancelWaiting bool) {
	if !s.Disabled {
		s.Epoch++
	}
	s.Disabled, s.CancelWaiting, s.Reason, s.Since = true, cancelWaiting, reason, now.Round(0).UTC()
}

// Enable ends being disabled, failing or paused and resets all counters. The pace
// stays.
func (s *Standing) Enable() {
	*s = Standing{
		Subscriber: s.Subscriber, Epoch: s.Epoch + 1, Told: s.Told,
		Rate: s.Rate, RateSince: s.RateSince, Tokens: s.Tokens, Refilled: s.Refilled,
	}
}

// localStandings is the fallback for a Store that is no StandingStore: the
// standings of one process.
type localStandings struct {
	mu sync.Mutex
	of map[string]Standing // guarded by mu; only those that are not in good order
}

var _ StandingStore = (*localStandings)(nil)

func (l *localStandings) UpdateStandings(_ context.Context, subscribers []string, update func(time.Time, *Standing)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range subscribers {
		s, ok := l.of[id]
		if !ok {
			s = Standing{Subscriber: id}
		}
		if update(time.Now(), &s); s == (Standing{Subscriber: id}) {
			delete(l.of, id)
		} else {
			l.of[id] = s
		}
	}
	return nil
}

func (l *localStandings) Standings(context.Context) iter.Seq2[Standing, error] {
	l.mu.Lock()
	list := slices.Collect(maps.Values(l.of))
	l.mu.Unlock()
	return func(yield func(Standing, error) bool) {
		for _, s := range list {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// admit lowers the room of subscribers that may not be attempted, or less often, and
// returns when the first of them may be again, 0 if none.
func (l *localStandings) admit(request *ClaimRequest) (next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for id, s := range l.of {
		room, ok := request.Room[id]
		if !ok {
			room = request.PerSubscriber
		}
		n, at := s.Admit(now, room)
		if n < room {
			request.Room[id] = n
		}
		if wait := at.Sub(now); !at.IsZero() && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}

// grant counts what was leased, and returns the standings that are kept of those.
func (l *localStandings) grant(claims []Claim, lease time.Duration) map[string]Standing {
	granted := make(map[string]int)
	for i := range claims {
		granted[claims[i].ID.Subscriber]++
	}
	kept := make(map[string]Standing)
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, n := range granted {
		if s, ok := l.of[id]; ok {
			s.Grant(time.Now(), n, lease)
			l.of[id], kept[id] = s, s
		}
	}
	return kept
}

func (l *localStandings) apply(id string, e Effect) {
	_ = l.UpdateStandings(context.Background(), []string{id}, func(now time.Time, s *Standing) { s.Apply(now, e) })
}
