package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/outhook/outhook"
)

// InTx returns an Enqueuer for [outhook.Dispatcher.Via] that stores within a
// transaction of the host's on the same file: what it stores is there when the
// host commits, and not at all if it does not. After an error nothing is
// stored, and the transaction can go on.
//
// The transaction must have been begun IMMEDIATE, as those of [Store.DB] are.
// Until it ends, other calls that write wait for it: within it, send by this
// Enqueuer alone. After the commit, call [outhook.Dispatcher.Wake]; else what
// was sent is found at the next poll.
func (s *Store) InTx(tx *sql.Tx) outhook.Enqueuer { return &hostTx{s, tx} }

type hostTx struct {
	store *Store
	tx    *sql.Tx
}

// Enqueue implements [outhook.Enqueuer]. A statement that is interrupted would undo
// the host's transaction, so ctx is not asked once it has begun.
func (h *hostTx) Enqueue(ctx context.Context, deliveries []outhook.Delivery) (known []outhook.DeliveryID, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sqlitestore: enqueue: %w", err)
	}
	rows, err := encodeAll(deliveries)
	if err == nil {
		t := &transaction{executor: hosts{context.Background(), h.tx}, now: h.store.now().UnixNano()}
		err = t.atomically(func(t *transaction) error {
			known, _, err = t.enqueue(rows, h.store.subscribers)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("sqlitestore: enqueue: %w", err)
	}
	return known, nil
}

// executor is a connection of the writer, or a transaction of the host's.
type executor interface {
	// execute returns how many rows were changed.
	execute(query string, args []any) (changed int64, err error)

	// query calls f for each row until that wants no more.
	query(query string, args []any, f func(scanner) (more bool, err error)) error
}

type scanner interface{ Scan(dest ...any) error }

// transaction is one call's part of a transaction that can write. Its
// statements have no context that ends: others are in the same transaction.
type transaction struct {
	executor
	now  int64
	lost bool // it was undone as a whole
}

// atomically executes f wholly or, after an error, not at all.
func (t *transaction) atomically(f func(*transaction) error) error {
	if err := t.exec("savepoint outhook"); err != nil {
		return err
	}
	err := f(t)
	var end error
	if err != nil {
		end = t.exec("rollback to outhook")
	}
	if end == nil {
		end = t.exec("release outhook")
	}
	t.lost = end != nil // some errors, such as that of a full disk, may undo it all
	return errors.Join(err, end)
}

func (t *transaction) exec(query string, args ...any) error {
	_, err := t.execute(query, args)
	return err
}

// one reads a row, if there is one.
func (t *transaction) one(query string, args []any, dest ...any) (found bool, err error) {
	err = t.query(query, args, func(r scanner) (bool, error) {
		found = true
		return false, r.Scan(dest...)
	})
	return found, err
}

// token returns a new token, and stores which subscriber was served last.
func (t *transaction) token(turn any) (token int64, err error) {
	_, err = t.one("update outhook_meta set token = token + 1, turn = coalesce(?, turn) returning token", []any{turn}, &token)
	return token, err
}

// hosts is the file, or a transaction of the host's on it.
type hosts struct {
	ctx context.Context
	db  interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	}
}

func (h hosts) execute(query string, args []any) (changed int64, err error) {
	result, err := h.db.ExecContext(h.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (h hosts) query(query string, args []any, f func(scanner) (more bool, err error)) error {
	rows, err := h.db.QueryContext(h.ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if more, err := f(rows); err != nil || !more {
			return err
		}
	}
	return rows.Err()
}
