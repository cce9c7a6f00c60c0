package sqlitestore_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/sqlitestore"
)

func Example() {
	ctx := context.Background()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("received", r.Header.Get("Webhook-Id"))
	}))
	defer receiver.Close()
	dir, err := os.MkdirTemp("", "outhook")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	store, err := sqlitestore.Open(ctx, filepath.Join(dir, "hooks.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	dispatcher, err := outhook.New(store, &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	subscribers := []outhook.Subscriber{{ID: "shop", URL: receiver.URL, Unsigned: true}}

	// An order and its webhook are stored together, or neither is.
	if _, err := store.DB().ExecContext(ctx, "create table orders (id text)"); err != nil {
		log.Fatal(err)
	}
	tx, err := store.DB().BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "insert into orders (id) values ('order-1')"); err != nil {
		log.Fatal(err)
	}
	event := outhook.Event{ID: "order-1-placed", Type: "order.placed", Data: map[string]string{"order": "order-1"}}
	if _, err := dispatcher.Via(store.InTx(tx)).Send(ctx, event, subscribers); err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}

	// A service calls Run, and Wake after the commit.
	if _, err := dispatcher.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	stats, err := dispatcher.Stats(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("delivered", stats.Delivered)
	// Output:
	// received order-1-placed
	// delivered 1
}
