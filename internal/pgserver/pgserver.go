//go:build unix

// Package pgserver starts private PostgreSQL servers for tests.
//
// A server lives in a temporary directory and listens on a free port of
// 127.0.0.1. It ends with the process that started it, however that ends.
package pgserver

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// external names the environment variable with the URL of a server to use
// instead of a private one.
const external = "OUTHOOK_TEST_POSTGRES"

// patience is how long a process may take to start or to end.
const patience = time.Minute

// A Server is a PostgreSQL server of this process, or a database on a server
// that was there.
type Server struct {
	url string

	// Of a private server; nil: it is an external one.
	family   *family
	settings []string
	port     int
	process  *process

	// Of an external server.
	psql, admin, database string
}

// Start returns a running server. settings are those of postgresql.conf, such
// as "max_connections=20"; there are none for an external server.
//
// PostgreSQL is looked for in PATH and in /usr/lib/postgresql, and installed with
// apt-get if it is missing and this process may do so. If
// OUTHOOK_TEST_POSTGRES is set to the URL of a server, a new database of that
// server is returned instead, for which psql is needed.
func Start(settings ...string) (*Server, error) {
	if admin := os.Getenv(external); admin != "" {
		return createDatabase(admin)
	}
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	f, err := newFamily()
	if err != nil {
		return nil, err
	}
	s := &Server{family: f, settings: settings}
	if err := s.init(bin); err != nil {
		return nil, errors.Join(err, f.end())
	}
	return s, nil
}

func (s *Server) init(bin string) (err error) {
	initdb := s.family.command(filepath.Join(bin, "initdb"), "--pgdata="+s.data(), "--username=postgres",
		"--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("pgserver: initdb: %w: %s", err, tail(out))
	}
	if s.port, err = freePort(); err != nil {
		return err
	}
	s.url = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", s.port)
	return s.start(bin)
}

func (s *Server) data() string { return filepath.Join(s.family.dir, "data") }

// start starts the server on its directory and port, and waits until it
// accepts connections.
func (s *Server) start(bin string) (err error) {
	args := []string{"-D", s.data(), "-k", s.family.dir, "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	s.process, err = s.family.start("postgres.log", filepath.Join(bin, "postgres"), args...)
	if err != nil {
		return err
	}
	pid := strconv.Itoa(s.process.cmd.Process.Pid)
	return s.process.await(func() bool { // the first line of this file is the process, the eighth its state
		b, _ := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
		lines := strings.Split(string(b), "\n")
		return len(lines) >= 8 && lines[0] == pid && strings.TrimSpace(lines[7]) == "ready"
	})
}

// URL returns the address of an empty database, for pgx or psql.
func (s *Server) URL() string { return s.url }

// Restart ends the server as a crash would, and starts it again on the same port and
// directory.
func (s *Server) Restart() error {
	if s.family == nil {
		return fmt.Errorf("pgserver: restart: needs a private server: unset %s", external)
	}
	bin := filepath.Dir(s.process.cmd.Path)
	if err := s.process.stop(syscall.SIGQUIT); err != nil {
		return err
	}
	return s.start(bin)
}

// Stop ends the server and its bouncers and removes all that they left. Open
// connections are closed. A second call does nothing.
func (s *Server) Stop() error {
	if s.family == nil {
		return s.dropDatabase()
	}
	return errors.Join(s.process.stop(syscall.SIGINT), s.family.end())
}

func createDatabase(admin string) (*Server, error) {
	u, err := url.Parse(admin)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, fmt.Errorf("pgserver: %s is not a URL with the scheme postgres", external)
	}
	psql, err := exec.LookPath("psql")
	if err != nil {
		return nil, fmt.Errorf("pgserver: psql is needed to create a database on the server of %s", external)
	}
	s := &Server{psql: psql, admin: admin, database: "outhook_" + strings.ReplaceAll(uuid.NewString(), "-", "")}
	if err := s.run("CREATE DATABASE " + s.database); err != nil {
		return nil, err
	}
	u.Path = "/" + s.database
	s.url = u.String()
	return s, nil
}

func (s *Server) dropDatabase() error {
	return s.run("DROP DATABASE IF EXISTS " + s.database + " WITH (FORCE)")
}

func (s *Server) run(statement string) error {
	if out, err := exec.Command(s.psql, "-qX", "-d", s.admin, "-c", statement).CombinedOutput(); err != nil {
		return fmt.Errorf("pgserver: %s: %w: %s", statement, err, tail(out))
	}
	return nil
}

// binaries returns the directory of initdb and postgres.
func binaries() (string, error) {
	find := func() string {
		if path, err := exec.LookPath("initdb"); err == nil {
			if path, err = filepath.EvalSymlinks(path); err == nil {
				return filepath.Dir(path)
			}
		}
		best, newest := "", 0.0
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
		for _, path := range found {
			dir := filepath.Dir(path)
			if v, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64); err == nil && v > newest {
				best, newest = dir, v
			}
		}
		return best
	}
	if dir := find(); dir != "" {
		return dir, nil
	}
	err := install("postgresql")
	if dir := find(); dir != "" {
		return dir, nil
	}
	return "", fmt.Errorf("pgserver: no PostgreSQL here: install version 14 or newer, "+
		"or set %s to the URL of a server on which databases may be created (%w)", external, err)
}

// install installs a Debian package, if this process may.
func install(name string) error {
	if os.Geteuid() != 0 {
		return errors.New("installing needs root")
	}
	apt := func(args ...string) error {
		cmd := exec.Command("apt-get", append([]string{"-qy", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, tail(out))
		}
		return nil
	}
	if apt("install", name) == nil {
		return nil
	}
	if err := apt("update"); err != nil {
		return err
	}
	return apt("install", name)
}

// freePort returns a port below those that systems give to outgoing connections, one
// of which could take it while a server restarts.
func freePort() (port int, err error) {
	for range 100 {
		port = 10000 + int(uuid.New().ID()%20000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("pgserver: find a free port: %w", err)
}

// tail returns the end of a log.
func tail(log []byte) string {
	const enough = 2000
	return strings.TrimSpace(string(log[max(0, len(log)-enough):]))
}
