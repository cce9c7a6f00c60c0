//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	window    = 10 * time.Second // in which attempts are counted
	tolerance = 0.05             // of a pace
)

// A metronome beats while a pace is measured, and so finds out when the machine has had
// no time, or its disk: what a pace has let go meanwhile is late, or never made up for.
type metronome struct{ beats []beat }

type beat struct {
	at            time.Time
	awake, stored time.Duration // how late it was awake, and how late it had stored a byte
}

// run beats until ctx ends. The file has to be where the store is.
func (m *metronome) run(ctx context.Context, file string) error {
	const pause = 50 * time.Millisecond
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		b := beat{at: time.Now()}
		if sleep(ctx, pause) != nil {
			return nil
		}
		b.awake = time.Since(b.at) - pause
		if _, err = f.WriteAt([]byte{1}, 0); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return err
		}
		b.stored = time.Since(b.at) - pause
		m.beats = append(m.beats, b)
	}
}

// windowed is how many attempts there were in a window, which begins so long after the first.
type windowed struct {
	n    int
	from time.Duration
}

// checkRate counts the attempts in the windows that begin with each. None may have more than
// the pace lets go, within its tolerance. The debt of the beginning once paid, none may
// have less, as long as something waits, where the machine had time throughout.
func (e *evidence) checkRate(f *finding) (figures string) {
	log := e.log()
	if len(log) == 0 {
		f.violate("there were no attempts")
		return ""
	}
	n := float64(e.plan.pace().N)
	// Attempts that were made before a window may be noted in it, if the receiver had no time.
	longest := e.longest()
	allowed := int(n * (window.Seconds()*(1+tolerance) + longest.Seconds()))
	needed := int(n * window.Seconds() * (1 - tolerance))
	paid := log[0].at.Add(time.Duration(float64(e.plan.flying()) / n * float64(time.Second)))
	end := log[len(log)-1].at

	var most, least windowed
	steady := 0
	for i, j := 0, 0; i < len(log); i++ {
		until := log[i].at.Add(window)
		for j < len(log) && log[j].at.Before(until) {
			j++
		}
		w := windowed{j - i, log[i].at.Sub(log[0].at)}
		if w.n > most.n {
			most = w
		}
		if log[i].at.Before(paid) || until.After(end) || !e.hadTime(log[i].at, until) {
			continue
		}
		if steady++; steady == 1 || w.n < least.n {
			least = w
		}
	}
	if most.n > allowed {
		f.violate("%d attempts in %v, from %v on, are more than %d", most.n, window, most.from, allowed)
	}
	if steady > 0 && least.n < needed {
		f.violate("%d attempts in %v, from %v on, are less than %d", least.n, window, least.from, needed)
	}
	if !paid.Add(window).Before(end) {
		f.violate("%v of attempts are too few to see a steady pace", end.Sub(log[0].at))
	}
	by := make(map[string]int)
	for _, r := range log {
		by[r.by]++
	}
	if len(by) != e.plan.Workers {
		f.violate("%d workers of %d have made attempts", len(by), e.plan.Workers)
	}
	var shares []int
	for _, n := range by {
		shares = append(shares, n)
	}
	slices.Sort(shares)
	return fmt.Sprintf("rate=%.0f/s window=%v most=%d allowed=%d least=%d needed=%d steady_windows=%d machine_late=%v by_worker=%v",
		n, window, most.n, allowed, least.n, needed, steady, longest.Round(time.Millisecond), shares)
}

// longest is how late the metronome was awake at worst.
func (e *evidence) longest() (late time.Duration) {
	for _, b := range e.beats {
		late = max(late, b.awake)
	}
	return late
}

// hadTime reports whether the metronome was never so late in a window that a burst
// may have been lost.
func (e *evidence) hadTime(from, until time.Time) bool {
	const late = 50 * time.Millisecond
	return !slices.ContainsFunc(e.beats, func(b beat) bool {
		return b.stored > late && b.at.Before(until) && b.at.Add(b.stored).After(from)
	})
}
