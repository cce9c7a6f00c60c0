package sqlitestore

import (
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
	err = s.write(ctx, "enqueue", func(t *transaction) (err error) {
		known, err = t.enqueue(rows)
		return err
	})
	if err != nil {
		return nil, err
	}
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

func (t *transaction) enqueue(rows []row) (known []outhook.DeliveryID, err error) {
	subscribers := make(map[string]int64)
	type body struct {
		*outhook.Payload
		event string
	}
	payloads := make(map[body]int64)
	for i := range rows {
		d := &rows[i]
		subscriber, ok := subscribers[d.ID.Subscriber]
		if !ok {
			if subscriber, err = t.subscriber(d.ID.Subscriber); err != nil {
				return nil, err
			}
			subscribers[d.ID.Subscriber] = subscriber
		}
		var digest []byte
		found, err := t.one("select digest from outhook_delivery where event = ? and subscriber = ?", []any{d.ID.Event, subscriber}, &digest)
		switch {
		case err != nil:
			return nil, err
		case found && string(digest) != string(d.Digest[:]):
			return nil, fmt.Errorf("%w: event %q for subscriber %q", outhook.ErrConflict, d.ID.Event, d.ID.Subscriber)
		case found:
			known = append(known, d.ID)
			continue
		}
		var payload any
		if d.Payload != nil {
			key := body{d.Payload, d.ID.Event}
			if payloads[key] == 0 {
				payloads[key], err = t.insert("insert into outhook_payload (event, content_type, header, body) values (?, ?, ?, ?)",
					d.ID.Event, d.Payload.ContentType, d.header, d.Payload.Body)
				if err != nil {
					return nil, err
				}
			}
			payload = payloads[key]
		}
		id, err := t.insert(`insert into outhook_delivery (event, subscriber, type, time, order_key, hold_on_dead,
			delay, ttl, digest, payload, entered, replay, snapshot) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)`,
			d.ID.Event, subscriber, d.Type, stored.EncodeTime(d.Time), d.OrderKey, d.HoldOnDead,
			int64(d.Delay), int64(d.TTL), d.Digest[:], payload, t.now, d.snapshot)
		if err != nil {
			return nil, err
		}
		expires := t.expires(d.TTL)
		if err := t.begin(key{subscriber, d.OrderKey}, id, min(later(t.now, d.Delay), expires), expires, 0); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// subscriber returns the ID of a subscriber.
func (t *transaction) subscriber(name string) (id int64, err error) {
	found, err := t.one("select id from outhook_subscriber where name = ?", []any{name}, &id)
	if err != nil || found {
		return id, err
	}
	return t.insert("insert into outhook_subscriber (name) values (?)", name)
}
