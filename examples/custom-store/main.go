// Custom-store is a [outhook.Store] of one's own: store.go, on a bbolt file, in
// less than 200 lines of code. docs/writing-a-store.md builds it step by step.
//
// The program shows that it is durable. It sends three events, closes the file before
// any is delivered, opens it again as the next process would, and delivers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/outhook/outhook"
	"go.etcd.io/bbolt"
)

func main() {
	dir, err := os.MkdirTemp("", "custom-store")
	if err == nil {
		err = errors.Join(run(os.Stdout, filepath.Join(dir, "hooks.db")), os.RemoveAll(dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var events = []string{"order.placed", "order.paid", "order.shipped"}

func run(out io.Writer, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	received := make(chan string, len(events))
	receiver := httptest.NewServer(verifier.Handler(func(_ context.Context, event outhook.Event) error {
		received <- event.Type
		return nil
	}))
	defer receiver.Close()
	shop := outhook.Subscriber{ID: "shop", URL: receiver.URL, Keys: []outhook.Key{key}, Ordered: true}

	err := open(path, func(d *outhook.Dispatcher) error {
		for _, event := range events {
			if _, err := d.Send(ctx, outhook.Event{Type: event}, []outhook.Subscriber{shop}); err != nil {
				return err
			}
			fmt.Fprintln(out, "sent", event)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "closed the file, %d received so far\n", len(received))

	return open(path, func(d *outhook.Dispatcher) error {
		running, stop := context.WithCancel(ctx)
		defer stop()
		var wg sync.WaitGroup
		var runErr error
		wg.Go(func() { runErr = d.Run(running) })
		for range events {
			select {
			case event := <-received:
				fmt.Fprintln(out, "received", event)
			case <-ctx.Done():
			}
		}
		stop()
		wg.Wait()
		return errors.Join(ctx.Err(), runErr)
	})
}

// open calls use with a dispatcher on the file, as a process that starts would.
func open(path string, use func(*outhook.Dispatcher) error) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	d, err := outhook.New(NewStore(db), &outhook.Options{
		Guard:                outhook.DevelopmentGuard(), // the receiver is on loopback, without TLS
		StoreKeysInPlaintext: true,                       // for the demo; else there are Directory and Sealer
	})
	if err == nil {
		err = use(d)
	}
	return errors.Join(err, db.Close())
}
