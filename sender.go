package outhook

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Options configure a [Dispatcher]. The zero Options are made for production.
// New copies them.
type Options struct {
	// Transport makes the requests. Nil: NewTransport(Guard). With an own one
	// only the URL is guarded, not the address that is dialled.
	Transport Transport

	// Guard says which URLs and addresses may be called. Zero: https to public
	// addresses. See [DevelopmentGuard].
	Guard Guard

	// Signers are further signature schemes by the name that Key.Scheme
	// has. One under a name that is built in takes its place. Nil: those that
	// are built in alone.
	Signers map[string]Signer

	// Directory is asked for the subscriber at each attempt, so that retries
	// follow its changes and stores hold no keys. Nil: an attempt uses the
	// subscriber as it was given to Send.
	Directory Directory

	// DirectoryTTL is how long an answer of the Directory is used again.
	// Negative: it is asked for each attempt, though those to one subscriber
	// that ask at the same time share the answer. Zero: 10 s.
	DirectoryTTL time.Duration

	// Sealer encrypts what durable stores keep of subscribers, all but their
	// IDs; not payloads. What a store returns unsealed is held back, unless
	// StoreKeysInPlaintext is set, too. It cannot be combined with Directory.
	// Nil: they are stored as they are, see StoreKeysInPlaintext.
	Sealer *Sealer

	// StoreKeysInPlaintext lets durable stores keep signing keys as they
	// are. Whoever reads the database can then forge requests. With a Sealer,
	// new ones are sealed, and it lets what was stored before be attempted. With
	// false and neither Sealer nor Directory, such a store refuses deliveries
	// that are signed. MemoryStore needs none of them.
	StoreKeysInPlaintext bool

	// Retry says when a failed attempt is repeated. Nil: StandardSchedule().
	Retry RetryPolicy

	// Classify judges attempts. Nil: DefaultClassifier.
	Classify Classifier

	// MaxRetryAfter caps the pause that a receiver may ask for by
	// Retry-After. Zero: 24 h.
	MaxRetryAfter time.Duration

	// MaxUnfinished is how many claims of a delivery in a row may end
	// without an outcome, as when its payload ends the process, before it
	// is dead. At least 3. Zero: 5.
	MaxUnfinished int

	// CancelDisabled cancels what is or becomes due to a subscriber that was
	// disabled by its answers or failures. By default it is held until the
	// subscriber is enabled, as after Disable in any case.
	CancelDisabled bool

	// Breaker pauses subscribers that fail. Zero: after 10 failures in a row, for
	// 10 s at first and 15 min at most.
	Breaker Breaker

	// DisableAfter disables a subscriber that has failed for so long without a
	// success. Negative: never. Zero: 5 days.
	DisableAfter time.Duration

	// Steering lets receivers say more than a status: "webhook-delivery: disable"
	// in the header of a response that is no 2xx disables the subscriber as 410
	// does, and "webhook-delivery: abort-message" makes the delivery dead.
	Steering bool

	// Timeout of one attempt, from name resolution to the last byte of the
	// response. Zero: 15 s.
	Timeout time.Duration

	// Lease is how long an attempt is reserved to the process that claimed
	// it: at least Timeout and 10 s, which are for writing the outcome.
	// After a crash the delivery waits that long. Zero: Timeout and 30 s.
	Lease time.Duration

	// Grace is how long attempts in flight may go on when Run is stopped.
	// One that is cut then after it had a connection counts, and is repeated.
	// Negative: not at all. Zero: 10 s.
	Grace time.Duration

	// Poll is how often a Store that is no [Notifier] is asked for what
	// other processes have sent. Zero: 1 s.
	Poll time.Duration

	// Concurrency is how many attempts may be in flight. Zero: 64.
	Concurrency int

	// SubscriberConcurrency is how many of those may be to one subscriber
	// that sets none itself. Zero: 8.
	SubscriberConcurrency int

	// MaxPayload bounds the body in bytes. Zero: 256 KiB.
	MaxPayload int

	// KeepResponse is how many bytes of a response's body are kept in its
	// Attempt, with its header. Zero: neither is kept.
	KeepResponse int

	// UserAgent of the requests. Empty: "outhook/1".
	UserAgent string

	// Logger is told what goes wrong. Nil: nobody is.
	Logger *slog.Logger

	// Observers are told all that happens. Nil: none.
	Observers []Observer
}

