package outhook

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// An Event is something that happened, to be told to subscribers.
//
// It is encoded to bytes once, when it is sent; the body of a delivery never
// changes afterwards, however often it is attempted.
type Event struct {
	// ID identifies the event to receivers on every attempt and every replay:
	// it is sent as the webhook-id header and is their key for idempotency.
	// 1 to 64 letters, digits, '_' or '-'. Sending an ID to the same subscriber
	// again does nothing. Empty: Send makes a UUID of version 7.
	ID string

	// Type says what happened, as segments of [A-Za-z0-9_] joined by full
	// stops, such as "invoice.paid"; at most 128 bytes. Required.
	Type string

	// Time is when it happened. Zero: the time of the call of Send.
	Time time.Time

	// Data is any value that encoding/json can encode. It is sent as
	// {"type": Type, "timestamp": Time, "data": Data}, the envelope that
	// Standard Webhooks recommends.
	Data any

	// Payload, if not nil, is sent as it is instead of Data.
	Payload *Payload

	// OrderKey, if not empty, puts the deliveries of equal keys to the same
	// subscriber in order: the next is attempted only when the one before is
	// delivered, cancelled or dead. 1 to 128 bytes of printable ASCII, without
	// spaces. Empty: in no particular order.
	OrderKey string

	// Delay holds the first attempt back. Zero: at once.
	Delay time.Duration

	// TTL is how long after Send an attempt may still begin; later the delivery is
	// dead with reason [ReasonExpired]. One that is held, by a pause or by an
	// order, is found to be so when it is let go. Zero: for ever.
	TTL time.Duration

	// Labels are stored with the deliveries, never sent, and come back in
	// every [Observation]: a tenant, a trace parent. At most 32, with keys of
	// at most 64 and values of at most 256 bytes of UTF-8.
	Labels map[string]string
}

// A Payload is a ready-made request body.
// It must not be changed once it was given to Send.
type Payload struct {
	ContentType string      // media type; empty: application/json
	Header      http.Header // further headers that belong to the body; nil: none
	Body        []byte
}

// Decode returns the data of an event that arrived as a Standard Webhooks
// envelope, as a value of type T. Unknown fields are ignored, and null, which an Event
// without Data has, is the zero T. It fails if the event has no payload, or one that
// is not such an envelope, or if its data is no T.
func Decode[T any](event Event) (data T, err error) {
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if event.Payload == nil {
		return data, fmt.Errorf("outhook: decode event %q: no payload", event.ID)
	}
	if err = json.Unmarshal(event.Payload.Body, &envelope); err == nil && envelope.Data == nil {
		return data, fmt.Errorf("outhook: decode event %q: the payload has no data", event.ID)
	}
	if err == nil {
		err = json.Unmarshal(envelope.Data, &data)
	}
	if err != nil {
		return *new(T), fmt.Errorf("outhook: decode event %q: %w", event.ID, err)
	}
	return data, nil
}

// A Subscriber wants to know of events.
//
// With Options.Directory, Send looks at ID, Events, Ordered, HoldOnDead and Encode
// alone: the other fields are those that the [Directory] answers for each attempt.
type Subscriber struct {
	// ID identifies the subscriber among all tenants of a store.
	// 1 to 128 bytes of printable ASCII, without spaces. Required.
	ID string

	// URL receives the POST requests. The [Guard] says which are allowed:
	// by default https to public addresses. Required.
	URL string

	// Keys sign the request, each of them, so that a receiver that knows one
	// accepts it: put the current key first and those being rotated out
	// behind it, with an Expires. At least one must be live unless Unsigned.
	Keys []Key

	// Unsigned allows a subscriber without keys, for receivers whose URL is
	// the secret, such as Slack's incoming webhooks.
	Unsigned bool

	// Events are patterns of event types: "invoice.paid" (that type),
	// "invoice.*" (all below it, at any depth), "*" (all). Nil: all.
	Events []string

	// Header is added to the request. Names that belong to HTTP itself, to
	// the body or to the signature are refused. Nil: none.
	Header http.Header

	// Timeout of one attempt, from name resolution to the last byte of the
	// response. Zero, and at most: Options.Timeout.
	Timeout time.Duration

	// Concurrency is how many attempts one Dispatcher may have in flight to
	// this subscriber. Zero: Options.SubscriberConcurrency.
	Concurrency int

	// Rate is the pace of the attempts, over all processes that share a store
	// which is a [StandingStore]; of one process for any other. The latest Send, or
	// answer of the Directory, counts. Zero: no limit.
	Rate Rate

	// Ordered puts all deliveries of this subscriber in order, whatever
	// the OrderKey of their events.
	Ordered bool

	// HoldOnDead makes a dead delivery hold back those behind it in its order,
	// until it is replayed and delivered, or pruned. By default they go on.
	HoldOnDead bool

	// Encode shapes the body for this subscriber alone, at Send. It may
	// return nil and no error for an event that is not for this subscriber.
	// It must not keep or change the event's data. Nil: the event's own body.
	Encode func(Event) (*Payload, error)
}

