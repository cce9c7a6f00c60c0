package pgxstore

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// fill stores n deliveries that are due, of one event each, spread over
// subscribers with the given prefix, with SQL alone.
func fill(t testing.TB, s *Store, prefix string, subscribers, n int, keys int) {
	t.Helper()
	ctx := context.Background()
	d := newDelivery(t, "e", "s")
	snapshot, err := d.Snapshot.MarshalBinary()
	require.NoError(t, err)
	exec := func(text string, args ...any) {
		t.Helper()
		_, err := s.pool.Exec(ctx, s.sql(text), args...)
		require.NoError(t, err)
	}
	exec(`insert into {schema}.subscriber (name) select $1::text || i from generate_series(1, $2::integer) i`, prefix, subscribers)
	exec(`
with body as (
    insert into {schema}.payload (event, content_type, body) values ($2::text, '', $5::bytea) returning id
), stored as (
    insert into {schema}.delivery (event, subscriber, type, time, order_key, hold_on_dead, delay, ttl, digest, snapshot, entered, payload)
    select $2::text || i, s.id, 'test.made', '2026-01-02T03:04:05Z', case when $7::integer = 0 then '' else 'k' || i % $7::integer end,
        false, 0, 0, $3::bytea, $4::bytea, {now}, body.id
    from generate_series(1, $1::integer) i cross join body
    join {schema}.subscriber s on s.name = $2::text || (1 + i % $6::integer)
    returning id, subscriber, order_key
)
insert into {schema}.pending (id, subscriber, key, rank, due, expires, token, live, attempts, unfinished, holds)
select id, subscriber, order_key, case when order_key = '' then {now} else '-infinity' end, {now}, null, 0, false, 0, 0, false from stored`,
		n, prefix, d.Digest[:], snapshot, d.Payload.Body, subscribers, keys)
}

// pause holds the subscribers with a prefix back for an hour.
func pause(t testing.TB, s *Store, names ...string) {
	t.Helper()
	require.NoError(t, s.UpdateStandings(context.Background(), names, func(now time.Time, standing *outhook.Standing) {
		standing.PausedUntil = now.Add(time.Hour)
	}))
}

func vacuum(t testing.TB, s *Store) {
	t.Helper()
	for _, table := range []string{"pending", "delivery", "payload", "subscriber", "hold", "barrier", "outcome"} {
		_, err := s.pool.Exec(context.Background(), s.sql(`vacuum (analyze) {schema}.`+table))
		require.NoError(t, err)
	}
}

var claim100 = outhook.ClaimRequest{Limit: 100, PerSubscriber: 8, SuspectAfter: 3, Suspects: 1, Lease: time.Minute}

// timeClaim returns how long a claim of 100 takes. What it has claimed is given back.
func timeClaim(t testing.TB, s *Store) time.Duration {
	t.Helper()
	ctx := context.Background()
	began := time.Now()
	claimed, err := s.Claim(ctx, claim100)
	took := time.Since(began)
	require.NoError(t, err)
	require.Len(t, claimed.Claims, claim100.Limit)
	var outcomes []outhook.Outcome
	for i := range claimed.Claims {
		outcomes = append(outcomes, outhook.Outcome{Lease: claimed.Claims[i].Lease(), State: outhook.Pending, Released: true})
	}
	lost, err := s.Finish(ctx, outcomes)
	require.NoError(t, err)
	require.Empty(t, lost)
	return took
}

// BenchmarkClaimBacklog compares claims of 100 side by side: with 1,000 pending, with
// a million, and with 1,000 beside 100,000 of a paused subscriber.
func BenchmarkClaimBacklog(b *testing.B) {
	small, large, paused := newStore(b, nil), newStore(b, nil), newStore(b, nil)
	fill(b, small, "s", 50, 1_000, 0)
	fill(b, large, "s", 50, 1_000_000, 0)
	fill(b, paused, "p", 1, 100_000, 0)
	fill(b, paused, "s", 50, 1_000, 0)
	pause(b, paused, "p1")
	stores := []*Store{small, large, paused}
	for _, s := range stores {
		vacuum(b, s)
		for range 10 {
			timeClaim(b, s)
		}
	}
	times := make([][]time.Duration, len(stores))
	rounds := 0
	for b.Loop() {
		rounds++
		for i, s := range stores {
			times[i] = append(times[i], timeClaim(b, s))
		}
	}
	median := func(i int) float64 {
		slices.Sort(times[i])
		return float64(times[i][len(times[i])/2])
	}
	if rounds < 2 {
		return // the framework tries out how many it needs
	}
	b.ReportMetric(median(0)/1e6, "ms/claim_1k")
	b.ReportMetric(median(1)/1e6, "ms/claim_1m")
	b.ReportMetric(median(2)/1e6, "ms/claim_paused")
	fmt.Fprintf(os.Stdout, "bench: pg_claim_1m_vs_1k=%.2f\n", median(1)/median(0))
	fmt.Fprintf(os.Stdout, "bench: pg_claim_paused_vs_1k=%.2f\n", median(2)/median(0))
}
