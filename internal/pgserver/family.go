//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// A family is a group of processes with a directory. A shell, the guard, waits
// for the end of a pipe, which comes with the end of this process at the
// latest; then it ends the others and removes the directory.
type family struct {
	dir   string
	user  *syscall.Credential // whom the processes run as; nil: the user of this process
	guard *exec.Cmd
	pipe  io.Closer
}

const guard = `trap '' QUIT; read -r _; kill -s QUIT 0
for _ in 1 2 3 4 5; do rm -rf "$0" && exit; sleep 1; done; exit 1`

func newFamily() (*family, error) {
	f := &family{}
	var err error
	if os.Geteuid() == 0 { // as whom PostgreSQL refuses to run
		if f.user, err = unprivileged(); err != nil {
			return nil, err
		}
	}
	if f.dir, err = os.MkdirTemp("", "outhook-pg-"); err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	f.guard = exec.Command("/bin/sh", "-c", guard, f.dir)
	f.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if f.pipe, err = f.guard.StdinPipe(); err == nil {
		err = f.guard.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pgserver: start the guard: %w", err), os.Remove(f.dir))
	}
	if f.user != nil {
		if err := os.Chown(f.dir, int(f.user.Uid), int(f.user.Gid)); err != nil {
			return nil, errors.Join(fmt.Errorf("pgserver: %w", err), f.end())
		}
	}
	return f, nil
}

func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("pgserver: PostgreSQL does not run as root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("pgserver: user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("pgserver: user %s: %w", u.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// end ends the processes and removes the directory.
func (f *family) end() error {
	if f.guard.ProcessState != nil {
		return nil
	}
	_ = f.pipe.Close()
	if err := f.guard.Wait(); err != nil {
		return fmt.Errorf("pgserver: remove %s: %w", f.dir, err)
	}
	return nil
}

// command returns a command that will be one of the family.
func (f *family) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = f.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: f.guard.Process.Pid, Credential: f.user}
	return cmd
}

// A process is one of a family, with a log.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

func (f *family) start(log, path string, args ...string) (*process, error) {
	p := &process{cmd: f.command(path, args...), log: filepath.Join(f.dir, log), done: make(chan struct{})}
	w, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	defer w.Close()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("pgserver: start %s: %w", filepath.Base(path), err)
	}
	go func() { // ends with the process, which stop waits for
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// await waits until ready reports true.
func (p *process) await(ready func() bool) error {
	deadline := time.After(patience)
	for !ready() {
		select {
		case <-p.done:
			return p.fault("ended: " + p.cmd.ProcessState.String())
		case <-deadline:
			return p.fault("is not ready")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// stop sends a signal and waits for the end of the process.
func (p *process) stop(signal os.Signal) error {
	_ = p.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return p.fault("does not end")
	}
}

func (p *process) fault(what string) error {
	log, _ := os.ReadFile(p.log)
	return fmt.Errorf("pgserver: %s %s: %s", filepath.Base(p.cmd.Path), what, tail(log))
}