// wants reports whether the subscriber's patterns match an event type.
func (s *Subscriber) wants(eventType string) bool {
	return len(s.Events) == 0 || slices.ContainsFunc(s.Events, func(pattern string) bool {
		return matchType(pattern, eventType)
	})
}

func matchType(pattern, eventType string) bool {
	if pattern == "*" || pattern == eventType {
		return true
	}
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(eventType, prefix)
}

// A DeliveryID identifies a delivery: one event for one subscriber.
type DeliveryID struct {
	Event, Subscriber string
}

// String returns "event/subscriber". An event ID has no slash.
func (id DeliveryID) String() string { return id.Event + "/" + id.Subscriber }

// A Delivery is one event for one subscriber: what a [Store] keeps.
// Stores keep its fields as they are and return them from Claim.
type Delivery struct {
	ID   DeliveryID
	Type string
	Time time.Time

	OrderKey   string // empty: unordered
	HoldOnDead bool   // dead counts as not settled for the order

	Delay time.Duration // from Enqueue to the first attempt
	TTL   time.Duration // from Enqueue to expiry; 0: never

	// Digest stands for all that the idempotency rule compares: type,
	// content, and the time if the caller gave one.
	Digest [32]byte

	// Payload is one shared pointer for all deliveries of an event that have
	// the same body, so that a store can keep the bytes once.
	Payload *Payload

	// Snapshot is the subscriber as it was at Send. Stores keep what its
	// MarshalBinary returns and never look inside.
	Snapshot Snapshot
}

// State says what has become of a delivery.
type State string

const (
	Pending   State = "pending"   // waits for an attempt, or one is being made
	Delivered State = "delivered" // the receiver accepted it
	Dead      State = "dead"      // given up; kept for inspection and replay
	Cancelled State = "cancelled" // withdrawn by the host
)

// Reasons of deliveries that are dead or cancelled, as in [Record] and [Observation].
const (
	ReasonExhausted = "exhausted" // the retry policy had no further attempt
	ReasonPermanent = "permanent" // the classifier, or the guard, called the failure permanent
	ReasonGone      = "gone"      // the receiver answered 410
	ReasonExpired   = "expired"   // its TTL had passed
	ReasonAbandoned = "abandoned" // too many claims in a row ended without an outcome
	ReasonDisabled  = "disabled"  // its subscriber is disabled and Options.CancelDisabled is set
	ReasonUnknown   = "unknown"   // the Directory knows no such subscriber
	ReasonCancelled = "cancelled" // by Cancel
	ReasonAborted   = "aborted"   // the receiver asked for it, see Options.Steering
	ReasonFailing   = "failing"   // of a Standing: the breaker opened, or it has failed for Options.DisableAfter
)

// An Attempt records one HTTP request that was made for a delivery, or that
// failed before it could be made.
type Attempt struct {
	// Number counts the attempts of a delivery from 1, anew for each replay.
	// Up to four attempts share a number, all but the last of which met a kept-alive
	// connection that the receiver had closed, or were refused unread.
	Number int
	Replay int // how often the delivery had been replayed

	Time     time.Time // when it began, by the clock of the process that made it
	Duration time.Duration

	Status     int           // of the response; 0: there was none
	RetryAfter time.Duration // what the response asked for; 0: nothing
	Error      string        // what failed, empty for an answer 2xx; never a secret or text of the receiver

	// The response, cut to Options.KeepResponse bytes of body; nil: not kept.
	Header http.Header
	Body   []byte
}

// content is an event's part of the deliveries made from it.
type content struct {
	event   Event // with ID and Time
	digest  [32]byte
	payload *Payload // nil until an unshaped subscriber needs it
	data    []byte   // Data as JSON, if there is no ready-made payload
	valid   bool
}

