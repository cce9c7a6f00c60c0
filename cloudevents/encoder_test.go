package cloudevents_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/binding"
	ce "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/cloudevents"
	"github.com/stretchr/testify/require"
)

// read lets the SDK read a payload.
func read(t *testing.T, p *outhook.Payload) *ce.Event {
	t.Helper()
	header := p.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	header.Set("Content-Type", p.ContentType)
	event, err := binding.ToEvent(context.Background(), cehttp.NewMessage(header, io.NopCloser(bytes.NewReader(p.Body))))
	require.NoError(t, err)
	return event
}

// attributes returns an Encoder whose optional attributes are these.
func attributes(a cloudevents.Attributes) cloudevents.Encoder {
	e := encoder
	e.Attributes = func(outhook.Event) (cloudevents.Attributes, error) { return a, nil }
	return e
}

func extension(name string, value any) cloudevents.Encoder {
	return attributes(cloudevents.Attributes{Extensions: map[string]any{name: value}})
}

func TestEncoderFaults(t *testing.T) {
	good := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened}
	with := func(change func(*outhook.Event)) outhook.Event {
		event := good
		change(&event)
		return event
	}
	payload := func(contentType, body string) outhook.Event {
		return with(func(e *outhook.Event) { e.Payload = &outhook.Payload{ContentType: contentType, Body: []byte(body)} })
	}
	half := 1.5
	for _, test := range []struct {
		name      string
		encoder   cloudevents.Encoder
		event     outhook.Event
		attribute string // empty: none is faulty
		mode      string // empty: both
	}{
		{"nothing", encoder, good, "", ""},
		{"no source", cloudevents.Encoder{}, good, "source", ""},
		{"source of spaces", cloudevents.Encoder{Source: " "}, good, "source", ""},
		{"source that is no URI", cloudevents.Encoder{Source: "https://[::1"}, good, "source", ""},
		{"source with a line feed", cloudevents.Encoder{Source: "/a\nb"}, good, "source", ""},
		{"relative source", cloudevents.Encoder{Source: "/orders"}, good, "", ""},
		{"URN", cloudevents.Encoder{Source: "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"}, good, "", ""},
		{"type prefix with a line feed", cloudevents.Encoder{Source: "/", TypePrefix: "a\r\nb: "}, good, "type", ""},
		{"no ID", encoder, with(func(e *outhook.Event) { e.ID = "" }), "id", ""},
		{"no type", cloudevents.Encoder{Source: "/"}, with(func(e *outhook.Event) { e.Type = "" }), "type", ""},
		{"no time", encoder, with(func(e *outhook.Event) { e.Time = time.Time{} }), "time", ""},

		{"subject", attributes(cloudevents.Attributes{Subject: "a"}), good, "", ""},
		{"subject of spaces", attributes(cloudevents.Attributes{Subject: " "}), good, "subject", ""},
		{"subject with NUL", attributes(cloudevents.Attributes{Subject: "a\x00"}), good, "subject", ""},
		{"subject with C1", attributes(cloudevents.Attributes{Subject: "a\u0085"}), good, "subject", ""},
		{"subject with a noncharacter", attributes(cloudevents.Attributes{Subject: "a\ufdd0"}), good, "subject", ""},
		{"subject with the last noncharacter", attributes(cloudevents.Attributes{Subject: "\U0010ffff"}), good, "subject", ""},
		{"subject that is not UTF-8", attributes(cloudevents.Attributes{Subject: "\xff"}), good, "subject", ""},
		{"relative schema", attributes(cloudevents.Attributes{DataSchema: "/a"}), good, "dataschema", ""},
		{"schema that is no URI", attributes(cloudevents.Attributes{DataSchema: "https://[::1"}), good, "dataschema", ""},

		{"extension of a core name", extension("id", "x"), good, "id", ""},
		{"extension called data", extension("data", "x"), good, "data", ""},
		{"extension of another core name", extension("specversion", "0.3"), good, "specversion", ""},
		{"upper-case extension", extension("Tenant", "x"), good, "Tenant", ""},
		{"extension with an underscore", extension("data_base64", "x"), good, "data_base64", ""},
		{"nameless extension", extension("", "x"), good, "", "nameless"},
		{"extension not ASCII", extension("größe", "x"), good, "größe", ""},
		{"fraction", extension("n", half), good, "n", ""},
		{"pointer to a fraction", extension("n", &half), good, "n", ""},
		{"integer of 33 bits", extension("n", int64(math.MaxInt32)+1), good, "n", ""},
		{"integer of 32 bits", extension("n", int64(math.MinInt32)), good, "", ""},
		{"nil", extension("n", nil), good, "n", ""},
		{"nil URI", extension("n", (*types.URI)(nil)), good, "n", ""},
		{"struct", extension("n", struct{}{}), good, "n", ""},
		{"map", extension("n", map[string]string{}), good, "n", ""},
		{"text with a line feed", extension("n", "a\r\nx: y"), good, "n", ""},

		{"content type that is none", encoder, payload("json!", `{}`), "datacontenttype", ""},
		{"content type with a line feed", encoder, payload("text/plain\r\nx: y", `{}`), "datacontenttype", ""},
		{"not JSON", encoder, payload("", `hello`), "data", "structured"},
		{"nothing, as JSON", encoder, payload("", ``), "data", ""},
		{"data that goes on with attributes", encoder, payload("", `{},"id":"evil","x":{}`), "data", "structured"},
		{"data that goes on, with charset", encoder, payload("TEXT/JSON ; charset=utf-8", `{},"id":"evil","x":{}`), "data", "structured"},
		{"JSON that is not UTF-8", encoder, payload("application/json", "\"\xff\""), "data", "structured"},
		{"nothing, as text", encoder, payload("text/plain", ""), "data", "binary"},
		{"CloudEvent", encoder, payload("application/cloudevents+json", `{}`), "datacontenttype", "binary"},
		{"batch of CloudEvents", encoder, payload("Application/CloudEvents-Batch+json; charset=utf-8", `[]`), "datacontenttype", "binary"},
		{"headers of attributes", encoder, with(func(e *outhook.Event) {
			e.Payload = &outhook.Payload{Header: http.Header{"ce-id": {"evil"}}, Body: []byte("{}")}
		}), "data", "binary"},
	} {
		for _, mode := range modes(&test.encoder) {
			t.Run(test.name+"/"+mode.name, func(t *testing.T) {
				payload, err := mode.encode(test.event)
				faulty := test.attribute != "" || test.mode == "nameless"
				if !faulty || test.mode == "structured" && mode.name == "binary" || test.mode == "binary" && mode.name == "structured" {
					require.NoError(t, err)
					event := read(t, payload)
					require.NoError(t, event.Validate())
					require.Equal(t, "e-1", event.ID())
					return
				}
				require.Nil(t, payload)
				require.ErrorIs(t, err, outhook.ErrInvalid)
				fault, ok := errors.AsType[*cloudevents.AttributeError](err)
				require.True(t, ok)
				require.Equal(t, test.attribute, fault.Attribute, err)
				require.NotContains(t, err.Error(), "evil", "the data is not repeated")
			})
		}
	}
}

