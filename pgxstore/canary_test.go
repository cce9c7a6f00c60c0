package pgxstore

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/canary"
)

// TestCanary lets secrets go through a Dispatcher on a database, and looks for them in
// all that is in there then.
func TestCanary(t *testing.T) {
	for _, mode := range []canary.Mode{canary.Sealed, canary.Directory, canary.Plaintext} {
		t.Run(string(mode), func(t *testing.T) {
			s := newStore(t, nil)
			f, err := canary.Fly(t.Context(), s, mode)
			require.NoError(t, err)
			require.Empty(t, f.Found(f.Log))
			require.Equal(t, 16, count(t, s, "delivery"))
			for name, text := range dumps(t, s) {
				require.Contains(t, text, "canary.sent", "%s shows what is stored", name)
				if mode == canary.Plaintext {
					require.ElementsMatch(t, []string{"key 0", "key 1", "key 2", "query", "header"}, f.Found(text), "%s shows what is there to be found", name)
				} else {
					require.Empty(t, f.Found(text), name)
				}
			}
		})
	}
}

// dumps returns all that a schema holds: as queries and as pg_dump show it.
func dumps(t *testing.T, s *Store) map[string]string {
	t.Helper()
	found := map[string]string{"queries": query(t, s)}
	var bin string
	require.NoError(t, s.pool.QueryRow(t.Context(), `select setting from pg_config where name = 'BINDIR'`).Scan(&bin))
	program, err := exec.LookPath(filepath.Join(bin, "pg_dump"))
	if err != nil { // the server is on another machine
		program, err = exec.LookPath("pg_dump")
	}
	if err != nil {
		t.Log("pg_dump is not shown: it is not here")
		return found
	}
	for _, format := range []string{"--format=plain", "--inserts"} {
		out, err := exec.CommandContext(t.Context(), program, "--dbname="+server.URL(), "--schema="+s.options.Schema, format).Output()
		require.NoError(t, err)
		found["pg_dump "+format] = string(out)
	}
	return found
}

// query returns each row of each table of a schema, and its bytes in further forms.
func query(t *testing.T, s *Store) string {
	t.Helper()
	lines := func(text string, args ...any) []string {
		rows, err := s.pool.Query(t.Context(), text, args...)
		require.NoError(t, err)
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return list
	}
	tables := lines(`select relname::text from pg_class where relnamespace = $1::text::regnamespace and relkind = 'r'`, quote(s.options.Schema))
	require.Contains(t, tables, "delivery")
	var all []string
	for _, table := range tables {
		from := " from " + quote(s.options.Schema) + "." + quote(table)
		all = append(all, lines(`select t::text`+from+` t`)...)
		for _, column := range lines(`
select attname::text from pg_attribute where attrelid = $1::text::regclass and atttypid = 'bytea'::regtype and not attisdropped`,
			quote(s.options.Schema)+"."+quote(table)) {
			for _, format := range []string{"escape", "hex", "base64"} {
				all = append(all, lines(fmt.Sprintf(`select replace(encode(%s, '%s'), E'\n', '')%s where %[1]s is not null`, column, format, from))...)
			}
		}
	}
	return strings.Join(all, "\n")
}

// TestCanaryOnDisk looks into the files of the server, with its logs.
func TestCanaryOnDisk(t *testing.T) {
	s := newStore(t, nil)
	var dir string
	require.NoError(t, s.pool.QueryRow(t.Context(), `show data_directory`).Scan(&dir))
	if _, err := os.ReadDir(dir); err != nil {
		t.Skipf("the files of an external server are not here to be read: %v", err)
	}
	sealed, err := canary.Fly(t.Context(), s, canary.Sealed)
	require.NoError(t, err)
	shown, err := canary.Fly(t.Context(), newStore(t, nil), canary.Plaintext)
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), `checkpoint`)
	require.NoError(t, err)
	files := 0
	found := make(map[string]bool)
	root := filepath.Dir(dir)
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // it went while we looked
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		files++
		require.Empty(t, sealed.Found(string(text)), path)
		for _, name := range shown.Found(string(text)) {
			found[name] = true
		}
		return nil
	}))
	require.Subset(t, found, map[string]bool{"key 2": true, "query": true, "header": true}, "what is there is found, in %d files", files)
}

