package sqlitestore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestStatesOfFilter is of filters with several states, each of which is
// searched by itself.
func TestStatesOfFilter(t *testing.T) {
	s := newStore(t)
	enqueue(t, s, newDelivery("a", "s"), newDelivery("b", "s"), newDelivery("c", "s"), newDelivery("d", "s"))
	states := map[string]outhook.State{"a": outhook.Dead, "b": outhook.Delivered, "c": outhook.Dead, "d": outhook.Cancelled}
	for _, c := range claim(t, s) {
		_, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: c.Lease(), State: states[c.ID.Event]}})
		require.NoError(t, err)
	}
	list := func(limit int, states ...outhook.State) (events string) {
		for r, err := range s.List(t.Context(), outhook.Filter{States: states, Limit: limit}) {
			require.NoError(t, err)
			events += r.ID.Event
		}
		return events
	}
	require.Equal(t, "abcd", list(0, outhook.Cancelled, outhook.Dead, outhook.Delivered))
	require.Equal(t, "ab", list(2, outhook.Cancelled, outhook.Dead, outhook.Delivered), "the first of all, not of each")
	require.Equal(t, "ac", list(0, outhook.Dead, outhook.Dead), "each once")
	require.Equal(t, "ac", list(0, outhook.Dead, outhook.Pending))
	n, err := s.Prune(t.Context(), outhook.Filter{States: []outhook.State{outhook.Dead, outhook.Dead}})
	require.NoError(t, err)
	require.Equal(t, 2, n)
}
