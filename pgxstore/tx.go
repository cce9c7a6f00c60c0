package pgxstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
)

// InTx returns an Enqueuer that stores in a transaction of the host, for
// [outhook.Dispatcher.Via]: what it takes is delivered if and when that commits.
// It works behind a savepoint: after an error the transaction holds nothing
// of the call, and can go on.
//
// A transaction that is serializable or repeatable read gets an error with SQLSTATE
// 40001 for an ID that was sent since it began.
func (s *Store) InTx(tx pgx.Tx) outhook.Enqueuer { return pgxTx{s, tx} }

// InSQLTx is InTx for database/sql, with the driver of pgx
// (github.com/jackc/pgx/v5/stdlib).
func (s *Store) InSQLTx(tx *sql.Tx) outhook.Enqueuer { return sqlTx{s, tx} }

type pgxTx struct {
	s  *Store
	tx pgx.Tx
}

func (t pgxTx) Enqueue(ctx context.Context, deliveries []outhook.Delivery) (known []outhook.DeliveryID, err error) {
	if len(deliveries) == 0 {
		return nil, ctx.Err()
	}
	if _, err := t.tx.Exec(ctx, "savepoint outhook"); err != nil {
		return nil, failure("enqueue", err)
	}
	fresh, err := t.s.enqueue(ctx, pgxQuerier{t.tx}, deliveries)
	if err == nil {
		_, err = t.tx.Exec(ctx, "release savepoint outhook")
	}
	if err != nil {
		// Also if ctx has ended: the host must not commit a half.
		_, undone := t.tx.Exec(context.WithoutCancel(ctx), "rollback to savepoint outhook")
		return nil, failure("enqueue", errors.Join(err, ignoreClosed(undone)))
	}
	return knownOf(deliveries, fresh.isKnown), nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, pgx.ErrTxClosed) {
		return nil
	}
	return err
}

type sqlTx struct {
	s  *Store
	tx *sql.Tx
}

func (t sqlTx) Enqueue(ctx context.Context, deliveries []outhook.Delivery) (known []outhook.DeliveryID, err error) {
	if len(deliveries) == 0 {
		return nil, ctx.Err()
	}
	if _, err := t.tx.ExecContext(ctx, "savepoint outhook"); err != nil {
		return nil, failure("enqueue", err)
	}
	fresh, err := t.s.enqueue(ctx, sqlQuerier{t.tx}, deliveries)
	if err == nil {
		_, err = t.tx.ExecContext(ctx, "release savepoint outhook")
	}
	if err != nil {
		_, undone := t.tx.ExecContext(context.WithoutCancel(ctx), "rollback to savepoint outhook")
		if errors.Is(undone, sql.ErrTxDone) {
			undone = nil
		}
		return nil, failure("enqueue", errors.Join(err, undone))
	}
	return knownOf(deliveries, fresh.isKnown), nil
}

type pgxQuerier struct{ session }

func (q pgxQuerier) query(ctx context.Context, each func(scan func(...any) error) error, text string, args ...any) error {
	return ask(ctx, q, func(rows pgx.Rows) error { return each(rows.Scan) }, text, args...)
}

type sqlQuerier struct{ *sql.Tx }

func (q sqlQuerier) query(ctx context.Context, each func(scan func(...any) error) error, text string, args ...any) error {
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
