//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// jobs is River with a worker that signs and posts as the bare loop does, tuned for
// throughput.
type jobs struct {
	*bench
	*poster
	db     *database
	client *river.Client[pgx.Tx]
}

const (
	riverWorkers = 100

	// riverCooldown is the time between fetches. The smallest, of 1 ms, is no faster in
	// a drain, and slower in a flow, for it fetches fewer at a time.
	riverCooldown = 5 * time.Millisecond
)

type webhookArgs struct {
	Subscriber int    `json:"subscriber"`
	ID         string `json:"id"`
	Body       string `json:"body"`
}

func (webhookArgs) Kind() string { return "webhook" }

type webhookWorker struct {
	river.WorkerDefaults[webhookArgs]
	jobs *jobs
}

func (w *webhookWorker) Work(ctx context.Context, job *river.Job[webhookArgs]) error {
	return w.jobs.post(ctx, w.jobs.subscribers[job.Args.Subscriber].URL, job.Args.ID, []byte(job.Args.Body))
}

func (b *bench) openRiver(ctx context.Context) (contender, error) {
	p, err := newPoster(b.key, riverWorkers)
	if err != nil {
		return nil, err
	}
	db, err := b.database.fresh(ctx, "river", b.plan.connections)
	if err != nil {
		return nil, err
	}
	j := &jobs{bench: b, poster: p, db: db}
	if err := j.open(ctx); err != nil {
		return nil, errors.Join(err, db.drop())
	}
	return j, nil
}

func (j *jobs) open(ctx context.Context) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	driver := riverpgxv5.New(j.db.pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Schema: j.db.schema, Logger: logger})
	if err != nil {
		return fmt.Errorf("river: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("river: migrate: %w", err)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &webhookWorker{jobs: j})
	j.client, err = river.NewClient(driver, &river.Config{
		Schema:            j.db.schema,
		Workers:           workers,
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
		FetchCooldown:     riverCooldown,
		FetchPollInterval: 100 * time.Millisecond, // it is notified, too
		JobTimeout:        -1,
		Logger:            logger,
	})
	return err
}

func (j *jobs) send(ctx context.Context, id string, first, k int) error {
	var params []river.InsertManyParams
	for i := range k {
		params = append(params, j.job(id, first+i))
	}
	_, err := j.client.InsertManyFast(ctx, params)
	return err
}

func (j *jobs) job(id string, subscriber int) river.InsertManyParams {
	return river.InsertManyParams{Args: webhookArgs{Subscriber: subscriber % len(j.subscribers), ID: id, Body: string(j.body)}}
}

func (j *jobs) enqueue(ctx context.Context, n int) error {
	const batch = 1000
	err := inTurns(ctx, 4, (n+batch-1)/batch, func(ctx context.Context, i int) error {
		params := make([]river.InsertManyParams, min(batch, n-i*batch))
		for k := range params {
			params[k] = j.job(newID(), k)
		}
		_, err := j.client.InsertManyFast(ctx, params)
		return err
	})
	if err != nil {
		return err
	}
	return j.database.vacuum(ctx, j.db.schema)
}

func (j *jobs) drain(ctx context.Context, t *tally) error { return j.running(ctx, t.wait) }

// running calls f while the client works. Stopping waits until what was done is recorded.
func (j *jobs) running(ctx context.Context, f func(ctx context.Context) error) error {
	if err := j.client.Start(ctx); err != nil {
		return fmt.Errorf("river: start: %w", err)
	}
	err := f(ctx)
	return errors.Join(err, j.client.Stop(context.WithoutCancel(ctx)))
}

func (j *jobs) close() error {
	j.poster.close()
	return j.db.drop()
}
