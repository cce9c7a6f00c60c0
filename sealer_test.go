package outhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sealingKey returns a key of 32 equal bytes.
func sealingKey(id string, b byte) SealingKey {
	return SealingKey{ID: id, Secret: NewSecret(string(bytes.Repeat([]byte{b}, 32)))}
}

func newSealer(t testing.TB, keys ...SealingKey) *Sealer {
	t.Helper()
	s, err := NewSealer(keys...)
	require.NoError(t, err)
	return s
}

func TestNewSealer(t *testing.T) {
	good := sealingKey("good", 1)
	for name, test := range map[string]struct {
		keys []SealingKey
		want string
	}{
		"none":           {nil, "outhook: SealingKey: there is none"},
		"no secret":      {[]SealingKey{{ID: "a"}}, "outhook: SealingKey[0].Secret: it has 0 bytes, not 32"},
		"too short":      {[]SealingKey{good, {ID: "a", Secret: NewSecret("canary")}}, "outhook: SealingKey[1].Secret: it has 6 bytes, not 32"},
		"base64 of 32":   {[]SealingKey{{ID: "a", Secret: NewSecret(strings.Repeat("canary==", 5) + "cana")}}, "outhook: SealingKey[0].Secret: it has 44 bytes, not 32"},
		"no ID":          {[]SealingKey{{Secret: good.Secret}}, `outhook: SealingKey[0].ID: "" is not 1 to 128 bytes of printable ASCII without spaces`},
		"ID with a line": {[]SealingKey{{ID: "a\n", Secret: good.Secret}}, `outhook: SealingKey[0].ID: "a\n" is not 1 to 128 bytes of printable ASCII without spaces`},
		"ID twice":       {[]SealingKey{good, good}, `outhook: SealingKey[1].ID: "good" stands twice in the list`},
		"ID twice, first without secret": {[]SealingKey{{ID: "good"}, good}, "outhook: SealingKey[0].Secret: it has 0 bytes, not 32\n" +
			`outhook: SealingKey[1].ID: "good" stands twice in the list`},
		"all": {[]SealingKey{{ID: " "}, {}}, `outhook: SealingKey[0].ID: " " is not 1 to 128 bytes of printable ASCII without spaces` +
			"\nouthook: SealingKey[0].Secret: it has 0 bytes, not 32" +
			"\n" + `outhook: SealingKey[1].ID: "" is not 1 to 128 bytes of printable ASCII without spaces` +
			"\nouthook: SealingKey[1].Secret: it has 0 bytes, not 32"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewSealer(test.keys...)
			require.EqualError(t, err, test.want)
			require.ErrorIs(t, err, ErrInvalid)
			require.Nil(t, s)
		})
	}

	t.Run("options", func(t *testing.T) {
		_, err := New(NewMemoryStore(), &Options{Sealer: &Sealer{}})
		require.EqualError(t, err, "outhook: Options.Sealer: was not made by NewSealer")
		_, err = New(NewMemoryStore(), &Options{Sealer: newSealer(t, good), Directory: &register{}})
		require.EqualError(t, err, "outhook: Options.Sealer: is given together with Directory, which leaves nothing to seal")
	})
}

// everything returns a subscriber with every field that is kept, and an event.
func everything() (Event, Subscriber) {
	s := subscriber("a")
	s.URL = "https://hooks.example.com:8443/a%2Fb//c?q=%41&r"
	s.Header = http.Header{"Authorization": {"Bearer token"}}
	s.Timeout, s.Concurrency = 3*time.Second, 5
	s.Keys = []Key{{Secret: testKey.Secret, Expires: time.Date(2126, 1, 2, 3, 4, 5, 6, time.UTC)}, {Secret: NewSecret("\xff"), Scheme: "hub"}}
	return Event{ID: "e", Labels: map[string]string{"tenant": "t1"}}, s
}

// reopened returns a Snapshot as a store restores it and a Sealer opens it.
func reopened(t *testing.T, s Snapshot, sealer *Sealer, id DeliveryID) (*target, error) {
	t.Helper()
	data, err := s.MarshalBinary()
	require.NoError(t, err)
	var after Snapshot
	require.NoError(t, after.UnmarshalBinary(data))
	return sealer.open(after.target().sealed, id)
}