const (
	writeBudget  = 10 * time.Second // of a lease, to write the outcome
	flushBudget  = 5 * time.Second  // after the grace, to write the last outcomes
	suspectSlack = 2                // claims that a suspect has before it is abandoned
)

// complete fills in the defaults and reports the faults.
func (o Options) complete() (Options, error) {
	var f faults
	atLeast := func(field string, value, least int64) {
		if value < least {
			f.add("", "Options."+field, "%d is below %d", value, least)
		}
	}
	span := func(field string, d *time.Duration, zero time.Duration) {
		if *d < 0 {
			f.add("", "Options."+field, "%v is negative", *d)
		}
		if *d == 0 {
			*d = zero
		}
	}
	number := func(field string, n *int, zero, least int) {
		if *n == 0 {
			*n = zero
		}
		atLeast(field, int64(*n), int64(least))
	}
	span("Timeout", &o.Timeout, 15*time.Second)
	span("Lease", &o.Lease, o.Timeout+30*time.Second)
	span("Poll", &o.Poll, time.Second)
	span("MaxRetryAfter", &o.MaxRetryAfter, 24*time.Hour)
	span("Breaker.Pause", &o.Breaker.Pause, 10*time.Second)
	span("Breaker.MaxPause", &o.Breaker.MaxPause, 15*time.Minute)
	if o.Breaker.Failures == 0 {
		o.Breaker.Failures = 10
	}
	if o.Breaker.MaxPause < o.Breaker.Pause {
		f.add("", "Options.Breaker.MaxPause", "%v is shorter than Pause, %v", o.Breaker.MaxPause, o.Breaker.Pause)
	}
	switch {
	case o.DisableAfter == 0:
		o.DisableAfter = 5 * 24 * time.Hour
	case o.DisableAfter < 0:
		o.DisableAfter = 0
	}
	number("MaxUnfinished", &o.MaxUnfinished, 5, suspectSlack+1)
	number("Concurrency", &o.Concurrency, 64, 1)
	number("SubscriberConcurrency", &o.SubscriberConcurrency, 8, 1)
	number("MaxPayload", &o.MaxPayload, 256<<10, 1)
	atLeast("KeepResponse", int64(o.KeepResponse), 0)
	o.Guard.check(&f)
	if o.DirectoryTTL == 0 {
		o.DirectoryTTL = 10 * time.Second
	}
	switch {
	case o.Sealer != nil && o.Sealer.first == "":
		f.add("", "Options.Sealer", "was not made by NewSealer")
	case o.Sealer != nil && o.Directory != nil:
		f.add("", "Options.Sealer", "is given together with Directory, which leaves nothing to seal")
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.Lease < o.Timeout+writeBudget {
		f.add("", "Options.Lease", "%v is shorter than Timeout + %v = %v", o.Lease, writeBudget, o.Timeout+writeBudget)
	}
	if o.UserAgent == "" {
		o.UserAgent = "outhook/1"
	}
	if !validHeaderValue(o.UserAgent) {
		f.add("", "Options.UserAgent", "%q is no header value", clip(o.UserAgent))
	}
	signers := make(map[string]Signer)
	for scheme, signer := range schemes() {
		signers[scheme] = signer
	}
	for scheme, signer := range o.Signers {
		if signer == nil {
			f.add("", "Options.Signers", "the signer of %q is nil", clip(scheme))
		}
		if h, ok := signer.(HMAC); ok && h.fault() != "" {
			f.add("", "Options.Signers", "of that of %q, %s", clip(scheme), h.fault())
		}
		signers[scheme] = signer
	}
	o.Signers = signers
	if o.Retry == nil {
		o.Retry = StandardSchedule()
	}
	if o.Classify == nil {
		o.Classify = DefaultClassifier
	}
	o.Guard = o.Guard.clone()
	o.Observers = slices.Clone(o.Observers)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	} else {
		o.Observers = append(o.Observers, logObserver(o.Logger))
	}
	return o, f.err()
}

