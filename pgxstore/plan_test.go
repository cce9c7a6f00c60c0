package pgxstore

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// statement is one that a call has made.
type statement struct {
	sql  string
	args []any
}

// spy collects the statements of a pool.
type spy struct {
	silent
	statements []statement
}

func (s *spy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.statements = append(s.statements, statement{data.SQL, data.Args})
	return ctx
}

func (s *spy) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	s.statements = append(s.statements, statement{data.SQL, data.Args})
}

// watch returns a store like s that writes down its statements.
func watch(t testing.TB, s *Store) (*Store, *spy) {
	t.Helper()
	seen := &spy{}
	config := s.pool.Config()
	config.ConnConfig.Tracer = seen
	config.MaxConns = 1
	pool, err := newPoolOf(config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	watched, err := New(pool, &s.options)
	require.NoError(t, err)
	return watched, seen
}

// explain explains statements, in transactions that are rolled back.
func explain(t testing.TB, s *Store, statements []statement, how string) (plans []string) {
	t.Helper()
	ctx := context.Background()
	for _, st := range statements {
		tx, err := s.pool.Begin(ctx)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(ctx) }() // else a test that fails here cannot remove its schema
		rows, err := tx.Query(ctx, "explain ("+how+") "+st.sql, st.args...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, st.sql)
		require.NoError(t, tx.Rollback(ctx))
		plans = append(plans, strings.Join(lines, "\n"))
	}
	return plans
}

// claimStatements are the statements of calls of Claim that find less than they ask
// for, so that they make all that there are, and of Finish.
func claimStatements(t testing.TB, s *Store, request outhook.ClaimRequest) (list []statement) {
	t.Helper()
	watched, seen := watch(t, s)
	for range 3 { // the second one remembers the subscribers, and that they are plain
		claimed, err := watched.Claim(context.Background(), request)
		require.NoError(t, err)
		require.NotEmpty(t, claimed.Claims)
		var outcomes []outhook.Outcome
		for i := range claimed.Claims {
			state := []outhook.State{outhook.Pending, outhook.Delivered}[i%2]
			outcomes = append(outcomes, outhook.Outcome{Lease: claimed.Claims[i].Lease(), State: state})
		}
		_, err = watched.Finish(context.Background(), outcomes)
		require.NoError(t, err)
		if watched.lanes.plains < mostPlain {
			watched.lanes.plains = 0
		}
	}
	return seen.ofTables(s)
}

// enqueueStatements are those of calls of Enqueue that know what they are given, or do not.
func enqueueStatements(t testing.TB, s *Store) []statement {
	t.Helper()
	watched, seen := watch(t, s)
	for _, names := range [][]string{{"x", "y"}, {"x"}, {"x", "z"}} {
		enqueueNamed(t, watched, "planned", names...)
	}
	return seen.ofTables(s)
}

// ofTables are the statements seen that need a plan.
func (s *spy) ofTables(of *Store) (list []statement) {
	for _, st := range s.statements {
		if text := strings.TrimSpace(st.sql); strings.Contains(text, quote(of.options.Schema)) && !strings.HasPrefix(text, "select setval") {
			list = append(list, st)
		}
	}
	return list
}

// planNode is a node of a plan.
type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Index    string     `json:"Index Name"`
	Plans    []planNode `json:"Plans"`
}

// reads returns the tables that a node and those below it read.
func (n planNode) reads() (tables []string) {
	if n.Relation != "" {
		tables = append(tables, n.Relation)
	}
	for _, p := range n.Plans {
		tables = append(tables, p.reads()...)
	}
	return tables
}

// faults lists what must not be in a plan: that a large table is read whole, or sorted, or all
// deliveries of a subscriber.
func (n planNode) faults() (list []string) {
	large := func(table string) bool { return table == "pending" || table == "delivery" }
	switch n.Type {
	case "Seq Scan":
		if large(n.Relation) {
			list = append(list, n.Type+" of "+n.Relation)
		}
	case "Sort", "Incremental Sort", "Hash Join", "Merge Join":
		for _, p := range n.Plans {
			for _, q := range append(p.Plans, p) { // of a hash join, behind the Hash
				if large(q.Relation) && q.Type != "Tid Scan" && q.Type != "ModifyTable" {
					list = append(list, n.Type+" over "+q.Relation)
				}
			}
		}
	}
	if n.Index == "delivery_subscriber" {
		list = append(list, n.Type+" by "+n.Index)
	}
	for _, p := range n.Plans {
		list = append(list, p.faults()...)
	}
	return list
}

