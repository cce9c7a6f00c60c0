package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
)

func TestMain(m *testing.M) {
	if work, ok := children[os.Getenv(childEnv)]; ok {
		child(work)
	}
	goleak.VerifyTestMain(m)
}

// backend returns a file with two handles.
func backend(dir string, now func() time.Time) (storetest.Backend, error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		return storetest.Backend{}, err
	}
	path := filepath.Join(dir, "hooks.db")
	store, err := Open(ctx, path, nil)
	if err != nil {
		return storetest.Backend{}, err
	}
	other, err := Open(ctx, path, nil)
	if err != nil {
		return storetest.Backend{}, errors.Join(err, store.Close())
	}
	store.now, other.now = now, now
	return storetest.Backend{
		Store: store,
		Other: other,
		Damage: func(ctx context.Context, id outhook.DeliveryID) error {
			_, err := store.DB().ExecContext(ctx, `update outhook_delivery set snapshot = x'00ff'
				where event = ? and subscriber = (select id from outhook_subscriber where name = ?)`, id.Event, id.Subscriber)
			return err
		},
		Close: func() error { return errors.Join(other.Close(), store.Close(), os.RemoveAll(dir)) },
	}, nil
}

func TestStore(t *testing.T) {
	storetest.Run(t, func() (storetest.Backend, error) { return backend(t.TempDir(), time.Now) })
}

func TestStoreOnFrozenClock(t *testing.T) {
	storetest.Run(t, func() (storetest.Backend, error) {
		var mu sync.Mutex
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		b, err := backend(t.TempDir(), func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		})
		b.Sleep = func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(d)
		}
		return b, err
	})
}

func BenchmarkStore(b *testing.B) {
	storetest.Benchmark(b, func() (storetest.Backend, error) { return backend(b.TempDir(), time.Now) })
}

var snapshot = func() (s outhook.Snapshot) {
	if err := s.UnmarshalBinary([]byte(`{"url":"https://example.com/"}`)); err != nil {
		panic(err)
	}
	return s
}()

// newDelivery returns one that is due at once and never expires.
func newDelivery(event, subscriber string) outhook.Delivery {
	return outhook.Delivery{
		ID: outhook.DeliveryID{Event: event, Subscriber: subscriber}, Type: "test.event",
		Payload: &outhook.Payload{Body: []byte(event)}, Snapshot: snapshot,
	}
}

// newStore returns one on a new file, which is closed with the test.
func newStore(t testing.TB) *Store {
	t.Helper()
	return reopen(t, filepath.Join(t.TempDir(), "hooks.db"))
}