// A Dispatcher sends events to subscribers: Send stores their deliveries, and Run
// makes the attempts. It is made by [New] and may be used concurrently. Many
// dispatchers, in many processes, may share a store; one may only Send,
// another only Run.
type Dispatcher struct {
	store     Store
	notifier  Notifier      // nil: poll
	manager   Manager       // nil: unsupported
	standings StandingStore // the store, or local
	local     *localStandings
	directory *directory // nil: none
	lookedUp  *target    // of all deliveries, with a directory
	targets   targets
	paces     paces
	gauges    gauges
	options   Options
	transport Transport
	ownsIdle  *http.Transport // whose idle connections end with Run; nil: the host's
	observers observers
	wake      chan struct{}
	running   atomic.Bool
}

// New returns a Dispatcher on a store. It starts nothing. Options may be nil.
// The error joins a [FieldError] for each faulty option.
func New(store Store, options *Options) (*Dispatcher, error) {
	if options == nil {
		options = new(Options)
	}
	o, err := options.complete()
	if store == nil {
		err = errors.Join(&FieldError{Field: "Store", Reason: "is nil"}, err)
	}
	if err != nil {
		return nil, err
	}
	d := &Dispatcher{
		store:     store,
		options:   o,
		transport: o.Transport,
		observers: observers{list: o.Observers, logger: o.Logger},
		wake:      make(chan struct{}, 1),
	}
	if d.transport == nil {
		d.ownsIdle = NewTransport(o.Guard)
		d.ownsIdle.MaxIdleConnsPerHost = o.Concurrency // subscribers may share a host
		d.ownsIdle.MaxIdleConns = 4*o.Concurrency + 256
		d.transport = d.ownsIdle
	}
	if o.Directory != nil {
		d.directory = newDirectory(d)
		d.lookedUp = &target{directory: true}
		d.lookedUp.shared = newSnapshot(d.lookedUp)
	}
	d.notifier, _ = store.(Notifier)
	d.manager, _ = store.(Manager)
	if d.standings, _ = store.(StandingStore); d.standings == nil {
		d.local = &localStandings{of: make(map[string]Standing)}
		d.standings = d.local
	}
	return d, nil
}

// A Receipt says what Send did with an event for each subscriber, by ID.
type Receipt struct {
	EventID  string   // as given or made, also on error: send it again under this ID
	Accepted []string // stored; to be attempted when their standings allow it: one that is disabled waits
	Known    []string // the event was sent to them before; nothing changed
	Filtered []string // did not want it, by Events or Encode
}

// Send stores an event for the subscribers who want it, all of them or, on
// error, none; Run then delivers it. It makes no request, and may be repeated
// under the EventID of its receipt after any error; to repeat it from another
// process, give the event an ID of its own.
//
// The error joins a [FieldError] for every fault of the event and of every
// subscriber, or is the store's: [ErrConflict], [ErrFull], an outage.
func (d *Dispatcher) Send(ctx context.Context, event Event, subscribers []Subscriber) (Receipt, error) {
	receipt, err := d.send(ctx, d.store, event, subscribers)
	if len(receipt.Accepted) > 0 {
		d.Wake()
	}
	return receipt, err
}

// A Sender sends as [Dispatcher.Send] does, through another [Enqueuer].
type Sender struct {
	d        *Dispatcher
	enqueuer Enqueuer
}

