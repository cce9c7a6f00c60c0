package pgxstore_test

import (
	"context"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/pgxstore"
)

func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := pgxstore.New(pool, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	d, err := outhook.New(store, nil)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(d.Run(ctx))
}

// An order and its webhooks commit together, or not at all.
func ExampleStore_InTx() {
	var (
		ctx         context.Context
		pool        *pgxpool.Pool
		store       *pgxstore.Store
		d           *outhook.Dispatcher
		subscribers []outhook.Subscriber
	)
	place := func(order string) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `insert into orders (id) values ($1)`, order); err != nil {
				return err
			}
			event := outhook.Event{ID: "order-placed-" + order, Type: "order.placed", Data: map[string]string{"order": order}}
			_, err := d.Via(store.InTx(tx)).Send(ctx, event, subscribers)
			return err
		})
	}
	_ = place
}

// What the tool of the host that makes migrations is to execute.
func ExampleMigrations() {
	list, err := pgxstore.Migrations("webhooks")
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range list {
		log.Printf("-- version %d\n%s", m.Version, m.SQL)
	}
}
