package outhook

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/outhook/outhook/internal/manage"
)

// Get implements [Manager].
func (s *MemoryStore) Get(_ context.Context, id DeliveryID) (Record, error) {
	now := s.lock()
	defer s.mu.Unlock()
	row := s.row(id)
	if row == nil {
		return Record{}, fmt.Errorf("%w: event %q for subscriber %q", ErrNotFound, id.Event, id.Subscriber)
	}
	record := s.record(row, now)
	if row.past != nil {
		record.Attempts = append(record.Attempts, row.past.history...) // nil if there are none
	}
	return record, nil
}

// List implements [Manager]. It shows the deliveries as they were when it began.
func (s *MemoryStore) List(_ context.Context, filter Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		now := s.lock()
		var records []Record
		for _, row := range s.find(filter, now) {
			records = append(records, s.record(row, now))
		}
		s.mu.Unlock()
		for _, record := range records {
			if !yield(record, nil) {
				return
			}
		}
	}
}

// Replay implements [Manager].
func (s *MemoryStore) Replay(_ context.Context, filter Filter) (n int, err error) {
	now := s.lock()
	defer s.mu.Unlock()
	filter.States = manage.States(filter.States, []State{Dead, Cancelled}, Pending)
	found := s.find(filter, now)
	for _, row := range found {
		s.unsettle(row)
		s.token++
		row.token = s.token
		row.replay++
		s.begin(row, now, 0)
		s.refresh(row.lane, now)
	}
	s.wake()
	return len(found), nil
}

// Cancel implements [Manager].
func (s *MemoryStore) Cancel(_ context.Context, filter Filter) (n int, err error) {
	now := s.lock()
	defer s.mu.Unlock()
	filter.States = manage.States(filter.States, []State{Pending}, Delivered, Dead, Cancelled)
	found := s.find(filter, now)
	for _, row := range found {
		lane := row.lane
		if row.leased(now) {
			row.until = row.leaseEnd
			if key := lane.keys[row.event.OrderKey]; key != nil {
				key.until = row.until
				s.held = append(s.held, memoryHold{row.id(), row.event.OrderKey, row.until})
			}
		}
		s.token++
		row.token, row.live = s.token, false
		s.settle(lane, row, Cancelled, ReasonCancelled, now)
		s.refresh(lane, now)
	}
	return len(found), nil
}

// Prune implements [Manager].
func (s *MemoryStore) Prune(_ context.Context, filter Filter) (n int, err error) {
	now := s.lock()
	defer s.mu.Unlock()
	filter.States = manage.States(filter.States, []State{Delivered, Dead, Cancelled}, Pending)
	found := s.find(filter, now)
	for _, row := range found {
		s.forget(row, now)
	}
	return len(found), nil
}

// Stats implements [Manager].
func (s *MemoryStore) Stats(context.Context) (Stats, error) {
	now := s.lock()
	defer s.mu.Unlock()
	stats := s.count
	for _, lane := range s.lanes {
		if head := lane.queue.first(); head != nil {
			stats.OldestDue = max(stats.OldestDue, now-head.due)
		}
	}
	return stats, nil
}

// Backlogs implements [Manager].
func (s *MemoryStore) Backlogs(context.Context) iter.Seq2[Backlog, error] {
	now := s.lock()
	var list []Backlog
	for id, lane := range s.lanes {
		if lane.pending == 0 {
			continue
		}
		b := Backlog{Subscriber: id, Pending: lane.pending}
		if head := lane.queue.first(); head != nil {
			b.OldestDue = max(0, now-head.due)
		}
		list = append(list, b)
	}
	s.mu.Unlock()
	return func(yield func(Backlog, error) bool) {
		for _, b := range list {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// find returns the rows that a filter selects, in the order of Enqueue.
func (s *MemoryStore) find(f Filter, now instant) []*memoryRow {
	var found []*memoryRow
	match := func(row *memoryRow) bool {
		age := now - row.since
		return (f.Event == "" || f.Event == row.event.ID.Event) &&
			(f.Subscriber == "" || f.Subscriber == row.lane.subscriber) &&
			(f.Type == "" || f.Type == row.event.Type) &&
			(len(f.States) == 0 || slices.Contains(f.States, row.state)) &&
			age >= f.OlderThan &&
			(f.NewerThan == 0 || age <= f.NewerThan)
	}
	if f.Event != "" && f.Subscriber != "" {
		if row := s.row(DeliveryID{f.Event, f.Subscriber}); row != nil && match(row) {
			found = append(found, row)
		}
		return found
	}
	for _, lane := range s.lanes {
		for _, row := range lane.rows {
			if match(row) {
				found = append(found, row)
			}
		}
	}
	slices.SortFunc(found, func(a, b *memoryRow) int { return cmp.Compare(a.serial, b.serial) })
	if f.Limit > 0 && len(found) > f.Limit {
		found = found[:f.Limit]
	}
	return found
}

func (s *MemoryStore) record(row *memoryRow, now instant) Record {
	record := Record{
		ID:       row.id(),
		Type:     row.event.Type,
		Time:     row.event.Time,
		OrderKey: row.event.OrderKey,
		Payload:  row.event.Payload,
		State:    row.state,
		Since:    s.time(row.since),
		Replay:   int(row.replay),
	}
	if row.past != nil {
		record.Reason = row.past.reason
	}
	if row.state == Pending {
		record.Due = s.time(row.due)
		record.Leased = row.leased(now)
	}
	return record
}
