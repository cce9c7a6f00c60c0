package sqlitestore

// maxPlaces bounds how many leases are remembered.
const maxPlaces = 50_000

// place is what Finish has to know of the delivery of a lease, and what never changes. Those
// of the leases that this handle has given are remembered, so that it need not look for them
// by name.
type place struct {
	id         int64
	key        key
	holdOnDead bool
}
