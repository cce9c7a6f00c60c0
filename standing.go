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
// it is paused or disabled, and why. The zero Standing, but for the ID, is
// that of a subscriber in good order, and need not be kept.
//
// Its transitions are methods without side effects, shared by all stores: a store
// keeps the value, in any form that keeps every field, such as JSON, and
// compares it with == to see whether it changed.
type Standing struct {
	Subscriber string

	Disabled      bool      // nothing is attempted until it is enabled
	CancelWaiting bool      // while disabled, what falls due is cancelled instead of held
	PausedUntil   time.Time // nothing is attempted before; zero: not paused
	Reason        string    // why it is disabled or was paused
	Since         time.Time // when it was disabled or last paused

	Failures int   // failed attempts in a row
	Epoch    int64 // changes when it is disabled or enabled; effects of an older one are void
}

// Clean reports whether the standing is that of a subscriber in good order, with
// no failures and nothing that an outcome could change.
func (s Standing) Clean() bool {
	return !s.Disabled && s.PausedUntil.IsZero() && s.Failures == 0
}

// Admit says how many of want due deliveries may be leased now, for the given
// lease. If n is below want, next is the instant from which more could be, and
// zero if only a change of the standing can bring it. Admit may change the standing,
// which a store has to keep then.
func (s *Standing) Admit(now time.Time, want int, lease time.Duration) (n int, next time.Time) {
	_ = lease // a probe of a failing subscriber will end with its lease
	switch {
	case s.Disabled && !s.CancelWaiting:
		return 0, time.Time{}
	case !s.Disabled && now.Before(s.PausedUntil):
		return 0, s.PausedUntil
	}
	return want, time.Time{}
}

// An Effect is what an outcome says of the subscriber.
type Effect struct {
	Epoch   int64         // of the standing that came with the claim
	Success bool          // the receiver answered well; else it failed
	Pause   time.Duration // attempt nothing for so long; 0: no pause
	Disable bool          // the receiver wants no more
	Cancel  bool          // with Disable: cancel what waits
	Reason  string        // of the pause or of being disabled
}

// closes reports whether the effect keeps the subscriber from being attempted.
func (e *Effect) closes() bool { return e != nil && (e.Pause > 0 || e.Disable) }

// Apply changes the standing by an effect, unless the effect is of another
// epoch. A pause never ends earlier than one that was there.
func (s *Standing) Apply(now time.Time, e Effect) {
	if e.Epoch != s.Epoch {
		return
	}
	if e.Success {
		s.Failures = 0
		if !s.Disabled && !now.Before(s.PausedUntil) {
			s.PausedUntil, s.Reason, s.Since = time.Time{}, "", time.Time{}
		}
		return
	}
	s.Failures++
	if until := now.Add(e.Pause); e.Pause > 0 && until.After(s.PausedUntil) {
		s.PausedUntil = until
		if !s.Disabled {
			s.Reason, s.Since = e.Reason, now
		}
	}
	if e.Disable {
		s.Disable(now, e.Reason, e.Cancel)
	}
}

// Disable stops all attempts until Enable.
func (s *Standing) Disable(now time.Time, reason string, cancelWaiting bool) {
	if !s.Disabled {
		s.Epoch++
	}
	s.Disabled, s.CancelWaiting, s.Reason, s.Since = true, cancelWaiting, reason, now
}

// Enable ends being disabled or paused and resets all counters.
func (s *Standing) Enable() {
	*s = Standing{Subscriber: s.Subscriber, Epoch: s.Epoch + 1}
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

// admit withdraws from room the subscribers that may not be attempted now, and
// returns when the first of them may be again, 0 if none.
func (l *localStandings) admit(room map[string]int, lease time.Duration) (next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for id, s := range l.of {
		n, at := s.Admit(now, 1, lease)
		l.of[id] = s
		if n > 0 {
			continue
		}
		room[id] = 0
		if wait := at.Sub(now); !at.IsZero() && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}

func (l *localStandings) apply(id string, e Effect) {
	_ = l.UpdateStandings(context.Background(), []string{id}, func(now time.Time, s *Standing) { s.Apply(now, e) })
}

func (l *localStandings) get(id string) Standing {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[id]
}