// Via returns a Sender that stores through e, such as a store bound to a
// transaction of the caller's, so that a business change and its webhooks commit
// together or not at all. Call [Dispatcher.Wake] after the commit.
func (d *Dispatcher) Via(e Enqueuer) Sender { return Sender{d, e} }

// Send is [Dispatcher.Send] through the Sender's Enqueuer.
func (s Sender) Send(ctx context.Context, event Event, subscribers []Subscriber) (Receipt, error) {
	return s.d.send(ctx, s.enqueuer, event, subscribers)
}

func (d *Dispatcher) send(ctx context.Context, enqueuer Enqueuer, event Event, subscribers []Subscriber) (Receipt, error) {
	receipt := Receipt{EventID: event.ID}
	f := faults{}
	content, event := d.prepare(event, &f)
	receipt.EventID = event.ID
	deliveries := make([]Delivery, 0, len(subscribers))
	seen := make(map[string]bool, len(subscribers))
	for i := range subscribers {
		s := &subscribers[i]
		if seen[s.ID] && s.ID != "" {
			f.add(s.ID, "ID", "stands twice in the list")
		}
		seen[s.ID] = true
		if s.ID == "" {
			f.add("", fmt.Sprintf("subscribers[%d].ID", i), "is empty")
			continue
		}
		delivery, wanted := d.delivery(content, s, d.directory != nil, &f)
		if wanted {
			deliveries = append(deliveries, delivery)
		} else {
			receipt.Filtered = append(receipt.Filtered, s.ID)
		}
	}
	if err := f.err(); err != nil {
		return Receipt{EventID: receipt.EventID}, err
	}

	if len(deliveries) > 0 {
		known, err := enqueuer.Enqueue(ctx, deliveries)
		if err != nil {
			return Receipt{EventID: receipt.EventID}, fmt.Errorf("outhook: send event %q: %w", receipt.EventID, err)
		}
		before := make(map[DeliveryID]bool, len(known))
		for _, id := range known {
			before[id] = true
		}
		for i := range deliveries {
			if id := deliveries[i].ID; before[id] {
				receipt.Known = append(receipt.Known, id.Subscriber)
			} else {
				receipt.Accepted = append(receipt.Accepted, id.Subscriber)
			}
		}
	}
	d.observers.sent(ctx, event, receipt)
	return receipt, nil
}

// prepare completes and validates an event and encodes its data.
func (d *Dispatcher) prepare(event Event, f *faults) (*content, Event) {
	if event.ID == "" {
		event.ID = uuid.Must(uuid.NewV7()).String()
	}
	explicitTime := !event.Time.IsZero()
	if !explicitTime {
		event.Time = time.Now()
	}
	event.Labels = maps.Clone(event.Labels)
	return newContent(event, explicitTime, d.options.MaxPayload, f), event
}

// delivery validates a subscriber and makes its delivery. With lookUp, attempts
// will ask the Directory for its target. The second result is false if the event
// is not for it.
func (d *Dispatcher) delivery(c *content, s *Subscriber, lookUp bool, f *faults) (Delivery, bool) {
	before := len(*f)
	if !validName(s.ID) {
		f.add(s.ID, "ID", "%q is not 1 to 128 bytes of printable ASCII without spaces", clip(s.ID))
	}
	for i, pattern := range s.Events {
		if !validPattern(pattern) {
			f.add(s.ID, fmt.Sprintf("Events[%d]", i), `%q is neither an event type, nor one followed by ".*", nor "*"`, clip(pattern))
		}
	}
	t := d.lookedUp
	if !lookUp {
		t = d.known(s, f)
	}
	if !c.valid || len(*f) > before || !s.wants(c.event.Type) {
		return Delivery{}, false
	}
	id := DeliveryID{c.event.ID, s.ID}
	payload, wanted := d.payload(c, s, f)
	if payload != nil && !lookUp {
		checkSchemeHeaders(s, "Payload.Header", payload.Header, d.options.Signers, f)
	}
	delivery := Delivery{
		ID:         id,
		Type:       c.event.Type,
		Time:       c.event.Time,
		OrderKey:   c.event.OrderKey,
		HoldOnDead: s.HoldOnDead,
		Delay:      c.event.Delay,
		TTL:        c.event.TTL,
		Digest:     c.digest,
		Payload:    payload,
		Snapshot:   t.snapshotOf(id, c.event.Labels),
	}
	if s.Ordered {
		delivery.OrderKey = "*"
	}
	return delivery, wanted
}

