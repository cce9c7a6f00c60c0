//go:build unix

package main

import "context"

// A loop only posts: nothing is stored.
type loop struct {
	*bench
	*poster
	n int
}

func (b *bench) openLoop() (contender, error) {
	p, err := newPoster(b.key, b.plan.concurrency)
	return &loop{bench: b, poster: p}, err
}

func (l *loop) enqueue(_ context.Context, n int) error {
	l.n += n
	return nil
}

// backlog returns how many were enqueued, and empties it.
func (l *loop) backlog() (n int) {
	n, l.n = l.n, 0
	return n
}

func (l *loop) drain(ctx context.Context, _ *tally) error {
	return inTurns(ctx, l.plan.concurrency, l.backlog(), func(ctx context.Context, i int) error {
		return l.send(ctx, newID(), i, 1)
	})
}

func (l *loop) send(ctx context.Context, id string, first, k int) error {
	for i := range k {
		if err := l.post(ctx, l.subscribers[(first+i)%len(l.subscribers)].URL, id, l.body); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) running(ctx context.Context, f func(ctx context.Context) error) error { return f(ctx) }

func (l *loop) close() error {
	l.poster.close()
	return nil
}
