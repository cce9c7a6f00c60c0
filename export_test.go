package outhook

import "slices"

// Misplaced looks inside a store: of a key only the placed delivery may be in the
// queue of its lane. A store that breaks this may loop for ever in Claim. It returns
// one that is there all the same.
func Misplaced(s *MemoryStore) *DeliveryID {
	for _, lane := range s.lanes {
		for _, row := range slices.Concat(lane.queue.line, lane.queue.heap) {
			if row == nil {
				continue
			}
			name := row.event.OrderKey
			if key := lane.keys[name]; name != "" && (key == nil || key.placed != row) {
				id := row.id()
				return &id
			}
		}
	}
	return nil
}
