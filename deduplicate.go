package outhook

import (
	"cmp"
	"context"
	"crypto/sha256"
	"sync"
)

// A Deduplicator sees to it that an event is handled once, though it can arrive more
// than once. One of your own can write the ID in the very transaction in which handle
// does its work, which it passes on in the context.
//
// Senders choose IDs, and two of them may choose the same: one that is shared by
// Verifiers of several senders has to tell them apart. One that is shared by several
// Handlers hands an event on to one of them.
type Deduplicator interface {
	// Once calls handle and returns its error, unless a call with that ID had a
	// handle that returned nil: then it returns nil. While another call with that
	// ID is under way, it waits for that, or returns an error, so that the event
	// is sent again. It must return an error if what handle did may be lost, by a
	// failed commit say.
	//
	// It may be called concurrently. The ID is not empty, of up to the length that
	// the server allows a header, and of any bytes. handle does not panic: its panics
	// are errors already. ctx ends when the client goes away.
	Once(ctx context.Context, id string, handle func(context.Context) error) error
}

// A MemoryDeduplicator remembers the IDs of the latest events in memory: it knows
// nothing of other processes, and nothing after a restart. The zero one remembers
// 10,000.
type MemoryDeduplicator struct {
	limit int // 0: 10,000

	mu     sync.Mutex
	calls  map[dedupID]*dedupCall // guarded by mu
	done   []dedupID              // in the order in which they were handled, a ring once it is full; guarded by mu
	oldest int                    // in done; guarded by mu
}

// A dedupID is the hash of an ID, for IDs of others may be long.
type dedupID [sha256.Size]byte

// A dedupCall is under way until ended is closed, and remembered if it went well.
type dedupCall struct {
	ended   chan struct{}
	handled bool // before ended is closed
}

// NewMemoryDeduplicator returns one that remembers so many IDs, at least 1.
func NewMemoryDeduplicator(limit int) *MemoryDeduplicator {
	return &MemoryDeduplicator{limit: max(limit, 1)}
}

// Once implements [Deduplicator]. It waits for another call until ctx ends.
func (m *MemoryDeduplicator) Once(ctx context.Context, id string, handle func(context.Context) error) error {
	key := dedupID(sha256.Sum256([]byte(id)))
	for {
		m.mu.Lock()
		other := m.calls[key]
		if other == nil {
			call := &dedupCall{ended: make(chan struct{})}
			if m.calls == nil {
				m.calls = make(map[dedupID]*dedupCall)
			}
			m.calls[key] = call
			m.mu.Unlock()
			return m.do(ctx, key, call, handle)
		}
		m.mu.Unlock()
		select {
		case <-other.ended:
		default:
			select {
			case <-other.ended:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if other.handled {
			return nil
		}
	}
}

func (m *MemoryDeduplicator) do(ctx context.Context, key dedupID, call *dedupCall, handle func(context.Context) error) error {
	defer func() { // also if handle panics
		m.mu.Lock()
		defer m.mu.Unlock()
		close(call.ended)
		switch limit := cmp.Or(m.limit, 10_000); {
		case !call.handled:
			delete(m.calls, key)
		case len(m.done) < limit:
			m.done = append(m.done, key)
		default:
			delete(m.calls, m.done[m.oldest])
			m.done[m.oldest] = key
			m.oldest = (m.oldest + 1) % limit
		}
	}()
	err := handle(ctx)
	call.handled = err == nil
	return err
}
