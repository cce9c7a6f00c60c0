//go:build unix

package main

import (
	"crypto/sha256"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestMain is main for the processes that a test has started.
func TestMain(m *testing.M) {
	if roleOf() != "" {
		os.Exit(playRole())
	}
	os.Exit(m.Run())
}

// TestRun is a short run of the program on each store.
func TestRun(t *testing.T) {
	spread := "20s"
	if testing.Short() {
		spread = "8s"
	}
	for _, store := range []string{"postgres", "sqlite"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			p, err := parse([]string{"-store", store, "-kills", "10", "-deliveries", "2000", "-stops", "1", "-rounds", "1", "-spread", spread})
			require.NoError(t, err)
			var out strings.Builder
			err = run(t.Context(), p, &out)
			t.Log(out.String())
			require.NoError(t, err)
			require.Contains(t, out.String(), "deliveries=2000 ")
			require.Contains(t, out.String(), " lost=0 corrupt=0 ")
			if store == "postgres" {
				require.NotContains(t, out.String(), " skewed=0 ", "the clocks of some workers are wrong")
			}
		})
	}
}

// innocent is the evidence of a run of four events to two subscribers in which nothing
// was amiss: each delivery was accepted at the first request.
func innocent(t *testing.T) *evidence {
	t.Helper()
	p, err := parse([]string{"-deliveries", "8", "-subscribers", "2", "-seed", "1"})
	require.NoError(t, err)
	e := &evidence{plan: &p, sent: []bool{true, true, true, true}, records: map[outhook.DeliveryID]outhook.Record{}}
	for n := range p.Events {
		for i := range p.Subscribers {
			id := outhook.DeliveryID{Event: eventID(n), Subscriber: subscriberID(i)}
			e.records[id] = outhook.Record{ID: id, State: outhook.Delivered, Since: time.Unix(0, 0)}
			e.request(id, 204)
		}
	}
	return e
}

func (e *evidence) request(id outhook.DeliveryID, status int) {
	tick := 2 * len(e.requests)
	body := sha256.Sum256(e.plan.payload(eventNumber(id.Event)).Body)
	e.requests = append(e.requests, request{id: id, body: body, signed: true, status: status, began: tick, answered: tick + 1})
}

