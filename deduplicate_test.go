package outhook

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errHandle = errors.New("not now")

func succeed(context.Context) error { return nil }
func fail(context.Context) error    { return errHandle }

// known reports whether an ID counts as handled. It leaves no trace.
func known(t *testing.T, m *MemoryDeduplicator, id string) bool {
	t.Helper()
	called := false
	err := m.Once(t.Context(), id, func(context.Context) error {
		called = true
		return errHandle
	})
	require.Equal(t, called, err != nil)
	return !called
}

func TestMemoryDeduplicatorOnce(t *testing.T) {
	type contextKey struct{}
	ctx := context.WithValue(t.Context(), contextKey{}, "of the caller")
	m := NewMemoryDeduplicator(10)
	calls := 0
	handle := func(result error) func(context.Context) error {
		return func(ctx context.Context) error {
			calls++
			require.Equal(t, "of the caller", ctx.Value(contextKey{}))
			return result
		}
	}
	for n, test := range []struct {
		id     string
		result error
		want   error
		calls  int
	}{
		{"a", errHandle, errHandle, 1},
		{"a", errHandle, errHandle, 2}, // what failed is tried again
		{"a", nil, nil, 3},
		{"a", errHandle, nil, 3}, // handled: not called
		{"a", nil, nil, 3},
		{"b", errHandle, errHandle, 4}, // another ID
		{"", errHandle, errHandle, 5},  // an ID like any other
		{"", nil, nil, 6},
		{"", nil, nil, 6},
	} {
		require.Equal(t, test.want, m.Once(ctx, test.id, handle(test.result)), n)
		require.Equal(t, test.calls, calls, n)
	}
}

// Calls with one ID at the same time are one; those with another do not wait for it.
func TestMemoryDeduplicatorConcurrent(t *testing.T) {
	bubble(t, "duplicates", func(t *testing.T) {
		m := NewMemoryDeduplicator(10)
		start := time.Now()
		var wg sync.WaitGroup
		calls := 0 // of which only one may write
		for range 50 {
			wg.Go(func() {
				err := m.Once(t.Context(), "a", func(context.Context) error {
					calls++
					time.Sleep(time.Second)
					return nil
				})
				require.NoError(t, err)
				require.Equal(t, time.Second, time.Since(start), "nobody returns before it is handled")
			})
		}
		synctest.Wait()
		require.NoError(t, m.Once(t.Context(), "b", succeed))
		require.Zero(t, time.Since(start))
		wg.Wait()
		require.Equal(t, 1, calls)
		require.True(t, known(t, m, "a"))
	})
}

// If the call that is under way ends without success, however it does, the next one
// calls its own func.
func TestMemoryDeduplicatorFails(t *testing.T) {
	for name, end := range map[string]func(){
		"error":  func() {},
		"panic":  func() { panic("a value") },
		"Goexit": runtime.Goexit,
	} {
		bubble(t, name, func(t *testing.T) {
			m := NewMemoryDeduplicator(10)
			var wg sync.WaitGroup
			calls, failed, nils, panics := make(chan int, 5), make(chan int, 5), make(chan int, 5), make(chan any, 5)
			for n := range 5 {
				wg.Go(func() {
					defer func() {
						if value := recover(); value != nil {
							panics <- value
						}
					}()
					err := m.Once(t.Context(), "a", func(context.Context) error {
						calls <- n
						time.Sleep(time.Second)
						if len(calls) < 3 {
							end()
							return errHandle
						}
						return nil
					})
					if err != nil {
						require.Equal(t, errHandle, err)
						failed <- n
					} else {
						nils <- n
					}
				})
			}
			start := time.Now()
			wg.Wait()
			require.Equal(t, 3*time.Second, time.Since(start), "one after the other")
			require.Len(t, calls, 3)
			require.Len(t, nils, 3, "the one that succeeded, and those that waited for it")
			require.Len(t, failed, map[string]int{"error": 2}[name])
			require.Len(t, panics, map[string]int{"panic": 2}[name])
			if name == "panic" {
				require.Equal(t, "a value", <-panics, "the panic is the caller's")
			}
			require.NotEqual(t, <-calls, <-calls, "each calls its own func")
			require.True(t, known(t, m, "a"))
		})
	}
}

