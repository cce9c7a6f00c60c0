package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

// recorder is an Enqueuer that keeps what is sent through it.
type recorder struct{ deliveries []outhook.Delivery }

func (r *recorder) Enqueue(_ context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	r.deliveries = append(r.deliveries, deliveries...)
	return nil, nil
}

// sent returns the deliveries that a Dispatcher makes of an event.
func (t *trial) sent(event outhook.Event, subscribers ...outhook.Subscriber) []outhook.Delivery {
	var r recorder
	_, err := t.dispatcher.Via(&r).Send(t.ctx, event, subscribers)
	t.must("send an event", err)
	return r.deliveries
}

func subscriber(id string) outhook.Subscriber {
	return outhook.Subscriber{ID: id, URL: "https://receiver.example.com/hook", Keys: []outhook.Key{
		{Secret: outhook.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")},
	}}
}

// delivery returns one as a Dispatcher makes it. It is due at once and never
// expires unless it is changed.
func (t *trial) delivery(event, to string, changes ...func(*outhook.Delivery)) outhook.Delivery {
	d := t.sent(outhook.Event{ID: event, Type: "test.event", Data: event}, subscriber(to))[0]
	for _, change := range changes {
		change(&d)
	}
	return d
}

func key(k string) func(*outhook.Delivery) {
	return func(d *outhook.Delivery) { d.OrderKey = k }
}

func hold(d *outhook.Delivery) { d.HoldOnDead = true }

func delay(by time.Duration) func(*outhook.Delivery) {
	return func(d *outhook.Delivery) { d.Delay = by }
}

func ttl(by time.Duration) func(*outhook.Delivery) {
	return func(d *outhook.Delivery) { d.TTL = by }
}

// of is the ID of a delivery to subscriber "s".
func of(event string) outhook.DeliveryID {
	return outhook.DeliveryID{Event: event, Subscriber: "s"}
}

// describe names deliveries.
func describe(deliveries []outhook.Delivery) string {
	var names []string
	for i := range deliveries {
		d := &deliveries[i]
		name := d.ID.String()
		if d.OrderKey != "" {
			name += fmt.Sprintf(" key %q", d.OrderKey)
		}
		if d.HoldOnDead {
			name += " hold"
		}
		if d.Delay != 0 {
			name += fmt.Sprintf(" delay %v", d.Delay)
		}
		if d.TTL != 0 {
			name += fmt.Sprintf(" ttl %v", d.TTL)
		}
		if names = append(names, name); len(names) == 10 {
			names = append(names, fmt.Sprintf("%d in all", len(deliveries)))
			break
		}
	}
	return strings.Join(names, "; ")
}

// compare says in what a delivery differs from the one that was enqueued; empty:
// in nothing.
func compare(got, want *outhook.Delivery) string {
	differs := func(field string, got, want any) string { return fmt.Sprintf("%s is %v, want %v", field, got, want) }
	switch {
	case got.ID != want.ID:
		return differs("ID", got.ID, want.ID)
	case got.Type != want.Type:
		return differs("Type", got.Type, want.Type)
	case !got.Time.Equal(want.Time):
		return differs("Time", got.Time.UTC(), want.Time.UTC()) // which shows all of them
	case got.OrderKey != want.OrderKey:
		return differs("OrderKey", got.OrderKey, want.OrderKey)
	case got.HoldOnDead != want.HoldOnDead:
		return differs("HoldOnDead", got.HoldOnDead, want.HoldOnDead)
	case got.Delay != want.Delay:
		return differs("Delay", got.Delay, want.Delay)
	case got.TTL != want.TTL:
		return differs("TTL", got.TTL, want.TTL)
	case got.Digest != want.Digest:
		return differs("Digest", got.Digest, want.Digest)
	}
	if difference := comparePayload(got.Payload, want.Payload); difference != "" {
		return difference
	}
	a, err := got.Snapshot.MarshalBinary()
	if err != nil {
		return fmt.Sprintf("Snapshot cannot be marshalled: %v", err)
	}
	b, err := want.Snapshot.MarshalBinary()
	if err != nil {
		return fmt.Sprintf("the Snapshot given cannot be marshalled: %v", err)
	}
	if !bytes.Equal(a, b) {
		return "Snapshot is not the one given"
	}
	return ""
}

func comparePayload(got, want *outhook.Payload) string {
	switch {
	case got == nil:
		return "Payload is nil"
	case got.ContentType != want.ContentType:
		return fmt.Sprintf("Payload.ContentType is %q, want %q", got.ContentType, want.ContentType)
	case !equalHeader(got.Header, want.Header):
		return fmt.Sprintf("Payload.Header is %q, want %q", got.Header, want.Header)
	}
	return compareBytes("Payload.Body", got.Body, want.Body)
}

func compareBytes(field string, got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("%s has %d bytes, want %d; they differ from byte %d", field, len(got), len(want), at)
}

// equalHeader takes no header and an empty one for the same.
func equalHeader(a, b http.Header) bool { return maps.EqualFunc(a, b, slices.Equal) }

func compareAttempt(got, want *outhook.Attempt) string {
	switch {
	case got.Number != want.Number || got.Replay != want.Replay:
		return fmt.Sprintf("Number and Replay are %d and %d, want %d and %d", got.Number, got.Replay, want.Number, want.Replay)
	case !got.Time.Equal(want.Time):
		return fmt.Sprintf("Time is %v, want %v", got.Time, want.Time)
	case got.Duration != want.Duration:
		return fmt.Sprintf("Duration is %v, want %v", got.Duration, want.Duration)
	case got.Status != want.Status:
		return fmt.Sprintf("Status is %d, want %d", got.Status, want.Status)
	case got.RetryAfter != want.RetryAfter:
		return fmt.Sprintf("RetryAfter is %v, want %v", got.RetryAfter, want.RetryAfter)
	case got.Error != want.Error:
		return fmt.Sprintf("Error is %q, want %q", got.Error, want.Error)
	case !equalHeader(got.Header, want.Header):
		return fmt.Sprintf("Header is %q, want %q", got.Header, want.Header)
	}
	return compareBytes("Body", got.Body, want.Body)
}

// compareRecord says in what a record differs from another, but for the
// instants, which have to be equal only if the clock stands still.
func compareRecord(got, want *outhook.Record, instants bool) string {
	a, b := *got, *want
	if instants && (!a.Since.Equal(b.Since) || !a.Due.Equal(b.Due)) {
		return fmt.Sprintf("Since and Due are %v and %v, want %v and %v", a.Since, a.Due, b.Since, b.Due)
	}
	if !a.Time.Equal(b.Time) {
		return fmt.Sprintf("Time is %v, want %v", a.Time, b.Time)
	}
	if difference := comparePayload(a.Payload, b.Payload); difference != "" {
		return difference
	}
	if len(a.Attempts) != len(b.Attempts) {
		return fmt.Sprintf("has %d attempts, want %d", len(a.Attempts), len(b.Attempts))
	}
	for i := range a.Attempts {
		if difference := compareAttempt(&a.Attempts[i], &b.Attempts[i]); difference != "" {
			return fmt.Sprintf("Attempts[%d]: %s", i, difference)
		}
	}
	for _, r := range []*outhook.Record{&a, &b} {
		r.Since, r.Due, r.Time, r.Payload, r.Attempts = time.Time{}, time.Time{}, time.Time{}, nil, nil
	}
	if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
		return fmt.Sprintf("is %+v, want %+v", a, b)
	}
	return ""
}
