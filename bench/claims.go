//go:build unix

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outhook/outhook"
)

// A claim as Run makes it.
var claim100 = outhook.ClaimRequest{Limit: 100, PerSubscriber: 8, SuspectAfter: 3, Suspects: 1, Lease: time.Minute}

const claimSubscribers = 50

// claims compares claims of 100 on PostgreSQL, with little pending and with much.
// Then it has a process work on the largest backlog, to see what memory that takes.
func claims(ctx context.Context, b *bench) (err error) {
	if !slices.Contains(b.plan.stores, postgres) {
		return nil
	}
	var subscribers []outhook.Subscriber
	for i := range claimSubscribers {
		subscribers = append(subscribers, b.subscriber(i))
	}
	stores := make([]*hooks, len(b.plan.backlogs))
	for i, n := range b.plan.backlogs {
		h, err := b.openOuthook(ctx, postgres, b.options(postgres))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, h.close()) }()
		h.subscribers = subscribers
		began := time.Now()
		if err := h.enqueue(ctx, n); err != nil {
			return fmt.Errorf("store %d: %w", n, err)
		}
		b.logf("claims: %s stored in %.1f s", amount(n), time.Since(began).Seconds())
		stores[i] = h
	}
	times, err := claimInTurns(ctx, stores, b.plan.claims)
	if err != nil {
		return err
	}
	smallest, largest := amount(b.plan.backlogs[0]), amount(b.plan.backlogs[len(stores)-1])
	last := stores[len(stores)-1]
	b.figure("pg_claim_"+largest+"_vs_"+smallest, 2, series{times[len(stores)-1] / times[0]})
	for i, n := range b.plan.backlogs {
		b.detail("pg_claim_ms_"+amount(n), 2, series{times[i]})
	}
	held, err := b.claimHeld(ctx, last)
	if err != nil {
		return err
	}
	b.figure("pg_claim_held_vs_"+smallest, 2, series{held / times[0]})
	return b.workerMemory(ctx, last, largest)
}

// claimInTurns returns the medians of so many claims, in milliseconds.
func claimInTurns(ctx context.Context, stores []*hooks, n int) (medians []float64, err error) {
	all := make([]series, len(stores))
	for i := range n + 10 {
		for k, h := range stores {
			claimed, took, err := h.claim(ctx)
			if err == nil {
				err = h.settle(ctx, claimed, outhook.Pending)
			}
			if err != nil {
				return nil, err
			}
			if i >= 10 { // the first warm up
				all[k] = append(all[k], millis(took))
			}
		}
	}
	for _, s := range all {
		medians = append(medians, s.median())
	}
	return medians, nil
}

func (h *hooks) claim(ctx context.Context) (claimed outhook.Claimed, took time.Duration, err error) {
	began := time.Now()
	claimed, err = h.store.Claim(ctx, claim100)
	took = time.Since(began)
	if err == nil && len(claimed.Claims) != claim100.Limit {
		err = fmt.Errorf("claimed %d, not %d", len(claimed.Claims), claim100.Limit)
	}
	return claimed, took, err
}

// settle gives back what was claimed, as pending, or has it delivered.
func (h *hooks) settle(ctx context.Context, claimed outhook.Claimed, state outhook.State) error {
	var outcomes []outhook.Outcome
	for i := range claimed.Claims {
		outcomes = append(outcomes, outhook.Outcome{Lease: claimed.Claims[i].Lease(), State: state, Released: state == outhook.Pending})
	}
	lost, err := h.store.Finish(ctx, outcomes)
	if err == nil && len(lost) > 0 {
		err = fmt.Errorf("%d leases were lost", len(lost))
	}
	return err
}

// claimHeld returns how long a claim takes, in milliseconds, after many have been
// delivered while somebody's idle transaction keeps vacuum from removing them.
func (b *bench) claimHeld(ctx context.Context, h *hooks) (float64, error) {
	tx, err := b.database.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "select 1 from pg_class limit 1"); err != nil { // its snapshot
		return 0, err
	}
	for range b.plan.claims {
		claimed, _, err := h.claim(ctx)
		if err == nil {
			err = h.settle(ctx, claimed, outhook.Delivered)
		}
		if err != nil {
			return 0, err
		}
	}
	medians, err := claimInTurns(ctx, []*hooks{h}, b.plan.claims)
	if err != nil {
		return 0, err
	}
	b.detail("pg_claim_ms_held", 2, medians)
	return medians[0], nil
}

// workerMemory has a process deliver from a large backlog for a while.
func (b *bench) workerMemory(ctx context.Context, h *hooks, backlog string) error {
	c, err := b.spawn(ctx, childPlan{Role: roleWorker, Schema: h.schema, Subscribers: claimSubscribers})
	if err != nil {
		return err
	}
	defer c.kill()
	b.receiver.expect(0)
	if _, err := c.ask("go"); err != nil {
		return err
	}
	select {
	case <-time.After(b.plan.steady):
	case <-ctx.Done():
		return ctx.Err()
	}
	report, err := c.ask("report")
	if err != nil {
		return err
	}
	b.figure("pg_worker_mib_"+backlog, 0, series{cmp.Or(report.PeakMiB, report.HeapMiB)})
	b.detail("pg_worker_heap_mib_"+backlog, 0, series{report.HeapMiB})
	b.logf("claims: the worker has delivered %d", b.receiver.total())
	return c.end()
}

// amount is 1000 as 1k, a million as 1m.
func amount(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dm", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprint(n)
}
