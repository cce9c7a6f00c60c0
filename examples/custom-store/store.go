package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/outhook/outhook"
	"go.etcd.io/bbolt"
)

// A Store keeps deliveries in a bbolt database, which one process at a time can
// have open. Each call is one transaction, one after the other.
//
// A claim reads the rows of all that waits, about 10 ms for each thousand. A store
// for many finds what is due by an index, and reads no more than it returns.
// What is settled stays in the file.
type Store struct {
	db  *bbolt.DB
	now func() time.Time // the one clock; a test sets another
}

var _ outhook.Store = (*Store)(nil)

// NewStore returns a store in a database, beside what else is in it.
func NewStore(db *bbolt.DB) *Store { return &Store{db, time.Now} }

// A row is what the store knows of a delivery beyond what was sent.
type row struct {
	ID         outhook.DeliveryID
	Digest     []byte
	OrderKey   string
	HoldOnDead bool
	Place      uint64 // in the order of Enqueue, from 1; 0: the row was damaged

	State                 outhook.State
	Reason                string
	Entered, Expires, Due time.Time // Due: of the next attempt, or the end of the lease
	Token                 int64     // of the latest lease; 0: none yet
	Live                  bool      // that lease has had no outcome
	Attempts, Unfinished  int       // those with an outcome; claims in a row without one
}

const forever time.Duration = 1<<63 - 1 // 292 years

// later returns the instant d after now, but no later than the row expires.
func (r *row) later(now time.Time, d time.Duration) time.Time {
	if at := now.Add(max(d, 0)); at.Before(r.Expires) {
		return at
	}
	return r.Expires
}

// Keys are one of the first three with the ID of a delivery, or the last.
const (
	sent    = "sent/"    // the Delivery, written once
	rows    = "row/"     // its row
	waiting = "waiting/" // without content, while it is pending, or dead and holds its order
	last    = "last"     // the subscriber that was served last
)

// A tx is a transaction on the one bucket of the store. Its sequence numbers
// places and tokens. Nothing sets it back, so that no token is given twice, even
// if a delivery was removed and sent again.
type tx struct {
	*bbolt.Bucket
	now time.Time
	err error // the first one; nothing is committed then
}

// update calls f in a transaction. All that f does happens, or nothing.
func update[T any](ctx context.Context, s *Store, verb string, f func(*tx) T) (result T, err error) {
	err = s.db.Update(func(btx *bbolt.Tx) error {
		bucket, err := btx.CreateBucketIfNotExists([]byte("outhook"))
		if err != nil {
			return err
		}
		t := &tx{Bucket: bucket, now: s.now()}
		result = f(t)
		return cmp.Or(ctx.Err(), t.err)
	})
	if err != nil {
		return *new(T), fmt.Errorf("custom-store: %s: %w", verb, err)
	}
	return result, nil
}

func (t *tx) check(err error) { t.err = cmp.Or(t.err, err) }

func (t *tx) next() uint64 {
	n, err := t.NextSequence()
	t.check(err)
	return n
}

func (t *tx) put(key string, value any) {
	data, err := json.Marshal(value)
	t.check(err)
	t.check(t.Put([]byte(key), data))
}

func (t *tx) save(r *row) {
	t.put(rows+r.ID.String(), r)
	t.check(t.Delete([]byte(waiting + r.ID.String())))
	if r.State == outhook.Pending || r.State == outhook.Dead && r.HoldOnDead {
		t.put(waiting+r.ID.String(), nil)
	}
}

// read returns the row of a delivery. It has no place if there is none, or if it
// is damaged: then it is due, so that it is claimed with a fault and not lost.
func (t *tx) read(id string) *row {
	r := new(row)
	if json.Unmarshal(t.Get([]byte(rows+id)), r) != nil || r.State == "" {
		*r = row{State: outhook.Pending, Entered: t.now}
	}
	r.ID.Event, r.ID.Subscriber, _ = strings.Cut(id, "/") // an event ID has none
	return r
}

// Enqueue implements [outhook.Store].
func (s *Store) Enqueue(ctx context.Context, deliveries []outhook.Delivery) ([]outhook.DeliveryID, error) {
	return update(ctx, s, "enqueue", func(t *tx) (known []outhook.DeliveryID) {
		for _, d := range deliveries {
			r := t.read(d.ID.String())
			switch {
			case r.Place == 0:
				r = &row{
					ID: d.ID, Digest: d.Digest[:], OrderKey: d.OrderKey, HoldOnDead: d.HoldOnDead, Place: t.next(),
					State: outhook.Pending, Entered: t.now, Expires: t.now.Add(cmp.Or(d.TTL, forever)),
				}
				r.Due = r.later(t.now, d.Delay)
				t.save(r)
				d.Time = d.Time.UTC() // JSON has no seconds in an offset
				t.put(sent+d.ID.String(), d)
			case bytes.Equal(r.Digest, d.Digest[:]):
				known = append(known, d.ID)
			default:
				t.check(fmt.Errorf("%w: event %q for subscriber %q", outhook.ErrConflict, d.ID.Event, d.ID.Subscriber))
			}
		}
		return known
	})
}

