//go:build unix

package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

// A plan says what a run does. All processes of a run have the same, so that each
// knows what every event is and how the receiver answers.
type plan struct {
	Store       string
	Events      int
	Subscribers int
	Senders     int
	Workers     int // at a time
	Kills       int
	Stops       int
	Rounds      int // of faults of the database
	Spread      time.Duration
	Skew        time.Duration
	Seed        uint64
	Verbose     bool

	// What the parent adds when it has started them.
	Database string // URL or path
	Receiver string // URL
	Begin    time.Time
}

const (
	concurrency = 32 // of a worker
	// inFlight bounds what a worker holds at a time: attempts, and what it claims
	// ahead, which is a quarter of them.
	inFlight = concurrency + concurrency/4

	timeout = time.Second
	lease   = timeout + 10*time.Second // the least that there is

	chains = 8 // order keys of each sender
)

// retries leaves ten attempts.
func retries() outhook.RetryPolicy {
	const s = time.Second
	return outhook.Schedule(s/10, s/5, s/2, s, s, s, s, s, s)
}

const maxAttempts = 10

// draw returns random numbers that depend on the seed and on what they are for alone.
func (p *plan) draw(purpose ...string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(strings.Join(purpose, "\x00")))
	return rand.New(rand.NewPCG(p.Seed, h.Sum64()))
}

func eventID(n int) string { return "event-" + strconv.Itoa(n) }

// eventNumber is the inverse of eventID, -1 for what is none.
func eventNumber(id string) int {
	digits, ok := strings.CutPrefix(id, "event-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || eventID(n) != id {
		return -1
	}
	return n
}

// event returns the n-th event, to the byte the same whenever and by whomever it is sent.
func (p *plan) event(n int) outhook.Event {
	return outhook.Event{ID: eventID(n), Type: "crash.tested", Payload: p.payload(n), OrderKey: p.chain(n)}
}

// payload is JSON mostly, and otherwise bytes that are no text.
func (p *plan) payload(n int) *outhook.Payload {
	r := p.draw("payload", strconv.Itoa(n))
	size := r.IntN(1000)
	if r.IntN(50) == 0 {
		size = 32<<10 + r.IntN(32<<10)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if n%7 == 0 {
		return &outhook.Payload{ContentType: "application/octet-stream", Body: b}
	}
	text, err := json.Marshal(map[string]any{"n": n, "data": b})
	if err != nil {
		panic(err) // numbers and bytes can be encoded
	}
	return &outhook.Payload{Body: text}
}

// chain returns the order key of every fifth event. The events of a chain have the
// same sender, which sends them one after the other.
func (p *plan) chain(n int) string {
	if n%5 != 0 {
		return ""
	}
	return fmt.Sprintf("chain-%d-%d", n%p.Senders, n/5/p.Senders%chains)
}

func subscriberID(i int) string { return "subscriber-" + strconv.Itoa(i) }

func (p *plan) key(subscriber string) outhook.Key {
	secret := sha256.Sum256(fmt.Append(nil, p.Seed, subscriber))
	return outhook.Key{Secret: outhook.NewSecret("whsec_" + base64.StdEncoding.EncodeToString(secret[:]))}
}

func (p *plan) subscribers() []outhook.Subscriber {
	list := make([]outhook.Subscriber, p.Subscribers)
	for i := range list {
		id := subscriberID(i)
		list[i] = outhook.Subscriber{ID: id, URL: p.Receiver + "/" + id, Keys: []outhook.Key{p.key(id)}}
	}
	return list
}

// An answer is how the receiver treats the requests of one delivery.
type answer struct {
	failures int           // requests that it fails before it accepts one
	status   int           // of the failures
	slow     time.Duration // before it accepts
}

// refused is the number of failures of a delivery that is never accepted.
const refused = 1 << 30

func (p *plan) answer(id outhook.DeliveryID) answer {
	r := p.draw("answer", id.Event, id.Subscriber)
	a := answer{status: http.StatusInternalServerError}
	switch n := r.IntN(1000); {
	case n < 2:
		a.failures = refused
	case n < 30:
		a.failures = 1 + r.IntN(3)
	case n < 35: // pauses the subscriber
		a.failures, a.status = 1, http.StatusServiceUnavailable
	case n < 50:
		a.slow = time.Duration(50+r.IntN(300)) * time.Millisecond
	}
	return a
}