// TestCheck shows that the check notices what it is there for, and nothing else.
func TestCheck(t *testing.T) {
	first := outhook.DeliveryID{Event: eventID(0), Subscriber: subscriberID(0)}
	settle := func(e *evidence, state outhook.State, reason string) {
		record := e.records[first]
		record.State, record.Reason = state, reason
		e.records[first] = record
	}
	detail := func(e *evidence, attempts ...outhook.Attempt) {
		record := e.records[first]
		record.Attempts = attempts
		e.detailed = append(e.detailed, record)
	}
	for _, test := range []struct {
		name   string
		change func(e *evidence)
		want   string // of the first violation; empty: none
		lost   int
	}{
		{"nothing", func(*evidence) {}, "", 0},
		{"never accepted by Send", func(e *evidence) { e.sent[3] = false }, "event 3 was never accepted", 0},
		{"no record", func(e *evidence) { delete(e.records, first) }, "the store does not know it", 1},
		{"never seen", func(e *evidence) { e.requests = e.requests[1:] }, "the receiver has not accepted it", 1},
		{"refused, but delivered", func(e *evidence) { e.requests[0].status = 500 }, "the receiver has not accepted it", 1},
		{"pending", func(e *evidence) { settle(e, outhook.Pending, "") }, "it is not settled", 1},
		{"cancelled", func(e *evidence) { settle(e, outhook.Cancelled, outhook.ReasonCancelled) }, "it is not settled", 1},
		{"another body", func(e *evidence) { e.requests[2].body[7]++ }, "with another body", 0},
		{"forged", func(e *evidence) { e.requests[2].signed = false }, "without a valid signature", 0},
		{"of no plan", func(e *evidence) { e.requests[2].id.Event = "event-77" }, "which is in no plan", 1},
		{"a record of no plan", func(e *evidence) {
			id := outhook.DeliveryID{Event: "event-77", Subscriber: subscriberID(0)}
			e.records[id] = outhook.Record{ID: id, State: outhook.Delivered}
		}, "is in the store, but in no plan", 0},
		{"a duplicate without a kill", func(e *evidence) { e.request(first, 204) }, "1 duplicates are more than 0 interruptions", 0},
		{"as many duplicates as a kill explains", func(e *evidence) {
			e.interruptions = 1
			for range inFlight {
				e.request(first, 204)
			}
		}, "", 0},
		{"one more", func(e *evidence) {
			e.interruptions = 1
			for range inFlight + 1 {
				e.request(first, 204)
			}
		}, "duplicates are more than 1 interruptions", 0},
		{"no late outcome", func(e *evidence) { e.stops, e.interruptions = 2, 2 }, "none was told that an outcome was lost", 0},
		{"dead without a cause", func(e *evidence) { settle(e, outhook.Dead, outhook.ReasonPermanent) }, "for which there was no cause", 0},
		{"exhausted, but accepted", func(e *evidence) { settle(e, outhook.Dead, outhook.ReasonExhausted) }, "although the receiver accepts it", 0},
		{"abandoned without a kill", func(e *evidence) { settle(e, outhook.Dead, outhook.ReasonAbandoned) }, "for which there was no cause", 0},
		{"abandoned by kills", func(e *evidence) {
			e.interruptions = 5
			settle(e, outhook.Dead, outhook.ReasonAbandoned)
		}, "", 0},
		{"good history", func(e *evidence) { detail(e, outhook.Attempt{Number: 1, Status: 204}) }, "", 0},
		{"more attempts than requests", func(e *evidence) {
			detail(e, outhook.Attempt{Number: 1, Status: 500}, outhook.Attempt{Number: 2, Status: 204})
		}, "more attempts are recorded than were made", 0},
		{"delivered twice", func(e *evidence) {
			e.interruptions = 1
			e.request(first, 204)
			detail(e, outhook.Attempt{Number: 1, Status: 204}, outhook.Attempt{Number: 2, Status: 204})
		}, "it was delivered twice", 0},
		{"numbered anew", func(e *evidence) {
			e.request(first, 500)
			detail(e, outhook.Attempt{Number: 2, Status: 500}, outhook.Attempt{Number: 1, Status: 204})
		}, "the attempts are not numbered in order", 0},
		{"delivered by a failure", func(e *evidence) { detail(e, outhook.Attempt{Number: 1, Status: 500}) }, "its last attempt was not", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := innocent(t)
			test.change(e)
			found := e.check()
			require.Equal(t, test.lost, found.lost)
			if test.want == "" {
				require.Empty(t, found.violations)
				return
			}
			require.NotEmpty(t, found.violations)
			require.Contains(t, found.violations[0], test.want)
		})
	}
}

// TestCheckOrder shows that a chain is held to its order.
func TestCheckOrder(t *testing.T) {
	p, err := parse([]string{"-deliveries", "400", "-subscribers", "1", "-senders", "1"})
	require.NoError(t, err)
	e := &evidence{plan: &p, records: map[outhook.DeliveryID]outhook.Record{}}
	for n := range p.Events {
		id := outhook.DeliveryID{Event: eventID(n), Subscriber: subscriberID(0)}
		e.sent = append(e.sent, true)
		e.records[id] = outhook.Record{ID: id, State: outhook.Delivered}
		e.request(id, 204)
	}
	require.Empty(t, e.check().violations)
	var chain []int // the events of the first one
	for n := range p.Events {
		if p.chain(n) == p.chain(0) {
			chain = append(chain, n)
		}
	}
	require.Greater(t, len(chain), 1)
	a, b := &e.requests[chain[0]], &e.requests[chain[1]]
	a.id, b.id, a.body, b.body = b.id, a.id, b.body, a.body
	found := e.check()
	require.Equal(t, 1, found.overtaken)
	require.Contains(t, found.violations[0], "has overtaken")
}

// TestParse shows which flags are refused.
func TestParse(t *testing.T) {
	for _, args := range [][]string{
		{"-kills", "-1"}, {"-subscribers", "0"}, {"-spread", "0s"}, {"-processes", "1"}, {"-unknown"},
		{"-scenario", "unknown"}, {"-scenario", "order", "-keys", "0"}, {"-scenario", "pause", "-repeats", "0"},
	} {
		_, err := parse(args)
		require.Error(t, err, args)
	}
}