// Claim implements [outhook.Store].
func (s *Store) Claim(ctx context.Context, request outhook.ClaimRequest) (outhook.Claimed, error) {
	return update(ctx, s, "claim", func(t *tx) (claimed outhook.Claimed) {
		heads := t.heads()
		room := make(map[string]int) // what is left of it, by subscriber
		for _, r := range heads {
			room[r.ID.Subscriber] = request.PerSubscriber
		}
		maps.Copy(room, request.Room)
		admits := func(r *row) bool {
			return len(claimed.Claims) < request.Limit && room[r.ID.Subscriber] > 0 &&
				(r.Unfinished < request.SuspectAfter || request.Suspects > 0)
		}
		for _, r := range heads {
			if !r.Due.After(t.now) && admits(r) {
				if r.Unfinished >= request.SuspectAfter {
					request.Suspects--
				}
				room[r.ID.Subscriber]--
				claimed.Claims = append(claimed.Claims, t.lease(r, request.Lease))
			}
		}
		for _, r := range heads { // those that there is room left for are due later
			if wait := r.Due.Sub(t.now); admits(r) {
				claimed.Next = min(wait, cmp.Or(claimed.Next, wait))
			}
		}
		return claimed
	})
}

// heads returns the rows that can be claimed when they are due: of an order the
// first alone, and none if that is dead. They stand in turns: by subscriber, from
// the one behind the last that was served, and the longest due first.
func (t *tx) heads() []*row {
	var list []*row
	cursor := t.Cursor()
	for key, _ := cursor.Seek([]byte(waiting)); bytes.HasPrefix(key, []byte(waiting)); key, _ = cursor.Next() {
		list = append(list, t.read(string(key[len(waiting):])))
	}
	slices.SortFunc(list, func(a, b *row) int { return cmp.Compare(a.Place, b.Place) })
	begun := make(map[[2]string]bool)
	list = slices.DeleteFunc(list, func(r *row) bool {
		order := [2]string{r.ID.Subscriber, r.OrderKey}
		behind := begun[order]
		begun[order] = r.OrderKey != ""
		return behind || r.State == outhook.Dead
	})
	slices.SortStableFunc(list, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.ID.Subscriber, b.ID.Subscriber), a.Due.Compare(b.Due))
	})
	served := string(t.Get([]byte(last)))
	turn := max(0, slices.IndexFunc(list, func(r *row) bool { return r.ID.Subscriber > served }))
	return slices.Concat(list[turn:], list[:turn])
}

// lease claims a delivery.
func (t *tx) lease(r *row, d time.Duration) outhook.Claim {
	claim := outhook.Claim{
		Token: int64(t.next()), Attempt: r.Attempts + 1, Unfinished: r.Unfinished, Age: t.now.Sub(r.Entered),
	}
	r.Token, r.Live, r.Unfinished, r.Due = claim.Token, true, r.Unfinished+1, t.now.Add(d)
	t.save(r)
	t.check(t.Put([]byte(last), []byte(r.ID.Subscriber)))
	if !t.now.Before(r.Expires) {
		claim.Fault = outhook.ReasonExpired
	}
	err := json.Unmarshal(t.Get([]byte(sent+r.ID.String())), &claim.Delivery)
	if err != nil || claim.ID != r.ID || r.Place == 0 {
		claim.Delivery, claim.Fault = outhook.Delivery{ID: r.ID}, "what is stored of it cannot be read"
	}
	return claim
}

// Finish implements [outhook.Store]. The Attempts of an outcome are not kept:
// only an [outhook.Manager] shows them.
func (s *Store) Finish(ctx context.Context, outcomes []outhook.Outcome) ([]outhook.Lease, error) {
	return update(ctx, s, "finish", func(t *tx) (lost []outhook.Lease) {
		for _, o := range outcomes {
			r := t.read(o.Lease.ID.String())
			if r.Token != o.Lease.Token || r.Token == 0 {
				lost = append(lost, o.Lease)
			} else if r.Live { // otherwise it was applied before
				r.Unfinished--
				if !o.Released {
					r.Attempts, r.Unfinished = r.Attempts+1, 0
				}
				r.State, r.Reason, r.Live, r.Due = o.State, o.Reason, false, r.later(t.now, o.After)
				t.save(r)
			}
		}
		return lost
	})
}
