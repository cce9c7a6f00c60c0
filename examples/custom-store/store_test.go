package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func() (storetest.Backend, error) {
		b, _, err := backend(filepath.Join(t.TempDir(), "hooks.db"))
		return b, err
	})
}

// TestStoreClock is TestStore on a clock that stands still, which shows every
// instant to be exact.
func TestStoreClock(t *testing.T) {
	storetest.Run(t, func() (storetest.Backend, error) {
		b, stores, err := backend(filepath.Join(t.TempDir(), "hooks.db"))
		var passed atomic.Int64
		for _, s := range stores {
			s.now = func() time.Time { return time.Unix(1_700_000_000, passed.Load()) }
		}
		b.Sleep = func(d time.Duration) { passed.Add(int64(d)) }
		return b, err
	})
}

// backend returns two stores on a new file, and what the suite asks for.
func backend(path string) (storetest.Backend, []*Store, error) {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return storetest.Backend{}, nil, err
	}
	one, other := NewStore(db), NewStore(db)
	damage := func(_ context.Context, id outhook.DeliveryID) error { return overwrite(db, sent+id.String(), "{") }
	return storetest.Backend{Store: one, Other: other, Damage: damage, Close: db.Close}, []*Store{one, other}, nil
}

func overwrite(db *bbolt.DB, key, value string) error {
	return db.Update(func(btx *bbolt.Tx) error {
		return btx.Bucket([]byte("outhook")).Put([]byte(key), []byte(value))
	})
}

func BenchmarkStore(b *testing.B) {
	storetest.Benchmark(b, func() (storetest.Backend, error) {
		backend, _, err := backend(filepath.Join(b.TempDir(), "hooks.db"))
		return backend, err
	})
}

// TestDamage: not only what was sent may be damaged, but also what the store
// wrote itself, and it may still be JSON.
func TestDamage(t *testing.T) {
	for _, kind := range []string{sent, rows} {
		for _, damage := range []string{"", "{", "{}", "null", `{"State":"dead","Token":9,"Place":"x"}`} {
			t.Run(kind+damage, func(t *testing.T) {
				db, err := bbolt.Open(filepath.Join(t.TempDir(), "hooks.db"), 0o600, nil)
				require.NoError(t, err)
				defer db.Close()
				s, d := NewStore(db), deliveries(t, "e", "a", "b", "c")
				require.NoError(t, enqueue(t.Context(), s, d...))
				require.NoError(t, overwrite(db, kind+d[1].ID.String(), damage))

				claims := claim(t, s, 100)
				require.Len(t, claims, 3)
				for _, c := range claims {
					require.Equal(t, c.ID == d[1].ID, c.Fault != "")
					require.NotEqual(t, outhook.ReasonExpired, c.Fault)
					require.Positive(t, c.Token)
				}
				require.Empty(t, claim(t, s, 100), "the damaged one has its lease, too")
				for _, c := range claims {
					lost, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: c.Lease(), State: outhook.Dead}})
					require.NoError(t, err)
					require.Empty(t, lost)
				}
				require.Empty(t, claim(t, s, 100))
			})
		}
	}
}

// TestTurnsAfterReopening: a process that starts goes on where the last one ended.
func TestTurnsAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hooks.db")
	var served []string
	for i := range 6 {
		db, err := bbolt.Open(path, 0o600, nil)
		require.NoError(t, err)
		s := NewStore(db)
		require.NoError(t, enqueue(t.Context(), s, deliveries(t, fmt.Sprint("e", i), "a", "b", "c")...))
		served = append(served, claim(t, s, 1)[0].ID.Subscriber)
		require.NoError(t, db.Close())
	}
	require.Equal(t, []string{"a", "b", "c", "a", "b", "c"}, served)
}

func TestLeaseThatNeverWas(t *testing.T) {
	b, _, err := backend(filepath.Join(t.TempDir(), "hooks.db"))
	require.NoError(t, err)
	defer b.Close()
	d := deliveries(t, "e", "a")[0]
	require.NoError(t, enqueue(t.Context(), b.Store, d))
	for _, id := range []outhook.DeliveryID{d.ID, {Event: "unknown", Subscriber: "a"}} {
		never := outhook.Outcome{Lease: outhook.Lease{ID: id}, State: outhook.Dead}
		lost, err := b.Store.Finish(t.Context(), []outhook.Outcome{never})
		require.NoError(t, err)
		require.Equal(t, []outhook.Lease{never.Lease}, lost)
	}
}

func TestPlaintextKeys(t *testing.T) {
	b, _, err := backend(filepath.Join(t.TempDir(), "hooks.db"))
	require.NoError(t, err)
	defer b.Close()
	d, err := outhook.New(b.Store, nil)
	require.NoError(t, err)
	_, err = d.Send(t.Context(), outhook.Event{Type: "a"}, []outhook.Subscriber{
		{ID: "s", URL: "https://example.com", Keys: []outhook.Key{outhook.GenerateKey()}},
	})
	require.ErrorIs(t, err, outhook.ErrPlaintextKeys)
	require.Empty(t, claim(t, b.Store, 100))
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(&out, filepath.Join(t.TempDir(), "hooks.db")))
	require.Equal(t, `sent order.placed
sent order.paid
sent order.shipped
closed the file, 0 received so far
received order.placed
received order.paid
received order.shipped
`, out.String())
}

// TestDocument: docs/writing-a-store.md shows this code, all of it and in this
// order, and it is less than the 200 lines that are promised there.
func TestDocument(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(text)
	}
	blocks := func(text string) (list []string) {
		for _, match := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(text, -1) {
			list = append(list, match[1])
		}
		return list
	}
	code, tests, found := strings.Cut(read("../../docs/writing-a-store.md"), "\n## Test it\n")
	require.True(t, found)
	require.Equal(t, read("store.go"), strings.Join(blocks(code), "\n"))
	for _, block := range blocks(tests)[1:] { // the first has its imports
		require.Contains(t, read("store_test.go"), block)
	}

	lines := 0
	for line := range strings.Lines(read("store.go")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			lines++
		}
	}
	require.Less(t, lines, 200)
}

// deliveries returns one event for each of some subscribers, as Send makes them.
func deliveries(t *testing.T, event string, subscribers ...string) []outhook.Delivery {
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	require.NoError(t, err)
	var list []outhook.Subscriber
	for _, id := range subscribers {
		list = append(list, outhook.Subscriber{ID: id, URL: "https://example.com", Unsigned: true})
	}
	var made recorder
	_, err = d.Via(&made).Send(t.Context(), outhook.Event{ID: event, Type: "test.event"}, list)
	require.NoError(t, err)
	return made
}

// A recorder is an Enqueuer that keeps what it is given.
type recorder []outhook.Delivery

func (r *recorder) Enqueue(_ context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	*r = append(*r, deliveries...)
	return nil, nil
}

func enqueue(ctx context.Context, s outhook.Store, deliveries ...outhook.Delivery) error {
	_, err := s.Enqueue(ctx, deliveries)
	return err
}

func claim(t *testing.T, s outhook.Store, limit int) []outhook.Claim {
	claimed, err := s.Claim(t.Context(), outhook.ClaimRequest{
		Limit: limit, PerSubscriber: 100, SuspectAfter: 3, Suspects: 1, Lease: time.Hour,
	})
	require.NoError(t, err)
	return claimed.Claims
}
