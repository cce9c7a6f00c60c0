package pgxstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestKnownLanes shows that a store which remembers who had something pending finds all
// others, wherever their numbers are.
func TestKnownLanes(t *testing.T) {
	one := outhook.ClaimRequest{Limit: 100, PerSubscriber: 1, SuspectAfter: 5, Suspects: 1, Lease: time.Hour}
	var events int
	send := func(t *testing.T, s *Store, subscribers ...string) {
		var list []outhook.Delivery
		for _, name := range subscribers {
			events++
			list = append(list, newDelivery(t, fmt.Sprint("e", events), name))
		}
		_, err := s.Enqueue(t.Context(), list)
		require.NoError(t, err)
	}
	// Numbers are given in the order of the names.
	setUp := func(t *testing.T) (s, other *Store) {
		s = newStore(t, nil)
		send(t, s, "a", "b", "c", "d", "e")
		require.Len(t, claim(t, s, one).Claims, 5)
		other, err := New(s.pool, &s.options)
		require.NoError(t, err)
		_, err = s.pool.Exec(t.Context(), s.sql(`delete from {schema}.pending where subscriber not in (2, 4)`))
		require.NoError(t, err)
		send(t, s, "b", "d")
		require.Equal(t, []string{"b", "d"}, names(claim(t, other, one)))
		require.Equal(t, []int64{2, 4}, other.lanes.known())
		return s, other
	}
	for _, name := range []string{"a", "c", "e"} {
		t.Run("a new one: "+name, func(t *testing.T) {
			s, other := setUp(t)
			send(t, s, "b", name, "d")
			require.ElementsMatch(t, []string{"b", name, "d"}, names(claim(t, other, one)))
			require.Len(t, other.lanes.known(), 3)
		})
	}
	t.Run("all of them, in their turns", func(t *testing.T) {
		s, other := setUp(t)
		send(t, s, "b", "b", "d", "d")
		two := one
		two.Limit = 1
		require.Equal(t, []string{"b"}, names(claim(t, other, two)))
		require.Equal(t, []string{"d"}, names(claim(t, other, two)))
		require.Equal(t, []string{"b"}, names(claim(t, other, two)))
		require.Equal(t, []string{"d"}, names(claim(t, other, two)))
		require.Empty(t, names(claim(t, other, two)))
	})
	for _, name := range []string{"a", "b"} {
		t.Run("one whose row is missing hides nobody: "+name, func(t *testing.T) {
			s, other := setUp(t)
			send(t, s, name, "c", "d")
			_, err := s.pool.Exec(t.Context(), s.sql(`delete from {schema}.subscriber where name = $1::text`), name)
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"c", "d"}, names(claim(t, other, one)))
			send(t, s, "c", "d")
			require.ElementsMatch(t, []string{"c", "d"}, names(claim(t, other, one)))
		})
	}
	t.Run("those that have nothing any more are forgotten", func(t *testing.T) {
		s, other := setUp(t)
		_, err := s.pool.Exec(t.Context(), s.sql(`delete from {schema}.pending where subscriber = 2`))
		require.NoError(t, err)
		for range forgetLanes*(mostPlain+1) + mostPlain {
			require.Empty(t, claim(t, other, one).Claims)
			require.Equal(t, []int64{2, 4}, other.lanes.known())
		}
		require.Empty(t, claim(t, other, one).Claims)
		require.Equal(t, []int64{4}, other.lanes.known())
		send(t, s, "b")
		require.Equal(t, []string{"b"}, names(claim(t, other, one)))
	})
	t.Run("as many as are looked at in one go", func(t *testing.T) {
		s := newStore(t, nil)
		for i := range minLanes {
			send(t, s, fmt.Sprint("many", i))
		}
		require.Len(t, claim(t, s, one).Claims, minLanes)
		require.Len(t, s.lanes.known(), minLanes)
		less := one
		less.Limit = minLanes
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		claimed, err := s.Claim(ctx, less) // all that waits is leased
		require.NoError(t, err)
		require.Empty(t, claimed.Claims)
		require.Positive(t, claimed.Next)
	})
	t.Run("more than are looked at in one go", func(t *testing.T) {
		s, other := setUp(t)
		var many []string
		for i := range 2*minLanes + 10 {
			many = append(many, fmt.Sprint("many", i))
		}
		all := one
		all.Limit = minLanes // so many are looked at in one go
		for round := range 3 {
			send(t, s, many...)
			seen := make(map[string]bool)
			for range 3 {
				for _, name := range names(claim(t, other, all)) {
					require.False(t, seen[name], "round %d: %s had a turn before others", round, name)
					seen[name] = true
				}
			}
			require.Len(t, seen, len(many))
		}
	})
}

// TestNextOfPlainClaim: a claim in one statement tells when more is due of those whom it has not
// filled, beside one whom it has.
func TestNextOfPlainClaim(t *testing.T) {
	s := newStore(t, nil)
	later := newDelivery(t, "later", "a")
	later.Delay = time.Hour
	send := func(list ...outhook.Delivery) {
		_, err := s.Enqueue(t.Context(), list)
		require.NoError(t, err)
	}
	send(newDelivery(t, "e1", "a"), later, newDelivery(t, "e1", "full"), newDelivery(t, "e2", "full"), newDelivery(t, "e3", "full"))
	request := outhook.ClaimRequest{Limit: 100, PerSubscriber: 8, Room: map[string]int{"full": 1}, SuspectAfter: 5, Suspects: 1, Lease: 2 * time.Hour}
	require.ElementsMatch(t, []string{"a", "full"}, names(claim(t, s, request)))
	require.Equal(t, mostPlain, s.lanes.plains)

	send(newDelivery(t, "e2", "a"))
	claimed := claim(t, s, request)
	require.Equal(t, mostPlain-1, s.lanes.plains, "it was in one statement")
	require.ElementsMatch(t, []string{"a", "full"}, names(claimed))
	require.InDelta(t, time.Hour, claimed.Next, float64(time.Minute))
}

// TestKnownLanesPassOnce shows that lanes which have nothing any more are not passed by again
// for each lane before them, while vacuum must not remove what they had.
func TestKnownLanesPassOnce(t *testing.T) {
	s := newStore(t, nil)
	fill(t, s, "s", 20, 20_000, 0)
	watched, seen := watch(t, s)
	one := outhook.ClaimRequest{Limit: 100, PerSubscriber: 1, SuspectAfter: 5, Suspects: 1, Lease: time.Hour}
	require.Len(t, claim(t, watched, one).Claims, 20)
	stopped(t, s, `set transaction isolation level repeatable read; select 1`)
	_, err := s.pool.Exec(t.Context(), s.sql(`delete from {schema}.pending where subscriber <> 20`))
	require.NoError(t, err)
	read := func(st statement) int {
		var plans []struct {
			Plan struct {
				Hit int `json:"Shared Hit Blocks"`
			}
		}
		text := explain(t, s, []statement{st}, "analyze, buffers, format json")[0]
		require.NoError(t, json.Unmarshal([]byte(text), &plans))
		return plans[0].Plan.Hit
	}
	all := read(statement{s.sql(lookLanes), []any{nil, nil, false, 100}})
	require.Greater(t, all, 19_000/100, "nothing is in the way")
	for _, text := range []string{leasePlain, knownLanes} {
		seen.statements = nil
		require.Len(t, claim(t, watched, one).Claims, 1)
		i := slices.IndexFunc(seen.statements, func(st statement) bool { return st.sql == s.sql(text) })
		require.GreaterOrEqual(t, i, 0)
		require.Less(t, read(seen.statements[i]), 2*all)
		watched.lanes.plains = 0
	}
}
