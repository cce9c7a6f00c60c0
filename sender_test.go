package outhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSend(t *testing.T) {
	t.Run("the request", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		s := subscriber("a")
		s.Header = http.Header{"x-shop": {"1", "2"}}
		event := Event{ID: "e1", Type: "invoice.paid", Time: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.FixedZone("", 3600)), Data: map[string]int{"total": 7}}
		_, err := d.Send(t.Context(), event, []Subscriber{s})
		require.NoError(t, err)
		_, err = d.Drain(t.Context())
		require.NoError(t, err)

		c := w.to("")[0]
		require.Equal(t, `{"type":"invoice.paid","timestamp":"2026-01-02T02:04:05.006Z","data":{"total":7}}`, c.body)
		require.Equal(t, "e1", c.header.Get("webhook-id"))
		require.Equal(t, "application/json", c.header.Get("Content-Type"))
		require.Equal(t, []string{"1", "2"}, c.header["X-Shop"])
		v := &Verifier{Keys: []Key{testKey}}
		require.NoError(t, v.Verify(c.header, []byte(c.body)))
	})

	t.Run("accepted, known, filtered", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		send(t, d, "e", subscriber("known"))
		filtered, unwanted := subscriber("filtered"), subscriber("unwanted")
		filtered.Events = []string{"invoice.*"}
		unwanted.Encode = func(Event) (*Payload, error) { return nil, nil }
		receipt := send(t, d, "e", subscriber("new"), subscriber("known"), filtered, unwanted)
		require.Equal(t, Receipt{EventID: "e", Accepted: []string{"new"}, Known: []string{"known"}, Filtered: []string{"filtered", "unwanted"}}, receipt)
	})

	t.Run("an ID is made", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		a, b := send(t, d, "", subscriber("a")), send(t, d, "", subscriber("a"))
		require.Len(t, a.EventID, 36)
		require.Less(t, a.EventID, b.EventID, "version 7 is in order of time")
	})

	t.Run("no subscribers", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		require.Equal(t, Receipt{EventID: "e"}, send(t, d, "e"))
	})

	t.Run("the same ID with other content", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		send(t, d, "e", subscriber("a"))
		_, err := d.Send(t.Context(), Event{ID: "e", Type: "test.event", Data: "other"}, []Subscriber{subscriber("a"), subscriber("b")})
		require.ErrorIs(t, err, ErrConflict)
		require.ErrorContains(t, err, `"a"`)
		_, err = d.Get(t.Context(), DeliveryID{"e", "b"})
		require.ErrorIs(t, err, ErrNotFound, "nothing is stored")
	})

	t.Run("a full store", func(t *testing.T) {
		d := dispatcher(t, &MemoryStore{MaxPerSubscriber: 1}, &wire{}, Options{})
		send(t, d, "e1", subscriber("a"))
		receipt, err := d.Send(t.Context(), Event{Type: "x"}, []Subscriber{subscriber("b"), subscriber("a")})
		require.ErrorIs(t, err, ErrFull)
		require.ErrorContains(t, err, `"a"`)
		require.NotEmpty(t, receipt.EventID, "to send it again")
		require.Empty(t, receipt.Accepted)
	})

	t.Run("all faults are reported at once, and nothing is stored", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		bad := Subscriber{ID: "bad", URL: "ftp://x/", Events: []string{"*.paid"}, Header: http.Header{"Host": {"x"}},
			Keys: []Key{{Secret: NewSecret("short")}}, Timeout: time.Hour, Concurrency: -1}
		failing := subscriber("failing")
		failing.Encode = func(Event) (*Payload, error) { return nil, errors.New("no such template") }
		large := subscriber("large")
		large.Encode = func(Event) (*Payload, error) { return &Payload{Body: make([]byte, 1<<20)}, nil }
		event := Event{ID: "a.b", Type: "no type", OrderKey: " ", Delay: -1, TTL: -1, Labels: map[string]string{strings.Repeat("x", 65): ""}}
		_, err := d.Send(t.Context(), event, []Subscriber{bad, subscriber("good"), {}, subscriber("good")})
		require.ErrorIs(t, err, ErrInvalid)
		for _, fault := range []string{"Event.ID", "Event.Type", "Event.OrderKey", "Event.Delay", "Event.TTL", "Event.Labels",
			`"bad": URL`, `"bad": Events[0]`, `"bad": Header`, `"bad": Keys[0]`, `"bad": Timeout`, `"bad": Concurrency`,
			"subscribers[2].ID: is empty", `"good": ID: stands twice`} {
			require.ErrorContains(t, err, fault)
		}
		_, err = d.Send(t.Context(), Event{Type: "x"}, []Subscriber{bad, failing, large})
		require.ErrorContains(t, err, `"failing": Encode: no such template`)
		require.ErrorContains(t, err, `"large": Encode: a body of 1048576 bytes`)
		_, err = d.Send(t.Context(), Event{Type: "x", Data: func() {}}, []Subscriber{failing})
		require.ErrorContains(t, err, "Event.Data: json: unsupported type")

		stats, err := d.Stats(t.Context())
		require.NoError(t, err)
		require.Zero(t, stats)
	})

	t.Run("Encode sees the event, with its ID and time", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		s := subscriber("slack")
		s.Keys, s.Unsigned = nil, true
		s.Encode = func(e Event) (*Payload, error) {
			require.False(t, e.Time.IsZero())
			body, err := json.Marshal(map[string]string{"text": e.ID + " " + e.Data.(string)})
			return &Payload{ContentType: "text/x", Header: http.Header{"X-Body": {"1"}}, Body: body}, err
		}
		send(t, d, "e", s, subscriber("b"))
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		c := w.to(host("slack"))[0]
		require.Equal(t, `{"text":"e e"}`, c.body)
		require.Equal(t, "text/x", c.header.Get("Content-Type"))
		require.Equal(t, "1", c.header.Get("X-Body"))
		require.Empty(t, c.header.Get("webhook-signature"))
		require.Contains(t, w.to(host("b"))[0].body, `"data":"e"`)
	})

	t.Run("one payload is shared by a fan-out", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		deliveries := enqueued(t, d, "e", subscriber("a"), subscriber("b"))
		require.Same(t, deliveries[0].Payload, deliveries[1].Payload)
	})
}

