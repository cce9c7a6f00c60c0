package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// TestLikeMemoryStore does the same to a Store and to a MemoryStore, at random,
// on the clock of a bubble, and compares what they answer.
func TestLikeMemoryStore(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hooks.db")
			pool := deliveries(t, "pool", "a", "b", "c")
			synctest.Test(t, func(t *testing.T) {
				db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
				require.NoError(t, err)
				defer db.Close()
				p := &pair{
					T: t, rand: rand.New(rand.NewPCG(seed, 0)), pool: pool,
					bolt: NewStore(db), memory: outhook.NewMemoryStore(), leases: map[outhook.Lease]outhook.Lease{},
				}
				for range 150 {
					[]func(){p.enqueue, p.claim, p.claim, p.finish, p.finish, p.sleep}[p.rand.IntN(6)]()
				}
			})
		})
	}
}

// A pair is two stores that have been told the same.
type pair struct {
	*testing.T
	rand   *rand.Rand
	pool   []outhook.Delivery
	bolt   *Store
	memory *outhook.MemoryStore
	leases map[outhook.Lease]outhook.Lease // those of bolt, with those of memory
	given  []outhook.Lease                 // the keys of leases, in order
}

func (p *pair) seconds(n int) time.Duration { return time.Duration(p.rand.IntN(n)) * time.Second }

func (p *pair) sleep() { time.Sleep(p.seconds(8)) }

func (p *pair) enqueue() {
	var batch []outhook.Delivery
	for _, i := range p.rand.Perm(len(p.pool))[:1+p.rand.IntN(len(p.pool))] {
		d := p.pool[i]
		d.ID.Event = fmt.Sprint("e", p.rand.IntN(40))
		d.OrderKey = []string{"", "", "k", "l"}[p.rand.IntN(4)]
		d.HoldOnDead = p.rand.IntN(4) == 0
		d.Digest[0] = byte(min(p.rand.IntN(40), 1))
		if p.rand.IntN(3) == 0 {
			d.Delay = p.seconds(10)
		}
		if p.rand.IntN(3) == 0 {
			d.TTL = p.seconds(20)
		}
		batch = append(batch, d)
	}
	got, gotErr := p.bolt.Enqueue(p.Context(), batch)
	want, wantErr := p.memory.Enqueue(p.Context(), batch)
	require.Equal(p, want, got)
	if wantErr == nil {
		require.NoError(p, gotErr)
	} else {
		require.ErrorIs(p, gotErr, outhook.ErrConflict)
	}
}

func (p *pair) claim() {
	request := outhook.ClaimRequest{
		Limit: 1000, PerSubscriber: 1 + p.rand.IntN(4), Lease: time.Second + p.seconds(8),
		// All suspects or none: which ones come first is left to a store.
		SuspectAfter: 1 + p.rand.IntN(3), Suspects: 1000 * p.rand.IntN(2),
	}
	if p.rand.IntN(3) == 0 {
		request.Room = map[string]int{"a": p.rand.IntN(3), "unknown": 7}
	}
	got, err := p.bolt.Claim(p.Context(), request)
	require.NoError(p, err)
	want, err := p.memory.Claim(p.Context(), request)
	require.NoError(p, err)
	if request.Suspects > 0 { // otherwise MemoryStore may name an instant for a suspect
		require.Equal(p, want.Next, got.Next)
	}
	require.Len(p, got.Claims, len(want.Claims))
	for _, claims := range [][]outhook.Claim{got.Claims, want.Claims} {
		slices.SortFunc(claims, func(a, b outhook.Claim) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	}
	for i, c := range got.Claims {
		lease := c.Lease()
		require.NotContains(p, p.leases, lease)
		for _, before := range p.given {
			require.True(p, before.ID != lease.ID || before.Token < lease.Token)
		}
		p.leases[lease] = want.Claims[i].Lease()
		p.given = append(p.given, lease)

		sent, err := c.Snapshot.MarshalBinary()
		require.NoError(p, err)
		snapshot, err := want.Claims[i].Snapshot.MarshalBinary()
		require.NoError(p, err)
		require.Equal(p, snapshot, sent)
		require.True(p, c.Time.Equal(want.Claims[i].Time))
		c.Token, c.Snapshot, c.Time = want.Claims[i].Token, want.Claims[i].Snapshot, want.Claims[i].Time
		require.Equal(p, want.Claims[i], c)
	}
}

func (p *pair) finish() {
	var outcomes, same []outhook.Outcome
	for range min(p.rand.IntN(4), len(p.given)) {
		// The latest leases more often than old ones.
		lease := p.given[max(len(p.given)-1-p.rand.IntN(8), 0)]
		o := outhook.Outcome{Lease: lease, State: outhook.Pending, After: p.seconds(8) - time.Second}
		switch p.rand.IntN(4) {
		case 0:
			o.Released = true
		case 1:
			o.State = []outhook.State{outhook.Delivered, outhook.Dead, outhook.Cancelled}[p.rand.IntN(3)]
		}
		outcomes = append(outcomes, o)
		o.Lease = p.leases[lease]
		same = append(same, o)
	}
	got, err := p.bolt.Finish(p.Context(), outcomes)
	require.NoError(p, err)
	want, err := p.memory.Finish(p.Context(), same)
	require.NoError(p, err)
	for i, lease := range got {
		got[i] = p.leases[lease]
	}
	require.Equal(p, want, got)
}
