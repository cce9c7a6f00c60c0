package sqlitestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// Claim implements [outhook.Store].
func (s *Store) Claim(ctx context.Context, request outhook.ClaimRequest) (outhook.Claimed, error) {
	var claimed outhook.Claimed
	c := claimer{store: s, request: &request, suspects: request.Suspects, next: never, nextSuspect: never}
	err := s.write(ctx, "claim", func(t *transaction) (err error) {
		c.transaction = t
		c.until = later(t.now, request.Lease)
		if err = c.pick(); err == nil {
			claimed, err = c.lease()
		}
		return err
	})
	if err != nil {
		return outhook.Claimed{}, err
	}
	leased := make(map[outhook.Lease]place, len(c.picked))
	for i := range c.picked {
		leased[c.picked[i].Lease()] = c.picked[i].place
	}
	s.places.Keep(leased)
	s.payloads.Keep(c.payloads)
	return claimed, nil
}

// claimer is one Claim. It picks all that it leases before it changes anything:
// a query must not read what is changed meanwhile.
type claimer struct {
	*transaction
	store    *Store
	request  *outhook.ClaimRequest
	suspects int // how many more there is room for
	picked   []candidate
	lanes    []lane // of which something is due
	until    int64  // the end of the leases
	turn     int64  // the subscriber that was served last

	next        int64 // from when one could be claimed that is no suspect
	nextSuspect int64

	row      laneRow
	payloads map[stored.BodyOf]*outhook.Payload // that were read
}

// lane is a subscriber that has pending deliveries.
type lane struct {
	id       int64
	name     string
	standing outhook.Standing
	changed  bool // by Admit
	served   bool
	opens    int64 // see the table
}

// candidate is a delivery that can be claimed.
type candidate struct {
	outhook.Claim
	place
	ready   int64
	payload *int64 // nil: it was enqueued without
}

func (d *candidate) bodyOf() stored.BodyOf { return stored.BodyOf{ID: *d.payload, Event: d.ID.Event} }

// lanesQuery returns the subscribers in a part of the circle of turns, with the
// delivery of each that can be claimed first. It leaps from one subscriber to the
// next, however much waits.
const lanesQuery = `
with recursive lane (id) as (
    select (select min(subscriber) from outhook_pending where subscriber > ?1)
    union all
    select (select min(subscriber) from outhook_pending where subscriber > lane.id) from lane where lane.id < ?2
)
select s.id, s.name, s.standing, s.opens, p.ready, p.unfinished
from lane
cross join outhook_subscriber s on s.id = lane.id
cross join outhook_pending p on p.id = (
    select id from outhook_pending where subscriber = lane.id and ready > 0 order by ready limit 1)
where lane.id <= ?2`

// pick goes through the subscribers, from the one behind that which was served last.
func (c *claimer) pick() error {
	if _, err := c.one("select turn from outhook_meta", nil, &c.turn); err != nil {
		return err
	}
	for _, part := range [][]any{{c.turn, int64(never)}, {0, c.turn}} {
		err := c.query(lanesQuery, part, func(r scanner) (more bool, err error) {
			var (
				l          lane
				standing   *string
				ready      int64
				unfinished int
			)
			if err := r.Scan(&l.id, &l.name, &standing, &l.opens, &ready, &unfinished); err != nil {
				return false, err
			}
			room, ok := c.request.Room[l.name]
			if !ok {
				room = c.request.PerSubscriber
			}
			room = min(room, c.request.Limit-len(c.picked))
			if room <= 0 {
				return c.more(), nil
			}
			if at := max(ready, l.opens); at > c.now && unfinished < c.request.SuspectAfter {
				c.next = min(c.next, at) // as serve would find
				return true, nil
			}
			l.standing = decodeStanding(l.name, standing)
			err = c.serve(&l, room)
			return c.more(), err
		})
		if err != nil || !c.more() {
			return err
		}
	}
	return nil
}

func (c *claimer) more() bool { return len(c.picked) < c.request.Limit }

// laneQuery returns what can be claimed of a subscriber, now or later.
const laneQuery = `
select p.id, p.ready, p.expires, p.attempts, p.unfinished, d.event, d.type, d.time, d.order_key, d.hold_on_dead <> 0,
    d.delay, d.ttl, d.digest, d.payload, d.entered, d.replay, d.snapshot
from outhook_pending p cross join outhook_delivery d on d.id = p.id
where p.subscriber = ? and p.ready > 0
order by p.ready, p.id`

