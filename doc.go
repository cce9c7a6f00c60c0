// Package outhook sends webhooks: signed HTTP POST requests that tell
// subscribers of events, repeated until each is delivered or known dead,
// whatever crashes meanwhile. A service embeds it and keeps control of where
// deliveries are stored, how requests are made, and what runs when.
//
// # Sending
//
//	d, err := outhook.New(outhook.NewMemoryStore(), nil) // nil options are made for production
//	go func() { stopped <- d.Run(ctx) }()                // until ctx ends
//	receipt, err := d.Send(ctx, outhook.Event{Type: "invoice.paid", Data: invoice}, subscribers)
//
// [Dispatcher.Send] validates, encodes the event once, and stores a [Delivery] for
// each [Subscriber] who wants it, all of them or none. [Dispatcher.Run] claims
// what is due, in turns between subscribers, signs it, posts it through the
// [Transport], and stores the outcome:
//
//	Send ─ validate ─ filter ─ encode once ─▶ Store.Enqueue ─ wake ─▶ Receipt
//	Run  ─▶ Store.Claim ─▶ slot ─▶ sign ─▶ Transport ─▶ classify ─▶ retry ─▶ Store.Finish
//
// # Guarantees
//
// A delivery that Send accepted is attempted at least once, and until it is
// delivered, dead or cancelled. A receiver may see it more than once, always
// under the same webhook-id, so that it can tell. Deliveries of different events
// may arrive in another order than they were sent in, unless [Event].OrderKey or
// [Subscriber].Ordered asks for one. A subscriber that hangs, fails or has a long
// backlog does not keep the deliveries of others waiting in the store; only so
// many that hang as fill all slots can, for the length of a timeout.
//
// # Stores
//
// A [Store] has three methods: Enqueue, Claim and Finish. [MemoryStore] keeps
// deliveries as long as the process lives; the modules sqlitestore and pgxstore of this
// repository keep them in a file and in PostgreSQL, and package storetest shows whether
// one of your own keeps the contract. What the optional interfaces
// [Notifier], [StandingStore] and [Manager] add, and what happens without
// them, stands at each.
//
// # Failures
//
// A failed attempt is repeated when the [RetryPolicy] says so, by default at the
// ten instants that Standard Webhooks recommends, over three days. A receiver's
// Retry-After pauses all of its deliveries; its 410 disables it until
// [Dispatcher.Enable]. What has failed for good is kept as dead, to be inspected
// and replayed.
//
// # Security
//
// Requests are signed as Standard Webhooks 1.0.0 specifies, with keys of each
// subscriber's own; a [Verifier] checks them at the receiver. The [Guard] keeps
// requests to public addresses. A [Secret] does not print. A store that outlives
// the process holds no key in plaintext: the Dispatcher asks a [Directory] at each
// attempt, or has a [Sealer] that encrypts what is stored of a subscriber.
package outhook
