package outhook_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/outhook/outhook"
)

// Each type of event has a Go type of its own.
func ExampleOn() {
	type Invoice struct {
		Number string
		Cents  int
	}
	type User struct{ Name string }
	var events outhook.Mux
	outhook.On(&events, "invoice.paid", func(_ context.Context, event outhook.Event, invoice Invoice) error {
		fmt.Println(event.ID, "paid", invoice.Number, invoice.Cents)
		return nil
	})
	outhook.On(&events, "user.*", func(_ context.Context, event outhook.Event, user User) error {
		fmt.Println(event.ID, event.Type, user.Name)
		return nil
	})

	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	handler := verifier.Handler(events.Handle) // http.Handle("/hooks", handler)
	for id, body := range []string{
		`{"type":"invoice.paid","timestamp":"2030-01-02T03:04:05Z","data":{"Number":"R-17","Cents":4200}}`,
		`{"type":"user.created","timestamp":"2030-01-02T03:04:05Z","data":{"Name":"Ada"}}`,
		`{"type":"user.deleted","timestamp":"2030-01-02T03:04:05Z","data":"Ada"}`, // no User
		`{"type":"order.placed","timestamp":"2030-01-02T03:04:05Z","data":{}}`,    // accepted and dropped
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, signed(key, fmt.Sprint("evt_", id), body))
		fmt.Println(w.Code)
	}
	// Output:
	// evt_0 paid R-17 4200
	// 204
	// evt_1 user.created Ada
	// 204
	// 422
	// 204
}

// Other is for what nothing is registered for.
func ExampleMux() {
	events := outhook.Mux{Other: func(_ context.Context, event outhook.Event) error {
		fmt.Printf("unknown %q: %s\n", event.Type, event.Payload.Body)
		return nil
	}}
	outhook.On(&events, "invoice.paid", func(_ context.Context, _ outhook.Event, cents int) error {
		fmt.Println("paid", cents)
		return nil
	})
	for _, event := range []outhook.Event{ // as a Verifier's Handler hands them on
		{Type: "invoice.paid", Payload: &outhook.Payload{Body: []byte(`{"type":"invoice.paid","data":4200}`)}},
		{Type: "invoice.sent", Payload: &outhook.Payload{Body: []byte(`{"type":"invoice.sent","data":4200}`)}},
		{Payload: &outhook.Payload{Body: []byte(`no envelope`)}},
	} {
		if err := events.Handle(context.Background(), event); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// paid 4200
	// unknown "invoice.sent": {"type":"invoice.sent","data":4200}
	// unknown "": no envelope
}

// A handler of one's own, for what answers with a body say, stands behind the
// Middleware. Each scheme of the keys is accepted.
func ExampleVerifier_Middleware() {
	standard := outhook.GenerateKey()
	slack := outhook.Key{Scheme: "slack", Secret: outhook.NewSecret("8f742231b10e8888abcd99yyyzzz85a5")}
	verifier := &outhook.Verifier{
		Keys:    []outhook.Key{standard, slack},
		Refused: func(_ *http.Request, err error) { fmt.Println("refused:", err) },
	}
	handler := verifier.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // it is there as if nobody had read it
		if err != nil {
			http.Error(w, "the body cannot be read", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "thank you for %s", body)
	}))

	for _, key := range []outhook.Key{standard, outhook.GenerateKey()} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, signed(key, "evt_17", `{"n":1}`))
		fmt.Print(w.Code, " ", w.Body, "\n")
	}
	// Output:
	// 200 thank you for {"n":1}
	// refused: outhook: webhook signature does not match
	// 401 Unauthorized
}

// A ledger stands for a database with two tables: what was handled, and what was paid.
type ledger struct {
	handled map[string]bool
	cents   int
}

// A ledgerTx is a transaction on it, of one goroutine here.
type ledgerTx struct {
	*ledger
	id    string
	cents int
}

func (tx *ledgerTx) Commit() error {
	tx.handled[tx.id] = true
	tx.ledger.cents += tx.cents
	return nil
}

type txKey struct{}

// Once writes the ID in the transaction that handle works in: both are committed, or
// neither.
func (l *ledger) Once(ctx context.Context, id string, handle func(context.Context) error) error {
	if l.handled[id] {
		return nil
	}
	tx := &ledgerTx{ledger: l, id: id}
	if err := handle(context.WithValue(ctx, txKey{}, tx)); err != nil {
		return err // and what was done in the transaction is forgotten
	}
	return tx.Commit()
}