func TestMemoryDeduplicatorContext(t *testing.T) {
	bubble(t, "ends while it waits", func(t *testing.T) {
		m := NewMemoryDeduplicator(10)
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			require.NoError(t, m.Once(t.Context(), "a", func(ctx context.Context) error {
				time.Sleep(time.Minute)
				return ctx.Err()
			}))
			require.Equal(t, time.Minute, time.Since(start), "it goes on")
		})
		synctest.Wait()
		gone := errors.New("the client went away")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, gone)
		defer cancel()
		err := m.Once(ctx, "a", func(context.Context) error { panic("called while another is under way") })
		require.Equal(t, gone, err)
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, m.Once(t.Context(), "a", fail), "one that waits for longer is served")
		require.Equal(t, time.Minute, time.Since(start))
		wg.Wait()
	})
	bubble(t, "of the one that is under way", func(t *testing.T) {
		m := NewMemoryDeduplicator(10)
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			require.Equal(t, context.Canceled, m.Once(first, "a", func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}))
		})
		synctest.Wait()
		wg.Go(func() {
			require.NoError(t, m.Once(t.Context(), "a", func(ctx context.Context) error { return ctx.Err() }), "its own context is good")
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		require.True(t, known(t, m, "a"))
	})
}

// It remembers the IDs that were handled last, by when they were handled first.
func TestMemoryDeduplicatorForgets(t *testing.T) {
	handle := func(m *MemoryDeduplicator, ids ...string) {
		for _, id := range ids {
			require.NoError(t, m.Once(t.Context(), id, succeed))
		}
	}
	m := NewMemoryDeduplicator(3)
	handle(m, "a", "b", "c", "a", "a") // to come again does not make it younger
	require.Equal(t, errHandle, m.Once(t.Context(), "failed", fail))
	require.True(t, known(t, m, "a"), "what failed takes no place")
	handle(m, "d")
	for id, want := range map[string]bool{"a": false, "b": true, "c": true, "d": true} {
		require.Equal(t, want, known(t, m, id), id)
	}
	handle(m, "a", "e")
	for id, want := range map[string]bool{"a": true, "b": false, "c": false, "d": true, "e": true} {
		require.Equal(t, want, known(t, m, id), id)
	}

	for _, limit := range []int{1, 0, -1} {
		m := NewMemoryDeduplicator(limit)
		handle(m, "a")
		require.True(t, known(t, m, "a"), limit)
		handle(m, "b")
		require.False(t, known(t, m, "a"), limit)
		require.True(t, known(t, m, "b"), limit)
	}

	bubble(t, "not what is under way", func(t *testing.T) {
		m := NewMemoryDeduplicator(1)
		var wg sync.WaitGroup
		wg.Go(func() {
			require.NoError(t, m.Once(t.Context(), "slow", func(context.Context) error {
				time.Sleep(time.Second)
				return nil
			}))
		})
		synctest.Wait()
		handle(m, "a", "b", "c")
		start := time.Now()
		require.NoError(t, m.Once(t.Context(), "slow", fail))
		require.Equal(t, time.Second, time.Since(start))
		wg.Wait()
		require.False(t, known(t, m, "c"))
	})
}

