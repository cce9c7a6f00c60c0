package sqlitestore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestHold is of a key that is held by the lease of one delivery, while the
// late outcome of another one comes in.
func TestHold(t *testing.T) {
	s := newStore(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	one := func(event string) outhook.Claim {
		t.Helper()
		claims := claim(t, s)
		require.Len(t, claims, 1)
		require.Equal(t, event, claims[0].ID.Event)
		return claims[0]
	}
	finish := func(c outhook.Claim, state outhook.State) {
		t.Helper()
		lost, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: c.Lease(), State: state}})
		require.NoError(t, err)
		require.Empty(t, lost)
	}
	change := func(n int, err error) {
		t.Helper()
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	for _, event := range []string{"a", "b"} {
		d := newDelivery(event, "s")
		d.OrderKey = "k"
		enqueue(t, s, d)
	}
	finish(one("a"), outhook.Dead)
	b := one("b")
	change(s.Replay(t.Context(), outhook.Filter{Event: "a"}))
	now = now.Add(time.Hour) // the lease of b has ended
	one("a")
	finish(b, outhook.Pending)
	change(s.Cancel(t.Context(), outhook.Filter{Event: "a"}))
	require.Empty(t, claim(t, s), "the request of a may be under way")
	now = now.Add(time.Hour)
	finish(one("b"), outhook.Delivered)

	require.Equal(t, outhook.Stats{Delivered: 1, Cancelled: 1}, stats(t, s))
	_, err := s.Prune(t.Context(), outhook.Filter{})
	require.NoError(t, err)
	require.Zero(t, rows(t, s), "nothing is left of them")
}

// TestLateOutcome is of a lease of which the outcome comes when two others have taken
// the places before it.
func TestLateOutcome(t *testing.T) {
	s := newStore(t)
	for _, event := range []string{"a", "b", "c"} {
		d := newDelivery(event, "s")
		d.OrderKey = "k"
		enqueue(t, s, d)
	}
	one := func(event string, state outhook.State) {
		t.Helper()
		claims := claim(t, s)
		require.Len(t, claims, 1)
		require.Equal(t, event, claims[0].ID.Event)
		if event == "c" {
			n, err := s.Replay(t.Context(), outhook.Filter{})
			require.NoError(t, err)
			require.Equal(t, 2, n)
		}
		lost, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: claims[0].Lease(), State: state}})
		require.NoError(t, err)
		require.Empty(t, lost)
	}
	one("a", outhook.Dead)
	one("b", outhook.Dead)
	one("c", outhook.Pending)
	for _, event := range []string{"a", "b"} {
		one(event, outhook.Delivered)
	}
	require.Len(t, claim(t, s), 1)
	require.Equal(t, outhook.Stats{Pending: 1, Delivered: 2}, stats(t, s))
}

// rows counts those of all tables that are to be empty when all is pruned.
func rows(t *testing.T, s *Store) (n int) {
	t.Helper()
	require.NoError(t, s.DB().QueryRow(`select (select count(*) from outhook_payload) + (select count(*) from outhook_delivery)
		+ (select count(*) from outhook_pending) + (select count(*) from outhook_place) + (select count(*) from outhook_hold)
		+ (select count(*) from outhook_outcome)`).Scan(&n))
	return n
}

func TestSharedPayload(t *testing.T) {
	s := newStore(t)
	a, b := newDelivery("e", "a"), newDelivery("e", "b")
	b.Payload = a.Payload
	other := newDelivery("other", "a")
	other.Payload = a.Payload
	enqueue(t, s, a, b, other)
	payloads := func() (n int) {
		require.NoError(t, s.DB().QueryRow("select count(*) from outhook_payload").Scan(&n))
		return n
	}
	require.Equal(t, 2, payloads(), "one for each event, however many subscribers")
	claims := claim(t, s)
	require.Len(t, claims, 3)
	for _, c := range claims {
		_, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: c.Lease(), State: outhook.Delivered, Attempts: []outhook.Attempt{{Number: 1}}}})
		require.NoError(t, err)
	}
	for _, left := range []struct {
		subscriber string
		payloads   int
	}{{"a", 1}, {"b", 0}} {
		_, err := s.Prune(t.Context(), outhook.Filter{Subscriber: left.subscriber})
		require.NoError(t, err)
		require.Equal(t, left.payloads, payloads())
		if left.payloads > 0 {
			r, err := s.Get(t.Context(), b.ID)
			require.NoError(t, err)
			require.Equal(t, a.Payload, r.Payload)
		}
	}
	require.Zero(t, rows(t, s))
}