// TestEncoderFaultsAtOnce shows that all faults are told, in order.
func TestEncoderFaultsAtOnce(t *testing.T) {
	e := attributes(cloudevents.Attributes{Subject: "\n", Extensions: map[string]any{"Tenant": "x", "n": 1.5}})
	e.Source = ""
	for _, mode := range modes(&e) {
		for range 10 { // maps have no order
			_, err := mode.encode(outhook.Event{ID: "e-1", Type: "order.paid"})
			var names []string
			for line := range strings.SplitSeq(err.Error(), "\n") {
				name, ok := strings.CutPrefix(line, "cloudevents: ")
				require.True(t, ok, line)
				names = append(names, name[:strings.Index(name, ":")])
			}
			require.Equal(t, []string{"Tenant", "n", "source", "subject", "time"}, names)
		}
	}
}

// TestEncoderFaultTexts: of two faults of one attribute, the closer one is told.
func TestEncoderFaultTexts(t *testing.T) {
	event := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened}
	e := cloudevents.Encoder{Source: "https://[::1"}
	for _, mode := range modes(&e) {
		_, err := mode.encode(event)
		require.EqualError(t, err, "cloudevents: source: is no URI-reference")
	}
	event.Payload = &outhook.Payload{ContentType: "json!"}
	_, err := encoder.Binary(event)
	require.EqualError(t, err, "cloudevents: data: is empty\ncloudevents: datacontenttype: is no media type")
}

func TestEncoderFailures(t *testing.T) {
	refused := errors.New("no such order")
	e := encoder
	e.Attributes = func(outhook.Event) (cloudevents.Attributes, error) { return cloudevents.Attributes{}, refused }
	unmarshalable := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened, Data: make(chan int)}
	for _, mode := range modes(&e) {
		_, err := mode.encode(outhook.Event{ID: "e-1", Type: "order.paid", Time: happened})
		require.ErrorIs(t, err, refused)
	}
	for _, mode := range modes(&encoder) {
		_, err := mode.encode(unmarshalable)
		require.ErrorContains(t, err, "cloudevents: data: ")
	}
}

// TestSendNamesTheAttribute shows what the caller of Send sees, and that nothing is
// stored then.
func TestSendNamesTheAttribute(t *testing.T) {
	d := dispatcher(t)
	_, err := d.Send(t.Context(), outhook.Event{Type: "order.paid"}, []outhook.Subscriber{
		{ID: "good", URL: "http://127.0.0.1:9", Unsigned: true, Encode: encoder.Binary},
		{ID: "faulty", URL: "http://127.0.0.1:9", Unsigned: true, Encode: new(cloudevents.Encoder).Binary},
	})
	fault, ok := errors.AsType[*outhook.FieldError](err)
	require.True(t, ok)
	require.Equal(t, "faulty", fault.Subscriber)
	require.Equal(t, "Encode", fault.Field)
	require.Contains(t, fault.Reason, "cloudevents: source: ")
	stats, err := d.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, stats.Pending)
}

