package pgxstore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// Options change what a Store does. The zero value is ready to use.
type Options struct {
	// Schema holds all tables of the store: a lower-case letter or '_', then
	// those and digits, at most 48 in all. It is the channel of the
	// notifications, too. Empty: "outhook".
	Schema string

	// Silent sends no notifications when something becomes claimable.
	// False: they are sent, with each transaction that makes something so.
	Silent bool

	// Listen is how Notify connects, if not like the pool: directly to the
	// server, beside a PgBouncer. Nil: like the pool.
	Listen *pgx.ConnConfig
}

// Store is an [outhook.Store] in a PostgreSQL database. It implements
// [outhook.Notifier], [outhook.StandingStore] and [outhook.Manager].
type Store struct {
	pool    *pgxpool.Pool
	options Options
	replace *strings.Replacer // completes statements
	stopped string            // after how long of standing still a client loses its transaction
	logged  bool              // a statement that fails is logged with its values

	statements sync.Map // completed, by what they are made of
	lanes      seenLanes
	group      *group
	handover   handover
	repeated   atomic.Pointer[time.Time] // when something was stored last that was known

	snapshots   stored.Snapshots
	payloads    *stored.Payloads
	places      *stored.Memory[outhook.Lease, place]
	subscribers *stored.Memory[string, int64] // numbers of names, all of them committed
	cursors     *stored.Memory[int64, string] // the order key of a subscriber that was claimed last
}

var (
	_ outhook.Store         = (*Store)(nil)
	_ outhook.Notifier      = (*Store)(nil)
	_ outhook.StandingStore = (*Store)(nil)
	_ outhook.Manager       = (*Store)(nil)
)

// maxSubscribers bounds of how many subscribers something is remembered.
const maxSubscribers = 10_000

var validSchema = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,47}$`)

// New returns a Store on the databases that pool connects to. It makes no
// connection. Options may be nil.
func New(pool *pgxpool.Pool, options *Options) (*Store, error) {
	if pool == nil {
		return nil, errors.New("pgxstore: new: no pool")
	}
	s := &Store{
		pool: pool, group: newGroup(), snapshots: stored.NewSnapshots(), payloads: stored.NewPayloads(),
		places:      stored.NewMemory[outhook.Lease, place](maxPlaces, nil),
		subscribers: stored.NewMemory[string, int64](maxSubscribers, nil),
		cursors:     stored.NewMemory[int64, string](maxSubscribers, nil),
	}
	s.handover.patience = handTime
	s.handover.release = func(claims []outhook.Claim) { s.release(context.Background(), claims) }
	if options != nil {
		s.options = *options
	}
	if s.options.Schema == "" {
		s.options.Schema = "outhook"
	}
	if !validSchema.MatchString(s.options.Schema) {
		return nil, errors.New("pgxstore: new: Options.Schema is not 1 to 48 of a-z, 0-9 and '_'")
	}
	s.stopped = "10s"
	s.logged = pool.Config().ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol
	s.useClock("statement_timestamp()")
	return s, nil
}

// useClock sets the expression by which all statements know what time it is.
func (s *Store) useClock(now string) {
	s.statements.Clear()
	s.replace = strings.NewReplacer("{schema}", quote(s.options.Schema), "{now}", now)
}

// quote makes an identifier of a valid name of a schema, which may be a key word.
func quote(schema string) string { return `"` + schema + `"` }

// sql completes a statement.
func (s *Store) sql(text string) string {
	if statement, ok := s.statements.Load(text); ok {
		return statement.(string)
	}
	statement := s.replace.Replace(text)
	s.statements.Store(text, statement)
	return statement
}

// hasCode reports whether an error is the server's, of that code.
func hasCode(err error, code string) bool {
	server, ok := errors.AsType[*pgconn.PgError](err)
	return ok && server.Code == code
}

// failure wraps the error of a call, if there is one. Of what the server
// says it keeps the message, which holds no values.
func failure(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("pgxstore: %s: %w", what, err)
}

// micros is a duration as a parameter of a statement, rounded up, 0 if negative.
func micros(d time.Duration) int64 {
	n := max(d, 0).Microseconds()
	if d > time.Duration(n)*time.Microsecond {
		n++
	}
	return n
}
