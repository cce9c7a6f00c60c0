// Postgres-outbox is an order service that commits an order and the webhooks that
// tell of it in one transaction of PostgreSQL: both or neither.
//
//	go run ./examples/postgres-outbox
//
// shop.go is the service. This file is what happens to it:
//
//  1. An order is placed, its webhook is sent, and then the payment is declined. The
//     transaction is rolled back: no order, no webhook.
//  2. The next order is committed. Before anything is delivered, the process is
//     killed with SIGKILL.
//  3. The service starts again, and delivers.
//
// The service is a process of its own: this program again, with an environment
// variable. So is PostgreSQL: a private server in a temporary directory, from
// the binaries that are installed. With -database it is a database of
// yours; the two schemas outbox_shop and outbox_hooks in it are dropped.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/pgserver"
	"github.com/outhook/outhook/pgxstore"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(shopMain(role))
	}
	database := flag.String("database", "", "`URL` of a database to use instead of a private server")
	flag.Parse()
	if err := runOn(*database, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runOn runs on a database, or, if there is none, on a private server.
func runOn(database string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if database != "" {
		return run(ctx, database, out)
	}
	server, err := pgserver.Start()
	if err != nil {
		return err
	}
	return errors.Join(run(ctx, server.URL(), out), server.Stop())
}

func run(ctx context.Context, database string, out io.Writer) (err error) {
	pool, err := pgxpool.New(ctx, database)
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := pgxstore.New(pool, &pgxstore.Options{Schema: hooksSchema})
	if err != nil {
		return err
	}

	// A customer, who keeps the key to verify what comes.
	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	received := make(chan outhook.Event, 16)
	customer := httptest.NewServer(verifier.Handler(func(_ context.Context, event outhook.Event) error {
		received <- event
		return nil
	}))
	defer customer.Close()
	if err := drop(ctx, pool); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop(context.WithoutCancel(ctx), pool)) }()
	if err := create(ctx, pool, customer.URL, key); err != nil {
		return err
	}
	if err := store.Migrate(ctx); err != nil {
		return err
	}

	report := func() error {
		var orders int
		stats, err := store.Stats(ctx)
		if err == nil {
			err = pool.QueryRow(ctx, `select count(*) from outbox_shop.purchase`).Scan(&orders)
		}
		fmt.Fprintf(out, "database: %d order, %d webhook waits, %d delivered\n", orders, stats.Pending, stats.Delivered)
		return err
	}

	fmt.Fprintln(out, "the shop starts")
	taking, err := shopProcess(ctx, takeOrders, database)
	if err != nil {
		return err
	}
	printed, err := taking.Output()
	fmt.Fprintf(out, "%s", printed)
	if !killed(err) {
		return fmt.Errorf("the shop was to be killed, and ended with: %v", err)
	}
	fmt.Fprintln(out, "the shop was killed")
	if len(received) > 0 {
		return errors.New("a webhook was delivered before the shop was killed")
	}
	if err := report(); err != nil {
		return err
	}

	fmt.Fprintln(out, "the shop starts again")
	delivering, err := shopProcess(ctx, deliver, database)
	if err != nil {
		return err
	}
	if err := delivering.Start(); err != nil {
		return err
	}
	select {
	case event := <-received:
		order, err := outhook.Decode[order](event)
		fmt.Fprintf(out, "customer: received %s %d, signed well\n", event.Type, order.Number)
		err = errors.Join(err, delivering.Process.Signal(syscall.SIGTERM), delivering.Wait())
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return errors.Join(ctx.Err(), delivering.Wait())
	}
	fmt.Fprintln(out, "the shop has stopped")
	if len(received) > 0 {
		return errors.New("more webhooks were delivered than orders committed")
	}
	return report()
}

// shopProcess returns the command that runs this program as the shop.
func shopProcess(ctx context.Context, role, database string) (*exec.Cmd, error) {
	program, err := os.Executable()
	command := exec.CommandContext(ctx, program)
	command.Env = append(os.Environ(), roleVariable+"="+role, databaseVariable+"="+database)
	command.Stderr = os.Stderr
	return command, err
}

func killed(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == syscall.SIGKILL
}

// create makes the tables of the shop, and its customer.
func create(ctx context.Context, pool *pgxpool.Pool, url string, key outhook.Key) error {
	_, err := pool.Exec(ctx, `
		create schema outbox_shop;
		create table outbox_shop.purchase (number bigint primary key, item text not null, cents bigint not null);
		create table outbox_shop.customer (id text primary key, url text not null, secret text not null)`)
	if err == nil {
		_, err = pool.Exec(ctx, `insert into outbox_shop.customer values ('acme', $1, $2)`, url, key.Secret.Reveal())
	}
	return err
}

func drop(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `drop schema if exists outbox_shop, `+hooksSchema+` cascade`)
	return err
}
