package sqlitestore

import (
	"maps"
	"sync"
)

// maxSubscribers bounds how many subscribers are remembered.
const maxSubscribers = 50_000

// subscribers remembers the numbers of subscribers, whose rows are never removed.
type subscribers struct {
	mu  sync.Mutex
	ids map[string]int64 // by name; guarded by mu
}

func (s *subscribers) find(name string) (id int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok = s.ids[name]
	return id, ok
}

// add adds some that are committed.
func (s *subscribers) add(fresh map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil || len(s.ids)+len(fresh) > maxSubscribers {
		s.ids = make(map[string]int64)
	}
	maps.Copy(s.ids, fresh)
}
