package pgxstore

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// contended is reported as Next when something was due, but in the hands of
// another transaction, which may or may not lease it.
const contended = 10 * time.Millisecond

// A picked row is due and locked by the transaction of its Claim.
type picked struct {
	lane    *lane
	ctid    string
	id      int64
	key     string
	suspect bool
}

// A claiming is one call of Claim.
type claiming struct {
	s        *Store
	request  outhook.ClaimRequest
	tx       session
	now      time.Time
	lanes    []*lane // in the order of their turns
	picked   []picked
	suspects int   // room for them that is left
	turn     *lane // whose turn was the last
	leased   map[int64]*leasedRow
	places   map[outhook.Lease]place
}

// Claim implements [outhook.Store]. It may begin with what Enqueue has leased for it, and
// end with that: see handover.
//
// Its transactions lock rows of pending, passing over those that are
// locked, and then keys in hold; they wait for no other claim.
func (s *Store) Claim(ctx context.Context, request outhook.ClaimRequest) (claimed outhook.Claimed, err error) {
	taken := s.handover.take(&request)
	if taken.idle {
		return outhook.Claimed{Next: taken.next}, nil
	}
	left := false
	defer func() {
		if !left { // an error, or a panic of the host's code
			s.release(ctx, s.handover.fail(taken))
		}
	}()
	s.release(ctx, taken.late)
	all := false
	if taken.look {
		if claimed, err = s.claim(ctx, request); err != nil {
			return outhook.Claimed{}, err
		}
		for i := range claimed.Claims {
			takeRoom(&request, claimed.Claims[i].ID.Subscriber)
			if claimed.Claims[i].Unfinished >= request.SuspectAfter {
				request.Suspects--
			}
		}
		all = request.Limit > 0 && (claimed.Next <= 0 || claimed.Next > contended)
		if s.handover.listening() && (claimed.Next <= 0 || claimed.Next > request.Lease) {
			claimed.Next = request.Lease // what others have leased as they stored it may be due then
		}
	}
	s.handover.leave(taken, request, all, claimed.Next)
	left = true
	if (taken.shared || !taken.look) && (claimed.Next <= 0 || claimed.Next > taken.next) {
		claimed.Next = taken.next
	}
	claimed.Claims = append(taken.claims(), claimed.Claims...)
	return claimed, nil
}

// claim claims what is due.
func (s *Store) claim(ctx context.Context, request outhook.ClaimRequest) (claimed outhook.Claimed, err error) {
	if known := s.lanes.plain(max(request.Limit, minLanes)); len(known) > 0 {
		claimed, request, err = s.claimPlain(ctx, request, known)
		if err != nil || request.Limit == 0 {
			return claimed, err
		}
	}
	more, err := s.claimAny(ctx, request)
	if len(claimed.Claims) == 0 {
		return more, err
	}
	if err != nil { // there is something all the same; the next claim tells, if it is still so
		s.lanes.doubt()
		claimed.Next = contended
		return claimed, nil
	}
	more.Claims = append(claimed.Claims, more.Claims...)
	return more, nil
}

// claimAny makes a claim step by step.
func (s *Store) claimAny(ctx context.Context, request outhook.ClaimRequest) (claimed outhook.Claimed, err error) {
	var c *claiming
	err = s.inPinnedTx(ctx, "claim", "", func(tx *transaction) error {
		c = &claiming{s: s, request: request, tx: tx, suspects: request.Suspects}
		if err := c.pick(ctx); err != nil {
			return err
		}
		if err := c.grant(ctx); err != nil {
			return err
		}
		if err := c.lease(ctx); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		payloads := c.loadPayloads(batch)
		claimed = outhook.Claimed{}
		if len(c.leased) < request.Limit {
			statement := nextPlain
			if slices.ContainsFunc(c.lanes, func(l *lane) bool { return l.keyed }) {
				statement = nextKeyed
			}
			c.findNext(batch, statement, &claimed.Next)
		}
		if err := tx.commitWith(ctx, batch); err != nil {
			return err
		}
		claimed.Claims, claimed.Standings = c.claims(payloads)
		return nil
	})
	if err != nil {
		return outhook.Claimed{}, err
	}
	s.places.Keep(c.places)
	return claimed, nil
}

