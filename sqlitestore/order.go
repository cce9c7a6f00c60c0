package sqlitestore

import "time"

// key is the order of the deliveries of a subscriber that have one OrderKey.
type key struct {
	subscriber int64
	name       string // empty: unordered
}

func (t *transaction) expires(ttl time.Duration) int64 {
	if ttl <= 0 {
		return never
	}
	return later(t.now, ttl)
}

// begin makes a delivery pending, as if new.
func (t *transaction) begin(k key, id, due, expires, token int64) error {
	var ready any
	if k.name == "" {
		ready = due
	}
	err := t.exec(`insert into outhook_pending (id, subscriber, ready, due, expires, token, live, attempts, unfinished)
		values (?, ?, ?, ?, ?, ?, 0, 0, 0)`, id, k.subscriber, ready, due, expires, token)
	if err != nil || k.name == "" {
		return err
	}
	// One that is dead and holds has kept its place.
	err = t.exec("insert or ignore into outhook_place (subscriber, order_key, delivery) values (?, ?, ?)", k.subscriber, k.name, id)
	if err != nil {
		return err
	}
	return t.order(k)
}

// leave takes a delivery that no longer counts out of the order.
func (t *transaction) leave(k key, id int64) error {
	if k.name == "" {
		return nil
	}
	if err := t.exec("delete from outhook_place where subscriber = ? and order_key = ? and delivery = ?", k.subscriber, k.name, id); err != nil {
		return err
	}
	return t.order(k)
}

// order sets from when the deliveries of a key can be claimed, of which one has
// changed. It is the first alone that can be, when nothing holds the key any more.
// A change makes another one the first, or moves the first to the second place.
func (t *transaction) order(k key) error {
	err := t.exec(`update outhook_pending
		set ready = max(due, coalesce((select until from outhook_hold where subscriber = ?1 and order_key = ?2), 0))
		where id = (select delivery from outhook_place where subscriber = ?1 and order_key = ?2 order by delivery limit 1)`,
		k.subscriber, k.name)
	if err != nil {
		return err
	}
	return t.exec(`update outhook_pending set ready = null
		where id = (select delivery from outhook_place where subscriber = ?1 and order_key = ?2 order by delivery limit 1 offset 1)
		and ready is not null`, k.subscriber, k.name)
}

// hold keeps the other deliveries of a key from being claimed until the lease of
// one of them ends.
func (t *transaction) hold(k key, id, until int64) error {
	if k.name == "" {
		return nil
	}
	return t.exec(`insert into outhook_hold (subscriber, order_key, delivery, until) values (?, ?, ?, ?)
		on conflict (subscriber, order_key) do update set delivery = excluded.delivery, until = excluded.until`,
		k.subscriber, k.name, id, until)
}

// unhold ends that, unless it is the lease of another one that holds the key.
func (t *transaction) unhold(k key, id int64) error {
	if k.name == "" {
		return nil
	}
	return t.exec("delete from outhook_hold where subscriber = ? and order_key = ? and delivery = ?", k.subscriber, k.name, id)
}
