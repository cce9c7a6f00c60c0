package outhook_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/outhook/outhook"
)

// A service sends, a receiver verifies. The guard for development is here because
// the receiver is on this machine; in production the options may be nil.
func Example() {
	type Invoice struct {
		Number string
		Cents  int
	}
	key := outhook.GenerateKey() // a customer's own

	// The customer's side.
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	paid := make(chan Invoice, 1)
	receiver := httptest.NewServer(verifier.Handler(func(_ context.Context, event outhook.Event) error {
		invoice, err := outhook.Decode[Invoice](event)
		if err == nil {
			paid <- invoice
		}
		return err
	}))
	defer receiver.Close()

	// The service: Run until it is told to stop.
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			log.Print(err)
		}
	})

	// Something happens.
	receipt, err := d.Send(ctx, outhook.Event{
		Type: "invoice.paid",
		Data: Invoice{Number: "R-17", Cents: 4200},
	}, []outhook.Subscriber{{
		ID:     "customer-1",
		URL:    receiver.URL,
		Keys:   []outhook.Key{key},
		Events: []string{"invoice.*"},
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("accepted for", receipt.Accepted)
	fmt.Println("received", <-paid)

	stop()
	running.Wait()
	// Output:
	// accepted for [customer-1]
	// received {R-17 4200}
}

// All faults of the options are reported at once.
func ExampleNew() {
	_, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Timeout:       time.Minute,
		Lease:         time.Minute,
		MaxUnfinished: 1,
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, outhook.ErrInvalid))
	// Output:
	// outhook: Options.MaxUnfinished: 1 is below 3
	// outhook: Options.Lease: 1m0s is shorter than Timeout + 10s = 1m10s
	// true
}

// Sending an event again under its ID does nothing, so Send can be repeated
// after any error.
func ExampleDispatcher_Send() {
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	subscribers := []outhook.Subscriber{{
		ID:   "billing",
		URL:  "https://billing.example.com/hooks",
		Keys: []outhook.Key{outhook.GenerateKey()},
	}, {
		ID:     "shipping",
		URL:    "https://shipping.example.com/hooks",
		Keys:   []outhook.Key{outhook.GenerateKey()},
		Events: []string{"order.*"},
	}}
	event := outhook.Event{ID: "evt_17", Type: "invoice.paid", Data: map[string]int{"cents": 4200}}
	for range 2 {
		receipt, err := d.Send(ctx, event, subscribers)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("accepted", receipt.Accepted, "known", receipt.Known, "filtered", receipt.Filtered)
	}
	event.Data = map[string]int{"cents": 9900}
	_, err = d.Send(ctx, event, subscribers)
	fmt.Println(errors.Is(err, outhook.ErrConflict))
	// Output:
	// accepted [billing] known [] filtered [shipping]
	// accepted [] known [billing] filtered [shipping]
	// true
}

// A faulty call reports each fault as a FieldError, joined by errors.Join.
func ExampleFieldError() {
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(context.Background(), outhook.Event{Type: "invoice paid"}, []outhook.Subscriber{{
		ID:   "customer-1",
		URL:  "http://192.168.0.1/hooks",
		Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		if fault, ok := errors.AsType[*outhook.FieldError](err); ok {
			fmt.Printf("%q %s: %s\n", fault.Subscriber, fault.Field, fault.Reason)
		}
	}
	// Output:
	// "" Event.Type: "invoice paid" is not segments of [A-Za-z0-9_] joined by full stops, at most 128 bytes
	// "customer-1" URL: outhook: target is not allowed: plain http is not allowed
}

// When its context ends, Run claims nothing more, lets what is in flight finish,
// stores the outcomes and returns nil. A service takes the context from
// signal.NotifyContext.
func ExampleDispatcher_Run() {
	arrived, answer := make(chan struct{}), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-answer
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}

	ctx, stop := context.WithCancel(context.Background())
	result := make(chan error)
	go func() { result <- d.Run(ctx) }()
	_, err = d.Send(ctx, outhook.Event{Type: "ping"}, []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err)
	}

	<-arrived
	stop() // while the request is under way
	close(answer)
	fmt.Println("Run returned", <-result)
	stats, err := d.Stats(context.Background())
	fmt.Println("delivered", stats.Delivered, err)
	// Output:
	// Run returned <nil>
	// delivered 1 <nil>
}

