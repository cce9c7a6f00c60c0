package sqlitestore

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// damaged are the columns that FuzzDamage overwrites, with how the row of the
// delivery "bad" is found. Those that say which delivery it is are left alone.
var damaged = []struct{ table, column, where string }{
	{"outhook_delivery", "snapshot", "event = 'bad'"},
	{"outhook_delivery", "time", "event = 'bad'"},
	{"outhook_delivery", "type", "event = 'bad'"},
	{"outhook_delivery", "order_key", "event = 'bad'"},
	{"outhook_delivery", "delay", "event = 'bad'"},
	{"outhook_delivery", "ttl", "event = 'bad'"},
	{"outhook_delivery", "digest", "event = 'bad'"},
	{"outhook_delivery", "entered", "event = 'bad'"},
	{"outhook_delivery", "replay", "event = 'bad'"},
	{"outhook_payload", "content_type", "event = 'bad'"},
	{"outhook_payload", "header", "event = 'bad'"},
	{"outhook_payload", "body", "event = 'bad'"},
	{"outhook_subscriber", "standing", "name = 'b'"},
	{"outhook_subscriber", "opens", "name = 'b'"},
	{"outhook_pending", "ready", ofBad},
	{"outhook_pending", "due", ofBad},
	{"outhook_pending", "expires", ofBad},
	{"outhook_pending", "token", ofBad},
	{"outhook_pending", "attempts", ofBad},
	{"outhook_pending", "unfinished", ofBad},
	{"outhook_outcome", "attempts", "delivery = (select id from outhook_delivery where event = 'bad')"},
	{"outhook_outcome", "reason", "delivery = (select id from outhook_delivery where event = 'bad')"},
	{"outhook_outcome", "at", "delivery = (select id from outhook_delivery where event = 'bad')"},
	{"outhook_delivery", "hold_on_dead", "event = 'bad'"},
	{"outhook_pending", "live", ofBad},
	{"outhook_delivery", "payload", "event = 'bad'"},
}

var counters = []string{"replay", "attempts", "unfinished"}

const ofBad = "id = (select id from outhook_delivery where event = 'bad')"

