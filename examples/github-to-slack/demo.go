package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outhook/outhook"
)

//go:embed testdata/*.json
var testdata embed.FS

// recordings are payloads that GitHub sent, and what a message of each links to.
var recordings = []struct{ event, delivery, file, mention string }{
	{"issues", "3b1f3a52-7a3c-11ee-8d9f-0f1e2d3c4b5a", "github-issues-opened.json", "/issues/1|"},
	{"push", "3b8c2d74-7a3c-11ee-9c1a-1a2b3c4d5e6f", "github-push.json", "/compare/simple-tag|"},
	{"release", "3c04e6f8-7a3c-11ee-8b2e-2f3e4d5c6b7a", "github-release-published.json", "/releases/tag/0.0.1|"},
}

// demo relays the recordings, over sockets, to a stand-in for Slack, and
// prints the messages. It fails unless there is one for each.
func demo(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	messages := make(chan string, 16)
	standIn := httptest.NewServer(slackStandIn(messages))
	defer standIn.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}

	relaying, stop := context.WithCancel(ctx)
	secret := []byte("only for the demo")
	var wg sync.WaitGroup
	var relayErr error
	wg.Go(func() {
		relayErr = relay(relaying, listener, secret, standIn.URL, outhook.Options{
			Guard: outhook.DevelopmentGuard(),
			Retry: outhook.Schedule(50*time.Millisecond, 100*time.Millisecond, 200*time.Millisecond),
		})
	})
	err = replay(ctx, "http://"+listener.Addr().String()+"/github", secret)
	if err == nil {
		err = printMessages(ctx, out, messages)
	}
	stop()
	wg.Wait()
	return errors.Join(err, relayErr)
}

// replay posts the recordings as GitHub does.
func replay(ctx context.Context, url string, secret []byte) error {
	for _, r := range recordings {
		body, err := testdata.ReadFile("testdata/" + r.file)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-GitHub-Event", r.event)
		req.Header.Set("X-GitHub-Delivery", r.delivery)
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sign(secret, body)))
		response, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusAccepted {
			return fmt.Errorf("%s was answered with %s", r.file, response.Status)
		}
	}
	return nil
}

// printMessages prints until each recording was mentioned. A message may come
// twice, if its answer was lost.
func printMessages(ctx context.Context, out io.Writer, messages <-chan string) error {
	missing := make(map[string]bool)
	for _, r := range recordings {
		missing[r.mention] = true
	}
	for len(missing) > 0 {
		select {
		case text := <-messages:
			fmt.Fprintln(out, text)
			for mention := range missing {
				if strings.Contains(text, mention) {
					delete(missing, mention)
				}
			}
		case <-ctx.Done():
			return fmt.Errorf("%d messages are missing: %w", len(missing), ctx.Err())
		}
	}
	return nil
}

// slackStandIn answers as Slack's incoming webhooks are documented to, first of
// all with 429. See https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks.
func slackStandIn(accepted chan<- string) http.Handler {
	var calls atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "rate_limited", http.StatusTooManyRequests)
			return
		}
		var message struct{ Text string }
		mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		err := json.NewDecoder(r.Body).Decode(&message)
		switch {
		case r.Method != http.MethodPost:
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		case mediaType != "application/json", err != nil:
			http.Error(w, "invalid_payload", http.StatusBadRequest)
		case message.Text == "":
			http.Error(w, "no_text", http.StatusBadRequest)
		default:
			accepted <- message.Text
			fmt.Fprint(w, "ok")
		}
	})
}
