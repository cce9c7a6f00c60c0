package pgxstore

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// Finish implements [outhook.Store]. An outcome whose State is none of the four is
// reported as lost.
//
// Its transaction locks rows of pending, first those that are settled and then the others,
// each in the order of their numbers, and then those of subscriber likewise. It waits for a Claim that has
// locked one of them, which a lease that has ended can be.
func (s *Store) Finish(ctx context.Context, outcomes []outhook.Outcome) (lost []outhook.Lease, err error) {
	if len(outcomes) == 0 {
		return nil, ctx.Err()
	}
	err = s.inPinnedTx(ctx, "finish", "", func(tx *transaction) error {
		f := newFinishing(s, tx, outcomes)
		for _, step := range []func(context.Context) error{f.apply, f.lock, f.apply, f.end} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		lost = f.lost()
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.places.forget(outcomes)
	return lost, nil
}

// A finishing is one call of Finish. What it knows the places of it applies at once; the
// rest, and what is not found there any more, it looks for by name.
type finishing struct {
	s        *Store
	tx       session
	outcomes []outhook.Outcome
	leases   []leaseState // of the outcomes
	due      bool         // something becomes claimable, or will sooner than others may think
}

type leaseState struct {
	place
	live    bool // as far as it is known; the outcome is to be applied
	applied bool
	known   bool // an outcome was applied, now or before
}

func newFinishing(s *Store, tx session, outcomes []outhook.Outcome) *finishing {
	f := &finishing{s: s, tx: tx, outcomes: outcomes, leases: make([]leaseState, len(outcomes))}
	for i := range outcomes {
		f.leases[i].place, f.leases[i].live = s.places.find(outcomes[i].Lease)
	}
	return f
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

// lock finds those that were not applied.
func (f *finishing) lock(ctx context.Context) error {
	var at []int // places among the outcomes
	var events, subscribers []string
	var tokens []int64
	for i := range f.outcomes {
		if f.leases[i].applied {
			continue
		}
		f.leases[i] = leaseState{}
		l := &f.outcomes[i].Lease
		at = append(at, i)
		events, subscribers, tokens = append(events, storable(l.ID.Event)), append(subscribers, storable(l.ID.Subscriber)), append(tokens, l.Token)
	}
	if len(at) == 0 {
		return nil
	}
	gone, err := f.lockNamed(ctx, at, events, subscribers, tokens)
	if err != nil || len(gone) == 0 {
		return err
	}
	// In a statement of its own: a row may be gone by what the first one waited for.
	var ids []int64
	tokens = tokens[:0]
	for _, i := range gone {
		ids, tokens = append(ids, f.leases[i].delivery), append(tokens, f.outcomes[i].Lease.Token)
	}
	return ask(ctx, f.tx, func(rows pgx.Rows) error {
		places, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		for _, n := range places {
			f.leases[gone[n-1]].known = true
		}
		return err
	}, f.s.sql(settledLeases), ids, tokens)
}

// lockNamed fills in the leases at the given places. Of those that it returns, the delivery
// is not pending.
func (f *finishing) lockNamed(ctx context.Context, at []int, events, subscribers []string, tokens []int64) (gone []int, err error) {
	err = ask(ctx, f.tx, func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			var id int64
			var subscriber *int64
			var ctid *string
			var ordered, live, known *bool
			if err := rows.Scan(&n, &id, &subscriber, &ctid, &ordered, &live, &known); err != nil {
				return err
			}
			l := &f.leases[at[n-1]]
			if l.delivery = id; ctid == nil {
				gone = append(gone, at[n-1])
				continue
			}
			l.place = place{*ctid, id, *subscriber, *ordered}
			l.live, l.known = *live, *known
		}
		return rows.Err()
	}, f.s.sql(lockLeases), events, subscribers, tokens)
	return gone, err
}

// applyOutcomes stores the outcomes of rows at given places, if their leases are live, and
// returns those that it has stored. The rows are joined by their places alone, so that no
// plan compares each with each.
const applyOutcomes = `
with done as materialized (
    select u.ctid::tid as ctid, u.id, u.token, u.state, u.reason, u.released, u.attempts, u.after = 0 as now,
        {now} + u.after * interval '1 microsecond' as due
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::boolean[], $8::bytea[])
        u (ctid, id, token, state, reason, after, released, attempts)
), settled as (
    delete from {schema}.pending p using done d
    where d.state <> 'pending' and p.ctid = d.ctid and p.id = d.id and p.token = d.token and p.live
    returning p.id, p.subscriber, p.key, p.token, p.holds, d.state, d.reason, d.attempts
), again as (
    update {schema}.pending p
    set due = least(d.due, p.expires), live = false,
        rank = case when p.key <> '' or d.released and d.now then p.rank else least(d.due, p.expires) end,
        attempts = case when d.released then p.attempts else p.attempts + 1 end,
        unfinished = case when d.released then p.unfinished - 1 else 0 end
    from done d
    where d.state = 'pending' and p.ctid = d.ctid and p.id = d.id and p.token = d.token and p.live
    returning p.id, p.subscriber, p.key, p.token, d.reason, d.attempts
), history as (
    insert into {schema}.outcome (delivery, token, at, state, reason, attempts)
    select id, token, {now}, state, reason, attempts from settled
    union all
    select id, token, {now}, null, reason, attempts from again where attempts is not null
), freed as (
    delete from {schema}.hold h
    using (select id, subscriber, key from settled union all select id, subscriber, key from again) l
    where l.key <> '' and h.subscriber = l.subscriber and h.key = l.key and h.delivery = l.id
), barrier as (
    insert into {schema}.barrier (subscriber, key, delivery)
    select subscriber, key, id from settled where holds and state = 'dead'
)
select id, token from settled union all select id, token from again`

// byDelivery returns the places of the outcomes in the order of the deliveries, in which
// all that locks rows of pending does so.
func (f *finishing) byDelivery() []int {
	at := make([]int, len(f.outcomes))
	for i := range at {
		at[i] = i
	}
	slices.SortStableFunc(at, func(i, j int) int { return cmp.Compare(f.leases[i].delivery, f.leases[j].delivery) })
	return at
}

// apply stores the outcomes of live leases that were not applied yet.
func (f *finishing) apply(ctx context.Context) error {
	var ctids, states, reasons []string
	var ids, tokens, afters []int64
	var released []bool
	var attempts [][]byte
	at := make(map[deliveryToken]*leaseState)
	for _, i := range f.byDelivery() {
		o, l := &f.outcomes[i], &f.leases[i]
		if !l.live || l.applied || !valid(o.State) {
			continue
		}
		lease := deliveryToken{l.delivery, o.Lease.Token}
		if at[lease] != nil { // it has its outcome in this very call
			l.known = true
			continue
		}
		at[lease] = l
		data, err := stored.EncodeAttempts(o.Attempts)
		if err != nil {
			return err
		}
		f.due = f.due || o.State == outhook.Pending || l.ordered
		ctids = append(ctids, l.ctid)
		ids = append(ids, l.delivery)
		tokens = append(tokens, o.Lease.Token)
		states = append(states, string(o.State))
		reasons = append(reasons, storable(o.Reason))
		afters = append(afters, micros(o.After))
		released = append(released, o.Released && o.State == outhook.Pending)
		attempts = append(attempts, data)
	}
	if len(ids) == 0 {
		return nil
	}
	return ask(ctx, f.tx, func(rows pgx.Rows) error {
		applied, err := pgx.CollectRows(rows, pgx.RowToStructByPos[deliveryToken])
		for _, lease := range applied {
			at[lease].applied, at[lease].known = true, true
		}
		return err
	}, f.s.sql(applyOutcomes), ctids, ids, tokens, states, reasons, afters, released, attempts)
}

type deliveryToken struct{ Delivery, Token int64 }

// end applies the effects, and tells others what has changed.
func (f *finishing) end(ctx context.Context) error {
	effects := make(map[int64][]outhook.Effect)
	for i := range f.outcomes {
		if l := &f.leases[i]; l.applied && f.outcomes[i].Effect != nil {
			effects[l.subscriber] = append(effects[l.subscriber], *f.outcomes[i].Effect)
		}
	}
	opened, err := f.affect(ctx, effects)
	if err != nil {
		return err
	}
	if f.due || opened {
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
func (s *Store) notify(ctx context.Context, tx session) error {
	if s.options.Silent {
		return nil
	}
	batch := &pgx.Batch{}
	batch.Queue(`select pg_notify($1::text, '')`, s.options.Schema)
	return tx.SendBatch(ctx, batch).Close()
}