// The receiver does its work and remembers the event in one transaction, so that a
// crash in between does not make it count twice, nor never.
func ExampleDeduplicator() {
	db := &ledger{handled: map[string]bool{}}
	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}, Deduplicator: db}
	attempts := 0
	handler := verifier.Handler(func(ctx context.Context, event outhook.Event) error {
		tx := ctx.Value(txKey{}).(*ledgerTx)
		tx.cents += 4200
		if attempts++; attempts == 1 {
			return errors.New("the other service is away")
		}
		return nil
	})

	for range 3 {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, signed(key, "evt_17", `{"type":"invoice.paid"}`))
		fmt.Println(w.Code, db.cents)
	}
	// Output:
	// 500 0
	// 204 4200
	// 204 4200
}

// A sqlDeduplicator is one for PostgreSQL, with the table
//
//	CREATE TABLE handled_events (id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())
//
// whose rows may be deleted when senders have stopped to repeat. The insert waits for
// a transaction that has inserted the same ID, until that ends or ctx does.
type sqlDeduplicator struct{ db *sql.DB }

func (d sqlDeduplicator) Once(ctx context.Context, id string, handle func(context.Context) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	result, err := tx.ExecContext(ctx, `INSERT INTO handled_events (id) VALUES ($1) ON CONFLICT DO NOTHING`, id)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); n == 0 {
		return err // nil: it was handled
	}
	if err := handle(context.WithValue(ctx, txKey{}, tx)); err != nil {
		return err
	}
	return tx.Commit()
}

func ExampleDeduplicator_sql() {
	var db *sql.DB // of a driver for PostgreSQL
	verifier := &outhook.Verifier{
		Keys:         []outhook.Key{outhook.GenerateKey()},
		Deduplicator: sqlDeduplicator{db},
	}
	http.Handle("/hooks", verifier.Handler(func(ctx context.Context, event outhook.Event) error {
		tx := ctx.Value(txKey{}).(*sql.Tx)
		_, err := tx.ExecContext(ctx, `UPDATE invoices SET paid = true WHERE number = $1`, event.ID)
		return err
	}))
}

// A Verifier whose keys change is replaced by another. The Deduplicator has to be the
// same: one that a Handler makes for itself knows nothing of the events before.
func ExampleNewMemoryDeduplicator() {
	handled := outhook.NewMemoryDeduplicator(100_000)
	handler := func(keys ...outhook.Key) http.Handler {
		verifier := &outhook.Verifier{Keys: keys, Deduplicator: handled}
		return verifier.Handler(func(_ context.Context, event outhook.Event) error {
			fmt.Println("handle", event.ID)
			return nil
		})
	}
	old, current := outhook.GenerateKey(), outhook.GenerateKey()
	w := httptest.NewRecorder()
	handler(old).ServeHTTP(w, signed(old, "evt_17", `{}`))
	fmt.Println(w.Code)
	w = httptest.NewRecorder()
	handler(current, old).ServeHTTP(w, signed(current, "evt_17", `{}`)) // again, signed anew
	fmt.Println(w.Code)
	// Output:
	// handle evt_17
	// 204
	// 204
}

// A handler that can say more than that it failed: 410 asks to be sent nothing more,
// and a RetryAfter to be left in peace for a while.
func ExampleStatusError() {
	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{
		Keys:    []outhook.Key{key},
		Refused: func(_ *http.Request, err error) { fmt.Println(err) },
	}
	handler := verifier.Handler(func(_ context.Context, event outhook.Event) error {
		switch event.Type {
		case "account.deleted":
			return &outhook.StatusError{Status: http.StatusGone, Err: errors.New("the account was closed")}
		default:
			return &outhook.StatusError{Status: http.StatusServiceUnavailable, RetryAfter: 2 * time.Minute}
		}
	})
	for _, eventType := range []string{"account.deleted", "invoice.paid"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, signed(key, "evt_17", `{"type":"`+eventType+`"}`))
		fmt.Printf("%d, Retry-After %q\n", w.Code, w.Header().Get("Retry-After"))
	}
	// Output:
	// outhook: status 410: the account was closed
	// 410, Retry-After ""
	// outhook: status 503
	// 503, Retry-After "120"
}