// payload returns the body for a subscriber, or false if there is none.
func (d *Dispatcher) payload(c *content, s *Subscriber, f *faults) (_ *Payload, wanted bool) {
	if s.Encode == nil {
		return c.body(d.options.MaxPayload, f), true
	}
	payload, err := encode(s.Encode, c.event)
	switch {
	case err != nil:
		*f = append(*f, &FieldError{Subscriber: s.ID, Field: "Encode", Reason: err.Error(), cause: err})
	case payload != nil:
		checkPayload(s.ID, "Encode", payload, d.options.MaxPayload, f)
		return payload, true
	}
	return nil, false
}

func encode(f func(Event) (*Payload, error), event Event) (payload *Payload, err error) {
	defer containPanic("the encoder", &err)
	return f(event)
}

// target validates and keeps of a subscriber what its attempts need.
func (d *Dispatcher) target(s *Subscriber, f *faults) *target {
	o := &d.options
	u, err := o.Guard.CheckURL(s.URL)
	if err != nil {
		*f = append(*f, &FieldError{Subscriber: s.ID, Field: "URL", Reason: err.Error(), cause: err})
	}
	checkKeys(s, o.Signers, time.Now(), f)
	checkHeader(s.ID, "Header", s.Header, f)
	checkSchemeHeaders(s, "Header", s.Header, o.Signers, f)
	if s.Timeout < 0 || s.Timeout > o.Timeout {
		f.add(s.ID, "Timeout", "%v is not in 0 to Options.Timeout, %v", s.Timeout, o.Timeout)
	}
	if s.Concurrency < 0 {
		f.add(s.ID, "Concurrency", "%d is negative", s.Concurrency)
	}
	s.Rate.check(s.ID, "Rate", f)
	t := &target{
		raw:         s.URL,
		url:         u,
		header:      s.Header.Clone(),
		keys:        slices.Clone(s.Keys),
		unsigned:    s.Unsigned,
		timeout:     s.Timeout,
		concurrency: s.Concurrency,
		rate:        s.Rate,
		plaintext:   o.StoreKeysInPlaintext,
		sealer:      o.Sealer,
		vetted:      d,
	}
	t.prepare()
	t.shared = newSnapshot(t)
	return t
}

// Try makes one attempt at once, with the event and subscriber as they are:
// for a button that sends a test event. It stores nothing, neither filters nor
// retries, asks no Directory, and leaves the subscriber's standing alone. The Attempt keeps header and
// body of the response, of that Options.KeepResponse bytes, at least 4 KiB.
// Of the observers' funcs, Attempting and Attempted are called.
//
// The error joins [FieldError]s, or says that the attempt could not be made or
// had no answer; an answer of any status is none.
func (d *Dispatcher) Try(ctx context.Context, event Event, subscriber Subscriber) (Attempt, error) {
	f := faults{}
	content, _ := d.prepare(event, &f)
	subscriber.Events = nil
	delivery, wanted := d.delivery(content, &subscriber, false, &f)
	if err := f.err(); err != nil {
		return Attempt{}, err
	}
	if !wanted {
		return Attempt{}, &FieldError{Subscriber: subscriber.ID, Field: "Encode", Reason: "made no payload of the event"}
	}
	slot := newSlot(d, ctx, max(d.options.KeepResponse, 4<<10))
	defer slot.close()
	result := slot.attempt(&Claim{Delivery: delivery, Attempt: 1})
	if errors.Is(result.err, ErrBlocked) {
		return result.attempt, fmt.Errorf("outhook: try event %q: %w", delivery.ID.Event, ErrBlocked)
	}
	if result.err != nil { // its text might hold anything
		return result.attempt, fmt.Errorf("outhook: try event %q: %s", delivery.ID.Event, result.attempt.Error)
	}
	return result.attempt, nil
}

