package pgxstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// enqueueAtOnce stores deliveries in a transaction of its own, with more settings. It
// returns which of them were known, or that certainly nothing was stored: if the answer to
// a commit is lost, it may have been.
func (s *Store) enqueueAtOnce(ctx context.Context, deliveries []outhook.Delivery, settings string, reserved *reservation) (isKnown []bool, undone bool, err error) {
	fresh, undone, err := s.enqueueNew(ctx, deliveries, settings, reserved)
	if fresh == nil && (err == nil || hasCode(err, uniqueViolation)) {
		s.repeated.Store(new(time.Now()))
		err = s.inPinnedTx(ctx, "enqueue", settings, func(tx *transaction) (err error) {
			undone = true
			if fresh, err = s.enqueue(ctx, pgxQuerier{tx}, deliveries); err == nil {
				undone = false
			}
			return err
		})
	}
	if err != nil {
		// A commit waits for a lock, too, to send its notifications in order.
		return nil, undone || hasCode(err, lockNotAvailable), err
	}
	s.subscribers.Keep(fresh.numbers)
	for of, payload := range fresh.payloads {
		fresh.payloads[of] = copyOf(payload)
	}
	s.payloads.Keep(fresh.payloads)
	s.handOver(ctx, reserved, fresh)
	return fresh.isKnown, false, nil
}

// leaseBudget is how long a transaction that leases may take.
const leaseBudget = 10 * time.Second

// repeatTime is for how long after something that was known all is looked for before it is
// stored. Mostly nothing is known: then this would cost a sixth of the statement. But each
// failure is a line in the server's log, with the event's ID, and rows for vacuum.
const repeatTime = time.Minute

// enqueueNew stores deliveries that are all new, leases those that are reserved, and commits
// in the same round trip. If some are known, it returns nil or the error of an index that is
// unique, and nothing is stored.
func (s *Store) enqueueNew(ctx context.Context, deliveries []outhook.Delivery, settings string, reserved *reservation) (fresh *enqueueResult, undone bool, err error) {
	err = s.inPinnedTx(ctx, "enqueue", settings, func(tx *transaction) error {
		undone, fresh = true, nil
		ctx := ctx
		if reserved.leases != nil { // which would be lost with the answer, if those who wait for it leave
			var stop context.CancelFunc
			ctx, stop = context.WithTimeout(context.WithoutCancel(ctx), leaseBudget)
			defer stop()
		}
		f, rows, err := s.prepare(ctx, pgxQuerier{tx}, deliveries)
		if err != nil {
			return err
		}
		if reserved.leases != nil && time.Since(reserved.at) < s.handover.patience { // else it is too late for them
			rows.lease = reserved.leases
		}
		statement := insertNew
		if at := s.repeated.Load(); s.logged || at != nil && time.Since(*at) < repeatTime {
			statement = insertIfNew
		}
		batch := &pgx.Batch{}
		inserted := make(map[int]insertedRow, len(deliveries))
		batch.Queue(s.sql(statement), s.insertArguments(rows, placesOf(deliveries), reserved.lease+s.handover.patience)...).Query(eachRow(func(row pgx.Rows) error {
			return scanInserted(row.Scan, inserted)
		}))
		if err := tx.commitWith(ctx, batch); err != nil {
			answer, ok := errors.AsType[*pgconn.PgError](err)
			undone = ok && answer.SeverityUnlocalized == "ERROR" // else the answer to the commit may be lost
			return err
		}
		if undone = false; len(inserted) > 0 {
			f.keep(deliveries, rows, inserted)
			fresh = f
		}
		return nil
	})
	return fresh, undone, err
}

// knownOf returns the IDs of the deliveries that were known.
func knownOf(deliveries []outhook.Delivery, isKnown []bool) (known []outhook.DeliveryID) {
	for i := range isKnown {
		if isKnown[i] {
			known = append(known, deliveries[i].ID)
		}
	}
	return known
}

// querier is a transaction, of pgx or of database/sql.
type querier interface {
	// query calls each for each row of the answer.
	query(ctx context.Context, each func(scan func(...any) error) error, sql string, args ...any) error
}