func TestSealedSnapshot(t *testing.T) {
	sealer := newSealer(t, sealingKey("k1", 1))
	event, subscriber := everything()
	id := DeliveryID{"e", "a"}
	before := snapshotOf(t, Options{Sealer: sealer}, event, subscriber)
	plain, err := snapshotOf(t, Options{StoreKeysInPlaintext: true}, event, subscriber).MarshalBinary()
	require.NoError(t, err)

	t.Run("shows nothing", func(t *testing.T) {
		data, err := before.MarshalBinary()
		require.NoError(t, err)
		var fields map[string]map[string]any
		require.NoError(t, json.Unmarshal(data, &fields))
		require.Len(t, fields, 1)
		require.Len(t, fields["sealed"], 2)
		require.Equal(t, "k1", fields["sealed"]["key"])
		requireHidden(t, string(data), testKey.Secret.Reveal())
		for _, word := range []string{"hooks", "example", "Bearer", "token", "tenant", "t1", "url"} {
			require.NotContains(t, string(data), `"`+word)
		}
		again, err := before.MarshalBinary()
		require.NoError(t, err)
		require.NotEqual(t, string(data), string(again), "a nonce of its own")

		var after Snapshot
		require.NoError(t, after.UnmarshalBinary(data))
		require.Equal(t, "(sealed)", after.String())
		again, err = after.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, string(data), string(again), "it can be kept by who cannot open it")
		require.Equal(t, "https://hooks.example.com:8443", before.String())
	})

	t.Run("opens to the same", func(t *testing.T) {
		opened, err := reopened(t, before, sealer, id)
		require.NoError(t, err)
		require.Nil(t, opened.vetted, "the guard has to judge it again")
		bare := *opened
		bare.sealer = nil
		data, err := newSnapshot(&bare).MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, string(plain), string(data))

		sealedAgain, err := newSnapshot(opened).MarshalBinary()
		require.NoError(t, err)
		require.NotContains(t, string(sealedAgain), "url")
		_, err = reopened(t, newSnapshot(opened), sealer, id)
		require.NoError(t, err)
	})

	t.Run("for its own delivery alone", func(t *testing.T) {
		for _, other := range []DeliveryID{{"e", "b"}, {"f", "a"}, {"ea", ""}, {"", "ea"}, {"a", "e"}, {}} {
			_, err := reopened(t, before, sealer, other)
			require.ErrorIs(t, err, errUnopened, other)
		}
	})

	t.Run("with its own key alone", func(t *testing.T) {
		_, err := reopened(t, before, newSealer(t, sealingKey("k1", 2)), id)
		require.ErrorIs(t, err, errUnopened)
		_, err = reopened(t, before, newSealer(t, sealingKey("k2", 1)), id)
		require.ErrorIs(t, err, errNoSealingKey)
		_, err = reopened(t, before, nil, id)
		require.ErrorIs(t, err, errNoSealingKey)

		both := newSealer(t, sealingKey("k2", 2), sealingKey("k1", 1))
		_, err = reopened(t, before, both, id)
		require.NoError(t, err)
		rotated := snapshotOf(t, Options{Sealer: both}, event, subscriber)
		_, err = reopened(t, rotated, newSealer(t, sealingKey("k2", 2)), id)
		require.NoError(t, err, "the first key seals")
	})

	t.Run("relabelled", func(t *testing.T) { // two IDs of one secret
		data, err := before.MarshalBinary()
		require.NoError(t, err)
		var after Snapshot
		require.NoError(t, after.UnmarshalBinary(bytes.Replace(data, []byte(`"k1"`), []byte(`"k2"`), 1)))
		_, err = newSealer(t, sealingKey("k1", 1), sealingKey("k2", 1)).open(after.target().sealed, id)
		require.ErrorIs(t, err, errUnopened)
	})

	t.Run("damaged", func(t *testing.T) {
		sealed := sealer.seal(plain, id)
		for i := range sealed.Data {
			for bit := range 8 {
				sealed.Data[i] ^= 1 << bit
				_, err := sealer.open(sealed, id)
				require.ErrorIs(t, err, errUnopened)
				sealed.Data[i] ^= 1 << bit
			}
		}
		for n := range len(sealed.Data) {
			whole := sealed.Data
			sealed.Data = whole[:n]
			_, err := sealer.open(sealed, id)
			sealed.Data = whole
			require.ErrorIs(t, err, errUnopened)
		}
	})

	t.Run("what is inside is no target", func(t *testing.T) {
		for _, inside := range []string{"", "x", "{}", `{"directory":true}`, `{"sealed":{"key":"k1"}}`} {
			_, err := sealer.open(sealer.seal([]byte(inside), id), id)
			require.ErrorIs(t, err, errUnopened, inside)
		}
	})

	t.Run("no ID of a key", func(t *testing.T) {
		for _, stored := range []string{`{"sealed":{}}`, `{"sealed":{"key":"a b","data":"AAAA"}}`} {
			require.EqualError(t, new(Snapshot).UnmarshalBinary([]byte(stored)), "outhook: unmarshal snapshot: no ID of a sealing key")
		}
	})

	t.Run("an instant that JSON cannot keep", func(t *testing.T) {
		s := subscriber
		s.Keys = []Key{{Secret: testKey.Secret, Expires: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}}
		_, err := snapshotOf(t, Options{Sealer: sealer}, event, s).MarshalBinary()
		require.Error(t, err)
	})

	t.Run("the form of this version stays readable", func(t *testing.T) {
		const stored = `{"sealed":{"key":"k1","data":"c897QRvXsV+idagii+my0yZe9bpOTtdXCV7C+uBMTFaajl0iy8xVInv/14VN4vv7sXtZS+6DmxfzA7UpS5d+1rRYgZ8ENrXWrUmFGXIBnXU="}}`
		var s Snapshot
		require.NoError(t, s.UnmarshalBinary([]byte(stored)))
		opened, err := sealer.open(s.target().sealed, id)
		require.NoError(t, err)
		require.Equal(t, "https://a.example.com/hook", opened.url.String())
	})
}

