package pgxstore

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/manage"
	"github.com/outhook/outhook/internal/stored"
)

// Sizes of what is read or changed in one go.
const (
	listPage   = 100
	changePage = 500
)

// Get implements [outhook.Manager].
func (s *Store) Get(ctx context.Context, id outhook.DeliveryID) (record outhook.Record, err error) {
	filter := outhook.Filter{Event: id.Event, Subscriber: id.Subscriber}
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, snapshot, func(tx pgx.Tx) error {
		rows, err := s.find(ctx, tx, filter, nil, 0, 0, 1)
		if err != nil {
			return err
		}
		if len(rows) == 0 || id.Event == "" || id.Subscriber == "" {
			return fmt.Errorf("%w: event %q for subscriber %q", outhook.ErrNotFound, id.Event, id.Subscriber)
		}
		if err := s.fill(ctx, tx, rows); err != nil {
			return err
		}
		record = rows[0].Record
		const history = `select attempts from {schema}.outcome where delivery = $1::bigint and attempts is not null order by token`
		found, err := tx.Query(ctx, s.sql(history), rows[0].id)
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(found, pgx.RowTo[[]byte])
		for _, data := range list {
			attempts, err := stored.DecodeAttempts(data)
			if err != nil {
				return err
			}
			record.Attempts = append(record.Attempts, attempts...)
		}
		return err
	})
	if err != nil {
		return outhook.Record{}, failure("get", err)
	}
	return record, nil
}

// List implements [outhook.Manager]. It reads page by page and shows each delivery
// as it is then; those that were enqueued after it began are left out.
func (s *Store) List(ctx context.Context, filter outhook.Filter) iter.Seq2[outhook.Record, error] {
	return func(yield func(outhook.Record, error) bool) {
		_, err := s.pages(ctx, filter, nil, listPage, func(rows []foundRow) (int, error) {
			if err := s.fill(ctx, s.pool, rows); err != nil {
				return 0, err
			}
			for i := range rows {
				if !yield(rows[i].Record, nil) {
					return i, errStop
				}
			}
			return len(rows), nil
		})
		if err != nil && err != errStop {
			yield(outhook.Record{}, failure("list", err))
		}
	}
}

// errStop ends pages.
var errStop = fmt.Errorf("pgxstore: stop")

// Replay implements [outhook.Manager], in transactions of a few hundred deliveries.
// n counts those that were replayed, also when there is an error.
func (s *Store) Replay(ctx context.Context, filter outhook.Filter) (n int, err error) {
	states := manage.States(filter.States, []outhook.State{outhook.Dead, outhook.Cancelled}, outhook.Pending)
	n, err = s.change(ctx, "replay", filter, states, s.replay)
	s.handover.miss()
	return n, err
}

const replayRows = `
with settled as (
    update {schema}.outcome o set state = null
    from unnest($1::bigint[], $2::bigint[]) u (delivery, token)
    where o.delivery = u.delivery and o.token = u.token and o.state is not null
    returning o.delivery
), d as (
    update {schema}.delivery d set entered = {now}, replay = d.replay + 1
    from settled where d.id = settled.delivery
    returning d.*
), freed as (
    delete from {schema}.barrier b using d
    where b.subscriber = d.subscriber and b.key = d.order_key and b.delivery = d.id
)
insert into {schema}.pending (id, subscriber, key, rank, due, expires, token, live, attempts, unfinished, holds)
select d.id, d.subscriber, d.order_key, case when d.order_key = '' then w.due else '-infinity' end, w.due,
    case when d.ttl > 0 then {now} + (d.ttl / 1000 + (d.ttl % 1000 > 0)::integer) * interval '1 microsecond' end,
    nextval('{schema}.token'), false, 0, 0, d.hold_on_dead and d.order_key <> ''
from d cross join lateral (
    select greatest({now}, (select max(until) from {schema}.outcome o where o.delivery = d.id)) as due
) w`

func (s *Store) replay(ctx context.Context, tx pgx.Tx, rows []foundRow) (n int, err error) {
	ids, tokens := columns(rows)
	tag, err := tx.Exec(ctx, s.sql(replayRows), ids, tokens)
	if err != nil || tag.RowsAffected() == 0 {
		return 0, err
	}
	return int(tag.RowsAffected()), s.notify(ctx, tx)
}

// Cancel implements [outhook.Manager], in transactions of a few hundred deliveries.
// n counts those that were cancelled, also when there is an error.
func (s *Store) Cancel(ctx context.Context, filter outhook.Filter) (n int, err error) {
	states := manage.States(filter.States, []outhook.State{outhook.Pending}, outhook.Delivered, outhook.Dead, outhook.Cancelled)
	s.withdraw(ctx) // or it would seem that an attempt of what waits for its Claim may be on the wire
	n, err = s.change(ctx, "cancel", filter, states, s.cancel)
	s.withdraw(ctx)
	return n, err
}

// cancelRows leaves the key of a leased delivery held: until the lease ends, a request may
// be on the wire.
const cancelRows = `
with gone as (
    delete from {schema}.pending p
    using (
        select r.id from (select unnest($1::bigint[]) as id) u cross join lateral (
            select id from {schema}.pending p where p.id = u.id for update
        ) r
    ) locked
    where p.id = locked.id
    returning p.id, p.live, p.due, p.key
), history as (
    insert into {schema}.outcome (delivery, token, at, state, reason, until)
    select id, nextval('{schema}.token'), {now}, 'cancelled', $2::text, case when live and due > {now} then due end
    from gone
)
select count(*), coalesce(bool_or(key <> ''), false) from gone`

