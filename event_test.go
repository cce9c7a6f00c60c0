package outhook

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fields returns the names of the fields at fault.
func fields(f faults) (names []string) {
	for _, err := range f {
		names = append(names, err.(*FieldError).Field)
	}
	return names
}

func TestFieldErrorText(t *testing.T) {
	event := &FieldError{Field: "Event.ID", Reason: "is bad"}
	require.EqualError(t, event, "outhook: Event.ID: is bad")
	require.ErrorIs(t, event, ErrInvalid)
	require.NotErrorIs(t, event, ErrBlocked)

	var f faults
	f.add("s1", "Keys[0]", "has %d bytes", 3)
	f.add("", "Event.ID", "is bad")
	require.EqualError(t, f.err(), "outhook: subscriber \"s1\": Keys[0]: has 3 bytes\nouthook: Event.ID: is bad")
	require.NoError(t, faults{}.err())
}

func TestEventFaults(t *testing.T) {
	labels := make(map[string]string)
	for i := range 33 {
		labels[strconv.Itoa(i)] = ""
	}
	for _, test := range []struct {
		name   string
		change func(*Event)
		want   []string
	}{
		{"none", func(*Event) {}, nil},
		{"ID empty", func(e *Event) { e.ID = "" }, []string{"Event.ID"}},
		{"ID of 64", func(e *Event) { e.ID = strings.Repeat("a", 64) }, nil},
		{"ID of 65", func(e *Event) { e.ID = strings.Repeat("a", 65) }, []string{"Event.ID"}},
		{"ID of all characters", func(e *Event) { e.ID = "azAZ09_-" }, nil},
		{"ID with slash", func(e *Event) { e.ID = "a/b" }, []string{"Event.ID"}},
		{"ID with full stop", func(e *Event) { e.ID = "a.b" }, []string{"Event.ID"}},
		{"ID not ASCII", func(e *Event) { e.ID = "é" }, []string{"Event.ID"}},
		{"type empty", func(e *Event) { e.Type = "" }, []string{"Event.Type"}},
		{"type of one segment", func(e *Event) { e.Type = "azAZ09_" }, nil},
		{"type of many segments", func(e *Event) { e.Type = "a.b.c.d" }, nil},
		{"type begins with full stop", func(e *Event) { e.Type = ".a" }, []string{"Event.Type"}},
		{"type ends in full stop", func(e *Event) { e.Type = "a." }, []string{"Event.Type"}},
		{"type with empty segment", func(e *Event) { e.Type = "a..b" }, []string{"Event.Type"}},
		{"type with hyphen", func(e *Event) { e.Type = "a-b" }, []string{"Event.Type"}},
		{"type with star", func(e *Event) { e.Type = "a.*" }, []string{"Event.Type"}},
		{"type with quote", func(e *Event) { e.Type = `a"b` }, []string{"Event.Type"}},
		{"type of 128", func(e *Event) { e.Type = strings.Repeat("a", 128) }, nil},
		{"type of 129", func(e *Event) { e.Type = strings.Repeat("a", 129) }, []string{"Event.Type"}},
		{"order key of 128", func(e *Event) { e.OrderKey = strings.Repeat("~", 128) }, nil},
		{"order key of 129", func(e *Event) { e.OrderKey = strings.Repeat("~", 129) }, []string{"Event.OrderKey"}},
		{"order key with space", func(e *Event) { e.OrderKey = "a b" }, []string{"Event.OrderKey"}},
		{"order key with DEL", func(e *Event) { e.OrderKey = "\x7f" }, []string{"Event.OrderKey"}},
		{"delay", func(e *Event) { e.Delay = time.Hour }, nil},
		{"delay negative", func(e *Event) { e.Delay = -1 }, []string{"Event.Delay"}},
		{"TTL negative", func(e *Event) { e.TTL = -1 }, []string{"Event.TTL"}},
		{"TTL as delay", func(e *Event) { e.TTL, e.Delay = 5, 5 }, []string{"Event.TTL"}},
		{"TTL above delay", func(e *Event) { e.TTL, e.Delay = 6, 5 }, nil},
		{"year 9999", func(e *Event) { e.Time = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }, nil},
		{"year 10000", func(e *Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, []string{"Event.Time"}},
		{"year 10000 in UTC", func(e *Event) {
			e.Time = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200))
		}, []string{"Event.Time"}},
		{"year 0", func(e *Event) { e.Time = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC) }, []string{"Event.Time"}},
		{"labels at the bounds", func(e *Event) {
			e.Labels = map[string]string{strings.Repeat("k", 64): strings.Repeat("v", 256)}
		}, nil},
		{"33 labels", func(e *Event) { e.Labels = labels }, []string{"Event.Labels"}},
		{"label key of 65", func(e *Event) { e.Labels = map[string]string{strings.Repeat("k", 65): ""} }, []string{"Event.Labels"}},
		{"label value of 257", func(e *Event) { e.Labels = map[string]string{"k": strings.Repeat("v", 257)} }, []string{"Event.Labels"}},
		{"label key not UTF-8", func(e *Event) { e.Labels = map[string]string{"\xe9": ""} }, []string{"Event.Labels"}},
		{"label value not UTF-8", func(e *Event) { e.Labels = map[string]string{"k": "\xe9"} }, []string{"Event.Labels"}},
		{"data no JSON", func(e *Event) { e.Data = math.NaN() }, []string{"Event.Data"}},
		{"data and payload", func(e *Event) { e.Data, e.Payload = 1, &Payload{} }, []string{"Event.Payload"}},
		{"payload", func(e *Event) { e.Payload = &Payload{ContentType: "text/plain", Header: http.Header{"Ce-Id": {"1"}}} }, nil},
		{"content type", func(e *Event) { e.Payload = &Payload{ContentType: "a\nb"} }, []string{"Event.Payload.ContentType"}},
		{"content type not UTF-8", func(e *Event) { e.Payload = &Payload{ContentType: "\xe9"} }, []string{"Event.Payload.ContentType"}},
		{"payload header", func(e *Event) { e.Payload = &Payload{Header: http.Header{"Host": {"x"}}} }, []string{"Event.Payload.Header"}},
		{"all at once", func(e *Event) { e.ID, e.Type, e.Delay = "", "", -1 }, []string{"Event.ID", "Event.Type", "Event.Delay"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			event := Event{ID: "e", Type: "x", Time: time.Unix(0, 0)}
			test.change(&event)
			var f faults
			c := newContent(event, false, 1000, &f)
			require.Equal(t, test.want, fields(f))
			require.Equal(t, test.want == nil, c.valid)
		})
	}
}

