package stored

import (
	"crypto/sha256"

	"github.com/outhook/outhook"
)

// maxSnapshots bounds how many snapshots are remembered.
const maxSnapshots = 4096

// Snapshots restores snapshots from their stored form, and remembers them: what waits for
// a subscriber mostly has the same one, and restoring it costs more than the rest of a
// delivery.
type Snapshots struct {
	restored *Memory[[sha256.Size]byte, outhook.Snapshot] // by the sum of the stored form, which may hold keys
}

// NewSnapshots returns Snapshots that remember nothing yet.
func NewSnapshots() Snapshots {
	return Snapshots{NewMemory[[sha256.Size]byte, outhook.Snapshot](maxSnapshots, nil)}
}

// Restore returns the snapshot whose MarshalBinary has returned data.
func (s Snapshots) Restore(data []byte) (outhook.Snapshot, error) {
	sum := sha256.Sum256(data)
	snapshot, ok := s.restored.Find(sum)
	if ok {
		return snapshot, nil
	}
	if err := snapshot.UnmarshalBinary(data); err != nil {
		return outhook.Snapshot{}, err
	}
	if snapshot.String() == sealed { // each is of one delivery
		return snapshot, nil
	}
	s.restored.Keep(map[[sha256.Size]byte]outhook.Snapshot{sum: snapshot})
	return snapshot, nil
}

// sealed is how a sealed snapshot prints.
const sealed = "(sealed)"
