package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/pgxstore"
)

const (
	hooksSchema      = "outbox_hooks"
	roleVariable     = "OUTBOX_ROLE"
	databaseVariable = "OUTBOX_DATABASE"

	takeOrders = "take orders" // and be killed
	deliver    = "deliver"     // until SIGTERM
)

// shopMain is the process of the shop. It returns its exit status.
func shopMain(role string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s, err := newShop(ctx, os.Getenv(databaseVariable))
	if err == nil {
		defer s.pool.Close()
		if role == takeOrders {
			err = s.takeOrders(ctx)
		} else {
			err = s.hooks.Run(ctx) // nil after a clean stop
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		return 1
	}
	return 0
}

// A shop is the order service.
type shop struct {
	pool  *pgxpool.Pool
	store *pgxstore.Store
	hooks *outhook.Dispatcher
}

func newShop(ctx context.Context, database string) (*shop, error) {
	pool, err := pgxpool.New(ctx, database)
	if err != nil {
		return nil, err
	}
	store, err := pgxstore.New(pool, &pgxstore.Options{Schema: hooksSchema})
	if err != nil {
		return nil, err
	}
	hooks, err := outhook.New(store, &outhook.Options{
		Directory: customers{pool},
		Guard:     outhook.DevelopmentGuard(), // the customer is on loopback, without TLS
	})
	return &shop{pool, store, hooks}, err
}

type order struct {
	Number int64  `json:"number"`
	Item   string `json:"item"`
	Cents  int64  `json:"cents"`
}

var errDeclined = errors.New("the payment was declined")

// takeOrders takes an order that is rolled back, and one that is committed. Then
// it ends as a process ends that loses power.
func (s *shop) takeOrders(ctx context.Context) error {
	err := s.place(ctx, order{1001, "a bicycle", 899_00}, func() error { return errDeclined })
	if !errors.Is(err, errDeclined) {
		return fmt.Errorf("order 1001: %w", err)
	}
	fmt.Println("shop: order 1001 is rolled back:", err)

	if err := s.place(ctx, order{1002, "a bell", 12_00}, func() error { return nil }); err != nil {
		return fmt.Errorf("order 1002: %w", err)
	}
	fmt.Println("shop: order 1002 is committed, and its webhook with it")

	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		return err
	}
	select {}
}

// place stores an order and sends its webhooks, in one transaction. pay is the last
// thing that may fail.
func (s *shop) place(ctx context.Context, o order, pay func() error) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into outbox_shop.purchase values ($1, $2, $3)`, o.Number, o.Item, o.Cents)
		if err != nil {
			return err
		}
		subscribers, err := customers{s.pool}.all(ctx, tx)
		if err != nil {
			return err
		}
		// An ID that the order gives: placed twice, it is told once.
		event := outhook.Event{ID: fmt.Sprint("order-placed-", o.Number), Type: "order.placed", Data: o}
		if _, err := s.hooks.Via(s.store.InTx(tx)).Send(ctx, event, subscribers); err != nil {
			return err
		}
		return pay()
	})
	if err == nil {
		s.hooks.Wake() // were Run at work in this process, it would claim at once
	}
	return err
}

// customers are the subscribers, in a table of the shop. As the [outhook.Directory]
// they are asked for address and key at each attempt: neither is in the store.
type customers struct{ pool *pgxpool.Pool }

func (c customers) Subscriber(ctx context.Context, id string) (outhook.Subscriber, error) {
	var url, secret string
	err := c.pool.QueryRow(ctx, `select url, secret from outbox_shop.customer where id = $1`, id).Scan(&url, &secret)
	if errors.Is(err, pgx.ErrNoRows) {
		err = outhook.ErrUnknownSubscriber
	}
	if err != nil {
		return outhook.Subscriber{}, err
	}
	key, err := outhook.ParseKey(secret)
	return outhook.Subscriber{ID: id, URL: url, Keys: []outhook.Key{key}}, err
}

// all returns whom to send to. With a Directory, Send needs no more than the IDs.
func (customers) all(ctx context.Context, tx pgx.Tx) ([]outhook.Subscriber, error) {
	rows, err := tx.Query(ctx, `select id from outbox_shop.customer order by id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s outhook.Subscriber, err error) {
		return s, row.Scan(&s.ID)
	})
}