type panicsAsJSON struct{}

func (panicsAsJSON) MarshalJSON() ([]byte, error) { panic("value of the panic") }

func TestEventDataPanics(t *testing.T) {
	var f faults
	newContent(Event{ID: "e", Type: "x", Time: time.Now(), Data: panicsAsJSON{}}, false, 1000, &f)
	require.EqualError(t, f.err(), "outhook: Event.Data: panic in encoding")
}

func TestEventFaultIsClipped(t *testing.T) {
	var f faults
	newContent(Event{ID: strings.Repeat("/", 5000), Type: "x", Time: time.Now()}, false, 1000, &f)
	require.Less(t, len(f.err().Error()), 300)
}

func TestSendReportsAllFaults(t *testing.T) {
	d, err := New(NewMemoryStore(), nil)
	require.NoError(t, err)
	faulty := Subscriber{
		ID:          "a b",
		URL:         "http://example.com/",
		Events:      []string{"x", "x*", "*.x"},
		Header:      http.Header{"Host": {"x"}},
		Timeout:     16 * time.Second,
		Concurrency: -1,
	}
	receipt, err := d.Send(t.Context(), Event{ID: "/", Type: "x"}, []Subscriber{faulty, subscriber("b"), subscriber("b")})
	require.ErrorIs(t, err, ErrInvalid)
	require.Equal(t, Receipt{EventID: "/"}, receipt)
	joined, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err)
	require.True(t, ok)
	require.Equal(t, []string{
		"Event.ID", "ID", "Events[1]", "Events[2]", "URL", "Keys", "Header", "Timeout", "Concurrency", "ID",
	}, fields(joined.Unwrap()))
}

