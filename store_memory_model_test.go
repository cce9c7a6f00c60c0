package outhook_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
)

// lookedInto is a MemoryStore that fails a call which leaves it in disorder, or which
// answers in another order than it was asked.
type lookedInto struct{ *outhook.MemoryStore }

func (s lookedInto) look(err error) error {
	if id := outhook.Misplaced(s.MemoryStore); err == nil && id != nil {
		return fmt.Errorf("%v is queued, but not placed", id)
	}
	return err
}

func (s lookedInto) Enqueue(ctx context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	known, err := s.MemoryStore.Enqueue(ctx, deliveries)
	var inOrder []outhook.DeliveryID
	for _, d := range deliveries {
		if slices.Contains(known, d.ID) {
			inOrder = append(inOrder, d.ID)
		}
	}
	if err == nil && !slices.Equal(known, inOrder) {
		err = fmt.Errorf("known are %v, not in the order of the call", known)
	}
	return known, s.look(err)
}

func (s lookedInto) Claim(ctx context.Context, request outhook.ClaimRequest) (outhook.Claimed, error) {
	claimed, err := s.MemoryStore.Claim(ctx, request)
	return claimed, s.look(err)
}

func (s lookedInto) Finish(ctx context.Context, outcomes []outhook.Outcome) ([]outhook.Lease, error) {
	lost, err := s.MemoryStore.Finish(ctx, outcomes)
	var inOrder []outhook.Lease
	for _, o := range outcomes {
		if slices.Contains(lost, o.Lease) {
			inOrder = append(inOrder, o.Lease)
		}
	}
	if err == nil && !slices.Equal(lost, inOrder) {
		err = fmt.Errorf("lost are %v, not in the order of the call", lost)
	}
	return lost, s.look(err)
}

func (s lookedInto) Replay(ctx context.Context, filter outhook.Filter) (int, error) {
	n, err := s.MemoryStore.Replay(ctx, filter)
	return n, s.look(err)
}

func (s lookedInto) Cancel(ctx context.Context, filter outhook.Filter) (int, error) {
	n, err := s.MemoryStore.Cancel(ctx, filter)
	return n, s.look(err)
}

func (s lookedInto) Prune(ctx context.Context, filter outhook.Filter) (int, error) {
	n, err := s.MemoryStore.Prune(ctx, filter)
	return n, s.look(err)
}

func (s lookedInto) UpdateStandings(ctx context.Context, subscribers []string, update func(time.Time, *outhook.Standing)) error {
	return s.look(s.MemoryStore.UpdateStandings(ctx, subscribers, update))
}

// TestMemoryStoreModel compares the store with the model of storetest over many more
// random sequences than the suite does, and looks inside after each call.
func TestMemoryStoreModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, storetest.Model(t.Context(), func() (storetest.Backend, error) {
			return storetest.Backend{Store: lookedInto{outhook.NewMemoryStore()}, Sleep: time.Sleep}, nil
		}, 400))
	})
}