func reopen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(context.Background(), path, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func enqueue(t testing.TB, s outhook.Enqueuer, deliveries ...outhook.Delivery) {
	t.Helper()
	known, err := s.Enqueue(context.Background(), deliveries)
	require.NoError(t, err)
	require.Empty(t, known)
}

// claim claims with much room.
func claim(t testing.TB, s *Store) []outhook.Claim {
	t.Helper()
	claimed, err := s.Claim(context.Background(), outhook.ClaimRequest{
		Limit: 1000, PerSubscriber: 1000, SuspectAfter: 100, Suspects: 1, Lease: time.Hour,
	})
	require.NoError(t, err)
	return claimed.Claims
}

func stats(t testing.TB, s *Store) outhook.Stats {
	t.Helper()
	stats, err := s.Stats(context.Background())
	require.NoError(t, err)
	stats.OldestDue = 0
	return stats
}

func TestOpen(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"plain.db", "a?b#c%20 d&_txlock=deferred.db", "grüße.db"} {
		t.Run("the path is taken as it is: "+name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			s, err := Open(ctx, path, nil)
			require.NoError(t, err)
			enqueue(t, s, newDelivery("e", "s"))
			require.NoError(t, s.Close())
			require.FileExists(t, path)
			require.Equal(t, outhook.Stats{Pending: 1}, stats(t, reopen(t, path)))
		})
	}
	t.Run("a relative path is that of the time of the call", func(t *testing.T) {
		t.Chdir(t.TempDir())
		s := reopen(t, "hooks.db")
		t.Chdir(t.TempDir())
		enqueue(t, s, newDelivery("e", "s"))
		require.Equal(t, outhook.Stats{Pending: 1}, stats(t, s))
	})
	t.Run("its owner alone can read the files", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("files have no such permissions there")
		}
		path := filepath.Join(t.TempDir(), "hooks.db")
		enqueue(t, reopen(t, path), newDelivery("e", "s"))
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), suffix)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, entries, 3, "nothing else is left there")
	})
	t.Run("what is no file, or no database, is refused", func(t *testing.T) {
		text := filepath.Join(t.TempDir(), "text")
		require.NoError(t, os.WriteFile(text, []byte("This is no database, but a text of some length that is not empty."), 0o600))
		for _, path := range []string{"", ":memory:", t.TempDir(), filepath.Join(t.TempDir(), "missing", "hooks.db"), text} {
			s, err := Open(ctx, path, nil)
			require.Nil(t, s, path)
			require.ErrorContains(t, err, fmt.Sprintf("sqlitestore: open %q: ", path))
		}
	})
	t.Run("all at one time", func(t *testing.T) {
		for range 5 {
			path := filepath.Join(t.TempDir(), "hooks.db")
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() {
					s, err := Open(ctx, path, nil)
					if err == nil {
						_, err = s.Enqueue(ctx, []outhook.Delivery{newDelivery("e", fmt.Sprintf("s%d", i))})
						err = errors.Join(err, s.Close())
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			require.Equal(t, outhook.Stats{Pending: 8}, stats(t, reopen(t, path)))
		}
	})
	t.Run("the settings are those of every connection", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		settings := func(s *Store) (synchronous, wait int) {
			tx, err := s.DB().Begin()
			require.NoError(t, err)
			require.NoError(t, tx.QueryRow("select synchronous, timeout from pragma_synchronous, pragma_busy_timeout").Scan(&synchronous, &wait))
			require.NoError(t, tx.Rollback())
			var ofWriter int
			require.NoError(t, s.writer.do(ctx, func(tr *transaction) error {
				_, err := tr.one("select synchronous from pragma_synchronous", nil, &ofWriter)
				return err
			}))
			require.Equal(t, synchronous, ofWriter)
			return synchronous, wait
		}
		synchronous, wait := settings(reopen(t, path))
		require.Equal(t, []int{2, 5000}, []int{synchronous, wait}, "FULL, and 5 s")
		s, err := Open(ctx, path, &Options{LoseLatestOnPowerFailure: true, BusyTimeout: time.Second})
		require.NoError(t, err)
		synchronous, wait = settings(s)
		require.Equal(t, []int{1, 1000}, []int{synchronous, wait}, "NORMAL, and 1 s")
		require.NoError(t, s.Close())
	})
}

func TestMigrate(t *testing.T) {
	ctx := context.Background()
	set := func(t *testing.T, path string, version int) {
		s := reopen(t, path)
		_, err := s.DB().Exec(fmt.Sprintf("pragma user_version = %d", version))
		require.NoError(t, err)
	}
	t.Run("tables of a newer version are refused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		set(t, path, len(migrations)+1)
		_, err := Open(ctx, path, nil)
		require.ErrorContains(t, err, "version 2")
	})
	t.Run("a file whose version is somebody else's is refused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		s, err := open(path, Options{BusyTimeout: time.Second})
		require.NoError(t, err)
		_, err = s.db.Exec("create table orders (id integer); pragma user_version = 1")
		require.NoError(t, err)
		require.NoError(t, s.Close())
		_, err = Open(ctx, path, nil)
		require.ErrorContains(t, err, "others use that number")
	})
	t.Run("a file of the host's gets the tables, and keeps its own", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		s, err := open(path, Options{BusyTimeout: time.Second})
		require.NoError(t, err)
		_, err = s.db.Exec("create table orders (id integer); insert into orders values (7)")
		require.NoError(t, err)
		require.NoError(t, s.Close())
		s = reopen(t, path)
		var id int
		require.NoError(t, s.DB().QueryRow("select id from orders").Scan(&id))
		require.Equal(t, 7, id)
		enqueue(t, s, newDelivery("e", "s"))
	})
	t.Run("tables that could not be made wholly are not made at all", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hooks.db")
		s, err := open(path, Options{BusyTimeout: time.Second})
		require.NoError(t, err)
		_, err = s.db.Exec("create table outhook_outcome (id integer)")
		require.NoError(t, err)
		require.NoError(t, s.Close())
		_, err = Open(ctx, path, nil)
		require.ErrorContains(t, err, "outhook_outcome already exists")
		s, err = open(path, Options{BusyTimeout: time.Second})
		require.NoError(t, err)
		var tables int
		require.NoError(t, s.db.QueryRow("select count(*) from sqlite_schema").Scan(&tables))
		require.Equal(t, 1, tables)
		require.NoError(t, s.Close())
	})
}