var patterns = []struct {
	pattern, eventType string
	valid, match       bool
}{
	{"invoice.paid", "invoice.paid", true, true},
	{"invoice.paid", "invoice.paid.late", true, false},
	{"invoice.paid", "invoice.paidx", true, false},
	{"invoice.paid", "invoice", true, false},
	{"invoice.paid", "Invoice.paid", true, false},
	{"invoice.*", "invoice.paid", true, true},
	{"invoice.*", "invoice.paid.late.twice", true, true},
	{"invoice.*", "invoice", true, false},
	{"invoice.*", "invoices.paid", true, false},
	{"invoice.*", "other.invoice.paid", true, false},
	{"a.b.*", "a.b.c", true, true},
	{"a.b.*", "a.x.c", true, false},
	{"*", "invoice", true, true},
	{"*", "invoice.paid", true, true},
	{"", "x", false, false},
	{".*", "x", false, false},
	{"*.paid", "invoice.paid", false, false},
	{"in*", "invoice", false, false},
	{"invoice.*.late", "invoice.paid.late", false, false},
	{"a.*.*", "a.b.c", false, false},
	{"**", "x", false, false},
}

func TestPatterns(t *testing.T) {
	for _, test := range patterns {
		t.Run(test.pattern+" "+test.eventType, func(t *testing.T) {
			require.Equal(t, test.valid, validPattern(test.pattern))
			s := Subscriber{Events: []string{"other", test.pattern}}
			if test.valid {
				require.Equal(t, test.match, s.wants(test.eventType))
			}
		})
	}
	require.True(t, new(Subscriber).wants("x"), "no patterns: all")
}

