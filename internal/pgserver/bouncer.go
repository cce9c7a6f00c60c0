//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// A Bouncer is a PgBouncer in front of a private server. It gives a connection to a
// client for one transaction at a time.
type Bouncer struct {
	url     string
	process *process
}

const bouncerConfig = `[databases]
* = host=%s port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
`

// Bouncer starts a bouncer. PgBouncer is installed with apt-get if it is missing
// and this process may do so.
func (s *Server) Bouncer() (*Bouncer, error) {
	if s.family == nil {
		return nil, fmt.Errorf("pgserver: start a bouncer: needs a private server: unset %s", external)
	}
	path, err := bouncerPath()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("pgbouncer-%d", port)
	config := filepath.Join(s.family.dir, name+".ini")
	text := fmt.Sprintf(bouncerConfig, s.family.dir, s.port, port)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	b := &Bouncer{url: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)}
	if b.process, err = s.family.start(name+".log", path, config); err != nil {
		return nil, err
	}
	err = b.process.await(func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err == nil && conn.Close() == nil
	})
	if err != nil {
		return nil, errors.Join(err, b.Stop())
	}
	return b, nil
}

func bouncerPath() (string, error) {
	find := func() (string, error) {
		if path, err := exec.LookPath("pgbouncer"); err == nil {
			return path, nil
		}
		return exec.LookPath("/usr/sbin/pgbouncer") // not in the PATH of every user
	}
	if path, err := find(); err == nil {
		return path, nil
	}
	err := install("pgbouncer")
	if path, err := find(); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("pgserver: no PgBouncer here: install it (%w)", err)
}

// URL returns the address of the server's database, through the bouncer.
func (b *Bouncer) URL() string { return b.url }

// Stop ends the bouncer and closes its connections.
func (b *Bouncer) Stop() error { return b.process.stop(syscall.SIGQUIT) }
