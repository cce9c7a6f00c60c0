package pgxstore

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// foundRow is a delivery that a filter selects.
type foundRow struct {
	outhook.Record // without payload and attempts
	id             int64
	token          int64 // of the outcome that settled it
	payload        *int64
}

// change calls do, in a transaction each, for pages of what a filter selects.
func (s *Store) change(ctx context.Context, what string, filter outhook.Filter, states []outhook.State,
	do func(context.Context, pgx.Tx, []foundRow) (int, error),
) (n int, err error) {
	n, err = s.pages(ctx, filter, states, changePage, func(rows []foundRow) (changed int, err error) {
		err = s.inTx(ctx, what, func(tx pgx.Tx) error {
			changed, err = do(ctx, tx, rows)
			return err
		})
		if err != nil {
			return 0, err
		}
		return changed, nil
	})
	return n, err
}

// pages calls do for pages of what a filter selects, until do has dealt with as
// many as the filter's Limit. What is enqueued meanwhile is left out.
func (s *Store) pages(ctx context.Context, filter outhook.Filter, states []outhook.State, size int, do func([]foundRow) (int, error)) (n int, err error) {
	if len(states) == 0 {
		states = filter.States
	}
	var last int64
	if err := s.pool.QueryRow(ctx, s.sql(`select coalesce(max(id), 0) from {schema}.delivery`)).Scan(&last); err != nil {
		return 0, failure("find", err)
	}
	for after := int64(0); ; {
		limit := size
		if filter.Limit > 0 {
			limit = min(limit, filter.Limit-n)
		}
		rows, err := s.find(ctx, s.pool, filter, states, after, last, limit)
		if err != nil {
			return n, failure("find", err)
		}
		if len(rows) == 0 {
			return n, nil
		}
		done, err := do(rows)
		if n += done; err != nil {
			return n, err
		}
		if len(rows) < limit || filter.Limit > 0 && n >= filter.Limit {
			return n, nil
		}
		after = rows[len(rows)-1].id
	}
}

// find returns at most limit deliveries that a filter selects, with numbers above
// after and up to last, or any if that is 0. Its text depends on the filter, so that
// each has the index that serves it.
func (s *Store) find(ctx context.Context, q session, f outhook.Filter, states []outhook.State, after, last int64, limit int) ([]foundRow, error) {
	if last == 0 {
		last = math.MaxInt64
	}
	where := []string{"d.id > $1::bigint", "d.id <= $2::bigint"}
	args := []any{after, last}
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if f.Event != "" {
		add("d.event = $%d::text", storable(f.Event))
	}
	if f.Subscriber != "" {
		add("s.name = $%d::text", storable(f.Subscriber))
	}
	if f.Type != "" {
		add("d.type = $%d::text", storable(f.Type))
	}
	if len(states) > 0 {
		where = append(where, stateCondition(states))
	}
	if f.OlderThan > 0 {
		add(sinceColumn(states)+" <= {now} - $%d::bigint * interval '1 microsecond'", micros(f.OlderThan))
	}
	if f.NewerThan != 0 {
		add(sinceColumn(states)+" >= {now} - $%d::bigint * interval '1 microsecond'", int64(f.NewerThan/time.Microsecond))
	}
	args = append(args, limit)
	text := `
select d.id, d.event, s.name, d.type, d.time, d.order_key, d.payload, d.replay,
    coalesce(o.state, 'pending'), coalesce(o.reason, ''), coalesce(o.token, 0), coalesce(o.at, d.entered),
    p.due, coalesce(p.live and p.due > {now}, false)
from {schema}.delivery d
join {schema}.subscriber s on s.id = d.subscriber
left join {schema}.pending p on p.id = d.id
left join {schema}.outcome o on o.delivery = d.id and o.state is not null
where ` + strings.Join(where, " and ") + fmt.Sprintf(" order by d.id limit $%d::bigint", len(args))
	var found []foundRow
	err := ask(ctx, q, func(rows pgx.Rows) error {
		var r foundRow
		var eventTime, state string
		var due *time.Time
		if err := rows.Scan(&r.id, &r.ID.Event, &r.ID.Subscriber, &r.Type, &eventTime, &r.OrderKey, &r.payload, &r.Replay,
			&state, &r.Reason, &r.token, &r.Since, &due, &r.Leased); err != nil {
			return err
		}
		r.Time, _ = stored.DecodeTime(eventTime) // zero if it is damaged; Claim tells
		r.State, r.Since = outhook.State(state), r.Since.UTC()
		if due != nil {
			r.Due = due.UTC()
		}
		found = append(found, r)
		return nil
	}, s.sql(text), args...)
	return found, err
}

// stateCondition selects states. They stand in it as literals, so that a partial
// index can be used.
func stateCondition(states []outhook.State) string {
	var settled []string
	pending := false
	for _, state := range states {
		switch {
		case state == outhook.Pending:
			pending = true
		case valid(state):
			settled = append(settled, "'"+string(state)+"'")
		}
	}
	in := "o.state in (" + strings.Join(settled, ", ") + ")"
	switch {
	case pending && len(settled) > 0:
		return "(p.id is not null or " + in + ")"
	case pending:
		return "p.id is not null"
	case len(settled) > 0:
		return in
	}
	return "false"
}

// sinceColumn is when a delivery came to be in one of the states.
func sinceColumn(states []outhook.State) string {
	if len(states) == 0 || slices.Contains(states, outhook.Pending) {
		return "coalesce(o.at, d.entered)"
	}
	return "o.at"
}

// fill adds the payloads to records. One that is missing stays nil.
func (s *Store) fill(ctx context.Context, q session, rows []foundRow) error {
	var wanted []stored.BodyOf
	for i := range rows {
		if n := rows[i].payload; n != nil {
			wanted = append(wanted, bodyOf(*n, rows[i].ID.Event))
		}
	}
	batch := &pgx.Batch{}
	payloads := s.load(batch, wanted)
	err := send(ctx, q, batch)
	for i := range rows {
		if n := rows[i].payload; n != nil {
			rows[i].Payload = payloads[bodyOf(*n, rows[i].ID.Event)]
		}
	}
	return err
}

func columns(rows []foundRow) (ids, tokens []int64) {
	for i := range rows {
		ids, tokens = append(ids, rows[i].id), append(tokens, rows[i].token)
	}
	return ids, tokens
}
