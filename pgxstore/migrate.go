package pgxstore

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var files embed.FS

// A Migration is one step of the schema.
type Migration struct {
	Version int    // from 1
	SQL     string // statements without parameters, to be executed in one transaction
}

// begin precedes the first migration. Only a database without the schema needs the
// right to create one.
const begin = `do $$ begin
    if to_regnamespace('{schema}') is null then
        create schema {schema};
    end if;
end $$;

-- Which migrations were made.
create table {schema}.migration (
    version integer primary key,
    at      timestamptz not null default now()
);

`

// Migrations returns the steps of [Store.Migrate] for hosts with a tool of their
// own: those of the given schema, oldest first. Each records itself, so that
// Migrate, called later, finds it made.
func Migrations(schema string) ([]Migration, error) {
	if !validSchema.MatchString(schema) {
		return nil, fmt.Errorf("pgxstore: migrations: the schema is not 1 to 48 of a-z, 0-9 and '_'")
	}
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, failure("migrations", err)
	}
	var list []Migration
	for _, name := range names { // sorted
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, failure("migrations", err)
		}
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != len(list)+1 {
			return nil, fmt.Errorf("pgxstore: migrations: %s is not number %d", name, len(list)+1)
		}
		sql := string(text)
		if version == 1 {
			sql = begin + sql
		}
		sql += fmt.Sprintf("\ninsert into {schema}.migration (version) values (%d);\n", version)
		list = append(list, Migration{version, strings.ReplaceAll(sql, "{schema}", quote(schema))})
	}
	return list, nil
}

// Migrate makes the schema, or brings it up to date, in one transaction. Any number
// of processes may call it at once, and each time they start. It
// refuses a schema that is newer than this version of the package.
func (s *Store) Migrate(ctx context.Context) error {
	list, err := Migrations(s.options.Schema)
	if err != nil {
		return err
	}
	return s.inTx(ctx, "migrate", func(tx pgx.Tx) error {
		const lock = `select pg_advisory_xact_lock(hashtextextended('outhook ' || $1::text, 0))`
		if _, err := tx.Exec(ctx, lock, s.options.Schema); err != nil {
			return err
		}
		version := 0
		var exists bool
		if err := tx.QueryRow(ctx, `select to_regclass($1::text) is not null`, quote(s.options.Schema)+".migration").Scan(&exists); err != nil {
			return err
		}
		if exists {
			if err := tx.QueryRow(ctx, s.sql(`select coalesce(max(version), 0) from {schema}.migration`)).Scan(&version); err != nil {
				return err
			}
		}
		if version > len(list) {
			return fmt.Errorf("schema %s has version %d, newer than %d, which this program knows", s.options.Schema, version, len(list))
		}
		for _, m := range list[version:] {
			if _, err := tx.Exec(ctx, m.SQL); err != nil {
				return fmt.Errorf("version %d: %w", m.Version, err)
			}
		}
		return nil
	})
}
