//go:build unix

package pgserver

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// query runs a statement with the psql that stands beside the server.
func query(t *testing.T, s *Server, url, statement string) string {
	t.Helper()
	psql := s.psql
	if s.family != nil {
		psql = filepath.Join(filepath.Dir(s.process.cmd.Path), "psql")
	}
	out, err := exec.Command(psql, "-qAtX", "-d", url, "-c", statement).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

func start(t *testing.T, settings ...string) *Server {
	t.Helper()
	s, err := Start(settings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	return s
}

func private(t *testing.T, settings ...string) *Server {
	t.Helper()
	t.Setenv(external, "")
	return start(t, settings...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// alive reports whether any process of a group is left.
func alive(group int) bool { return !errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) }

func TestRestartKeepsWhatWasCommitted(t *testing.T) {
	s := private(t, "max_connections=23")
	require.Equal(t, "on", query(t, s, s.URL(), "SHOW fsync"))
	require.Equal(t, "23", query(t, s, s.URL(), "SHOW max_connections"))
	query(t, s, s.URL(), "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
	first := s.process.cmd.Process.Pid
	require.NoError(t, s.Restart())
	require.NotEqual(t, first, s.process.cmd.Process.Pid)
	require.Equal(t, "7", query(t, s, s.URL(), "SELECT n FROM kept"))
	log, err := os.ReadFile(s.process.log)
	require.NoError(t, err)
	require.Contains(t, string(log), "not properly shut down", "the restart was no crash")
}

func TestStopLeavesNothing(t *testing.T) {
	s := private(t)
	b, err := s.Bouncer()
	require.NoError(t, err)
	require.True(t, alive(s.family.guard.Process.Pid))
	require.NoError(t, s.Stop())
	<-b.process.done
	require.False(t, alive(s.family.guard.Process.Pid))
	require.False(t, exists(s.family.dir))
	require.NoError(t, s.Stop(), "a second time")
}

func TestBouncerPoolsTransactions(t *testing.T) {
	s := private(t)
	b, err := s.Bouncer()
	require.NoError(t, err)
	require.Equal(t, "1", query(t, s, b.URL(), "SELECT 1"))
	require.NoError(t, b.Stop())
	require.NoError(t, b.Stop(), "a second time")
}

func TestFailureQuotesTheLog(t *testing.T) {
	t.Setenv(external, "")
	_, err := Start("no_such_setting=1")
	require.ErrorContains(t, err, "postgres ended")
	require.ErrorContains(t, err, "no_such_setting")
}

// TestDatabaseOfAServerThatWasThere takes a private server as the external one.
func TestDatabaseOfAServerThatWasThere(t *testing.T) {
	host := private(t)
	t.Setenv(external, host.URL())
	t.Setenv("PATH", filepath.Dir(host.process.cmd.Path)+":"+os.Getenv("PATH"))
	s, err := Start()
	require.NoError(t, err)
	require.Equal(t, s.database, query(t, s, s.URL(), "SELECT current_database()"))
	require.ErrorContains(t, s.Restart(), external)
	_, err = s.Bouncer()
	require.ErrorContains(t, err, external)
	require.NoError(t, s.Stop())
	require.Equal(t, "0", query(t, host, host.URL(), "SELECT count(*) FROM pg_database WHERE datname = '"+s.database+"'"))
	require.NoError(t, s.Stop(), "a second time")

	t.Setenv(external, "dbname=x")
	_, err = Start()
	require.ErrorContains(t, err, external)
}

// TestKilledOwner is re-executed as the owner of a server, and killed.
func TestKilledOwner(t *testing.T) {
	if os.Getenv("PGSERVER_TEST_OWNER") != "" {
		s := start(t)
		_, err := s.Bouncer()
		require.NoError(t, err)
		_, err = os.Stdout.WriteString("dir " + s.family.dir + "\n")
		require.NoError(t, err)
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // until killed
		return
	}
	owner := exec.Command(os.Args[0], "-test.run=^TestKilledOwner$")
	owner.Env = append(os.Environ(), "PGSERVER_TEST_OWNER=1", external+"=")
	stdin, err := owner.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	var dir string
	for lines := bufio.NewScanner(stdout); dir == "" && lines.Scan(); {
		_, dir, _ = strings.Cut(lines.Text(), "dir ")
	}
	require.NotEmpty(t, dir)
	pid, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	require.NoError(t, err)
	require.NoError(t, owner.Process.Kill())
	_ = owner.Wait()
	require.Eventually(t, func() bool { return !exists(dir) }, patience, 10*time.Millisecond)
	line, _, _ := bytes.Cut(pid, []byte("\n"))
	require.Eventually(t, func() bool { return !exists("/proc/" + string(line)) }, patience, 10*time.Millisecond)
}
