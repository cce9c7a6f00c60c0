package outhook

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
)

func TestStandardSchedule(t *testing.T) {
	policy := StandardSchedule()
	for _, test := range []struct {
		number int
		want   time.Duration // negative: no further attempt
	}{
		{math.MinInt, -1},
		{-1, -1},
		{0, -1},
		{1, 5 * time.Second},
		{2, 5 * time.Minute},
		{3, 30 * time.Minute},
		{4, 2 * time.Hour},
		{5, 5 * time.Hour},
		{6, 10 * time.Hour},
		{7, 14 * time.Hour},
		{8, 20 * time.Hour},
		{9, 24 * time.Hour},
		{10, -1},
		{64, -1},
		{1000, -1},
		{math.MaxInt, -1},
	} {
		t.Run(fmt.Sprint(test.number), func(t *testing.T) {
			delays := make(map[time.Duration]bool)
			for i := range 200 {
				id := DeliveryID{eventID(i), "s"}
				delay, ok := policy(id, Attempt{Number: test.number})
				require.Equal(t, test.want >= 0, ok)
				if !ok {
					continue
				}
				require.GreaterOrEqual(t, delay, test.want)
				require.Less(t, delay, test.want+test.want/10)
				delays[delay] = true
			}
			if test.want >= 0 {
				require.Greater(t, len(delays), 190, "the jitter spreads deliveries")
			}
		})
	}
}

func TestScheduleIsPure(t *testing.T) {
	policy := Schedule(time.Hour, time.Hour)
	delay := func(event, subscriber string, number, replay int) time.Duration {
		d, ok := policy(DeliveryID{event, subscriber}, Attempt{Number: number, Replay: replay, Time: time.Now()})
		require.True(t, ok)
		return d
	}
	base := delay("e", "s", 1, 0)
	require.Equal(t, base, delay("e", "s", 1, 0))
	require.NotEqual(t, base, delay("f", "s", 1, 0))
	require.NotEqual(t, base, delay("e", "t", 1, 0))
	require.NotEqual(t, base, delay("e", "s", 2, 0))
	require.NotEqual(t, base, delay("e", "s", 1, 1))
	require.NotEqual(t, delay("ab", "c", 1, 0), delay("a", "bc", 1, 0))
}

func TestScheduleJitterIsEven(t *testing.T) {
	var quarters [4]int
	for i := range 4000 {
		d := jitter(DeliveryID{eventID(i), "s"}, Attempt{Number: 1}, 1<<20)
		quarters[d>>18]++
	}
	for _, n := range quarters {
		require.InDelta(t, 1000, n, 150)
	}
}

func TestScheduleBounds(t *testing.T) {
	for _, test := range []struct {
		name     string
		delay    time.Duration
		min, max time.Duration
	}{
		{"longest", math.MaxInt64, math.MaxInt64, math.MaxInt64},
		{"zero", 0, 0, 0},
		{"too short for jitter", 9, 9, 9},
		{"negative", -time.Hour, -time.Hour, -time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, ok := Schedule(test.delay)(DeliveryID{"e", "s"}, Attempt{Number: 1})
			require.True(t, ok)
			require.GreaterOrEqual(t, d, test.min)
			require.LessOrEqual(t, d, test.max)
		})
	}
	_, ok := Schedule()(DeliveryID{}, Attempt{Number: 1})
	require.False(t, ok, "no delays: one attempt")
}

func TestBackoff(t *testing.T) {
	exponential := func() backoff.BackOff {
		return backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0),
			backoff.WithMaxInterval(time.Minute))
	}
	elapsing := func() backoff.BackOff { // MaxElapsedTime is below MaxInterval
		return backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0),
			backoff.WithMaxInterval(time.Hour), backoff.WithMaxElapsedTime(15*time.Minute))
	}
	constant := func() backoff.BackOff { return backoff.NewConstantBackOff(7 * time.Second) }
	for _, test := range []struct {
		name    string
		factory func() backoff.BackOff
		number  int
		want    time.Duration // negative: no further attempt
	}{
		{"constant", constant, 1, 7 * time.Second},
		{"constant, late", constant, 500, 7 * time.Second},
		{"constant, no number", constant, 0, 7 * time.Second},
		{"exponential, first", exponential, 1, time.Second},
		{"exponential, second", exponential, 2, 2 * time.Second},
		{"exponential, sixth", exponential, 6, 32 * time.Second},
		{"exponential, capped", exponential, 7, time.Minute},
		{"exponential, far beyond", exponential, math.MaxInt, time.Minute},
		{"MaxElapsedTime does not sum up", elapsing, 10, 512 * time.Second},
		{"MaxElapsedTime below a single delay", elapsing, 11, -1},
		{"3 retries, first", func() backoff.BackOff { return backoff.WithMaxRetries(constant(), 3) }, 1, 7 * time.Second},
		{"3 retries, third", func() backoff.BackOff { return backoff.WithMaxRetries(constant(), 3) }, 3, 7 * time.Second},
		{"3 retries, fourth", func() backoff.BackOff { return backoff.WithMaxRetries(constant(), 3) }, 4, -1},
		{"3 retries, far beyond", func() backoff.BackOff { return backoff.WithMaxRetries(constant(), 3) }, math.MaxInt, -1},
		{"stop", func() backoff.BackOff { return &backoff.StopBackOff{} }, 1, -1},
		{"zero", func() backoff.BackOff { return &backoff.ZeroBackOff{} }, 5, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			policy := Backoff(test.factory)
			for range 2 { // a fresh backoff each time
				delay, ok := policy(DeliveryID{}, Attempt{Number: test.number})
				require.Equal(t, test.want >= 0, ok)
				require.Equal(t, max(test.want, 0), delay)
			}
		})
	}
}

