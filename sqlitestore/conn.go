package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

// patiently calls f until it does not find the file busy, for as long as wait.
//
// SQLite waits by itself, but asks ever more rarely, in the end ten times a
// second. A process that writes one transaction after the other leaves gaps
// that are too short to be found so.
func patiently(ctx context.Context, wait time.Duration, f func() error) error {
	deadline := time.Now().Add(wait)
	for {
		err := f()
		if !busy(err) || !time.Now().Before(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(2 * time.Millisecond)):
		}
	}
}

// busy reports whether an error is that another connection is writing.
func busy(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlitelib.SQLITE_BUSY
}

// connector opens connections.
type connector struct {
	driver.Connector
	wait time.Duration
}

func newConnector(path string, options Options) (*connector, error) {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") { // C:/, of Windows
		path = "/" + path
	}
	synchronous := "FULL"
	if options.LoseLatestOnPowerFailure {
		synchronous = "NORMAL"
	}
	name := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		"_busy_timeout": {fmt.Sprint(options.BusyTimeout.Milliseconds())},
		"_journal_mode": {"WAL"},
		"_synchronous":  {synchronous},
		"_txlock":       {"immediate"},
		"_dqs":          {"0"},
		"_pragma":       {"temp_store = memory"},
	}.Encode()}
	c, err := sqlite.NewConnector(name.String())
	return &connector{c, options.BusyTimeout}, err
}

// sqliteConn is what a connection of the driver implements.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// conn is a connection whose transactions are begun patiently.
type conn struct {
	sqliteConn
	wait time.Duration
}

// Connect implements [driver.Connector].
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{inner.(sqliteConn), c.wait}, nil
}

// Unwrap returns the connection of the driver, for functions of its package.
func (c *conn) Unwrap() driver.Conn { return c.sqliteConn }

// BeginTx implements [driver.ConnBeginTx].
func (c *conn) BeginTx(ctx context.Context, options driver.TxOptions) (tx driver.Tx, err error) {
	if options.ReadOnly {
		return c.sqliteConn.BeginTx(ctx, options)
	}
	if err := c.setTimeout(0); err != nil {
		return nil, err
	}
	err = patiently(ctx, c.wait, func() (err error) {
		tx, err = c.sqliteConn.BeginTx(ctx, options)
		return err
	})
	if c.setTimeout(c.wait) != nil {
		return nil, driver.ErrBadConn // it is not to be used again
	}
	return tx, err
}

// setTimeout sets how long SQLite waits by itself.
func (c *conn) setTimeout(d time.Duration) error {
	_, err := c.ExecContext(context.Background(), fmt.Sprintf("pragma busy_timeout = %d", d.Milliseconds()), nil)
	return err
}
