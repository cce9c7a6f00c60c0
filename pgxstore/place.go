package pgxstore

import (
	"maps"
	"sync"

	"github.com/outhook/outhook"
)

// maxPlaces bounds how many leases are remembered.
const maxPlaces = 50_000

// A place is where a lease is found in pending, unless its row has changed since.
type place struct {
	ctid       string
	delivery   int64
	subscriber int64
	ordered    bool
}

// places remembers those of the leases that this Store has given, so that Finish need not
// look for them by name.
type places struct {
	mu sync.Mutex
	of map[outhook.Lease]place // guarded by mu
}

func (p *places) add(leased map[outhook.Lease]place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of)+len(leased) > maxPlaces { // whoever leased them has forgotten them
		p.of = make(map[outhook.Lease]place)
	}
	maps.Copy(p.of, leased)
}

func (p *places) find(l outhook.Lease) (at place, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok = p.of[l]
	return at, ok
}

func (p *places) forget(outcomes []outhook.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range outcomes {
		delete(p.of, outcomes[i].Lease)
	}
}
