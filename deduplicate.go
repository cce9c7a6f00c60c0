package outhook

import (
	"context"
	"sync"
)

// A Deduplicator sees to it that an event is handled once, though it can arrive more
// than once. One of your own can write the ID in the very transaction in which handle
// does its work, which it passes on in the context.
type Deduplicator interface {
	// Once calls handle and returns its error, unless a call with that ID had a
	// handle that returned nil: then it returns nil. While another call with that
	// ID is under way, it waits for that, or returns an error, so that the event
	// is sent again.
	Once(ctx context.Context, id string, handle func(context.Context) error) error
}

// A MemoryDeduplicator remembers the IDs of the latest events in memory: it knows
// nothing of other processes, and nothing after a restart.
type MemoryDeduplicator struct {
	limit int

	mu     sync.Mutex
	calls  map[string]*dedupCall // guarded by mu
	done   []string              // IDs in the order in which they were handled, a ring once it is full; guarded by mu
	oldest int                   // in done; guarded by mu
}

// A dedupCall is under way until ended is closed, and remembered if it went well.
type dedupCall struct{ ended chan struct{} }

// NewMemoryDeduplicator returns one that remembers so many IDs, at least 1.
func NewMemoryDeduplicator(limit int) *MemoryDeduplicator {
	return &MemoryDeduplicator{limit: max(limit, 1), calls: make(map[string]*dedupCall)}
}

// Once implements [Deduplicator]. It waits for another call until ctx ends.
func (m *MemoryDeduplicator) Once(ctx context.Context, id string, handle func(context.Context) error) error {
	for {
		m.mu.Lock()
		other := m.calls[id]
		if other == nil {
			call := &dedupCall{make(chan struct{})}
			m.calls[id] = call
			m.mu.Unlock()
			return m.do(ctx, id, call, handle)
		}
		m.mu.Unlock()
		select {
		case <-other.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		m.mu.Lock()
		known := m.calls[id] == other
		m.mu.Unlock()
		if known {
			return nil
		}
	}
}

func (m *MemoryDeduplicator) do(ctx context.Context, id string, call *dedupCall, handle func(context.Context) error) error {
	handled := false
	defer func() { // also if handle panics
		m.mu.Lock()
		defer m.mu.Unlock()
		close(call.ended)
		switch {
		case !handled:
			delete(m.calls, id)
		case len(m.done) < m.limit:
			m.done = append(m.done, id)
		default:
			delete(m.calls, m.done[m.oldest])
			m.done[m.oldest] = id
			m.oldest = (m.oldest + 1) % m.limit
		}
	}()
	err := handle(ctx)
	handled = err == nil
	return err
}