func TestVia(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: status(200)}
		store := NewMemoryStore()
		d := dispatcher(t, store, w, Options{})
		stop := run(t, d)
		var tx catcher
		receipt, err := d.Via(&tx).Send(t.Context(), Event{ID: "e", Type: "x"}, []Subscriber{subscriber("a")})
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, receipt.Accepted)
		synctest.Wait()
		require.Empty(t, w.to(""), "nothing before the commit")
		_, err = store.Enqueue(t.Context(), tx.deliveries)
		require.NoError(t, err)
		d.Wake()
		synctest.Wait()
		require.Equal(t, 1, len(w.to("")))
		stop()
	})
}

func TestTry(t *testing.T) {
	w := &wire{answer: func(r *http.Request, _ int) (*http.Response, error) {
		if r.URL.Host == host("refused") {
			return nil, fmt.Errorf("details of the network")
		}
		return response(418, "X-Answer", "yes"), nil
	}}
	d := dispatcher(t, NewMemoryStore(), w, Options{})
	s := subscriber("a")
	s.Events = []string{"other"}
	a, err := d.Try(t.Context(), Event{Type: "x"}, s)
	require.NoError(t, err, "an answer of any status is no error")
	require.Equal(t, 418, a.Status)
	require.Equal(t, "status 418", a.Error)
	require.Equal(t, "body", string(a.Body))
	require.Equal(t, "yes", a.Header.Get("X-Answer"))
	stats, err := d.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, stats, "nothing is stored")

	a, err = d.Try(t.Context(), Event{ID: "e", Type: "x"}, subscriber("refused"))
	require.EqualError(t, err, `outhook: try event "e": the request failed`)
	require.Equal(t, "the request failed", a.Error)

	_, err = d.Try(t.Context(), Event{Type: "x"}, Subscriber{ID: "a"})
	require.ErrorIs(t, err, ErrInvalid)
	s.Encode = func(Event) (*Payload, error) { return nil, nil }
	_, err = d.Try(t.Context(), Event{Type: "x"}, s)
	require.ErrorContains(t, err, "made no payload")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.answer = hang
	_, err = d.Try(ctx, Event{Type: "x"}, subscriber("a"))
	require.ErrorContains(t, err, "cancelled")
}