// countingBackoff counts its calls, and answers with their count.
type countingBackoff struct {
	calls int
	stop  int // the call that is answered by Stop
}

func (b *countingBackoff) Reset() {}

func (b *countingBackoff) NextBackOff() time.Duration {
	if b.calls++; b.calls == b.stop {
		return backoff.Stop
	}
	return time.Duration(b.calls)
}

func TestBackoffCalls(t *testing.T) {
	for _, test := range []struct {
		number, stop, want int
	}{
		{1, 0, 1},
		{999, 0, 999},
		{1000, 0, 1000},
		{1001, 0, 1000},
		{math.MaxInt, 0, 1000},
		{5, 2, 2},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			b := countingBackoff{stop: test.stop}
			delay, ok := Backoff(func() backoff.BackOff { return &b })(DeliveryID{}, Attempt{Number: test.number})
			require.Equal(t, test.want, b.calls)
			require.Equal(t, test.stop == 0, ok)
			if ok {
				require.EqualValues(t, test.want, delay)
			}
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const most = time.Duration(math.MaxInt64)
	for _, test := range []struct {
		name   string
		values []string
		want   time.Duration
	}{
		{"none", nil, 0},
		{"empty", []string{""}, 0},
		{"zero", []string{"0"}, 0},
		{"seconds", []string{"120"}, 2 * time.Minute},
		{"leading zeros", []string{"00000000000000000000000000000120"}, 2 * time.Minute},
		{"longest", []string{"9223372036"}, 9223372036 * time.Second},
		{"longer", []string{"9223372037"}, most},
		{"beyond 64 bits", []string{"99999999999999999999999999"}, most},
		{"2^64 + 1", []string{"18446744073709551617"}, most},
		{"negative", []string{"-1"}, 0},
		{"plus", []string{"+5"}, 0},
		{"space before", []string{" 5"}, 0},
		{"space after", []string{"5 "}, 0},
		{"fraction", []string{"1.5"}, 0},
		{"exponent", []string{"1e3"}, 0},
		{"hexadecimal", []string{"0x10"}, 0},
		{"underscore", []string{"1_000"}, 0},
		{"unit", []string{"5s"}, 0},
		{"other digits", []string{"٥"}, 0},
		{"two in one", []string{"5, 5"}, 0},
		{"two", []string{"5", "5"}, 0},
		{"date", []string{"Fri, 02 Jan 2026 03:05:05 GMT"}, time.Minute},
		{"date, RFC 850", []string{"Friday, 02-Jan-26 03:05:05 GMT"}, time.Minute},
		{"date, asctime", []string{"Fri Jan  2 03:05:05 2026"}, time.Minute},
		{"date now", []string{"Fri, 02 Jan 2026 03:04:05 GMT"}, 0},
		{"date past", []string{"Fri, 02 Jan 2026 03:03:05 GMT"}, 0},
		{"date far past", []string{"Mon, 01 Jan 0001 00:00:00 GMT"}, 0},
		{"date far", []string{"Fri, 31 Dec 9999 23:59:59 GMT"}, most},
		{"date without day", []string{"02 Jan 2026 03:05:05 GMT"}, 0},
		{"date that is none", []string{"Fri, 32 Jan 2026 03:05:05 GMT"}, 0},
		{"RFC 3339", []string{"2026-01-02T03:05:05Z"}, 0},
		{"word", []string{"soon"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, parseRetryAfter(http.Header{"Retry-After": test.values}, now))
		})
	}
}

func TestDefaultClassifier(t *testing.T) {
	for _, test := range []struct {
		status int
		err    error
		want   Verdict
	}{
		{0, nil, Retry},
		{100, nil, Retry},
		{101, nil, Retry},
		{199, nil, Retry},
		{200, nil, OK},
		{204, nil, OK},
		{299, nil, OK},
		{300, nil, Retry},
		{301, nil, Retry},
		{400, nil, Retry},
		{404, nil, Retry},
		{410, nil, Gone},
		{429, nil, Retry},
		{500, nil, Retry},
		{599, nil, Retry},
		{999, nil, Retry},
		{0, errors.New("x"), Retry},
		{200, errors.New("x"), Retry},
		{410, errors.New("x"), Retry},
		{0, ErrBlocked, Permanent},
		{0, fmt.Errorf("dial: %w", ErrBlocked), Permanent},
	} {
		t.Run(fmt.Sprint(test.status, " ", test.err), func(t *testing.T) {
			require.Equal(t, test.want, DefaultClassifier(Attempt{Status: test.status}, test.err))
		})
	}
}
