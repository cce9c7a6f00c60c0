package outhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

// The private key stays with the sender. The customer is given the public one, which
// verifies and signs nothing.
func ExampleGenerateEd25519Key() {
	key := outhook.GenerateEd25519Key()
	public, err := key.Public()
	if err != nil {
		log.Fatal(err)
	}
	verifier := &outhook.Verifier{Keys: []outhook.Key{public}}
	receiver := httptest.NewServer(verifier.Handler(func(context.Context, outhook.Event) error { return nil }))
	defer receiver.Close()

	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	for _, key := range []outhook.Key{key, public} {
		attempt, err := d.Try(context.Background(), outhook.Event{Type: "ping"}, outhook.Subscriber{
			ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{key},
		})
		fmt.Println(attempt.Status, err)
	}
	// Output:
	// 204 <nil>
	// 0 outhook: subscriber "customer-1": Keys[0]: a public key cannot sign
}

func ExampleKey_Public() {
	key, err := outhook.ParseKey("whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==")
	if err != nil {
		log.Fatal(err)
	}
	public, err := key.Public()
	fmt.Println(public.Secret.Reveal(), err)
	// Output: whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4= <nil>
}

// A symmetric key and one of Ed25519 sign the same request, while customers change
// over from the one to the other.
func ExampleStandardWebhooks_ed25519() {
	symmetric, err := outhook.ParseKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		log.Fatal(err)
	}
	private, err := outhook.ParseKey("whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==")
	if err != nil {
		log.Fatal(err)
	}
	header, err := outhook.StandardWebhooks{}.Sign(context.Background(), outhook.Message{
		ID:   "msg_p5jXN8AQM9LWM0D4loKWxJek",
		Time: time.Unix(1614265330, 0),
		Body: []byte(`{"test": 2432232314}`),
	}, []outhook.Key{symmetric, private})
	if err != nil {
		log.Fatal(err)
	}
	for signature := range strings.FieldsSeq(header.Get("webhook-signature")) {
		fmt.Println(signature)
	}
	// Output:
	// v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
	// v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==
}

// A subscriber whose receiver verifies as it does Stripe's webhooks. The secrets are
// taken as they are, also "whsec_". While a key is rotated there is a signature of each.
func ExampleStripe() {
	current := outhook.Key{Scheme: "stripe", Secret: outhook.NewSecret("whsec_current")}
	old := outhook.Key{Scheme: "stripe", Secret: outhook.NewSecret("whsec_old"), Expires: time.Now().Add(96 * time.Hour)}
	verifier := &outhook.Verifier{Keys: []outhook.Key{old}} // it does not know the current one yet
	receiver := httptest.NewServer(verifier.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for part := range strings.SplitSeq(r.Header.Get("Stripe-Signature"), ",") {
			name, value, _ := strings.Cut(part, "=")
			fmt.Println(name, len(value))
		}
	})))
	defer receiver.Close()

	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	attempt, err := d.Try(context.Background(), outhook.Event{Type: "invoice.paid"}, outhook.Subscriber{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{current, old},
	})
	fmt.Println(attempt.Status, err)
	// Output:
	// t 10
	// v1 64
	// v1 64
	// 200 <nil>
}

// The secret, body and signature are those of GitHub's documentation.
func ExampleGitHub() {
	key := outhook.Key{Scheme: "github", Secret: outhook.NewSecret("It's a Secret to Everybody")}
	message := outhook.Message{ID: "72d3162e-cc78-11e3-81ab-4c9367dc0958", Body: []byte("Hello, World!")}
	header, err := outhook.GitHub().Sign(context.Background(), message, []outhook.Key{key})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(header.Get("X-GitHub-Delivery"))
	fmt.Println(header.Get("X-Hub-Signature-256"))

	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	fmt.Println(verifier.Verify(header, message.Body))
	fmt.Println(verifier.Verify(header, []byte("Hello, World?")))
	// Output:
	// 72d3162e-cc78-11e3-81ab-4c9367dc0958
	// sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17
	// <nil>
	// outhook: webhook signature does not match
}

// The secret is that of Slack's documentation.
func ExampleSlack() {
	key := outhook.Key{Scheme: "slack", Secret: outhook.NewSecret("8f742231b10e8888abcd99yyyzzz85a5")}
	message := outhook.Message{ID: "evt_17", Time: time.Unix(1531420618, 0), Body: []byte("token=x&team_id=T1DC2JH3J")}
	header, err := outhook.Slack().Sign(context.Background(), message, []outhook.Key{key})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(header.Get("X-Slack-Request-Timestamp"))
	fmt.Println(header.Get("X-Slack-Signature"))

	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	fmt.Println(verifier.Verify(header, message.Body)) // it is from 2018
	// Output:
	// 1531420618
	// v0=5cc7ceb7bd3b90c331d51b36a1dd5492176418aaf8b7eba8711ba18067db083a
	// outhook: webhook timestamp out of tolerance
}

