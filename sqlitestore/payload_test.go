package sqlitestore

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestRememberedPayloads is of payloads that are read once, and of those that must not be
// taken for another.
func TestRememberedPayloads(t *testing.T) {
	version := func(text string) outhook.Delivery {
		d := newDelivery("e", "s")
		d.Payload = &outhook.Payload{Body: []byte(text)}
		d.Digest[0] = text[0]
		return d
	}
	t.Run("of an event it is one", func(t *testing.T) {
		s := newStore(t)
		a, b := version("x"), version("x")
		b.ID.Subscriber, b.Payload = "other", a.Payload
		enqueue(t, s, a, b)
		var payloads []*outhook.Payload
		for range 2 {
			claimed, err := s.Claim(t.Context(), outhook.ClaimRequest{Limit: 1, PerSubscriber: 1, SuspectAfter: 5, Lease: time.Hour})
			require.NoError(t, err)
			payloads = append(payloads, claimed.Claims[0].Payload)
		}
		require.Same(t, payloads[0], payloads[1])
		require.Equal(t, a.Payload, payloads[0])
	})
	t.Run("after it was pruned and sent again it is the new one", func(t *testing.T) {
		s := newStore(t)
		for _, text := range []string{"old", "new"} {
			enqueue(t, s, version(text))
			claims := claim(t, s)
			require.Len(t, claims, 1)
			require.Equal(t, text, string(claims[0].Payload.Body))
			_, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: claims[0].Lease(), State: outhook.Delivered}})
			require.NoError(t, err)
			require.Zero(t, s.places.Len())
			_, err = s.Prune(t.Context(), outhook.Filter{})
			require.NoError(t, err)
		}
	})
	t.Run("one that was not committed is not remembered", func(t *testing.T) {
		g := newGate(t)
		var group sync.WaitGroup
		fails := func(call func() error) {
			group.Go(func() {
				if err := call(); err == nil {
					t.Error("no error")
				}
			})
		}
		fails(func() error {
			_, err := g.Enqueue(t.Context(), []outhook.Delivery{version("old")})
			return err
		})
		g.queued(1)
		fails(func() error {
			_, err := g.Claim(t.Context(), outhook.ClaimRequest{Limit: 9, PerSubscriber: 9, SuspectAfter: 5, Lease: time.Hour})
			return err
		})
		g.queued(2)
		g.second = func() { // the commit finds no transaction
			_, err := g.writer.conn.execute("rollback", nil)
			if err != nil {
				t.Error(err)
			}
		}
		g.open()
		group.Wait()
		g.second = nil
		require.Equal(t, []int{2}, g.groups)
		_, err := g.Enqueue(context.Background(), []outhook.Delivery{version("new")})
		require.NoError(t, err)
		claims := claim(t, g.Store)
		require.Len(t, claims, 2)
		require.Equal(t, "new", string(claims[1].Payload.Body))
	})
}