// enqueueResult is what is known after an Enqueue, if its transaction commits.
type enqueueResult struct {
	isKnown  []bool // which of the deliveries were known
	numbers  map[string]int64
	payloads map[stored.BodyOf]*outhook.Payload
	leased   []*leasedRow // not restored
	others   []int        // the places of those that were stored and not leased
}

// enqueue stores deliveries in a transaction.
func (s *Store) enqueue(ctx context.Context, q querier, deliveries []outhook.Delivery) (*enqueueResult, error) {
	fresh, rows, err := s.prepare(ctx, q, deliveries)
	if err != nil {
		return nil, err
	}
	missing := placesOf(deliveries) // of those that are neither stored nor known
	for range 3 {                   // again if what was in the way has been pruned meanwhile
		inserted := make(map[int]insertedRow, len(missing))
		err := q.query(ctx, func(scan func(...any) error) error { return scanInserted(scan, inserted) },
			s.sql(insertMissing), s.insertArguments(rows, missing, 0)...)
		if err != nil {
			return nil, err
		}
		fresh.keep(deliveries, rows, inserted)
		missing = slices.DeleteFunc(missing, func(i int) bool { _, ok := inserted[i]; return ok })
		if len(missing) == 0 {
			return fresh, nil
		}
		found, err := s.digests(ctx, q, rows, missing)
		if err != nil {
			return nil, err
		}
		missing = slices.DeleteFunc(missing, func(i int) bool {
			digest, ok := found[i]
			if ok && !bytes.Equal(digest, rows.digest[i]) {
				id := deliveries[i].ID
				err = fmt.Errorf("%w: event %q for subscriber %q", outhook.ErrConflict, id.Event, id.Subscriber)
			}
			fresh.isKnown[i] = ok
			return ok
		})
		if err != nil {
			return nil, err
		}
		if len(missing) == 0 {
			return fresh, nil
		}
	}
	return nil, errors.New("deliveries of the same IDs come and go")
}

// placesOf returns those of all deliveries.
func placesOf(deliveries []outhook.Delivery) []int {
	all := make([]int, len(deliveries))
	for i := range all {
		all[i] = i
	}
	return all
}

// prepare returns what is known before deliveries are stored, and their rows.
func (s *Store) prepare(ctx context.Context, q querier, deliveries []outhook.Delivery) (*enqueueResult, *deliveryRows, error) {
	numbers, err := s.numbers(ctx, q, deliveries)
	if err != nil {
		return nil, nil, err
	}
	rows, err := encodeDeliveries(deliveries, numbers)
	if err != nil {
		return nil, nil, err
	}
	return &enqueueResult{isKnown: make([]bool, len(deliveries)), numbers: numbers, payloads: make(map[stored.BodyOf]*outhook.Payload)}, rows, nil
}

// keep notes what was stored.
func (r *enqueueResult) keep(deliveries []outhook.Delivery, rows *deliveryRows, inserted map[int]insertedRow) {
	for i := range deliveries {
		row, ok := inserted[i]
		if !ok {
			continue
		}
		of := bodyOf(row.payload, deliveries[i].ID.Event)
		if deliveries[i].Payload != nil {
			r.payloads[of] = deliveries[i].Payload
		}
		if row.leased {
			r.leased = append(r.leased, rows.leased(i, &deliveries[i], row, of))
		} else {
			r.others = append(r.others, i)
		}
	}
}

