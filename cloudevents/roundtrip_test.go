package cloudevents_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/cloudevents"
	"github.com/stretchr/testify/require"
)

// TestRoundTrip sends events and compares what the SDK reads of the requests.
func TestRoundTrip(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	type order struct {
		Number string `json:"number"`
		Cents  int    `json:"cents"`
	}
	for _, test := range []struct {
		name    string
		data    any
		payload *outhook.Payload
		want    string // the data
		ct      string
	}{
		{"ASCII", order{"R-17", 4200}, nil, `{"number":"R-17","cents":4200}`, "application/json"},
		{"UTF-8", order{"grüße, 世界 🎉", 1}, nil, `{"number":"grüße, 世界 🎉","cents":1}`, "application/json"},
		{"empty object", struct{}{}, nil, `{}`, "application/json"},
		{"no data", nil, nil, `null`, "application/json"},
		{"string", "hello", nil, `"hello"`, "application/json"},
		{"special characters", map[string]string{"html": "<a href=\"x\">&\u2028"}, nil,
			`{"html":"\u003ca href=\"x\"\u003e\u0026\u2028"}`, "application/json"},
		{"JSON payload", nil, &outhook.Payload{Body: []byte("{\"html\": \"<&>\",\n\t\"n\": 1.50}")},
			"{\"html\": \"<&>\",\n\t\"n\": 1.50}", "application/json"},
		{"JSON payload with charset", nil, &outhook.Payload{ContentType: "application/json; charset=utf-8", Body: []byte(`[1]`)},
			`[1]`, "application/json; charset=utf-8"},
		{"text/json", nil, &outhook.Payload{ContentType: "text/json", Body: []byte(`{"a":1}`)}, `{"a":1}`, "text/json"},
		{"+json", nil, &outhook.Payload{ContentType: "application/vnd.shop+json", Body: []byte(`{"a":1}`)},
			`{"a":1}`, "application/vnd.shop+json"},
		{"text", nil, &outhook.Payload{ContentType: "text/plain; charset=utf-8", Body: []byte("grüße\r\n")},
			"grüße\r\n", "text/plain; charset=utf-8"},
		{"no UTF-8", nil, &outhook.Payload{ContentType: "text/plain; charset=iso-8859-1", Body: []byte("gr\xfc\xdfe")},
			"gr\xfc\xdfe", "text/plain; charset=iso-8859-1"},
		{"bytes", nil, &outhook.Payload{ContentType: "application/octet-stream", Body: every}, string(every), "application/octet-stream"},
	} {
		for _, mode := range modes(&encoder) {
			t.Run(test.name+"/"+mode.name, func(t *testing.T) {
				event := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened, Data: test.data, Payload: test.payload}
				old, key := outhook.GenerateKey(), outhook.GenerateKey()
				got := deliver(t, event, outhook.Subscriber{Keys: []outhook.Key{key, old}, Encode: mode.encode})

				require.NoError(t, got.event.Validate())
				require.Equal(t, "1.0", got.event.SpecVersion())
				require.Equal(t, "e-1", got.event.ID())
				require.Equal(t, "https://shop.example/eu", got.event.Source())
				require.Equal(t, "example.shop.order.paid", got.event.Type())
				require.Equal(t, happened.UTC(), got.event.Time())
				require.Equal(t, test.ct, got.event.DataContentType())
				require.Equal(t, test.want, string(got.event.Data()))
				require.Empty(t, got.event.Subject())
				require.Empty(t, got.event.DataSchema())
				require.Empty(t, got.event.Extensions())

				if mode.name == "structured" {
					require.Equal(t, "application/cloudevents+json", got.header.Get("Content-Type"))
					require.True(t, json.Valid(got.body))
				} else {
					require.Equal(t, test.ct, got.header.Get("Content-Type"))
					require.Equal(t, test.want, string(got.body))
				}
				require.Equal(t, "e-1", got.header.Get("Webhook-Id"))
				for _, k := range []outhook.Key{key, old} {
					require.NoError(t, (&outhook.Verifier{Keys: []outhook.Key{k}}).Verify(got.header, got.body))
				}
				flipped := bytes.Clone(got.body)
				flipped[len(flipped)/2] ^= 1
				require.ErrorIs(t, (&outhook.Verifier{Keys: []outhook.Key{key}}).Verify(got.header, flipped), outhook.ErrSignature)
			})
		}
	}
}