// A host with a scheduler of its own drains what is due, and learns when to come
// back.
func ExampleDispatcher_Drain() {
	ctx := context.Background()
	var requests atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard: outhook.DevelopmentGuard(),
		Retry: outhook.Schedule(time.Hour),
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, outhook.Event{Type: "ping"}, []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err)
	}

	next, err := d.Drain(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(requests.Load(), "attempt, the next in about", next.Round(time.Hour))
	// Output: 1 attempt, the next in about 1h0m0s
}

// Try answers the button that sends a test event: one attempt, nothing stored.
func ExampleDispatcher_Try() {
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such hook", http.StatusNotFound)
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}

	attempt, err := d.Try(context.Background(), outhook.Event{Type: "test"}, outhook.Subscriber{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()},
	})
	if err != nil {
		log.Fatal(err) // no answer
	}
	fmt.Println(attempt.Error)
	fmt.Printf("%s", attempt.Body)
	// Output:
	// status 404
	// no such hook
}

// A transaction stands for one of a database: what is enqueued in it is stored
// with the commit, or never.
type transaction struct {
	store      outhook.Enqueuer
	deliveries []outhook.Delivery
}

func (t *transaction) Enqueue(_ context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	t.deliveries = append(t.deliveries, deliveries...)
	return nil, nil // a database would say here which ones it has
}

func (t *transaction) Commit(ctx context.Context) error {
	_, err := t.store.Enqueue(ctx, t.deliveries)
	return err
}

// The transaction of this example buffers deliveries until its Commit, as a
// database does.
func ExampleDispatcher_Via() {
	ctx := context.Background()
	store := outhook.NewMemoryStore()
	d, err := outhook.New(store, nil)
	if err != nil {
		log.Fatal(err)
	}

	tx := &transaction{store: store}
	_, err = d.Via(tx).Send(ctx, outhook.Event{Type: "invoice.paid"}, []outhook.Subscriber{{
		ID: "customer-1", URL: "https://customer.example.com/hooks", Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err) // and roll back
	}
	before, _ := d.Stats(ctx)
	if err := tx.Commit(ctx); err != nil {
		log.Fatal(err)
	}
	d.Wake() // Run cannot know of the commit
	after, _ := d.Stats(ctx)
	fmt.Println("pending before the commit:", before.Pending)
	fmt.Println("pending after the commit:", after.Pending)
	// Output:
	// pending before the commit: 0
	// pending after the commit: 1
}

// What has failed for good is kept, and can be sent again under the same ID
// once the receiver is repaired.
func ExampleDispatcher_Replay() {
	ctx := context.Background()
	var repaired atomic.Bool
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("request", r.Header.Get("webhook-id"))
		if !repaired.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard: outhook.DevelopmentGuard(),
		Retry: outhook.Schedule(), // no second attempt
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, outhook.Event{ID: "evt_17", Type: "invoice.paid"}, []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}

	repaired.Store(true)
	n, err := d.Replay(ctx, outhook.Filter{Subscriber: "customer-1", States: []outhook.State{outhook.Dead}})
	fmt.Println("replayed", n, err)
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// request evt_17
	// replayed 1 <nil>
	// request evt_17
}

