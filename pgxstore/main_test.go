package pgxstore

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/pgserver"
)

// server is the one of all tests.
var server *pgserver.Server

func TestMain(m *testing.M) {
	var err error
	if server, err = pgserver.Start("fsync=off", "full_page_writes=off"); err != nil {
		fmt.Fprintln(os.Stderr, "pgxstore: the tests need PostgreSQL:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var schemas atomic.Int64

// newSchema returns the name of a schema that is not there.
func newSchema() string { return fmt.Sprintf("test_%d_%d", os.Getpid(), schemas.Add(1)) }

// newPool connects to the server of the tests, in the given mode.
func newPool(url string, mode pgx.QueryExecMode, size int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DefaultQueryExecMode = mode
	config.MaxConns = size
	return pgxpool.NewWithConfig(context.Background(), config)
}

// newStore returns a store in a fresh schema, which is dropped when the test ends.
func newStore(t testing.TB, options *Options) *Store {
	t.Helper()
	pool, err := newPool(server.URL(), pgx.QueryExecModeCacheStatement, 8)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	if options == nil {
		options = &Options{}
	}
	if options.Schema == "" {
		options.Schema = newSchema()
	}
	s, err := New(pool, options)
	require.NoError(t, err)
	require.NoError(t, s.Migrate(context.Background()))
	t.Cleanup(func() { require.NoError(t, drop(s)) })
	return s
}

func drop(s *Store) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a test that failed may have left a transaction open
	defer cancel()
	_, err := s.pool.Exec(ctx, s.sql(`drop schema {schema} cascade`))
	return err
}

// freeze makes the clock of a store stand still. It returns how to let time pass.
func freeze(s *Store) (sleep func(time.Duration), err error) {
	ctx := context.Background()
	if _, err := s.pool.Exec(ctx, s.sql(`
create table {schema}.clock (at timestamptz not null);
insert into {schema}.clock values (date_trunc('second', now()))`)); err != nil {
		return nil, err
	}
	useFrozen(s)
	return func(d time.Duration) {
		if _, err := s.pool.Exec(ctx, s.sql(`update {schema}.clock set at = at + $1::bigint * interval '1 microsecond'`), d.Microseconds()); err != nil {
			panic(err)
		}
	}, nil
}

func useFrozen(s *Store) { s.useClock(`(select at from ` + quote(s.options.Schema) + `.clock)`) }

// silent is a tracer that does nothing, for others to be made of.
type silent struct{}

func (silent) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (silent) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (silent) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (silent) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (silent) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// recorder is an Enqueuer that keeps what it is given.
type recorder struct{ deliveries []outhook.Delivery }

func (r *recorder) Enqueue(_ context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	r.deliveries = append(r.deliveries, deliveries...)
	return nil, nil
}

// newDelivery returns a delivery that Send has made.
func newDelivery(t testing.TB, event, subscriber string) outhook.Delivery {
	t.Helper()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{StoreKeysInPlaintext: true})
	require.NoError(t, err)
	var r recorder
	_, err = d.Via(&r).Send(context.Background(), outhook.Event{ID: event, Type: "test.made", Data: 1}, []outhook.Subscriber{{
		ID: subscriber, URL: "https://example.com/hook", Keys: []outhook.Key{{Secret: outhook.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}},
	}})
	require.NoError(t, err)
	return r.deliveries[0]
}

func newPoolOf(config *pgxpool.Config) (*pgxpool.Pool, error) {
	return pgxpool.NewWithConfig(context.Background(), config)
}
