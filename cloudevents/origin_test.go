package cloudevents_test

import (
	"net/http/httptest"
	"testing"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/cloudevents"
	"github.com/stretchr/testify/require"
)

// TestConsentIsHonoured: every delivery names the origin that was granted, as
// section 4.1.2 demands, and is signed as ever.
func TestConsentIsHonoured(t *testing.T) {
	endpoint := httptest.NewServer((&cloudevents.Target{Origins: []string{origin}}).Handler(nil))
	defer endpoint.Close()
	consent, err := cloudevents.Handshake(t.Context(), endpoint.URL, ask())
	require.NoError(t, err)

	key := outhook.GenerateKey()
	for _, mode := range modes(&encoder) {
		t.Run(mode.name, func(t *testing.T) {
			got := deliver(t, outhook.Event{Type: "order.paid"}, outhook.Subscriber{
				Rate: consent.Pace(), Header: consent.Header(), Keys: []outhook.Key{key}, Encode: mode.encode,
			})
			require.Equal(t, []string{origin}, got.header["Webhook-Request-Origin"])
			require.NoError(t, (&outhook.Verifier{Keys: []outhook.Key{key}}).Verify(got.header, got.body))
		})
	}
}
