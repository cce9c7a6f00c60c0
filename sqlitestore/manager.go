package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/manage"
	"github.com/outhook/outhook/internal/stored"
)

// Get implements [outhook.Manager].
func (s *Store) Get(ctx context.Context, id outhook.DeliveryID) (outhook.Record, error) {
	record, err := s.get(ctx, id)
	if err != nil {
		return outhook.Record{}, fmt.Errorf("sqlitestore: get: %w", err)
	}
	return record, nil
}

func (s *Store) get(ctx context.Context, id outhook.DeliveryID) (record outhook.Record, err error) {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return record, err
	}
	defer func() { _ = tx.Rollback() }()
	var n int64
	err = tx.QueryRowContext(ctx, "select d.id from outhook_delivery d join outhook_subscriber s on s.id = d.subscriber where d.event = ? and s.name = ?",
		id.Event, id.Subscriber).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return record, fmt.Errorf("%w: event %q for subscriber %q", outhook.ErrNotFound, id.Event, id.Subscriber)
	}
	if err != nil {
		return record, err
	}
	now := s.now().UnixNano()
	if record, _, err = (selection{}).read(ctx, tx, n, now); err != nil {
		return record, err
	}
	rows, err := tx.QueryContext(ctx, "select attempts from outhook_outcome where state in "+all+" and delivery = ? and attempts is not null order by id", n)
	if err != nil {
		return record, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var data string
		if err := rows.Scan(&data); err != nil {
			return record, err
		}
		attempts, err := stored.DecodeAttempts([]byte(data))
		if err != nil {
			return record, errors.New("its attempts cannot be restored")
		}
		record.Attempts = append(record.Attempts, attempts...)
	}
	return record, rows.Err()
}

// List implements [outhook.Manager]. It shows the deliveries that the filter
// selected when it began, but for those that it no longer does.
func (s *Store) List(ctx context.Context, filter outhook.Filter) iter.Seq2[outhook.Record, error] {
	return func(yield func(outhook.Record, error) bool) {
		now := s.now().UnixNano()
		selected := selectBy(filter, now)
		ids, err := find(hosts{ctx, s.db}, filter, now)
		for _, id := range ids {
			var record outhook.Record
			var found bool
			if record, found, err = selected.read(ctx, s.db, id, now); err != nil {
				break
			}
			if found && !yield(record, nil) {
				return
			}
		}
		if err != nil {
			yield(outhook.Record{}, fmt.Errorf("sqlitestore: list: %w", err))
		}
	}
}

// Replay implements [outhook.Manager].
func (s *Store) Replay(ctx context.Context, filter outhook.Filter) (n int, err error) {
	filter.States = manage.States(filter.States, []outhook.State{outhook.Dead, outhook.Cancelled}, outhook.Pending)
	return s.change(ctx, "replay", filter, (*transaction).replay)
}

// Cancel implements [outhook.Manager].
func (s *Store) Cancel(ctx context.Context, filter outhook.Filter) (n int, err error) {
	filter.States = manage.States(filter.States, []outhook.State{outhook.Pending}, outhook.Delivered, outhook.Dead, outhook.Cancelled)
	return s.change(ctx, "cancel", filter, (*transaction).cancel)
}

// Prune implements [outhook.Manager].
func (s *Store) Prune(ctx context.Context, filter outhook.Filter) (n int, err error) {
	filter.States = manage.States(filter.States, []outhook.State{outhook.Delivered, outhook.Dead, outhook.Cancelled}, outhook.Pending)
	return s.change(ctx, "prune", filter, (*transaction).prune)
}

