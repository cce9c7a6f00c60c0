// Chat tells one event to Slack, Discord and Microsoft Teams. Each of them takes
// a JSON document of its own at an incoming webhook, whose URL is the secret: they
// verify no signatures. The encoders are in slack.go, discord.go and teams.go, to
// be copied.
//
// The program itself needs no network: it sends to stand-ins on loopback, and
// prints what each of them got.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/outhook/outhook"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// An alert is what a message tells. As the data of an event it is no message yet:
// other subscribers get it as JSON.
type alert struct {
	Title string `json:"title"`
	Text  string `json:"text"`
	URL   string `json:"url"` // where to read on; empty: nowhere
}

// alertOf returns the data of an event that chats are told.
func alertOf(event outhook.Event) (alert, error) {
	a, ok := event.Data.(alert)
	if !ok {
		return alert{}, fmt.Errorf("there is no message for a %T", event.Data)
	}
	if a.Title == "" {
		return alert{}, errors.New("there is no message for an alert without a title")
	}
	return a, nil
}

// clip cuts a text to n characters.
func clip(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}

// A chat is a service and what stands in for it here.
type chat struct {
	name   string
	encode func(outhook.Event) (*outhook.Payload, error)
	status int // that the service answers with when it has taken a message
}

var chats = []chat{
	{"slack", slack, http.StatusOK},
	{"discord", discord, http.StatusNoContent},
	{"teams", teams, http.StatusAccepted},
}

// subscriber has one message at a time sent: none of the services takes many.
func (c *chat) subscriber(url string) outhook.Subscriber {
	return outhook.Subscriber{
		ID:          c.name,
		URL:         url,
		Unsigned:    true,
		Encode:      c.encode,
		Concurrency: 1,
	}
}

// run sends an event and prints what the stand-ins got.
func run(ctx context.Context, out io.Writer) error {
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		return err
	}
	got := make([]bytes.Buffer, len(chats))
	var to []outhook.Subscriber
	for i, c := range chats {
		standIn := httptest.NewServer(c.standIn(&got[i]))
		defer standIn.Close()
		to = append(to, c.subscriber(standIn.URL))
	}
	event := outhook.Event{Type: "deploy.failed", Data: alert{
		Title: "Deploy of shop failed",
		Text:  "2 < 3 replicas are up & *none* is ready",
		URL:   "https://ci.example/runs/17?view=log&tail=1",
	}}
	if _, err := d.Send(ctx, event, to); err != nil {
		return err
	}
	if _, err := d.Drain(ctx); err != nil { // a service would Run
		return err
	}
	for i, c := range chats {
		fmt.Fprintf(out, "%s got\n%s\n", c.name, &got[i])
	}
	stats, err := d.Stats(ctx)
	if err == nil && stats.Delivered != len(chats) {
		err = fmt.Errorf("%d of %d messages were taken", stats.Delivered, len(chats))
	}
	return err
}

// standIn writes the messages that it takes.
func (c *chat) standIn(out *bytes.Buffer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && (r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json") {
			err = errors.New("no JSON was posted")
		}
		if err == nil {
			err = json.Indent(out, body, "", "  ")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out.WriteByte('\n')
		w.WriteHeader(c.status)
	})
}
