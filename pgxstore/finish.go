package pgxstore

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// Finish implements [outhook.Store]. An outcome whose State is none of the four is
// reported as lost.
//
// Its transaction locks rows of pending in the order of their numbers, then
// those of subscriber likewise. It waits for a Claim that has locked one of them,
// which a lease that has ended can be.
func (s *Store) Finish(ctx context.Context, outcomes []outhook.Outcome) (lost []outhook.Lease, err error) {
	if len(outcomes) == 0 {
		return nil, ctx.Err()
	}
	err = s.inTx(ctx, "finish", func(tx pgx.Tx) error {
		f := &finishing{s: s, tx: tx, outcomes: outcomes}
		if err := f.lock(ctx); err != nil {
			return err
		}
		if err := f.apply(ctx); err != nil {
			return err
		}
		lost = f.lost()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}

// A finishing is one call of Finish.
type finishing struct {
	s        *Store
	tx       pgx.Tx
	outcomes []outhook.Outcome
	leases   []leaseState // of the outcomes
}

type leaseState struct {
	delivery   int64
	subscriber int64
	ctid       string
	ordered    bool
	live       bool // the outcome is to be applied
	known      bool // or one was applied before
}

// lockLeases locks the rows of deliveries that are pending. live: the token is the latest
// and had no outcome. known: it is the latest, but had one.
const lockLeases = `
with lease as materialized (
    select u.n, u.token, d.id
    from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality u (event, subscriber, token, n)
    cross join lateral (select id from {schema}.subscriber s where s.name = u.subscriber limit 1) s
    cross join lateral (select id from {schema}.delivery d where d.event = u.event and d.subscriber = s.id limit 1) d
), row as materialized (
    select p.*
    from (select distinct id from lease order by id) l cross join lateral (
        select ctid, id, subscriber, key, token, live from {schema}.pending p where p.id = l.id for update
    ) p
)
select l.n, l.id, r.subscriber, r.ctid::text, r.key <> '', r.token = l.token and r.live, r.token = l.token and not r.live
from lease l left join row r on r.id = l.id`

// settledLeases returns which of the tokens settled their deliveries.
const settledLeases = `
select u.n
from unnest($1::bigint[], $2::bigint[]) with ordinality u (delivery, token, n)
cross join lateral (select state from {schema}.outcome o where o.delivery = u.delivery and o.token = u.token limit 1) o
where o.state is not null`

func (f *finishing) lock(ctx context.Context) error {
	var events, subscribers []string
	var tokens []int64
	for i := range f.outcomes {
		l := &f.outcomes[i].Lease
		events, subscribers, tokens = append(events, storable(l.ID.Event)), append(subscribers, storable(l.ID.Subscriber)), append(tokens, l.Token)
	}
	f.leases = make([]leaseState, len(f.outcomes))
	var gone []int // places of deliveries that are not pending
	err := f.s.queryPinned(ctx, f.tx, func(rows pgx.Rows) error {
		var n int
		var id int64
		var subscriber *int64
		var ctid *string
		var ordered, live, known *bool
		if err := rows.Scan(&n, &id, &subscriber, &ctid, &ordered, &live, &known); err != nil {
			return err
		}
		l := &f.leases[n-1]
		if l.delivery = id; ctid == nil {
			gone = append(gone, n-1)
		} else {
			l.subscriber, l.ctid, l.ordered, l.live, l.known = *subscriber, *ctid, *ordered, *live, *known
		}
		return nil
	}, lockLeases, events, subscribers, tokens)
	if err != nil || len(gone) == 0 {
		return err
	}
	// In a statement of its own: a row may be gone by what the first one waited for.
	var ids []int64
	tokens = tokens[:0]
	for _, i := range gone {
		ids, tokens = append(ids, f.leases[i].delivery), append(tokens, f.outcomes[i].Lease.Token)
	}
	rows, err := f.tx.Query(ctx, f.s.sql(settledLeases), ids, tokens)
	if err != nil {
		return err
	}
	places, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for _, n := range places {
		f.leases[gone[n-1]].known = true
	}
	return err
}

// applyOutcomes stores the outcomes of rows that are locked: those of $1 become
// settled, those of $2 are pending again. Each is described by the arrays that follow.
const applyOutcomes = `
with done as materialized (
    select * from unnest($3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::boolean[], $8::bytea[])
        u (id, state, reason, after, released, attempts)
), settled as (
    delete from {schema}.pending where ctid = any ($1::text[]::tid[])
    returning id, subscriber, key, token, holds
), again as (
    update {schema}.pending p
    set due = least({now} + done.after * interval '1 microsecond', p.expires), live = false,
        rank = case when p.key <> '' or done.released and done.after = 0 then p.rank
            else least({now} + done.after * interval '1 microsecond', p.expires) end,
        attempts = case when done.released then p.attempts else p.attempts + 1 end,
        unfinished = case when done.released then p.unfinished - 1 else 0 end
    from done
    where p.ctid = any ($2::text[]::tid[]) and done.id = p.id
    returning p.id, p.subscriber, p.key, p.token
), history as (
    insert into {schema}.outcome (delivery, token, at, state, reason, attempts)
    select l.id, l.token, {now}, nullif(done.state, 'pending'), done.reason, done.attempts
    from (select id, token from settled union all select id, token from again) l join done using (id)
    where done.state <> 'pending' or done.attempts is not null
), freed as (
    delete from {schema}.hold h
    using (select * from settled union all select *, false from again) l
    where l.key <> '' and h.subscriber = l.subscriber and h.key = l.key and h.delivery = l.id
)
insert into {schema}.barrier (subscriber, key, delivery)
select l.subscriber, l.key, l.id from settled l join done using (id) where l.holds and done.state = 'dead'`

// apply stores the outcomes of live leases with their effects.
func (f *finishing) apply(ctx context.Context) error {
	var settled, again, states, reasons []string
	var ids, afters []int64
	var released []bool
	var attempts [][]byte
	due := false // something becomes claimable, or will sooner than others may think
	applied := make(map[int64]bool)
	effects := make(map[int64][]outhook.Effect)
	for i := range f.outcomes {
		o, l := &f.outcomes[i], &f.leases[i]
		if !l.live || !valid(o.State) {
			continue
		}
		if l.known = true; applied[l.delivery] {
			continue // the lease has had its outcome in this very call
		}
		applied[l.delivery] = true
		data, err := stored.EncodeAttempts(o.Attempts)
		if err != nil {
			return err
		}
		if o.State == outhook.Pending {
			again = append(again, l.ctid)
			due = true
		} else {
			settled = append(settled, l.ctid)
			due = due || l.ordered
		}
		ids = append(ids, l.delivery)
		states = append(states, string(o.State))
		reasons = append(reasons, storable(o.Reason))
		afters = append(afters, micros(o.After))
		released = append(released, o.Released && o.State == outhook.Pending)
		attempts = append(attempts, data)
		if o.Effect != nil {
			effects[l.subscriber] = append(effects[l.subscriber], *o.Effect)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := f.tx.Exec(ctx, f.s.sql(applyOutcomes), settled, again, ids, states, reasons, afters, released, attempts); err != nil {
		return err
	}
	opened, err := f.affect(ctx, effects)
	if err != nil {
		return err
	}
	if due || opened {
		return f.s.notify(ctx, f.tx)
	}
	return nil
}

func valid(state outhook.State) bool {
	switch state {
	case outhook.Pending, outhook.Delivered, outhook.Dead, outhook.Cancelled:
		return true
	}
	return false
}

// affect applies effects to the standings of subscribers.
func (f *finishing) affect(ctx context.Context, effects map[int64][]outhook.Effect) (opened bool, err error) {
	if len(effects) == 0 {
		return false, nil
	}
	var ids []int64
	for id := range effects {
		ids = append(ids, id)
	}
	rows, now, err := f.s.lockStandings(ctx, f.tx, `select unnest($1::bigint[])`, ids)
	if err != nil {
		return false, err
	}
	for id, row := range rows {
		for _, e := range effects[id] {
			e.Reason = strings.ToValidUTF8(e.Reason, "\ufffd")
			row.standing.Apply(now, e)
		}
	}
	return f.s.storeStandings(ctx, f.tx, rows, now)
}

// lost returns the leases whose outcomes came too late.
func (f *finishing) lost() (lost []outhook.Lease) {
	for i := range f.outcomes {
		if !f.leases[i].known {
			lost = append(lost, f.outcomes[i].Lease)
		}
	}
	return lost
}

// storable replaces what PostgreSQL cannot keep in a text.
func storable(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\ufffd"), "\ufffd")
}

// notify tells all that listen that something may have become claimable, when
// the transaction commits.
func (s *Store) notify(ctx context.Context, tx pgx.Tx) error {
	if s.options.Silent {
		return nil
	}
	_, err := tx.Exec(ctx, `select pg_notify($1::text, '')`, s.options.Schema)
	return err
}
