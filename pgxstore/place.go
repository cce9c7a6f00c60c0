package pgxstore

// maxPlaces bounds how many leases are remembered.
const maxPlaces = 50_000

// A place is where a lease is found in pending, unless its row has changed since. Those of
// the leases that a Store has given are remembered, so that Finish need not look for them by
// name.
type place struct {
	ctid       string
	delivery   int64
	subscriber int64
	ordered    bool
}
