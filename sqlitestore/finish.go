package sqlitestore

import (
	"context"
	"fmt"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// Finish implements [outhook.Store].
func (s *Store) Finish(ctx context.Context, outcomes []outhook.Outcome) (lost []outhook.Lease, err error) {
	attempts := make([]any, len(outcomes))
	for i := range outcomes {
		data, err := stored.EncodeAttempts(outcomes[i].Attempts)
		if err != nil {
			return nil, fmt.Errorf("sqlitestore: finish: %w", err)
		}
		attempts[i] = nullText(data)
	}
	found := make([]place, len(outcomes)) // zero: not remembered
	for i := range outcomes {
		found[i], _ = s.places.Find(outcomes[i].Lease)
	}
	err = s.write(ctx, "finish", func(t *transaction) error {
		f := finisher{transaction: t, standings: make(map[int64]*change)}
		for i := range outcomes {
			late, err := f.finish(&outcomes[i], attempts[i], found[i])
			if err != nil {
				return err
			}
			if late {
				lost = append(lost, outcomes[i].Lease)
			}
		}
		return f.keepAll()
	})
	if err != nil {
		return nil, err
	}
	for i := range outcomes {
		s.places.Forget(outcomes[i].Lease)
	}
	return lost, nil
}

// finisher is one Finish.
type finisher struct {
	*transaction
	standings map[int64]*change // of subscribers that had effects
}

type change struct {
	before, after outhook.Standing
}

// finish applies an outcome if its lease is live. Where that is not found at
// the place that is remembered, it is looked for by name.
func (f *finisher) finish(o *outhook.Outcome, attempts any, p place) (lost bool, err error) {
	if p.id != 0 {
		if applied, err := f.apply(&p, o, attempts); applied || err != nil {
			return false, err
		}
	}
	var token *int64 // nil: it is settled
	found, err := f.one(`select d.id, d.subscriber, d.order_key, d.hold_on_dead <> 0, p.token
		from outhook_delivery d left join outhook_pending p on p.id = d.id
		where d.event = ? and d.subscriber = (select id from outhook_subscriber where name = ?)`,
		[]any{o.Lease.ID.Event, o.Lease.ID.Subscriber}, &p.id, &p.key.subscriber, &p.key.name, &p.holdOnDead, &token)
	switch {
	case err != nil || !found:
		return !found, err
	case token == nil: // lost, unless it is what has settled the delivery
		applied, err := f.one("select 1 from outhook_outcome where state in "+settled+" and delivery = ? and token = ?",
			[]any{p.id, o.Lease.Token}, new(int))
		return !applied, err
	case *token != o.Lease.Token:
		return true, nil
	}
	_, err = f.apply(&p, o, attempts) // if it is not live, it was applied before
	return false, err
}

// apply applies an outcome to a delivery, if its lease is live.
func (f *finisher) apply(p *place, o *outhook.Outcome, attempts any) (applied bool, err error) {
	var n int64
	if o.State == outhook.Pending {
		n, err = f.execute(`update outhook_pending set live = 0, due = min(?1, expires), ready = iif(?2, ready, min(?1, expires)),
			attempts = iif(?3, attempts, attempts + 1), unfinished = iif(?3, unfinished - 1, 0) where id = ?4 and token = ?5 and live <> 0`,
			[]any{later(f.now, o.After), p.key.name != "", o.Released, p.id, o.Lease.Token})
	} else {
		n, err = f.execute("delete from outhook_pending where id = ? and token = ? and live <> 0", []any{p.id, o.Lease.Token})
	}
	if err != nil || n == 0 {
		return false, err
	}
	if o.Effect != nil {
		if err := f.effect(o.Lease.ID.Subscriber, p.key.subscriber, *o.Effect); err != nil {
			return false, err
		}
	}
	if !o.Released || attempts != nil {
		state := string(o.State)
		if o.State == outhook.Pending {
			state = ""
		}
		if err := f.outcome(p.id, o.Lease.Token, attempts, state, o.Reason, 0); err != nil {
			return false, err
		}
	}
	if p.key.name == "" {
		return true, nil
	}
	if err := f.unhold(p.key, p.id); err != nil {
		return false, err
	}
	if o.State == outhook.Pending || o.State == outhook.Dead && p.holdOnDead { // it keeps its place
		return true, f.order(p.key)
	}
	return true, f.leave(p.key, p.id)
}

// States of outcomes, in the index of which a delivery is to be found.
const (
	settled = "('delivered', 'dead', 'cancelled')"
	all     = "('', 'delivered', 'dead', 'cancelled')"
)

// outcome adds to the history.
func (t *transaction) outcome(id, token int64, attempts any, state, reason string, until int64) error {
	return t.exec("insert into outhook_outcome (delivery, token, at, attempts, state, reason, until) values (?, ?, ?, ?, ?, ?, ?)",
		id, token, t.now, attempts, state, reason, until)
}
