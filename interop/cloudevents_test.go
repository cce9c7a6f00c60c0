package interop

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/outhook/outhook"
	"github.com/outhook/outhook/cloudevents"
	"github.com/stretchr/testify/require"
)

// TestCloudEvents sends each body as a CloudEvent. Two receivers verify it, one with a
// library and one with outhook as a middleware, and the SDK reads it behind either.
func TestCloudEvents(t *testing.T) {
	l := libraries()[0]
	encoder := cloudevents.Encoder{Source: "https://shop.example"}
	for _, mode := range []struct {
		name   string
		encode func(outhook.Event) (*outhook.Payload, error)
		want   func([]byte) []byte // data of it
	}{
		{"structured", encoder.Structured, bytes.TrimSpace}, // it is a value within JSON
		{"binary", encoder.Binary, bytes.Clone},
	} {
		for name, body := range bodies(t) {
			t.Run(mode.name+"/"+name, func(t *testing.T) {
				key := l.scheme.key()
				sent := outhook.Event{
					ID: "e-1", Type: "order.paid", Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
					Payload: &outhook.Payload{Body: body},
				}
				var events []*ce.Event
				read := func(r *http.Request) error {
					e, err := cehttp.NewEventFromHTTPRequest(r)
					events = append(events, e)
					return err
				}
				got := post(t, sent, outhook.Subscriber{Keys: []outhook.Key{key}, Encode: mode.encode}, func(r *http.Request, body []byte) error {
					if err := l.verify(key, r, body); err != nil {
						return err
					}
					return read(r)
				})
				passed := httptest.NewRecorder()
				l.scheme.verifier(key).Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					require.NoError(t, read(r))
				})).ServeHTTP(passed, got.http())
				require.Equal(t, http.StatusOK, passed.Code)

				require.Len(t, events, 2)
				for _, e := range events {
					require.NoError(t, e.Validate())
					require.Equal(t, sent.ID, e.ID())
					require.Equal(t, sent.Type, e.Type())
					require.Equal(t, encoder.Source, e.Source())
					require.Equal(t, sent.Time, e.Time())
					require.Equal(t, "application/json", e.DataContentType())
					require.True(t, bytes.Equal(mode.want(body), e.Data()), "the data come as they were sent")
				}
				for part, request := range got.flips(l.scheme) {
					require.Error(t, request.theirs(l, key), part.name)
				}
			})
		}
	}
}
