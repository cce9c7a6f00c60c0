package pgxstore

import (
	"time"

	"github.com/jackc/pgx/v5"
)

// headRows are the first of each order key of the subscriber l, with the instants
// from which they could be claimed.
const headRows = `(
    with recursive k (key) as (
        select (select p.key from {schema}.pending p
                where p.subscriber = l.subscriber and p.key > '' order by p.key limit 1)
        union all
        select (select p.key from {schema}.pending p
                where p.subscriber = l.subscriber and p.key > k.key order by p.key limit 1)
        from k where k.key is not null
    )
    select greatest(h.due, o.until) as at
    from k cross join lateral (
        select id, due, unfinished from {schema}.pending p
        where p.subscriber = l.subscriber and p.key = k.key
        order by rank, id limit 1
    ) h left join lateral (
        select until from {schema}.hold o where o.subscriber = l.subscriber and o.key = k.key
    ) o on true
    where k.key is not null and (h.unfinished < $2::integer or $3::boolean)
        and not exists (select from {schema}.barrier b where b.subscriber = l.subscriber and b.key = k.key and b.delivery < h.id)
) head`

// nextPlain returns when the first of what waits could be claimed, for each
// of the subscribers, if their standings allow it. Where something is due, it does
// not look further. Each ORDER BY is that of the index, and with its LIMIT keeps the
// planner to it.
const nextPlain = nextOfEach + `
from unnest($1::bigint[]) l (subscriber)`

// nextKeyed does so for subscribers of which some have something with an order key.
const nextKeyed = nextDue + `
    when exists (select from ` + headRows + ` where at <= {now}) then {now}
    else least(` + nextUnordered + `,
        (select min(at) from ` + headRows + `)
    ) end
from unnest($1::bigint[]) l (subscriber)`

const (
	nextOfEach = nextDue + `
    else least(` + nextUnordered + `)
    end`
	nextDue = `
select l.subscriber, {now}, case
    when (
        select true from {schema}.pending
        where subscriber = l.subscriber and key = '' and rank <= {now} and due <= {now}
            and (unfinished < $2::integer or $3::boolean)
        order by rank, id limit 1
    ) then {now}`
	nextUnordered = `
        (select min(due) from {schema}.pending -- all of them are leased
         where subscriber = l.subscriber and key = '' and rank <= {now}
            and (unfinished < $2::integer or $3::boolean)),
        (select due from {schema}.pending
         where subscriber = l.subscriber and key = '' and rank > {now}
            and (unfinished < $2::integer or $3::boolean)
         order by rank, id limit 1)`
)

// findNext queues what finds how long it is until something further could be claimed with
// the room that is left, 0 if nothing waits for time to pass.
func (c *claiming) findNext(batch *pgx.Batch, statement string, next *time.Duration) {
	var ids []int64
	lanes := make(map[int64]*lane, len(c.lanes))
	for _, l := range c.lanes {
		if !l.closed && l.room+l.over > 0 {
			ids = append(ids, l.id)
			lanes[l.id] = l
		}
	}
	if len(ids) == 0 {
		return
	}
	batch.Queue(c.s.sql(statement), ids, c.request.SuspectAfter, c.suspects > 0).Query(eachRow(func(rows pgx.Rows) error {
		var id int64
		var at *time.Time
		var now time.Time
		if err := rows.Scan(&id, &now, &at); err != nil {
			return err
		}
		if at == nil || lanes[id].room+lanes[id].over <= 0 {
			return nil
		}
		if opens := lanes[id].opens; opens.After(*at) {
			*at = opens
		}
		wait := at.Sub(now)
		if wait <= 0 {
			wait = contended
		}
		if *next == 0 || wait < *next {
			*next = wait
		}
		return nil
	}))
}