// TestMemoryDeduplicatorMemory lets 100,000 IDs through one that remembers a
// hundredth of them: it takes a tenth at most of what one takes that remembers all.
func TestMemoryDeduplicatorMemory(t *testing.T) {
	const n = 100_000
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	grown := func(m *MemoryDeduplicator) uint64 {
		before := heap()
		for i := range n {
			if err := m.Once(t.Context(), strconv.Itoa(i), succeed); err != nil {
				require.NoError(t, err)
			}
		}
		after := heap()
		require.True(t, known(t, m, strconv.Itoa(n-1)))
		return max(after, before) - before
	}
	small := NewMemoryDeduplicator(n / 100)
	bounded, all := grown(small), grown(NewMemoryDeduplicator(n))
	t.Logf("%d KiB for the latest %d of %d IDs, %d KiB for all", bounded>>10, n/100, n, all>>10)
	require.Less(t, bounded, all/10)
	require.False(t, known(t, small, strconv.Itoa(n-n/100-1)))
	require.True(t, known(t, small, strconv.Itoa(n-n/100)))
}

// TestMemoryDeduplicatorModel compares random sequences of calls with a list of
// the IDs that were handled.
func TestMemoryDeduplicatorModel(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		limit := 1 + random.IntN(5)
		m := NewMemoryDeduplicator(limit)
		var handled []string // the oldest first
		for step := range 100 {
			id := string(rune('a' + random.IntN(8)))
			fails, panics, called := random.IntN(3) == 0, random.IntN(6) == 0, false
			value, err := once(t.Context(), m, id, func(context.Context) error {
				called = true
				switch {
				case panics:
					panic(id)
				case fails:
					return errHandle
				}
				return nil
			})
			require.Equal(t, !slices.Contains(handled, id), called, "seed %d, step %d: %q of %q", seed, step, id, handled)
			switch {
			case called && panics:
				require.Equal(t, id, value)
			case called && fails:
				require.Equal(t, errHandle, err)
			default:
				require.NoError(t, err)
				require.Nil(t, value)
				if called {
					handled = append(handled, id)
					handled = handled[max(0, len(handled)-limit):]
				}
			}
		}
	}
}

// once is Once, with the panic as a value.
func once(ctx context.Context, d Deduplicator, id string, handle func(context.Context) error) (value any, err error) {
	defer func() { value = recover() }()
	return nil, d.Once(ctx, id, handle)
}

// TestMemoryDeduplicatorModelConcurrent starts calls at random instants, with handles
// that take a while and fail at random and contexts that end at random, and looks
// whether each call's result fits what all the handles did.
func TestMemoryDeduplicatorModelConcurrent(t *testing.T) {
	type span struct { // a handle
		call       int
		begin, end time.Time
		good       bool
	}
	type outcome struct { // of a call
		id       string
		deadline time.Time // zero: none
		at       time.Time
		called   bool
		err      error
		value    any
	}
	waited, gaveUp, repeated := 0, 0, 0
	bubble(t, "model", func(t *testing.T) {
		for seed := range uint64(200) {
			random := rand.New(rand.NewPCG(seed, 0))
			m := NewMemoryDeduplicator(3) // as many as there are IDs
			outcomes := make([]outcome, 20)
			var mu sync.Mutex
			spans := map[string][]span{} // by ID, in the order of their ends; guarded by mu
			var wg sync.WaitGroup
			for n := range outcomes {
				o := &outcomes[n]
				o.id = string(rune('a' + random.IntN(3)))
				wait, takes := time.Duration(random.IntN(20))*time.Second, time.Duration(random.IntN(6))*time.Second
				patience := time.Duration(random.IntN(10)) * time.Second // 0: for ever
				result := random.IntN(4)
				wg.Go(func() {
					time.Sleep(wait)
					ctx := t.Context()
					if patience > 0 {
						o.deadline = time.Now().Add(patience)
						var cancel context.CancelFunc
						ctx, cancel = context.WithDeadline(ctx, o.deadline)
						defer cancel()
					}
					o.value, o.err = once(ctx, m, o.id, func(context.Context) error {
						o.called = true
						begin := time.Now()
						time.Sleep(takes)
						mu.Lock()
						defer mu.Unlock()
						spans[o.id] = append(spans[o.id], span{n, begin, time.Now(), result > 1})
						switch result {
						case 0:
							panic(n)
						case 1:
							return errHandle
						}
						return nil
					})
					o.at = time.Now()
				})
			}
			wg.Wait()

			for id, list := range spans {
				for i, s := range list {
					require.False(t, i > 0 && s.begin.Before(list[i-1].end), "seed %d: two handles of %q at once", seed, id)
					require.Equal(t, s.good, s.good && i == len(list)-1, "seed %d: %q was handled again", seed, id)
				}
				repeated += len(list) - 1
			}
			for n, o := range outcomes {
				list := spans[o.id]
				last := list[len(list)-1]
				own := slices.IndexFunc(list, func(s span) bool { return s.call == n })
				require.Equal(t, o.called, own >= 0)
				switch {
				case own >= 0:
					require.Equal(t, list[own].good, o.err == nil && o.value == nil, "seed %d, call %d", seed, n)
					require.Equal(t, list[own].end, o.at)
				case o.err == nil:
					require.True(t, last.good && !o.at.Before(last.end), "seed %d, call %d: nil before it was handled", seed, n)
					waited++
				default:
					require.Equal(t, context.DeadlineExceeded, o.err, "seed %d, call %d", seed, n)
					require.Equal(t, o.deadline, o.at)
					require.True(t, slices.ContainsFunc(list, func(s span) bool {
						return !s.begin.After(o.at) && !s.end.Before(o.at)
					}), "seed %d, call %d: it waited for nobody", seed, n)
					gaveUp++
				}
			}
		}
	})
	t.Logf("%d calls waited, %d gave up, %d handles followed one that failed", waited, gaveUp, repeated)
	require.NotZero(t, waited)
	require.NotZero(t, gaveUp)
	require.NotZero(t, repeated)
}

