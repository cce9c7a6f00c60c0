package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
)

// connection is that of a writer, with the statements that it has prepared. It is
// the driver's own: with database/sql, statements this small cost half as much again.
type connection struct {
	conn     driver.Conn
	prepared map[string]driver.Stmt
	args     []driver.NamedValue // of the statement that is executed
}

func (c *connection) prepare(query string, args []any) (driver.Stmt, error) {
	s := c.prepared[query]
	if s == nil {
		var err error
		if s, err = c.conn.(driver.ConnPrepareContext).PrepareContext(context.Background(), query); err != nil {
			return nil, err
		}
		c.prepared[query] = s
	}
	c.args = c.args[:0]
	for i, v := range args {
		if n, ok := v.(int); ok {
			v = int64(n)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return s, nil
}

func (c *connection) execute(query string, args []any) (changed int64, err error) {
	s, err := c.prepare(query, args)
	if err != nil {
		return 0, err
	}
	result, err := s.(driver.StmtExecContext).ExecContext(context.Background(), c.args)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (c *connection) query(query string, args []any, f func(scanner) (more bool, err error)) error {
	s, err := c.prepare(query, args)
	if err != nil {
		return err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(context.Background(), c.args)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	values := make(values, len(rows.Columns()))
	for {
		if err := rows.Next(values); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		if more, err := f(values); err != nil || !more {
			return err
		}
	}
}

// close undoes the transaction.
func (c *connection) close() error {
	if c == nil {
		return nil
	}
	for _, s := range c.prepared {
		_ = s.Close()
	}
	return c.conn.Close()
}

// values are those of a row.
type values []driver.Value

// Scan is that of database/sql for the types that the writer asks for.
func (v values) Scan(dest ...any) error {
	for i, d := range dest {
		ok := true
		switch d := d.(type) {
		case *int64:
			*d, ok = v[i].(int64)
		case *int:
			var n int64
			n, ok = v[i].(int64)
			*d = int(n)
		case *bool:
			var n int64
			n, ok = v[i].(int64)
			*d = n != 0
		case *string:
			*d, ok = v[i].(string)
		case *[]byte:
			*d, ok = v[i].([]byte)
			ok = ok || v[i] == nil
		case **int64:
			*d, ok = nullable[int64](v[i])
		case **string:
			*d, ok = nullable[string](v[i])
		case **bool:
			var n *int64
			n, ok = nullable[int64](v[i])
			*d = nil
			if n != nil {
				is := *n != 0
				*d = &is
			}
		default:
			ok = false
		}
		if !ok {
			return fmt.Errorf("column %d has %T, for %T", i+1, v[i], d)
		}
	}
	return nil
}

func nullable[T any](v driver.Value) (*T, bool) {
	if v == nil {
		return nil, true
	}
	t, ok := v.(T)
	return &t, ok
}
