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
// A transaction locks rows of pending, first those that are delivered and nothing else, then
// others that are settled, then the rest, each in the order of their numbers, and then those of
// subscriber likewise. It waits for a Claim that has locked one of them, which a lease that has
// ended can be. There is a second one for what the first did not find where it was.
func (s *Store) Finish(ctx context.Context, outcomes []outhook.Outcome) (lost []outhook.Lease, err error) {
	if len(outcomes) == 0 {
		return nil, ctx.Err()
	}
	for rest := outcomes; len(rest) > 0; {
		var later []outhook.Outcome
		due, changed := false, []string(nil)
		err = s.inPinnedTx(ctx, "finish", "", func(tx *transaction) (err error) {
			f := newFinishing(s, tx, rest)
			if f.plain() {
				later, err = f.deliverAll(ctx, tx)
			} else {
				lost, err = f.finish(ctx)
			}
			due, changed = f.due, f.changed
			return err
		})
		if len(changed) > 0 { // perhaps even if there is an error
			s.withdraw(ctx, changed...)
		}
		if err != nil {
			return nil, err
		}
		if due {
			s.handover.miss()
		}
		for i := range rest {
			s.places.Forget(rest[i].Lease)
		}
		rest = later // which have no place any more
	}
	return lost, nil
}

// A finishing is one transaction of Finish. What it knows the places of it applies at once; the
// rest, and what is not found there any more, it looks for by name.
type finishing struct {
	s        *Store
	tx       session
	outcomes []outhook.Outcome
	leases   []leaseState // of the outcomes
	due      bool         // something becomes claimable, or will sooner than others may think
	changed  []string     // subscribers whose standings have changed
}

type leaseState struct {
	place
	live    bool // as far as it is known; the outcome is to be applied
	applied bool
	known   bool // an outcome was applied, now or before
	again   bool // there are several outcomes of it: the first is the one
}

func newFinishing(s *Store, tx session, outcomes []outhook.Outcome) *finishing {
	f := &finishing{s: s, tx: tx, outcomes: outcomes, leases: make([]leaseState, len(outcomes))}
	first := make(map[outhook.Lease]int, len(outcomes))
	for i := range outcomes {
		lease := outcomes[i].Lease
		f.leases[i].place, f.leases[i].live = s.places.Find(lease)
		if j, ok := first[lease]; ok {
			f.leases[i].again, f.leases[j].again = true, true
		} else {
			first[lease] = i
		}
	}
	return f
}

// plain reports whether the outcomes are all as most are: delivered, and nothing else.
func (f *finishing) plain() bool {
	for i := range f.outcomes {
		if !f.isPlain(i) {
			return false
		}
	}
	return true
}

func (f *finishing) isPlain(i int) bool {
	o, l := &f.outcomes[i], &f.leases[i]
	return l.live && !l.again && !l.ordered && o.State == outhook.Delivered && o.Effect == nil
}

// deliverAll stores outcomes that are plain, with one statement, and commits. It returns
// those whose leases are not where they were.
func (f *finishing) deliverAll(ctx context.Context, tx *transaction) (rest []outhook.Outcome, err error) {
	batch := &pgx.Batch{}
	r, err := f.deliver(batch)
	if err != nil {
		return nil, err
	}
	if err := tx.commitWith(ctx, batch); err != nil {
		return nil, err
	}
	for i, o := range f.outcomes {
		if !r.of[deliveryToken{f.leases[i].delivery, o.Lease.Token}].applied {
			rest = append(rest, o)
		}
	}
	return rest, nil
}

// finish stores outcomes of any kind, and returns the leases of those that came too late.
func (f *finishing) finish(ctx context.Context) (lost []outhook.Lease, err error) {
	batch := &pgx.Batch{}
	if _, err := f.deliver(batch); err != nil {
		return nil, err
	}
	if err := send(ctx, f.tx, batch); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{f.apply, f.lock, f.apply, f.end} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return f.lost(), nil
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
		var n int64
		if err := rows.Scan(&n); err != nil {
			return err
		}
		f.leases[gone[n-1]].known = true
		return nil
	}, f.s.sql(settledLeases), ids, tokens)
}

