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
	err = s.write(ctx, "finish", func(t *transaction) error {
		f := finisher{transaction: t, standings: make(map[int64]*change)}
		for i := range outcomes {
			late, err := f.finish(&outcomes[i], attempts[i])
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

// delivery is what Finish has to know of one.
type delivery struct {
	id         int64
	key        key
	holdOnDead bool

	// Nil if it is settled.
	token   *int64
	live    *bool
	expires *int64
}

func (f *finisher) finish(o *outhook.Outcome, attempts any) (lost bool, err error) {
	var d delivery
	found, err := f.one(`select d.id, d.subscriber, d.order_key, d.hold_on_dead <> 0, p.token, p.live <> 0, p.expires
		from outhook_delivery d left join outhook_pending p on p.id = d.id
		where d.event = ? and d.subscriber = (select id from outhook_subscriber where name = ?)`,
		[]any{o.Lease.ID.Event, o.Lease.ID.Subscriber},
		&d.id, &d.key.subscriber, &d.key.name, &d.holdOnDead, &d.token, &d.live, &d.expires)
	switch {
	case err != nil || !found:
		return !found, err
	case d.token == nil: // lost, unless it is what has settled the delivery
		applied, err := f.one("select 1 from outhook_outcome where delivery = ? and token = ? and state is not null",
			[]any{d.id, o.Lease.Token}, new(int))
		return !applied, err
	case *d.token != o.Lease.Token:
		return true, nil
	case !*d.live:
		return false, nil // it was applied before
	}
	if o.Effect != nil {
		if err := f.effect(o.Lease.ID.Subscriber, d.key.subscriber, *o.Effect); err != nil {
			return false, err
		}
	}
	return false, f.apply(&d, o, attempts)
}

func (f *finisher) apply(d *delivery, o *outhook.Outcome, attempts any) error {
	if err := f.unhold(d.key, d.id); err != nil {
		return err
	}
	if !o.Released || attempts != nil {
		var state any
		if o.State != outhook.Pending {
			state = string(o.State)
		}
		if err := f.outcome(d.id, o.Lease.Token, attempts, state, o.Reason, 0); err != nil {
			return err
		}
	}
	if o.State != outhook.Pending {
		return f.settle(d.key, d.id, o.State == outhook.Dead && d.holdOnDead)
	}
	err := f.exec(`update outhook_pending set live = 0, due = ?,
		attempts = iif(?2, attempts, attempts + 1), unfinished = iif(?2, unfinished - 1, 0) where id = ?`,
		min(later(f.now, o.After), *d.expires), o.Released, d.id)
	if err != nil {
		return err
	}
	return f.order(d.key, d.id)
}

// outcome adds to the history.
func (t *transaction) outcome(id, token int64, attempts, state any, reason string, until int64) error {
	return t.exec("insert into outhook_outcome (delivery, token, at, attempts, state, reason, until) values (?, ?, ?, ?, ?, ?, ?)",
		id, token, t.now, attempts, state, reason, until)
}

// settle ends that a delivery is pending. One that holds keeps its place.
func (t *transaction) settle(k key, id int64, holds bool) error {
	if err := t.exec("delete from outhook_pending where id = ?", id); err != nil {
		return err
	}
	if holds && k.name != "" {
		return t.order(k, id)
	}
	return t.leave(k, id)
}