// pick locks what is to be leased, subscriber by subscriber in their turns.
func (c *claiming) pick(ctx context.Context) error {
	var at cycle
	for n := max(c.request.Limit, minLanes); ; {
		lanes, err := c.look(ctx, &at, n)
		if err != nil {
			return err
		}
		if err := c.pickFrom(ctx, lanes); err != nil {
			return err
		}
		if len(lanes) < n || len(c.picked) >= c.request.Limit {
			return nil
		}
	}
}

// pickFrom locks due rows of lanes. It adds those that have room to c.lanes.
func (c *claiming) pickFrom(ctx context.Context, lanes []*lane) error {
	var open []*lane
	for _, l := range lanes {
		if l.room <= 0 {
			continue
		}
		l.n = len(c.lanes)
		c.lanes = append(c.lanes, l)
		if l.closed || l.opens.After(c.now) {
			continue
		}
		if l.kept {
			n, next := l.standing.Admit(c.now.UTC(), l.room)
			l.opens, l.closed = next, n == 0 && next.IsZero()
			l.room, l.over = n, l.room-n
		}
		if l.room > 0 {
			open = append(open, l)
		}
	}
	for len(open) > 0 && len(c.picked) < c.request.Limit {
		rest, err := c.pickSome(ctx, open)
		if err != nil {
			return err
		}
		open = rest
	}
	return nil
}

// pickPlain locks due rows of subscribers, in the order given, unless they have an order
// key; suspects only while there is room for one. The LIMIT at the end
// sees to it that nothing is locked of subscribers that it does not reach. $7 are
// the rows picked before.
const pickPlain = pickFrom + `
cross join lateral (` + unordered + `) x
limit $6::bigint`

// pickKeyed does so, too, with the first of each order key, those after the cursor first.
const pickKeyed = pickFrom + `
cross join lateral (` + unordered + `
    union all
    select 1, k.ctid, k.id, k.key, k.unfinished >= $4::integer
    from (
        select p.ctid, p.id, p.key, p.unfinished
        from (
            select key from {schema}.pending where subscriber = l.subscriber and key > '' order by key limit 1
        ) first cross join lateral (
            with recursive k (key, upto, wrapped, start) as (
                select l.cursor collate "C", null::text collate "C", false, true where first.key > ''
                union all
                select n.key, n.upto, n.wrapped, false
                from k cross join lateral (
                    (select p.key, k.upto, k.wrapped from {schema}.pending p
                     where not k.wrapped and p.subscriber = l.subscriber and p.key > k.key
                     order by p.key limit 1)
                    union all
                    (select p.key, k.upto, k.wrapped from {schema}.pending p
                     where k.wrapped and p.subscriber = l.subscriber and p.key > k.key and p.key <= k.upto
                     order by p.key limit 1)
                    union all
                    (select p.key, l.cursor collate "C", true from {schema}.pending p
                     where not k.wrapped and p.subscriber = l.subscriber and p.key > '' and p.key <= l.cursor
                     order by p.key limit 1)
                    limit 1
                ) n
            )
            select h.id
            from k cross join lateral (
                select id, due, unfinished from {schema}.pending p
                where p.subscriber = l.subscriber and p.key = k.key
                order by rank, id limit 1
            ) h
            where not k.start and h.due <= {now} and (h.unfinished < $4::integer or $5::integer > 0)
                and h.id <> all ($7::bigint[])
                and not exists (select from {schema}.hold o where o.subscriber = l.subscriber and o.key = k.key and o.until > {now})
                and not exists (select from {schema}.barrier b where b.subscriber = l.subscriber and b.key = k.key and b.delivery < h.id)
            offset 0
        ) c cross join lateral (
            select ctid, id, key, unfinished from {schema}.pending where id = c.id and due <= {now} for update skip locked
        ) p
        limit l.room
    ) k
) x
limit $6::bigint`

const (
	pickFrom = `
select l.n, x.kind, x.ctid::text, x.id, x.key, x.suspect
from unnest($1::bigint[], $2::integer[], $3::text[]) with ordinality l (subscriber, room, cursor, n)`
	unordered = `
    select 0 as kind, u.ctid, u.id, '' as key, u.unfinished >= $4::integer as suspect
    from (
        select ctid, id, unfinished from {schema}.pending
        where subscriber = l.subscriber and key = '' and rank <= {now} and due <= {now}
            and (unfinished < $4::integer or $5::integer > 0) and id <> all ($7::bigint[])
        order by rank, id limit l.room
        for update skip locked
    ) u`
)

