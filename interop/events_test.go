package interop

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-github/v93/github"
	"github.com/outhook/outhook"
	"github.com/slack-go/slack"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v84"
	"github.com/stripe/stripe-go/v84/webhook"
)

// The tests of this file send what the service itself would send. The library verifies
// it and makes its own type of it, as its documentation shows.

func TestGitHubEvents(t *testing.T) {
	payloads := recorded(t)
	for name, test := range map[string]struct {
		event string
		want  any
	}{
		"github-issues-opened.json":     {"issues", new(github.IssuesEvent)},
		"github-push.json":              {"push", new(github.PushEvent)},
		"github-release-published.json": {"release", new(github.ReleaseEvent)},
	} {
		t.Run(name, func(t *testing.T) {
			body := payloads[name]
			delete(payloads, name)
			key := text("github", "")()
			event := outhook.Event{ID: "delivery-1", Type: "interop.test", Payload: &outhook.Payload{
				Header: http.Header{"X-Github-Event": {test.event}}, Body: body,
			}}
			var got any
			var id string
			post(t, event, outhook.Subscriber{Keys: []outhook.Key{key}}, func(r *http.Request, _ []byte) error {
				payload, err := github.ValidatePayload(r, []byte(key.Secret.Reveal()))
				if err != nil {
					return err
				}
				id = github.DeliveryID(r)
				got, err = github.ParseWebHook(github.WebHookType(r), payload)
				return err
			})
			require.Equal(t, event.ID, id)
			require.NoError(t, json.Unmarshal(body, test.want))
			require.Equal(t, test.want, got)
		})
	}
	require.Empty(t, payloads, "all are tested")
}

func TestStripeEvent(t *testing.T) {
	body, err := json.Marshal(map[string]any{
		"id": "evt_1", "object": "event", "api_version": stripe.APIVersion, "created": 1767225600, "type": "invoice.paid",
		"data": map[string]any{"object": map[string]any{"id": "in_1", "object": "invoice", "amount_paid": 4200}},
	})
	require.NoError(t, err)
	key := text("stripe", "whsec_")()
	var event stripe.Event
	send(t, body, []outhook.Key{key}, func(r *http.Request, body []byte) (err error) {
		event, err = webhook.ConstructEvent(body, r.Header.Get("Stripe-Signature"), key.Secret.Reveal())
		return err
	})
	require.Equal(t, "evt_1", event.ID)
	require.Equal(t, stripe.EventTypeInvoicePaid, event.Type)
	var invoice stripe.Invoice
	require.NoError(t, json.Unmarshal(event.Data.Raw, &invoice))
	require.EqualValues(t, 4200, invoice.AmountPaid)
}

func TestSlackCommand(t *testing.T) {
	key := text("slack", "")()
	event := outhook.Event{Type: "interop.test", Payload: &outhook.Payload{
		ContentType: "application/x-www-form-urlencoded",
		Body:        []byte("team_id=T1&command=%2Fweather&text=gr%C3%BC%C3%9Fe"),
	}}
	var command slack.SlashCommand
	post(t, event, outhook.Subscriber{Keys: []outhook.Key{key}}, func(r *http.Request, body []byte) error {
		v, err := slack.NewSecretsVerifier(r.Header, key.Secret.Reveal())
		if err != nil {
			return err
		}
		if _, err := v.Write(body); err != nil {
			return err
		}
		if err := v.Ensure(); err != nil {
			return err
		}
		command, err = slack.SlashCommandParse(r)
		return err
	})
	require.Equal(t, slack.SlashCommand{TeamID: "T1", Command: "/weather", Text: "grüße"}, command)
}
