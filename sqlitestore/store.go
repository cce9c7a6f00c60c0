package sqlitestore

import (
	"cmp"
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// Options configure a [Store]. The zero value is the default of each.
type Options struct {
	// BusyTimeout is how long a call waits while another process, or a
	// transaction of the host's, is writing. Then it returns an error, and can
	// be repeated. Negative: it does not wait. Zero: 5 s.
	BusyTimeout time.Duration

	// LoseLatestOnPowerFailure makes writing faster: calls return before what
	// they stored is on the disk (synchronous=NORMAL). After a power failure or a
	// crash of the operating system the latest calls may then be undone,
	// ALTHOUGH THEY HAVE RETURNED: events that Send has accepted are never
	// delivered, and what was delivered is delivered again. The end of the
	// process alone loses nothing. False: a call returns when it is on the disk.
	LoseLatestOnPowerFailure bool
}

// Store is an [outhook.Store] in an SQLite file. It implements
// [outhook.StandingStore] and [outhook.Manager] as well.
//
// It is no [outhook.Notifier]: what another process stores is found by polling,
// see [outhook.Options]. A Dispatcher learns of what it sends itself at once.
type Store struct {
	db     *sql.DB // for the host, and for reading
	writer *writer
	now    func() time.Time

	snapshots   stored.Snapshots
	payloads    *stored.Payloads
	places      *stored.Memory[outhook.Lease, place]
	subscribers *stored.Memory[string, int64] // numbers by name; their rows are never removed
}

// maxSubscribers bounds how many subscribers are remembered.
const maxSubscribers = 50_000

var (
	_ outhook.Store         = (*Store)(nil)
	_ outhook.StandingStore = (*Store)(nil)
	_ outhook.Manager       = (*Store)(nil)
)

// Open opens the file at path. It creates the file, readable by its owner
// alone, and the tables if they are missing, and brings tables of an older
// version up to date. It refuses those of a newer one. Nil options are the
// defaults.
func Open(ctx context.Context, path string, options *Options) (*Store, error) {
	if options == nil {
		options = new(Options)
	}
	s, err := open(path, *options)
	if err != nil {
		return nil, openError(path, err)
	}
	// One that is made, or recovered after a crash, by several handles at one
	// time can be busy in ways of its own.
	if err := patiently(ctx, s.writer.wait, func() error { return s.migrate(ctx) }); err != nil {
		return nil, errors.Join(openError(path, err), s.Close())
	}
	return s, nil
}

func openError(path string, err error) error {
	return fmt.Errorf("sqlitestore: open %q: %w", path, err)
}

func open(path string, options Options) (*Store, error) {
	options.BusyTimeout = max(cmp.Or(options.BusyTimeout, 5*time.Second), 0)
	if path == "" || path == ":memory:" {
		return nil, errors.New("a path of a file is required")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	c, err := newConnector(path, options)
	if err != nil {
		return nil, err
	}
	return &Store{
		db: sql.OpenDB(c), writer: newWriter(c, options.BusyTimeout), now: time.Now,
		snapshots: stored.NewSnapshots(), payloads: stored.NewPayloads(),
		places:      stored.NewMemory[outhook.Lease, place](maxPlaces, nil),
		subscribers: stored.NewMemory[string, int64](maxSubscribers, nil),
	}, nil
}

// create makes an empty file that its owner alone can read, which SQLite then
// takes over. SQLite's own would follow the umask, and hold what the host sends.
// The file is linked in and not opened: to close a file that another handle of this
// process has open would end the locks of that handle.
func create(path string) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".outhook-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := f.Close(); err != nil {
		return err
	}
	_ = os.Link(f.Name(), path) // it is there by now, or SQLite has to make it, where there are no links
	return nil
}

//go:embed schema.sql
var schema string

// migrations bring the tables from one version to the next, the first from nothing.
var migrations = []string{schema}

func (s *Store) migrate(ctx context.Context) error {
	var mode string
	if err := s.db.QueryRowContext(ctx, "pragma journal_mode").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("the file has the journal mode %q, it cannot be WAL", mode)
	}
	return s.writer.do(ctx, func(t *transaction) error {
		var version, tables int
		if _, err := t.one("select user_version from pragma_user_version", nil, &version); err != nil {
			return err
		}
		if _, err := t.one("select count(*) from sqlite_schema where name = 'outhook_meta'", nil, &tables); err != nil {
			return err
		}
		switch {
		case version == len(migrations) && tables > 0:
			return nil
		case version > 0 && tables == 0:
			return fmt.Errorf("the file has the user_version %d and none of the store's tables: others use that number", version)
		case version > len(migrations):
			return fmt.Errorf("the tables have version %d, and this package knows up to %d: it is too old", version, len(migrations))
		}
		for _, script := range migrations[version:] {
			if err := t.exec(script); err != nil {
				return err
			}
		}
		return t.exec(fmt.Sprintf("pragma user_version = %d", len(migrations)))
	})
}

// Close closes the file, once the calls that write have returned. A store that is
// closed returns errors.
func (s *Store) Close() error {
	if err := errors.Join(s.writer.close(), s.db.Close()); err != nil {
		return fmt.Errorf("sqlitestore: close: %w", err)
	}
	return nil
}

// DB returns the file for tables of the host's own, and for [Store.InTx].
// Transactions begin IMMEDIATE, that is with the right to write, unless they
// are asked for as read-only. The store's own calls cannot write while one of
// them does, and wait for it, at most for Options.BusyTimeout. Connections of
// their own, as for a backup, are for the host to open. It is closed by
// [Store.Close].
func (s *Store) DB() *sql.DB { return s.db }

// write executes a call in a transaction, alone or with others. What it does is
// stored wholly if it returns no error, and else not at all.
func (s *Store) write(ctx context.Context, verb string, f func(t *transaction) error) error {
	err := s.writer.do(ctx, func(t *transaction) error {
		t.now = s.now().UnixNano()
		return f(t)
	})
	if err != nil {
		return fmt.Errorf("sqlitestore: %s: %w", verb, err)
	}
	return nil
}

// Instants are nanoseconds since 1970.
const never = math.MaxInt64

// later returns the instant d after now.
func later(now int64, d time.Duration) int64 {
	if d := int64(max(d, 0)); d <= never-now {
		return now + d
	}
	return never
}

func timeOf(at int64) time.Time { return time.Unix(0, at).UTC() }

func instantOf(t time.Time) int64 {
	if t.After(timeOf(never)) {
		return never
	}
	return t.UnixNano()
}
