package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/outhook/outhook"
)

// maxBody is where GitHub caps its payloads.
const maxBody = 25 << 20

// github handles the webhooks of GitHub.
//
// It answers 202 when the event is stored, 204 if it is of no interest. GitHub
// does not repeat what failed by itself, but lists it for redelivery by hand.
type github struct {
	secret []byte
	send   func(context.Context, outhook.Event) error
}

func (g *github) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		status := http.StatusBadRequest
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	if !verify(g.secret, body, r.Header.Get("X-Hub-Signature-256")) {
		http.Error(w, "the signature does not match", http.StatusUnauthorized)
		return
	}
	delivery := r.Header.Get("X-GitHub-Delivery")
	if delivery == "" {
		http.Error(w, "X-GitHub-Delivery is missing", http.StatusBadRequest)
		return
	}
	event, relevant, err := translate(r.Header.Get("X-GitHub-Event"), body)
	if err != nil {
		http.Error(w, "the payload is not JSON; set the content type to application/json", http.StatusBadRequest)
		return
	}
	if !relevant {
		w.WriteHeader(http.StatusNoContent)
		return
	}

	// A redelivery has the same ID, so that it makes no second message.
	event.ID = delivery
	switch err := g.send(r.Context(), event); {
	case err == nil:
		w.WriteHeader(http.StatusAccepted)
	case errors.Is(err, outhook.ErrInvalid), errors.Is(err, outhook.ErrConflict):
		http.Error(w, "the event was refused", http.StatusBadRequest)
	default:
		slog.ErrorContext(r.Context(), "event not stored", "delivery", delivery, "error", err)
		http.Error(w, "the event could not be stored; redeliver it later", http.StatusServiceUnavailable)
	}
}

// verify reports whether a value of X-Hub-Signature-256 signs the body. See
// https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries.
func verify(secret, body []byte, signature string) bool {
	digits, ok := strings.CutPrefix(signature, "sha256=")
	sum, err := hex.DecodeString(digits)
	return ok && err == nil && hmac.Equal(sum, sign(secret, body)) // in constant time
}

func sign(secret, body []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write(body)
	return h.Sum(nil)
}

// An activity is what a message tells: somebody did something in a repository.
// As the data of an event it is no Slack message yet: other subscribers would
// get it as JSON.
type activity struct {
	Actor   string `json:"actor"`
	Did     string `json:"did"`
	Subject link   `json:"subject"`
	In      link   `json:"in"`
}

type link struct {
	Text string `json:"text"`
	URL  string `json:"url"`
}

// translate makes an event of a payload, if it is a relevant one.
func translate(name string, body []byte) (event outhook.Event, relevant bool, err error) {
	if !slices.Contains([]string{"issues", "push", "release"}, name) {
		return outhook.Event{}, false, nil // whatever its fields are
	}
	var payload struct {
		Action string
		Sender struct{ Login string }
		Issue  struct {
			Number int
			Title  string
			URL    string `json:"html_url"`
		}
		Release struct {
			Name string // may be null
			Tag  string `json:"tag_name"`
			URL  string `json:"html_url"`
		}
		Ref, Compare     string // of a push
		Created, Deleted bool
		Repository       struct {
			Name string `json:"full_name"`
			URL  string `json:"html_url"`
		}
	}
	if err := json.Unmarshal(body, &payload); err != nil {
		return outhook.Event{}, false, err
	}
	a := activity{
		Actor: payload.Sender.Login,
		In:    link{payload.Repository.Name, payload.Repository.URL},
	}
	eventType := "github." + name
	if payload.Action != "" {
		eventType += "." + payload.Action
	}
	switch eventType {
	case "github.issues.opened":
		a.Did = "opened"
		a.Subject = link{fmt.Sprintf("#%d %s", payload.Issue.Number, payload.Issue.Title), payload.Issue.URL}
	case "github.release.published":
		a.Did = "released"
		a.Subject = link{cmp.Or(payload.Release.Name, payload.Release.Tag), payload.Release.URL}
	case "github.push":
		switch {
		case payload.Created:
			a.Did = "created"
		case payload.Deleted:
			a.Did = "deleted"
		default:
			a.Did = "pushed to"
		}
		a.Subject = link{refName(payload.Ref), payload.Compare}
	default:
		return outhook.Event{}, false, nil
	}
	return outhook.Event{Type: eventType, Data: a}, true, nil
}

// refName is "main" for refs/heads/main, "tag v1" for refs/tags/v1.
func refName(ref string) string {
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		return "tag " + tag
	}
	return strings.TrimPrefix(ref, "refs/heads/")
}
