package pgxstore

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
)

// minLanes is how many subscribers are looked at in one go, at least.
const minLanes = 64

// A lane is a subscriber that has something pending.
type lane struct {
	id       int64
	n        int // its place in the order of turns
	standing outhook.Standing
	kept     bool      // the standing is stored
	keyed    bool      // some of it has an order key
	opens    time.Time // when the standing admits something; zero: now
	closed   bool      // until the standing changes
	room     int       // what is left of it, as far as the standing admits
	over     int       // what the standing does not admit of it
}

// A cycle is a place among the turns.
type cycle struct {
	turn    *int64 // where the cycle begins and ends; nil: at the turn that is stored
	after   *int64 // the lane that was looked at last; nil: the one of turn
	wrapped bool   // after stands at or before turn
}

// lookLanes returns subscribers that have something pending, by a loose scan of the
// index: one step for each, however much of it waits.
const lookLanes = `
with recursive turn as materialized (
    select coalesce($1::bigint, (select last_value from {schema}.turn)) as id
), lane (id, wrapped, n) as (
    select coalesce($2::bigint, turn.id), $3::boolean, 0 from turn
    union all
    select x.id, x.wrapped, lane.n + 1
    from lane cross join turn cross join lateral (
        (select p.subscriber, lane.wrapped from {schema}.pending p
         where p.subscriber > lane.id and p.subscriber <= case when lane.wrapped then turn.id else 9223372036854775807 end
         order by p.subscriber limit 1)
        union all
        (select p.subscriber, true from {schema}.pending p
         where not lane.wrapped and p.subscriber <= turn.id
         order by p.subscriber limit 1)
        limit 1
    ) x (id, wrapped)
    where lane.n < $4::integer
)
select turn.id, ` + laneColumns + `
from lane cross join turn cross join lateral (select * from {schema}.subscriber s where s.id = lane.id limit 1) s
where lane.n > 0`

// laneColumns are the columns of a lane, as readLane reads them.
const laneColumns = `lane.id, coalesce(s.name, ''),
    coalesce((select true from {schema}.pending p where p.subscriber = lane.id and p.key > '' order by p.key limit 1), false),
    s.standing::text, coalesce(s.opens = 'infinity', false), case when s.opens > {now} and s.opens < 'infinity' then s.opens end, {now}`

// knownLanes returns, for each of the gaps between numbers that are known, with the upper one of
// these, the first subscriber that has something pending. No step goes beyond its gap, so that
// all together pass once over what vacuum has not removed yet.
const knownLanes = `
select (select last_value from {schema}.turn), ` + laneColumns + `
from unnest($1::bigint[], $2::bigint[]) gap (above, upto)
cross join lateral (
    select p.subscriber from {schema}.pending p where p.subscriber > gap.above and p.subscriber <= gap.upto
    order by p.subscriber limit 1
) lane (id)
left join lateral (select * from {schema}.subscriber s where s.id = lane.id limit 1) s on true`

// look returns the next lanes of the cycle, at most n, and moves on.
func (c *claiming) look(ctx context.Context, at *cycle, n int) (lanes []*lane, err error) {
	first := at.turn == nil
	if known := c.s.lanes.known(); first && len(known) > 0 && len(known) <= n {
		if lanes, ok, err := c.lookAt(ctx, at, known); ok || err != nil {
			return lanes, err
		}
	}
	err = ask(ctx, c.tx, func(rows pgx.Rows) error {
		l, turn, err := c.readLane(rows)
		if err != nil {
			return err
		}
		at.moveTo(turn, l)
		lanes = append(lanes, l)
		return nil
	}, c.s.sql(lookLanes), at.turn, at.after, at.wrapped, n)
	if err == nil && first && len(lanes) < n {
		c.s.lanes.see(lanes)
	}
	return lanes, err
}

// lookAt returns all lanes, if they are among the known ones: if between one and the next of
// these nobody else has something pending. That costs a tenth of finding them.
func (c *claiming) lookAt(ctx context.Context, at *cycle, known []int64) (lanes []*lane, ok bool, err error) {
	ok = true
	var turn int64
	err = ask(ctx, c.tx, func(rows pgx.Rows) error {
		var l *lane
		if l, turn, err = c.readLane(rows); err != nil {
			return err
		}
		_, isKnown := slices.BinarySearch(known, l.id)
		ok = ok && isKnown && l.standing.Subscriber != ""
		lanes = append(lanes, l)
		return nil
	}, c.s.sql(knownLanes), append([]int64{math.MinInt64}, known...), append(slices.Clone(known), math.MaxInt64))
	if err != nil || !ok {
		return nil, false, err
	}
	c.s.lanes.see(lanes)
	place := func(l *lane) int64 { return l.id - turn - 1 } // those up to turn are the last
	slices.SortFunc(lanes, func(a, b *lane) int { return cmp.Compare(uint64(place(a)), uint64(place(b))) })
	if len(lanes) > 0 {
		at.moveTo(turn, lanes[len(lanes)-1])
	}
	return lanes, true, nil
}

// readLane reads a lane and the turn that is stored.
func (c *claiming) readLane(rows pgx.Rows) (l *lane, turn int64, err error) {
	l = &lane{}
	var name string
	var standing *string
	var opens *time.Time
	if err := rows.Scan(&turn, &l.id, &name, &l.keyed, &standing, &l.closed, &opens, &c.now); err != nil {
		return nil, 0, err
	}
	if opens != nil {
		l.opens = *opens
	}
	l.kept = standing != nil
	l.standing = decodeStanding(name, standing)
	l.room = c.roomOf(name)
	return l, turn, nil
}

func (c *claiming) roomOf(name string) int {
	return min(roomOf(&c.request, name), c.request.Limit)
}

// moveTo says that a lane was looked at. The turn is that of the first look.
func (at *cycle) moveTo(turn int64, l *lane) {
	at.turn, at.after, at.wrapped = &turn, &l.id, l.id <= turn
}

// forgetLanes is after how many looks a lane is forgotten that none of them has seen, and
// mostPlain after how many claims without one there is one.
const (
	forgetLanes = 64
	mostPlain   = 16
)

// seenLanes remembers which subscribers lately had something pending.
type seenLanes struct {
	mu     sync.Mutex // guards all below
	looks  int
	last   map[int64]seenLane
	plains int // claims that may follow for which all of them are plain
}

type seenLane struct {
	name string
	look int // the last one that saw it
}

// known returns their numbers, sorted.
func (s *seenLanes) known() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.last))
}

// plain returns their names, if they are not more than most, and it may be that nothing of
// theirs has an order key and none of them a standing.
func (s *seenLanes) plain(most int) map[int64]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plains == 0 || len(s.last) > most {
		return nil
	}
	s.plains--
	names := make(map[int64]string, len(s.last))
	for id, l := range s.last {
		names[id] = l.name
	}
	return names
}

// doubt has the next claim look.
func (s *seenLanes) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plains = 0
}

// see says what a look has seen.
func (s *seenLanes) see(lanes []*lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[int64]seenLane)
	}
	s.looks++
	s.plains = mostPlain
	for _, l := range lanes {
		s.last[l.id] = seenLane{l.standing.Subscriber, s.looks}
		if l.keyed || l.kept || l.standing.Subscriber == "" {
			s.plains = 0
		}
	}
	maps.DeleteFunc(s.last, func(_ int64, l seenLane) bool { return s.looks-l.look > forgetLanes })
}