// FuzzDamage overwrites a column of a delivery, in a file, with anything. What is
// read of it then is a fault, or a delivery of the same ID and content; and the
// delivery of another subscriber is claimed as if nothing had happened.
func FuzzDamage(f *testing.F) {
	for i := range damaged {
		f.Add(uint8(i), "{", int64(-1), uint8(0))
		f.Add(uint8(i), "\xff\x00", int64(math.MaxInt64), uint8(1))
		f.Add(uint8(i), "noon", int64(math.MinInt64), uint8(2))
		f.Add(uint8(i), "", int64(0), uint8(3))
	}
	f.Add(uint8(0), `{"url":"https://other.example.com/"}`, int64(0), uint8(1))
	f.Add(uint8(0), `{"sealed":{"key":"k","data":"AAAA"}}`, int64(0), uint8(1))
	f.Add(uint8(10), `[["X","1"],[],[null],[{"base64":"/w=="}]]`, int64(0), uint8(0))
	f.Add(uint8(12), `{"Disabled":true,"Epoch":9223372036854775807}`, int64(0), uint8(0))
	f.Add(uint8(12), `{"Subscriber":"g","Failures":1}`, int64(0), uint8(0))
	f.Add(uint8(12), `{"Failures":1.5}`, int64(0), uint8(0))
	f.Add(uint8(12), `{"PausedUntil":"9999-12-31T23:59:59Z"}`, int64(0), uint8(0))
	f.Add(uint8(20), `[{"number":1,"header":[["X"]]}]`, int64(0), uint8(0))

	s, err := Open(context.Background(), filepath.Join(f.TempDir(), "hooks.db"), &Options{LoseLatestOnPowerFailure: true})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, s.Close()) })
	all := outhook.Filter{}
	badID, goodID := outhook.DeliveryID{Event: "bad", Subscriber: "b"}, outhook.DeliveryID{Event: "good", Subscriber: "g"}
	f.Fuzz(func(t *testing.T, column uint8, text string, number int64, kind uint8) {
		ctx := t.Context()
		bad, good := newDelivery("bad", "b"), newDelivery("good", "g")
		enqueue(t, s, bad, good)
		defer func() {
			_, err := s.DB().Exec(`delete from outhook_delivery; delete from outhook_pending; delete from outhook_payload; delete from outhook_outcome;
				delete from outhook_place; delete from outhook_hold; update outhook_subscriber set standing = null, opens = 0`)
			require.NoError(t, err)
		}()
		var outcomes []outhook.Outcome // so that there is a history
		for _, c := range claim(t, s) {
			outcomes = append(outcomes, outhook.Outcome{Lease: c.Lease(), State: outhook.Pending, Attempts: []outhook.Attempt{{Number: c.Attempt}}})
		}
		require.Len(t, outcomes, 2)
		_, err := s.Finish(ctx, outcomes)
		require.NoError(t, err)

		d := damaged[int(column)%len(damaged)]
		if slices.Contains(counters, d.column) {
			number = int64(int32(number)) // further than which nobody counts
		}
		value := []any{text, []byte(text), number, nil}[kind%4]
		set := "?"
		if d.column == "payload" && number == 0 {
			set = "coalesce((select id from outhook_payload where event = 'good'), ?)"
		}
		_, err = s.DB().Exec(fmt.Sprintf("update %s set %s = %s where %s", d.table, d.column, set, d.where), value)
		if err != nil {
			return // the table is strict
		}
		s.payloads = stored.NewPayloads() // so that they are read

		seen := make(map[outhook.DeliveryID]bool)
		for _, c := range claim(t, s) {
			seen[c.ID] = true
			want := bad
			if c.ID == goodID {
				want = good
				require.Empty(t, c.Fault)
			}
			require.Equal(t, want.ID, c.ID)
			if c.Fault == "" && !(value == nil && d.column == "payload") { // null says that there is none
				require.NotNil(t, c.Payload)
				require.NotEqual(t, "(none)", c.Snapshot.String())
			}
			if d.column != "type" || c.ID == goodID {
				require.Equal(t, want.Type, c.Type)
			}
			if c.Payload != nil && (d.column != "body" || c.ID == goodID) {
				require.Equal(t, string(want.Payload.Body), string(c.Payload.Body))
			}
			if d.column != "snapshot" || c.ID == goodID {
				require.Equal(t, want.Snapshot.String(), c.Snapshot.String())
			}
			lost, err := s.Finish(ctx, []outhook.Outcome{{Lease: c.Lease(), State: outhook.Dead, Reason: c.Fault}})
			require.NoError(t, err)
			require.Empty(t, lost)
		}
		require.True(t, seen[goodID])
		if d.table == "outhook_delivery" || d.table == "outhook_payload" || d.table == "outhook_outcome" {
			require.True(t, seen[badID], "what is damaged is claimed all the same")
		}

		if r, err := s.Get(ctx, badID); err == nil {
			require.Equal(t, badID, r.ID)
		} else {
			require.Contains(t, err.Error(), "sqlitestore: get: ")
		}
		for r, err := range s.List(ctx, all) {
			require.NoError(t, err)
			require.Contains(t, []outhook.DeliveryID{badID, goodID}, r.ID)
		}
		for standing, err := range s.Standings(ctx) {
			require.NoError(t, err)
			require.Equal(t, "b", standing.Subscriber)
		}
		require.NoError(t, s.UpdateStandings(ctx, []string{"b", "g"}, func(_ time.Time, s *outhook.Standing) { s.Enable() }))
		_, err = s.Stats(ctx)
		require.NoError(t, err)
		_, err = s.Replay(ctx, all)
		require.NoError(t, err)
		_, err = s.Cancel(ctx, all)
		require.NoError(t, err)
		_, err = s.Prune(ctx, all)
		require.NoError(t, err)
	})
}
