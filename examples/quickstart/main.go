// Quickstart sends events to four local receivers: one is healthy, one fails
// twice, one hangs, one wants no more webhooks. It prints what became of each
// delivery, and fails if that is not what it should be.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/outhook/outhook"
)

func main() {
	record := flag.String("record", "", "append the requests that the receivers get to this `file`, as JSON lines")
	flag.Parse()
	if err := run(os.Stdout, *record); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type invoice struct {
	Number string `json:"number"`
	Cents  int    `json:"cents"`
}

type user struct {
	Name string `json:"name"`
}

// run sends, waits and prints. The order is that of a real program: receivers,
// dispatcher, Run, Send, and a clean stop.
func run(out io.Writer, record string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	tape, err := newTape(record)
	if err != nil {
		return err
	}
	defer tape.file.Close()
	receivers := startReceivers(tape)
	defer receivers.close()

	settled := make(chan outhook.DeliveryID, 16)
	settle := func(_ context.Context, o outhook.Observation) { settled <- o.ID }
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard:     outhook.DevelopmentGuard(), // the receivers are on loopback, without TLS
		Timeout:   500 * time.Millisecond,
		Retry:     outhook.Schedule(50*time.Millisecond, 100*time.Millisecond), // three attempts
		Observers: []outhook.Observer{{Delivered: settle, Dead: settle}},
	})
	if err != nil {
		return err
	}

	// Run works until its context ends, and the store must outlive it.
	running, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var runErr error
	wg.Go(func() { runErr = d.Run(running) })
	sendErr := send(ctx, out, d, receivers.subscribers, settled)
	stop()
	wg.Wait()
	if err := errors.Join(sendErr, runErr); err != nil {
		return err
	}

	got, err := deliveries(ctx, d)
	if err != nil {
		return err
	}
	printTable(out, got)
	return compare(got)
}

// send sends two events. The second follows when the first is settled with
// everybody, so that one subscriber has said by then that it wants no more.
func send(ctx context.Context, out io.Writer, d *outhook.Dispatcher, to []outhook.Subscriber, settled <-chan outhook.DeliveryID) error {
	for _, step := range []struct {
		event  outhook.Event
		settle int // how many deliveries of it will be delivered or dead
	}{
		{outhook.Event{Type: "invoice.paid", Data: invoice{"2026-0042", 129_00}}, 4},
		{outhook.Event{Type: "user.created", Data: user{"Ada"}}, 1},
	} {
		receipt, err := d.Send(ctx, step.event, to)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: accepted for %v, filtered for %v\n", step.event.Type, receipt.Accepted, receipt.Filtered)
		for range step.settle {
			select {
			case <-settled:
			case <-ctx.Done():
				return fmt.Errorf("%s is not settled: %w", step.event.Type, ctx.Err())
			}
		}
	}
	return nil
}

// A row is what became of a delivery.
type row struct {
	subscriber, event, state string
	attempts                 int
	reason                   string
	results                  string // of each attempt
}

// want is what the receivers below lead to, in the order of Send.
var want = []row{
	{"healthy", "invoice.paid", "delivered", 1, "", "204"},
	{"flaky", "invoice.paid", "delivered", 3, "", "status 500, status 500, 204"},
	{"hanging", "invoice.paid", "dead", 3, "exhausted", "timeout, timeout, timeout"},
	{"leaving", "invoice.paid", "dead", 1, "gone", "status 410"},
	{"healthy", "user.created", "delivered", 1, "", "204"},
	{"leaving", "user.created", "held", 0, "gone", ""},
}

