package cloudevents_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/cloudevents"
)

type invoice struct {
	Number string `json:"number"`
	Cents  int    `json:"cents"`
}

var paid = outhook.Event{
	ID:   "e-17",
	Type: "invoice.paid",
	Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	Data: invoice{"R-17", 4200},
}

// A CloudEvent is sent, signed, verified, and read with the SDK.
func ExampleEncoder() {
	key := outhook.GenerateKey()

	// The customer's side.
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	receiver := httptest.NewServer(verifier.Handler(func(ctx context.Context, event outhook.Event) error {
		body := io.NopCloser(bytes.NewReader(event.Payload.Body))
		cloudEvent, err := binding.ToEvent(ctx, cehttp.NewMessage(event.Payload.Header, body))
		if err != nil {
			return err
		}
		var i invoice
		if err := cloudEvent.DataAs(&i); err != nil {
			return err
		}
		fmt.Println(cloudEvent.Type(), cloudEvent.Subject(), i.Cents)
		return nil
	}))
	defer receiver.Close()

	// The service.
	encoder := &cloudevents.Encoder{
		Source:     "https://shop.example",
		TypePrefix: "example.shop.",
		Attributes: func(event outhook.Event) (cloudevents.Attributes, error) {
			i, ok := event.Data.(invoice)
			if !ok {
				return cloudevents.Attributes{}, errors.New("no invoice")
			}
			return cloudevents.Attributes{Subject: i.Number}, nil
		},
	}
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, paid, []outhook.Subscriber{{
		ID:     "customer-1",
		URL:    receiver.URL,
		Keys:   []outhook.Key{key},
		Encode: encoder.Binary,
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: example.shop.invoice.paid R-17 4200
}

func ExampleEncoder_Structured() {
	encoder := &cloudevents.Encoder{Source: "https://shop.example"}
	payload, err := encoder.Structured(paid)
	if err != nil {
		log.Fatal(err)
	}
	var indented bytes.Buffer
	_ = json.Indent(&indented, payload.Body, "", "  ")
	fmt.Println("Content-Type:", payload.ContentType)
	fmt.Println()
	fmt.Println(indented.String())
	// Output:
	// Content-Type: application/cloudevents+json
	//
	// {
	//   "specversion": "1.0",
	//   "id": "e-17",
	//   "source": "https://shop.example",
	//   "type": "invoice.paid",
	//   "datacontenttype": "application/json",
	//   "time": "2026-01-02T03:04:05Z",
	//   "data": {
	//     "number": "R-17",
	//     "cents": 4200
	//   }
	// }
}

func ExampleEncoder_Binary() {
	encoder := &cloudevents.Encoder{
		Source: "https://shop.example",
		Attributes: func(outhook.Event) (cloudevents.Attributes, error) {
			return cloudevents.Attributes{Subject: "R-17", Extensions: map[string]any{"region": "eu"}}, nil
		},
	}
	payload, err := encoder.Binary(paid)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("Content-Type:", payload.ContentType)
	for _, name := range slices.Sorted(maps.Keys(payload.Header)) {
		fmt.Printf("%s: %s\n", name, payload.Header.Get(name))
	}
	fmt.Printf("\n%s\n", payload.Body)
	// Output:
	// Content-Type: application/json
	// Ce-Id: e-17
	// Ce-Region: eu
	// Ce-Source: https://shop.example
	// Ce-Specversion: 1.0
	// Ce-Subject: R-17
	// Ce-Time: 2026-01-02T03:04:05Z
	// Ce-Type: invoice.paid
	//
	// {"number":"R-17","cents":4200}
}

// A customer registers an endpoint, which is asked whether it wants events.
func ExampleHandshake() {
	target := &cloudevents.Target{Origins: []string{"events.shop.example"}, Rate: 120}
	endpoint := httptest.NewServer(target.Handler(http.NotFoundHandler())) // the customer's side
	defer endpoint.Close()

	consent, err := cloudevents.Handshake(context.Background(), endpoint.URL, cloudevents.HandshakeOptions{
		Origin: "events.shop.example",
		Guard:  outhook.DevelopmentGuard(), // the endpoint is on loopback, without TLS
	})
	if err != nil {
		log.Fatal(err) // not registered
	}
	subscriber := outhook.Subscriber{
		ID:     "customer-1",
		URL:    endpoint.URL,
		Rate:   consent.Pace(),
		Header: consent.Header(),
	}
	fmt.Println(subscriber.Rate.N, "requests per", subscriber.Rate.Per)
	fmt.Println(subscriber.Header)

	_, err = cloudevents.Handshake(context.Background(), endpoint.URL, cloudevents.HandshakeOptions{
		Origin: "spam.example",
		Guard:  outhook.DevelopmentGuard(),
	})
	fmt.Println(err)
	// Output:
	// 120 requests per 1m0s
	// map[Webhook-Request-Origin:[events.shop.example]]
	// cloudevents: the target answered the handshake with status 403
}

// An endpoint that does not know the handshake is released by its administrator,
// who finds the link in the log.
func ExampleCallback() {
	urls := map[string]string{} // of the customers
	callback := &cloudevents.Callback{
		Secret: outhook.NewSecret(strings.Repeat("k", 32)), // random bytes, in earnest
		URLOf: func(_ context.Context, subscriber string) (string, error) {
			url, ok := urls[subscriber]
			if !ok {
				return "", outhook.ErrUnknownSubscriber
			}
			return url, nil
		},
		Grant: func(_ context.Context, subscriber, _ string, _ int) error {
			fmt.Println(subscriber, "may be sent events")
			return nil
		},
	}
	service := httptest.NewServer(callback)
	defer service.Close()
	callback.URL = service.URL + "/consent"

	var link string // in the customer's log
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		link = r.Header.Get("WebHook-Request-Callback")
	}))
	defer endpoint.Close()
	urls["customer-1"] = endpoint.URL

	offer, err := callback.For("customer-1", endpoint.URL)
	if err != nil {
		log.Fatal(err)
	}
	_, err = cloudevents.Handshake(context.Background(), endpoint.URL, cloudevents.HandshakeOptions{
		Origin:   "events.shop.example",
		Callback: offer,
		Guard:    outhook.DevelopmentGuard(),
	})
	fmt.Println(errors.Is(err, cloudevents.ErrNoConsent))

	response, err := http.Get(link)
	if err != nil {
		log.Fatal(err)
	}
	response.Body.Close()
	fmt.Println(response.StatusCode)
	// Output:
	// true
	// customer-1 may be sent events
	// 200
}

// The receiver's side: the handshake before, the verifier behind.
func ExampleTarget() {
	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	target := &cloudevents.Target{Origins: []string{"events.shop.example"}, Rate: 60}
	handler := target.Handler(verifier.Handler(func(context.Context, outhook.Event) error { return nil }))

	r := httptest.NewRequest(http.MethodOptions, "/hooks", nil)
	r.Header.Set("WebHook-Request-Origin", "events.shop.example")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	fmt.Println("WebHook-Allowed-Origin:", w.Header().Get("WebHook-Allowed-Origin"))
	fmt.Println("WebHook-Allowed-Rate:", w.Header().Get("WebHook-Allowed-Rate"))
	// Output:
	// WebHook-Allowed-Origin: events.shop.example
	// WebHook-Allowed-Rate: 60
}
