package webhooktest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/webhooktest"
	"github.com/stretchr/testify/require"
)

// Billing is a host: it announces what it does. In the tests below it is the
// code under test.
type Billing struct {
	hooks     *outhook.Dispatcher
	customers []outhook.Subscriber
}

type Invoice struct {
	Number string `json:"number"`
	Cents  int    `json:"cents"`
}

func (b *Billing) Pay(ctx context.Context, number string, cents int) error {
	_, err := b.hooks.Send(ctx, outhook.Event{Type: "invoice.paid", Data: Invoice{number, cents}}, b.customers)
	return err
}

// On a socket: the requests go through net/http.
func TestExampleServer(t *testing.T) {
	r := webhooktest.NewServer(t)
	billing := Billing{r.Dispatcher(nil), []outhook.Subscriber{r.Subscriber("shop")}}
	require.NoError(t, billing.Pay(t.Context(), "R-17", 4200))
	r.Wait(1)[0].CheckData(t, Invoice{"R-17", 4200})
}

// In a bubble: the real schedule, which waits 5 s and 5 min here, takes no time.
func TestExampleBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := webhooktest.New(t)
		r.Script(webhooktest.Status(500), webhooktest.Hang())
		d := r.Dispatcher(&outhook.Options{Retry: outhook.StandardSchedule()})
		billing := Billing{d, []outhook.Subscriber{r.Subscriber("shop")}}
		require.NoError(t, billing.Pay(t.Context(), "R-17", 4200))

		paid := r.Wait(1)[0]
		paid.CheckData(t, Invoice{"R-17", 4200})
		require.Equal(t, 3, paid.Attempt)
		require.Greater(t, time.Since(paid.Time), 5*time.Minute)
	})
}

// With the host's own Dispatcher, the Receiver is its Transport.
func TestExampleTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := webhooktest.New(t)
		d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Transport: r})
		require.NoError(t, err)
		billing := Billing{d, []outhook.Subscriber{r.Subscriber("shop"), r.Subscriber("bank")}}
		require.NoError(t, billing.Pay(t.Context(), "R-17", 4200))

		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		r.CheckAccepted("invoice.paid", "shop", "bank")
	})
}

// What was sent is known before any request is made.
func TestExampleRecorder(t *testing.T) {
	sent := webhooktest.NewRecorder(t)
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Observers: []outhook.Observer{sent.Observer()},
	})
	require.NoError(t, err)
	shop := outhook.Subscriber{ID: "shop", URL: "https://shop.example.com", Keys: []outhook.Key{outhook.GenerateKey()}}
	billing := Billing{d, []outhook.Subscriber{shop}}
	require.NoError(t, billing.Pay(t.Context(), "R-17", 4200))
	sent.CheckAccepted("invoice.paid", "shop")
}

// printer stands for the *testing.T of a test that fails.
type printer struct{ testing.TB }

func (printer) Helper()        {}
func (printer) Cleanup(func()) {}
func (printer) Errorf(format string, args ...any) {
	fmt.Println(fmt.Sprintf(format, args...))
}
func (p printer) Fatalf(format string, args ...any) { p.Errorf(format, args...) }

// What a test prints when it waits in vain.
func ExampleReceiver_Wait() {
	t := printer{}
	r := webhooktest.New(t)
	r.Timeout = 10 * time.Millisecond
	r.Wait(1)
	// Output:
	// webhooktest: 0 of 1 deliveries have been accepted within 10ms
	// no request has arrived
}

// Another schedule of answers: a subscriber that is down, beside others.
func ExampleReceiver_Respond() {
	t := printer{}
	r := webhooktest.New(t)
	r.Respond(func(q webhooktest.Request) webhooktest.Answer {
		if q.Subscriber == "shop" {
			return webhooktest.Status(503)
		}
		return webhooktest.Answer{}
	})
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Transport: r})
	if err != nil {
		panic(err)
	}
	for _, id := range []string{"shop", "bank"} {
		attempt, err := d.Try(context.Background(), outhook.Event{Type: "invoice.paid"}, r.Subscriber(id))
		fmt.Println(id, attempt.Status, err)
	}
	// Output:
	// shop 503 <nil>
	// bank 204 <nil>
}

// What a test prints when the data is not as wanted.
func ExampleRequest_CheckData() {
	t := printer{}
	q := webhooktest.Request{
		ID: "e1", Type: "invoice.paid", Subscriber: "shop",
		Body: []byte(`{"type":"invoice.paid","data":{"number":"R-17","cents":42}}`),
	}
	q.CheckData(t, Invoice{"R-17", 4200})
	// Output:
	// webhooktest: the data of event e1 (invoice.paid) to shop is not as wanted (- wanted, + received):
	//   {
	// -   "cents": 4200,
	// +   "cents": 42,
	//     "number": "R-17"
	//   }
}

func ExampleDiff() {
	want := json.RawMessage(`{"number": "R-17", "lines": [{"cents": 1}, {"cents": 2}]}`)
	got := json.RawMessage(`{"lines": [{"cents": 1}, {"cents": 3}], "number": "R-17"}`)
	fmt.Println(webhooktest.Diff(want, got))
	// Output:
	// … 3 lines
	//         "cents": 1
	//       },
	//       {
	// -       "cents": 2
	// +       "cents": 3
	//       }
	//     ],
	//     "number": "R-17"
	//   }
}
