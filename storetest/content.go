package storetest

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

// returned enqueues deliveries in one call, and compares what Claim returns.
func (t *trial) returned(deliveries ...outhook.Delivery) {
	t.enqueue(deliveries...)
	want := make(map[outhook.DeliveryID]*outhook.Delivery)
	for i := range deliveries {
		want[deliveries[i].ID] = &deliveries[i]
	}
	for len(want) > 0 {
		claims := t.claim().Claims
		t.check(len(claims) > 0, "Claim returned nothing, and %d deliveries did not come", len(want))
		for i := range claims {
			c := &claims[i]
			d := want[c.ID]
			t.check(d != nil, "Claim returned %v, which was not enqueued or came before", c.ID)
			t.check(c.Fault == "", "%v has fault %q, want none", c.ID, c.Fault)
			difference := compare(&c.Delivery, d)
			t.check(difference == "", "%v did not come back as it was given: %s", c.ID, difference)
			delete(want, c.ID)
			t.settles(*c, outhook.Delivered)
		}
	}
}

// fields is that all of a Delivery comes back, also after a retry.
func fields(t *trial) {
	full := subscriber("full")
	full.URL = "https://receiver.example.com:8443/a%20path?query=%7B%7D&x='"
	full.Header = http.Header{"X-Tenant": {"a", "b"}, "Authorization": {`Bearer "quoted" \`}}
	full.Timeout, full.Concurrency, full.Ordered, full.HoldOnDead = 3*time.Second, 2, true, true
	full.Keys = append(full.Keys, outhook.Key{
		Secret: outhook.NewSecret("whsec_TWZLUTlyOEdLWXFyVHdqVVBEOElMUFpJbzJMYUxhU3c="), Expires: time.Now().Add(hour),
	})
	bare := subscriber("bare")
	bare.Keys, bare.Unsigned = nil, true
	event := outhook.Event{
		ID: "e", Type: "a.b_c.D9", Time: time.Date(2031, 2, 3, 4, 5, 6, 123_456_789, time.FixedZone("", 3600)),
		OrderKey: "order", TTL: 90*time.Minute + 1,
		Labels: map[string]string{"tenant": "grüße, 世界 🌍", "": "", "quote'\"\\": "{}%;\x00\n"},
		Data:   map[string]any{"text": "grüße"},
	}
	deliveries := t.sent(event, full, bare)
	t.enqueue(deliveries...)
	for round := range 2 {
		for i, c := range t.take("e/full", "e/bare") {
			difference := compare(&c.Delivery, &deliveries[i])
			t.check(difference == "", "claim %d of %v did not come back as it was given: %s", round+1, c.ID, difference)
			t.check(c.Age >= 0 && c.Age <= patience, "the Age of %v is %v", c.ID, c.Age)
			if t.exact() {
				want := time.Duration(round) * time.Minute
				t.check(c.Age == want, "the Age of %v is %v, want %v", c.ID, c.Age, want)
			}
			t.finish(retry(c, 0))
		}
		if t.exact() {
			t.pass(time.Minute)
		}
	}

	// Delay and TTL are kept to the nanosecond, whatever the clock has.
	odd := t.delivery("odd", "s", delay(1234567*time.Nanosecond), ttl(hour+7))
	t.enqueue(odd)
	c := t.comes(2*ms, "odd")
	difference := compare(&c.Delivery, &odd)
	t.check(difference == "", "%v did not come back as it was given: %s", c.ID, difference)

	// An instant far away, and the ends of what an event may have.
	far := []outhook.Delivery{
		t.delivery("old", "s", func(d *outhook.Delivery) { d.Time = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC) }),
		t.delivery("new", "s", func(d *outhook.Delivery) {
			d.Time = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
		}),
		t.delivery("odd-offset", "s", func(d *outhook.Delivery) {
			d.Time = time.Date(1890, 1, 1, 12, 0, 0, 0, time.FixedZone("", 1172)) // such as local mean time
		}),
		t.delivery("forever", "s", ttl(1<<63-1), func(d *outhook.Delivery) {
			for i := range d.Digest {
				d.Digest[i] = byte(255 - i)
			}
		}),
	}
	t.enqueue(t.delivery("never", "s", delay(1<<63-1)))
	t.returned(far...)
	t.none("its Delay is 292 years", "never")
}

// payloads is that bodies come back byte for byte.
func payloads(t *trial) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	bodies := map[string]outhook.Payload{
		"empty":  {Body: []byte{}},
		"zero":   {Body: []byte{0}},
		"bytes":  {Body: all, ContentType: "application/octet-stream"},
		"quotes": {Body: []byte(`'";--\' $1 ? %s {} \x00 \u0000`)},
		"broken": {Body: []byte("\xff\xfe\xc0\x80 no UTF-8 \xed\xa0\x80")},
		"json":   {Body: []byte(`{ "b": 1.0, "a": "<&>\u2028",  "a": 1e400 }`), ContentType: `application/json; charset="utf-8"`},
		"large":  {Body: bytes.Repeat([]byte("0123456789abcde\n"), 256<<10/16)}, // 256 KiB
		"huge":   {Body: bytes.Repeat(all, 1<<20/256)},                          // 1 MiB
		"header": {Body: []byte("x"), ContentType: "text/plain", Header: http.Header{
			"Content-Encoding": {"gzip"}, "X-Many": {"a", "", "b, c"}, "X-Quote": {`'"\;{}%`},
		}},
	}
	for name, payload := range bodies {
		d := t.delivery(name, "s")
		d.Payload = &payload
		t.returned(d)
	}

	// One payload is shared by many, next to others in the same call.
	shared, own := bodies["bytes"], bodies["header"]
	var batch []outhook.Delivery
	for i := range 50 {
		d := t.delivery("shared", fmt.Sprintf("s%d", i))
		d.Payload = &shared
		if i%10 == 7 {
			d.Payload = &own
		}
		batch = append(batch, d)
	}
	t.returned(batch...)

	if m, ok := t.Store.(outhook.Manager); ok {
		for name, want := range bodies {
			r, err := m.Get(t.ctx, of(name))
			t.must("Get", err)
			difference := comparePayload(r.Payload, &want)
			t.check(difference == "", "Get %s: %s", name, difference)
		}
	}
}

// identifiers is that all that are valid are told apart.
func identifiers(t *trial) {
	var printable strings.Builder
	for c := '!'; c <= '~'; c++ {
		printable.WriteRune(c)
	}
	long := strings.Repeat("x", 127)
	names := []string{
		printable.String(), "a", "A", "b", "a/b", "b/a", "a//b", "/", "%", "_", "a%", "a_", `\`, `a\`, `\\`, "'", "''", `"`, ";--", "{}", "{a,b}",
		"$1", "?", ":x", "NULL", "null", "0", "00", "1e3", "a.b", "a:b", "a|b", "a,b", "[a]", "*", "a*", long + "1", long + "2",
		strings.Repeat("~", 128),
	}
	events := []string{"e", "E", "e_", "e-", "_", "-", "0", "00", strings.Repeat("e", 64), strings.Repeat("e", 63) + "E"}
	var batch []outhook.Delivery
	for _, name := range names {
		for _, event := range events[:2] {
			batch = append(batch, t.delivery(event, name))
		}
	}
	for _, event := range events[2:] {
		batch = append(batch, t.delivery(event, "a"))
	}
	t.returned(batch...)

	// Orders are of one subscriber and one key, also if they run together.
	batch = nil
	for i, name := range names {
		batch = append(batch, t.delivery(fmt.Sprintf("k%d", i), "s", key(name)))
	}
	for i, pair := range [][2]string{{"a", "b/c"}, {"a/b", "c"}, {"ab", "c"}, {"a", "bc"}, {"a|b", "c"}, {"a", "b|c"}, {"a:b", "c"}, {"a", "b:c"}} {
		batch = append(batch, t.delivery(fmt.Sprintf("p%d", i), pair[0], key(pair[1])))
	}
	t.enqueue(batch...)
	var all []string
	for i := range batch {
		all = append(all, batch[i].ID.String())
	}
	t.take(all...) // each has an order of its own

	if m, ok := t.Store.(outhook.Manager); ok {
		for _, name := range names {
			id := outhook.DeliveryID{Event: "E", Subscriber: name}
			t.check(t.get(id).ID == id, "Get %v returned %v", id, t.get(id).ID)
			n := 0
			for r, err := range m.List(t.ctx, outhook.Filter{Event: "e", Subscriber: name}) {
				t.must("List", err)
				t.check(r.ID == outhook.DeliveryID{Event: "e", Subscriber: name}, "List of e/%s returned %v", name, r.ID)
				n++
			}
			t.check(n == 1, "List of e/%s returned %d deliveries, want 1", name, n)
		}
	}
	if _, ok := t.Store.(outhook.StandingStore); ok {
		for i, name := range names {
			t.standing(name, func(_ time.Time, s *outhook.Standing) { s.Failures += i + 1 })
		}
		for i, name := range names {
			t.check(t.kept(name).Failures == i+1, "the standing of %q has Failures %d, want %d", name, t.kept(name).Failures, i+1)
		}
	}
}

// attempts is that the history is kept as it was given.
func attempts(t *trial) {
	t.manager()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	given := [][]outhook.Attempt{
		{{Number: 1, Time: time.Unix(1_700_000_000, 987_654_321), Duration: 1234567 * time.Nanosecond, Status: 503, RetryAfter: 90 * time.Second}},
		{
			{Number: 2, Time: time.Unix(1_700_000_001, 0).UTC(), Duration: time.Nanosecond, Error: "connection reset"},
			{Number: 2, Time: time.Unix(1_700_000_002, 0), Status: 400, Error: "status 400", Header: http.Header{
				"Content-Type": {"text/html"}, "Set-Cookie": {"a=b", "c='\"\\"}, "X-Latin": {"caf\xe9 \xff"}, "X-Empty": {""},
			}, Body: all},
		},
		nil,
		{{Number: 4, Time: time.Unix(1_700_000_003, 1), Error: "NUL \x00, no UTF-8 \xff, <&> \u2028 {}'\"\\", Body: bytes.Repeat([]byte{0, 0xff}, 64<<10)}},
		{{Number: 5, Time: time.Unix(1_700_000_004, 0), Status: 200, Header: http.Header{}, Body: []byte{}}},
	}
	t.events("e")
	var want []outhook.Attempt
	for i, attempts := range given {
		o := retry(t.one("e"), 0)
		o.Attempts = attempts
		if i == len(given)-1 {
			o.State = outhook.Delivered
		}
		t.finish(o)
		t.finish(o) // a repetition adds none
		want = append(want, attempts...)
	}
	same := func(when string, got []outhook.Attempt) {
		t.check(len(got) == len(want), "%s: %d attempts, want %d", when, len(got), len(want))
		for i := range got {
			difference := compareAttempt(&got[i], &want[i])
			t.check(difference == "", "%s: Attempts[%d]: %s", when, i, difference)
		}
	}
	same("Get", t.get(of("e")).Attempts)
	for r, err := range t.manager().List(t.ctx, outhook.Filter{}) {
		t.must("List", err)
		t.check(r.Attempts == nil, "List returned %d attempts, want none", len(r.Attempts))
	}
	c := t.replayed("e")
	o := outcome(c, outhook.Dead)
	t.finish(o)
	want = append(want, o.Attempts...)
	same("Get after Replay", t.get(of("e")).Attempts)
}

// slicesKept is that no slice or map of the caller's is kept or changed.
func slicesKept(t *trial) {
	batch := []outhook.Delivery{t.delivery("a", "s"), t.delivery("b", "s", key("k"))}
	want := bytes.Clone(batch[0].Payload.Body)
	t.enqueue(batch...)
	t.check(batch[0].ID == of("a") && batch[1].OrderKey == "k", "Enqueue changed the caller's slice: %v", batch)
	batch[0], batch[1] = t.delivery("x", "x", delay(hour)), t.delivery("y", "y", delay(hour))
	rooms := map[string]int{"s": 2}
	claims := t.claim(func(r *outhook.ClaimRequest) { r.Room = rooms }).Claims
	t.check(len(rooms) == 1 && rooms["s"] == 2, "Claim changed the caller's Room: %v", rooms)
	a, b := index(claims, "a/s"), index(claims, "b/s")
	t.check(a >= 0 && b >= 0, "Claim did not return a/s and b/s; the caller changed its slice after Enqueue")
	t.check(bytes.Equal(claims[a].Payload.Body, want), "the body of a/s is %q, want %q", claims[a].Payload.Body, want)
	delete(rooms, "s")
	first, second := claims[a], claims[b]
	clear(claims)

	outcomes := []outhook.Outcome{retry(first, 0), with(retry(second, 0), outhook.Effect{Success: true})}
	outcomes[0].Attempts = append(make([]outhook.Attempt, 0, 8), outhook.Attempt{Number: 1, Status: 501})
	given := outcomes[0].Attempts
	t.finish(outcomes...)
	t.check(outcomes[0].Lease == first.Lease() && len(outcomes[0].Attempts) == 1, "Finish changed the caller's slice: %v", outcomes)
	given[0].Status = 999
	_ = append(given, outhook.Attempt{Status: 999})
	*outcomes[1].Effect = outhook.Effect{Disable: true}
	clear(outcomes)
	next := t.one("a/s")
	o := retry(next, 0)
	o.Attempts = []outhook.Attempt{{Number: 2, Status: 502}}
	t.finish(o)
	if !t.manages() {
		return
	}
	for range 2 { // what Get returns is the caller's
		got := t.get(of("a")).Attempts
		t.check(len(got) == 2 && got[0].Status == 501 && got[1].Status == 502, "Get returned the attempts %+v, want Status 501 and 502 as given to Finish", got)
		got[0].Status, got[1] = 999, outhook.Attempt{}
		_ = append(got[:1], outhook.Attempt{Status: 999})
	}
}