// serve gives a subscriber its turn.
func (c *claimer) serve(l *lane, room int) error {
	before, suspects := len(c.picked), 0
	next, nextSuspect := int64(never), int64(never) // of this subscriber
	err := c.query(laneQuery, []any{l.id}, func(r scanner) (more bool, err error) {
		d, err := c.scan(l, r)
		if err != nil {
			return false, err
		}
		at := max(d.ready, l.opens)
		suspect := d.Unfinished >= c.request.SuspectAfter
		switch {
		case suspect && at > c.now:
			nextSuspect = min(nextSuspect, at)
			return true, nil // an innocent one may follow
		case at > c.now:
			next = at
			return false, nil
		case suspect && suspects == c.suspects:
			return true, nil
		case suspect:
			suspects++
		}
		if c.picked == nil {
			c.picked = make([]candidate, 0, min(c.request.Limit, 128))
		}
		c.picked = append(c.picked, d)
		return len(c.picked) < before+room, nil
	})
	if err != nil {
		return err
	}
	due, standing := c.picked[before:], l.standing
	n, _ := l.standing.Admit(timeOf(c.now), len(due))
	c.picked = c.picked[:before+n]
	l.standing.Grant(timeOf(c.now), n, c.request.Lease)
	opens := l.opens // when more could be
	if more, at := l.standing.Admit(timeOf(c.now), 1); more == 0 && at.IsZero() {
		opens = never
	} else if more == 0 {
		opens = instantOf(at)
	}
	if n < len(due) {
		c.next = min(c.next, opens)
	}
	c.next = min(c.next, max(next, opens))
	c.nextSuspect = min(c.nextSuspect, max(nextSuspect, opens))
	if len(due) == 0 {
		return nil
	}
	l.changed, l.served = l.standing != standing, n > 0
	c.lanes = append(c.lanes, *l)
	for i := range due[:n] {
		d := &due[i]
		c.turn = l.id
		if d.Unfinished >= c.request.SuspectAfter {
			c.suspects--
		}
		switch { // of the leases that are given now
		case n == room:
		case d.Unfinished+1 >= c.request.SuspectAfter:
			c.nextSuspect = min(c.nextSuspect, max(c.until, opens))
		default:
			c.next = min(c.next, max(c.until, opens))
		}
	}
	return nil
}

// laneRow is where the rows of laneQuery are read to.
type laneRow struct {
	candidate
	expires, entered, delay, ttl int64
	attempts                     int
	when                         string
	digest, snapshot             []byte
	columns                      []any
}

func (c *claimer) scan(l *lane, row scanner) (d candidate, err error) {
	r := &c.row
	if r.columns == nil {
		r.columns = []any{&r.id, &r.ready, &r.expires, &r.attempts, &r.Unfinished, &r.ID.Event, &r.Type, &r.when, &r.OrderKey, &r.HoldOnDead,
			&r.delay, &r.ttl, &r.digest, &r.payload, &r.entered, &r.Replay, &r.snapshot}
	}
	if err := row.Scan(r.columns...); err != nil {
		return candidate{}, err
	}
	d = r.candidate
	d.ID.Subscriber = l.name
	d.key, d.holdOnDead = key{l.id, d.OrderKey}, d.HoldOnDead
	d.Delay, d.TTL = time.Duration(r.delay), time.Duration(r.ttl)
	d.Attempt = r.attempts + 1
	d.Age = time.Duration(max(c.now-r.entered, 0))
	var faulty error
	if copy(d.Digest[:], r.digest); len(r.digest) != len(d.Digest) {
		faulty = errors.New("digest: it is not of 32 bytes")
	}
	if d.Time, err = stored.DecodeTime(r.when); err != nil {
		faulty = errors.New("time: it is not RFC 3339")
	}
	if d.Snapshot, err = c.store.snapshots.Restore(r.snapshot); err != nil {
		faulty = err
	}
	switch {
	case r.expires <= c.now:
		d.Fault = outhook.ReasonExpired
	case faulty != nil:
		d.Fault = fault(faulty)
	}
	return d, nil
}

// lease leases what was picked.
func (c *claimer) lease() (claimed outhook.Claimed, err error) {
	for _, l := range c.lanes {
		if l.changed {
			if err := c.keep(l.id, l.standing); err != nil {
				return outhook.Claimed{}, err
			}
		}
		if l.standing != (outhook.Standing{Subscriber: l.name}) && l.served {
			if claimed.Standings == nil {
				claimed.Standings = make(map[string]outhook.Standing)
			}
			claimed.Standings[l.name] = l.standing
		}
	}
	if c.more() {
		if c.suspects > 0 {
			c.next = min(c.next, c.nextSuspect)
		}
		if c.next < never {
			claimed.Next = time.Duration(c.next - c.now)
		}
	}
	if len(c.picked) == 0 {
		return claimed, nil // an idle claim writes nothing
	}

	token, err := c.token(c.turn)
	if err != nil {
		return outhook.Claimed{}, err
	}
	if err := c.restorePayloads(); err != nil {
		return outhook.Claimed{}, err
	}
	claimed.Claims = make([]outhook.Claim, len(c.picked))
	args := []any{token, c.until, nil}
	for i := range c.picked {
		d := &c.picked[i]
		d.Token = token
		args[2] = d.id
		_, err := c.execute("update outhook_pending set token = ?1, live = 1, unfinished = unfinished + 1, due = ?2, ready = ?2 where id = ?3", args)
		if err != nil {
			return outhook.Claimed{}, err
		}
		if err := c.hold(d.key, d.id, c.until); err != nil {
			return outhook.Claimed{}, err
		}
		claimed.Claims[i] = d.Claim
	}
	return claimed, nil
}

// restorePayloads sets the payloads of what was picked, each of which is read once.
func (c *claimer) restorePayloads() error {
	var missing []*candidate
	for i := range c.picked {
		d := &c.picked[i]
		if d.payload == nil {
			continue
		}
		var ok bool
		if d.Payload, ok = c.store.payloads.Find(d.bodyOf()); !ok {
			missing = append(missing, d)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var faults map[stored.BodyOf]error
	var err error
	if c.payloads, faults, err = c.read(missing); err != nil {
		return err
	}
	for _, d := range missing {
		if d.Payload = c.payloads[d.bodyOf()]; d.Payload == nil && d.Fault == "" {
			d.Fault = fault(cmp.Or(faults[d.bodyOf()], errMissing))
		}
	}
	return nil
}

func fault(err error) string { return fmt.Sprintf("sqlitestore: restore delivery: %v", err) }
