package storetest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outhook/outhook"
)

// notify is that Notify wakes after each change that may have made a delivery
// claimable, and ends with its context.
func notify(t *trial) {
	if _, ok := t.Store.(outhook.Notifier); !ok {
		t.skip("the store is no outhook.Notifier")
	}
	stores := []outhook.Store{t.Store}
	if t.Other != nil {
		stores = append(stores, t.Other)
	}
	ctx, cancel := context.WithCancel(t.ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	woken := make([]atomic.Int64, len(stores))
	ended := make([]atomic.Bool, len(stores))
	var f failures
	for i, store := range stores {
		notifier, ok := store.(outhook.Notifier)
		if !ok {
			t.fail("Backend.Other is no outhook.Notifier, though Backend.Store is")
		}
		group.Go(func() {
			defer ended[i].Store(true)
			if err := notifier.Notify(ctx, func() { woken[i].Add(1) }); err == nil || ctx.Err() == nil {
				f.add("Notify ended with %v, want an error, and not before its context", err)
			}
		})
	}
	awake := func(after string) {
		for i := range woken {
			t.until("Notify wakes after "+after, func() bool { return woken[i].Load() > 0 || ended[i].Load() })
		}
	}
	awake("it began")
	wakes := func(after string, call func()) {
		time.Sleep(ms) // for a wake that is still under way
		for i := range woken {
			woken[i].Store(0)
		}
		call()
		awake(after)
	}

	wakes("Enqueue", func() { t.enqueue(t.delivery("a", "s", key("k"), hold)) })
	wakes("Enqueue with a Delay", func() { t.enqueue(t.delivery("late", "s", delay(hour))) })
	t.keyed("b", "c", "d")
	a := t.one("a")
	wakes("Finish of one that is to be retried", func() { t.finish(retry(a, 0)) })
	a = t.one("a")
	wakes("Finish of one that is released", func() { t.finish(release(a)) })
	a = t.one("a")
	if _, ok := t.Store.(outhook.Manager); ok {
		t.settles(a, outhook.Dead)
		wakes("Prune of a dead one that held an order", func() { t.change("Prune", only("a"), 1) })
		b := t.one("b")
		wakes("Finish of the first of an order", func() { t.settles(b, outhook.Delivered) })
		wakes("Cancel of the first of an order", func() { t.change("Cancel", only("c"), 1) })
		wakes("Replay", func() { t.change("Replay", only("c"), 1) })
	} else {
		wakes("Finish of the first of an order", func() { t.settles(a, outhook.Delivered) })
	}
	if _, ok := t.Store.(outhook.StandingStore); ok {
		t.disable("s", false)
		wakes("UpdateStandings", func() { t.enable("s") })
	}
	if t.Other != nil {
		wakes("Enqueue by the other handle", func() { t.other().enqueue(t.delivery("other", "s")) })
	}
	t.must("while Notify runs", f.err())
	cancel()
	for i := range ended {
		t.until("Notify returns when its context has ended", ended[i].Load)
	}
	t.must("when its context has ended", f.err())
}