// pickSome picks from lanes what it can get at once, and returns those to go on with:
// those that it did not reach, and those where suspects that there is no room for any
// more stood in front of others. The next query leaves suspects out.
func (c *claiming) pickSome(ctx context.Context, lanes []*lane) (rest []*lane, err error) {
	ids, rooms, cursors := make([]int64, len(lanes)), make([]int32, len(lanes)), make([]string, len(lanes))
	statement := pickPlain
	for i, l := range lanes {
		ids[i], rooms[i] = l.id, int32(l.room)
		if l.keyed {
			statement = pickKeyed
			cursors[i], _ = c.s.cursors.Find(l.id)
		}
	}
	again := make([]int64, 0, len(c.picked)) // what must not be returned again: its locks are this transaction's own
	for _, p := range c.picked {
		again = append(again, p.id)
	}
	limit := c.request.Limit - len(c.picked) + c.suspects
	n, at := 0, 0                            // the latter of the lane that was reached last, from 1
	found := make([][2][]picked, len(lanes)) // unordered and ordered ones
	read := func(rows pgx.Rows) error {
		var kind int
		var p picked
		if err := rows.Scan(&at, &kind, &p.ctid, &p.id, &p.key, &p.suspect); err != nil {
			return err
		}
		p.lane = lanes[at-1]
		found[at-1][kind] = append(found[at-1][kind], p)
		n++
		return nil
	}
	if err := ask(ctx, c.tx, read, c.s.sql(statement), ids, rooms, cursors, c.request.SuspectAfter, c.suspects, limit, again); err != nil {
		return nil, err
	}
	for i, l := range lanes {
		before := len(c.picked)
		passed := c.take(l, found[i][0], found[i][1])
		if len(c.picked) > before && (c.turn == nil || l.n > c.turn.n) {
			c.turn = l
		}
		if l.room > 0 && (passed || n == limit && i+1 >= at) {
			rest = append(rest, l)
		}
	}
	return rest, nil
}

// take takes rows of a lane, unordered and ordered ones alternately, as there is room.
// It reports whether it passed over a suspect that there was no room for.
func (c *claiming) take(l *lane, kinds ...[]picked) (passed bool) {
	kind := rand.IntN(2)
	for len(kinds[0])+len(kinds[1]) > 0 && l.room > 0 && len(c.picked) < c.request.Limit {
		if len(kinds[kind]) == 0 {
			kind = 1 - kind
		}
		p := kinds[kind][0]
		kinds[kind] = kinds[kind][1:]
		if p.suspect {
			if c.suspects <= 0 {
				passed = true
				continue
			}
			c.suspects--
		}
		c.picked = append(c.picked, p)
		l.room--
		if p.key != "" {
			c.s.cursors.Keep(map[int64]string{l.id: p.key})
		}
		kind = 1 - kind
	}
	return passed
}

// grant has the standings count what was picked. What was picked of one that has
// changed meanwhile is left to the next claim.
func (c *claiming) grant(ctx context.Context) error {
	counts := make(map[*lane]int)
	for _, p := range c.picked {
		if p.lane.kept {
			counts[p.lane]++
		}
	}
	for l, n := range counts {
		after := l.standing
		if after.Grant(c.now.UTC(), n, c.request.Lease); after == l.standing {
			continue
		}
		ok, err := c.s.swapStanding(ctx, c.tx, l.id, l.standing, after)
		if err != nil {
			return err
		}
		if !ok {
			c.picked = slices.DeleteFunc(c.picked, func(p picked) bool { return p.lane == l })
			l.opens = c.now.Add(contended)
			continue
		}
		l.standing = after
		more, next := after.Admit(c.now.UTC(), 1)
		l.opens, l.closed = next, more == 0 && next.IsZero()
	}
	return nil
}

