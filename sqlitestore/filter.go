package sqlitestore

import (
	"context"
	"database/sql"
	"slices"
	"strings"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// selection is a Filter in SQL, but for its limit.
type selection struct {
	tables string // d, with p if it is pending and o if it is settled
	id     string // the column of the table that a search begins with
	where  []string
	args   []any
}

const (
	anyState = `outhook_delivery d left join outhook_pending p on p.id = d.id
		left join outhook_outcome o on o.delivery = d.id and o.state in ` + settled
	onlyPending = "outhook_pending p cross join outhook_delivery d on d.id = p.id"
	onlySettled = "outhook_outcome o cross join outhook_delivery d on d.id = o.delivery and o.state <> ''"
)

func selectBy(f outhook.Filter, now int64) selection {
	s := selection{tables: anyState, id: "d.id"}
	subscriber, state, since := "d.subscriber", "coalesce(o.state, 'pending')", "coalesce(o.at, d.entered)"
	switch {
	case f.Event != "" || len(f.States) == 0: // an event has few deliveries
	case !slices.ContainsFunc(f.States, isPending):
		s.tables, s.id, state, since = onlySettled, "o.delivery", "o.state", "o.at"
	case !slices.ContainsFunc(f.States, isSettled):
		s.tables, s.id, subscriber, since = onlyPending, "p.id", "p.subscriber", "d.entered"
		state = "iif(p.id is null, '', 'pending')"
	}
	add := func(condition string, args ...any) {
		s.where = append(s.where, condition)
		s.args = append(s.args, args...)
	}
	if len(f.States) > 0 {
		states := make([]any, len(f.States))
		for i := range states {
			states[i] = string(f.States[i])
		}
		add(state+" in (?"+strings.Repeat(", ?", len(states)-1)+")", states...)
	}
	if f.Event != "" {
		add("d.event = ?", f.Event)
	}
	if f.Subscriber != "" {
		add(subscriber+" = (select id from outhook_subscriber where name = ?)", f.Subscriber)
	}
	if f.Type != "" {
		add("d.type = ?", f.Type)
	}
	if f.OlderThan != 0 {
		add(since+" <= ?", now-int64(f.OlderThan))
	}
	if f.NewerThan != 0 {
		add(since+" >= ?", now-int64(f.NewerThan))
	}
	return s
}

// queryer is the file, or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// find returns the IDs of the deliveries that a filter selects, in the order of
// Enqueue. The index of settled ones has that order for each state by itself.
func find(q executor, f outhook.Filter, now int64) (ids []int64, err error) {
	if len(f.States) < 2 || slices.ContainsFunc(f.States, isPending) {
		return selectBy(f, now).find(q, f.Limit)
	}
	for _, state := range f.States {
		one := f
		one.States = []outhook.State{state}
		found, err := selectBy(one, now).find(q, f.Limit)
		if err != nil {
			return nil, err
		}
		ids = append(ids, found...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if f.Limit > 0 && len(ids) > f.Limit {
		ids = ids[:f.Limit]
	}
	return ids, nil
}

func isPending(s outhook.State) bool { return s == outhook.Pending }

func isSettled(s outhook.State) bool { return s != outhook.Pending }

func (s selection) find(q executor, limit int) (ids []int64, err error) {
	if limit <= 0 {
		limit = -1 // none
	}
	query := "select " + s.id + " from " + s.tables + s.conditions() + " order by " + s.id + " limit ?"
	err = q.query(query, append(s.args, limit), func(r scanner) (bool, error) {
		var id int64
		err := r.Scan(&id)
		ids = append(ids, id)
		return true, err
	})
	return ids, err
}

func (s selection) conditions() string {
	if len(s.where) == 0 {
		return ""
	}
	return " where " + strings.Join(s.where, " and ")
}

// read returns a delivery, if it is selected.
func (s selection) read(ctx context.Context, q queryer, id, now int64) (record outhook.Record, found bool, err error) {
	s.where = append(s.where, "d.id = ?", "s.id = d.subscriber")
	rows, err := q.QueryContext(ctx, `select d.event, s.name, d.type, d.time, d.order_key, d.payload, d.entered, d.replay,
		p.ready, p.due, p.live <> 0, o.state, o.reason, o.at, b.content_type, b.header, b.body
		from outhook_subscriber s join `+anyState+" left join outhook_payload b on b.id = d.payload and b.event = d.event"+s.conditions(), append(s.args, id)...)
	if err != nil {
		return record, false, err
	}
	defer func() { _ = rows.Close() }()
	if !rows.Next() {
		return record, false, rows.Err()
	}
	var (
		when                 string
		body, ready, due, at *int64
		entered              int64
		live                 *bool
		state, reason        *string
		content              payload
	)
	err = rows.Scan(&record.ID.Event, &record.ID.Subscriber, &record.Type, &when, &record.OrderKey, &body, &entered, &record.Replay,
		&ready, &due, &live, &state, &reason, &at, &content.contentType, &content.header, &content.body)
	if err != nil {
		return record, false, err
	}
	record.Time, _ = stored.DecodeTime(when) // what is damaged is left out; Claim tells of it
	if body != nil {
		record.Payload, _ = content.restore()
	}
	if state != nil {
		record.State, record.Reason, record.Since = outhook.State(*state), *reason, timeOf(*at)
		return record, true, nil
	}
	record.State, record.Since = outhook.Pending, timeOf(entered)
	if due != nil {
		record.Leased = *live && *due > now
		if ready == nil {
			ready = due
		}
		record.Due = timeOf(*ready)
	}
	return record, true, nil
}