// newContent validates an event and encodes its data. limit bounds the body.
func newContent(event Event, explicitTime bool, limit int, f *faults) *content {
	before := len(*f)
	if !validEventID(event.ID) {
		f.add("", "Event.ID", "%q is not 1 to 64 letters, digits, '_' or '-'", clip(event.ID))
	}
	if len(event.Type) > 128 || !validType(event.Type) {
		f.add("", "Event.Type", "%q is not segments of [A-Za-z0-9_] joined by full stops, at most 128 bytes", clip(event.Type))
	}
	if event.OrderKey != "" && !validName(event.OrderKey) {
		f.add("", "Event.OrderKey", "%q is not 1 to 128 bytes of printable ASCII without spaces", clip(event.OrderKey))
	}
	if event.Delay < 0 {
		f.add("", "Event.Delay", "%v is negative", event.Delay)
	}
	if event.TTL < 0 || event.TTL > 0 && event.TTL <= event.Delay {
		f.add("", "Event.TTL", "%v is not longer than Delay, which is %v", event.TTL, event.Delay)
	}
	if year := event.Time.UTC().Year(); year < 1 || year > 9999 {
		f.add("", "Event.Time", "the year %d is not in 1 to 9999", year)
	}
	if len(event.Labels) > 32 {
		f.add("", "Event.Labels", "%d labels are more than 32", len(event.Labels))
	}
	for _, k := range slices.Sorted(maps.Keys(event.Labels)) {
		if v := event.Labels[k]; len(k) > 64 || len(v) > 256 || !utf8.ValidString(k) || !utf8.ValidString(v) {
			f.add("", "Event.Labels", "%q is longer than 64 bytes, or its value than 256, or one is not UTF-8", clip(k))
		}
	}

	c := &content{event: event}
	if event.Payload == nil {
		data, err := encodeJSON(event.Data)
		if err != nil {
			f.add("", "Event.Data", "%v", err)
			return c
		}
		c.data = data
	} else {
		if event.Data != nil {
			f.add("", "Event.Payload", "is given together with Data")
		}
		checkPayload("", "Event.Payload", event.Payload, limit, f)
	}
	c.digest = digest(event, explicitTime, c.data)
	c.valid = len(*f) == before
	return c
}

// body returns the event's own payload, shared by all subscribers without Encode.
func (c *content) body(limit int, f *faults) *Payload {
	if c.payload != nil {
		return c.payload
	}
	if c.payload = c.event.Payload; c.payload == nil {
		c.payload = &Payload{Body: envelope(c.event.Type, c.event.Time, c.data)}
		checkPayload("", "Event.Data", c.payload, limit, f)
	}
	return c.payload
}

func envelope(eventType string, t time.Time, data []byte) []byte {
	b := make([]byte, 0, len(data)+len(eventType)+72)
	b = append(b, `{"type":"`...)
	b = append(b, eventType...)
	b = append(b, `","timestamp":"`...)
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","data":`...)
	b = append(b, data...)
	return append(b, '}')
}

// encodeJSON contains the panics of the host's MarshalJSON methods.
func encodeJSON(v any) (data []byte, err error) {
	defer containPanic("encoding", &err)
	return json.Marshal(v)
}

func checkPayload(subscriber, field string, p *Payload, limit int, f *faults) {
	if len(p.Body) > limit {
		f.add(subscriber, field, "a body of %d bytes is above the limit of %d", len(p.Body), limit)
	}
	if !validHeaderValue(p.ContentType) {
		f.add(subscriber, field+".ContentType", "%q is no header value", clip(p.ContentType))
	}
	checkHeader(subscriber, field+".Header", p.Header, f)
}

// digest covers what must not change when an event ID is sent again. A time
// that Send made up is left out, and so is what Encode makes of the event.
func digest(event Event, explicitTime bool, data []byte) [32]byte {
	h := sha256.New()
	var n [8]byte
	write := func(b []byte) { // length-prefixed, so that fields cannot run together
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	write([]byte(event.Type))
	if explicitTime {
		write(event.Time.UTC().AppendFormat(nil, time.RFC3339Nano))
	} else {
		write(nil)
	}
	if p := event.Payload; p != nil {
		write([]byte(p.ContentType))
		for _, name := range slices.Sorted(maps.Keys(p.Header)) {
			write([]byte(name))
			write([]byte{byte(len(p.Header[name]))}) // at most maxHeaders
			for _, v := range p.Header[name] {
				write([]byte(v))
			}
		}
		write(p.Body)
	} else {
		write(data)
	}
	return [32]byte(h.Sum(nil))
}

func validEventID(s string) bool {
	return 1 <= len(s) && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
		return !isWord(r) && r != '-'
	}) < 0
}

func validType(s string) bool {
	for segment := range strings.SplitSeq(s, ".") {
		if segment == "" || strings.IndexFunc(segment, func(r rune) bool { return !isWord(r) }) >= 0 {
			return false
		}
	}
	return true
}

// validPattern reports whether s is an event type, "*", or a type followed by ".*".
func validPattern(s string) bool {
	return s == "*" || validType(strings.TrimSuffix(s, ".*"))
}

// validName reports whether s can be a subscriber ID or an ordering key.
func validName(s string) bool {
	return 1 <= len(s) && len(s) <= 128 && strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~'
	}) < 0
}

func isWord(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_'
}

// clip cuts a faulty value to what fits an error text.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
