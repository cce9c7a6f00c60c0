package interop

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	shopify "github.com/bold-commerce/go-shopify/v4"
	"github.com/google/go-github/v93/github"
	"github.com/outhook/outhook"
	"github.com/slack-go/slack"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stripe/stripe-go/v84/webhook"
	svix "github.com/svix/svix-webhooks/go"
)

// A scheme is one of outhook's, with what a receiver has to know of it.
type scheme struct {
	ours outhook.Scheme
	name string // of Key.Scheme
	row  string // in the table of README.md
	form string // of its keys, for that table
	key  func() outhook.Key

	signed        string // what the signature covers: {body}, perhaps {id} and {timestamp}
	signature     string // the header that has it
	id, timestamp string // the headers that have them; empty: none is looked at
	several       bool   // there is a signature by each key, not by the first alone
	vector        string // how its vectors begin; empty: there are none
}

// A library is other people's code that verifies a scheme.
type library struct {
	path   string // of the module in go.mod, or of a package of Go itself
	scheme scheme

	// verify returns why the library refuses a request, whose body is also
	// to be read from it.
	verify func(key outhook.Key, r *http.Request, body []byte) error

	// sign returns the headers of a request that the library signed. Nil: it
	// only verifies.
	sign func(key outhook.Key, m outhook.Message) (http.Header, error)
}

