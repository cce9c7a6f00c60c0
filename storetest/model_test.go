package storetest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// TestModel runs many more sequences than the suite does.
func TestModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := &trial{ctx: t.Context(), journal: new(journal), open: func() (Backend, error) {
			return Backend{Store: outhook.NewMemoryStore(), Sleep: time.Sleep}, nil
		}}
		require.NoError(t, many.run(func(t *trial) { t.sequences(300) }))
	})
}