func ExampleShopify() {
	key := outhook.Key{Scheme: "shopify", Secret: outhook.NewSecret("hush")}
	message := outhook.Message{ID: "evt_17", Body: []byte(`{"id":820982911946154508}`)}
	header, err := outhook.Shopify().Sign(context.Background(), message, []outhook.Key{key})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(header.Get("X-Shopify-Webhook-Id"))
	fmt.Println(header.Get("X-Shopify-Hmac-Sha256"))

	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	fmt.Println(verifier.Verify(header, message.Body))
	// Output:
	// evt_17
	// qBvrsZF7RfB1iS6BX6IHqJTp5L911P7intnPeTPsH0I=
	// <nil>
}

// A contract that exists already: the hex HMAC of ID, time and body, each on its line,
// in X-Acme-Signature. The name "acme" stands for it in the keys of both sides.
func ExampleHMAC() {
	acme := outhook.HMAC{
		Header:    "X-Acme-Signature",
		Prefix:    "hmac-sha256 ",
		Timestamp: "X-Acme-Time",
		ID:        "X-Acme-Event",
		Content:   "{id}\n{timestamp}\n{body}",
	}
	key := outhook.Key{Scheme: "acme", Secret: outhook.NewSecret("correct horse battery staple")}

	verifier := &outhook.Verifier{
		Keys:    []outhook.Key{key},
		Schemes: map[string]outhook.Scheme{"acme": acme},
	}
	receiver := httptest.NewServer(verifier.Handler(func(_ context.Context, event outhook.Event) error {
		algorithm, signature, _ := strings.Cut(event.Payload.Header.Get("X-Acme-Signature"), " ")
		fmt.Println(event.ID, algorithm, len(signature))
		return nil
	}))
	defer receiver.Close()

	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard:   outhook.DevelopmentGuard(),
		Signers: map[string]outhook.Signer{"acme": acme},
	})
	if err != nil {
		log.Fatal(err)
	}
	attempt, err := d.Try(context.Background(), outhook.Event{ID: "evt_17", Type: "ping"}, outhook.Subscriber{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{key},
	})
	fmt.Println(attempt.Status, err)
	// Output:
	// evt_17 hmac-sha256 64
	// 204 <nil>
}

// A customer changes over from one scheme to another. Until the old key expires, each
// request is signed under both, so that the receiver may change when it likes; one
// that knows both keys counts an event once.
func ExampleKey_migration() {
	current := outhook.GenerateKey()
	old := outhook.Key{Scheme: "github", Secret: outhook.NewSecret("a shared text"), Expires: time.Now().Add(30 * 24 * time.Hour)}
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	for _, known := range [][]outhook.Key{{old}, {current, old}, {current}} { // as time goes by
		verifier := &outhook.Verifier{Keys: known}
		receiver := httptest.NewServer(verifier.Handler(func(_ context.Context, event outhook.Event) error {
			fmt.Println("handle", event.ID)
			return nil
		}))
		attempt, err := d.Try(context.Background(), outhook.Event{ID: "evt_17", Type: "ping"}, outhook.Subscriber{
			ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{current, old},
		})
		fmt.Println(attempt.Status, err)
		receiver.Close()
	}
	// Output:
	// handle evt_17
	// 204 <nil>
	// handle evt_17
	// 204 <nil>
	// handle evt_17
	// 204 <nil>
}

// sha512Signer is a scheme of one's own: the HMAC-SHA512 of the body in X-Acme-512. All
// that it needs is this method.
type sha512Signer struct{}

func (sha512Signer) Sign(_ context.Context, m outhook.Message, keys []outhook.Key) (http.Header, error) {
	h := hmac.New(sha512.New, []byte(keys[0].Secret.Reveal()))
	h.Write(m.Body)
	return http.Header{"X-Acme-512": {hex.EncodeToString(h.Sum(nil))}}, nil
}

