package storetest_test

import (
	"testing"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/storetest"
)

func BenchmarkMemoryStore(b *testing.B) {
	storetest.Benchmark(b, func() (storetest.Backend, error) {
		return storetest.Backend{Store: &outhook.MemoryStore{MaxPending: 1 << 30, MaxPerSubscriber: 1 << 30}}, nil
	})
}