func (s *Store) cancel(ctx context.Context, tx pgx.Tx, rows []foundRow) (n int, err error) {
	ids, _ := columns(rows)
	var ordered bool
	err = tx.QueryRow(ctx, s.sql(cancelRows), ids, outhook.ReasonCancelled).Scan(&n, &ordered)
	if err == nil && ordered {
		err = s.notify(ctx, tx)
	}
	return n, err
}

// Prune implements [outhook.Manager], in transactions of a few hundred
// deliveries. n counts those that were removed, also when there is an error.
func (s *Store) Prune(ctx context.Context, filter outhook.Filter) (n int, err error) {
	all := []outhook.State{outhook.Delivered, outhook.Dead, outhook.Cancelled}
	n, err = s.change(ctx, "prune", filter, manage.States(filter.States, all, outhook.Pending), s.prune)
	if err == nil {
		// What a Cancel or a crash has left behind of keys that nothing came after.
		const holds = `delete from {schema}.hold where until < {now} - interval '1 hour'`
		_, err = s.pool.Exec(ctx, s.sql(holds))
		err = failure("prune", err)
	}
	s.handover.miss() // a barrier may be gone
	return n, err
}

const pruneRows = `
with settled as (
    delete from {schema}.outcome o
    using unnest($1::bigint[], $2::bigint[]) u (delivery, token)
    where o.delivery = u.delivery and o.token = u.token and o.state is not null
    returning o.delivery
), history as (
    delete from {schema}.outcome o using settled where o.delivery = settled.delivery
), gone as (
    delete from {schema}.delivery d using settled where d.id = settled.delivery
    returning d.id, d.subscriber, d.order_key
), freed as (
    delete from {schema}.barrier b using gone
    where b.subscriber = gone.subscriber and b.key = gone.order_key and b.delivery = gone.id
    returning 1
)
select (select count(*) from gone), exists (select from freed)`

func (s *Store) prune(ctx context.Context, tx pgx.Tx, rows []foundRow) (n int, err error) {
	ids, tokens := columns(rows)
	var payloads []int64
	for _, r := range rows {
		if r.payload != nil {
			payloads = append(payloads, *r.payload)
		}
	}
	// Two calls that remove the last two deliveries of a payload: the one that
	// comes second has waited for its row, and its last statement sees what the other did.
	var freed bool
	batch := &pgx.Batch{}
	batch.Queue(s.sql(`select from {schema}.payload where id = any ($1::bigint[]) order by id for update`), payloads)
	batch.Queue(s.sql(pruneRows), ids, tokens).QueryRow(func(row pgx.Row) error { return row.Scan(&n, &freed) })
	batch.Queue(s.sql(`
delete from {schema}.payload p where p.id = any ($1::bigint[])
    and not exists (select from {schema}.delivery d where d.event = p.event and d.payload = p.id)`), payloads)
	err = tx.SendBatch(ctx, batch).Close()
	if err == nil && freed {
		err = s.notify(ctx, tx)
	}
	return n, err
}

// Stats implements [outhook.Manager]. It reads all of what is pending, and an index
// of what is settled.
func (s *Store) Stats(ctx context.Context) (stats outhook.Stats, err error) {
	var age int64
	err = s.pool.QueryRow(ctx, s.sql(countRows)).Scan(&stats.Pending, &stats.Delivered, &stats.Dead, &stats.Cancelled, &age)
	stats.OldestDue = time.Duration(age) * time.Microsecond
	return stats, failure("stats", err)
}

const countRows = `
select (select count(*) from {schema}.pending),
    count(*) filter (where state = 'delivered'),
    count(*) filter (where state = 'dead'),
    count(*) filter (where state = 'cancelled'),
    ` + oldestDue + `
from {schema}.outcome where state is not null`

// oldestDue is for how many microseconds something has been due.
const oldestDue = `(
    select coalesce(max(extract(epoch from {now} - at) * 1000000), 0)::bigint
    from ` + heads + ` where at <= {now}
)`

// Backlogs implements [outhook.Manager].
func (s *Store) Backlogs(ctx context.Context) iter.Seq2[outhook.Backlog, error] {
	return func(yield func(outhook.Backlog, error) bool) {
		rows, err := s.pool.Query(ctx, s.sql(countBacklogs))
		if err != nil {
			yield(outhook.Backlog{}, failure("backlogs", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var b outhook.Backlog
			var age int64
			if err := rows.Scan(&b.Subscriber, &b.Pending, &age); err != nil {
				yield(outhook.Backlog{}, failure("backlogs", err))
				return
			}
			b.OldestDue = time.Duration(age) * time.Microsecond
			if !yield(b, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(outhook.Backlog{}, failure("backlogs", err))
		}
	}
}

const countBacklogs = `
select s.name, p.n, coalesce(h.age, 0)
from (select subscriber, count(*) as n from {schema}.pending group by subscriber) p
join {schema}.subscriber s on s.id = p.subscriber
left join (
    select subscriber, (max(extract(epoch from {now} - at)) * 1000000)::bigint as age
    from ` + heads + ` where at <= {now} group by subscriber
) h on h.subscriber = p.subscriber`

// heads are the rows of pending that are not behind another in their order, with the
// instants from which they could be claimed but for their standings.
const heads = `(
        select subscriber, due as at from {schema}.pending where key = ''
        union all
        select subscriber, greatest(h.due, o.until)
        from (
            select distinct on (subscriber, key) subscriber, key, id, due
            from {schema}.pending where key <> '' order by subscriber, key, rank, id
        ) h left join {schema}.hold o using (subscriber, key)
        where not exists (select from {schema}.barrier b
            where b.subscriber = h.subscriber and b.key = h.key and b.delivery < h.id)
    ) heads`