func TestClose(t *testing.T) {
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "hooks.db"), nil)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = s.Enqueue(context.Background(), []outhook.Delivery{newDelivery("e", "s")})
	require.ErrorContains(t, err, "sqlitestore: enqueue: ")
	_, err = s.Get(context.Background(), outhook.DeliveryID{Event: "e", Subscriber: "s"})
	require.ErrorContains(t, err, "sqlitestore: get: ")
	require.NoError(t, s.Close(), "again")
}

// TestDamage is of parts of a delivery other than the snapshot, see storetest.
func TestDamage(t *testing.T) {
	for name, test := range map[string]struct{ damage, fault string }{
		"the payload is missing":         {"delete from outhook_payload where event = 'bad'", "payload: it is missing"},
		"the header is no JSON":          {"update outhook_payload set header = '{' where event = 'bad'", "payload: its header is not JSON"},
		"the time is none":               {"update outhook_delivery set time = 'noon' where event = 'bad'", "time: it is not RFC 3339"},
		"the digest is short":            {"update outhook_delivery set digest = x'00' where event = 'bad'", "digest: it is not of 32 bytes"},
		"the digest is long":             {"update outhook_delivery set digest = zeroblob(33) where event = 'bad'", "digest: it is not of 32 bytes"},
		"the snapshot is missing":        {"update outhook_delivery set snapshot = null where event = 'bad'", "unmarshal snapshot"},
		"the standing cannot be decoded": {"update outhook_subscriber set standing = 'x'", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			enqueue(t, s, newDelivery("bad", "s"), newDelivery("good", "s"))
			_, err := s.DB().Exec(test.damage)
			require.NoError(t, err)
			claims := claim(t, s)
			require.Len(t, claims, 2)
			require.Contains(t, claims[0].Fault, test.fault)
			require.Equal(t, test.fault == "", claims[0].Fault == "")
			require.Empty(t, claims[1].Fault)
			record, err := s.Get(t.Context(), outhook.DeliveryID{Event: "bad", Subscriber: "s"})
			require.NoError(t, err)
			require.Equal(t, "test.event", record.Type)
			for _, c := range claims {
				_, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: c.Lease(), State: outhook.Dead, Reason: c.Fault}})
				require.NoError(t, err)
			}
			require.Equal(t, outhook.Stats{Dead: 2}, stats(t, s))
		})
	}
}

// TestFullDisk bounds the file, which SQLite reports like a full disk.
func TestFullDisk(t *testing.T) {
	s := newStore(t)
	enqueue(t, s, newDelivery("before", "s"))
	bound := func(pages string) {
		require.NoError(t, s.writer.do(t.Context(), func(tr *transaction) error {
			var n int
			if _, err := tr.one("select page_count + "+pages+" from pragma_page_count", nil, &n); err != nil {
				return err
			}
			return tr.exec(fmt.Sprintf("pragma max_page_count = %d", n))
		}))
	}
	bound("20")
	large := newDelivery("large", "s")
	large.Payload = &outhook.Payload{Body: make([]byte, 1<<20)}
	known, err := s.Enqueue(t.Context(), []outhook.Delivery{newDelivery("small", "s"), large})
	require.ErrorContains(t, err, "sqlitestore: enqueue: ")
	require.ErrorContains(t, err, "full")
	require.Empty(t, known)
	require.Equal(t, outhook.Stats{Pending: 1}, stats(t, s), "nothing of it is stored")
	bound("1000")
	enqueue(t, s, newDelivery("small", "s"), large)
	require.Len(t, claim(t, s), 3)
}

func TestLater(t *testing.T) {
	now := time.Now().UnixNano()
	require.Equal(t, now, later(now, -time.Hour))
	require.Equal(t, now+1, later(now, 1))
	require.EqualValues(t, never, later(now, math.MaxInt64))
	require.EqualValues(t, never, instantOf(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
	require.Equal(t, now, instantOf(timeOf(now)))
}