// change changes all deliveries that a filter selects.
func (s *Store) change(ctx context.Context, verb string, filter outhook.Filter, one func(t *transaction, id, token int64) error) (n int, err error) {
	err = s.write(ctx, verb, func(t *transaction) error {
		ids, err := find(t, filter, t.now)
		if err != nil || len(ids) == 0 {
			return err
		}
		token, err := t.token(nil)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := one(t, id, token); err != nil {
				return err
			}
		}
		n = len(ids)
		// What a Cancel has left to hold a key may have ended long since.
		return t.exec("delete from outhook_hold where until <= ?", t.now)
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (t *transaction) replay(id, token int64) error {
	var k key
	var ttl, until int64
	_, err := t.one(`select subscriber, order_key, ttl, coalesce((select max(until) from outhook_outcome where state in `+all+` and delivery = d.id), 0)
		from outhook_delivery d where id = ?`, []any{id}, &k.subscriber, &k.name, &ttl, &until)
	if err != nil {
		return err
	}
	if err := t.exec("update outhook_outcome set state = '' where state in "+settled+" and delivery = ?", id); err != nil {
		return err
	}
	if err := t.exec("update outhook_delivery set entered = ?, replay = replay + 1 where id = ?", t.now, id); err != nil {
		return err
	}
	// A request of a lease that Cancel has ended may be on the wire until then.
	expires := t.expires(time.Duration(ttl))
	return t.begin(k, id, max(until, min(t.now, expires)), expires, token)
}

func (t *transaction) cancel(id, token int64) error {
	var k key
	var live bool
	var due int64
	_, err := t.one(`select d.subscriber, d.order_key, p.live <> 0, p.due from outhook_pending p join outhook_delivery d on d.id = p.id
		where p.id = ?`, []any{id}, &k.subscriber, &k.name, &live, &due)
	if err != nil {
		return err
	}
	until := int64(0)
	if live && due > t.now {
		until = due // the key is held until then, too
	}
	if err := t.outcome(id, token, nil, string(outhook.Cancelled), outhook.ReasonCancelled, until); err != nil {
		return err
	}
	if err := t.exec("delete from outhook_pending where id = ?", id); err != nil {
		return err
	}
	return t.leave(k, id)
}

func (t *transaction) prune(id, _ int64) error {
	var k key
	var event string
	var payload *int64
	_, err := t.one("select subscriber, order_key, event, payload from outhook_delivery where id = ?", []any{id},
		&k.subscriber, &k.name, &event, &payload)
	if err != nil {
		return err
	}
	if err := t.exec("delete from outhook_outcome where state in "+all+" and delivery = ?", id); err != nil {
		return err
	}
	if err := t.exec("delete from outhook_delivery where id = ?", id); err != nil {
		return err
	}
	if payload != nil {
		err := t.exec(`delete from outhook_payload where id = ?1
			and not exists (select 1 from outhook_delivery where event = ?2 and payload = ?1)`, *payload, event)
		if err != nil {
			return err
		}
	}
	return t.leave(k, id) // one that was dead and held
}

// Stats implements [outhook.Manager].
func (s *Store) Stats(ctx context.Context) (outhook.Stats, error) {
	stats, err := s.stats(ctx)
	if err != nil {
		return outhook.Stats{}, fmt.Errorf("sqlitestore: stats: %w", err)
	}
	return stats, nil
}

func (s *Store) stats(ctx context.Context) (stats outhook.Stats, err error) {
	var oldest *int64
	err = s.db.QueryRowContext(ctx, `
with recursive lane (id) as (
    select (select min(subscriber) from outhook_pending)
    union all
    select (select min(subscriber) from outhook_pending where subscriber > lane.id) from lane where lane.id is not null
)
select (select count(*) from outhook_pending),
    (select count(*) from outhook_outcome where state = 'delivered'),
    (select count(*) from outhook_outcome where state = 'dead'),
    (select count(*) from outhook_outcome where state = 'cancelled'),
    (select min((select min(ready) from outhook_pending where subscriber = lane.id)) from lane)`).
		Scan(&stats.Pending, &stats.Delivered, &stats.Dead, &stats.Cancelled, &oldest)
	if oldest != nil {
		stats.OldestDue = time.Duration(max(s.now().UnixNano()-*oldest, 0))
	}
	return stats, err
}

// Backlogs implements [outhook.Manager].
func (s *Store) Backlogs(ctx context.Context) iter.Seq2[outhook.Backlog, error] {
	return func(yield func(outhook.Backlog, error) bool) {
		list, err := s.backlogs(ctx)
		for _, b := range list {
			if !yield(b, nil) {
				return
			}
		}
		if err != nil {
			yield(outhook.Backlog{}, fmt.Errorf("sqlitestore: backlogs: %w", err))
		}
	}
}

// backlogs reads all before one is shown, so that no reader of the file stays open.
func (s *Store) backlogs(ctx context.Context) (list []outhook.Backlog, err error) {
	rows, err := s.db.QueryContext(ctx, `
with recursive lane (id) as (
    select (select min(subscriber) from outhook_pending)
    union all
    select (select min(subscriber) from outhook_pending where subscriber > lane.id) from lane where lane.id is not null
)
select s.name, (select count(*) from outhook_pending where subscriber = lane.id),
    (select min(ready) from outhook_pending where subscriber = lane.id)
from lane join outhook_subscriber s on s.id = lane.id`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	now := s.now().UnixNano()
	for rows.Next() {
		var b outhook.Backlog
		var oldest *int64
		if err := rows.Scan(&b.Subscriber, &b.Pending, &oldest); err != nil {
			return nil, err
		}
		if oldest != nil {
			b.OldestDue = time.Duration(max(now-*oldest, 0))
		}
		list = append(list, b)
	}
	return list, rows.Err()
}