// TestEncoderLeavesTheDataAlone changes event and payload afterwards, each of
// which must leave the other as it was.
func TestEncoderLeavesTheDataAlone(t *testing.T) {
	for _, mode := range modes(&encoder) {
		t.Run(mode.name, func(t *testing.T) {
			data := map[string]any{"items": []string{"a", "b"}}
			event := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened, Data: data, Labels: map[string]string{"tenant": "1"}}
			payload, err := mode.encode(event)
			require.NoError(t, err)
			require.Equal(t, map[string]any{"items": []string{"a", "b"}}, data)
			require.Equal(t, map[string]string{"tenant": "1"}, event.Labels)
			data["items"].([]string)[0] = "changed"
			require.Equal(t, `{"items":["a","b"]}`, string(read(t, payload).Data()))

			given := &outhook.Payload{ContentType: "text/plain", Header: http.Header{"X-Digest": {"abc"}}, Body: []byte("hello")}
			event = outhook.Event{ID: "e-1", Type: "order.paid", Time: happened, Payload: given}
			payload, err = mode.encode(event)
			require.NoError(t, err)
			if payload.Header == nil {
				payload.Header = make(http.Header)
			}
			payload.Header.Set("X-Digest", "changed")
			require.Equal(t, &outhook.Payload{ContentType: "text/plain", Header: http.Header{"X-Digest": {"abc"}}, Body: []byte("hello")}, given)
		})
	}
}

// TestEncoderIsDeterministic: all subscribers of an event get the same.
func TestEncoderIsDeterministic(t *testing.T) {
	e := attributes(cloudevents.Attributes{Extensions: map[string]any{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}})
	event := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened, Data: map[string]int{"a": 1, "b": 2}}
	for _, mode := range modes(&e) {
		want, err := mode.encode(event)
		require.NoError(t, err)
		var wg sync.WaitGroup
		got := make([]*outhook.Payload, 8)
		for i := range got {
			wg.Go(func() { got[i], _ = mode.encode(event) }) // nil, if there is an error
		}
		wg.Wait()
		for _, payload := range got {
			require.Equal(t, want, payload)
		}
	}
}

// FuzzEncoder: whatever a payload holds, it changes no attribute, and arrives as it
// was; and headers hold nothing but printable ASCII.
func FuzzEncoder(f *testing.F) {
	f.Add("application/json", []byte(`{},"id":"evil"`), "a")
	f.Add("text/plain; charset=utf-8", []byte("\xff"), "Euro € 😀")
	f.Add("application/vnd.x+json", []byte(`{"a":1}`), "%20\"")
	f.Add("text/json;", []byte(" null\n"), "\\")
	f.Add("teXt/json", []byte(" null\n"), "\\")
	f.Add("", []byte("{}"), "")
	f.Fuzz(func(t *testing.T, contentType string, body []byte, subject string) {
		e := attributes(cloudevents.Attributes{Subject: subject, Extensions: map[string]any{"note": subject}})
		given := outhook.Event{ID: "e-1", Type: "order.paid", Time: happened,
			Payload: &outhook.Payload{ContentType: contentType, Body: body}}
		if payload, err := e.Structured(given); err == nil {
			event := read(t, payload)
			require.Equal(t, "e-1", event.ID())
			require.Equal(t, "https://shop.example/eu", event.Source())
			require.Equal(t, subject, event.Subject())
			require.Equal(t, map[string]any{"note": subject}, event.Extensions())
			want := bytes.Trim(body, " \t\r\n")
			if got := bytes.Trim(event.Data(), " \t\r\n"); len(got) > 0 || string(want) != "null" { // which the SDK may take for no data
				require.Equal(t, want, got)
			}
			require.True(t, utf8.Valid(payload.Body))
		}
		if payload, err := e.Binary(given); err == nil {
			require.Equal(t, body, payload.Body)
			names := slices.Sorted(maps.Keys(payload.Header))
			want := []string{"Ce-Id", "Ce-Note", "Ce-Source", "Ce-Specversion", "Ce-Subject", "Ce-Time", "Ce-Type"}
			if subject == "" {
				want = slices.DeleteFunc(want, func(s string) bool { return s == "Ce-Subject" })
			}
			require.Equal(t, want, names)
			require.Equal(t, "e-1", payload.Header.Get("Ce-Id"))
			value := payload.Header.Get("Ce-Note")
			require.Equal(t, -1, strings.IndexFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }))
			decoded, err := url.PathUnescape(value)
			require.NoError(t, err)
			require.Equal(t, subject, decoded)
		}
	})
}
