package webhooktest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/outhook/outhook"
)

// A Recorder records what Send has stored, before any request is made: for
// tests of what a host sends and to whom. Its Observer has to be one of the
// Dispatcher's. It may be used concurrently.
type Recorder struct {
	t testing.TB

	mu   sync.Mutex
	sent []Sent // guarded by mu
}

// A Sent is one call of Send that has stored an event. The receipt says what
// became of it for each subscriber.
type Sent struct {
	Event   outhook.Event
	Receipt outhook.Receipt
}

// NewRecorder returns a Recorder that has recorded nothing.
func NewRecorder(t testing.TB) *Recorder { return &Recorder{t: t} }

// Observer returns what has to be one of Options.Observers.
func (r *Recorder) Observer() outhook.Observer {
	return outhook.Observer{Sent: func(_ context.Context, event outhook.Event, receipt outhook.Receipt) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sent = append(r.sent, Sent{event, receipt})
	}}
}

// Sent returns what was sent, in that order.
func (r *Recorder) Sent() []Sent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

// CheckAccepted fails the test if the subscribers that events of a type were
// accepted for are not these, in any order. With none, there must be none.
func (r *Recorder) CheckAccepted(eventType string, subscribers ...string) {
	r.t.Helper()
	all := r.Sent()
	var got []string
	for _, s := range all {
		if s.Event.Type == eventType {
			got = append(got, s.Receipt.Accepted...)
		}
	}
	got = distinct(got)
	if want := distinct(subscribers); !slices.Equal(want, got) {
		r.t.Errorf("webhooktest: %s was accepted for %s; wanted: for %s\n%s", eventType, listed(got), listed(want), table(all))
	}
}

// table returns a table with a line for each.
func table(sent []Sent) string {
	if len(sent) == 0 {
		return "nothing was sent"
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "EVENT\tTYPE\tACCEPTED\tKNOWN\tFILTERED")
	for _, s := range sent {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Event.ID, s.Event.Type,
			listed(s.Receipt.Accepted), listed(s.Receipt.Known), listed(s.Receipt.Filtered))
	}
	_ = w.Flush()
	return strings.TrimSuffix(out.String(), "\n")
}