// sendPing sends two events to one subscriber, for the examples of what can be
// done with deliveries.
func sendPing(d *outhook.Dispatcher, subscriber string) {
	for _, id := range []string{"evt_1", "evt_2"} {
		_, err := d.Send(context.Background(), outhook.Event{ID: id, Type: "ping"}, []outhook.Subscriber{{
			ID: subscriber, URL: "https://customer.example.com/hooks", Keys: []outhook.Key{outhook.GenerateKey()},
		}})
		if err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleDispatcher_Cancel() {
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	sendPing(d, "customer-1")
	sendPing(d, "customer-2")

	n, err := d.Cancel(ctx, outhook.Filter{Subscriber: "customer-1"})
	fmt.Println("cancelled", n, err)
	// Output: cancelled 2 <nil>
}

func ExampleDispatcher_List() {
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	sendPing(d, "customer-1")
	if _, err := d.Cancel(ctx, outhook.Filter{Event: "evt_1"}); err != nil {
		log.Fatal(err)
	}

	for record, err := range d.List(ctx, outhook.Filter{Subscriber: "customer-1"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(record.ID, record.State, record.Reason)
	}
	// Output:
	// evt_1/customer-1 cancelled cancelled
	// evt_2/customer-1 pending
}

func ExampleDispatcher_Get() {
	ctx := context.Background()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "database is locked", http.StatusInternalServerError)
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard:        outhook.DevelopmentGuard(),
		KeepResponse: 1 << 10,
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, outhook.Event{ID: "evt_17", Type: "invoice.paid"}, []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}

	record, err := d.Get(ctx, outhook.DeliveryID{Event: "evt_17", Subscriber: "customer-1"})
	if err != nil {
		log.Fatal(err) // errors.Is(err, outhook.ErrNotFound) if there is none
	}
	fmt.Println(record.State)
	for _, a := range record.Attempts {
		fmt.Printf("attempt %d: %s: %s", a.Number, a.Error, a.Body)
	}
	// Output:
	// pending
	// attempt 1: status 500: database is locked
}

// Settled deliveries are kept until they are pruned. A service does so now and
// then, with OlderThan a month say.
func ExampleDispatcher_Prune() {
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	sendPing(d, "customer-1")
	if _, err := d.Cancel(ctx, outhook.Filter{Event: "evt_1"}); err != nil {
		log.Fatal(err)
	}

	young, err := d.Prune(ctx, outhook.Filter{OlderThan: 30 * 24 * time.Hour})
	fmt.Println("older than a month:", young, err)
	all, err := d.Prune(ctx, outhook.Filter{})
	fmt.Println("all that are settled:", all, err)
	// Output:
	// older than a month: 0 <nil>
	// all that are settled: 1 <nil>
}

func ExampleDispatcher_Stats() {
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	sendPing(d, "customer-1")
	if _, err := d.Cancel(ctx, outhook.Filter{Event: "evt_1"}); err != nil {
		log.Fatal(err)
	}

	stats, err := d.Stats(ctx)
	fmt.Println("pending", stats.Pending, "cancelled", stats.Cancelled, err)
	fmt.Println("late:", stats.OldestDue > time.Minute)
	// Output:
	// pending 1 cancelled 1 <nil>
	// late: false
}

// A disabled subscriber's deliveries are accepted and held.
func ExampleDispatcher_Disable() {
	ctx := context.Background()
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("request", r.Header.Get("webhook-id"))
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}

	if err := d.Disable(ctx, "customer-1", "unpaid bills"); err != nil {
		log.Fatal(err)
	}
	receipt, err := d.Send(ctx, outhook.Event{ID: "evt_17", Type: "invoice.paid"}, []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("accepted for", receipt.Accepted)

	fmt.Println("disabled:")
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	if err := d.Enable(ctx, "customer-1"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("enabled:")
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// accepted for [customer-1]
	// disabled:
	// enabled:
	// request evt_17
}

// A receiver that answers 410 disables itself. The delivery it answered is dead,
// those behind it are held, until the customer asks for more.
func ExampleDispatcher_Enable() {
	ctx := context.Background()
	var back atomic.Bool
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("request", r.Header.Get("webhook-id"))
		if !back.Load() {
			w.WriteHeader(http.StatusGone)
		}
	}))
	defer receiver.Close()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	subscribers := []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()}, Ordered: true,
	}}
	for _, id := range []string{"evt_1", "evt_2"} {
		if _, err := d.Send(ctx, outhook.Event{ID: id, Type: "ping"}, subscribers); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}

	back.Store(true)
	if err := d.Enable(ctx, "customer-1"); err != nil {
		log.Fatal(err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// request evt_1
	// request evt_2
}

func ExampleDispatcher_Standings() {
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Disable(ctx, "customer-1", "unpaid bills"); err != nil {
		log.Fatal(err)
	}

	for standing, err := range d.Standings(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(standing.Subscriber, standing.Disabled, standing.Reason)
	}
	// Output: customer-1 true unpaid bills
}

// The n-th delay follows the n-th attempt. Each is lengthened by up to a tenth,
// which Truncate takes away here.
func ExampleSchedule() {
	retry := outhook.Schedule(10*time.Second, 100*time.Second)
	id := outhook.DeliveryID{Event: "evt_17", Subscriber: "customer-1"}
	for n := 1; n <= 3; n++ {
		delay, again := retry(id, outhook.Attempt{Number: n})
		fmt.Println(delay.Truncate(10*time.Second), again)
	}
	// Output:
	// 10s true
	// 1m40s true
	// 0s false
}

func ExampleBackoff() {
	retry := outhook.Backoff(func() backoff.BackOff {
		return backoff.WithMaxRetries(backoff.NewConstantBackOff(time.Minute), 2)
	})
	for n := 1; n <= 3; n++ {
		fmt.Println(retry(outhook.DeliveryID{}, outhook.Attempt{Number: n}))
	}
	// Output:
	// 1m0s true
	// 1m0s true
	// 0s false
}

func ExampleStandardSchedule() {
	retry := outhook.StandardSchedule()
	id := outhook.DeliveryID{Event: "evt_17", Subscriber: "customer-1"}
	attempts, total := 1, time.Duration(0)
	for {
		delay, again := retry(id, outhook.Attempt{Number: attempts})
		if !again {
			break
		}
		attempts++
		total += delay
	}
	fmt.Println(attempts, "attempts in", int(total.Hours()/24), "days")
	// Output: 10 attempts in 3 days
}

// A classifier says what cannot be cured by repeating it, and leaves the rest to
// the default one.
func ExampleClassifier() {
	classify := func(a outhook.Attempt, err error) outhook.Verdict {
		if a.Status == http.StatusBadRequest || a.Status == http.StatusNotFound {
			return outhook.Permanent
		}
		return outhook.DefaultClassifier(a, err)
	}
	_, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Classify: classify})
	fmt.Println(err)
	fmt.Println(classify(outhook.Attempt{Status: 404}, nil) == outhook.Permanent)
	fmt.Println(classify(outhook.Attempt{Status: 503}, nil) == outhook.Retry)
	// Output:
	// <nil>
	// true
	// true
}

