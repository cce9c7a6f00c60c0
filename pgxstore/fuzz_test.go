package pgxstore

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

// FuzzRow restores deliveries of rows that hold anything: with a fault, or as what
// the row says, and never as another one.
func FuzzRow(f *testing.F) {
	const good = `{"url":"https://a.example/"}`
	digest := make([]byte, 32)
	f.Add("e", "2026-01-02T03:04:05.000000006Z", []byte(good), digest, []byte(`[["X","1"]]`), int64(1), int64(7), false)
	f.Add("e", "noon", []byte(good), digest, []byte(nil), int64(0), int64(7), false)
	f.Add("e", "2026-01-02T03:04:05Z", []byte("{"), digest, []byte("null"), int64(-1), int64(7), true)
	f.Add("e", "2026-01-02T03:04:05Z", []byte(good), digest[1:], []byte("{"), int64(math.MaxInt64), int64(7), false)
	f.Add("e", "2026-01-02T03:04:05Z", []byte(good), append(digest, 0), []byte{}, int64(math.MinInt64), int64(8), false)
	f.Add("e", "2026-01-02T03:04:05Z", []byte(good), append(digest, 0), []byte("[]"), int64(0), int64(7), false)
	f.Add("", "", []byte(nil), []byte(nil), []byte(nil), int64(0), int64(0), false)
	f.Fuzz(func(t *testing.T, event, when string, snapshot, digest, header []byte, number, payload int64, expired bool) {
		row := leasedRow{
			payload: bodyOf(payload, event), time: when, expired: expired, delay: number, ttl: number, age: number, digest: digest, snapshot: snapshot,
			claim: outhook.Claim{Delivery: outhook.Delivery{ID: outhook.DeliveryID{Event: event}}, Token: number},
		}
		payloads := map[stored.BodyOf]*outhook.Payload{bodyOf(7, event+"x"): {Body: []byte("another's")}, bodyOf(8, "another"): {Body: []byte("another's")}}
		restored, notHeader := stored.DecodeHeader(header)
		if notHeader == nil {
			payloads[bodyOf(7, event)] = &outhook.Payload{Header: restored, Body: []byte("its own")}
		}
		row.restore(stored.NewSnapshots())
		row.complete("s", payloads)
		c := row.claim
		require.Equal(t, outhook.DeliveryID{Event: event, Subscriber: "s"}, c.ID)
		require.Equal(t, number, c.Token)

		_, notTime := stored.DecodeTime(when)
		notSnapshot := new(outhook.Snapshot).UnmarshalBinary(snapshot)
		sound := notTime == nil && notSnapshot == nil && len(digest) == 32 && (payload == 0 || payloads[bodyOf(payload, event)] != nil) && !expired
		require.Equal(t, sound, c.Fault == "", c.Fault)
		require.Equal(t, expired, c.Fault == outhook.ReasonExpired)
		require.Same(t, payloads[bodyOf(payload, event)], c.Payload)
		if sound {
			want, err := asStored(snapshot)
			require.NoError(t, err)
			got, err := c.Snapshot.MarshalBinary()
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
			require.Equal(t, digest, c.Digest[:])
		}
	})
}

// asStored is what the snapshot in a row is stored as again.
func asStored(data []byte) ([]byte, error) {
	var s outhook.Snapshot
	if err := s.UnmarshalBinary(data); err != nil {
		return nil, err
	}
	return s.MarshalBinary()
}

// damaged are the columns that FuzzDamage overwrites, with how the row of the
// delivery "bad" is found. Those that say which delivery it is are left alone.
var damaged = []struct{ table, column, kind, where string }{
	{"delivery", "snapshot", "bytea", "event = 'bad'"},
	{"delivery", "time", "text", "event = 'bad'"},
	{"delivery", "type", "text", "event = 'bad'"},
	{"delivery", "order_key", "text", "event = 'bad'"},
	{"delivery", "delay", "bigint", "event = 'bad'"},
	{"delivery", "ttl", "bigint", "event = 'bad'"},
	{"delivery", "digest", "bytea", "event = 'bad'"},
	{"delivery", "replay", "integer", "event = 'bad'"},
	{"payload", "content_type", "text", "event = 'bad'"},
	{"payload", "header", "bytea", "event = 'bad'"},
	{"payload", "body", "bytea", "event = 'bad'"},
	{"pending", "attempts", "integer", ofBad},
	{"pending", "unfinished", "integer", ofBad},
	{"pending", "token", "bigint", ofBad},
	{"outcome", "attempts", "bytea", "delivery = (select id from {schema}.delivery where event = 'bad')"},
	{"outcome", "reason", "text", "delivery = (select id from {schema}.delivery where event = 'bad')"},
	{"subscriber", "standing", "json", "name = 'b'"},
	{"delivery", "payload", "bigint", "event = 'bad'"},
}

