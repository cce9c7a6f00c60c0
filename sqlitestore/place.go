package sqlitestore

import (
	"sync"

	"github.com/outhook/outhook"
)

// maxPlaces bounds how many leases are remembered.
const maxPlaces = 50_000

// place is what Finish has to know of the delivery of a lease, and what never changes.
type place struct {
	id         int64
	key        key
	holdOnDead bool
}

// places remembers those of the leases that this handle has given, so that Finish need
// not look for them by name.
type places struct {
	mu sync.Mutex
	of map[outhook.Lease]place // guarded by mu
}

func (p *places) add(leased []candidate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of)+len(leased) > maxPlaces { // whoever leased them has forgotten them
		p.of = make(map[outhook.Lease]place)
	}
	for i := range leased {
		p.of[leased[i].Lease()] = leased[i].place
	}
}

// find returns the place of each lease, zero if it is not remembered.
func (p *places) find(outcomes []outhook.Outcome) []place {
	found := make([]place, len(outcomes))
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range outcomes {
		found[i] = p.of[outcomes[i].Lease]
	}
	return found
}

func (p *places) forget(outcomes []outhook.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range outcomes {
		delete(p.of, outcomes[i].Lease)
	}
}