// damaged flips a bit of what is sealed in a stored snapshot.
func damaged(stored []byte) []byte {
	var s Snapshot
	if err := s.UnmarshalBinary(stored); err != nil {
		panic(err)
	}
	data := s.target().sealed.Data
	data[len(data)/2] ^= 1
	stored, _ = s.MarshalBinary()
	return stored
}

func TestRunSealed(t *testing.T) {
	key := sealingKey("k1", 1)
	for name, test := range map[string]struct {
		options Options                            // of the Dispatcher that runs
		spoil   func(stored map[DeliveryID][]byte) // between Send and Run
		state   State
		reason  string
	}{
		"its key":              {options: Options{Sealer: newSealer(t, key)}, state: Delivered},
		"its key among others": {options: Options{Sealer: newSealer(t, sealingKey("k2", 2), key)}, state: Delivered},
		"no sealer":            {options: Options{}, state: Pending, reason: errNoSealingKey.Error()},
		"another key":          {options: Options{Sealer: newSealer(t, sealingKey("k2", 2))}, state: Pending, reason: errNoSealingKey.Error()},
		"a directory instead":  {options: Options{Directory: &register{}}, state: Delivered},
		"damaged": {options: Options{Sealer: newSealer(t, key)}, state: Dead, reason: errUnopened.Error(), spoil: func(stored map[DeliveryID][]byte) {
			stored[DeliveryID{"e", "a"}] = damaged(stored[DeliveryID{"e", "a"}])
		}},
		"moved": {options: Options{Sealer: newSealer(t, key)}, state: Dead, reason: errUnopened.Error(), spoil: func(stored map[DeliveryID][]byte) {
			stored[DeliveryID{"e", "a"}] = stored[DeliveryID{"e", "b"}]
		}},
		"replaced": {options: Options{Sealer: newSealer(t, key)}, state: Pending, reason: errUnsealed.Error(), spoil: func(stored map[DeliveryID][]byte) {
			stored[DeliveryID{"e", "a"}] = []byte(`{"url":"https://evil.example.com/","unsigned":true}`)
		}},
		"from before, as was allowed": {options: Options{Sealer: newSealer(t, key), StoreKeysInPlaintext: true}, state: Delivered,
			spoil: func(stored map[DeliveryID][]byte) {
				stored[DeliveryID{"e", "a"}] = []byte(`{"url":"https://a.example.com/","unsigned":true}`)
			}},
	} {
		bubble(t, name, func(t *testing.T) {
			store := newRows()
			w := &wire{answer: status(200)}
			// With both options, what is sent is sealed.
			sender := dispatcher(t, store, w, Options{Sealer: newSealer(t, key), StoreKeysInPlaintext: true})
			send(t, sender, "e", subscriber("a"), subscriber("b"))
			require.Contains(t, string(store.stored[DeliveryID{"e", "a"}]), `{"sealed":{"key":"k1"`)
			if test.spoil != nil {
				test.spoil(store.stored)
			}
			var held heldLog
			var log bytes.Buffer
			test.options.Observers = []Observer{held.observer()}
			test.options.Logger = slog.New(slog.NewTextHandler(&log, nil))
			d := dispatcher(t, store, w, test.options)
			next, err := d.Drain(t.Context())
			require.NoError(t, err)

			got := record(t, d, "e", "a")
			require.Equal(t, test.state, got.State)
			calls := w.to(host("a"))
			if test.state == Delivered {
				require.Len(t, calls, 1)
				return
			}
			require.Empty(t, calls)
			require.Empty(t, w.to("evil.example.com"))
			require.Empty(t, got.Attempts)
			if test.state == Dead {
				require.Equal(t, test.reason, got.Reason)
				return
			}
			require.Equal(t, test.reason, held.all()[0].Reason)
			require.Greater(t, held.all()[0].After, 40*time.Second)
			require.Greater(t, next, 40*time.Second)
			require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "not for each delivery")
			require.Contains(t, log.String(), `msg="delivery held" event=e subscriber=`)
			require.Contains(t, log.String(), `reason="`+test.reason+`"`)

			// Nothing is lost: it is delivered when the process is set up for it.
			d = dispatcher(t, store, w, Options{Sealer: newSealer(t, key), StoreKeysInPlaintext: true})
			time.Sleep(time.Minute)
			_, err = d.Drain(t.Context())
			require.NoError(t, err)
			got = record(t, d, "e", "a")
			require.Equal(t, Delivered, got.State)
			require.Equal(t, 1, got.Attempts[0].Number)
		})
	}

	bubble(t, "observers and limits know what is inside", func(t *testing.T) {
		store := newRows()
		w := &wire{answer: okAfter(time.Second)}
		var seen []Observation
		d := dispatcher(t, store, w, Options{Sealer: newSealer(t, key), Observers: []Observer{{
			Delivered: func(_ context.Context, o Observation) { seen = append(seen, o) },
		}}})
		s := subscriber("a")
		s.Concurrency = 2
		for i := range 6 {
			_, err := d.Send(t.Context(), Event{ID: eventID(i), Type: "x", Labels: map[string]string{"tenant": "t1"}}, []Subscriber{s})
			require.NoError(t, err)
		}
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, w.most)
		require.Len(t, seen, 6)
		require.Equal(t, "https://a.example.com", seen[0].Target)
		require.Equal(t, map[string]string{"tenant": "t1"}, seen[0].Labels)
		verifier := Verifier{Keys: []Key{testKey}, Tolerance: time.Hour}
		require.NoError(t, verifier.Verify(w.calls[0].header, []byte(w.calls[0].body)))
	})

	bubble(t, "a store in memory need not seal", func(t *testing.T) {
		store := NewMemoryStore()
		w := &wire{answer: status(200)}
		send(t, dispatcher(t, store, w, Options{}), "e", subscriber("a"))
		d := dispatcher(t, store, w, Options{Sealer: newSealer(t, key)})
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, Delivered, record(t, d, "e", "a").State, "another Dispatcher of this process sent it")
	})

	bubble(t, "expired and damaged", func(t *testing.T) {
		store := newRows()
		d := dispatcher(t, store, &wire{}, Options{Sealer: newSealer(t, key)})
		_, err := d.Send(t.Context(), Event{ID: "e", Type: "x", TTL: time.Second}, []Subscriber{subscriber("a")})
		require.NoError(t, err)
		store.stored[DeliveryID{"e", "a"}] = damaged(store.stored[DeliveryID{"e", "a"}])
		time.Sleep(time.Second)
		_, err = d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, ReasonExpired, record(t, d, "e", "a").Reason)
	})
}

func TestSealerDoesNotPrint(t *testing.T) {
	key := SealingKey{ID: "k1", Secret: NewSecret("canary: key of thirty-two bytes!")}
	sealer := newSealer(t, key)
	for _, v := range []any{key, &key, sealer, *sealer, struct{ s *Sealer }{sealer}, struct{ s Sealer }{*sealer}, Options{Sealer: sealer}} {
		for _, verb := range verbs {
			requireHidden(t, fmt.Sprintf(verb, v), key.Secret.Reveal())
		}
		text, _ := json.Marshal(v)
		requireHidden(t, string(text), key.Secret.Reveal())
	}
}
