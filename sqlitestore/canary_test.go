package sqlitestore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/canary"
)

// TestCanary lets secrets go through a Dispatcher on a file, and looks for them in
// the file and in those beside it, while it is open and afterwards.
func TestCanary(t *testing.T) {
	for _, mode := range []canary.Mode{canary.Sealed, canary.Directory, canary.Plaintext} {
		t.Run(string(mode), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hooks.db")
			s, err := Open(t.Context(), path, nil)
			require.NoError(t, err)
			f, err := canary.Fly(t.Context(), s, mode)
			require.NoError(t, err)
			require.Empty(t, f.Found(f.Log))

			texts := map[string]string{"queries": query(t, s)}
			for _, suffix := range []string{"", "-wal", "-shm"} {
				data, err := os.ReadFile(path + suffix)
				require.NoError(t, err)
				texts["open, "+suffix] = string(data)
			}
			require.NoError(t, s.Close())
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			texts["closed"] = string(data)

			for name, text := range texts {
				require.NotEmpty(t, text)
				if mode != canary.Plaintext {
					require.Empty(t, f.Found(text), name)
				}
			}
			for _, name := range []string{"queries", "open, -wal", "closed"} {
				require.Contains(t, texts[name], "canary.sent", "%s shows what is stored", name)
				if mode == canary.Plaintext {
					require.ElementsMatch(t, []string{"key 0", "key 1", "key 2", "query", "header"}, f.Found(texts[name]), "%s shows what is there to be found", name)
				}
			}
		})
	}
}

// query returns all values of all tables.
func query(t *testing.T, s *Store) string {
	t.Helper()
	tables, err := s.DB().Query(`select name from sqlite_schema where type = 'table'`)
	require.NoError(t, err)
	defer func() { require.NoError(t, tables.Close()) }()
	var all strings.Builder
	for tables.Next() {
		var name string
		require.NoError(t, tables.Scan(&name))
		rows, err := s.DB().Query(`select * from ` + name)
		require.NoError(t, err)
		columns, err := rows.Columns()
		require.NoError(t, err)
		values := make([]any, len(columns))
		for rows.Next() {
			for i := range values {
				values[i] = new(any)
			}
			require.NoError(t, rows.Scan(values...))
			for _, v := range values {
				_, _ = fmt.Fprintf(&all, "%s\n", *v.(*any))
			}
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
	}
	require.NoError(t, tables.Err())
	return all.String()
}

var everyCall = []string{"Enqueue", "Claim", "Finish", "Get", "List", "Backlogs", "Replay", "Cancel", "Prune", "Stats", "UpdateStandings", "Standings"}

// TestErrorsHoldNoValues breaks the file in many ways and looks at the errors of all
// calls: neither secrets nor payloads are in them.
func TestErrorsHoldNoValues(t *testing.T) {
	trigger := func(table, verb string) string {
		return fmt.Sprintf(`create trigger refused before %s on %s begin select raise(abort, 'refused'); end`, verb, table)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for name, test := range map[string]struct {
		breaks []string
		close  bool
		ctx    context.Context
		fail   []string // calls that have to
	}{
		"a delivery is refused":   {breaks: []string{trigger("outhook_delivery", "insert")}, fail: []string{"Enqueue"}},
		"a payload is refused":    {breaks: []string{trigger("outhook_payload", "insert")}, fail: []string{"Enqueue"}},
		"an outcome is refused":   {breaks: []string{trigger("outhook_outcome", "insert")}, fail: []string{"Finish", "Cancel"}},
		"a subscriber is refused": {breaks: []string{trigger("outhook_subscriber", "update")}, fail: []string{"Finish", "UpdateStandings"}},
		"a snapshot stands twice": {breaks: []string{
			`create unique index twice on outhook_delivery (length(snapshot) > 0) where event > 'e1'`,
		}, fail: []string{"Enqueue"}},
		"a column is of another type": {breaks: []string{
			`drop table outhook_payload`,
			`create table outhook_payload (id integer primary key, event integer not null, content_type text, header text, body integer) strict`,
		}, fail: []string{"Enqueue"}},
		"a column is gone":      {breaks: []string{`alter table outhook_outcome drop column reason`}, fail: []string{"Finish", "Cancel", "Get", "List"}},
		"history is no JSON":    {breaks: []string{`update outhook_outcome set attempts = '[{"number":"CANARY"}]'`}, fail: []string{"Get"}},
		"a standing is no JSON": {breaks: []string{`update outhook_subscriber set standing = '"CANARY'`}},
		"the tables are gone": {breaks: []string{
			`drop table outhook_delivery; drop table outhook_pending; drop table outhook_outcome; drop table outhook_payload; drop table outhook_subscriber`,
		}, fail: everyCall},
		"the file is closed":    {close: true, fail: everyCall},
		"the context has ended": {ctx: ended, fail: everyCall},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), filepath.Join(t.TempDir(), "hooks.db"), nil)
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			secrets := canary.NewSecrets()
			deliveries, err := secrets.Deliveries(t.Context(), "e1", "e2", "e3")
			require.NoError(t, err)
			enqueue(t, s, deliveries[:2]...)
			claimed, err := s.Claim(t.Context(), outhook.ClaimRequest{Limit: 1, PerSubscriber: 1, SuspectAfter: 5, Lease: time.Hour})
			require.NoError(t, err)
			_, err = s.Finish(t.Context(), []outhook.Outcome{{Lease: claimed.Claims[0].Lease(), State: outhook.Dead, Attempts: []outhook.Attempt{{Number: 1}}}})
			require.NoError(t, err)
			claims := claim(t, s)
			require.Len(t, claims, 1)
			for _, text := range test.breaks {
				_, err := s.DB().Exec(strings.ReplaceAll(text, "CANARY", secrets.Query))
				require.NoError(t, err)
			}
			if test.close {
				require.NoError(t, s.Close())
			}
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			errs := secrets.Call(ctx, s, deliveries[2:], claims, "e1")
			for _, call := range test.fail {
				require.Error(t, errs[call], call)
			}
			for call, err := range errs {
				if err == nil {
					continue
				}
				for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v %q", err, err, err)} {
					require.Empty(t, secrets.Found(text), "%s: %s", call, text)
					require.NotContains(t, text, canary.Payload, call)
				}
				require.Contains(t, err.Error(), "sqlitestore: ", call)
			}
		})
	}
}

// TestStrangeResponses shows that what a receiver answers is kept as it is.
func TestStrangeResponses(t *testing.T) {
	require.NoError(t, canary.Keep(t.Context(), newStore(t)))
}
