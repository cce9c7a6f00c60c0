package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(&out))
	sum := 0
	for line := range strings.Lines(out.String()) {
		var i, n int
		_, err := fmt.Sscanf(line, "partition %d: %d delivered", &i, &n)
		require.NoError(t, err)
		require.InDelta(t, subscribers*events/partitions, n, subscribers*events/partitions/4, "an even share")
		sum += n
	}
	require.Equal(t, subscribers*events, sum)
}

// TestOneMore: one more partition takes its share, and moves nobody between the others.
func TestOneMore(t *testing.T) {
	p := make(Partitions, 5)
	for i := range p {
		d, err := outhook.New(outhook.NewMemoryStore(), nil)
		require.NoError(t, err)
		p[i] = d
	}
	moved := 0
	for i := range 10_000 {
		id := fmt.Sprint(i)
		if before, after := p[:4].Of(id), p.Of(id); before != after {
			require.Same(t, p[4], after)
			moved++
		}
	}
	require.InDelta(t, 2000, moved, 200)
}

// TestAgain: what one partition refuses does not keep others from accepting, and the
// event can be sent again.
func TestAgain(t *testing.T) {
	full, err := outhook.New(&outhook.MemoryStore{MaxPending: 1}, nil)
	require.NoError(t, err)
	roomy, err := outhook.New(outhook.NewMemoryStore(), nil)
	require.NoError(t, err)
	p := Partitions{full, roomy}
	var to []outhook.Subscriber
	for i := range 20 {
		to = append(to, outhook.Subscriber{ID: fmt.Sprint(i), URL: "https://example.com/", Keys: []outhook.Key{outhook.GenerateKey()}})
	}
	receipt, err := p.Send(t.Context(), outhook.Event{Type: "x"}, to)
	require.ErrorIs(t, err, outhook.ErrFull)
	require.NotEmpty(t, receipt.Accepted)
	again, err := p.Send(t.Context(), outhook.Event{ID: receipt.EventID, Type: "x", Data: "another"}, to)
	require.True(t, errors.Is(err, outhook.ErrFull) && errors.Is(err, outhook.ErrConflict), err)
	require.Empty(t, again.Accepted)
}
