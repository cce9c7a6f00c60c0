//go:build unix && skewed

package main

import (
	"context"
	"errors"
)

// The program with a wrong clock has no SQLite, which would take long to
// compile: that store goes by the clock of the machine, of which there is one.

func startSQLite(string) database { panic("the parent has the right clock") }

func openSQLite(context.Context, string) (durable, func(), error) {
	return nil, nil, errors.New("sqlite with a wrong clock")
}
