package webhooktest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

// lines joins the lines of a text.
func lines(s ...string) string { return strings.Join(s, "\n") }

// What a failing test prints, word for word.
func TestFailures(t *testing.T) {
	unknown := func(r *Receiver, id string) outhook.Subscriber {
		s := r.Subscriber(id)
		s.Keys = []outhook.Key{outhook.GenerateKey()}
		return s
	}
	post := func(t *testing.T, r *Receiver, to outhook.Subscriber, id, body string) {
		t.Helper()
		_, _, _ = form{true, r, r}.post(t, t.Context(), to, id, body)
	}
	for _, test := range []struct {
		name string
		test func(t *testing.T, ft *fake)
		want []string
	}{
		{"nothing came", func(t *testing.T, ft *fake) {
			New(ft).Wait(1)
			ft.Error("not reached")
		}, []string{lines(
			"webhooktest: 0 of 1 deliveries have been accepted within 168h0m0s",
			"no request has arrived",
		)}},
		{"too few came", func(t *testing.T, ft *fake) {
			r := New(ft)
			r.Timeout = time.Minute
			r.Script(Status(500), Reset(), Status(200), Close())
			d := r.Dispatcher(&outhook.Options{Retry: constant(2 * time.Second)})
			send(t, d, "e1", r.Subscriber("shop"))
			r.Wait(1)
			r.Script(Hang())
			send(t, d, "e2", r.Subscriber("customer-1"))
			r.Wait(3)
		}, []string{lines(
			"webhooktest: 2 of 3 deliveries have been accepted within 1m0s",
			"AT   EVENT  TYPE        SUBSCRIBER  ATTEMPT  ANSWER",
			"0s   e1     test.event  shop        1        500",
			"2s   e1     test.event  shop        2        reset",
			"4s   e1     test.event  shop        3        200",
			"4s   e2     test.event  customer-1  1        closed",
			"6s   e2     test.event  customer-1  2        hangs",
			"23s  e2     test.event  customer-1  3        204",
		)}},
		{"an event did not come", func(t *testing.T, ft *fake) {
			r := New(ft)
			post(t, r, r.Subscriber("shop"), "e1", `{"type":"a.b"}`)
			r.WaitFor("e2")
		}, []string{lines(
			"webhooktest: 0 of 1 deliveries of event e2 have been accepted within 168h0m0s",
			"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
			"0s  e1     a.b   shop        1        204",
		)}},
		{"too few requests", func(t *testing.T, ft *fake) {
			r := New(ft)
			r.Timeout = time.Second
			r.Script(Answer{Delay: 5 * time.Second}, Answer{Delay: time.Hour})
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, _, _ = form{true, r, r}.post(t, ctx, r.Subscriber("shop"), "e1", "text")
			go post(t, r, r.Subscriber("shop"), "e1", "text")
			r.WaitRequests(3)
		}, []string{lines(
			"webhooktest: 2 of 3 requests have arrived within 1s",
			"AT     EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
			"0s     e1     -     shop        1        none, the sender gave up",
			"500ms  e1     -     shop        2        none yet",
		)}},
		{"unverified, waited for", func(t *testing.T, ft *fake) {
			r := New(ft)
			go func() {
				time.Sleep(time.Second)
				post(t, r, unknown(r, "shop"), "e1", `{"type":"a.b"}`)
			}()
			r.Wait(1)
		}, []string{lines(
			"webhooktest: a request could not be verified (see AllowUnverified): outhook: webhook signature does not match",
			"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
			"0s  e1     a.b   shop        1        401, unverified: outhook: webhook signature does not match",
		)}},
		{"unverified, found at the end", func(t *testing.T, ft *fake) {
			r := New(ft)
			post(t, r, unknown(r, "shop"), "e1", `{"type":"a.b"}`)
			post(t, r, r.Subscriber("bank"), "e1", `{"type":"a.b"}`)
			post(t, r, outhook.Subscriber{URL: "https://elsewhere.example/x", Keys: unknown(r, "x").Keys}, "e2", `{"type":"a.b"}`)
		}, []string{lines(
			"webhooktest: a request could not be verified (see AllowUnverified): outhook: webhook signature does not match (and 1 more)",
			"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
			"0s  e1     a.b   shop        1        401, unverified: outhook: webhook signature does not match",
			"0s  e1     a.b   bank        1        204",
			"0s  e2     a.b   -           1        401, unverified: outhook: webhook signature does not match",
		)}},
		{"unverified and allowed, waited for in vain", func(t *testing.T, ft *fake) {
			r := New(ft)
			r.AllowUnverified()
			post(t, r, unknown(r, "shop"), "e1", `{"type":"a.b"}`)
			r.Wait(2)
		}, []string{lines(
			"webhooktest: 1 of 2 deliveries have been accepted within 168h0m0s",
			"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
			"0s  e1     a.b   shop        1        204, unverified: outhook: webhook signature does not match",
		)}},
		{"other data", func(t *testing.T, ft *fake) {
			r := New(ft)
			post(t, r, r.Subscriber("shop"), "e1", `{"type":"invoice.paid","data":{"number":"R-17","cents":42,"paid":true}}`)
			r.Wait(1)[0].CheckData(ft, map[string]any{"number": "R-17", "cents": 4200})
		}, []string{lines(
			"webhooktest: the data of event e1 (invoice.paid) to shop is not as wanted (- wanted, + received):",
			`  {`,
			`-   "cents": 4200,`,
			`-   "number": "R-17"`,
			`+   "cents": 42,`,
			`+   "number": "R-17",`,
			`+   "paid": true`,
			`  }`,
		)}},
		{"another body", func(t *testing.T, ft *fake) {
			q := Request{ID: "e1", Body: []byte("Hello, world")}
			q.CheckBody(ft, "Hello")
		}, []string{lines(
			"webhooktest: the body of event e1 is not as wanted (- wanted, + received):",
			`- "Hello"`,
			`+ Hello, world`,
		)}},
		{"no data", func(t *testing.T, ft *fake) {
			Request{ID: "e1", Body: []byte("Hello")}.CheckData(ft, 1)
			Request{ID: "e2", Body: []byte(`{"type":"a.b"}`)}.CheckData(ft, 1)
		}, []string{
			`webhooktest: the body of event e1 is no envelope with data: "Hello"`,
			`webhooktest: the body of event e2 is no envelope with data: "{\"type\":\"a.b\"}"`,
		}},
		{"nothing to compare with", func(t *testing.T, ft *fake) {
			Request{ID: "e1", Body: []byte(`{}`)}.CheckBody(ft, func() {})
			Request{ID: "e1", Body: []byte(`{}`)}.CheckBody(ft, json.RawMessage(`{}`))
		}, []string{
			"webhooktest: what is wanted as the body of event e1 is no JSON: json: unsupported type: func()",
		}},
		{"accepted by others", func(t *testing.T, ft *fake) {
			r := New(ft)
			r.CheckAccepted("a.b", "shop")
			r.Script(Answer{}, Status(500))
			post(t, r, r.Subscriber("shop"), "e1", `{"type":"a.b"}`)
			post(t, r, r.Subscriber("bank"), "e1", `{"type":"a.b"}`)
			r.CheckAccepted("a.b", "shop", "bank")
			r.CheckAccepted("a.b")
		}, []string{
			lines(
				"webhooktest: a.b was accepted by nobody; wanted: by shop",
				"no request has arrived",
			), lines(
				"webhooktest: a.b was accepted by shop; wanted: by bank, shop",
				"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
				"0s  e1     a.b   shop        1        204",
				"0s  e1     a.b   bank        1        500",
			), lines(
				"webhooktest: a.b was accepted by shop; wanted: by nobody",
				"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
				"0s  e1     a.b   shop        1        204",
				"0s  e1     a.b   bank        1        500",
			),
		}},
		{"sent to others", func(t *testing.T, ft *fake) {
			sent := NewRecorder(ft)
			sent.CheckAccepted("test.event", "shop")
			d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Observers: []outhook.Observer{sent.Observer()}})
			require.NoError(t, err)
			r := New(ft)
			bank := r.Subscriber("bank")
			bank.Events = []string{"other"}
			send(t, d, "e1", r.Subscriber("shop"), bank)
			send(t, d, "e1", r.Subscriber("shop"), r.Subscriber("customer-1"))
			sent.CheckAccepted("test.event", "bank")
		}, []string{
			lines(
				"webhooktest: test.event was accepted for nobody; wanted: for shop",
				"nothing was sent",
			), lines(
				"webhooktest: test.event was accepted for customer-1, shop; wanted: for bank",
				"EVENT  TYPE        ACCEPTED    KNOWN   FILTERED",
				"e1     test.event  shop        nobody  bank",
				"e1     test.event  customer-1  shop    nobody",
			),
		}},
		{"scripts that cannot be", func(t *testing.T, ft *fake) {
			for _, a := range []Answer{Status(101), Status(1000), {Status: 204, Body: "body"}, {Status: 304, Body: "body"}, {Delay: -1}, {Pause: -1}} {
				ft.texts = append(ft.texts, failures(t, func(ft *fake) { New(ft).Script(Answer{}, a) })...)
			}
			New(ft).ScriptEvent("e1", Status(-1))
			ft.Error("not reached")
		}, []string{
			"webhooktest: script: the status 101 is not in 200 to 999",
			"webhooktest: script: the status 1000 is not in 200 to 999",
			"webhooktest: script: the status 204 has no body",
			"webhooktest: script: the status 304 has no body",
			"webhooktest: script: a delay of -1ns or a pause of 0s is negative",
			"webhooktest: script: a delay of 0s or a pause of -1ns is negative",
			"webhooktest: script: the status -1 is not in 200 to 999",
		}},
		{"Respond gives what cannot be", func(t *testing.T, ft *fake) {
			r := New(ft)
			r.Respond(func(Request) Answer { return Status(99) })
			post(t, r, r.Subscriber("shop"), "e1", `{"type":"a.b"}`)
			r.Wait(1)
		}, []string{lines(
			"webhooktest: the func of Respond has given an answer that cannot be sent: the status 99 is not in 200 to 999",
			"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
			"0s  e1     a.b   shop        1        500",
		)}},
		{"Respond panics", func(t *testing.T, ft *fake) {
			r := New(ft)
			r.Respond(func(Request) Answer { panic("oh") })
			post(t, r, r.Subscriber("shop"), "e1", `{"type":"a.b"}`)
		}, []string{lines(
			"webhooktest: the func of Respond has panicked: oh",
			"AT  EVENT  TYPE  SUBSCRIBER  ATTEMPT  ANSWER",
			"0s  e1     a.b   shop        1        500",
		)}},
		{"options that cannot be", func(t *testing.T, ft *fake) {
			New(ft).Dispatcher(&outhook.Options{Timeout: -1})
			ft.Error("not reached")
		}, []string{"webhooktest: dispatcher: outhook: Options.Timeout: -1ns is negative"}},
		{"a server in a bubble", func(t *testing.T, ft *fake) {
			NewServer(ft)
			ft.Error("not reached")
		}, []string{"webhooktest: NewServer: a synctest bubble cannot wait for sockets; use New"}},
	} {
		bubble(t, test.name, func(t *testing.T) {
			require.Equal(t, test.want, failures(t, func(ft *fake) { test.test(t, ft) }))
		})
	}
}