// Wake makes Run look for due deliveries at once. Send does so itself; call it
// after the commit of a transaction that [Dispatcher.Via] sent in.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Get is [Manager.Get] of the store.
func (d *Dispatcher) Get(ctx context.Context, id DeliveryID) (Record, error) {
	if d.manager == nil {
		return Record{}, errNoManager
	}
	return d.manager.Get(ctx, id)
}

// List is [Manager.List] of the store.
func (d *Dispatcher) List(ctx context.Context, filter Filter) iter.Seq2[Record, error] {
	if d.manager == nil {
		return func(yield func(Record, error) bool) { yield(Record{}, errNoManager) }
	}
	return d.manager.List(ctx, filter)
}

// Replay is [Manager.Replay] of the store: it sends settled deliveries again,
// with the same event ID and body, signed afresh.
func (d *Dispatcher) Replay(ctx context.Context, filter Filter) (n int, err error) {
	if d.manager == nil {
		return 0, errNoManager
	}
	defer d.Wake()
	return d.manager.Replay(ctx, filter)
}

// Cancel is [Manager.Cancel] of the store.
func (d *Dispatcher) Cancel(ctx context.Context, filter Filter) (n int, err error) {
	if d.manager == nil {
		return 0, errNoManager
	}
	defer d.Wake()
	return d.manager.Cancel(ctx, filter)
}

// Prune is [Manager.Prune] of the store.
func (d *Dispatcher) Prune(ctx context.Context, filter Filter) (n int, err error) {
	if d.manager == nil {
		return 0, errNoManager
	}
	defer d.Wake()
	return d.manager.Prune(ctx, filter)
}

// Stats is [Manager.Stats] of the store.
func (d *Dispatcher) Stats(ctx context.Context) (Stats, error) {
	if d.manager == nil {
		return Stats{}, errNoManager
	}
	return d.manager.Stats(ctx)
}

// Count counts the deliveries that a filter selects: with States, those that Replay,
// Cancel or Prune with that filter would change. It goes through all of them.
func (d *Dispatcher) Count(ctx context.Context, filter Filter) (n int, err error) {
	for _, err := range d.List(ctx, filter) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

var errNoManager = fmt.Errorf("outhook: the store is no Manager: %w", errors.ErrUnsupported)

// Standings returns the subscribers that are paused, disabled or failing. For
// a store that is no [StandingStore], those that this Dispatcher knows of.
func (d *Dispatcher) Standings(ctx context.Context) iter.Seq2[Standing, error] {
	return func(yield func(Standing, error) bool) {
		for s, err := range d.standings.Standings(ctx) {
			if err == nil && s.Clean() {
				continue
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

// Disable holds back all deliveries of a subscriber until Enable. Send still
// accepts them. Attempts that were claimed before may still be made.
func (d *Dispatcher) Disable(ctx context.Context, subscriber, reason string) error {
	return d.standings.UpdateStandings(ctx, []string{subscriber}, func(now time.Time, s *Standing) {
		s.Disable(now, reason, false)
		s.Told = Disabled
	})
}

// Enable ends a subscriber's being disabled or paused, and resets its counters.
func (d *Dispatcher) Enable(ctx context.Context, subscriber string) error {
	defer d.Wake()
	return d.standings.UpdateStandings(ctx, []string{subscriber}, func(_ time.Time, s *Standing) {
		s.Enable()
		s.Told = ""
	})
}
