// Github-to-slack relays webhooks: it receives those of a GitHub repository and
// posts a message to Slack for each opened issue, push and published release.
//
//	GITHUB_WEBHOOK_SECRET=… SLACK_WEBHOOK_URL=https://hooks.slack.com/services/… github-to-slack
//
// In the settings of the repository, add a webhook with the content type
// application/json, the same secret, and the URL where GitHub reaches /github
// of this server. With -demo, it needs neither GitHub nor Slack: it relays
// recorded payloads to a local stand-in.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/outhook/outhook"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	replay := flag.Bool("demo", false, "relay recorded payloads to a stand-in for Slack")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var err error
	if *replay {
		err = demo(ctx, os.Stdout)
	} else {
		err = listen(ctx, *addr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "github-to-slack:", err)
		os.Exit(1)
	}
}

// listen relays until ctx ends, as the environment says.
func listen(ctx context.Context, addr string) error {
	secret := os.Getenv("GITHUB_WEBHOOK_SECRET")
	if secret == "" {
		return errors.New("GITHUB_WEBHOOK_SECRET is not set") // else anybody could sign
	}
	slackURL := os.Getenv("SLACK_WEBHOOK_URL")
	if _, err := (outhook.Guard{}).CheckURL(slackURL); err != nil {
		return fmt.Errorf("SLACK_WEBHOOK_URL: %w", err) // now, not at the first event
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	slog.Info("listening", "addr", listener.Addr())
	return relay(ctx, listener, []byte(secret), slackURL, outhook.Options{Logger: slog.Default()})
}

// relay serves GitHub on the listener, which it closes, and delivers to Slack
// until ctx ends.
func relay(ctx context.Context, listener net.Listener, secret []byte, slackURL string, options outhook.Options) error {
	defer listener.Close()
	// What waits in memory is lost when the process ends. With a durable Store
	// in its place, nothing else changes here.
	d, err := outhook.New(outhook.NewMemoryStore(), &options)
	if err != nil {
		return err
	}
	to := []outhook.Subscriber{slack(slackURL)}
	handler := &github{secret, func(ctx context.Context, event outhook.Event) error {
		_, err := d.Send(ctx, event, to)
		return err
	}}
	mux := http.NewServeMux()
	mux.Handle("POST /github", http.MaxBytesHandler(handler, maxBody))
	server := &http.Server{Handler: mux, ReadTimeout: 30 * time.Second}

	// Run has a life of its own: it goes on while the server is shutting down.
	delivering, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	var runErr error
	served := make(chan error, 1)
	wg.Go(func() { runErr = d.Run(delivering) })
	wg.Go(func() { served <- server.Serve(listener) })
	select {
	case err = <-served: // failed: it does not end by itself
	case <-ctx.Done():
		shutdown, cancel := context.WithTimeout(delivering, 10*time.Second)
		defer cancel()
		err = server.Shutdown(shutdown)
	}
	stop()
	wg.Wait()
	return errors.Join(err, runErr)
}
