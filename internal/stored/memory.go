package stored

import (
	"sync"

	"github.com/outhook/outhook"
)

// A Memory remembers what can be found elsewhere, too. When it is full, it forgets all of it.
type Memory[K comparable, V any] struct {
	limit int
	cost  func(V) int

	mu    sync.Mutex // guards all below
	of    map[K]V
	spent int
}

// NewMemory returns a Memory of values that cost limit in all. A nil cost is 1 for each.
func NewMemory[K comparable, V any](limit int, cost func(V) int) *Memory[K, V] {
	if cost == nil {
		cost = func(V) int { return 1 }
	}
	return &Memory[K, V]{limit: limit, cost: cost, of: make(map[K]V)}
}

// Find returns a value, if it is remembered.
func (m *Memory[K, V]) Find(key K) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok = m.of[key]
	return value, ok
}

// Len returns how many are remembered.
func (m *Memory[K, V]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.of)
}

// Keep remembers values, but for such as cost more than the limit.
func (m *Memory[K, V]) Keep(fresh map[K]V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, value := range fresh {
		m.forget(key)
		cost := m.cost(value)
		if cost > m.limit {
			continue
		}
		if m.spent+cost > m.limit {
			m.of, m.spent = make(map[K]V), 0
		}
		m.of[key] = value
		m.spent += cost
	}
}

// Forget forgets a value.
func (m *Memory[K, V]) Forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(key)
}

func (m *Memory[K, V]) forget(key K) {
	if value, ok := m.of[key]; ok {
		delete(m.of, key)
		m.spent -= m.cost(value)
	}
}

// A BodyOf is a payload by its number and its event: a row that was damaged to have the
// number of another event's does not get that.
type BodyOf struct {
	ID    int64
	Event string
}

// Payloads remembers payloads that are committed, which never change: of an event to many
// subscribers, one claim rarely gets all deliveries.
type Payloads = Memory[BodyOf, *outhook.Payload]

const (
	maxPayloadBytes = 4 << 20
	payloadBytes    = 512 // of each, beside its body
)

// NewPayloads returns Payloads of 4 MiB.
func NewPayloads() *Payloads {
	return NewMemory[BodyOf](maxPayloadBytes, func(p *outhook.Payload) int { return len(p.Body) + payloadBytes })
}
