package stored

import (
	"crypto/sha256"
	"sync"

	"github.com/outhook/outhook"
)

// maxSnapshots bounds how many snapshots are remembered.
const maxSnapshots = 4096

// Snapshots restores snapshots from their stored form, and remembers them: what waits for
// a subscriber mostly has the same one, and restoring it costs more than the rest of a
// delivery. The zero value is ready to use.
type Snapshots struct {
	mu       sync.Mutex
	restored map[[sha256.Size]byte]outhook.Snapshot // by the sum of the stored form, which may hold keys; guarded by mu
}

// Restore returns the snapshot whose MarshalBinary has returned data.
func (s *Snapshots) Restore(data []byte) (outhook.Snapshot, error) {
	sum := sha256.Sum256(data)
	s.mu.Lock()
	snapshot, ok := s.restored[sum]
	s.mu.Unlock()
	if ok {
		return snapshot, nil
	}
	if err := snapshot.UnmarshalBinary(data); err != nil {
		return outhook.Snapshot{}, err
	}
	if snapshot.String() == sealed { // each is of one delivery
		return snapshot, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restored == nil || len(s.restored) >= maxSnapshots {
		s.restored = make(map[[sha256.Size]byte]outhook.Snapshot)
	}
	s.restored[sum] = snapshot
	return snapshot, nil
}

// sealed is how a sealed snapshot prints.
const sealed = "(sealed)"