// Outside of a bubble, Wait is bounded by the test's deadline, less what it takes
// to tell of it, and by half a minute.
func TestWaitIsBounded(t *testing.T) {
	for _, test := range []struct {
		name        string
		deadline    time.Duration // 0: none
		timeout     time.Duration
		least, most time.Duration
	}{
		{"no deadline", 0, 0, 30 * time.Second, 30 * time.Second},
		{"far deadline", time.Hour, 0, 30 * time.Second, 30 * time.Second},
		{"near deadline", 10 * time.Second, 0, 0, 9 * time.Second},
		{"past deadline", -time.Second, 0, -time.Hour, 0},
		{"own bound", time.Second, time.Hour, time.Hour, time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			ft := &fake{TB: t}
			if test.deadline != 0 {
				ft.deadline = time.Now().Add(test.deadline)
			}
			r := New(ft)
			r.Timeout = test.timeout
			got := r.bound()
			require.GreaterOrEqual(t, got, test.least)
			require.LessOrEqual(t, got, test.most)
		})
	}
	texts := failures(t, func(ft *fake) {
		r := NewServer(ft)
		r.Timeout = time.Millisecond
		r.Wait(1)
	})
	require.Equal(t, []string{lines(
		"webhooktest: 0 of 1 deliveries have been accepted within 1ms",
		"no request has arrived",
	)}, texts)
}

func TestInBubble(t *testing.T) {
	require.False(t, inBubble())
	bubble(t, "bubble", func(t *testing.T) { require.True(t, inBubble()) })
}
