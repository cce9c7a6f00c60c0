// Package storetest shows that an implementation of [outhook.Store] keeps the
// contract. Each sentence with "must" in store.go is one [Rule], quoted word for
// word and checked on a store of its own:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func() (storetest.Backend, error) {
//			s, err := mystore.Open(filepath.Join(t.TempDir(), "hooks.db"))
//			return storetest.Backend{Store: s, Close: s.Close}, err
//		})
//	}
//
// Further rules, without a sentence, ask for what the contract says in passing:
// that payloads come back byte for byte, that concurrent claims do not overlap,
// that a cancelled call leaves nothing half done, and so on.
//
// With Backend.Sleep all is compared exactly. On a store whose clock is real,
// nothing depends on how fast the machine is: what must not happen yet is an
// hour away, and what must happen is waited for.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/outhook/outhook"
)

// A Backend is an empty place for deliveries, with handles on it.
type Backend struct {
	// Store is the store under test. What it implements of
	// [outhook.StandingStore], [outhook.Manager] and [outhook.Notifier] is
	// tested, too. Required.
	Store outhook.Store

	// Other is a second handle on the same deliveries, as another process
	// would have one. Nil: what needs two handles is skipped.
	Other outhook.Store

	// Sleep lets d, whole milliseconds, pass on the store's clock, which stands
	// still between calls. With it the suite is fast and compares instants
	// exactly. Nil: the store's clock is real, and the suite waits.
	Sleep func(d time.Duration)

	// Damage overwrites what is stored of a delivery so that it cannot be
	// restored. Nil: that part of a rule is skipped.
	Damage func(ctx context.Context, id outhook.DeliveryID) error

	// Close removes it all. Nil: there is nothing to remove.
	Close func() error
}

// ErrSkipped is matched by the error of a [Rule] that does not apply to a
// store: it is about an interface that the store does not implement, or needs
// a field of the Backend that is nil.
var ErrSkipped = errors.New("skipped")

// A Rule is one thing that a store has to show.
type Rule struct {
	Name string // such as "Claim/turns"
	Text string // the sentence of store.go, word for word; empty: a further rule

	check func(*trial)
}