// TestErrorsHoldNoValues breaks the database in many ways and looks at the errors of
// all calls: neither secrets nor payloads are in them.
func TestErrorsHoldNoValues(t *testing.T) {
	const failing = `check (false) not valid`
	for name, test := range map[string]struct {
		breaks []string
		fail   []string // calls that have to
	}{
		"a delivery is refused":   {[]string{`alter table {schema}.delivery add constraint refused ` + failing}, []string{"Enqueue"}},
		"a payload is refused":    {[]string{`alter table {schema}.payload add constraint refused ` + failing}, []string{"Enqueue"}},
		"an outcome is refused":   {[]string{`alter table {schema}.outcome add constraint refused ` + failing}, []string{"Finish", "Cancel"}},
		"a subscriber is refused": {[]string{`alter table {schema}.subscriber add constraint refused ` + failing}, []string{"UpdateStandings", "Finish"}},
		"a snapshot stands twice": {[]string{
			`update {schema}.delivery set snapshot = convert_to(event, 'UTF8')`,
			`create function {schema}.same() returns trigger language plpgsql as $$ begin new.snapshot = 'e1'; return new; end $$`,
			`create trigger same before insert on {schema}.delivery for each row execute function {schema}.same()`,
			`create unique index on {schema}.delivery (snapshot)`,
		}, []string{"Enqueue"}},
		"a column is too short":       {[]string{`alter table {schema}.payload alter body type varchar(1) using 'x'`}, []string{"Enqueue"}},
		"a column is of another type": {[]string{`alter table {schema}.delivery alter snapshot type integer using 1`}, []string{"Enqueue"}},
		"a column is a number":        {[]string{`alter table {schema}.outcome alter reason type integer using 1`}, []string{"Finish", "Cancel", "List", "Get"}},
		"history is no JSON":          {[]string{`update {schema}.outcome set attempts = convert_to('[{"number":' || chr(34) || $canary$CANARY$canary$ || chr(34) || '}]', 'UTF8')`}, []string{"Get"}},
		"a standing is no JSON":       {[]string{`update {schema}.subscriber set standing = '"CANARY"'`}, nil},
		"the tables are gone":         {[]string{`drop table {schema}.delivery, {schema}.pending, {schema}.outcome, {schema}.payload, {schema}.subscriber`}, everyCall},
		"there are no tokens":         {[]string{`drop sequence {schema}.token`}, []string{"Enqueue", "Claim", "Replay"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, nil)
			secrets := canary.NewSecrets()
			deliveries, err := secrets.Deliveries(t.Context(), "e1", "e2", "e3")
			require.NoError(t, err)
			_, err = s.Enqueue(t.Context(), deliveries[:2])
			require.NoError(t, err)
			first := claim(t, s, outhook.ClaimRequest{Limit: 1, PerSubscriber: 1, SuspectAfter: 5, Lease: time.Hour})
			_, err = s.Finish(t.Context(), []outhook.Outcome{{Lease: first.Claims[0].Lease(), State: outhook.Dead, Attempts: []outhook.Attempt{{Number: 1}}}})
			require.NoError(t, err)
			second := claim(t, s, all)
			require.Len(t, second.Claims, 1)
			for _, text := range test.breaks {
				_, err := s.pool.Exec(t.Context(), s.sql(strings.ReplaceAll(text, "CANARY", secrets.Query)))
				require.NoError(t, err)
			}
			requireSilent(t, secrets, secrets.Call(t.Context(), s, deliveries[2:], second.Claims, "e1"), test.fail)
		})
	}

	ended, end := context.WithCancel(t.Context())
	end()
	for name, test := range map[string]struct {
		ctx    context.Context
		breaks func(*Store)
	}{
		"the context has ended": {ended, func(*Store) {}},
		"the pool is closed":    {t.Context(), func(s *Store) { s.pool.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			kept := newStore(t, nil)
			s := onPool(t, server.URL(), kept.options)
			secrets := canary.NewSecrets()
			deliveries, err := secrets.Deliveries(t.Context(), "e1", "e2")
			require.NoError(t, err)
			_, err = s.Enqueue(t.Context(), deliveries[:1])
			require.NoError(t, err)
			claims := claim(t, s, all).Claims
			test.breaks(s)
			requireSilent(t, secrets, secrets.Call(test.ctx, s, deliveries[1:], claims, "e1"), everyCall)
		})
	}

	t.Run("there is no server", func(t *testing.T) {
		secrets := canary.NewSecrets() // one of them is the password
		s := onPool(t, "postgres://postgres:"+secrets.Header+"@127.0.0.1:1/postgres?sslmode=disable", Options{})
		deliveries, err := secrets.Deliveries(t.Context(), "e1")
		require.NoError(t, err)
		errs := secrets.Call(t.Context(), s, deliveries, []outhook.Claim{{Delivery: deliveries[0]}}, "e1")
		errs["Migrate"] = s.Migrate(t.Context())
		errs["Notify"] = s.Notify(t.Context(), func() {})
		_, errs["Database"] = s.Database(t.Context())
		requireSilent(t, secrets, errs, append(everyCall, "Migrate", "Notify", "Database"))
	})
}

// onPool returns a store on a pool of its own.
func onPool(t *testing.T, url string, options Options) *Store {
	t.Helper()
	pool, err := newPool(url, pgx.QueryExecModeCacheStatement, 2)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s, err := New(pool, &options)
	require.NoError(t, err)
	return s
}

var everyCall = []string{"Enqueue", "Claim", "Finish", "Get", "List", "Backlogs", "Replay", "Cancel", "Prune", "Stats", "UpdateStandings", "Standings"}

// requireSilent fails if an error shows a value, however it is printed, or if a call
// that has to fail did not.
func requireSilent(t *testing.T, secrets *canary.Secrets, errs map[string]error, fail []string) {
	t.Helper()
	for _, call := range fail {
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
		require.Contains(t, err.Error(), "pgxstore: ", call)
	}
}

// TestStrangeResponses shows that what a receiver answers is kept as it is.
func TestStrangeResponses(t *testing.T) {
	require.NoError(t, canary.Keep(t.Context(), newStore(t, nil)))
}
