package pgxstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// DatabaseStats is what an operator of the database watches.
type DatabaseStats struct {
	// OldestDue is how long the delivery that waits longest has been due. It
	// grows when deliveries come in faster than they are made, or nobody makes them.
	OldestDue time.Duration

	// OldestTransaction is how long the oldest transaction of this database has
	// been open. As long as it is, vacuum cannot remove what was deleted
	// since, and claims become slower. Transactions of other roles count only if the
	// role may see them (pg_read_all_stats).
	OldestTransaction time.Duration

	Tables []TableStats // by name
}

// TableStats are estimates of PostgreSQL's of one table.
type TableStats struct {
	Name  string
	Live  int64 // rows
	Dead  int64 // rows that vacuum has not removed yet; many in pending make claims slow
	Bytes int64 // with its indexes and what is stored apart
}

// Database returns what an operator watches. It reads all of what is pending.
func (s *Store) Database(ctx context.Context) (stats DatabaseStats, err error) {
	var due, open int64
	err = s.pool.QueryRow(ctx, s.sql(`
select `+oldestDue+`, (
    select coalesce(max(extract(epoch from clock_timestamp() - xact_start) * 1000000), 0)::bigint
    from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
)`)).Scan(&due, &open)
	if err != nil {
		return DatabaseStats{}, failure("database", err)
	}
	stats.OldestDue, stats.OldestTransaction = time.Duration(due)*time.Microsecond, time.Duration(open)*time.Microsecond
	rows, err := s.pool.Query(ctx, `
select relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid)
from pg_stat_user_tables where schemaname = $1::text order by relname`, s.options.Schema)
	if err == nil {
		stats.Tables, err = pgx.CollectRows(rows, pgx.RowToStructByPos[TableStats])
	}
	if err != nil {
		return DatabaseStats{}, failure("database", err)
	}
	return stats, nil
}