// Rules returns one rule for each sentence with "must" in store.go, in the order
// of that file, and after them the further rules, which have no Text.
func Rules() []Rule {
	return []Rule{
		{"Enqueue/all", "Enqueue must store all of the deliveries that it does not have, or none.", enqueueAll},
		{"Enqueue/known", "Enqueue must report a delivery that it has with the same Digest as known, and leave it as it is, whatever its state.", enqueueKnown},
		{"Enqueue/conflict", "Enqueue must return an error that matches ErrConflict if it has a delivery with another Digest.", enqueueConflict},

		{"Store/clock", "A store must compute every instant from one clock of its own; callers pass durations.", storeClock},
		{"Store/claimable", "A store must keep a delivery claimable until it is settled, whatever process dies when: a leased delivery falls due again at the end of its lease.", storeClaimable},
		{"Store/repeatable", "A call that has returned an error must be repeatable with the same arguments.", storeRepeatable},

		{"Claim/due", "Claim must lease only pending deliveries that are due, until now plus the request's Lease.", claimDue},
		{"Claim/tokens", "Claim must return a token with each lease that is greater than every token before for that DeliveryID, also one that was pruned and enqueued again.", claimTokens},
		{"Claim/counts", "Claim must return the number of the attempt, counting from 1 those that had an outcome, and the number of claims just before that had none.", claimCounts},
		{"Claim/room", "Claim must return no more than Limit in all, and no more of a subscriber than its room.", claimRoom},
		{"Claim/suspects", "Claim must return no more than Suspects deliveries whose Unfinished is SuspectAfter or more.", claimSuspects},
		{"Claim/turns", "Claim must serve subscribers in turns: after a turn of at most its room, a subscriber waits until every other one that has room and a due delivery had a turn.", claimTurns},
		{"Claim/order", "Claim must return, of the deliveries of a subscriber with one OrderKey that is not empty, only the earliest enqueued that is not settled, and none while another of them is leased. One that is dead with HoldOnDead counts as not settled.", claimOrder},
		{"Claim/faults", "Claim must return a delivery that cannot be restored or that has expired all the same, with its Fault.", claimFaults},
		{"Claim/next", "Claim must report as Next, if it returned fewer than Limit, an instant no later than when a further delivery could be claimed, and no earlier than when one could be.", claimNext},

		{"Finish/live", "Finish must apply an outcome whose lease is live, even after the lease has ended.", finishLive},
		{"Finish/lost", "Finish must report any other outcome as lost, and change nothing by it.", finishLost},
		{"Finish/repeated", "Finish must not report an outcome as lost that it has applied, until the delivery is claimed again, or changed or removed by hand or by a bound.", finishRepeated},
		{"Finish/due", "Finish must make a delivery that stays pending due when After has passed, but no later than it expires.", finishDue},
		{"Finish/released", "Finish must restore the counts of a released delivery exactly as they were before its claim.", finishReleased},
		{"Finish/counts", "Finish must count any other outcome as one attempt, however many Attempts it records, and begin the claims without outcome anew.", finishCounts},
		{"Finish/others", "Finish must not let an outcome that it cannot store keep others from being stored.", finishOthers},

		{"StandingStore/change", "A Claim that begins after a standing was changed must keep to the change.", standingChange},
		{"StandingStore/admit", "A Claim must lease no more of a subscriber than its standing admits, and keep, and return, what Grant makes of the standing.", standingAdmit},
		{"StandingStore/serial", "Changes of a standing must be applied one after the other, each to the result of the one before.", standingSerial},

		{"Manager/terminal", "Terminal states must be left only by Replay or Prune.", managerTerminal},
		{"Manager/replay", "Replay must make a delivery pending with counts and expiry as if new, but keep its ID, payload and place in the order; one that may still be on the wire is due when that lease ends, even if it expires before.", managerReplay},
		{"Manager/cancel", "Cancel must end the lease's token of a delivery that is leased, but hold back its order until the lease ends.", managerCancel},
		{"Manager/prune", "Prune must remove only settled deliveries.", managerPrune},

		{"Fields", "", fields},
		{"Payloads", "", payloads},
		{"Identifiers", "", identifiers},
		{"Attempts", "", attempts},
		{"Slices", "", slicesKept},
		{"Effects", "", effects},
		{"Records", "", records},
		{"Filters", "", filters},
		{"Stats", "", stats},
		{"Handles", "", handles},
		{"Contexts", "", contexts},
		{"Concurrency", "", concurrency},
		{"Notify", "", notify},
		{"Model", "", model},
	}
}

// Check checks the rule on a new backend, and closes it. The error is nil, or
// matches [ErrSkipped], or says what the store did and what it should have done.
func (r Rule) Check(ctx context.Context, newBackend func() (Backend, error)) error {
	_, err := r.run(ctx, newBackend)
	return err
}

// run also returns what of the rule could not be checked, and why.
func (r Rule) run(ctx context.Context, newBackend func() (Backend, error)) (notes []string, err error) {
	t := newTrial(ctx, newBackend)
	err = t.run(r.check)
	if err != nil && !errors.Is(err, ErrSkipped) {
		if r.Text != "" {
			err = fmt.Errorf("%w\nthe rule: %s", err, r.Text)
		}
		err = fmt.Errorf("storetest: %s: %w", r.Name, err)
	}
	return t.notes, err
}

// Run checks a store by all [Rules], each in a subtest of its name.
func Run(t *testing.T, newBackend func() (Backend, error)) {
	t.Helper()
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			notes, err := rule.run(t.Context(), newBackend)
			for _, note := range notes {
				t.Log("not checked:", note)
			}
			switch {
			case errors.Is(err, ErrSkipped):
				t.Skip(err)
			case err != nil:
				t.Error(err)
			}
		})
	}
}

// Check is [Run] without a test: it returns the violations of all rules, joined.
// Rules that do not apply are passed over.
func Check(ctx context.Context, newBackend func() (Backend, error)) error {
	var violations []error
	for _, rule := range Rules() {
		if err := rule.Check(ctx, newBackend); err != nil && !errors.Is(err, ErrSkipped) {
			violations = append(violations, err)
		}
	}
	return errors.Join(violations...)
}