// numbers returns the numbers of the subscribers of deliveries, new ones if needed.
func (s *Store) numbers(ctx context.Context, q querier, deliveries []outhook.Delivery) (map[string]int64, error) {
	numbers := make(map[string]int64, len(deliveries))
	unknown := make(map[string]bool)
	for i := range deliveries {
		name := deliveries[i].ID.Subscriber
		if id, ok := s.subscribers.Find(name); ok {
			numbers[name] = id
		} else {
			unknown[name] = true
		}
	}
	names := func() []string { return slices.Sorted(maps.Keys(unknown)) }
	find := func() error {
		if len(unknown) == 0 {
			return nil
		}
		return q.query(ctx, func(scan func(...any) error) error {
			var name string
			var id int64
			err := scan(&name, &id)
			numbers[name] = id
			delete(unknown, name)
			return err
		}, s.sql(`select name, id from {schema}.subscriber where name = any($1::text[])`), names())
	}
	if err := find(); err != nil || len(unknown) == 0 {
		return numbers, err
	}
	if err := q.query(ctx, nil, s.sql(insertSubscribers), names()); err != nil {
		return nil, err
	}
	if err := find(); err != nil {
		return nil, err
	}
	if len(unknown) > 0 {
		return nil, errors.New("a subscriber was not stored")
	}
	return numbers, nil
}

// insertSubscribers inserts in the order of the names, so that two calls cannot wait
// for each other.
const insertSubscribers = `
insert into {schema}.subscriber (name) select name from unnest($1::text[]) name order by name
on conflict (name) do nothing`

// deliveryRows are deliveries as parameters of the statements that insert them, column by column.
type deliveryRows struct {
	event      []string
	subscriber []int64
	eventType  []string
	time       []string
	orderKey   []string
	hold       []bool
	delay      []int64 // nanoseconds, like ttl
	ttl        []int64
	digest     [][]byte
	snapshot   [][]byte
	payload    []int32 // its place among the bodies, from 1; 0: none
	lease      []bool  // it is to be leased

	bodyEvent   []string
	contentType []string
	header      [][]byte
	body        []byte  // all of them, one after the other: an array would be copied again and again as it is encoded
	bodyStart   []int64 // counted from 1
	bodySize    []int64 // -1: it is nil
}

func encodeDeliveries(deliveries []outhook.Delivery, numbers map[string]int64) (*deliveryRows, error) {
	type body struct {
		*outhook.Payload
		event string // so that Prune finds all that refer to it
	}
	n := len(deliveries)
	r := &deliveryRows{
		event: make([]string, n), subscriber: make([]int64, n), eventType: make([]string, n), time: make([]string, n), orderKey: make([]string, n),
		hold: make([]bool, n), delay: make([]int64, n), ttl: make([]int64, n), digest: make([][]byte, n), snapshot: make([][]byte, n),
		payload: make([]int32, n), lease: make([]bool, n),
	}
	var bodies [][]byte
	places := make(map[body]int32)
	for i := range deliveries {
		d := &deliveries[i]
		snapshot, err := d.Snapshot.MarshalBinary()
		if err != nil {
			return nil, err
		}
		place := places[body{d.Payload, d.ID.Event}]
		if d.Payload != nil && place == 0 {
			header, err := stored.EncodeHeader(d.Payload.Header)
			if err != nil {
				return nil, err
			}
			r.bodyEvent = append(r.bodyEvent, d.ID.Event)
			r.contentType = append(r.contentType, d.Payload.ContentType)
			r.header = append(r.header, header)
			bodies = append(bodies, d.Payload.Body)
			place = int32(len(bodies))
			places[body{d.Payload, d.ID.Event}] = place
		}
		r.event[i], r.subscriber[i], r.eventType[i], r.time[i] = d.ID.Event, numbers[d.ID.Subscriber], d.Type, stored.EncodeTime(d.Time)
		r.orderKey[i], r.hold[i], r.delay[i], r.ttl[i] = d.OrderKey, d.HoldOnDead, int64(d.Delay), int64(d.TTL)
		r.digest[i], r.snapshot[i], r.payload[i] = d.Digest[:], snapshot, place
	}
	r.join(bodies)
	return r, nil
}

// join sets the bodies.
func (r *deliveryRows) join(bodies [][]byte) {
	if r.body = bytes.Join(bodies, nil); r.body == nil {
		r.body = []byte{} // not null
	}
	start := int64(1)
	for _, b := range bodies {
		size := int64(len(b))
		r.bodyStart = append(r.bodyStart, start)
		if start += size; b == nil {
			size = -1
		}
		r.bodySize = append(r.bodySize, size)
	}
}