func TestEnvelope(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 120_000_000, time.FixedZone("", 3600))
	for _, test := range []struct {
		name string
		data any
		want string
	}{
		{"object", map[string]any{"b": 1, "a": "<&>"}, `{"type":"a.b","timestamp":"2026-02-03T03:05:06.12Z","data":{"a":"\u003c\u0026\u003e","b":1}}`},
		{"nil", nil, `{"type":"a.b","timestamp":"2026-02-03T03:05:06.12Z","data":null}`},
		{"string", "é", `{"type":"a.b","timestamp":"2026-02-03T03:05:06.12Z","data":"é"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f faults
			c := newContent(Event{ID: "e", Type: "a.b", Time: at, Data: test.data}, true, 1000, &f)
			require.Equal(t, test.want, string(c.body(1000, &f).Body))
			require.Same(t, c.body(1000, &f), c.body(1000, &f), "one payload for all")
			require.NoError(t, f.err())
		})
	}
}

func TestPayloadIsSentAsItIs(t *testing.T) {
	p := &Payload{Body: []byte("\x00not JSON")}
	var f faults
	c := newContent(Event{ID: "e", Type: "x", Time: time.Now(), Payload: p}, false, 1000, &f)
	require.Same(t, p, c.body(1000, &f))
	require.NoError(t, f.err())
}

func TestDigest(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	header := func(h http.Header) *Event {
		return &Event{Type: "x", Payload: &Payload{Header: h, Body: []byte("b")}}
	}
	base := &Event{Type: "x", Data: "d"}
	for _, test := range []struct {
		name string
		a, b *Event
		same bool
	}{
		{"repeated", base, &Event{Type: "x", Data: "d"}, true},
		{"other ID", base, &Event{ID: "other", Type: "x", Data: "d"}, true}, // the store compares those of one ID
		{"type", base, &Event{Type: "y", Data: "d"}, false},
		{"data", base, &Event{Type: "x", Data: "e"}, false},
		{"type and data run together", &Event{Type: "x1", Data: 2}, &Event{Type: "x", Data: 12}, false},
		{"explicit time or not", base, &Event{Type: "x", Data: "d", Time: at}, false},
		{"explicit times", &Event{Type: "x", Data: "d", Time: at}, &Event{Type: "x", Data: "d", Time: at.Add(1)}, false},
		{"one instant in two zones", &Event{Type: "x", Data: "d", Time: at}, &Event{Type: "x", Data: "d", Time: at.In(time.FixedZone("", 60))}, true},
		{"labels", base, &Event{Type: "x", Data: "d", Labels: map[string]string{"a": "b"}}, true},
		{"TTL, delay and order", base, &Event{Type: "x", Data: "d", TTL: 2, Delay: 1, OrderKey: "o"}, true},
		{"payload body", &Event{Type: "x", Payload: &Payload{Body: []byte("a")}}, &Event{Type: "x", Payload: &Payload{Body: []byte("b")}}, false},
		{"payload content type", &Event{Type: "x", Payload: &Payload{}}, &Event{Type: "x", Payload: &Payload{ContentType: "a"}}, false},
		{"payload header", header(http.Header{"A": {"1"}}), header(http.Header{"A": {"2"}}), false},
		{"payload header repeated", header(http.Header{"A": {"1"}, "B": {"2"}}), header(http.Header{"B": {"2"}, "A": {"1"}}), true},
		{"header values run into names", header(http.Header{"A": {"B", "C", "D"}}), header(http.Header{"A": {"B"}, "C": {"D"}}), false},
		{"payload or data", &Event{Type: "x", Data: 1}, &Event{Type: "x", Payload: &Payload{ContentType: "1"}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := digestOf(t, *test.a), digestOf(t, *test.b)
			require.Equal(t, test.same, a == b)
		})
	}
}

// digestOf returns the digest that Send gives a delivery of an event.
func digestOf(t *testing.T, event Event) [32]byte {
	t.Helper()
	d, err := New(NewMemoryStore(), nil)
	require.NoError(t, err)
	var c catcher
	_, err = d.Via(&c).Send(t.Context(), event, []Subscriber{subscriber("a")})
	require.NoError(t, err)
	return c.deliveries[0].Digest
}

func TestSendAgain(t *testing.T) {
	for _, test := range []struct {
		name          string
		first, second Event
		conflict      bool
	}{
		{"at another time, by default", Event{Data: 1}, Event{Data: 1}, false},
		{"other data", Event{Data: 1}, Event{Data: 2}, true},
		{"another explicit time", Event{Time: time.Unix(1, 0)}, Event{Time: time.Unix(2, 0)}, true},
		{"an explicit time as well", Event{}, Event{Time: time.Unix(2, 0)}, true},
		{"other labels and TTL", Event{}, Event{Labels: map[string]string{"a": "b"}, TTL: time.Hour}, false},
	} {
		bubble(t, test.name, func(t *testing.T) {
			d, err := New(NewMemoryStore(), nil)
			require.NoError(t, err)
			test.first.ID, test.first.Type, test.second.ID, test.second.Type = "e", "x", "e", "x"
			_, err = d.Send(t.Context(), test.first, []Subscriber{subscriber("a")})
			require.NoError(t, err)
			time.Sleep(time.Second) // of the bubble
			receipt, err := d.Send(t.Context(), test.second, []Subscriber{subscriber("a")})
			if test.conflict {
				require.ErrorIs(t, err, ErrConflict)
				return
			}
			require.NoError(t, err)
			require.Equal(t, Receipt{EventID: "e", Known: []string{"a"}}, receipt)
		})
	}
}

func TestMaxPayload(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const limit = 100
	overhead := len(envelope("x", at, nil)) + len(`""`)
	bytes := func(n int) *Payload { return &Payload{Body: make([]byte, n)} }
	for _, test := range []struct {
		name string
		of   func(n int) (Event, Subscriber)
		want string
	}{
		{"data", func(n int) (Event, Subscriber) {
			return Event{Data: strings.Repeat("a", n-overhead)}, subscriber("s")
		}, "outhook: Event.Data: a body of 101 bytes is above the limit of 100"},
		{"payload", func(n int) (Event, Subscriber) {
			return Event{Payload: bytes(n)}, subscriber("s")
		}, "outhook: Event.Payload: a body of 101 bytes is above the limit of 100"},
		{"encoded", func(n int) (Event, Subscriber) {
			s := subscriber("s")
			s.Encode = func(Event) (*Payload, error) { return bytes(n), nil }
			return Event{}, s
		}, `outhook: subscriber "s": Encode: a body of 101 bytes is above the limit of 100`},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := New(NewMemoryStore(), &Options{MaxPayload: limit})
			require.NoError(t, err)
			var c catcher
			trySize := func(n int) error {
				event, s := test.of(n)
				event.Type, event.Time = "x", at
				_, err := d.Via(&c).Send(t.Context(), event, []Subscriber{s})
				return err
			}
			require.NoError(t, trySize(limit))
			require.Len(t, c.deliveries[0].Payload.Body, limit)
			require.EqualError(t, trySize(limit+1), test.want)
		})
	}
}

func TestDecode(t *testing.T) {
	type invoice struct {
		Number int
	}
	for _, test := range []struct {
		name, body string
		want       invoice
		fault      string
	}{
		{"envelope", `{"type":"x","timestamp":"2026-01-01T00:00:00Z","data":{"number":7,"unknown":1}}`, invoice{7}, ""},
		{"empty data", `{"data":{}}`, invoice{}, ""},
		{"no data", `{"type":"x"}`, invoice{}, `outhook: decode event "e": the payload has no data`},
		{"data null", `{"data":null}`, invoice{}, ""},
		{"other type", `{"data":"text"}`, invoice{}, `outhook: decode event "e": json: cannot unmarshal string`},
		{"array", `[]`, invoice{}, `outhook: decode event "e": json: cannot unmarshal array`},
		{"no JSON", `{"data":`, invoice{}, `outhook: decode event "e": unexpected end of JSON input`},
		{"two values", `{"data":{}}{}`, invoice{}, `outhook: decode event "e": invalid character '{' after top-level value`},
		{"empty", ``, invoice{}, `outhook: decode event "e": unexpected end of JSON input`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Decode[invoice](Event{ID: "e", Payload: &Payload{Body: []byte(test.body)}})
			if test.fault != "" {
				require.ErrorContains(t, err, test.fault)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, test.want, got)
		})
	}
	_, err := Decode[int](Event{ID: "e", Data: 1})
	require.EqualError(t, err, `outhook: decode event "e": no payload`)
}

func TestEncode(t *testing.T) {
	shaped := &Payload{ContentType: "text/plain", Body: []byte("shaped")}
	for _, test := range []struct {
		name     string
		encode   func(Event) (*Payload, error)
		payload  *Payload
		filtered []string
		fault    string
	}{
		{"payload", func(Event) (*Payload, error) { return shaped, nil }, shaped, nil, ""},
		{"not for it", func(Event) (*Payload, error) { return nil, nil }, nil, []string{"a"}, ""},
		{"error", func(Event) (*Payload, error) { return nil, errors.New("no") }, nil, nil, `outhook: subscriber "a": Encode: no`},
		{"header", func(Event) (*Payload, error) { return &Payload{Header: http.Header{"Te": {"x"}}}, nil }, nil, nil,
			`outhook: subscriber "a": Encode.Header: Te may not be set`},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := New(NewMemoryStore(), nil)
			require.NoError(t, err)
			var c catcher
			s := subscriber("a")
			s.Encode = test.encode
			receipt, err := d.Via(&c).Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
			if test.fault != "" {
				require.EqualError(t, err, test.fault)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.filtered, receipt.Filtered)
			if test.payload != nil {
				require.Same(t, test.payload, c.deliveries[0].Payload)
			} else {
				require.Empty(t, c.deliveries)
			}
		})
	}
}

func TestSubscriberOrdered(t *testing.T) {
	d, err := New(NewMemoryStore(), nil)
	require.NoError(t, err)
	s := subscriber("a")
	s.Ordered, s.HoldOnDead = true, true
	got := enqueued(t, d, "e", s, subscriber("b"))
	require.Equal(t, []string{"*", ""}, []string{got[0].OrderKey, got[1].OrderKey})
	require.Equal(t, []bool{true, false}, []bool{got[0].HoldOnDead, got[1].HoldOnDead})
}

func TestDeliveryIDString(t *testing.T) {
	require.Equal(t, "e/s", DeliveryID{"e", "s"}.String())
}
