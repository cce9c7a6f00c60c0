package sqlitestore

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestPlans shows that no statement of Enqueue, Claim and Finish reads a table from
// one end to the other, or sorts: their cost does not grow with what is stored.
// It records what these calls execute, and asks SQLite how.
func TestPlans(t *testing.T) {
	s := newStore(t)
	fill := func() {
		for i := range 20 {
			d := newDelivery(fmt.Sprint("e", i), fmt.Sprint("s", i%7))
			if i%3 == 0 {
				d.OrderKey, d.HoldOnDead = "k", true
			}
			enqueue(t, s, d)
		}
		states := []outhook.State{outhook.Pending, outhook.Delivered, outhook.Dead, outhook.Cancelled}
		for i, c := range claim(t, s) {
			o := outhook.Outcome{Lease: c.Lease(), State: states[i%4], Effect: &outhook.Effect{}}
			for range 2 {
				_, err := s.Finish(t.Context(), []outhook.Outcome{o})
				require.NoError(t, err)
			}
		}
	}
	fill()
	statements := make(map[string]bool)
	for query := range s.writer.conn.prepared {
		switch verb, _, _ := strings.Cut(strings.TrimSpace(query), " "); verb {
		case "select", "insert", "update", "delete", "with":
			statements[query] = !strings.Contains(query, "pragma") && !strings.Contains(query, "sqlite_schema") // those of Open
		}
	}
	require.Greater(t, len(statements), 20)

	check := func(t *testing.T) {
		for query, check := range statements {
			if !check {
				continue
			}
			for _, step := range plan(t, s, query) {
				require.NotContains(t, step, "TEMP B-TREE", query)
				if strings.Contains(step, "SCAN") {
					require.Contains(t, []string{"SCAN CONSTANT ROW", "SCAN lane", "SCAN outhook_meta", "SCAN wanted VIRTUAL TABLE INDEX 1:"}, step, query)
				}
			}
		}
	}
	t.Run("without statistics", check)
	t.Run("with statistics", func(t *testing.T) {
		_, err := s.DB().Exec("analyze")
		require.NoError(t, err)
		check(t)
	})
	t.Run("the check finds what it looks for", func(t *testing.T) {
		require.Contains(t, plan(t, s, "select * from outhook_pending order by due"), "SCAN outhook_pending")
		require.Contains(t, plan(t, s, "select * from outhook_pending order by due"), "USE TEMP B-TREE FOR ORDER BY")
	})
}

// TestFindPlans shows where the searches of Replay, Cancel and Prune begin.
func TestFindPlans(t *testing.T) {
	s := newStore(t)
	pending, dead := []outhook.State{outhook.Pending}, []outhook.State{outhook.Dead}
	for _, test := range []struct {
		filter outhook.Filter
		want   string
	}{
		{outhook.Filter{Event: "e", States: dead}, "SEARCH d USING COVERING INDEX sqlite_autoindex_outhook_delivery_1 (event=?)"},
		{outhook.Filter{Event: "e", Subscriber: "s"}, "SEARCH d USING COVERING INDEX sqlite_autoindex_outhook_delivery_1 (event=? AND subscriber=?)"},
		{outhook.Filter{States: pending}, "SCAN p"}, // in its order
		{outhook.Filter{States: pending, Subscriber: "s"}, "SEARCH p USING COVERING INDEX outhook_pending_ready (subscriber=?)"},
		{outhook.Filter{States: dead, Limit: 10, OlderThan: 1}, "SEARCH o USING COVERING INDEX outhook_outcome_state (state=?)"},
	} {
		selected := selectBy(test.filter, 0)
		steps := plan(t, s, "select "+selected.id+" from "+selected.tables+selected.conditions()+" order by "+selected.id)
		require.Equal(t, test.want, steps[0], "%+v", test.filter)
		if test.filter.Event == "" && test.filter.Subscriber == "" {
			require.NotContains(t, steps, "USE TEMP B-TREE FOR ORDER BY", "%+v: it stops at the limit", test.filter)
		}
	}
}

// plan returns the steps by which SQLite executes a statement.
func plan(t *testing.T, s *Store, query string) (steps []string) {
	t.Helper()
	args := make([]any, strings.Count(query, "?"))
	rows, err := s.DB().Query("explain query plan "+query, args...)
	require.NoError(t, err, query)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var id, parent, unused int
		var step string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &step))
		steps = append(steps, step)
	}
	require.NoError(t, rows.Err())
	return steps
}