func TestRoundTripDefaults(t *testing.T) {
	for _, mode := range modes(&encoder) {
		t.Run(mode.name, func(t *testing.T) {
			got := deliver(t, outhook.Event{Type: "order.paid"}, outhook.Subscriber{Unsigned: true, Encode: mode.encode})
			require.NoError(t, got.event.Validate())
			require.Len(t, got.event.ID(), len("0190a6f2-5c3e-7d2a-9b1e-3f6f0c8f1a77"), "that which Send has made")
			require.WithinDuration(t, time.Now(), got.event.Time(), time.Hour, "that of Send")
		})
	}
}

// TestRoundTripLargest fills the body up to the limit of the library.
func TestRoundTripLargest(t *testing.T) {
	for _, mode := range modes(&encoder) {
		for _, kind := range []string{"", "application/octet-stream"} {
			t.Run(mode.name+"/"+kind, func(t *testing.T) {
				event := func(n int) outhook.Event {
					e := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened}
					if kind == "" {
						e.Data = strings.Repeat("x", n)
					} else {
						e.Payload = &outhook.Payload{ContentType: kind, Body: bytes.Repeat([]byte{0xff}, n)}
					}
					return e
				}
				size := func(n int) int {
					payload, err := mode.encode(event(n))
					require.NoError(t, err)
					return len(payload.Body)
				}
				n := limit - size(3) + 3 // 3: no padding
				if kind != "" && mode.name == "structured" {
					n = (limit - size(3) + 4) / 4 * 3 // base64
				}
				require.LessOrEqual(t, size(n), limit)
				require.Greater(t, size(n+1), limit)

				key := outhook.GenerateKey()
				subscriber := outhook.Subscriber{Keys: []outhook.Key{key}, Encode: mode.encode}
				got := deliver(t, event(n), subscriber)
				want := event(n)
				data := got.event.Data()
				if kind == "" {
					var s string
					require.NoError(t, got.event.DataAs(&s))
					require.True(t, s == want.Data, "the data of %d bytes", n)
				} else {
					require.True(t, bytes.Equal(data, want.Payload.Body), "the data of %d bytes", n)
				}
				require.NoError(t, (&outhook.Verifier{Keys: []outhook.Key{key}}).Verify(got.header, got.body))

				subscriber.ID, subscriber.URL = "s", "http://127.0.0.1:9"
				_, err := dispatcher(t).Send(t.Context(), event(n+1), []outhook.Subscriber{subscriber})
				require.ErrorIs(t, err, outhook.ErrInvalid)
				require.ErrorContains(t, err, "limit")
				t.Logf("%d bytes of data in %d", n, len(got.body))
			})
		}
	}
}

func TestRoundTripAttributes(t *testing.T) {
	e := encoder
	e.Attributes = func(event outhook.Event) (cloudevents.Attributes, error) {
		return cloudevents.Attributes{
			Subject:    "order-" + event.Data.(string),
			DataSchema: "https://shop.example/schemas/order.json",
			Extensions: map[string]any{
				"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
				"sequence":    17,
				"test":        true,
				"seal":        []byte{0, 1, 0xff},
				"paidat":      happened,
				"empty":       "",
			},
		}, nil
	}
	want := map[string]string{ // as binary mode has them, and the SDK formats them
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"sequence":    "17",
		"test":        "true",
		"seal":        "AAH/",
		"paidat":      "2026-02-03T02:05:06.789000001Z",
		"empty":       "",
	}
	for _, mode := range modes(&e) {
		t.Run(mode.name, func(t *testing.T) {
			got := deliver(t, outhook.Event{Type: "order.paid", Data: "17"}, outhook.Subscriber{Unsigned: true, Encode: mode.encode})
			require.NoError(t, got.event.Validate())
			require.Equal(t, "order-17", got.event.Subject())
			require.Equal(t, "https://shop.example/schemas/order.json", got.event.DataSchema())
			formatted := make(map[string]string)
			for name, value := range got.event.Extensions() {
				s, err := types.Format(value)
				require.NoError(t, err)
				formatted[name] = s
			}
			require.Equal(t, want, formatted)
			if mode.name == "structured" { // keeps the types of JSON
				require.Equal(t, true, got.event.Extensions()["test"])
				require.EqualValues(t, 17, got.event.Extensions()["sequence"])
			}
		})
	}
}

