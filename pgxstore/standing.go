package pgxstore

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
)

// UpdateStandings implements [outhook.StandingStore].
func (s *Store) UpdateStandings(ctx context.Context, subscribers []string, update func(time.Time, *outhook.Standing)) error {
	if len(subscribers) == 0 {
		return ctx.Err()
	}
	err := s.inTx(ctx, "update standings", func(tx pgx.Tx) error {
		names := slices.Compact(slices.Sorted(slices.Values(subscribers)))
		if _, err := tx.Exec(ctx, s.sql(insertSubscribers), names); err != nil {
			return err
		}
		standings, now, err := s.lockStandings(ctx, tx, `select id from {schema}.subscriber where name = any ($1::text[])`, names)
		if err != nil {
			return err
		}
		byName := make(map[string]*standingRow, len(standings))
		for _, row := range standings {
			byName[row.standing.Subscriber] = row
		}
		for _, name := range subscribers {
			row := byName[name]
			if row == nil {
				return errors.New("a subscriber was not stored")
			}
			update(now, &row.standing)
			row.standing.Subscriber = name
		}
		if _, err := s.storeStandings(ctx, tx, standings, now); err != nil {
			return err
		}
		return s.notify(ctx, tx)
	})
	s.handover.miss()
	s.withdraw(ctx, subscribers...) // a Claim that begins now is to keep to the change
	return err
}

// Standings implements [outhook.StandingStore].
func (s *Store) Standings(ctx context.Context) iter.Seq2[outhook.Standing, error] {
	return func(yield func(outhook.Standing, error) bool) {
		for last := int64(-1); ; {
			const page = `select id, name, standing::text from {schema}.subscriber where standing is not null and id > $1::bigint order by id limit 500`
			rows, err := s.pool.Query(ctx, s.sql(page), last)
			if err == nil {
				var found []outhook.Standing
				found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (standing outhook.Standing, err error) {
					var name string
					var text *string
					err = row.Scan(&last, &name, &text)
					return decodeStanding(name, text), err
				})
				for _, standing := range found {
					if err == nil && !yield(standing, nil) {
						return
					}
				}
				if err == nil && len(found) == 0 {
					return
				}
			}
			if err != nil {
				yield(outhook.Standing{}, failure("standings", err))
				return
			}
		}
	}
}

// standingRow is a row of subscriber that the transaction has locked.
type standingRow struct {
	id       int64
	standing outhook.Standing
	before   outhook.Standing
}

// lockStandings locks rows of subscriber in the order of their numbers. which is
// a query for these, with one parameter.
func (s *Store) lockStandings(ctx context.Context, tx session, which string, arg any) (found map[int64]*standingRow, now time.Time, err error) {
	found = make(map[int64]*standingRow)
	err = ask(ctx, tx, func(rows pgx.Rows) error {
		row := &standingRow{}
		var text *string
		if err := rows.Scan(&row.id, &row.standing.Subscriber, &text, &now); err != nil {
			return err
		}
		row.standing = decodeStanding(row.standing.Subscriber, text)
		row.before = row.standing
		found[row.id] = row
		return nil
	}, s.sql(`
select s.id, s.name, s.standing::text, {now}
from {schema}.subscriber s where s.id in (`+which+`)
order by s.id for update`), arg)
	return found, now.UTC(), err
}

// storeStandings stores the standings that have changed. It reports whether one of
// them may admit something that it did not admit before.
func (s *Store) storeStandings(ctx context.Context, tx session, rows map[int64]*standingRow, now time.Time) (opened bool, err error) {
	batch := &pgx.Batch{}
	for _, row := range rows {
		if row.standing == row.before {
			continue
		}
		text, opens, forever, err := encodeStanding(row.standing, now)
		if err != nil {
			return false, err
		}
		batch.Queue(s.sql(storeStanding), row.id, text, opens, forever)
		closed, before := row.standing, row.before
		a, _ := closed.Admit(now, 1)
		b, _ := before.Admit(now, 1)
		opened = opened || a > b || row.standing.PausedUntil.Before(row.before.PausedUntil)
	}
	return opened, send(ctx, tx, batch)
}

const storeStanding = `
update {schema}.subscriber
set standing = $2::text::json, opens = case when $4::boolean then 'infinity' else coalesce($3::timestamptz, '-infinity') end
where id = $1::bigint`

// swapStanding stores a standing that Claim has changed, if it is still what it
// was and nobody has locked it.
func (s *Store) swapStanding(ctx context.Context, tx session, id int64, before, after outhook.Standing) (ok bool, err error) {
	var text *string // nil: another has locked it
	var now time.Time
	err = ask(ctx, tx, func(rows pgx.Rows) error {
		return rows.Scan(&text, &now)
	}, s.sql(`select standing::text, {now} from {schema}.subscriber where id = $1::bigint for update skip locked`), id)
	if err != nil || text == nil {
		return false, err
	}
	if decodeStanding(before.Subscriber, text) != before {
		return false, nil
	}
	stored, opens, forever, err := encodeStanding(after, now.UTC())
	if err != nil {
		return false, err
	}
	err = ask(ctx, tx, nil, s.sql(storeStanding), id, stored, opens, forever)
	return err == nil, err
}

// decodeStanding returns the zero standing if it cannot restore the stored one:
// there is no better use for one that nobody can read. Whose it is, the column of
// the name says.
func decodeStanding(subscriber string, text *string) (standing outhook.Standing) {
	if text == nil || json.Unmarshal([]byte(*text), &standing) != nil {
		standing = outhook.Standing{}
	}
	standing.Subscriber = subscriber
	return standing
}

// encodeStanding returns the stored form, nil for a zero standing, and when it
// admits a delivery: nil for at once, or forever not unless it changes.
func encodeStanding(standing outhook.Standing, now time.Time) (text *string, opens *time.Time, forever bool, err error) {
	if standing == (outhook.Standing{Subscriber: standing.Subscriber}) {
		return nil, nil, false, nil
	}
	standing.PausedUntil, standing.Since = standing.PausedUntil.Round(0).UTC(), standing.Since.Round(0).UTC()
	asked := standing
	if n, next := asked.Admit(now, 1); n == 0 {
		if forever = next.IsZero(); !forever {
			at := next.Add(time.Microsecond - 1).Truncate(time.Microsecond)
			opens = &at
		}
	}
	data, err := json.Marshal(standing)
	stored := string(data)
	return &stored, opens, forever, err
}