// These store deliveries and return the places of what they have stored. Numbers are
// given out in the order of the call, but rows are inserted in the order of their IDs, so
// that two calls cannot wait for each other. Rows that are to be leased are, unless a standing
// is kept of their subscriber; if there are others, a notification is sent.
const (
	// insertNew stores all, and fails if some are known.
	insertNew = insertFrom + `
), stored as (` + insertDeliveries + `
    order by f.event, f.subscriber
), bodies as (` + insertPayloads + `
), queued as (` + insertPending + insertTo

	// insertIfNew stores all or, if some are known, nothing. It fails if another transaction
	// has stored some meanwhile.
	insertIfNew = insertFrom + `
), new as materialized (
    select not exists (
        select from fresh f cross join lateral (` + sameID + `) d where d.event = f.event and d.subscriber = f.subscriber
    ) as yes
), stored as (` + insertDeliveries + `
    where (select yes from new)
    order by f.event, f.subscriber
), bodies as (` + insertPayloads + `
    where (select yes from new)
), queued as (` + insertPending + `
    where (select yes from new)` + insertTo

	// insertMissing stores those that are not known.
	insertMissing = insertFrom + `
), stored as (` + insertDeliveries + `
    order by f.event, f.subscriber
    on conflict (event, subscriber) do nothing
    returning id, payload
), bodies as (` + insertPayloads + `
    where id in (select payload from stored)
), queued as (` + insertPending + `
    where f.id in (select id from stored)` + insertTo

	// sameID finds the delivery of f, or another: it has an order that one index has alone,
	// so that no plan goes through all of a subscriber.
	sameID = `
        select event, subscriber, digest from {schema}.delivery d
        where (d.event, d.subscriber) >= (f.event, f.subscriber) order by d.event, d.subscriber limit 1
    `

	// insertFrom has no join, which might change the order in which numbers are given out.
	insertFrom = `
with body as materialized (
    select nextval('{schema}.payload_id_seq') as id, event, content_type, header, place,
        case when size >= 0 then substring($4::bytea from start::integer for size::integer) end as body
    from unnest($1::text[], $2::text[], $3::bytea[], $5::bigint[], $6::bigint[]) with ordinality b (event, content_type, header, start, size, place)
), fresh as materialized (
    select nextval('{schema}.delivery_id_seq') as id, place, event, subscriber, type, time, digest, snapshot,
        (array(select id from body order by place))[payload] as payload,
        coalesce(order_key, '') as order_key, coalesce(hold, false) as hold, coalesce(delay, 0) as delay, coalesce(ttl, 0) as ttl,
        {now} as now,
        case when ttl > 0 then {now} + (ttl / 1000 + (ttl % 1000 > 0)::integer) * interval '1 microsecond' end as expires,
        case when lease then coalesce((select s.standing is null from {schema}.subscriber s where s.id = d.subscriber limit 1), false) else false end as leased
    from unnest($7::integer[], $8::text[], $9::bigint[], $10::text[], $11::text[], $12::bytea[], $13::bytea[], $14::integer[],
        $15::text[], $16::boolean[], $17::bigint[], $18::bigint[], $19::boolean[])
        d (place, event, subscriber, type, time, digest, snapshot, payload, order_key, hold, delay, ttl, lease)`

	insertDeliveries = `
    insert into {schema}.delivery (id, event, subscriber, type, time, order_key, hold_on_dead, delay, ttl, digest, snapshot, entered, payload)
    select f.id, f.event, f.subscriber, f.type, f.time, f.order_key, f.hold, f.delay, f.ttl, f.digest, f.snapshot, f.now, f.payload
    from fresh f`

	insertPayloads = `
    insert into {schema}.payload (id, event, content_type, header, body)
    select id, event, content_type, header, body from body`

	insertPending = `
    insert into {schema}.pending (id, subscriber, key, rank, due, expires, token, live, attempts, unfinished, holds)
    select f.id, f.subscriber, f.order_key, case when f.order_key = '' then d.due else '-infinity' end,
        case when f.leased then f.now + $20::bigint * interval '1 microsecond' else d.due end,
        f.expires, case when f.leased then nextval('{schema}.token') else 0 end, f.leased, 0, f.leased::integer, f.hold and f.order_key <> ''
    from fresh f cross join lateral (
        select least(case when f.delay > 0 then f.now + (f.delay / 1000 + (f.delay % 1000 > 0)::integer) * interval '1 microsecond' else f.now end, f.expires) as due
    ) d`

	insertTo = `
    returning id, live, token, ctid::text
)
select f.place, coalesce(f.payload, 0), q.live, q.id, q.token, q.ctid, (select pg_notify($21::text, '') is null where $22::boolean and exists (select from fresh where not leased))
from queued q join fresh f using (id)`
)

