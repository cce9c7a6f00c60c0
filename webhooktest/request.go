package webhooktest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/outhook/outhook"
)

// A Request is one attempt, as a Receiver has got it. Header and Body must not be
// changed.
type Request struct {
	ID         string // of the event, from the header webhook-id
	Subscriber string // whose URL it came to; empty: none's that the Receiver has given
	Attempt    int    // counts the requests of that event to that URL from 1

	Type string    // of the event, if the body is an envelope of Standard Webhooks
	Time time.Time // of the event, if the body is such an envelope

	Timestamp time.Time // of the attempt, from the header webhook-timestamp
	Arrived   time.Time

	URL    string
	Header http.Header
	Body   []byte

	Err    error // why it could not be verified, as [outhook.Verifier] says it; nil: it is verified
	Status int   // of the answer; 0: none, or not yet

	fault string // what was done instead of an answer
}

func newRequest(header http.Header, target string, body []byte) Request {
	q := Request{
		ID:      header.Get("Webhook-Id"),
		Arrived: time.Now(),
		URL:     target,
		Header:  header.Clone(),
		Body:    body,
	}
	if seconds, err := strconv.ParseInt(header.Get("Webhook-Timestamp"), 10, 64); err == nil {
		q.Timestamp = time.Unix(seconds, 0)
	}
	var envelope struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
	}
	if json.Unmarshal(body, &envelope) == nil {
		q.Type, q.Time = envelope.Type, envelope.Timestamp
	}
	return q
}

// Event returns the event as a receiver's handler gets it, for [outhook.Decode].
func (q Request) Event() outhook.Event {
	return outhook.Event{
		ID: q.ID, Type: q.Type, Time: q.Time,
		Payload: &outhook.Payload{ContentType: q.Header.Get("Content-Type"), Header: q.Header, Body: q.Body},
	}
}

// CheckData fails the test, with a [Diff], if the data of the event is not the
// JSON of want. For JSON that is written out, want is a [json.RawMessage].
func (q Request) CheckData(t testing.TB, want any) {
	t.Helper()
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(q.Body, &envelope); err != nil || envelope.Data == nil {
		t.Errorf("webhooktest: the body of %s is no envelope with data: %q", q.name(), q.Body)
		return
	}
	q.compare(t, "data", want, envelope.Data)
}

// CheckBody is [Request.CheckData] for the whole body.
func (q Request) CheckBody(t testing.TB, want any) {
	t.Helper()
	q.compare(t, "body", want, q.Body)
}

func (q Request) compare(t testing.TB, what string, want any, got []byte) {
	t.Helper()
	text, err := json.Marshal(want)
	if err != nil {
		t.Errorf("webhooktest: what is wanted as the %s of %s is no JSON: %v", what, q.name(), err)
		return
	}
	if diff := Diff(text, got); diff != "" {
		t.Errorf("webhooktest: the %s of %s is not as wanted (- wanted, + received):\n%s", what, q.name(), diff)
	}
}

func (q Request) name() string {
	name := "event " + q.ID
	if q.Type != "" {
		name += " (" + q.Type + ")"
	}
	if q.Subscriber != "" {
		name += " to " + q.Subscriber
	}
	return name
}

// Requests are some of those that a Receiver has got.
type Requests []Request

// OfType returns those of events of one type.
func (qs Requests) OfType(eventType string) Requests {
	return qs.filter(func(q *Request) bool { return q.Type == eventType })
}

// To returns those to one subscriber.
func (qs Requests) To(subscriber string) Requests {
	return qs.filter(func(q *Request) bool { return q.Subscriber == subscriber })
}

// Subscribers returns the subscribers that they came to, sorted, each once.
func (qs Requests) Subscribers() []string {
	ids := make([]string, 0, len(qs))
	for _, q := range qs {
		ids = append(ids, q.Subscriber)
	}
	return distinct(ids)
}

func (qs Requests) filter(keep func(*Request) bool) Requests {
	var kept Requests
	for i := range qs {
		if keep(&qs[i]) {
			kept = append(kept, qs[i])
		}
	}
	return kept
}

// String returns a table with a line for each. Times count from the first.
func (qs Requests) String() string {
	if len(qs) == 0 {
		return "no request has arrived"
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AT\tEVENT\tTYPE\tSUBSCRIBER\tATTEMPT\tANSWER")
	for i := range qs {
		q := &qs[i]
		at := q.Arrived.Sub(qs[0].Arrived).Round(time.Millisecond)
		fmt.Fprintf(w, "%v\t%s\t%s\t%s\t%d\t%s\n", at, orDash(q.ID), orDash(q.Type), orDash(q.Subscriber), q.Attempt, q.result())
	}
	_ = w.Flush()
	return strings.TrimSuffix(out.String(), "\n")
}

// result says what a request was answered.
func (q *Request) result() string {
	answer := "none yet"
	switch {
	case q.Status != 0:
		answer = strconv.Itoa(q.Status)
	case q.fault != "":
		answer = q.fault
	}
	if q.Err != nil {
		answer += ", unverified: " + q.Err.Error()
	}
	return answer
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// CheckAccepted fails the test if the subscribers that have accepted an event of
// a type are not these, in any order. With none, nobody must have.
func (r *Receiver) CheckAccepted(eventType string, subscribers ...string) {
	r.t.Helper()
	r.mu.Lock()
	all, got := slices.Clone(r.log), r.accepted.OfType(eventType).Subscribers()
	r.mu.Unlock()
	if want := distinct(subscribers); !slices.Equal(want, got) {
		r.t.Errorf("webhooktest: %s was accepted by %s; wanted: by %s\n%s", eventType, listed(got), listed(want), all)
	}
}

// distinct returns IDs sorted, each once.
func distinct(ids []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(ids)))
}

func listed(ids []string) string {
	if len(ids) == 0 {
		return "nobody"
	}
	return strings.Join(ids, ", ")
}
