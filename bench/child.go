//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/pgxstore"
)

// Roles of processes that the bench starts.
const (
	roleWorker     = "worker"  // Run on a store
	roleLoop       = "loop"    // the bare loop
	roleNothing    = "nothing" // a program that waits
	roleSimulation = "simulation"
)

// A childPlan is what such a process is told.
type childPlan struct {
	Role        string
	Database    string // URL
	Schema      string // empty: a MemoryStore
	Receiver    string // URL
	Key         string
	Subscribers int
	Concurrency int
	Connections int
	Posts       int    // of the loop
	Body        []byte // of those
	Simulation  *simulationPlan
}

// A childReport is what such a process tells of itself when asked.
type childReport struct {
	HeapMiB float64 // what the garbage collector has left
	PeakMiB float64 // the most of the machine's memory
	CPU     time.Duration
}

// childVariable is set for such a process, to its plan.
const childVariable = "OUTHOOK_BENCH_CHILD"

// beChild reports whether this process is one that the bench has started, once it has
// done what it was told.
func beChild() bool {
	text := os.Getenv(childVariable)
	if text == "" {
		return false
	}
	var p childPlan
	err := json.Unmarshal([]byte(text), &p)
	if err == nil && p.Role == roleSimulation {
		(&simulation{simulationPlan: *p.Simulation}).be(json.NewEncoder(os.Stdout))
	}
	if err == nil {
		err = p.serve(context.Background(), os.Stdin, json.NewEncoder(os.Stdout))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: child:", err)
		os.Exit(1)
	}
	return true
}

// serve answers each line of orders with a report: "go" once it works. It ends with
// the orders.
func (p *childPlan) serve(ctx context.Context, orders io.Reader, answers *json.Encoder) (err error) {
	var run func(ctx context.Context) error
	switch p.Role {
	case roleWorker:
		d, end, err := p.open(ctx)
		if err != nil {
			return err
		}
		defer end()
		run = d.Run
	case roleLoop:
		key, err := outhook.ParseKey(p.Key)
		if err != nil {
			return err
		}
		poster, err := newPoster(key, p.Concurrency)
		if err != nil {
			return err
		}
		defer poster.close()
		r := &receiver{url: p.Receiver}
		run = func(ctx context.Context) error {
			ctx = context.WithoutCancel(ctx) // the last answers are still to be read when all have arrived
			return inTurns(ctx, p.Concurrency, p.Posts, func(ctx context.Context, i int) error {
				return poster.post(ctx, r.path(i%p.Subscribers), newID(), p.Body)
			})
		}
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	var runErr error
	defer func() {
		stop()
		running.Wait()
		err = errors.Join(err, runErr)
	}()
	if err := answers.Encode(childReport{}); err != nil { // it is ready
		return err
	}
	for lines := bufio.NewScanner(orders); lines.Scan(); {
		if lines.Text() == "go" && run != nil {
			running.Go(func() { runErr = run(ctx) })
		}
		if err := answers.Encode(report()); err != nil {
			return err
		}
	}
	return nil
}

func (p *childPlan) open(ctx context.Context) (*outhook.Dispatcher, func(), error) {
	options := &outhook.Options{Guard: outhook.DevelopmentGuard(), Concurrency: p.Concurrency, SubscriberConcurrency: p.Concurrency}
	if p.Schema == "" {
		d, err := outhook.New(outhook.NewMemoryStore(), options)
		return d, func() {}, err
	}
	key, err := outhook.ParseKey(p.Key)
	if err != nil {
		return nil, nil, err
	}
	r := &receiver{url: p.Receiver}
	known := make(customers)
	for i := range p.Subscribers {
		s := outhook.Subscriber{ID: subscriberID(i), URL: r.path(i), Keys: []outhook.Key{key}}
		known[s.ID] = s
	}
	options.Directory = known
	pool, err := connect(ctx, p.Database, p.Connections)
	if err != nil {
		return nil, nil, err
	}
	store, err := pgxstore.New(pool, &pgxstore.Options{Schema: p.Schema})
	if err == nil {
		err = pool.Ping(ctx)
	}
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	d, err := outhook.New(store, options)
	return d, pool.Close, err
}

func report() childReport {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return childReport{
		HeapMiB: float64(m.HeapInuse) / (1 << 20),
		PeakMiB: peak(),
		CPU:     time.Duration(u.Utime.Nano() + u.Stime.Nano()),
	}
}

// peak is the most memory that this process has had, in MiB; 0 where /proc does not tell.
func peak() float64 { return float64(readStatus("/proc/self/status", "VmHWM")) / 1024 }

// A child is a process that the bench has started.
type child struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *json.Decoder
}

// spawn starts this program once more, and returns when it is ready.
func (b *bench) spawn(ctx context.Context, p childPlan) (*child, error) {
	if p.Role == roleWorker || p.Role == roleLoop {
		p.Database, p.Receiver, p.Key = b.database.server.URL(), b.receiver.url, b.key.Secret.Reveal()
		p.Concurrency, p.Connections = b.plan.concurrency, b.plan.connections
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	c := &child{cmd: cmd}
	if c.orders, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.answers = json.NewDecoder(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := c.answer(); err != nil {
		c.kill()
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return c, nil
}

func (c *child) ask(order string) (childReport, error) {
	if _, err := fmt.Fprintln(c.orders, order); err != nil {
		return childReport{}, err
	}
	return c.answer()
}

func (c *child) answer() (r childReport, err error) {
	err = c.answers.Decode(&r)
	return r, err
}

// sleeps is how often its threads have gone to sleep, without waking any. It is -1 where /proc
// does not tell.
func (c *child) sleeps() (n int) {
	dir := fmt.Sprintf("/proc/%d/task", c.cmd.Process.Pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return -1
	}
	for _, thread := range threads {
		n += readStatus(filepath.Join(dir, thread.Name(), "status"), "voluntary_ctxt_switches")
	}
	return n
}

// end lets it finish what it does.
func (c *child) end() error {
	_ = c.orders.Close()
	return c.cmd.Wait()
}

// kill ends it, if it has not ended.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}