// holdKeys takes the keys of ordered rows. The first try is for a lock that
// nobody waits for: two claims can want one key when an earlier
// delivery was committed late.
const holdKeys = `
insert into {schema}.hold (subscriber, key, delivery, until)
select k.subscriber, k.key, k.delivery, {now} + $4::bigint * interval '1 microsecond'
from (
    select * from unnest($1::bigint[], $2::text[], $3::bigint[]) u (subscriber, key, delivery) order by subscriber, key
) k
where pg_try_advisory_xact_lock(hashtextextended('{schema} ' || k.key, k.subscriber))
on conflict (subscriber, key) do update set delivery = excluded.delivery, until = excluded.until
where hold.until <= {now}`

// leaseRows leases picked rows without an order key and returns them.
const leaseRows = `
with leased as (
    update {schema}.pending p
    set token = nextval('{schema}.token'), live = true, unfinished = p.unfinished + 1,
        due = {now} + $2::bigint * interval '1 microsecond'
    where p.ctid = any ($1::text[]::tid[])
    returning p.ctid::text, p.id, p.token, p.attempts, p.unfinished, p.expires
)` + leasedDeliveries

// leaseOrdered leases picked rows of any kind. By now nobody else can claim
// anything of a key that is held, and this statement sees what was committed
// before: an ordered row is left out if another is first after all.
const leaseOrdered = `
with leased as (
    update {schema}.pending p
    set token = nextval('{schema}.token'), live = true, unfinished = p.unfinished + 1,
        due = case when p.key = '' then {now} + $2::bigint * interval '1 microsecond' else (
            select h.until from {schema}.hold h where h.subscriber = p.subscriber and h.key = p.key
        ) end
    where p.ctid = any ($1::text[]::tid[]) and (p.key = '' or
        exists (select from {schema}.hold h
                where h.subscriber = p.subscriber and h.key = p.key and h.delivery = p.id and h.until > {now})
        and not exists (select from {schema}.pending e
                where e.subscriber = p.subscriber and e.key = p.key and e.rank = '-infinity' and e.id < p.id)
        and not exists (select from {schema}.barrier b
                where b.subscriber = p.subscriber and b.key = p.key and b.delivery < p.id))
    returning p.ctid::text, p.id, p.token, p.attempts, p.unfinished, p.expires
)` + leasedDeliveries

// leasedDeliveries returns rows with their deliveries. One that has none is left out.
const (
	leasedDeliveries = `
select ` + leasedColumns + `
from leased l ` + withDelivery
	withDelivery  = `cross join lateral (select * from {schema}.delivery d where d.id = l.id limit 1) d`
	leasedColumns = `l.ctid, l.id, l.token, l.attempts + 1, l.unfinished - 1, coalesce(l.expires <= {now}, false),
    d.event, d.type, d.time, d.order_key, d.hold_on_dead, d.delay, d.ttl, d.digest, coalesce(d.payload, 0), d.snapshot, d.replay,
    (date_part('epoch', {now} - d.entered) * 1000000)::bigint`
)

// lease leases what was picked.
func (c *claiming) lease(ctx context.Context) error {
	if len(c.picked) == 0 {
		return nil
	}
	var ctids []string
	var subscribers, ordered []int64
	var keys []string
	for _, p := range c.picked {
		ctids = append(ctids, p.ctid)
		if p.key != "" {
			subscribers, keys, ordered = append(subscribers, p.lane.id), append(keys, p.key), append(ordered, p.id)
		}
	}
	c.leased = make(map[int64]*leasedRow, len(c.picked))
	duration, statement := micros(c.request.Lease), leaseRows
	batch := &pgx.Batch{}
	if len(keys) > 0 {
		statement = leaseOrdered
		batch.Queue(c.s.sql(holdKeys), subscribers, keys, ordered, duration)
	}
	batch.Queue(c.s.sql(statement), ctids, duration).Query(eachRow(func(rows pgx.Rows) error {
		r := &leasedRow{}
		if err := r.scan(rows); err != nil {
			return err
		}
		r.restore(c.s.snapshots)
		c.leased[r.id] = r
		return nil
	}))
	batch.Queue(c.s.sql(`select setval('{schema}.turn', $1::bigint)`), c.turn.id)
	if err := send(ctx, c.tx, batch); err != nil || len(c.leased) == len(c.picked) {
		return err
	}
	return c.tidy(ctx, ordered)
}

