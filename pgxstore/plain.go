package pgxstore

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
)

// leasePlain is a claim in one statement, for when all subscribers are known that have
// something pending, and it has no order key and none of them a standing. It serves
// them in their turns, up to the first one where that is not so. It returns how many it has
// picked, or more than it was asked for if there is such a one. What it has picked and not
// leased is a suspect that there is no room for, or was changed meanwhile. It tells
// nextIfShort who has room left.
const leasePlain = `
with turn as materialized (
    select last_value as id from {schema}.turn
), lane as materialized (
    select l.id, l.room, l.id <= turn.id as wrapped, bool_and(l.plain) over (order by l.id <= turn.id, l.id) as plain
    from (
        select p.subscriber as id, gap.room, p.subscriber = gap.upto
            and coalesce((select s.standing is null from {schema}.subscriber s where s.id = p.subscriber limit 1), false)
            and (select true from {schema}.pending k where k.subscriber = p.subscriber and k.key > '' order by k.key limit 1) is null as plain
        from unnest($1::bigint[], $2::bigint[], $3::integer[]) gap (above, upto, room)
        cross join lateral (
            select subscriber from {schema}.pending p where p.subscriber > gap.above and p.subscriber <= gap.upto
            order by p.subscriber limit 1
        ) p
    ) l cross join turn
    order by wrapped, l.id
), picked as materialized (
    select l.subscriber, l.wrapped, x.ctid, x.id, x.suspect, x.n = l.room as last
    from (select id as subscriber, room, wrapped, plain from lane) l
    cross join lateral (select *, row_number() over () as n from (` + unordered + `) u) x
    where l.plain
    limit $6::bigint
), leased as (
    update {schema}.pending p
    set token = nextval('{schema}.token'), live = true, unfinished = p.unfinished + 1,
        due = {now} + $8::bigint * interval '1 microsecond'
    where p.ctid = any (array(
        select ctid from picked where not suspect or id in (select id from picked where suspect limit $5::integer)
    ))
    returning p.ctid::text, p.id, p.token, p.attempts, p.unfinished, p.expires, p.subscriber, p.rank
), result as materialized (
    select r.picked, set_config('outhook.short', coalesce((
            select array_agg(id) from lane where r.picked < $6::bigint and room > 0 and id not in (select subscriber from picked where last)
        ), '{}')::text, true),
        setval('{schema}.turn', (select subscriber from picked order by wrapped desc, subscriber desc limit 1))
    from (select case when coalesce((select bool_and(plain) from lane), true) then (select count(*) from picked) else $6::bigint + 1 end as picked) r
)
select turn.id, result.picked, l.subscriber, l.rank, ` + leasedColumns + `
from turn cross join result left join (leased l ` + withDelivery + `) on true`

// nextIfShort is nextPlain of those of whom leasePlain has found less than they had room for. They
// are among those of $1, which is not empty.
const nextIfShort = nextOfEach + `
from unnest(case when cardinality($1::bigint[]) > 0 then current_setting('outhook.short', true)::bigint[] end) l (subscriber)`

// claimPlain makes as much of a claim as leasePlain can. It returns what is left to be
// claimed, of Limit 0 if nothing.
func (s *Store) claimPlain(ctx context.Context, request outhook.ClaimRequest, known map[int64]string) (claimed outhook.Claimed, rest outhook.ClaimRequest, err error) {
	var c *claiming
	err = s.inPinnedTx(ctx, "claim", "", func(tx *transaction) error {
		c = &claiming{s: s, request: request, tx: tx, suspects: request.Suspects, leased: make(map[int64]*leasedRow)}
		claimed = outhook.Claimed{}
		batch := &pgx.Batch{}
		all := c.leasePlain(batch, known)
		c.findNext(batch, nextIfShort, &claimed.Next)
		err := tx.commitWith(ctx, batch)
		if rest = c.request; *all {
			rest.Limit = 0
		}
		return err
	})
	if err != nil {
		return outhook.Claimed{}, rest, err
	}
	batch := &pgx.Batch{}
	payloads := c.loadPayloads(batch)
	if batch.Len() > 0 {
		if err := s.inPinnedTx(ctx, "claim", "", func(tx *transaction) error { return tx.commitWith(ctx, batch) }); err != nil {
			leased, _ := c.claims(nil)
			s.release(ctx, leased)
			return outhook.Claimed{}, rest, err
		}
	}
	claimed.Claims, claimed.Standings = c.claims(payloads)
	s.places.Keep(c.places)
	return claimed, rest, nil
}

// leasePlain queues what leases of known subscribers. all becomes whether nothing is left to
// be claimed, and c.request what is.
func (c *claiming) leasePlain(batch *pgx.Batch, known map[int64]string) (all *bool) {
	lanes := make(map[int64]*lane, len(known))
	var above, upto []int64
	var rooms []int32
	last := int64(math.MinInt64)
	for _, id := range slices.Sorted(maps.Keys(known)) {
		l := &lane{id: id, standing: outhook.Standing{Subscriber: known[id]}}
		l.room = c.roomOf(known[id])
		lanes[id], c.lanes = l, append(c.lanes, l)
		above, upto, rooms = append(above, last), append(upto, id), append(rooms, int32(max(l.room, 0)))
		last = id
	}
	above, upto, rooms = append(above, last), append(upto, math.MaxInt64), append(rooms, 0)

	all = new(bool)
	var turn int64
	ranks := make(map[int64]time.Time)
	before := func(a, b picked) int {
		place := func(p picked) uint64 { return uint64(p.lane.id - turn - 1) }
		return cmp.Or(cmp.Compare(place(a), place(b)), ranks[a.id].Compare(ranks[b.id]), cmp.Compare(a.id, b.id))
	}
	batch.Queue(c.s.sql(leasePlain), above, upto, rooms, c.request.SuspectAfter, c.suspects, c.request.Limit, []int64{}, micros(c.request.Lease)).
		Query(func(rows pgx.Rows) error {
			n := 0
			err := eachRow(func(rows pgx.Rows) error {
				var subscriber int64
				var rank time.Time
				r := &leasedRow{}
				if values := rows.RawValues(); values[2] == nil { // nothing was leased
					return rows.Scan(append([]any{&turn, &n}, make([]any, len(values)-2)...)...)
				}
				if err := r.scan(rows, &turn, &n, &subscriber, &rank); err != nil {
					return err
				}
				r.restore(c.s.snapshots)
				c.leased[r.id], ranks[r.id] = r, rank
				c.picked = append(c.picked, picked{lane: lanes[subscriber], ctid: r.ctid, id: r.id})
				return nil
			})(rows)
			slices.SortFunc(c.picked, before)
			rest := c.less()
			full, suspects := rest.Limit == 0, rest.Suspects != c.request.Suspects
			*all = full || len(c.picked) == n && !suspects // whose room nextIfShort does not know of
			c.request = rest
			return err
		})
	return all
}

// less is what is left of its request beside what was leased, for which it takes the room.
func (c *claiming) less() outhook.ClaimRequest {
	rest := c.request
	rest.Room = ownRoom(rest)
	for _, p := range c.picked {
		p.lane.room--
		takeRoom(&rest, p.lane.standing.Subscriber)
		if c.leased[p.id].claim.Unfinished >= rest.SuspectAfter {
			rest.Suspects--
		}
	}
	return rest
}
