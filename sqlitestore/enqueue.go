package sqlitestore

import (
	"cmp"
	"context"
	"fmt"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// Enqueue implements [outhook.Store]. There is no bound on how much it stores.
func (s *Store) Enqueue(ctx context.Context, deliveries []outhook.Delivery) (known []outhook.DeliveryID, err error) {
	rows, err := encodeAll(deliveries)
	if err != nil {
		return nil, fmt.Errorf("sqlitestore: enqueue: %w", err)
	}
	var named map[string]int64
	err = s.write(ctx, "enqueue", func(t *transaction) (err error) {
		known, named, err = t.enqueue(rows, s.subscribers)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.subscribers.Keep(named)
	return known, nil
}

// row is a delivery with those of its parts that have to be encoded, which is
// done before the transaction.
type row struct {
	*outhook.Delivery
	header   any
	snapshot []byte
}

func encodeAll(deliveries []outhook.Delivery) ([]row, error) {
	rows := make([]row, len(deliveries))
	for i := range deliveries {
		d := &deliveries[i]
		snapshot, err := d.Snapshot.MarshalBinary()
		if err != nil {
			return nil, err
		}
		rows[i] = row{d, nil, snapshot}
		if d.Payload != nil {
			header, err := stored.EncodeHeader(d.Payload.Header)
			if err != nil {
				return nil, err
			}
			rows[i].header = nullText(header)
		}
	}
	return rows, nil
}

// enqueue returns also the numbers of subscribers that were not remembered.
func (t *transaction) enqueue(rows []row, remembered *stored.Memory[string, int64]) (known []outhook.DeliveryID, named map[string]int64, err error) {
	var id int64 // the latest
	if _, err := t.one("update outhook_meta set delivery = delivery + ?1 returning delivery - ?1", []any{len(rows)}, &id); err != nil {
		return nil, nil, err
	}
	type body struct {
		*outhook.Payload
		event string
	}
	payloads := make(map[body]int64)
	named = make(map[string]int64)
	for i := range rows {
		d := &rows[i]
		id++
		subscriber, err := t.number(d.ID.Subscriber, remembered, named)
		if err != nil {
			return nil, nil, err
		}
		key, payload := key{subscriber, d.OrderKey}, body{d.Payload, d.ID.Event}
		var shared any
		if d.Payload != nil {
			shared = cmp.Or(payloads[payload], id)
		}
		n, err := t.execute(`insert into outhook_delivery (id, event, subscriber, type, time, order_key, hold_on_dead,
			delay, ttl, digest, payload, entered, replay, snapshot) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)
			on conflict (event, subscriber) do nothing`,
			[]any{id, d.ID.Event, subscriber, d.Type, stored.EncodeTime(d.Time), d.OrderKey, d.HoldOnDead,
				int64(d.Delay), int64(d.TTL), d.Digest[:], shared, t.now, d.snapshot})
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			var digest []byte
			_, err := t.one("select digest from outhook_delivery where event = ? and subscriber = ?", []any{d.ID.Event, subscriber}, &digest)
			if err != nil {
				return nil, nil, err
			}
			if string(digest) != string(d.Digest[:]) {
				return nil, nil, fmt.Errorf("%w: event %q for subscriber %q", outhook.ErrConflict, d.ID.Event, d.ID.Subscriber)
			}
			known = append(known, d.ID)
			continue
		}
		if d.Payload != nil && payloads[payload] == 0 {
			payloads[payload] = id
			err := t.exec("insert into outhook_payload (id, event, content_type, header, body) values (?, ?, ?, ?, ?)",
				id, d.ID.Event, d.Payload.ContentType, d.header, d.Payload.Body)
			if err != nil {
				return nil, nil, err
			}
		}
		expires := t.expires(d.TTL)
		if err := t.begin(key, id, min(later(t.now, d.Delay), expires), expires, 0); err != nil {
			return nil, nil, err
		}
	}
	return known, named, nil
}

// number returns the number of a subscriber. It adds it to named unless it is remembered.
func (t *transaction) number(name string, remembered *stored.Memory[string, int64], named map[string]int64) (id int64, err error) {
	if id, ok := remembered.Find(name); ok {
		return id, nil
	}
	if id, ok := named[name]; ok {
		return id, nil
	}
	if id, err = t.subscriber(name); err == nil {
		named[name] = id
	}
	return id, err
}

// subscriber returns the number of a subscriber, and stores it if it is new.
func (t *transaction) subscriber(name string) (id int64, err error) {
	found, err := t.one("select id from outhook_subscriber where name = ?", []any{name}, &id)
	if err != nil || found {
		return id, err
	}
	_, err = t.one("insert into outhook_subscriber (name) values (?) returning id", []any{name}, &id)
	return id, err
}
