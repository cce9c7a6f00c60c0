//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownCPU is what this process has spent, the receiver included.
func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// threadTimes is how long the threads of this process have had a processor, and waited for one.
type threadTimes struct{ ran, waited time.Duration }

// ownThreads returns zeros where /proc does not tell.
func ownThreads() (sum threadTimes) {
	entries, _ := os.ReadDir("/proc/self/task")
	for _, e := range entries {
		line, _ := os.ReadFile("/proc/self/task/" + e.Name() + "/schedstat")
		var ran, waited int64 // nanoseconds
		_, _ = fmt.Sscan(string(line), &ran, &waited)
		sum.ran += time.Duration(ran)
		sum.waited += time.Duration(waited)
	}
	return sum
}

// processes returns how to ask what all processes of the server have spent, those that
// have ended included. It is 0 where /proc does not tell.
func (s *databaseServer) processes(ctx context.Context) func() time.Duration {
	none := func() time.Duration { return 0 }
	var backend int
	if err := s.pool.QueryRow(ctx, "select pg_backend_pid()").Scan(&backend); err != nil {
		return none
	}
	b, ok := readStat(backend)
	if !ok {
		return none
	}
	return func() time.Duration {
		postmaster, _ := readStat(b.parent)
		sum := postmaster.own + postmaster.ended
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil {
				if p, ok := readStat(pid); ok && p.parent == b.parent {
					sum += p.own + p.ended
				}
			}
		}
		return sum
	}
}

// readStatus returns a number of a status file of /proc, 0 where it does not tell.
func readStatus(path, name string) (n int) {
	status, _ := os.ReadFile(path)
	_, rest, _ := strings.Cut(string(status), "\n"+name+":")
	_, _ = fmt.Sscan(rest, &n)
	return n
}

type stat struct {
	parent     int
	own, ended time.Duration // of itself, and of its children that have ended
}

func readStat(pid int) (s stat, ok bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, false
	}
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:]) // the third of proc(5) is the first here
	if len(fields) < 15 {
		return s, false
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(string(fields[i-3]))
		return n
	}
	const tick = 10 * time.Millisecond // of Linux, for user space
	return stat{
		parent: number(4),
		own:    time.Duration(number(14)+number(15)) * tick,
		ended:  time.Duration(number(16)+number(17)) * tick,
	}, true
}
