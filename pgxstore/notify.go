package pgxstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
)

const (
	debounce   = 20 * time.Millisecond // between two calls of wake for notifications, at least
	probeEvery = time.Minute           // how often a notification is sent to see that it arrives
	probeWait  = 10 * time.Second      // how long that may take
)

// errDeaf is why Notify ends when notifications do not come through.
var errDeaf = errors.New("notifications do not arrive; a pooler that pools transactions swallows them, see Options.Listen")

// Notify implements [outhook.Notifier] with LISTEN, on a connection of its own
// that it opens and closes. It sees every minute whether notifications that are sent
// through the pool arrive.
func (s *Store) Notify(ctx context.Context, wake func()) error {
	if s.options.Silent {
		return fmt.Errorf("pgxstore: notify: %w", errors.ErrUnsupported)
	}
	conn, err := s.listen(ctx)
	if err != nil {
		return failure("notify", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	stop := s.handover.listen(&wake)
	defer func() {
		stop()
		s.withdraw(ctx)
	}()
	l := &listener{s: s, conn: conn, wake: wake}
	wake()
	for {
		if err := l.probe(ctx); err != nil {
			return failure("notify", err)
		}
		if err := l.wait(ctx, probeEvery, func() bool { return false }); err != nil {
			return failure("notify", err)
		}
	}
}

func (s *Store) listen(ctx context.Context) (*pgx.Conn, error) {
	config := s.options.Listen
	if config == nil {
		pool := s.pool.Config() // a copy
		config = pool.ConnConfig
		if pool.BeforeConnect != nil { // it may set a password that changes
			if err := pool.BeforeConnect(ctx, config); err != nil {
				return nil, err
			}
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "listen "+quote(s.options.Schema)); err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

type listener struct {
	s      *Store
	conn   *pgx.Conn
	wake   func()
	number int       // of the probe
	heard  string    // the latest probe of its own that has arrived
	woken  time.Time // when wake was called last
	due    bool      // wake is to be called, when debounce has passed
}

// probe sends a notification through the pool, as a transaction of another process
// would, and waits for it.
func (l *listener) probe(ctx context.Context) error {
	l.number++
	sent := fmt.Sprintf("%d %d", l.conn.PgConn().PID(), l.number)
	sending, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	if _, err := l.s.pool.Exec(sending, `select pg_notify($1::text, $2::text)`, l.s.options.Schema, sent); err != nil {
		return nil // the pool is exhausted, perhaps: that says nothing of what arrives
	}
	if err := l.wait(ctx, probeWait, func() bool { return l.heard == sent }); err != nil {
		return err
	}
	if l.heard != sent {
		return errDeaf
	}
	return nil
}

// wait takes notifications for so long, or until done.
func (l *listener) wait(ctx context.Context, d time.Duration, done func() bool) error {
	until := time.Now().Add(d)
	for !done() {
		now := time.Now()
		wait := until.Sub(now)
		if l.due {
			rest := l.woken.Add(debounce).Sub(now)
			if rest <= 0 {
				l.due, l.woken = false, now
				l.s.handover.miss()
				l.wake()
				continue
			}
			wait = min(wait, rest)
		}
		if wait <= 0 {
			return nil
		}
		waiting, cancel := context.WithTimeout(ctx, wait)
		n, err := l.conn.WaitForNotification(waiting)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && waiting.Err() != nil && !l.conn.IsClosed():
			// its time is up
		case err != nil:
			return err
		case n.Payload == "":
			l.due = true
		case hasPrefix(n.Payload, l.conn.PgConn().PID()):
			l.heard = n.Payload
		}
	}
	return nil
}

// hasPrefix reports whether a probe is of the connection with that number.
func hasPrefix(payload string, pid uint32) bool {
	prefix := strconv.FormatUint(uint64(pid), 10) + " "
	return len(payload) > len(prefix) && payload[:len(prefix)] == prefix
}

var _ outhook.Notifier = (*Store)(nil)