// The message and secret are those of the reference implementations.
func ExampleStandardWebhooks() {
	key, err := outhook.ParseKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		log.Fatal(err)
	}
	header, err := outhook.StandardWebhooks{}.Sign(context.Background(), outhook.Message{
		ID:   "msg_p5jXN8AQM9LWM0D4loKWxJek",
		Time: time.Unix(1614265330, 0),
		Body: []byte(`{"test": 2432232314}`),
	}, []outhook.Key{key})
	fmt.Println(header.Get("webhook-signature"), err)
	// Output: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= <nil>
}

// A key is rotated without a gap: while the old one has not expired, requests
// carry a signature of each, so that the receiver may change over at any moment.
// What was sent before the rotation is signed with the old key alone, so the old
// one stays accepted for longer than retries last.
func ExampleKey() {
	old, current := outhook.GenerateKey(), outhook.GenerateKey()
	old.Expires = time.Now().Add(4 * 24 * time.Hour)
	keys := []outhook.Key{current, old}

	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	for _, known := range keys {
		verifier := &outhook.Verifier{Keys: []outhook.Key{known}}
		receiver := httptest.NewServer(verifier.Handler(func(context.Context, outhook.Event) error { return nil }))
		attempt, err := d.Try(context.Background(), outhook.Event{Type: "ping"}, outhook.Subscriber{
			ID: "customer-1", URL: receiver.URL, Keys: keys,
		})
		fmt.Println(attempt.Status, err)
		receiver.Close()
	}
	// Output:
	// 204 <nil>
	// 204 <nil>
}

func ExampleGenerateKey() {
	key := outhook.GenerateKey()
	fmt.Println(key.Secret)
	fmt.Println(strings.HasPrefix(key.Secret.Reveal(), "whsec_"))
	// Output:
	// [redacted]
	// true
}

func ExampleParseKey() {
	_, err := outhook.ParseKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	fmt.Println(err)
	_, err = outhook.ParseKey("whsec_c2hvcnQ=")
	fmt.Println(err)
	// Output:
	// <nil>
	// outhook: parse key: the secret has 5 bytes, not 24 to 64
}

func ExampleSecret() {
	secret := outhook.NewSecret("hunter2")
	fmt.Printf("%v %+v %x\n", secret, struct{ S outhook.Secret }{secret}, secret)

	text, err := json.Marshal(secret)
	fmt.Println(string(text), err)
	fmt.Println(json.Unmarshal(text, &secret)) // it would be lost

	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	logger.Info("key made", "secret", secret)
	fmt.Println(secret.Reveal())
	// Output:
	// [redacted] {S:[redacted]} [redacted]
	// "[redacted]" <nil>
	// outhook: unmarshal secret: the text is the redacted form
	// level=INFO msg="key made" secret=[redacted]
	// hunter2
}

