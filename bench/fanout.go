//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/outhook/outhook"
)

const many = 10_000 // subscribers of one event

// fanout times one Send of an event to many subscribers.
func fanout(ctx context.Context, b *bench) error {
	for _, name := range b.plan.stores {
		if err := b.fanout(ctx, name); err != nil {
			return fmt.Errorf("fan-out on %s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) fanout(ctx context.Context, name string) (err error) {
	c, err := b.open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	h, ours := c.(*hooks)
	if ours {
		h.subscribers = nil
		for i := range many {
			h.subscribers = append(h.subscribers, outhook.Subscriber{
				ID: "one-of-many-" + strconv.Itoa(i), URL: b.receiver.path(0), Keys: []outhook.Key{b.key},
			})
		}
	}
	var times series
	for range b.plan.rounds {
		began := time.Now()
		if err := c.send(ctx, newID(), 0, many); err != nil {
			return err
		}
		times = append(times, millis(time.Since(began)))
	}
	b.logf("fan-out %s: %.0f ms", name, []float64(times))
	b.figure("fanout_10k_ms_"+short(name), 0, times)
	if name != postgres {
		return nil
	}
	b.detail("fanout_10k_ms_pg_first", 0, times[:1]) // subscribers that the store had not known
	bodies, err := b.bodies(ctx, h.schema)
	b.figure("fanout_payloads", 0, series{float64(bodies) / float64(b.plan.rounds)})
	return err
}

// bodies counts the rows of the table that has a column of bodies.
func (b *bench) bodies(ctx context.Context, schema string) (n int, err error) {
	var table string
	err = b.database.pool.QueryRow(ctx, `
select format('%I.%I', table_schema, table_name) from information_schema.columns
where table_schema = $1 and column_name = 'body'`, schema).Scan(&table)
	if err != nil {
		return 0, err
	}
	err = b.database.pool.QueryRow(ctx, "select count(*) from "+table).Scan(&n)
	return n, err
}
