package outhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// enveloped is an event as Handler hands it on.
func enveloped(eventType, data string) Event {
	body := fmt.Sprintf(`{"type":%q,"timestamp":"2000-01-02T03:04:05Z","data":%s}`, eventType, data)
	return Event{ID: "e", Type: eventType, Payload: &Payload{Body: []byte(body)}}
}

// taking returns a Mux with patterns, and what says which of them took an event:
// "Other", or "" for none.
func taking(other bool, patterns ...string) (take func(Event) (string, error)) {
	m, by := &Mux{}, ""
	for _, pattern := range patterns {
		On(m, pattern, func(context.Context, Event, int) error {
			by += pattern
			return nil
		})
	}
	if other {
		m.Other = func(context.Context, Event) error {
			by += "Other"
			return nil
		}
	}
	return func(event Event) (string, error) {
		by = ""
		err := m.Handle(context.Background(), event)
		return by, err
	}
}

// The type itself comes before patterns, long patterns come before short ones.
func TestMuxOrder(t *testing.T) {
	patterns := []string{"*", "invoice.*", "invoice.paid", "invoice.paid.*", "invoice.paid.late", "invoice", "user.*", "user.a.b.*"}
	for eventType, want := range map[string]string{
		"invoice":               "invoice",
		"invoice.paid":          "invoice.paid",
		"invoice.sent":          "invoice.*",
		"invoice.paid.late":     "invoice.paid.late",
		"invoice.paid.early":    "invoice.paid.*",
		"invoice.paid.late.now": "invoice.paid.*",
		"invoice.sent.late":     "invoice.*",
		"invoices":              "*",
		"invoices.paid":         "*",
		"invoice_paid":          "*",
		"Invoice.paid":          "*",
		"user":                  "*",
		"user.a":                "user.*",
		"user.a.b":              "user.*",
		"user.a.b.c":            "user.a.b.*",
		"user.a.bc.d":           "user.*",
		"x":                     "*",
	} {
		for range 2 { // whatever the order in which they are registered
			slices.Reverse(patterns)
			got, err := taking(true, patterns...)(enveloped(eventType, "1"))
			require.NoError(t, err)
			require.Equal(t, want, got, eventType)
		}
	}
}

// TestMuxModel compares it with a search of all patterns, by the rule for those of a
// Subscriber, over random types and patterns.
func TestMuxModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	segments := func() string {
		list := make([]string, 1+random.IntN(4))
		for i := range list {
			list[i] = string(rune('a' + random.IntN(2)))
		}
		return strings.Join(list, ".")
	}
	taken := map[string]int{}
	for range 500 {
		set := map[string]bool{}
		for range random.IntN(6) {
			switch random.IntN(4) {
			case 0:
				set[segments()] = true
			case 1:
				set["*"] = true
			default:
				set[segments()+".*"] = true
			}
		}
		patterns, eventType, want := slices.Collect(maps.Keys(set)), segments(), "Other"
		for _, pattern := range patterns {
			if matchType(pattern, eventType) && (want == "Other" || len(pattern) > len(want) || pattern == eventType) && want != eventType {
				want = pattern
			}
		}
		got, err := taking(true, patterns...)(enveloped(eventType, "1"))
		require.NoError(t, err)
		require.Equal(t, want, got, "%q by %q", eventType, patterns)
		switch {
		case got == eventType:
			taken["exact"]++
		case strings.HasSuffix(got, ".*"):
			taken["prefix"]++
		default:
			taken[got]++
		}
	}
	t.Log(taken)
	require.Len(t, taken, 4)
}

func TestMuxUnknown(t *testing.T) {
	for name, event := range map[string]Event{
		"type":        enveloped("b", "1"),
		"no type":     enveloped("", "1"),
		"no envelope": {ID: "e", Payload: &Payload{Body: []byte("text")}},
		"no payload":  {ID: "e"},
	} {
		got, err := taking(false, "a", "a.*")(event)
		require.NoError(t, err, name)
		require.Empty(t, got, name)
		got, err = taking(true, "a", "a.*")(event)
		require.NoError(t, err, name)
		require.Equal(t, "Other", got, name)
		got, err = taking(true)(event)
		require.NoError(t, err, name)
		require.Equal(t, "Other", got, name)
	}
	require.NoError(t, new(Mux).Handle(t.Context(), enveloped("a", "1")))

	// An event without a type is no event of any type.
	got, err := taking(true, "*")(enveloped("", "1"))
	require.NoError(t, err)
	require.Equal(t, "Other", got)
}

func TestMuxErrors(t *testing.T) {
	type contextKey struct{}
	ctx := context.WithValue(t.Context(), contextKey{}, "of the request")
	result := errors.New("no")
	var m Mux
	On(&m, "a", func(ctx context.Context, event Event, n int) error {
		require.Equal(t, "of the request", ctx.Value(contextKey{}))
		require.Equal(t, "e", event.ID)
		require.Equal(t, 7, n)
		return result
	})
	m.Other = func(ctx context.Context, event Event) error {
		require.Equal(t, "of the request", ctx.Value(contextKey{}))
		require.Equal(t, "b", event.Type)
		return result
	}
	require.Equal(t, result, m.Handle(ctx, enveloped("a", "7")))
	require.Equal(t, result, m.Handle(ctx, enveloped("b", "7")))
}

