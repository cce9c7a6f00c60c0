package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/outhook/outhook"
)

// UpdateStandings implements [outhook.StandingStore].
func (s *Store) UpdateStandings(ctx context.Context, subscribers []string, update func(now time.Time, s *outhook.Standing)) error {
	var panicked any // in the goroutine of whoever leads; it belongs into that of the caller
	err := s.write(ctx, "update standings", func(t *transaction) (err error) {
		defer func() {
			if panicked = recover(); panicked != nil {
				err = errors.New("update has panicked")
			}
		}()
		for _, name := range subscribers {
			if err := t.update(name, update); err != nil {
				return err
			}
		}
		return nil
	})
	if panicked != nil {
		panic(panicked)
	}
	return err
}

func (t *transaction) update(name string, update func(now time.Time, s *outhook.Standing)) error {
	var id int64
	var stored *string
	_, err := t.one("select id, standing from outhook_subscriber where name = ?", []any{name}, &id, &stored)
	if err != nil {
		return err
	}
	standing := decodeStanding(name, stored)
	before := standing
	update(timeOf(t.now), &standing)
	standing.Subscriber = name
	if standing == before {
		return nil
	}
	if id == 0 {
		if id, err = t.subscriber(name); err != nil {
			return err
		}
	}
	return t.keep(id, standing)
}

// keep stores a standing.
func (t *transaction) keep(id int64, s outhook.Standing) error {
	stored, err := encodeStanding(s)
	if err != nil {
		return fmt.Errorf("standing of subscriber %q: %w", s.Subscriber, err)
	}
	opens := int64(0)
	if n, next := s.Admit(timeOf(t.now), 1); n == 0 {
		opens = never
		if !next.IsZero() {
			opens = instantOf(next)
		}
	}
	return t.exec("update outhook_subscriber set standing = ?, opens = ? where id = ?", stored, opens, id)
}

// effect applies an effect, to the standing that earlier outcomes have left.
func (f *finisher) effect(name string, subscriber int64, e outhook.Effect) error {
	c := f.standings[subscriber]
	if c == nil {
		var stored *string
		if _, err := f.one("select standing from outhook_subscriber where id = ?", []any{subscriber}, &stored); err != nil {
			return err
		}
		s := decodeStanding(name, stored)
		c = &change{s, s}
		f.standings[subscriber] = c
	}
	c.after.Apply(timeOf(f.now), e)
	return nil
}

// keepAll stores the standings that the effects have changed.
func (f *finisher) keepAll() error {
	for id, c := range f.standings {
		if c.after != c.before {
			if err := f.keep(id, c.after); err != nil {
				return err
			}
		}
	}
	return nil
}

// Standings implements [outhook.StandingStore].
func (s *Store) Standings(ctx context.Context) iter.Seq2[outhook.Standing, error] {
	return func(yield func(outhook.Standing, error) bool) {
		kept, err := s.standings(ctx)
		for _, standing := range kept {
			if !yield(standing, nil) {
				return
			}
		}
		if err != nil {
			yield(outhook.Standing{}, fmt.Errorf("sqlitestore: standings: %w", err))
		}
	}
}

func (s *Store) standings(ctx context.Context) (kept []outhook.Standing, err error) {
	rows, err := s.db.QueryContext(ctx, "select name, standing from outhook_subscriber where standing is not null")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		var stored *string
		if err := rows.Scan(&name, &stored); err != nil {
			return kept, err
		}
		kept = append(kept, decodeStanding(name, stored))
	}
	return kept, rows.Err()
}
