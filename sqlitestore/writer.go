package sqlitestore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"sync"
	"time"
)

// writer executes the calls that write. Who finds nobody leading leads: begins
// a transaction, executes all calls that are queued by then, and commits
// once for all of them. What is called meanwhile is the next group.
type writer struct {
	db   *sql.DB
	wait time.Duration // for writers other than this one
	lead chan struct{} // holds a value while somebody leads
	conn *connection   // of the one who leads; nil: to be opened

	committing func(calls int) // for tests; called before each commit

	mu    sync.Mutex
	queue []*call // guarded by mu
}

// call is one call that writes.
type call struct {
	execute func(*transaction) error
	done    chan struct{} // closed when it is committed or has failed
	err     error         // why it has failed; valid once done is closed
}

func newWriter(db *sql.DB, wait time.Duration) *writer {
	return &writer{db: db, wait: wait, lead: make(chan struct{}, 1), committing: func(int) {}}
}

// do executes a call and returns when it is committed or has failed. It is executed
// at most once, and not at all if ctx ends while it is queued. When its
// execution has begun, ctx does not matter.
func (w *writer) do(ctx context.Context, execute func(*transaction) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &call{execute: execute, done: make(chan struct{})}
	w.mu.Lock()
	w.queue = append(w.queue, c)
	w.mu.Unlock()
	select {
	case <-c.done:
	case w.lead <- struct{}{}:
		w.group(ctx, c)
		<-c.done
	case <-ctx.Done():
		if w.withdraw(c) {
			return ctx.Err()
		}
		<-c.done
	}
	return c.err
}

// group executes what is queued. It leads for the caller of own, which may have
// been in the group before.
func (w *writer) group(ctx context.Context, own *call) {
	defer func() { <-w.lead }()
	select {
	case <-own.done:
		return
	default:
	}

	// The wait for other writers ends with the context of who leads, who then
	// gives up alone. All that follows is everybody's.
	err := w.begin(ctx)
	if err != nil && ctx.Err() != nil {
		w.withdraw(own)
		w.answer([]*call{own}, ctx.Err())
		return
	}
	w.mu.Lock()
	calls := w.queue
	w.queue = nil
	w.mu.Unlock()
	if err != nil {
		w.answer(calls, err)
		return
	}
	err = errors.New("another call of the same transaction has ended its goroutine")
	defer func() { w.answer(calls, err) }() // also if a call panics
	err = w.execute(calls)
}

// execute executes calls and commits. An error is that of all.
func (w *writer) execute(calls []*call) error {
	for _, c := range calls {
		t := &transaction{executor: w.conn}
		if c.err = t.atomically(c.execute); t.lost {
			return c.err
		}
	}
	w.committing(len(calls))
	return w.conn.commit()
}

// answer tells the callers. After an error of all, the connection may be in any
// state, and is given up, which undoes what was not committed.
func (w *writer) answer(calls []*call, err error) {
	if err != nil {
		w.conn.discard()
		w.conn = nil
	}
	for _, c := range calls {
		if c.err == nil {
			c.err = err
		}
		close(c.done)
	}
}

// withdraw takes a call out of the queue and reports whether it was there.
func (w *writer) withdraw(c *call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.queue, c)
	if i >= 0 {
		w.queue = slices.Delete(w.queue, i, i+1)
	}
	return i >= 0
}

// begin begins a transaction with the right to write.
func (w *writer) begin(ctx context.Context) error {
	return patiently(ctx, w.wait, func() error {
		if w.conn == nil {
			conn, err := w.db.Conn(ctx)
			if err != nil {
				return err
			}
			w.conn = &connection{conn, make(map[string]*sql.Stmt)}
			if _, err := conn.ExecContext(ctx, "pragma busy_timeout = 0"); err != nil {
				return err
			}
		}
		_, err := w.conn.ExecContext(ctx, "begin immediate")
		return err
	})
}

// close waits for the group that is under way. Calls that come later fail.
func (w *writer) close() error {
	w.lead <- struct{}{}
	defer func() { <-w.lead }()
	w.conn.discard()
	w.conn = nil
	return w.db.Close()
}

// connection is that of a writer, with the statements that it has prepared.
type connection struct {
	*sql.Conn
	prepared map[string]*sql.Stmt
}

func (c *connection) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := c.prepared[query]; s != nil {
		return s, nil
	}
	s, err := c.PrepareContext(ctx, query)
	if err == nil {
		c.prepared[query] = s
	}
	return s, err
}

func (c *connection) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args...)
}

func (c *connection) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

func (c *connection) commit() error {
	_, err := c.ExecContext(context.Background(), "commit")
	return err
}

// discard closes the connection for good, which undoes its transaction. A
// connection with open statements would only be closed with the last of them.
func (c *connection) discard() {
	if c == nil {
		return
	}
	for _, s := range c.prepared {
		_ = s.Close()
	}
	_ = c.Raw(func(any) error { return driver.ErrBadConn }) // not to be used by others
	_ = c.Close()
}
