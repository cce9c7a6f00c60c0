//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/outhook/outhook"
)

// patience is how long what was accepted may take to be settled when the faults are over.
const patience = 3 * time.Minute

// A parent is the state of a run.
type parent struct {
	plan      *plan
	out       io.Writer
	dir       string                  // of the run
	fail      context.CancelCauseFunc // ends the run
	family    *family
	receiver  *receiver
	trial     *trial
	metronome metronome
	database  database
	program   string // of senders
	skewed    string // of workers
	workers   []*place
	senders   []*place
	stopping  atomic.Bool

	mu          sync.Mutex // guards all below
	sent        []bool     // by event
	late        []outhook.DeliveryID
	points      map[string]int  // kills by point
	said        map[string]int  // by what
	kills       int             // of workers
	dead        map[string]bool // workers that were killed, by User-Agent
	senderKills int
	stops       int
	downs       int // how often a worker has found the store unusable
	trips       int // breaker: what the store has counted in the end
}

// A place is where one process after the other plays the same role.
type place struct {
	role    role
	program string
	env     []string
	current atomic.Pointer[child]
	taken   atomic.Bool // by a fault, so that no other meddles
}

// run does what the plan says and returns an error if anything is amiss.
func run(ctx context.Context, p plan, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "outhook-crash-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r := &parent{
		plan: &p, out: out, dir: dir, fail: fail, trial: newTrial(&p), sent: make([]bool, p.Events),
		points: make(map[string]int), said: make(map[string]int), dead: make(map[string]bool),
	}
	if r.program, err = os.Executable(); err != nil {
		return err
	}
	r.skewed = r.program
	if p.Store == "postgres" && p.Skew != 0 {
		if r.skewed, err = buildSkewed(dir); err != nil {
			return err
		}
	}
	if r.database, err = startDatabase(&p, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.database.close()) }()
	store, end, err := r.database.open(ctx)
	if err != nil {
		return err
	}
	defer end()
	if r.receiver, err = listen(&p, r.trial); err != nil {
		return err
	}
	defer r.receiver.stop()
	if r.family, err = newFamily(); err != nil {
		return err
	}
	defer r.family.end()

	p.Database, p.Receiver, p.Begin = r.database.address(), r.receiver.url, time.Now()
	r.print("scenario=%s store=%s seed=%d", p.Scenario, p.Store, p.Seed)
	work := r.rage
	if r.trial != nil {
		work = r.try
	}
	if err := work(ctx, store); err != nil {
		return err
	}
	seconds := time.Since(p.Begin).Seconds()
	r.receiver.stop()
	e, err := r.evidence(ctx, store)
	if err != nil {
		return err
	}
	f := e.check()
	figures := e.checkScenario(&f)
	for _, what := range f.violations {
		r.print("violation: %s", what)
	}
	if p.Scenario == scenarioLoss {
		r.print("%s sender_kills=%d points=%s stops=%d store_downs=%d requests=%d skewed=%d overtaken=%d",
			r.database.faults(), r.senderKills, counts(r.points), r.stops, r.downs, len(e.requests), f.skewed, f.overtaken)
		r.print("store=%s kills=%d processes=%d deliveries=%d delivered=%d dead=%d lost=%d corrupt=%d duplicates=%d bound=%d late_outcomes_lost=%d %s seconds=%.0f",
			p.Store, r.kills, p.Workers, f.deliveries, f.delivered, f.dead, f.lost, f.corrupt, f.duplicates, e.bound(), len(r.late), r.database.faults(), seconds)
	} else {
		r.print("scenario=%s store=%s processes=%d kills=%d deliveries=%d delivered=%d dead=%d lost=%d duplicates=%d %s seconds=%.0f",
			p.Scenario, p.Store, p.Workers, r.kills, f.deliveries, f.delivered, f.dead, f.lost, f.duplicates, figures, seconds)
	}
	if n := len(f.violations); n > 0 {
		return fmt.Errorf("%d violations with seed %d", n, p.Seed)
	}
	return nil
}

// employ starts the workers, and stops them when f has returned.
func (r *parent) employ(ctx context.Context, f func() error) error {
	var processes sync.WaitGroup
	defer processes.Wait()
	defer r.family.end() // before waiting for the processes
	for i := range r.plan.Workers {
		w := &place{role: role{"worker", i, *r.plan}, program: r.skewed, env: r.plan.clock(i)}
		r.workers = append(r.workers, w)
		processes.Go(func() { r.keep(ctx, w) })
	}
	defer r.stopping.Store(true) // before the family ends: nobody is to be replaced
	if err := f(); err != nil {
		return err
	}
	r.stopping.Store(true)
	for _, w := range r.workers {
		w.current.Load().signal(syscall.SIGTERM)
	}
	processes.Wait()
	return context.Cause(ctx)
}

// rage starts all processes, causes all faults, and returns when all is settled and
// all processes have ended.
func (r *parent) rage(ctx context.Context, store durable) error {
	return r.employ(ctx, func() error { return r.fault(ctx, store) })
}