// signed returns a request as a Dispatcher makes it.
func signed(key outhook.Key, id, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/hooks", strings.NewReader(body))
	header, err := outhook.StandardWebhooks{}.Sign(r.Context(),
		outhook.Message{ID: id, Time: time.Now(), Body: []byte(body)}, []outhook.Key{key})
	if err != nil {
		log.Fatal(err)
	}
	r.Header = header
	return r
}

// A receiver with a handler of its own reads the body first and verifies those
// very bytes.
func ExampleVerifier_Verify() {
	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	handle := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "the body cannot be read", http.StatusBadRequest)
			return
		}
		if err := verifier.Verify(r.Header, body); err != nil {
			fmt.Println(err) // for the receiver's own log: the answer does not say it
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "verified %s", body)
	}

	for _, from := range []outhook.Key{key, outhook.GenerateKey()} {
		w := httptest.NewRecorder()
		handle(w, signed(from, "evt_17", `{"n":1}`)) // a request that a Dispatcher signed with that key
		fmt.Println(w.Code, strings.TrimSpace(w.Body.String()))
	}
	// Output:
	// 200 verified {"n":1}
	// outhook: webhook signature does not match
	// 401 Unauthorized
}

// An event can come more than once, under the same ID: it is handled once. What
// outlives the process, or several that share the work, needs a Deduplicator.
func ExampleVerifier_Handler() {
	key := outhook.GenerateKey()
	verifier := &outhook.Verifier{Keys: []outhook.Key{key}}
	mux := http.NewServeMux()
	mux.Handle("/hooks", verifier.Handler(func(_ context.Context, event outhook.Event) error {
		fmt.Println("handle", event.ID, event.Type)
		return nil
	}))

	for range 2 {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, signed(key, "evt_17", `{"type":"invoice.paid","timestamp":"2030-01-02T03:04:05Z","data":{}}`))
		fmt.Println(w.Code)
	}
	// Output:
	// handle evt_17 invoice.paid
	// 204
	// 204
}

func ExampleDecode() {
	type Invoice struct {
		Number string
		Cents  int
	}
	event := outhook.Event{ID: "evt_17", Payload: &outhook.Payload{ // as a Verifier's Handler hands it on
		Body: []byte(`{"type":"invoice.paid","timestamp":"2030-01-02T03:04:05Z","data":{"Number":"R-17","Cents":4200}}`),
	}}
	invoice, err := outhook.Decode[Invoice](event)
	fmt.Println(invoice, err)
	// Output: {R-17 4200} <nil>
}