// TestRoundTripText sends a subject that headers have to encode.
func TestRoundTripText(t *testing.T) {
	const subject = "Euro € 😀 100% \"x\"\\"
	e := encoder
	e.Attributes = func(outhook.Event) (cloudevents.Attributes, error) {
		return cloudevents.Attributes{Subject: subject, Extensions: map[string]any{"note": subject}}, nil
	}
	got := deliver(t, outhook.Event{Type: "order.paid"}, outhook.Subscriber{Unsigned: true, Encode: e.Structured})
	require.Equal(t, subject, got.event.Subject())
	require.Equal(t, subject, got.event.Extensions()["note"])

	// The SDK shows the header as it is; the first part is the specification's example.
	const encoded = `Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25%20%22x%22\`
	got = deliver(t, outhook.Event{Type: "order.paid"}, outhook.Subscriber{Unsigned: true, Encode: e.Binary})
	require.Equal(t, encoded, got.event.Subject())
	require.Equal(t, encoded, got.event.Extensions()["note"])
	require.Equal(t, []string{encoded}, got.header["Ce-Subject"])
}

// TestRoundTripHeader shows which headers of a Payload come with it.
func TestRoundTripHeader(t *testing.T) {
	payload := &outhook.Payload{ContentType: "text/plain", Header: http.Header{"x-digest": {"abc"}}, Body: []byte("hello")}
	event := outhook.Event{Type: "order.paid", Payload: payload}
	got := deliver(t, event, outhook.Subscriber{Unsigned: true, Encode: encoder.Binary})
	require.Equal(t, "abc", got.header.Get("X-Digest"))
	require.Equal(t, "example.shop.order.paid", got.header.Get("Ce-Type"))
	require.NotContains(t, got.header, "Ce-Datacontenttype", "section 3.1.1")
	got = deliver(t, event, outhook.Subscriber{Unsigned: true, Encode: encoder.Structured})
	require.NotContains(t, got.header, "X-Digest")
	require.Equal(t, http.Header{"x-digest": {"abc"}}, payload.Header, "is left as it is")
}

// TestModesTogether sends one event in both modes and in none.
func TestModesTogether(t *testing.T) {
	d := dispatcher(t)
	event := outhook.Event{Type: "order.paid", Data: 1}
	_, err := d.Send(t.Context(), event, []outhook.Subscriber{
		{ID: "a", URL: "http://127.0.0.1:9", Unsigned: true, Encode: encoder.Structured},
		{ID: "b", URL: "http://127.0.0.1:9", Unsigned: true, Encode: encoder.Binary},
		{ID: "c", URL: "http://127.0.0.1:9", Unsigned: true},
	})
	require.NoError(t, err)
	bodies := make(map[string]string)
	for record, err := range d.List(t.Context(), outhook.Filter{}) {
		require.NoError(t, err)
		record, err = d.Get(t.Context(), record.ID)
		require.NoError(t, err)
		bodies[record.ID.Subscriber] = string(record.Payload.Body)
	}
	require.Equal(t, "1", bodies["b"])
	require.Contains(t, bodies["c"], `"timestamp"`)
	var c ce.Event
	require.NoError(t, json.Unmarshal([]byte(bodies["a"]), &c))
	require.Equal(t, "1", string(c.Data()))
}