// A scheme that is no HMAC-SHA256 is a type with one method. It stands in
// Options.Signers under a name, and each key says by that name that it is for it.
func ExampleSigner() {
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("X-Acme-512")[:16])
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard:   outhook.DevelopmentGuard(),
		Signers: map[string]outhook.Signer{"acme-512": sha512Signer{}},
	})
	if err != nil {
		log.Fatal(err)
	}
	attempt, err := d.Try(context.Background(), outhook.Event{
		Type:    "push",
		Payload: &outhook.Payload{ContentType: "text/plain", Body: []byte("Hello, World!")},
	}, outhook.Subscriber{
		ID:   "customer-1",
		URL:  receiver.URL,
		Keys: []outhook.Key{{Secret: outhook.NewSecret("a shared text"), Scheme: "acme-512"}},
	})
	fmt.Println(attempt.Status, err)
	// Output:
	// bd6b6aa6633eb411
	// 200 <nil>
}

// sha512Scheme can verify, too.
type sha512Scheme struct{ sha512Signer }

func (s sha512Scheme) Verify(header http.Header, body []byte, keys []outhook.Key) (outhook.Message, error) {
	values := header["X-Acme-512"]
	if len(values) != 1 {
		return outhook.Message{}, outhook.ErrHeader
	}
	m := outhook.Message{ID: header.Get("webhook-id"), Body: body}
	for i := range keys {
		want, err := s.Sign(context.Background(), m, keys[i:i+1])
		if err != nil {
			return outhook.Message{}, err
		}
		if hmac.Equal([]byte(values[0]), []byte(want.Get("X-Acme-512"))) { // in constant time
			return m, nil
		}
	}
	return m, outhook.ErrSignature
}

// A Verifier that is to accept a scheme of one's own has it in Schemes, under the name
// that the keys have.
func ExampleScheme() {
	known := outhook.Key{Secret: outhook.NewSecret("a shared text"), Scheme: "acme-512"}
	verifier := &outhook.Verifier{
		Keys:    []outhook.Key{known},
		Schemes: map[string]outhook.Scheme{"acme-512": sha512Scheme{}},
	}
	other := outhook.Key{Secret: outhook.NewSecret("another text"), Scheme: "acme-512"}
	for _, key := range []outhook.Key{known, other} {
		body := []byte("Hello, World!")
		header, err := sha512Scheme{}.Sign(context.Background(), outhook.Message{Body: body}, []outhook.Key{key})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(verifier.Verify(header, body))
	}
	// Output:
	// <nil>
	// outhook: webhook signature does not match
}

// A keyService signs elsewhere: a Key's Secret is but the name of the key there.
type keyService struct{ url string }

func (s keyService) Sign(ctx context.Context, m outhook.Message, keys []outhook.Key) (http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/sign/"+keys[0].Secret.Reveal(), bytes.NewReader(m.Body))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	signature, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("key service: status %d", response.StatusCode)
	}
	return http.Header{"X-Acme-Signature": {string(signature)}}, err
}

// A signer may ask a service that holds the keys. It has until the attempt's timeout.
// If it fails, so does the attempt, which is repeated like any other: nothing is sent
// unsigned.
func ExampleSigner_keyService() {
	requests := 0
	keys := http.NewServeMux()
	keys.HandleFunc("POST /sign/{key}", func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h := hmac.New(sha256.New, []byte("the secret of "+r.PathValue("key")))
		_, _ = io.Copy(h, r.Body)
		_, _ = io.WriteString(w, base64.StdEncoding.EncodeToString(h.Sum(nil)))
	})
	service := httptest.NewServer(keys)
	defer service.Close()
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("received", r.Header.Get("X-Acme-Signature"))
	}))
	defer receiver.Close()

	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard:   outhook.DevelopmentGuard(),
		Retry:   outhook.Schedule(0), // a second attempt at once
		Signers: map[string]outhook.Signer{"acme": keyService{service.URL}},
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, outhook.Event{
		ID:      "evt_17",
		Type:    "ping",
		Payload: &outhook.Payload{ContentType: "text/plain", Body: []byte("ping")},
	}, []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{{Secret: outhook.NewSecret("customer-1"), Scheme: "acme"}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	record, err := d.Get(ctx, outhook.DeliveryID{Event: "evt_17", Subscriber: "customer-1"})
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range record.Attempts {
		fmt.Printf("attempt %d: status %d, error %q\n", a.Number, a.Status, a.Error)
	}
	fmt.Println(record.State)
	// Output:
	// received IwW65YkpsGu/QB0wO+b9q5oKfvC54M/c/2nSwxtE3xs=
	// attempt 1: status 0, error "the signer failed"
	// attempt 2: status 200, error ""
	// delivered
}