// Metrics attach to an Observer. The receiver fails once.
func ExampleObserver() {
	ctx := context.Background()
	var requests atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer receiver.Close()

	metrics := new(expvar.Map) // of the package expvar; any other will do
	count := func(what string) func(context.Context, outhook.Observation) {
		return func(_ context.Context, o outhook.Observation) { metrics.Add(what+"."+o.Labels["tenant"], 1) }
	}
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard: outhook.DevelopmentGuard(),
		Retry: outhook.Schedule(0), // a second attempt at once
		Observers: []outhook.Observer{{
			Attempted: count("attempted"),
			Delivered: count("delivered"),
			Retrying:  count("retrying"),
			Dead:      count("dead"),
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, outhook.Event{Type: "ping", Labels: map[string]string{"tenant": "acme"}}, []outhook.Subscriber{{
		ID: "customer-1", URL: receiver.URL, Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(metrics)
	// Output: {"attempted.acme": 2, "delivered.acme": 1, "retrying.acme": 1}
}

// An operator of one's own subscribes to what becomes of the customers' endpoints:
// the observer sends it an event.
func ExampleStandingChange() {
	operator := answering(204)
	defer operator.Close()
	gone := answering(410)
	defer gone.Close()

	ctx := context.Background()
	var d *outhook.Dispatcher
	tell := func(ctx context.Context, c outhook.StandingChange) {
		_, err := d.Send(ctx, outhook.Event{Type: "endpoint." + string(c.To), Data: map[string]any{
			"customer": c.Subscriber, "reason": c.Reason, "failures": c.Failures, "waiting": c.Pending,
		}}, []outhook.Subscriber{{ID: "operator", URL: operator.URL, Unsigned: true}})
		if err != nil {
			log.Print(err)
		}
	}
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard:     outhook.DevelopmentGuard(),
		Observers: []outhook.Observer{{Standing: tell}},
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, outhook.Event{Type: "ping"}, []outhook.Subscriber{{ID: "customer-1", URL: gone.URL, Unsigned: true}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: {"customer":"customer-1","failures":1,"reason":"gone","waiting":0}
}

// answering answers with a status, and prints the data of what it accepts.
func answering(status int) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		data, err := outhook.Decode[json.RawMessage](outhook.Event{Payload: &outhook.Payload{Body: body}})
		if err == nil && status == 204 {
			fmt.Println(string(data))
		}
		w.WriteHeader(status)
	}))
}

// How subscribers fare, as an operator's page shows it.
func ExampleDispatcher_Health() {
	receiver := answering(500)
	defer receiver.Close()
	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard:   outhook.DevelopmentGuard(),
		Retry:   outhook.Schedule(time.Hour),
		Breaker: outhook.Breaker{Failures: 3},
	})
	if err != nil {
		log.Fatal(err)
	}
	for range 5 {
		_, err := d.Send(ctx, outhook.Event{Type: "ping"}, []outhook.Subscriber{{ID: "customer-1", URL: receiver.URL, Unsigned: true, Concurrency: 1}})
		if err != nil {
			log.Fatal(err)
		}
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	health, err := d.Health(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, h := range health {
		fmt.Println(h.Subscriber, h.State, h.Reason, h.Pending, "waiting")
	}
	// Output: customer-1 failing failing 5 waiting
}

// The zero Guard is for URLs that customers choose. A form can check them with it
// before they are saved.
func ExampleGuard() {
	for _, url := range []string{
		"https://customer.example.com/hooks",
		"http://customer.example.com/hooks",
		"https://169.254.169.254/latest/meta-data",
		"https://localhost/hooks",
	} {
		_, err := outhook.Guard{}.CheckURL(url)
		fmt.Println(err)
	}

	inside := outhook.Guard{Allow: []outhook.Range{{Prefix: netip.MustParsePrefix("10.20.0.0/16")}}}
	fmt.Println(inside.CheckAddr(netip.MustParseAddrPort("10.20.0.7:443")))
	fmt.Println(inside.CheckAddr(netip.MustParseAddrPort("10.99.0.7:443")))
	// Output:
	// <nil>
	// outhook: target is not allowed: plain http is not allowed
	// outhook: target is not allowed: 169.254.169.254 may not be called, or not at this port
	// outhook: target is not allowed: the host name belongs to private networks
	// <nil>
	// outhook: target is not allowed: the address 10.99.0.7 is not public
}

func ExampleDevelopmentGuard() {
	_, err := outhook.DevelopmentGuard().CheckURL("http://127.0.0.1:8080/hooks")
	fmt.Println(err)
	// Output: <nil>
}

// A roundTripper is a transport in one func.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Wrap the default transport instead of replacing it: it dials only what the
// guard allows.
func ExampleNewTransport() {
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer receiver.Close()
	guard := outhook.DevelopmentGuard()
	transport := outhook.NewTransport(guard)
	defer transport.CloseIdleConnections() // a transport of the host's is the host's to close
	transport.MaxIdleConnsPerHost = 16

	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard: guard,
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			fmt.Println(r.Method, r.URL.Path)
			return transport.RoundTrip(r)
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	attempt, err := d.Try(context.Background(), outhook.Event{Type: "ping"}, outhook.Subscriber{
		ID: "customer-1", URL: receiver.URL + "/hooks", Keys: []outhook.Key{outhook.GenerateKey()},
	})
	fmt.Println(attempt.Status, err)
	// Output:
	// POST /hooks
	// 200 <nil>
}

// Slack's incoming webhooks want a body of their own and no signature: the URL is
// the secret. What Encode returns nil for is not sent.
func ExampleSubscriber_encode() {
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		fmt.Println(&body)
	}))
	defer receiver.Close()
	slack := outhook.Subscriber{
		ID:       "slack",
		URL:      receiver.URL,
		Unsigned: true,
		Encode: func(event outhook.Event) (*outhook.Payload, error) {
			cents, ok := event.Data.(int)
			if !ok {
				return nil, nil
			}
			body, err := json.Marshal(map[string]string{
				"text": fmt.Sprintf("%s: %d.%02d", event.Type, cents/100, cents%100),
			})
			return &outhook.Payload{Body: body}, err
		},
	}

	ctx := context.Background()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	if err != nil {
		log.Fatal(err)
	}
	for _, data := range []any{4200, "no amount"} {
		receipt, err := d.Send(ctx, outhook.Event{Type: "invoice.paid", Data: data}, []outhook.Subscriber{slack})
		fmt.Println(len(receipt.Accepted), "accepted,", len(receipt.Filtered), "filtered,", err)
	}
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 accepted, 0 filtered, <nil>
	// 0 accepted, 1 filtered, <nil>
	// {"text":"invoice.paid: 42.00"}
}