// TestPlans holds the plans of Enqueue, Claim and Finish, whatever the planner knows
// of the tables.
func TestPlans(t *testing.T) {
	const n = 60_000
	request := claim100
	request.Limit, request.PerSubscriber = 1_000, 8
	cases := map[string]func(*testing.T, *Store){
		"without statistics": func(t *testing.T, s *Store) {
			_, err := s.pool.Exec(t.Context(), s.sql(`alter table {schema}.pending set (autovacuum_enabled = off); alter table {schema}.delivery set (autovacuum_enabled = off)`))
			require.NoError(t, err)
			fillAll(t, s, n)
		},
		"with fresh statistics": func(t *testing.T, s *Store) {
			fillAll(t, s, n)
			vacuum(t, s)
		},
		"without order keys": func(t *testing.T, s *Store) {
			fill(t, s, "s", 20, n/2, 0)
			fill(t, s, "few", 1, 3, 0) // so that there is room left
			vacuum(t, s)
		},
		"with stale statistics": func(t *testing.T, s *Store) { // of when there was next to nothing
			_, err := s.pool.Exec(t.Context(), s.sql(`alter table {schema}.pending set (autovacuum_enabled = off); alter table {schema}.delivery set (autovacuum_enabled = off)`))
			require.NoError(t, err)
			fill(t, s, "a", 1, 3, 0)
			vacuum(t, s)
			fillAll(t, s, n)
		},
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, nil)
			prepare(t, s)
			statements := claimStatements(t, s, request)
			require.GreaterOrEqual(t, len(statements), 7, "look, pick, hold, lease, payloads, next, lock, apply")
			statements = append(statements, enqueueStatements(t, s)...)
			plain, made := name == "without order keys", map[string]bool{}
			for _, st := range statements {
				made[st.sql] = true
			}
			for text, wanted := range map[string]bool{
				insertNew: true, insertIfNew: true, insertMissing: true, lookLanes: true, knownLanes: true, deliverRows: true, applyOutcomes: true,
				leasePlain: plain, nextIfShort: plain, pickPlain: plain, leaseRows: plain, nextPlain: plain, pickKeyed: !plain, leaseOrdered: !plain, nextKeyed: !plain,
			} {
				require.Equal(t, wanted, made[s.sql(text)], text)
			}
			touched := map[string]bool{}
			for i, text := range explain(t, s, statements, "format json, costs off") {
				var plans []struct{ Plan planNode }
				require.NoError(t, json.Unmarshal([]byte(text), &plans))
				for _, table := range plans[0].Plan.reads() {
					touched[table] = true
				}
				require.Empty(t, plans[0].Plan.faults(), "%s\n%s", statements[i].sql, text)
			}
			require.True(t, touched["pending"] && touched["delivery"])
		})
	}
}

// TestEnqueuePlans holds the plans of Enqueue as they are pinned, made when there is next to
// nothing in the tables.
func TestEnqueuePlans(t *testing.T) {
	s := newStore(t, nil)
	statements := enqueueStatements(t, s)
	require.GreaterOrEqual(t, len(statements), 5, "new, missing, digests, if new, missing")
	for _, st := range statements {
		tx, err := s.pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), s.newTransaction(nil, "").settings)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "prepare planned as "+st.sql)
		require.NoError(t, err)
		execute := "execute planned"
		if len(st.args) > 0 {
			execute += "(null" + strings.Repeat(", null", len(st.args)-1) + ")"
		}
		var text string
		require.NoError(t, tx.QueryRow(t.Context(), "explain (format json, costs off) "+execute).Scan(&text))
		_, err = tx.Exec(t.Context(), "deallocate planned")
		require.NoError(t, err)
		require.NoError(t, tx.Rollback(t.Context()))
		var plans []struct{ Plan planNode }
		require.NoError(t, json.Unmarshal([]byte(text), &plans))
		require.Empty(t, plans[0].Plan.faults(), "%s\n%s", st.sql, text)
	}
}

// fillAll stores n deliveries: unordered ones, some with order keys, and those of a
// subscriber that is paused.
func fillAll(t testing.TB, s *Store, n int) {
	t.Helper()
	fill(t, s, "s", 20, n/2, 0)
	fill(t, s, "k", 20, n/4, 50)
	fill(t, s, "p", 1, n/4, 0)
	pause(t, s, "p1")
}

var writeExplain = flag.Bool("explain", false, "write EXPLAIN.md")

// TestExplain writes down what a claim of 100 does with a million deliveries pending:
//
//	go test -run TestExplain -explain .
func TestExplain(t *testing.T) {
	if !*writeExplain {
		t.Skip("writes EXPLAIN.md, for which it needs the flag -explain")
	}
	s := newStore(t, nil)
	fill(t, s, "s", 50, 1_000_000, 0)
	vacuum(t, s)
	for range 10 {
		timeClaim(t, s)
	}
	watched, seen := watch(t, s)
	for range 2 { // the second one knows the subscribers
		claimed, err := watched.Claim(t.Context(), claim100)
		require.NoError(t, err)
		require.Len(t, claimed.Claims, 100)
	}
	_, err := s.pool.Exec(t.Context(), s.sql(`update {schema}.pending set due = {now} where live`)) // as it was before
	require.NoError(t, err)
	titles := map[string]string{
		lookLanes: "Whose turn it is", pickPlain: "Which rows are due, and locking them", leaseRows: "Leasing them",
		nextPlain: "When the next one is due", leasePlain: "All of it at once, of subscribers that are known and plain",
	}
	var version string
	require.NoError(t, s.pool.QueryRow(t.Context(), `select version()`).Scan(&version))
	var out strings.Builder
	fmt.Fprintf(&out, `# EXPLAIN of a claim

A claim of 100 with 1,000,000 deliveries pending, of 50 subscribers with room for 8 each. What to look for: every scan
of pending and delivery is by an index or by ctid, and the buffers read are a few hundred, however many deliveries wait.

Written by %s on %s, %s, %d cores, %s. The ratio to a claim with 1,000 pending is printed by
%s.

`, "`go test -run TestExplain -explain .`", time.Now().Format("2006-01-02"), runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU(),
		strings.Join(strings.Fields(version)[:2], " "), "`go test -run '^$' -bench ClaimBacklog -benchtime 200x .`")
	for _, st := range seen.statements {
		for text, title := range titles {
			if s.sql(text) != st.sql {
				continue
			}
			plan := explain(t, s, []statement{{s.sql(text), st.args}}, "analyze, buffers")[0]
			plan = regexp.MustCompile(`\(ctid = ANY \('\{[^}]*\}'`).ReplaceAllString(plan, "(ctid = ANY ('{…}'")
			fmt.Fprintf(&out, "## %s\n\n```\n%s\n```\n\n", title, plan)
		}
	}
	require.NoError(t, os.WriteFile("EXPLAIN.md", []byte(strings.TrimSpace(out.String())+"\n"), 0o644))
}