// An insertedRow is a delivery that was stored.
type insertedRow struct {
	payload int64 // 0: it has none
	leased  bool
	id      int64
	token   int64
	ctid    string
}

// insertArguments returns the arguments of the statements that insert, for the deliveries at the given places.
func (s *Store) insertArguments(r *deliveryRows, places []int, lease time.Duration) []any {
	p := make([]int32, len(places))
	for i, place := range places {
		p[i] = int32(place)
	}
	return []any{r.bodyEvent, r.contentType, r.header, r.body, r.bodyStart, r.bodySize,
		p, pick(r.event, places), pick(r.subscriber, places), pick(r.eventType, places), pick(r.time, places),
		pick(r.digest, places), pick(r.snapshot, places), pick(r.payload, places),
		few(r.orderKey, places), few(r.hold, places), few(r.delay, places), few(r.ttl, places), few(r.lease, places), micros(lease), s.options.Schema, !s.options.Silent}
}

// scanInserted adds a row of the answer.
func scanInserted(scan func(...any) error, inserted map[int]insertedRow) error {
	var place int
	var row insertedRow
	var notified *bool
	err := scan(&place, &row.payload, &row.leased, &row.id, &row.token, &row.ctid, &notified)
	inserted[place] = row
	return err
}

// leased returns a row as a Claim would have it that has leased it just now.
func (r *deliveryRows) leased(i int, d *outhook.Delivery, row insertedRow, payload stored.BodyOf) *leasedRow {
	l := &leasedRow{
		ctid: row.ctid, id: row.id, time: r.time[i], delay: r.delay[i], ttl: r.ttl[i], digest: r.digest[i], snapshot: r.snapshot[i],
		claim: outhook.Claim{Token: row.token, Attempt: 1},
	}
	l.claim.ID, l.claim.Type, l.claim.HoldOnDead = d.ID, d.Type, d.HoldOnDead
	if d.Payload != nil {
		l.payload = payload
	}
	return l
}

// digests returns those of the deliveries at the given places that are stored.
func (s *Store) digests(ctx context.Context, q querier, r *deliveryRows, places []int) (map[int][]byte, error) {
	found := make(map[int][]byte, len(places))
	err := q.query(ctx, func(scan func(...any) error) error {
		var n int
		var digest []byte
		err := scan(&n, &digest)
		if err == nil {
			found[places[n-1]] = digest
		}
		return err
	}, s.sql(`
select f.n, d.digest
from unnest($1::text[], $2::bigint[]) with ordinality f (event, subscriber, n)
cross join lateral (`+sameID+`) d
where d.event = f.event and d.subscriber = f.subscriber`),
		pick(r.event, places), pick(r.subscriber, places))
	return found, err
}

// pick returns the elements at the given places, all of them without a copy.
func pick[T any](all []T, places []int) []T {
	if len(places) == len(all) {
		return all
	}
	picked := make([]T, len(places))
	for i, place := range places {
		picked[i] = all[place]
	}
	return picked
}

// few is pick of what is mostly zero: nothing if all are, which unnest completes.
func few[T comparable](all []T, places []int) []T {
	var zero T
	picked := pick(all, places)
	if !slices.ContainsFunc(picked, func(v T) bool { return v != zero }) {
		return []T{}
	}
	return picked
}