// customers is where the service keeps its subscribers.
type customers map[string]outhook.Subscriber

func (c customers) Subscriber(_ context.Context, id string) (outhook.Subscriber, error) {
	s, ok := c[id]
	if !ok {
		return outhook.Subscriber{}, outhook.ErrUnknownSubscriber
	}
	return s, nil
}

// With a Directory, Send is given IDs, and an attempt uses the URL and keys
// of its time.
func ExampleDirectory() {
	ctx := context.Background()
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("request", r.URL.Path, r.Header.Get("webhook-id"))
	}))
	defer receiver.Close()
	known := customers{
		"customer-1": {URL: receiver.URL + "/old", Keys: []outhook.Key{outhook.GenerateKey()}},
		"customer-2": {URL: receiver.URL + "/two", Keys: []outhook.Key{outhook.GenerateKey()}},
	}
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard(), Directory: known})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Send(ctx, outhook.Event{ID: "evt_1", Type: "ping"}, []outhook.Subscriber{{ID: "customer-1"}, {ID: "customer-2"}})
	if err != nil {
		log.Fatal(err)
	}

	// Before the attempts, one moves and one leaves.
	known["customer-1"] = outhook.Subscriber{URL: receiver.URL + "/new", Keys: []outhook.Key{outhook.GenerateKey()}}
	delete(known, "customer-2")
	if _, err := d.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"customer-1", "customer-2"} {
		record, err := d.Get(ctx, outhook.DeliveryID{Event: "evt_1", Subscriber: id})
		fmt.Println(id, record.State, record.Reason, err)
	}
	// Output:
	// request /new evt_1
	// customer-1 delivered  <nil>
	// customer-2 cancelled unknown <nil>
}

// table is a store's table of deliveries.
type table map[outhook.DeliveryID][]byte

func (t table) Enqueue(_ context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	for _, d := range deliveries {
		row, err := d.Snapshot.MarshalBinary()
		if err != nil {
			return nil, err
		}
		t[d.ID] = row
	}
	return nil, nil
}

// With a Sealer, a database holds nothing of a subscriber that can be read but its ID.
func ExampleNewSealer() {
	secret, err := base64.StdEncoding.DecodeString("3q2+7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs=") // from the environment
	if err != nil {
		log.Fatal(err)
	}
	sealer, err := outhook.NewSealer(outhook.SealingKey{ID: "2026-01", Secret: outhook.NewSecret(string(secret))})
	if err != nil {
		log.Fatal(err)
	}
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Sealer: sealer})
	if err != nil {
		log.Fatal(err)
	}
	rows := table{}
	_, err = d.Via(rows).Send(context.Background(), outhook.Event{ID: "evt_1", Type: "ping"}, []outhook.Subscriber{{
		ID: "customer-1", URL: "https://customer.example.com/hooks", Keys: []outhook.Key{outhook.GenerateKey()},
	}})
	if err != nil {
		log.Fatal(err)
	}
	row := rows[outhook.DeliveryID{Event: "evt_1", Subscriber: "customer-1"}]
	var restored outhook.Snapshot
	err = restored.UnmarshalBinary(row)
	fmt.Printf("%.28s…\n", row)
	fmt.Println(restored, err)
	// Output:
	// {"sealed":{"key":"2026-01","…
	// (sealed) <nil>
}

// Its bounds are fields, to be set before the store is used.
func ExampleMemoryStore() {
	ctx := context.Background()
	d, err := outhook.New(&outhook.MemoryStore{MaxPending: 1000, MaxPerSubscriber: 1}, nil)
	if err != nil {
		log.Fatal(err)
	}
	subscribers := []outhook.Subscriber{{
		ID: "customer-1", URL: "https://customer.example.com/hooks", Keys: []outhook.Key{outhook.GenerateKey()},
	}}
	for range 2 {
		_, err := d.Send(ctx, outhook.Event{Type: "ping"}, subscribers)
		fmt.Println(errors.Is(err, outhook.ErrFull))
	}
	// Output:
	// false
	// true
}
