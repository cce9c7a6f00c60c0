//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/outhook/outhook"
)

// send is the role of a sender: of every Senders events, the one with its
// index, from first on. It says so when one was accepted; what it has not said is
// sent again, under the same ID, by the next process in its place.
func send(ctx context.Context, p *plan, first int, s *points) error {
	store, end, err := openStore(ctx, p, 0)
	if err != nil {
		return err
	}
	defer end()
	d, err := outhook.New(s.around(store), s.options(p))
	if err != nil {
		return err
	}
	if p.sendersWork() {
		running, stop := context.WithCancel(ctx)
		ended := make(chan error)
		go func() { ended <- d.Run(running) }()
		defer func() {
			stop()
			if down := <-ended; down != nil { // outcomes that the store would not take: it is down at times
				fmt.Println(saidDown, down)
			}
		}()
	}
	subscribers := p.subscribers()
	interval := p.Spread / time.Duration(max(p.Events, 1))
	for n := first; n < p.Events; n += p.Senders {
		if err := sleep(ctx, time.Until(p.Begin.Add(time.Duration(n)*interval))); err != nil {
			return err
		}
		for {
			if _, err := d.Send(ctx, p.event(n), subscribers); err == nil {
				break
			}
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
		fmt.Println(saidSent, n)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
