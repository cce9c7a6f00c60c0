package outhook

import "slices"

// Misplaced looks inside a store: what is in a queue has to know where, and of a key only
// the placed delivery may be in the queue of its lane. A store that breaks this may loop for
// ever in Claim. It returns one that is there all the same.
func Misplaced(s *MemoryStore) *DeliveryID {
	for _, q := range []*queue[memoryRow]{&s.settled, &s.dead} {
		if row := lost(q); row != nil {
			id := row.id()
			return &id
		}
	}
	for _, lane := range s.lanes {
		row := lost(&lane.queue)
		for _, queued := range slices.Concat(lane.queue.line, lane.queue.heap) {
			if queued == nil {
				continue
			}
			name := queued.event.OrderKey
			if key := lane.keys[name]; name != "" && (key == nil || key.placed != queued) {
				row = queued
			}
		}
		if row != nil {
			id := row.id()
			return &id
		}
	}
	return nil
}

// lost returns an item that does not know its place.
func lost[T any](q *queue[T]) *T {
	for i, x := range q.line {
		if x != nil && *q.place(x) != int32(-2-i) {
			return x
		}
	}
	for i, x := range q.heap {
		if *q.place(x) != int32(i) {
			return x
		}
	}
	return nil
}
