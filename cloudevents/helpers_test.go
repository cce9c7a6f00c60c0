package cloudevents_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/cloudevents"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// happened is the time of the events. The zone and the nanoseconds are on purpose.
var happened = time.Date(2026, 2, 3, 4, 5, 6, 789_000_001, time.FixedZone("", 2*60*60))

// limit is the zero of Options.MaxPayload.
const limit = 256 << 10

var encoder = cloudevents.Encoder{Source: "https://shop.example/eu", TypePrefix: "example.shop."}

// A mode is a way to encode.
type mode struct {
	name   string
	encode func(outhook.Event) (*outhook.Payload, error)
}

func modes(e *cloudevents.Encoder) []mode {
	return []mode{{"structured", e.Structured}, {"binary", e.Binary}}
}

// A delivered is what a receiver got.
type delivered struct {
	header http.Header
	body   []byte
	event  *ce.Event // as the SDK reads it
}

// deliver sends an event through a Dispatcher to a receiver that reads it with the
// SDK.
func deliver(t *testing.T, event outhook.Event, subscriber outhook.Subscriber) delivered {
	t.Helper()
	var got []delivered
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			r.Body = io.NopCloser(bytes.NewReader(body))
			var event *ce.Event
			event, err = cehttp.NewEventFromHTTPRequest(r)
			got = append(got, delivered{r.Header, body, event})
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}))
	defer server.Close()
	subscriber.ID, subscriber.URL = "s", server.URL
	d := dispatcher(t)
	receipt, err := d.Send(t.Context(), event, []outhook.Subscriber{subscriber})
	require.NoError(t, err)
	_, err = d.Drain(t.Context())
	require.NoError(t, err)
	record, err := d.Get(t.Context(), outhook.DeliveryID{Event: receipt.EventID, Subscriber: "s"})
	require.NoError(t, err)
	require.Equal(t, outhook.Delivered, record.State, record.Attempts)
	require.Len(t, got, 1)
	return got[0]
}

func dispatcher(t *testing.T) *outhook.Dispatcher {
	t.Helper()
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Guard: outhook.DevelopmentGuard()})
	require.NoError(t, err)
	return d
}
