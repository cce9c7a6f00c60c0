package pgxstore

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A session is what statements are sent through, in batches: a transaction, of the store's
// own or of pgx, or a pool.
type session interface {
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// ask calls each for each row of the answer to a statement. It may be nil.
func ask(ctx context.Context, q session, each func(pgx.Rows) error, sql string, args ...any) error {
	batch := &pgx.Batch{}
	batch.Queue(sql, args...).Query(eachRow(each))
	return send(ctx, q, batch)
}

// eachRow is for a query that is queued in a batch.
func eachRow(each func(pgx.Rows) error) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for each != nil && rows.Next() {
			if err := each(rows); err != nil {
				return err
			}
		}
		rows.Close()
		return rows.Err()
	}
}

// send sends a batch, and returns when all of it is answered.
func send(ctx context.Context, q session, batch *pgx.Batch) error {
	if batch.Len() == 0 {
		return nil
	}
	return q.SendBatch(ctx, batch).Close()
}

// A transaction is that of an Enqueue, a Claim or a Finish, which are many: it begins with
// its first batch, and may commit with its last, so that neither is a round trip of its own.
type transaction struct {
	conn     *pgxpool.Conn
	settings string // the statement that makes them
	begun    bool
	ended    bool // it is committed
}

const beginning = "begin isolation level read committed"

// idleSetting bounds how long a transaction stands still. That of a client that is stopped,
// or cut off, would keep what it has locked from all others for as long as the server
// believes in it: hours.
const idleSetting = "idle_in_transaction_session_timeout"

// pinnedPlans holds for the rest of a transaction. The statements of Enqueue, Claim and
// Finish are made so that one plan is right for all tables, however they grow: it is
// kept, rather than made anew each time, which would take longer than the statement. Made
// while the tables are empty, it must not be one that reads them whole. Its costs are
// guessed for a million rows, which compiling it would not be worth.
const pinnedPlans = `set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`

// inPinnedTx calls do in a transaction with pinnedPlans and more settings, and commits it
// unless do has.
func (s *Store) inPinnedTx(ctx context.Context, what, more string, do func(tx *transaction) error) error {
	return again(what, func() error {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		tx := s.newTransaction(conn, more)
		defer tx.rollback(ctx)
		if err := do(tx); err != nil {
			return err
		}
		return tx.commit(ctx)
	})
}

func (s *Store) newTransaction(conn *pgxpool.Conn, more string) *transaction {
	return &transaction{conn: conn, settings: "select set_config('" + idleSetting + "', '" + s.stopped + "', true), " + pinnedPlans + more}
}

// SendBatch implements session.
func (t *transaction) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	if t.begun {
		return t.conn.SendBatch(ctx, batch)
	}
	t.begun = true
	all := &pgx.Batch{}
	all.Queue(beginning)
	all.Queue(t.settings)
	begins := all.Len()
	all.QueuedQueries = append(all.QueuedQueries, batch.QueuedQueries...)
	results := t.conn.SendBatch(ctx, all)
	for range begins {
		_, _ = results.Exec() // an error is that of all that follows
	}
	return results
}

// commitWith sends a batch, and commits unless one of its statements fails. A func that fails
// to read an answer comes too late to keep it from that.
func (t *transaction) commitWith(ctx context.Context, batch *pgx.Batch) error {
	batch.Queue("commit").Exec(func(tag pgconn.CommandTag) error {
		err := committed(tag)
		t.ended = err == nil
		return err
	})
	if err := send(ctx, t, batch); !t.ended {
		return err
	}
	return nil // whatever became of the connection after that
}

func (t *transaction) commit(ctx context.Context) error {
	if t.ended || !t.begun {
		return nil
	}
	tag, err := t.conn.Exec(ctx, "commit")
	if err == nil {
		err = committed(tag)
	}
	t.ended = err == nil
	return err
}

// committed returns an error if a commit was none, since the transaction had failed.
func committed(tag pgconn.CommandTag) error {
	if tag.String() == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	return nil
}

// rollback ends it, unless it was committed. If that fails, the pool closes the connection.
func (t *transaction) rollback(ctx context.Context) {
	if conn := t.conn.Conn(); !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(ctx, "rollback")
	}
}

// inTx calls do in a transaction of pgx. It is for all other calls.
func (s *Store) inTx(ctx context.Context, what string, do func(tx pgx.Tx) error) error {
	return again(what, func() error {
		return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{BeginQuery: s.begin()}, do)
	})
}

func (s *Store) begin() string {
	return beginning + "; set local " + idleSetting + " = '" + s.stopped + "'"
}

const (
	maxDeadlocks     = 3
	uniqueViolation  = "23505"
	deadlockDetected = "40P01"
	lockNotAvailable = "55P03"
)

// again makes a transaction, and if the server has broken a deadlock by ending it makes it
// again, a few times.
func again(what string, transact func() error) error {
	err := transact()
	for i := 0; i < maxDeadlocks && hasCode(err, deadlockDetected); i++ {
		err = transact()
	}
	return failure(what, err)
}
