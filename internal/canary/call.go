package canary

import (
	"context"
	"net/http"
	"time"

	"github.com/outhook/outhook"
)

// Payload is in the bodies of the deliveries of Deliveries.
const Payload = "canary-in-the-payload"

// Deliveries returns what Send makes for a subscriber with all of the secrets, in
// plaintext.
func (s *Secrets) Deliveries(ctx context.Context, events ...string) ([]outhook.Delivery, error) {
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{StoreKeysInPlaintext: true})
	if err != nil {
		return nil, err
	}
	var c catcher
	for _, event := range events {
		_, err := d.Via(&c).Send(ctx, outhook.Event{ID: event, Type: "canary.sent", Data: Payload}, []outhook.Subscriber{{
			ID: "canary", URL: "https://example.com/?token=" + s.Query, Keys: s.Keys, Header: http.Header{"Authorization": {s.Header}},
		}})
		if err != nil {
			return nil, err
		}
	}
	return c.deliveries, nil
}

// catcher is an Enqueuer that keeps what it is given.
type catcher struct{ deliveries []outhook.Delivery }

func (c *catcher) Enqueue(_ context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	c.deliveries = append(c.deliveries, deliveries...)
	return nil, nil
}

// Call makes each call of a store, for deliveries that are not there yet, claims that
// were made before, and the event of another delivery. It returns the errors by the
// name of the call.
func (s *Secrets) Call(ctx context.Context, store Store, deliveries []outhook.Delivery, claims []outhook.Claim, event string) map[string]error {
	errs := make(map[string]error)
	_, errs["Enqueue"] = store.Enqueue(ctx, deliveries)
	_, errs["Claim"] = store.Claim(ctx, outhook.ClaimRequest{Limit: 10, PerSubscriber: 10, SuspectAfter: 5, Suspects: 1, Lease: time.Hour})
	var outcomes []outhook.Outcome
	for _, c := range claims {
		outcomes = append(outcomes, outhook.Outcome{
			Lease: c.Lease(), State: outhook.Dead, Reason: s.Header, Effect: &outhook.Effect{Pause: time.Hour, Reason: s.Header},
			Attempts: []outhook.Attempt{{Number: 1, Error: s.Query, Header: http.Header{"X": {s.Header}}, Body: []byte(s.Query)}},
		})
	}
	_, errs["Finish"] = store.Finish(ctx, outcomes)
	_, errs["Get"] = store.Get(ctx, outhook.DeliveryID{Event: event, Subscriber: "canary"})
	for _, err := range store.List(ctx, outhook.Filter{}) {
		errs["List"] = err
	}
	for _, err := range store.Backlogs(ctx) {
		errs["Backlogs"] = err
	}
	_, errs["Replay"] = store.Replay(ctx, outhook.Filter{})
	_, errs["Cancel"] = store.Cancel(ctx, outhook.Filter{})
	_, errs["Prune"] = store.Prune(ctx, outhook.Filter{})
	_, errs["Stats"] = store.Stats(ctx)
	errs["UpdateStandings"] = store.UpdateStandings(ctx, []string{"canary"}, func(now time.Time, standing *outhook.Standing) {
		standing.Disable(now, s.Header, true)
	})
	for _, err := range store.Standings(ctx) {
		errs["Standings"] = err
	}
	return errs
}
