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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

// A plan says what a run does. All processes of a run have the same, so that each
// knows what every event is and how the receiver answers.
type plan struct {
	Scenario    string
	Store       string
	Events      int
	Subscribers int
	Keys        int // order: of events
	Senders     int
	Workers     int // at a time
	Kills       int
	Stops       int
	Rounds      int // of faults of the database
	Repeats     int // pause: how often the receiver asks for one; breaker: how many probes fail
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

	chains = 8 // order keys of each sender
)

// Scenarios: what is to be shown.
const (
	scenarioLoss    = "loss"    // nothing is lost, whatever breaks
	scenarioOrder   = "order"   // the events of a key come one after the other
	scenarioRate    = "rate"    // the pace of a subscriber holds over all workers
	scenarioPause   = "pause"   // a Retry-After is kept by all workers
	scenarioBreaker = "breaker" // an open breaker lets one probe through at a time
)

// sendersWork reports whether senders run a worker, too, as most services do.
func (p *plan) sendersWork() bool { return p.Scenario == scenarioLoss }

// timeout is that of an attempt. Where a machine that is slow must not be taken for a receiver
// that hangs, it is longer; where a lease has to be waited for, it is not.
func (p *plan) timeout() time.Duration {
	switch p.Scenario {
	case scenarioLoss:
		return time.Second
	case scenarioBreaker, scenarioOrder:
		return 2 * time.Second
	}
	return 5 * time.Second
}

// lease is the least that there is.
func (p *plan) lease() time.Duration { return p.timeout() + 10*time.Second }

// poll is short where workers are to find at the same time what waits.
func (p *plan) poll() time.Duration {
	switch p.Scenario {
	case scenarioPause, scenarioBreaker:
		return 50 * time.Millisecond
	}
	return 0
}

// delays are those between the attempts of a delivery.
func (p *plan) delays() []time.Duration {
	const s = time.Second
	switch p.Scenario {
	case scenarioLoss:
		return []time.Duration{s / 10, s / 5, s / 2, s, s, s, s, s, s}
	case scenarioOrder:
		return []time.Duration{s / 20, s / 10, s / 5}
	}
	return slices.Repeat([]time.Duration{s / 20}, 50)
}

func (p *plan) maxAttempts() int { return len(p.delays()) + 1 }

// breaker is that of the workers, with pauses that a run can wait for.
func (p *plan) breaker() outhook.Breaker {
	short := outhook.Breaker{Pause: time.Second / 5, MaxPause: time.Second}
	if p.Scenario == scenarioBreaker {
		short.Failures = 1
	}
	return short
}

// pace is that of the subscribers.
func (p *plan) pace() outhook.Rate {
	if p.Scenario == scenarioRate {
		return outhook.Rate{N: 50}
	}
	return outhook.Rate{}
}

// subscriberConcurrency is how many attempts a worker may have in flight to a subscriber.
func (p *plan) subscriberConcurrency() int {
	switch p.Scenario {
	case scenarioPause, scenarioBreaker:
		return 2
	case scenarioRate:
		return concurrency
	}
	return 8
}

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

// chain returns the order key of an event, where order is to be shown, or of every fifth.
// The events of a chain have the same sender, which sends them one after the other.
func (p *plan) chain(n int) string {
	switch {
	case p.Scenario == scenarioOrder:
		return fmt.Sprint("key-", n%p.Keys)
	case p.Scenario != scenarioLoss || n%5 != 0:
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
		list[i] = outhook.Subscriber{ID: id, URL: p.Receiver + "/" + id, Keys: []outhook.Key{p.key(id)}, Rate: p.pace()}
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
	var refuses, fails, pauses, slows int // of a thousand
	switch p.Scenario {
	case scenarioLoss:
		refuses, fails, pauses, slows = 2, 28, 5, 15
	case scenarioOrder:
		refuses, fails, pauses, slows = 10, 200, 1, 50
	}
	switch n := r.IntN(1000); {
	case n < refuses:
		a.failures = refused
	case n < refuses+fails:
		a.failures = 1 + r.IntN(3)
	case n < refuses+fails+pauses: // pauses the subscriber
		a.failures, a.status = 1, http.StatusServiceUnavailable
	case n < refuses+fails+pauses+slows:
		a.slow = time.Duration(50+r.IntN(300)) * time.Millisecond
	}
	return a
}

// point is where a worker is to be killed, empty for wherever it is. Where order is
// to be shown, each kill leaves an attempt whose outcome is not stored.
func (p *plan) point(random *rand.Rand) string {
	n := random.IntN(2 * len(workerPoints))
	switch {
	case p.Scenario == scenarioOrder:
		return []string{afterSend, beforeFinish}[n%2]
	case n < len(workerPoints):
		return workerPoints[n]
	}
	return ""
}