const ofBad = "id = (select id from {schema}.delivery where event = 'bad')"

// FuzzDamage overwrites a column of a delivery, in a database, with anything. What is
// read of it then is a fault, or a delivery of the same ID and content; and the
// delivery of another subscriber is claimed as if nothing had happened.
func FuzzDamage(f *testing.F) {
	for i := range damaged {
		f.Add(uint8(i), []byte("{"), int64(-1), false)
		f.Add(uint8(i), []byte("\xff\x00"), int64(math.MaxInt64), false)
		f.Add(uint8(i), []byte("noon"), int64(math.MinInt64), false)
		f.Add(uint8(i), []byte(""), int64(math.MaxInt32), true)
	}
	f.Add(uint8(0), []byte(`{"url":"https://other.example.com/"}`), int64(0), false)
	f.Add(uint8(0), []byte(`{"sealed":{"key":"k","data":"AAAA"}}`), int64(0), false)
	f.Add(uint8(9), []byte(`[["X","1"],[],[null],[{"base64":"/w=="}]]`), int64(0), false)
	for _, standing := range []string{
		`{"Disabled":true,"Epoch":9223372036854775807}`, `{"PausedUntil":"9999-12-31T23:59:59Z"}`, `{"Subscriber":"g","Failures":1}`,
		`"x"`, `null`, `{"Failures":1.5}`, `{"Reason":"\u0000"}`,
	} {
		f.Add(uint8(16), []byte(standing), int64(0), false)
	}
	f.Add(uint8(17), []byte(nil), int64(0), false) // that of the other delivery
	f.Add(uint8(14), []byte(`[{"number":1,"header":[["X"]]}]`), int64(0), false)

	s := newStore(f, nil)
	badID, goodID := outhook.DeliveryID{Event: "bad", Subscriber: "b"}, outhook.DeliveryID{Event: "good", Subscriber: "g"}
	bad, good := newDelivery(f, "bad", "b"), newDelivery(f, "good", "g")
	exec := func(t *testing.T, text string, args ...any) error {
		_, err := s.pool.Exec(t.Context(), s.sql(text), args...)
		return err
	}
	f.Fuzz(func(t *testing.T, column uint8, content []byte, number int64, null bool) {
		ctx := t.Context()
		for _, table := range []string{"delivery", "payload", "pending", "outcome", "hold", "barrier"} {
			require.NoError(t, exec(t, `delete from {schema}.`+table))
		}
		require.NoError(t, exec(t, `update {schema}.subscriber set standing = null, opens = '-infinity'`))
		known, err := s.Enqueue(ctx, deliveriesOf(bad, good))
		require.NoError(t, err)
		require.Empty(t, known)
		var outcomes []outhook.Outcome // so that there is a history
		for _, c := range claim(t, s, all).Claims {
			outcomes = append(outcomes, outhook.Outcome{Lease: c.Lease(), State: outhook.Pending, Attempts: []outhook.Attempt{{Number: c.Attempt}}})
		}
		require.Len(t, outcomes, 2)
		_, err = s.Finish(ctx, outcomes)
		require.NoError(t, err)

		d := damaged[int(column)%len(damaged)]
		var value any
		switch d.kind {
		case "bytea":
			value = content
		case "text", "json":
			value = string(content)
		case "integer":
			value = int32(number) / 2 // further than which nobody counts
		case "bigint":
			value = number
		}
		if null {
			value = nil
		}
		cast := "$1::" + strings.Replace(d.kind, "json", "text::json", 1)
		if d.column == "payload" && number == 0 {
			cast = "coalesce((select id from {schema}.payload where event = 'good'), $1::bigint)"
		}
		if exec(t, fmt.Sprintf("update {schema}.%s set %s = %s where %s", d.table, d.column, cast, d.where), value) != nil {
			return // the column does not take it
		}

		seen := make(map[outhook.DeliveryID]bool)
		for _, c := range claim(t, s, all).Claims {
			seen[c.ID] = true
			want := bad
			if c.ID == goodID {
				want = good
				require.Empty(t, c.Fault)
			}
			require.Equal(t, want.ID, c.ID)
			if c.Fault == "" && !(null && d.column == "payload") { // null says that there is none
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
		if d.table != "subscriber" && d.table != "pending" {
			require.True(t, seen[badID], "what is damaged is claimed all the same")
		}

		if r, err := s.Get(ctx, badID); err == nil {
			require.Equal(t, badID, r.ID)
		} else {
			require.Contains(t, err.Error(), "pgxstore: get: ")
		}
		for r, err := range s.List(ctx, outhook.Filter{}) {
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
	})
}
