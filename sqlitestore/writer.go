package sqlitestore

import (
	"context"
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
	connector driver.Connector
	wait      time.Duration // for writers other than this one
	lead      chan struct{} // holds a value while somebody leads
	conn      *connection   // of the one who leads; nil: to be opened
	closed    bool          // as conn

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

func newWriter(connector driver.Connector, wait time.Duration) *writer {
	return &writer{connector: connector, wait: wait, lead: make(chan struct{}, 1), committing: func(int) {}}
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

// execute executes calls and commits. An error is that of all. Of several calls,
// each can be undone by itself, which SQLite takes copies of pages for.
func (w *writer) execute(calls []*call) error {
	end := "commit"
	for _, c := range calls {
		t := &transaction{executor: w.conn}
		if len(calls) > 1 {
			c.err = t.atomically(c.execute)
		} else if c.err = c.execute(t); c.err != nil {
			end = "rollback"
		}
		if t.lost {
			return c.err
		}
	}
	w.committing(len(calls))
	_, err := w.conn.execute(end, nil)
	return err
}

// answer tells the callers. After an error of all, the connection may be in any
// state, and is given up, which undoes what was not committed.
func (w *writer) answer(calls []*call, err error) {
	if err != nil {
		_ = w.conn.close()
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
	if w.closed {
		return errors.New("the file is closed")
	}
	return patiently(ctx, w.wait, func() error {
		if w.conn == nil {
			conn, err := w.connector.Connect(ctx)
			if err != nil {
				return err
			}
			w.conn = &connection{conn: conn, prepared: make(map[string]driver.Stmt)}
			if _, err := w.conn.execute("pragma busy_timeout = 0", nil); err != nil {
				return err
			}
		}
		_, err := w.conn.execute("begin immediate", nil)
		return err
	})
}

// close waits for the group that is under way. Calls that come later fail.
func (w *writer) close() error {
	w.lead <- struct{}{}
	defer func() { <-w.lead }()
	err := w.conn.close()
	w.conn, w.closed = nil, true
	return err
}