// lockNamed fills in the leases at the given places. Of those that it returns, the delivery
// is not pending.
func (f *finishing) lockNamed(ctx context.Context, at []int, events, subscribers []string, tokens []int64) (gone []int, err error) {
	err = ask(ctx, f.tx, func(rows pgx.Rows) error {
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
			return nil
		}
		l.place = place{*ctid, id, *subscriber, *ordered}
		l.live, l.known = *live, *known
		return nil
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

// deliverRows settles rows without an order key at given places as delivered, as
// applyOutcomes does.
const deliverRows = `
with settled as (
    delete from {schema}.pending p using unnest($1::text[]::tid[], $2::bigint[], $3::bigint[], $4::bytea[]) d (ctid, id, token, attempts)
    where p.ctid = d.ctid and p.id = d.id and p.token = d.token and p.live
    returning p.id, p.token, d.attempts
), history as (
    insert into {schema}.outcome (delivery, token, at, state, reason, attempts)
    select id, token, {now}, 'delivered', '', attempts from settled
)
select id, token from settled`

// deliver queues what stores the outcomes that are plain.
func (f *finishing) deliver(batch *pgx.Batch) (*outcomeRows, error) {
	r, err := f.rows(f.isPlain)
	if err == nil && len(r.ids) > 0 {
		batch.Queue(f.s.sql(deliverRows), r.ctids, r.ids, r.tokens, r.attempts).Query(eachRow(r.read))
	}
	return r, err
}

// apply stores the outcomes of live leases that were not applied yet.
func (f *finishing) apply(ctx context.Context) error {
	r, err := f.rows(func(i int) bool { return f.leases[i].live && !f.leases[i].applied && valid(f.outcomes[i].State) })
	if err != nil || len(r.ids) == 0 {
		return err
	}
	return ask(ctx, f.tx, r.read, f.s.sql(applyOutcomes), r.ctids, r.ids, r.tokens, r.states, r.reasons, r.afters, r.released, r.attempts)
}

// outcomeRows are outcomes as parameters of a statement, column by column.
type outcomeRows struct {
	of map[deliveryToken]*leaseState

	ctids, states, reasons []string
	ids, tokens, afters    []int64
	released               []bool
	attempts               [][]byte
}

// rows returns those of some outcomes.
func (f *finishing) rows(which func(i int) bool) (*outcomeRows, error) {
	r := &outcomeRows{of: make(map[deliveryToken]*leaseState)}
	for _, i := range f.byDelivery() {
		if !which(i) {
			continue
		}
		o, l := &f.outcomes[i], &f.leases[i]
		lease := deliveryToken{l.delivery, o.Lease.Token}
		if r.of[lease] != nil { // it has its outcome in this very call
			l.known = true
			continue
		}
		r.of[lease] = l
		data, err := stored.EncodeAttempts(o.Attempts)
		if err != nil {
			return nil, err
		}
		f.due = f.due || o.State == outhook.Pending || l.ordered
		r.ctids = append(r.ctids, l.ctid)
		r.ids = append(r.ids, l.delivery)
		r.tokens = append(r.tokens, o.Lease.Token)
		r.states = append(r.states, string(o.State))
		r.reasons = append(r.reasons, storable(o.Reason))
		r.afters = append(r.afters, micros(o.After))
		r.released = append(r.released, o.Released && o.State == outhook.Pending)
		r.attempts = append(r.attempts, data)
	}
	return r, nil
}

// read reads one of those that were stored.
func (r *outcomeRows) read(rows pgx.Rows) error {
	var lease deliveryToken
	if err := rows.Scan(&lease.delivery, &lease.token); err != nil {
		return err
	}
	r.of[lease].applied, r.of[lease].known = true, true
	return nil
}

type deliveryToken struct{ delivery, token int64 }

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
	f.due = f.due || opened
	if f.due {
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
		if row.standing != row.before {
			f.changed = append(f.changed, row.standing.Subscriber)
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
	return ask(ctx, tx, nil, `select pg_notify($1::text, '')`, s.options.Schema)
}
