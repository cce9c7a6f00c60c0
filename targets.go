package outhook

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// maxTargets bounds how many subscribers a Dispatcher remembers the targets of.
const maxTargets = 10_000

// targets remember what Send made of each subscriber last: while it does not change, it is
// neither validated nor copied again, and all that waits for it shares one target.
type targets struct {
	mu sync.Mutex
	of map[string]Snapshot // by subscriber; guarded by mu. Snapshots, as those do not print
}

// known returns the target of a subscriber.
func (d *Dispatcher) known(s *Subscriber, f *faults) *target {
	ts := &d.targets
	ts.mu.Lock()
	t := ts.of[s.ID].target()
	ts.mu.Unlock()
	if t != nil && t.madeOf(s) && t.usable(time.Now()) {
		return t
	}
	before := len(*f)
	t = d.target(s, f)
	if len(*f) > before {
		return t
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.of == nil || len(ts.of) >= maxTargets {
		ts.of = make(map[string]Snapshot)
	}
	ts.of[s.ID] = t.shared
	return t
}

// madeOf reports whether a target is what it would be made of a subscriber.
func (t *target) madeOf(s *Subscriber) bool {
	return t.raw == s.URL && t.unsigned == s.Unsigned && t.timeout == s.Timeout &&
		t.concurrency == s.Concurrency && t.rate == s.Rate &&
		slices.EqualFunc(t.keys, s.Keys, equalKeys) &&
		maps.EqualFunc(t.header, s.Header, slices.Equal)
}

// usable reports whether there is a key that has not expired, unless none is needed.
func (t *target) usable(now time.Time) bool {
	return t.unsigned || slices.ContainsFunc(t.keys, func(k Key) bool { return k.live(now) })
}

func equalKeys(a, b Key) bool {
	return a.Scheme == b.Scheme && a.Expires.Equal(b.Expires) && (a.Secret == b.Secret || a.Secret.Reveal() == b.Secret.Reveal())
}
