package outhook

import (
	"context"
	"iter"
	"time"
)

// An Enqueuer takes deliveries. Every [Store] is one; a store that keeps its
// deliveries in a database may offer others that are bound to a caller's
// transaction, for [Dispatcher.Via].
type Enqueuer interface {
	// Enqueue stores deliveries, each pending and due when its Delay has passed.
	// Their IDs differ. known names those that the store had before.
	//
	//  - Enqueue must store all of the deliveries that it does not have, or none.
	//  - Enqueue must report a delivery that it has with the same Digest as known, and leave it as it is, whatever its state.
	//  - Enqueue must return an error that matches ErrConflict if it has a delivery with another Digest.
	//
	// A bounded store returns an error that matches [ErrFull].
	Enqueue(ctx context.Context, deliveries []Delivery) (known []DeliveryID, err error)
}

// A Store keeps deliveries until they are settled: delivered, dead or cancelled.
// Host applications implement it to choose where that is.
//
// # Words
//
// A pending delivery is due at one instant: that of its next attempt, or the end
// of its lease. A lease is the exclusive right to make the next attempt, given
// by Claim and identified by a token. A lease is live until an outcome of it was
// applied or its token is no longer the delivery's latest: a lease that has
// ended but that nobody has claimed since is still live.
//
// # Rules
//
// Each sentence with "must", here and at the methods, is one rule that a store
// has to keep, and that its tests have to show. What "may" be is left to the store.
//
//   - A store must compute every instant from one clock of its own; callers pass durations.
//   - A store must keep a delivery claimable until it is settled, whatever process dies when: a leased delivery falls due again at the end of its lease.
//   - A call that has returned an error must be repeatable with the same arguments.
//
// All methods may be called concurrently, by many dispatchers in many
// processes. A call that is cancelled may or may not have happened. Stores try
// once and report: the Dispatcher repeats. No transaction stays open, and
// no slice or map of the caller's is kept, when a method has returned; a
// Payload, and the Header and Body of an Attempt, which nobody changes, may be.
// A store that wraps another by embedding the interface hides its optional ones:
// [Notifier], [StandingStore] and [Manager].
type Store interface {
	Enqueuer

	// Claim leases due deliveries and returns them.
	//
	//  - Claim must lease only pending deliveries that are due, until now plus the request's Lease.
	//  - Claim must return a token with each lease that is greater than every token before for that DeliveryID, also one that was pruned and enqueued again.
	//  - Claim must return the number of the attempt, counting from 1 those that had an outcome, and the number of claims just before that had none.
	//  - Claim must return no more than Limit in all, and no more of a subscriber than its room.
	//  - Claim must return no more than Suspects deliveries whose Unfinished is SuspectAfter or more.
	//  - Claim must serve subscribers in turns: after a turn of at most its room, a subscriber waits until every other one that has room and a due delivery had a turn.
	//  - Claim must return, of the deliveries of a subscriber with one OrderKey that is not empty, only the earliest enqueued that is not settled, and none while another of them is leased. One that is dead with HoldOnDead counts as not settled.
	//  - Claim must return a delivery that cannot be restored or that has expired all the same, with its Fault.
	//  - Claim must report as Next, if it returned fewer than Limit, an instant no later than when a further delivery could be claimed, and no earlier than when one could be.
	//
	// A store that is a [StandingStore] asks [Standing.Admit] before it leases, and
	// has [Standing.Grant] count what it leased. The cost of a call should depend
	// neither on how many deliveries wait nor on those of subscribers without room.
	Claim(ctx context.Context, request ClaimRequest) (Claimed, error)

	// Finish applies the outcomes of leases. lost names the leases whose
	// outcome came too late.
	//
	//  - Finish must apply an outcome whose lease is live, even after the lease has ended.
	//  - Finish must report any other outcome as lost, and change nothing by it.
	//  - Finish must not report an outcome as lost that it has applied, until the delivery is claimed again, or changed or removed by hand or by a bound.
	//  - Finish must make a delivery that stays pending due when After has passed, but no later than it expires.
	//  - Finish must restore the counts of a released delivery exactly as they were before its claim.
	//  - Finish must count any other outcome as one attempt, however many Attempts it records, and begin the claims without outcome anew.
	//  - Finish must not let an outcome that it cannot store keep others from being stored.
	//
	// A store that is a [StandingStore] applies the outcome's Effect in the
	// same transaction.
	Finish(ctx context.Context, outcomes []Outcome) (lost []Lease, err error)
}

// A ClaimRequest says what a Dispatcher has room for.
type ClaimRequest struct {
	Limit         int            // deliveries in all, at least 1
	PerSubscriber int            // room of each subscriber that Room does not name
	Room          map[string]int // room of single subscribers; 0: none. Not kept by the store
	SuspectAfter  int            // Unfinished from which a delivery is suspected of ending its worker
	Suspects      int            // how many of those there is room for
	Lease         time.Duration  // how long each is leased
}

// Claimed is what Claim returned.
type Claimed struct {
	Claims []Claim

	// Next is how long until a further delivery could be claimed with the
	// room that this call left. Zero: unknown, or nothing waits that there is
	// room for.
	Next time.Duration

	// Standings holds those that are kept of the subscribers in Claims.
	// Nil if there are none, or the store keeps none at all.
	Standings map[string]Standing
}