func TestMuxData(t *testing.T) {
	type invoice struct{ Number int }
	var got []any
	keep := func(v any) error {
		got = append(got, v)
		return nil
	}
	var m Mux
	On(&m, "struct", func(_ context.Context, _ Event, v invoice) error { return keep(v) })
	On(&m, "pointer", func(_ context.Context, _ Event, v *invoice) error { return keep(*v) })
	On(&m, "map", func(_ context.Context, _ Event, v map[string]int) error { return keep(v) })
	On(&m, "any", func(_ context.Context, _ Event, v any) error { return keep(v) })
	On(&m, "raw", func(_ context.Context, _ Event, v json.RawMessage) error { return keep(string(v)) })
	for eventType, want := range map[string]any{
		"struct":  invoice{7},
		"pointer": invoice{7},
		"map":     map[string]int{"number": 7},
		"any":     map[string]any{"number": 7.0},
		"raw":     `{"number":7}`,
	} {
		got = nil
		require.NoError(t, m.Handle(t.Context(), enveloped(eventType, `{"number":7}`)))
		require.Equal(t, []any{want}, got)
	}

	got = nil
	for name, event := range map[string]Event{
		"other data":  enveloped("struct", `"text"`),
		"other field": enveloped("struct", `{"number":"seven"}`),
		"no data":     {ID: "e", Type: "struct", Payload: &Payload{Body: []byte(`{"type":"struct"}`)}},
		"no JSON":     {ID: "e", Type: "struct", Payload: &Payload{Body: []byte(`{`)}},
		"no payload":  {ID: "e", Type: "struct"},
	} {
		err := m.Handle(t.Context(), event)
		status, ok := errors.AsType[*StatusError](err)
		require.True(t, ok, name)
		require.Equal(t, 422, status.Status)
		require.ErrorContains(t, err, `outhook: status 422: outhook: decode event "e": `, name)
		require.Empty(t, got, name)
	}
}

func TestOnPanics(t *testing.T) {
	handle := func(context.Context, Event, int) error { return nil }
	for pattern, want := range map[string]string{
		"":             `outhook: on "": no event type, none followed by ".*", and not "*"`,
		"a*":           `outhook: on "a*": no event type, none followed by ".*", and not "*"`,
		"*.a":          `outhook: on "*.a": no event type, none followed by ".*", and not "*"`,
		".*":           `outhook: on ".*": no event type, none followed by ".*", and not "*"`,
		"a.*.b":        `outhook: on "a.*.b": no event type, none followed by ".*", and not "*"`,
		"invoice paid": `outhook: on "invoice paid": no event type, none followed by ".*", and not "*"`,
		"twice":        `outhook: on "twice": registered twice`,
		"twice.*":      `outhook: on "twice.*": registered twice`,
		"*":            `outhook: on "*": registered twice`,
	} {
		m := &Mux{}
		for _, twice := range []string{"twice", "twice.*", "*"} {
			On(m, twice, handle)
		}
		require.PanicsWithValue(t, want, func() { On(m, pattern, func(context.Context, Event, string) error { return nil }) })
		require.Len(t, m.handlers, 3, "nothing is registered")
	}
}

// An Event without Data is one of whatever type there is nothing to say of.
func TestMuxWithoutData(t *testing.T) {
	var m Mux
	calls := 0
	On(&m, "ping", func(_ context.Context, _ Event, data struct{}) error {
		calls++
		return nil
	})
	v := Verifier{Keys: []Key{testKey}}
	server, _ := receiver(t, v.Handler(m.Handle).ServeHTTP)
	d, err := New(NewMemoryStore(), &Options{Guard: DevelopmentGuard()})
	require.NoError(t, err)
	attempt, err := d.Try(t.Context(), Event{Type: "ping"}, Subscriber{ID: "a", URL: server.URL, Keys: v.Keys})
	require.NoError(t, err)
	require.Equal(t, 204, attempt.Status)
	require.Equal(t, 1, calls)
}

// A type of a strange sender may be as long as a body: it is looked up all the same,
// without more copies than there are full stops.
func TestMuxLongType(t *testing.T) {
	take := taking(false, "a", "a.*")
	for eventType, want := range map[string]string{strings.Repeat(".", 1<<16): "", "a" + strings.Repeat(".a", 1<<16): "a.*"} {
		event := enveloped(eventType, "1")
		got, err := take(event)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	var m Mux
	On(&m, "b.*", func(context.Context, Event, int) error { return nil })
	event := enveloped(strings.Repeat(".", 1<<10), "1")
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = m.Handle(t.Context(), event) }))
}