func TestManagement(t *testing.T) {
	t.Run("without a Manager", func(t *testing.T) {
		d := dispatcher(t, plain{NewMemoryStore()}, &wire{}, Options{})
		_, err := d.Get(t.Context(), DeliveryID{})
		require.ErrorIs(t, err, errors.ErrUnsupported)
		for _, err := range d.List(t.Context(), Filter{}) {
			require.ErrorIs(t, err, errors.ErrUnsupported)
		}
		for _, f := range []func(context.Context, Filter) (int, error){d.Replay, d.Cancel, d.Prune} {
			_, err := f(t.Context(), Filter{})
			require.ErrorIs(t, err, errors.ErrUnsupported)
		}
		_, err = d.Stats(t.Context())
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})

	bubble(t, "replay signs afresh and keeps ID and body", func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		send(t, d, "e", subscriber("a"))
		stop := run(t, d)
		time.Sleep(time.Hour)
		n, err := d.Replay(t.Context(), Filter{Event: "e", Subscriber: "a", States: []State{Delivered}})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		synctest.Wait()
		stop()
		calls := w.to("")
		require.Equal(t, 2, len(calls))
		require.Equal(t, calls[0].event, calls[1].event)
		require.Equal(t, calls[0].body, calls[1].body)
		require.NotEqual(t, calls[0].header.Get(headerSignature), calls[1].header.Get(headerSignature))
		r := record(t, d, "e", "a")
		require.Equal(t, []int{0, 1}, []int{r.Attempts[0].Replay, r.Attempts[1].Replay})
		require.Equal(t, 1, r.Attempts[1].Number)

		n, err = d.Prune(t.Context(), Filter{States: []State{Delivered}})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		for r := range d.List(t.Context(), Filter{}) {
			require.Fail(t, "pruned", "%+v", r)
		}
	})
}

func TestErrBlocked(t *testing.T) {
	d, err := New(NewMemoryStore(), nil)
	require.NoError(t, err)
	s := subscriber("a")
	s.URL = "https://127.0.0.1/"
	_, err = d.Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
	require.ErrorIs(t, err, ErrBlocked)
	require.ErrorIs(t, err, ErrInvalid)

	w := &wire{answer: func(*http.Request, int) (*http.Response, error) { return nil, fmt.Errorf("dial: %w", ErrBlocked) }}
	_, err = dispatcher(t, NewMemoryStore(), w, Options{}).Try(t.Context(), Event{ID: "e", Type: "x"}, subscriber("a"))
	require.ErrorIs(t, err, ErrBlocked)
}

func TestStandings(t *testing.T) {
	for name, store := range map[string]Store{"in the store": NewMemoryStore(), "in the process": plain{NewMemoryStore()}} {
		t.Run(name, func(t *testing.T) {
			d := dispatcher(t, store, &wire{}, Options{})
			require.NoError(t, d.Disable(t.Context(), "a", "unpaid"))
			require.NoError(t, d.Disable(t.Context(), "b", "unpaid"))
			require.NoError(t, d.Enable(t.Context(), "b"))
			var disabled []string
			for s, err := range d.Standings(t.Context()) {
				require.NoError(t, err)
				require.Equal(t, "unpaid", s.Reason)
				disabled = append(disabled, s.Subscriber)
			}
			require.Equal(t, []string{"a"}, disabled, "those in good order are not shown")
		})
	}
}