// deliveries asks the dispatcher for all deliveries. A pending one is held if
// its subscriber is disabled: it goes on after Dispatcher.Enable.
func deliveries(ctx context.Context, d *outhook.Dispatcher) ([]row, error) {
	disabled := make(map[string]string)
	for standing, err := range d.Standings(ctx) {
		if err != nil {
			return nil, err
		}
		if standing.Disabled {
			disabled[standing.Subscriber] = standing.Reason
		}
	}
	var rows []row
	for listed, err := range d.List(ctx, outhook.Filter{}) {
		if err != nil {
			return nil, err
		}
		record, err := d.Get(ctx, listed.ID) // List leaves the attempts out
		if err != nil {
			return nil, err
		}
		r := row{
			subscriber: record.ID.Subscriber,
			event:      record.Type,
			state:      string(record.State),
			reason:     record.Reason,
		}
		if why, ok := disabled[r.subscriber]; ok && record.State == outhook.Pending {
			r.state, r.reason = "held", why
		}
		var results []string
		for _, a := range record.Attempts {
			r.attempts = a.Number
			results = append(results, cmp.Or(a.Error, fmt.Sprint(a.Status)))
		}
		r.results = strings.Join(results, ", ")
		rows = append(rows, r)
	}
	return rows, nil
}

func printTable(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nSUBSCRIBER\tEVENT\tSTATE\tATTEMPTS\tREASON\tRESULTS")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", r.subscriber, r.event, r.state, r.attempts,
			cmp.Or(r.reason, "-"), cmp.Or(r.results, "-"))
	}
	w.Flush()
}

// compare returns an error for each row that should be there and is not, and
// the other way round.
func compare(got []row) error {
	var errs []error
	for _, r := range want {
		if !slices.Contains(got, r) {
			errs = append(errs, fmt.Errorf("missing: %+v", r))
		}
	}
	for _, r := range got {
		if !slices.Contains(want, r) {
			errs = append(errs, fmt.Errorf("unexpected: %+v", r))
		}
	}
	return errors.Join(errs...)
}

// receivers are what would be the servers of customers.
type receivers struct {
	subscribers []outhook.Subscriber
	servers     []*httptest.Server
}

func startReceivers(tape *tape) *receivers {
	var rs receivers
	add := func(id string, events []string, handler func(*outhook.Verifier) http.Handler) {
		key := outhook.GenerateKey() // each customer has one of its own
		verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
		server := httptest.NewServer(tape.record(key, handler(verifier)))
		rs.servers = append(rs.servers, server)
		rs.subscribers = append(rs.subscribers, outhook.Subscriber{
			ID: id, URL: server.URL, Keys: []outhook.Key{key}, Events: events,
		})
	}

	add("healthy", nil, func(v *outhook.Verifier) http.Handler {
		return v.Handler(func(context.Context, outhook.Event) error { return nil })
	})
	add("flaky", []string{"invoice.*"}, func(v *outhook.Verifier) http.Handler {
		var calls atomic.Int64
		return v.Handler(func(context.Context, outhook.Event) error {
			if calls.Add(1) <= 2 {
				return errors.New("the database is away") // answered with 500
			}
			return nil
		})
	})
	add("hanging", []string{"invoice.*"}, func(v *outhook.Verifier) http.Handler {
		return v.Handler(func(ctx context.Context, _ outhook.Event) error {
			<-ctx.Done() // the sender has hung up
			return ctx.Err()
		})
	})
	add("leaving", nil, func(v *outhook.Verifier) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = v.Verify(r.Header, body) // what Handler does for the others
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusUnauthorized)
				return
			}
			http.Error(w, "no more, please", http.StatusGone)
		})
	})
	return &rs
}

func (rs *receivers) close() {
	for _, server := range rs.servers {
		server.Close()
	}
}

// A tape records the requests of all receivers.
type tape struct {
	file *os.File

	mu      sync.Mutex // guards encoder
	encoder *json.Encoder
}

func newTape(name string) (*tape, error) {
	file, err := os.OpenFile(cmp.Or(name, os.DevNull), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return &tape{file: file, encoder: json.NewEncoder(file)}, err
}

// record returns a handler that writes a line for each request: with the
// secret, so that anybody can verify it.
func (t *tape) record(key outhook.Key, next http.Handler) http.Handler {
	type line struct {
		Secret string      `json:"secret"`
		Header http.Header `json:"header"`
		Body   []byte      `json:"body"` // base64
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		t.mu.Lock()
		err = errors.Join(err, t.encoder.Encode(line{key.Secret.Reveal(), r.Header, body}))
		t.mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}
