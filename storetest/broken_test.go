package storetest_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook/storetest"
)

// simpleBackend returns two handles on a store with a fault, whose clock stands
// still.
func simpleBackend(f fault) func() (storetest.Backend, error) {
	return func() (storetest.Backend, error) {
		db := newSimple(f)
		db.frozen = true
		return storetest.Backend{
			Store: &simple{simpleDB: db}, Other: &simple{simpleDB: db, ahead: 10 * time.Minute},
			Sleep: db.sleep, Damage: db.damage,
		}, nil
	}
}

// bubble runs a test on a fake clock.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// TestSimpleStore runs all on the store that the broken ones are made from.
func TestSimpleStore(t *testing.T) {
	storetest.Run(t, simpleBackend(""))
}

// TestBrokenStores shows that each rule finds its defect, and that no other rule
// takes it for its own.
func TestBrokenStores(t *testing.T) {
	for _, test := range []struct {
		fault fault
		rule  string
	}{
		{"half of a batch stored before a conflict", "Enqueue/all"},
		{"known ones not named", "Enqueue/known"},
		{"settled one revived by Enqueue", "Enqueue/known"},
		{"conflict not noticed", "Enqueue/conflict"},
		{"clock of the caller", "Store/clock"},
		{"given up after 5 lapses", "Store/claimable"},
		{"lease forgotten by a call that fails", "Store/repeatable"},
		{"no lease", "Claim/due"},
		{"tokens shrink", "Claim/tokens"},
		{"tokens restart after Prune", "Claim/tokens"},
		{"lapses counted as attempts", "Claim/counts"},
		{"one more than the limit", "Claim/room"},
		{"room ignored", "Claim/room"},
		{"suspects ignored", "Claim/suspects"},
		{"no turns", "Claim/turns"},
		{"earlier one that is not due passed by", "Claim/order"},
		{"earlier one beside the lease of a later one", "Claim/order"},
		{"dead one that holds passed by", "Claim/order"},
		{"poisoned head", "Claim/faults"},
		{"damage not noticed", "Claim/faults"},
		{"expired one never returned", "Claim/faults"},
		{"Next too early", "Claim/next"},
		{"Next too late", "Claim/next"},
		{"ended lease refused", "Finish/live"},
		{"no fence", "Finish/lost"},
		{"effect of a lost outcome applied", "Finish/lost"},
		{"applied outcome reported as lost", "Finish/repeated"},
		{"retry dropped", "Finish/due"},
		{"due beyond the expiry", "Finish/due"},
		{"counts reset by a release", "Finish/released"},
		{"attempt burnt by a release", "Finish/released"},
		{"records counted as attempts", "Finish/counts"},
		{"lapses kept by an outcome", "Finish/counts"},
		{"others dropped beside a lost outcome", "Finish/others"},
		{"pause ignored", "StandingStore/change"},
		{"grants dropped", "StandingStore/admit"},
		{"change of a standing lost", "StandingStore/serial"},
		{"settled one cancelled", "Manager/terminal"},
		{"counts kept by Replay", "Manager/replay"},
		{"old expiry kept by Replay", "Manager/replay"},
		{"lease of a cancelled one forgotten by Replay", "Manager/replay"},
		{"order freed by Cancel", "Manager/cancel"},
		{"token kept by Cancel", "Manager/cancel"},
		{"pending one pruned", "Manager/prune"},

		{"time counted in nanoseconds", "Fields"},
		{"body cut at a zero byte", "Payloads"},
		{"orders that run together", "Identifiers"},
		{"text made valid UTF-8", "Attempts"},
		{"caller's slice kept", "Slices"},
		{"effects dropped", "Effects"},
		{"settled one shown as due", "Records"},
		{"age ignored by a filter", "Filters"},
		{"leased one counted as overdue", "Stats"},
		{"turns of each handle", "Handles"},
		{"half of a cancelled call done", "Contexts"},
		{"lock kept by a cancelled call", "Contexts"},
		{"claims that overlap", "Concurrency"},
		{"no wake after Cancel", "Notify"},
		{"held order freed by Replay", "Manager/cancel"},
	} {
		bubble(t, string(test.fault), func(t *testing.T) { // where waiting in vain takes no time
			found := false
			for _, rule := range storetest.Rules() {
				if rule.Text == "" && rule.Name != test.rule {
					continue // a further rule may find it, too
				}
				err := rule.Check(t.Context(), simpleBackend(test.fault))
				require.NotErrorIs(t, err, storetest.ErrSkipped)
				if rule.Name == test.rule {
					found = true
					require.Error(t, err, "%s did not find it", rule.Name)
					t.Log(err)
				} else {
					assert.NoError(t, err)
				}
			}
			require.True(t, found)
			time.Sleep(2 * time.Hour) // for calls that were given up
		})
	}
}

// TestKnownByClaim shows that a store of three methods is held to leave a known
// delivery as it is: there is no Manager to ask.
func TestKnownByClaim(t *testing.T) {
	i := slices.IndexFunc(storetest.Rules(), func(r storetest.Rule) bool { return r.Name == "Enqueue/known" })
	check := func(f fault) error {
		return storetest.Rules()[i].Check(t.Context(), func() (storetest.Backend, error) {
			backend, err := simpleBackend(f)()
			backend.Store = plain{backend.Store}
			return backend, err
		})
	}
	require.NoError(t, check(""))
	require.ErrorContains(t, check("settled one revived by Enqueue"), "want it to be held back")
}
