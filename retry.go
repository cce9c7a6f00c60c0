package outhook

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// A RetryPolicy says how long to wait after a failed attempt before the next,
// or that there is to be none: then the delivery is dead.
//
// It must be a pure function of its arguments, so that every process decides
// alike: last is the attempt that failed, and last.Number how many there were
// since Send or since the latest replay. Jitter can be drawn from the ID.
// A negative delay counts as none.
type RetryPolicy func(id DeliveryID, last Attempt) (delay time.Duration, ok bool)

// StandardSchedule is the default [RetryPolicy]: the schedule that Standard
// Webhooks recommends, ten attempts over three days: at once, then 5 s, 5 min,
// 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h after the one before.
func StandardSchedule() RetryPolicy {
	return Schedule(5*time.Second, 5*time.Minute, 30*time.Minute, 2*time.Hour, 5*time.Hour,
		10*time.Hour, 14*time.Hour, 20*time.Hour, 24*time.Hour)
}

// Schedule waits the n-th delay after the n-th attempt, and has no further
// attempt when there is none. Each is lengthened by up to a tenth, by a jitter
// that is fixed for each delivery and attempt.
func Schedule(delays ...time.Duration) RetryPolicy {
	return func(id DeliveryID, last Attempt) (time.Duration, bool) {
		if last.Number < 1 || last.Number > len(delays) {
			return 0, false
		}
		d := delays[last.Number-1]
		return addSaturating(d, jitter(id, last, d/10)), true
	}
}

// maxBackoffs bounds how far a backoff is played for one decision.
const maxBackoffs = 1000

// Backoff adapts a backoff of github.com/cenkalti/backoff/v4. For the n-th
// attempt, a fresh one from the factory is asked n times, at most 1,000: the n-th
// answer is the delay, and the first backoff.Stop among them ends the attempts. No
// time passes for that backoff, so that MaxElapsedTime ends the attempts only
// when a single delay is longer: use [backoff.WithMaxRetries].
func Backoff(factory func() backoff.BackOff) RetryPolicy {
	return func(_ DeliveryID, last Attempt) (delay time.Duration, ok bool) {
		b := factory()
		for range min(max(last.Number, 1), maxBackoffs) {
			if delay = b.NextBackOff(); delay == backoff.Stop {
				return 0, false
			}
		}
		return delay, true
	}
}

// jitter returns a duration in [0, limit) that depends on its arguments alone.
func jitter(id DeliveryID, last Attempt, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(id.Event))
	h.Write([]byte{0})
	h.Write([]byte(id.Subscriber))
	var n [16]byte
	binary.BigEndian.PutUint64(n[:8], uint64(last.Number))
	binary.BigEndian.PutUint64(n[8:], uint64(last.Replay))
	h.Write(n[:])
	// The low bits of FNV depend on the low bits of its input alone.
	x := h.Sum64()
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	x ^= x >> 32
	return time.Duration(x % uint64(limit))
}

func addSaturating(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// A Verdict says what an attempt came to.
type Verdict int

const (
	Retry     Verdict = iota // it failed: again when the RetryPolicy says so
	OK                       // the receiver accepted the delivery
	Permanent                // it failed, and would again: the delivery is dead
	Gone                     // the receiver wants no more: as Permanent, and the subscriber is disabled
)

// A Classifier judges an attempt by its response or by err, which is nil when
// there was a response. It must be a pure function.
type Classifier func(a Attempt, err error) Verdict

// DefaultClassifier is the [Classifier] of a Dispatcher without one: 2xx is
// OK, 410 Gone, a target that the guard refused Permanent, all else Retry. An own
// classifier may call it for what it does not care about:
//
//	func(a outhook.Attempt, err error) outhook.Verdict {
//		if a.Status == 400 || a.Status == 404 {
//			return outhook.Permanent
//		}
//		return outhook.DefaultClassifier(a, err)
//	}
func DefaultClassifier(a Attempt, err error) Verdict {
	switch {
	case errors.Is(err, ErrBlocked):
		return Permanent
	case err != nil:
		return Retry
	case 200 <= a.Status && a.Status <= 299:
		return OK
	case a.Status == http.StatusGone:
		return Gone
	}
	return Retry
}

// parseRetryAfter reads a Retry-After field (RFC 9110, section 10.2.3): digits
// or an HTTP-date, nothing else, and nothing if there are several. What does not
// fit a Duration saturates.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	values := h["Retry-After"]
	if len(values) != 1 || values[0] == "" {
		return 0
	}
	v := values[0]
	if strings.Trim(v, "0123456789") == "" {
		const most = uint64(math.MaxInt64 / time.Second)
		var n uint64
		for i := range len(v) {
			if n = n*10 + uint64(v[i]-'0'); n > most {
				return math.MaxInt64
			}
		}
		return time.Duration(n) * time.Second
	}
	t, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return max(0, t.Sub(now)) // Sub saturates
}