// A Claim is a delivery with the lease to attempt it once.
type Claim struct {
	Delivery
	Token      int64
	Attempt    int           // number of the attempt that is due, from 1
	Unfinished int           // claims just before this one that ended without an outcome
	Replay     int           // how often it was replayed
	Age        time.Duration // since it was enqueued, or replayed
	Fault      string        // why it cannot be attempted: [ReasonExpired] or what is wrong with it; empty: it can be
}

// Lease returns the lease of the claim.
func (c *Claim) Lease() Lease { return Lease{c.ID, c.Token} }

// A Lease identifies the right to one attempt.
type Lease struct {
	ID    DeliveryID
	Token int64
}

// An Outcome is what became of a lease.
type Outcome struct {
	Lease    Lease
	State    State         // what the delivery becomes; Pending: it is due again
	After    time.Duration // of a pending one, released or not, from now until it is due
	Released bool          // no attempt was made: pending, with its counts as before the claim
	Reason   string        // of a dead or cancelled one
	Attempts []Attempt     // to be added to the delivery's history; often one
	Effect   *Effect       // on the subscriber's standing; nil: none
}

// A Notifier is a Store that tells when something may have become claimable.
// A Dispatcher polls a Store that is none at Options.Poll.
type Notifier interface {
	// Notify calls wake, which does not block, after each change that may
	// have made a delivery claimable, until ctx ends or it can no longer
	// tell, and returns why. It calls wake once when it begins.
	Notify(ctx context.Context, wake func()) error
}

// A StandingStore is a Store that keeps the standings of subscribers, so that
// all processes and restarts share them: its Claim asks [Standing.Admit]
// before it leases and [Standing.Grant] after, and its Finish calls [Standing.Apply]. For a Store that is
// none, each Dispatcher keeps those that it learns itself, as long as it lives.
//
//   - A Claim that begins after a standing was changed must keep to the change.
//   - A Claim must lease no more of a subscriber than its standing admits, and keep, and return, what Grant makes of the standing.
//   - Changes of a standing must be applied one after the other, each to the result of the one before.
type StandingStore interface {
	// UpdateStandings calls update with the store's clock and the standing
	// of each subscriber, zero but for the ID if none is kept, and keeps
	// the result. update may be called again if the store has to retry.
	UpdateStandings(ctx context.Context, subscribers []string, update func(now time.Time, s *Standing)) error

	// Standings returns the standings that are kept, in no order. It ends
	// after an error.
	Standings(ctx context.Context) iter.Seq2[Standing, error]
}

// A Manager is a Store whose deliveries can be inspected and changed by hand.
// The Dispatcher's methods of the same names return [errors.ErrUnsupported]
// if its Store is none.
//
//   - Terminal states must be left only by Replay or Prune.
//   - Replay must make a delivery pending with counts and expiry as if new, but keep its ID, payload and place in the order; one that may still be on the wire is due when that lease ends, even if it expires before.
//   - Cancel must end the lease's token of a delivery that is leased, but hold back its order until the lease ends.
//   - Prune must remove only settled deliveries.
type Manager interface {
	// Get returns a delivery with its attempts, or [ErrNotFound].
	Get(ctx context.Context, id DeliveryID) (Record, error)

	// List returns deliveries without their attempts, in the order they
	// were enqueued. It ends after an error.
	List(ctx context.Context, filter Filter) iter.Seq2[Record, error]

	// Replay makes settled deliveries pending again. A Filter without
	// States means the dead and cancelled ones; pending ones are passed over.
	Replay(ctx context.Context, filter Filter) (n int, err error)

	// Cancel makes pending deliveries cancelled. An attempt that is on the
	// wire is not stopped.
	Cancel(ctx context.Context, filter Filter) (n int, err error)

	// Prune removes settled deliveries with their attempts. Their event IDs
	// can be sent again.
	Prune(ctx context.Context, filter Filter) (n int, err error)

	// Stats counts.
	Stats(ctx context.Context) (Stats, error)

	// Backlogs returns what waits for each subscriber that something waits
	// for, in no order. It ends after an error.
	Backlogs(ctx context.Context) iter.Seq2[Backlog, error]
}

// A Filter selects deliveries that meet all of its fields that are not zero. The
// zero Filter selects all: Cancel with it cancels all that is pending.
// Durations are measured on the store's clock, and back to Record.Since.
type Filter struct {
	Event      string
	Subscriber string
	Type       string // exact
	States     []State
	OlderThan  time.Duration // in its state for at least so long
	NewerThan  time.Duration // in its state for at most so long
	Limit      int           // the first so many in the order of List
}

// A Record is a delivery as a Manager shows it. Its instants are those of
// the store's clock.
type Record struct {
	ID       DeliveryID
	Type     string
	Time     time.Time // of the event
	OrderKey string
	Payload  *Payload // not to be changed

	State    State
	Reason   string    // of a dead or cancelled one
	Since    time.Time // when it came to be in its state
	Due      time.Time // of a pending one: its next attempt, or the end of its lease
	Leased   bool      // a lease runs: an attempt may be under way
	Replay   int       // how often it was replayed
	Attempts []Attempt // from Get alone, oldest first
}

// A Backlog is what waits for a subscriber.
type Backlog struct {
	Subscriber string
	Pending    int
	OldestDue  time.Duration // as in Stats
}

// Stats counts the deliveries of a store.
type Stats struct {
	Pending, Delivered, Dead, Cancelled int

	// OldestDue is how long the delivery that waits longest has been due
	// and not claimed, for a pause of its subscriber perhaps; those behind
	// another in their order do not count. Zero: none is.
	OldestDue time.Duration
}
