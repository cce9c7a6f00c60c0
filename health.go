package outhook

import (
	"context"
	"maps"
	"slices"
	"time"
)

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
		changes[s.Subscriber] = StandingChange{Standing: *s, From: from, To: to, Waiting: -1}
	})
	if err != nil {
		return // the next outcome of such a subscriber finds it still to be told
	}
	for _, id := range slices.Sorted(maps.Keys(changes)) {
		d.observers.standing(ctx, changes[id])
	}
}

// told is the state that observers were last told.
func (s *Standing) told() SubscriberState {
	if s.Told == "" {
		return Active
	}
	return s.Told
}