// fault starts the senders, causes all faults, and returns when all is settled.
func (r *parent) fault(ctx context.Context, store durable) error {
	var faults, idle, sending sync.WaitGroup
	for i := range r.plan.Senders {
		s := &place{role: role{"sender", i, *r.plan}, program: r.program}
		r.senders = append(r.senders, s)
		sending.Go(func() { r.keep(ctx, s) })
	}
	defer sending.Wait()

	holding, release := context.WithCancel(ctx)
	defer release()
	idle.Go(func() { r.check(r.database.idle(holding)) })
	faults.Go(func() { r.check(r.kill(ctx)) })
	faults.Go(func() { r.check(r.stop(ctx)) })
	faults.Go(func() { r.check(r.disturb(ctx)) })
	faults.Wait()
	sending.Wait()
	release()
	idle.Wait()
	r.tell("all is sent, all faults are over")
	return r.settled(ctx, store)
}

// keep starts one process after the other in a place, until its role is over.
func (r *parent) keep(ctx context.Context, at *place) {
	for ctx.Err() == nil {
		c, err := r.family.start(at.program, at.role, at.env, func(c *child, line string) { r.hear(at, c, line) })
		if err != nil {
			r.fail(err)
			return
		}
		if at.current.Store(c); r.stopping.Load() { // the signal may have gone to the one before
			c.signal(syscall.SIGTERM)
		}
		killed, err := c.wait()
		switch {
		case ctx.Err() != nil, killed && r.stopping.Load():
			return
		case killed:
			r.killed(at)
		case err != nil:
			r.fail(fmt.Errorf("a %s has failed: %w", at.role.Name, err))
			return
		case at.role.Name == "sender" || r.stopping.Load():
			return
		default:
			r.fail(errors.New("a worker has ended by itself"))
			return
		}
	}
}

func (r *parent) killed(at *place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.role.Name == "worker" {
		r.kills++
		r.dead[at.current.Load().userAgent()] = true
		return
	}
	r.senderKills++
	for at.role.Index < r.plan.Events && r.sent[at.role.Index] {
		at.role.Index += r.plan.Senders
	}
}

// hear notes what a process says.
func (r *parent) hear(at *place, c *child, line string) {
	what, rest, _ := strings.Cut(line, " ")
	r.tell("%s %d: %s", at.role.Name, at.role.Index, line)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said[what]++
	switch what {
	case saidSent:
		var n int
		if _, err := fmt.Sscan(rest, &n); err == nil && 0 <= n && n < len(r.sent) {
			r.sent[n] = true
		}
	case saidLate:
		r.late = append(r.late, deliveryID(rest))
		c.late.say()
	case saidStopped:
		c.stopped <- deliveryID(rest) // once, since it was told once
	case saidPoint:
		r.points[rest]++
	case saidDown:
		r.downs++
	case saidFailed:
		if r.trial != nil {
			r.trial.stored(deliveryID(rest))
		}
	}
}

func deliveryID(said string) outhook.DeliveryID {
	event, subscriber, _ := strings.Cut(said, " ")
	return outhook.DeliveryID{Event: event, Subscriber: subscriber}
}

// settled waits until nothing is pending.
func (r *parent) settled(ctx context.Context, store outhook.Manager) error {
	var stats outhook.Stats
	err := errors.New("never asked")
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if stats, err = store.Stats(ctx); err == nil && stats.Pending == 0 {
			return nil
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("the store does not come back: %w", err)
	}
	r.print("violation: not settled after %v: %+v", patience, stats)
	return nil // the check says which
}

// interruptions counts the workers that were killed, or stopped beyond a lease.
func (r *parent) interruptions() int {
	n := r.kills + r.stops
	if r.plan.sendersWork() {
		n += r.senderKills
	}
	return n
}

// evidence gathers what is known at the end.
func (r *parent) evidence(ctx context.Context, store outhook.Manager) (*evidence, error) {
	e := &evidence{
		plan:          r.plan,
		sent:          r.sent,
		requests:      r.receiver.requests(),
		records:       make(map[outhook.DeliveryID]outhook.Record),
		late:          r.late,
		interruptions: r.interruptions(),
		stops:         r.stops,
		killed:        r.dead,
		trips:         r.trips,
		beats:         r.metronome.beats,
	}
	for record, err := range store.List(ctx, outhook.Filter{}) {
		if err != nil {
			return nil, err
		}
		e.records[record.ID] = record
	}
	for _, id := range e.curious() {
		record, err := store.Get(ctx, id)
		if errors.Is(err, outhook.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		e.detailed = append(e.detailed, record)
	}
	return e, nil
}

func (r *parent) check(err error) {
	if err != nil {
		r.fail(err)
	}
}

func (r *parent) print(format string, args ...any) {
	fmt.Fprintf(r.out, "crash: "+format+"\n", args...)
}

// tell prints if asked to.
func (r *parent) tell(format string, args ...any) {
	if r.plan.Verbose {
		r.print("%5.1f "+format, append([]any{time.Since(r.plan.Begin).Seconds()}, args...)...)
	}
}

func counts(of map[string]int) string {
	var list []string
	for what, n := range of {
		list = append(list, fmt.Sprint(what, ":", n))
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
