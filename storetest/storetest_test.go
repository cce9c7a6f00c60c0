package storetest_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
)

func memory() (storetest.Backend, error) {
	s := outhook.NewMemoryStore()
	return storetest.Backend{Store: s, Other: s}, nil
}

func TestMemoryStore(t *testing.T) { storetest.Run(t, memory) }

// TestMemoryStoreExactly runs each rule on a clock that stands still between calls.
func TestMemoryStoreExactly(t *testing.T) {
	for _, rule := range storetest.Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := rule.Check(t.Context(), func() (storetest.Backend, error) {
					backend, err := memory()
					backend.Sleep = time.Sleep
					return backend, err
				})
				if errors.Is(err, storetest.ErrSkipped) {
					t.Skip(err)
				}
				require.NoError(t, err)
			})
		})
	}
}