// libraries are all of them. To add one, add it here and to the table of README.md.
func libraries() []library {
	standard := scheme{
		ours: outhook.StandardWebhooks{}, row: "Standard Webhooks v1",
		form: "`whsec_` and 24 to 64 bytes in base64", key: outhook.GenerateKey,
		signed: "{id}.{timestamp}.{body}", signature: "Webhook-Signature", id: "Webhook-Id", timestamp: "Webhook-Timestamp",
		several: true, vector: "standard-webhooks v1 ",
	}
	asymmetric := standard
	asymmetric.row, asymmetric.vector = "Standard Webhooks v1a", "standard-webhooks v1a "
	asymmetric.form = "`whsk_` and 64 bytes of Ed25519 in base64; for receivers `whpk_` and 32 bytes"
	asymmetric.key = outhook.GenerateEd25519Key
	return []library{
		{
			path: "github.com/standard-webhooks/standard-webhooks/libraries", scheme: standard,
			verify: func(key outhook.Key, r *http.Request, body []byte) error {
				w, err := standardwebhooks.NewWebhook(key.Secret.Reveal())
				if err != nil {
					return err
				}
				return w.Verify(body, r.Header)
			},
			sign: func(key outhook.Key, m outhook.Message) (http.Header, error) {
				w, err := standardwebhooks.NewWebhook(key.Secret.Reveal())
				if err != nil {
					return nil, err
				}
				signature, err := w.Sign(m.ID, m.Time, m.Body)
				return standardHeader(m, signature), err
			},
		},
		{
			path: "github.com/svix/svix-webhooks", scheme: standard,
			verify: func(key outhook.Key, r *http.Request, body []byte) error {
				w, err := svix.NewWebhook(key.Secret.Reveal())
				if err != nil {
					return err
				}
				return w.Verify(body, r.Header)
			},
			sign: func(key outhook.Key, m outhook.Message) (http.Header, error) {
				w, err := svix.NewWebhook(key.Secret.Reveal())
				if err != nil {
					return nil, err
				}
				signature, err := w.Sign(m.ID, m.Time, m.Body)
				return standardHeader(m, signature), err
			},
		},
		{
			// The two above have no v1a. This is what the specification says.
			path: "crypto/ed25519", scheme: asymmetric,
			verify: func(key outhook.Key, r *http.Request, body []byte) error {
				public, err := key.Public()
				if err != nil {
					return err
				}
				raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(public.Secret.Reveal(), "whpk_"))
				if err != nil {
					return err
				}
				content := fmt.Sprintf("%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), body)
				for signature := range strings.FieldsSeq(r.Header.Get("Webhook-Signature")) {
					encoded, asymmetric := strings.CutPrefix(signature, "v1a,")
					sig, err := base64.StdEncoding.DecodeString(encoded)
					if asymmetric && err == nil && ed25519.Verify(raw, []byte(content), sig) {
						return nil
					}
				}
				return errors.New("no signature by the key")
			},
			sign: func(key outhook.Key, m outhook.Message) (http.Header, error) {
				raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Secret.Reveal(), "whsk_"))
				if err != nil {
					return nil, err
				}
				sig := ed25519.Sign(raw, fmt.Appendf(nil, "%s.%d.%s", m.ID, m.Time.Unix(), m.Body))
				return standardHeader(m, "v1a,"+base64.StdEncoding.EncodeToString(sig)), nil
			},
		},
		{
			path: "github.com/stripe/stripe-go/v84", scheme: scheme{
				ours: outhook.Stripe{}, name: "stripe", row: "Stripe",
				form: "any text, as it is: a `whsec_` belongs to it", key: text("stripe", "whsec_"),
				signed: "{timestamp}.{body}", signature: "Stripe-Signature", id: "Webhook-Id", timestamp: "Stripe-Signature", several: true,
			},
			verify: func(key outhook.Key, r *http.Request, body []byte) error {
				return webhook.ValidatePayload(body, r.Header.Get("Stripe-Signature"), key.Secret.Reveal())
			},
			sign: func(key outhook.Key, m outhook.Message) (http.Header, error) {
				signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: m.Body, Secret: key.Secret.Reveal(), Timestamp: m.Time})
				return http.Header{"Stripe-Signature": {signed.Header}}, nil
			},
		},
		{
			path: "github.com/google/go-github/v93", scheme: scheme{
				ours: outhook.GitHub(), name: "github", row: "GitHub",
				form: "any text, as it is", key: text("github", ""),
				signed: "{body}", signature: "X-Hub-Signature-256", id: "X-GitHub-Delivery", vector: "github ",
			},
			verify: func(key outhook.Key, r *http.Request, _ []byte) error {
				_, err := github.ValidatePayload(r, []byte(key.Secret.Reveal()))
				return err
			},
		},
		{
			path: "github.com/slack-go/slack", scheme: scheme{
				ours: outhook.Slack(), name: "slack", row: "Slack",
				form: "any text, as it is", key: text("slack", ""),
				signed: "v0:{timestamp}:{body}", signature: "X-Slack-Signature", id: "Webhook-Id", timestamp: "X-Slack-Request-Timestamp", vector: "slack ",
			},
			verify: func(key outhook.Key, r *http.Request, body []byte) error {
				v, err := slack.NewSecretsVerifier(r.Header, key.Secret.Reveal())
				if err != nil {
					return err
				}
				if _, err := v.Write(body); err != nil {
					return err
				}
				return v.Ensure()
			},
		},
		{
			path: "github.com/bold-commerce/go-shopify/v4", scheme: scheme{
				ours: outhook.Shopify(), name: "shopify", row: "Shopify",
				form: "any text, as it is", key: text("shopify", ""),
				signed: "{body}", signature: "X-Shopify-Hmac-Sha256", id: "X-Shopify-Webhook-Id",
			},
			verify: func(key outhook.Key, r *http.Request, _ []byte) error {
				if !(shopify.App{ApiSecret: key.Secret.Reveal()}).VerifyWebhookRequest(r) {
					return errors.New("refused")
				}
				return nil
			},
		},
	}
}

// text makes keys that are any text.
func text(scheme, prefix string) func() outhook.Key {
	return func() outhook.Key {
		return outhook.Key{Scheme: scheme, Secret: outhook.NewSecret(prefix + rand.Text())}
	}
}

func standardHeader(m outhook.Message, signature string) http.Header {
	return http.Header{
		"Webhook-Id":        {m.ID},
		"Webhook-Timestamp": {strconv.FormatInt(m.Time.Unix(), 10)},
		"Webhook-Signature": {signature},
	}
}

// signs reports whether the signature covers a placeholder.
func (s *scheme) signs(placeholder string) bool { return strings.Contains(s.signed, placeholder) }

// verifier is a receiver with outhook that knows the keys.
func (s *scheme) verifier(keys ...outhook.Key) *outhook.Verifier {
	v := &outhook.Verifier{}
	for _, key := range keys {
		if public, err := key.Public(); err == nil {
			key = public
		}
		v.Keys = append(v.Keys, key)
	}
	return v
}
