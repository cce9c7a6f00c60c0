//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"github.com/outhook/outhook"
)

// roleVariable holds the role of a process that the parent has started.
const roleVariable = "OUTHOOK_CRASH_ROLE"

// A role is what a process is there for.
type role struct {
	Name  string // "sender" or "worker"
	Index int    // of the worker; of a sender, the first event that it sends
	Plan  plan
}

func roleOf() string { return os.Getenv(roleVariable) }

// playRole is the whole life of a process that is not the parent.
func playRole() (status int) {
	var r role
	if err := json.Unmarshal([]byte(roleOf()), &r); err != nil {
		fmt.Fprintln(os.Stderr, "crash: role:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &points{}
	if r.Plan.Scenario == scenarioRate {
		s.together = make(chan struct{})
	}
	go s.obey(os.Stdin) // ends with the process
	var err error
	switch r.Name {
	case "sender":
		err = send(ctx, &r.Plan, r.Index, s)
	case "worker":
		err = work(ctx, &r.Plan, r.Index, s)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "crash: %s: %v\n", r.Name, err)
		return 1
	}
	return 0
}

// A family is the processes of a run. A shell, the guard, waits for the end of a
// pipe, which comes with the end of the parent at the latest, and kills them,
// those that are stopped as well.
type family struct {
	guard *exec.Cmd
	pipe  io.Closer
}

func newFamily() (*family, error) {
	f := &family{guard: exec.Command("/bin/sh", "-c", "read -r _; kill -s KILL 0")}
	f.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if f.pipe, err = f.guard.StdinPipe(); err == nil {
		err = f.guard.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return f, nil
}

func (f *family) end() {
	_ = f.pipe.Close()
	_ = f.guard.Wait() // it kills itself, too
}

// A child is one process of a family.
type child struct {
	cmd     *exec.Cmd
	done    chan struct{}           // closed when it has ended
	faults  tail                    // what it has written to its standard error
	late    word                    // an outcome came too late
	stopped chan outhook.DeliveryID // it has stopped itself after an attempt of this one

	mu    sync.Mutex // guards stdin
	stdin io.Writer
}

// start starts a program in a role. hear is called with each line that it says.
func (f *family) start(program string, r role, env []string, hear func(c *child, line string)) (*child, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", r.Name, err)
	}
	c := &child{cmd: exec.Command(program), done: make(chan struct{}), late: make(word, 1), stopped: make(chan outhook.DeliveryID, 1)}
	c.cmd.Env = append(append(os.Environ(), roleVariable+"="+string(text)), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: f.guard.Process.Pid}
	c.cmd.Stdout = &lines{hear: func(line string) { hear(c, line) }}
	c.cmd.Stderr = &c.faults
	if c.stdin, err = c.cmd.StdinPipe(); err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", r.Name, err)
	}
	return c, nil
}

// wait waits for the end of the process, and returns nil if it was killed.
func (c *child) wait() (killed bool, err error) {
	err = c.cmd.Wait()
	close(c.done)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
			return true, nil
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, c.faults.String())
	}
	return false, err
}

func (c *child) signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) } // it may have ended

// tell gives an order. A process that has ended does not hear it.
func (c *child) tell(what ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintln(c.stdin, what...)
}

// userAgent is that of its requests.
func (c *child) userAgent() string { return userAgent(c.cmd.Process.Pid) }

// ended reports whether the process has ended.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// lines hands on what is written to it, line by line.
type lines struct {
	rest []byte
	hear func(line string)
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.hear(string(line))
		l.rest = rest
	}
}

// A tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	const enough = 4000
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-enough):]
	return len(b), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.b)) }
