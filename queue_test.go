package outhook

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

type queued struct {
	rank, serial int
	place        int32
}

func compareQueued(a, b *queued) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.serial, b.serial))
}

// A queue gives what a sorted slice gives, whether items come in order, mostly so, or not.
func TestQueue(t *testing.T) {
	t.Parallel()
	for _, late := range []int{0, 1, 5, 100} { // of 100 items
		t.Run(fmt.Sprintf("%d%% out of order", late), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, uint64(late)))
			q := queue[queued]{
				less:  func(a, b *queued) bool { return compareQueued(a, b) < 0 },
				place: func(x *queued) *int32 { return &x.place },
			}
			var want []*queued
			now := 0
			rank := func() int {
				now++
				if random.IntN(100) < late {
					return random.IntN(now)
				}
				return now
			}
			for range 20_000 {
				switch n := random.IntN(8); {
				case n < 3 || len(want) == 0:
					x := &queued{rank: rank(), serial: now, place: -1}
					q.put(x)
					want = append(want, x)
				case n < 5: // as a claim does
					x := q.first()
					x.rank = rank()
					q.put(x)
				case n == 5:
					x := want[random.IntN(len(want))]
					x.rank = rank()
					q.put(x)
				default:
					i := random.IntN(len(want))
					q.remove(want[i])
					require.EqualValues(t, -1, want[i].place)
					q.remove(want[i]) // is not there
					want = slices.Delete(want, i, i+1)
				}
				require.Equal(t, len(want), q.len())
				if len(want) == 0 {
					require.Nil(t, q.first())
					continue
				}
				require.Same(t, slices.MinFunc(want, compareQueued), q.first())
			}
			require.Less(t, len(q.line), 2*len(want)+64, "gaps are closed")
			if late == 0 {
				require.Empty(t, q.heap)
			}
			slices.SortFunc(want, compareQueued)
			for _, x := range want {
				require.Same(t, x, q.first())
				q.remove(x)
			}
			require.Nil(t, q.first())
			require.Empty(t, slices.DeleteFunc(q.line[:cap(q.line)], func(x *queued) bool { return x == nil }), "nothing is kept")
		})
	}
}
