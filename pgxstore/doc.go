// Package pgxstore keeps the deliveries of outhook in PostgreSQL, for any number of
// processes on one database.
//
//	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
//	store, err := pgxstore.New(pool, nil)
//	err = store.Migrate(ctx)
//	d, err := outhook.New(store, &outhook.Options{Directory: customers}) // or a Sealer: see outhook.Options
//
// # Transactions of the host
//
// [Store.InTx] and [Store.InSQLTx] bind Send to a transaction: the webhooks
// commit with what they tell of, or not at all.
//
//	_, err = d.Via(store.InTx(tx)).Send(ctx, event, subscribers)
//
// Until it ends, the transaction holds up other Sends of the same event IDs to
// the same subscribers, and of anything to a subscriber that the store did
// not know before. It holds up nothing else: Sends that are stored together wait no
// longer than 100 ms for it, and then each alone.
//
// # Sends together
//
// Sends that come at one time share a transaction, which a goroutine of the store makes. It
// has the values of the context of one of them, which matters to a pool or tracer
// that looks for a tenant there. One that is cancelled returns at once; what it asked for
// may be stored after that.
//
// A Send that repeats an earlier one, under the same event ID, is found out by a unique index:
// the server logs that as an error, with the ID. For a minute after that, what is sent is looked
// for before it is stored, so that this is seldom logged more often.
//
// # Sends beside a worker
//
// While [Store.Notify] is called, by a Dispatcher that runs, what is sent through the same
// Store is leased as it is stored, as far as the latest Claim has left room, and handed to the
// next Claim without another transaction. What others send, that Claim finds when it is notified.
// Use one Store for sending and for running.
//
// # Connections
//
// All names are qualified with the schema, and nothing outlives a transaction: the
// store works in every [pgx.QueryExecMode], and through PgBouncer in transaction mode in
// all but [pgx.QueryExecModeCacheStatement], the default, unless PgBouncer keeps track of
// prepared statements itself, as it does from 1.21. A tracer sees the statements of
// Enqueue, Claim and Finish as batches: see [pgx.BatchTracer]. Notifications alone need
// a connection of their own to the server itself: give it as Options.Listen if the pool leads through
// PgBouncer, or let the Dispatcher poll.
//
// # Tables
//
// A delivery is written once, to delivery, with its body in payload. As long as
// it is not settled, a narrow row in pending says when it is due: claiming
// updates that row in place, settling deletes it. Each outcome is added to
// outcome. What is settled stays until Prune.
//
// The cost of a Claim depends neither on how many deliveries wait nor on those of
// subscribers that are paused, but for those with an OrderKey: it grows with the number
// of keys that have something pending, by about 1 s for 100,000 of them.
//
// A client that stands still within a transaction of the store's, stopped or cut off,
// loses it after 10 s, so that others get at what it had locked.
//
// Like every queue in PostgreSQL, this one suffers from transactions that stay open for
// long: vacuum cannot remove what was deleted since they began. Watch
// [Store.Database].
package pgxstore
