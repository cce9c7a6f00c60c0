package sqlitestore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestNextBehindSuspect is of a paused subscriber whose first delivery is one
// that there is no room for.
func TestNextBehindSuspect(t *testing.T) {
	s := newStore(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	enqueue(t, s, newDelivery("suspect", "s"))
	require.Len(t, claim(t, s), 1)
	now = now.Add(time.Hour) // its lease has ended
	innocent := newDelivery("innocent", "s")
	innocent.Delay = 5 * time.Second
	enqueue(t, s, innocent)
	require.NoError(t, s.UpdateStandings(t.Context(), []string{"s"}, func(now time.Time, s *outhook.Standing) {
		s.PausedUntil = now.Add(10 * time.Second)
	}))
	claimed, err := s.Claim(t.Context(), outhook.ClaimRequest{Limit: 9, PerSubscriber: 9, SuspectAfter: 1, Lease: time.Hour})
	require.NoError(t, err)
	require.Equal(t, outhook.Claimed{Next: 10 * time.Second}, claimed)
}
