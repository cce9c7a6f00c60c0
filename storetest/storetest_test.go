package storetest_test

import (
	"testing"
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
		bubble(t, rule.Name, func(t *testing.T) {
			require.NoError(t, rule.Check(t.Context(), func() (storetest.Backend, error) {
				backend, err := memory()
				backend.Sleep = time.Sleep
				return backend, err
			}))
		})
	}
}