// tidy gives back the room and the keys of rows that were not leased after all, and removes
// rows that have no delivery, of which there is nothing to tell.
func (c *claiming) tidy(ctx context.Context, ordered []int64) error {
	var missing []int64
	for _, p := range c.picked {
		if c.leased[p.id] != nil {
			continue
		}
		missing = append(missing, p.id)
		p.lane.room++
		if p.suspect {
			c.suspects++
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(c.s.sql(`delete from {schema}.hold where delivery = any ($1::bigint[]) and until > {now}`),
		slices.DeleteFunc(ordered, func(id int64) bool { return c.leased[id] != nil }))
	batch.Queue(c.s.sql(`
delete from {schema}.pending p
where p.id = any ($1::bigint[]) and not exists (select from {schema}.delivery d where d.id = p.id)`), missing)
	return send(ctx, c.tx, batch)
}

// loadPayloads queues what loads those of the claims.
func (c *claiming) loadPayloads(batch *pgx.Batch) map[stored.BodyOf]*outhook.Payload {
	var wanted []stored.BodyOf
	for _, r := range c.leased {
		if r.payload.ID != 0 {
			wanted = append(wanted, r.payload)
		}
	}
	return c.s.load(batch, wanted)
}

// claims returns what was leased, in the order in which it was picked, with the standings
// that are kept. It notes the places.
func (c *claiming) claims(payloads map[stored.BodyOf]*outhook.Payload) (claims []outhook.Claim, standings map[string]outhook.Standing) {
	c.places = make(map[outhook.Lease]place, len(c.leased))
	for _, p := range c.picked {
		r := c.leased[p.id]
		if r == nil {
			continue
		}
		r.complete(p.lane.standing.Subscriber, payloads)
		claims = append(claims, r.claim)
		c.places[r.claim.Lease()] = place{r.ctid, r.id, p.lane.id, p.key != ""}
		if p.lane.standing != (outhook.Standing{Subscriber: p.lane.standing.Subscriber}) {
			if standings == nil {
				standings = make(map[string]outhook.Standing)
			}
			standings[p.lane.standing.Subscriber] = p.lane.standing
		}
	}
	return claims, standings
}

// A leasedRow is a delivery that was leased.
type leasedRow struct {
	ctid    string
	id      int64
	payload stored.BodyOf // of number 0: it has none
	claim   outhook.Claim

	// As they are stored, until it is restored.
	time             string
	expired          bool
	delay, ttl, age  int64
	digest, snapshot pgtype.DriverBytes // of the row that is read
}

// scan scans leasedColumns, and those before them.
func (r *leasedRow) scan(rows pgx.Rows, before ...any) error {
	c := &r.claim
	err := rows.Scan(append(before, &r.ctid, &r.id, &c.Token, &c.Attempt, &c.Unfinished, &r.expired, &c.ID.Event, &c.Type, &r.time, &c.OrderKey,
		&c.HoldOnDead, &r.delay, &r.ttl, &r.digest, &r.payload.ID, &r.snapshot, &c.Replay, &r.age)...)
	r.payload.Event = c.ID.Event
	return err
}

// restore restores its claim, or says what is wrong with it.
func (r *leasedRow) restore(snapshots stored.Snapshots) {
	c := &r.claim
	c.Delay, c.TTL, c.Age = time.Duration(r.delay), time.Duration(r.ttl), time.Duration(r.age)*time.Microsecond
	if r.expired {
		r.fault(outhook.ReasonExpired)
	}
	var err error
	if c.Time, err = stored.DecodeTime(r.time); err != nil {
		r.fault("its time cannot be restored")
	}
	if copy(c.Digest[:], r.digest); len(r.digest) != len(c.Digest) {
		r.fault("its digest cannot be restored")
	}
	if c.Snapshot, err = snapshots.Restore(r.snapshot); err != nil {
		r.fault("its snapshot cannot be restored")
	}
	r.digest, r.snapshot = nil, nil
}

// complete adds what other tables know.
func (r *leasedRow) complete(subscriber string, payloads map[stored.BodyOf]*outhook.Payload) {
	r.claim.ID.Subscriber = subscriber
	if r.payload.ID == 0 {
		return
	}
	if r.claim.Payload = payloads[r.payload]; r.claim.Payload == nil {
		r.fault("its payload is missing or cannot be restored")
	}
}

// fault says what is wrong with it, unless something else is.
func (r *leasedRow) fault(text string) {
	if r.claim.Fault == "" {
		r.claim.Fault = text
	}
}
