package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/outhook/outhook"
)

func enqueueAll(t *trial) {
	t.events("b")
	_, err := t.send(t.delivery("a", "s"), t.delivery("b", "s"), t.delivery("c", "s"), t.delivery("c", "u"))
	t.must("Enqueue", err)
	for _, c := range t.take("a/s", "b/s", "c/s", "c/u") {
		t.settles(c, outhook.Delivered)
	}

	var batch []outhook.Delivery
	var names []string
	for i := range 500 {
		d := t.delivery(fmt.Sprintf("many%d", i), fmt.Sprintf("s%d", i%7))
		batch, names = append(batch, d), append(names, d.ID.String())
	}
	t.enqueue(batch...)
	t.take(names...)

	// One that conflicts keeps all from being stored, wherever it stands.
	for i := range 3 {
		var batch []outhook.Delivery
		for j := range 3 {
			batch = append(batch, t.delivery(fmt.Sprintf("batch%d-%d", i, j), "s"))
		}
		t.enqueue(batch[i])
		batch[i].Digest[0]++
		if _, err := t.send(batch...); err == nil {
			continue // by another rule it had to fail
		}
		rest := slices.Delete(slices.Clone(batch), i, i+1)
		known, err := t.send(rest...)
		t.must("Enqueue", err)
		t.check(len(known) == 0, "%v is known, want it not to be stored by a call that failed", known)
		t.take(rest[0].ID.Event, rest[1].ID.Event)
	}

	known, err := t.send()
	t.check(err == nil && len(known) == 0, "Enqueue of nothing: known %v, error %v, want nothing", known, err)
}

func enqueueKnown(t *trial) {
	events := []string{"pending", "delayed", "leased", "released", "retried", "delivered", "dead", "cancelled"}
	t.enqueue(t.delivery("delayed", "s", delay(hour)))
	t.events("leased", "released", "retried", "delivered", "dead", "cancelled")
	claims := t.take("leased", "released", "retried", "delivered", "dead", "cancelled")
	t.finish(
		release(claims[1]), retry(claims[2], hour), outcome(claims[3], outhook.Delivered),
		outcome(claims[4], outhook.Dead), outcome(claims[5], outhook.Cancelled),
	)
	first := t.delivery("pending", "s")
	t.enqueue(first)
	before := make(map[string]outhook.Record)
	manages := t.manages()
	for _, event := range events {
		if manages {
			before[event] = t.get(of(event))
		}
	}

	var again []outhook.Delivery
	for _, event := range events {
		d := t.delivery(event, "s", delay(hour), ttl(2*hour), key("other"), hold)
		d.Type, d.Payload = "test.other", &outhook.Payload{Body: []byte("other")}
		again = append(again, d)
	}
	for range 2 {
		known, err := t.send(append(again, t.delivery(fmt.Sprintf("new%d", len(t.calls)), "u"))...)
		t.must("Enqueue", err)
		t.check(len(known) == len(events), "known are %v, want %v", known, events)
		for _, event := range events {
			t.check(slices.Contains(known, of(event)), "known are %v, want %s among them", known, event)
			if manages {
				now, was := t.get(of(event)), before[event]
				difference := compareRecord(&now, &was, true)
				t.check(difference == "", "%s was enqueued again, and changed: %s", event, difference)
			}
		}
	}

	t.settles(claims[0], outhook.Delivered) // its lease is as it was
	due := map[string]*outhook.Delivery{"pending": &first, "released": &claims[1].Delivery}
	found := make(map[string]bool)
	for more := true; more; {
		more = false
		for _, c := range t.claim().Claims {
			if c.ID.Subscriber != "s" {
				continue
			}
			want := due[c.ID.Event]
			t.check(want != nil, "Claim returned %s, want it to be held back: it was leased, settled or has a delay, and was enqueued again", c.ID)
			difference := compare(&c.Delivery, want)
			t.check(difference == "", "%s was enqueued again, and changed: %s", c.ID, difference)
			more = more || !found[c.ID.Event]
			found[c.ID.Event] = true
		}
	}
	t.check(len(found) == len(due), "Claim returned %v of %v, which were due and enqueued again", slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(due)))
}

func enqueueConflict(t *trial) {
	t.enqueue(t.delivery("delayed", "s", delay(hour)))
	t.events("leased", "delivered", "dead", "cancelled")
	claims := t.take("leased", "delivered", "dead", "cancelled")
	t.finish(outcome(claims[1], outhook.Delivered), outcome(claims[2], outhook.Dead), outcome(claims[3], outhook.Cancelled))
	t.events("pending")
	for i, event := range []string{"pending", "delayed", "leased", "delivered", "dead", "cancelled"} {
		d := t.delivery(event, "s")
		d.Digest[(i*13)%32] ^= 1
		for _, batch := range [][]outhook.Delivery{
			{d},
			{t.delivery("before", "s"), d, t.delivery("after", "u")},
			{d}, // and again
		} {
			_, err := t.send(batch...)
			t.check(errors.Is(err, outhook.ErrConflict), "Enqueue of %s with another Digest: error %v, want one that matches ErrConflict", event, err)
		}
	}
	t.settles(claims[0], outhook.Delivered)
	t.settles(t.one("pending"), outhook.Delivered)
}