// What is known needs no waiting, also for a caller whose context has ended.
func TestMemoryDeduplicatorKnownAndEnded(t *testing.T) {
	m := NewMemoryDeduplicator(1)
	require.NoError(t, m.Once(t.Context(), "a", succeed))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		require.NoError(t, m.Once(ended, "a", fail))
	}
}

// Those that waited for a call that succeeded are told so, though its ID is forgotten
// before they look.
func TestMemoryDeduplicatorForgetsWhileOthersWait(t *testing.T) {
	bubble(t, "forgotten", func(t *testing.T) {
		m := NewMemoryDeduplicator(1)
		var wg sync.WaitGroup
		for n := range 200 {
			wg.Go(func() {
				err := m.Once(t.Context(), "a", func(context.Context) error {
					if n > 0 {
						panic("handled again")
					}
					time.Sleep(time.Second)
					return nil
				})
				require.NoError(t, err)
				require.NoError(t, m.Once(t.Context(), "b", succeed)) // now "a" is forgotten
			})
			synctest.Wait()
		}
		wg.Wait()
	})
}

func TestMemoryDeduplicatorZero(t *testing.T) {
	var m MemoryDeduplicator
	for n := range 10_000 {
		if err := m.Once(t.Context(), strconv.Itoa(n), succeed); err != nil {
			require.NoError(t, err)
		}
	}
	require.True(t, known(t, &m, "0"))
	require.NoError(t, m.Once(t.Context(), "one more", succeed))
	require.False(t, known(t, &m, "0"))
	require.True(t, known(t, &m, "1"))
}

// Long IDs take no more memory than short ones.
func TestMemoryDeduplicatorLongIDs(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	const size = 1 << 16
	m, before := NewMemoryDeduplicator(100), heap()
	for n := range 100 {
		require.NoError(t, m.Once(t.Context(), strings.Repeat("a", size)+strconv.Itoa(n), succeed))
	}
	grown := int64(heap() - before)
	t.Logf("%d KiB for %d IDs of %d KiB", grown>>10, 100, size>>10)
	require.Less(t, grown, int64(size))
	require.True(t, known(t, m, strings.Repeat("a", size)+"0"))
	require.False(t, known(t, m, strings.Repeat("a", size)))
}
