// Package sqlitestore keeps the deliveries of outhook in one SQLite file: the
// durable store of a service that has no database server.
//
//	store, err := sqlitestore.Open(ctx, "hooks.db", nil)
//	dispatcher, err := outhook.New(store, &outhook.Options{Directory: customers}) // or a Sealer: see outhook.Options
//
// It needs no cgo. What a call has stored survives the end of the process and,
// unless Options say otherwise, a power failure.
//
// # One file
//
// Several handles, in one process or in several of one machine, may have the
// same file open. The file must be on a local disk: the write-ahead log, which
// is two more files beside it, does not work over a network. All instants are
// those of the machine's clock. If that is set, what waits falls due so much
// sooner or later, and leases end so much sooner or later.
//
// SQLite has one writer at a time. Calls that write are gathered: those that
// arrive while one transaction is on its way to the disk share the next one, so
// that many senders cost one wait for the disk and not one each. Calls that
// read wait for nobody.
//
// The cost of a Claim depends on how many subscribers have something that
// waits, and not on how much.
//
// # Your own tables
//
// [Store.DB] gives the same file to your own tables, and [Store.InTx] sends
// within your own transaction:
//
//	tx, err := store.DB().BeginTx(ctx, nil)
//	defer tx.Rollback()
//	_, err = tx.ExecContext(ctx, `insert into orders …`)
//	_, err = dispatcher.Via(store.InTx(tx)).Send(ctx, event, subscribers)
//	err = tx.Commit()
//	dispatcher.Wake()
//
// The names of the store's tables begin with outhook_. The user_version of the
// file is the store's, too; keep the version of your own tables elsewhere.
//
// # Removing what is settled
//
// Deliveries that are settled stay until they are pruned. Prune, Replay and
// Cancel are one transaction each, which keeps other writers waiting: bound
// them by Filter.Limit, and repeat.
package sqlitestore
