//go:build linux

package hostile_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// A world is a network of the test's own, in which every address, public and
// private, is this machine. Whatever address is dialled, the connection is made,
// noted and answered: what the guard lets through is seen, and nothing leaves.
//
// A test gets one by inWorld.
type world struct {
	names *nameServer

	mu          sync.Mutex       // guards all below
	connections []netip.AddrPort // that were made, by the address that was dialled
	opens       int              // by the kernel's count, when forget was called last
	proxied     []string         // what proxies were asked for, as "METHOD host:port"
}

const (
	insideWorld = "OUTHOOK_TEST_IN_WORLD" // set in the process that stands in a world
	figures     = "figures: "
)

const needNamespaces = "These tests need user, mount and network namespaces, and IPv6. " +
	"Run them as root, or allow namespaces to everybody: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1 " +
	"and kernel.apparmor_restrict_unprivileged_userns=0, as far as the system has them. " +
	"A container has to be started with --privileged."

const needCgo = "These tests need the resolver of the C library, which is not in this binary. " +
	"Install a C compiler, such as gcc, and build with CGO_ENABLED=1 and without the tag netgo."

// inWorld runs a test twice, with Go's own resolver and with that of the C library.
// Either has a process of its own, since GODEBUG and proxies in the environment
// are read once, and only a new process can have a new network. env is added to
// the environment of that process, as "NAME=value". f runs in it.
func inWorld(t *testing.T, env []string, f func(t *testing.T, w *world)) {
	for _, resolver := range []string{"go", "cgo"} {
		t.Run(resolver, func(t *testing.T) {
			if os.Getenv(insideWorld) != "" {
				f(t, newWorld(t))
				return
			}
			enterWorld(t, resolver, env)
		})
	}
}

// enterWorld runs the current test again, in a process with new namespaces.
func enterWorld(t *testing.T, resolver string, env []string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, self, "-test.v", "-test.count=1", "-test.timeout=2m", "-test.run="+run)
	cmd.Env = append(os.Environ(), insideWorld+"=1", "GODEBUG=netdns="+resolver+"+2",
		"GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0") // a second for each process otherwise
	cmd.Env = append(cmd.Env, env...)
	cmd.WaitDelay = time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// As root, too: then nothing that goes wrong inside can touch the machine.
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	require.NoError(t, cmd.Start(), needNamespaces)
	err = cmd.Wait()

	lookups, rest := splitResolver(stderr.String())
	require.NoError(t, err, "in its world, the test failed:\n%s\n%s", withoutRuns(stdout.String()), rest)
	require.Contains(t, stdout.String(), "--- PASS: "+t.Name()+" ", "in its world, the test did not run") // nor was it skipped
	checkResolver(t, resolver, lookups, rest)
	for line := range strings.Lines(stdout.String()) {
		if _, figure, ok := strings.Cut(line, figures); ok {
			t.Log(strings.TrimSpace(figure))
		}
	}
}

// withoutRuns leaves out what a test prints when it begins and goes on.
func withoutRuns(stdout string) string {
	var b strings.Builder
	for line := range strings.Lines(stdout) {
		if !strings.HasPrefix(line, "=== ") && !strings.Contains(line, "--- PASS: ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// splitResolver takes from what a process has printed what package net tells of
// its look-ups, at GODEBUG=netdns=+2: "hostLookupOrder(name) = resolver".
func splitResolver(stderr string) (lookups []string, rest string) {
	var b strings.Builder
	for line := range strings.Lines(stderr) {
		if _, order, ok := strings.Cut(line, "hostLookupOrder("); ok {
			_, resolver, _ := strings.Cut(strings.TrimSpace(order), ") = ")
			lookups = append(lookups, resolver)
		} else {
			b.WriteString(line)
		}
	}
	return lookups, b.String()
}

// checkResolver checks that a process has made its look-ups by the resolver that
// it was told to use.
func checkResolver(t *testing.T, resolver string, lookups []string, stderr string) {
	t.Helper()
	if resolver == "cgo" && !strings.Contains(stderr, "GODEBUG setting forcing use of the cgo resolver") {
		require.FailNow(t, needCgo, stderr)
	}
	require.NotEmpty(t, lookups, "no name was looked up")
	for _, used := range lookups {
		require.Equal(t, resolver == "cgo", used == "cgo", "a look-up was made by %q", used)
	}
	t.Logf("%d look-ups, all by the resolver %q", len(lookups), resolver)
}

// newWorld furnishes the namespaces that this process was started in.
func newWorld(t *testing.T) *world {
	t.Helper()
	bareNetwork(t)
	replaceFiles(t)
	require.NotEqual(t, -1, activeOpens(), "no count of TCP connections in /proc/self/net/snmp")
	w := &world{names: serveNames(t)}
	w.forget()
	authority := newAuthority(t)
	for number, tls := range ports(readRows(t)) {
		w.serve(t, number, tls, authority, http.HandlerFunc(accept))
	}
	w.serve(t, proxyPort, false, authority, http.HandlerFunc(w.proxy))
	return w
}

// bareNetwork makes every address one of this machine.
func bareNetwork(t *testing.T) {
	t.Helper()
	links, err := netlink.LinkList()
	require.NoError(t, err, needNamespaces)
	for _, link := range links { // not to be changed if this is the machine's own network
		require.Zero(t, link.Attrs().Flags&net.FlagUp, "%s is set although there is no network of the test's own", insideWorld)
	}
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("0"), 0) // if it is there, and 1
	require.NoError(t, netlink.LinkSetUp(lo), needNamespaces)
	for _, prefix := range []string{"0.0.0.0/0", "::/0"} { // as "ip route add local PREFIX dev lo"
		_, all, err := net.ParseCIDR(prefix)
		require.NoError(t, err)
		require.NoError(t, netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index,
			Dst:       all,
			Type:      syscall.RTN_LOCAL,
			Table:     syscall.RT_TABLE_LOCAL,
			Scope:     netlink.SCOPE_HOST,
		}), "%s: %s", prefix, needNamespaces)
	}
}

// replaceFiles puts the files that resolvers read in the place of the machine's, for
// this process alone.
func replaceFiles(t *testing.T) {
	t.Helper()
	require.NoError(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), needNamespaces)
	dir := t.TempDir()
	for path, text := range map[string]string{
		"/etc/resolv.conf":   "nameserver 127.0.0.1\nsearch .\noptions timeout:10 attempts:1\n",
		"/etc/nsswitch.conf": "hosts: files dns\n",
		"/etc/hosts": "127.0.0.1 localhost\n" +
			"::1 localhost ip6-localhost ip6-loopback\n",
	} {
		if _, err := os.Stat(path); os.IsNotExist(err) && path == "/etc/nsswitch.conf" {
			continue // a C library that needs none, and Go, do as ours says
		}
		own := filepath.Join(dir, filepath.Base(path))
		require.NoError(t, os.WriteFile(own, []byte(text), 0o644))
		require.NoError(t, syscall.Mount(own, path, "", syscall.MS_BIND, ""), "%s: %s", path, needNamespaces)
	}
	// A cache of names would be asked outside.
	for _, socket := range []string{"/run/nscd", "/var/run/nscd"} {
		if _, err := os.Stat(socket); err == nil {
			require.NoError(t, syscall.Mount("none", socket, "tmpfs", 0, ""), needNamespaces)
		}
	}
}

// accept is a receiver that takes everything.
func accept(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusNoContent)
}

// proxyPort is where proxies are, at any address.
const proxyPort = 3128

// proxy is a proxy that notes what it is asked for. A URL it answers itself, a
// tunnel it makes.
func (w *world) proxy(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.proxied = append(w.proxied, r.Method+" "+r.Host)
	w.mu.Unlock()
	if r.Method != http.MethodConnect {
		accept(rw, r)
		return
	}
	target, err := net.Dial("tcp", r.Host)
	if err != nil {
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = target.Close() }()
	client, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = client.Close() }()
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, target)
		_ = client.Close()
	})
	_, _ = io.Copy(target, client)
	_ = target.Close()
	back.Wait()
}

// serve has a handler answer on a port, of whatever address.
func (w *world) serve(t *testing.T, number uint16, withTLS bool, authority *authority, handler http.Handler) {
	t.Helper()
	server := &http.Server{
		Handler:   handler,
		TLSConfig: &tls.Config{GetCertificate: authority.certify},
		ErrorLog:  log.New(io.Discard, "", 0), // clients that leave early
	}
	var serving sync.WaitGroup
	for network, address := range map[string]string{"tcp4": "0.0.0.0", "tcp6": "::"} {
		listener, err := net.Listen(network, net.JoinHostPort(address, strconv.Itoa(int(number))))
		require.NoError(t, err, needNamespaces)
		listener = &recorder{listener, w}
		serving.Go(func() {
			if withTLS {
				_ = server.ServeTLS(listener, "", "")
			} else {
				_ = server.Serve(listener)
			}
		})
	}
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
}

// A recorder notes which addresses were dialled.
type recorder struct {
	net.Listener
	w *world
}

func (r *recorder) Accept() (net.Conn, error) {
	conn, err := r.Listener.Accept()
	if err != nil {
		return nil, err
	}
	dialled := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.connections = append(r.w.connections, netip.AddrPortFrom(dialled.Addr().Unmap(), dialled.Port()))
	return conn, nil
}

// forget clears the record of connections and of look-ups.
func (w *world) forget() {
	w.mu.Lock()
	w.connections, w.proxied, w.opens = nil, nil, activeOpens()
	w.mu.Unlock()
	w.names.forget()
}

// dialled returns the addresses and ports that were connected to since the last forget.
func (w *world) dialled() []netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.connections)
}

// askedProxy returns what proxies were asked for since the last forget.
func (w *world) askedProxy() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.proxied)
}

// attempted returns how many TCP connections were begun since the last forget, by the
// kernel's count, which includes those to ports that are closed.
func (w *world) attempted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return activeOpens() - w.opens
}

// activeOpens returns the kernel's count of the TCP connections that were begun in
// this network, -1 if it cannot be read.
func activeOpens() int {
	text, err := os.ReadFile("/proc/self/net/snmp")
	if err != nil {
		return -1
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if cells := strings.Fields(line); cells[0] == "Tcp:" && names == nil {
			names = cells
		} else if cells[0] == "Tcp:" {
			n, err := strconv.Atoi(cells[slices.Index(names, "ActiveOpens")])
			if err != nil {
				return -1
			}
			return n
		}
	}
	return -1
}

// A nameServer is the DNS server of a world.
type nameServer struct {
	mu    sync.Mutex // guards all below
	zone  map[string]*answers
	other *answers // of the names that are not in zone; nil: there is no such name
	log   []string // names that were asked for, in lower case, for each type once more
}

// answers are what a name resolves to, in turn.
type answers struct {
	steps []answer
	cycle bool           // begin again after the last; or else stay there
	asked map[uint16]int // how often, by type of record
}

// An answer is the addresses of a name, by type of record.
type answer map[uint16][]netip.Addr

func serveNames(t *testing.T) *nameServer {
	t.Helper()
	s := &nameServer{zone: make(map[string]*answers)}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:53")
	require.NoError(t, err, needNamespaces)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(s.serve)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ActivateAndServe() })
	t.Cleanup(func() {
		_ = conn.Close()
		serving.Wait()
	})
	return s
}

func (s *nameServer) serve(rw dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	question := request.Question[0]
	addrs, exists := s.look(strings.ToLower(strings.TrimSuffix(question.Name, ".")), question.Qtype)
	if !exists {
		reply.Rcode = dns.RcodeNameError
	}
	for _, addr := range addrs { // TTL 0
		header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET}
		if question.Qtype == dns.TypeA {
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
		} else {
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
		}
	}
	_ = rw.WriteMsg(reply)
}

// look returns the answer that a name is at for a type, and moves on. Resolvers ask
// for A and AAAA at the same time, so that both move together.
func (s *nameServer) look(name string, qtype uint16) (addrs []netip.Addr, exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, name)
	a := s.zone[name]
	if a == nil {
		a = s.other
	}
	if a == nil {
		return nil, false
	}
	n := a.asked[qtype]
	a.asked[qtype]++
	if a.cycle {
		n %= len(a.steps)
	}
	return a.steps[min(n, len(a.steps)-1)][qtype], true
}

// answer gives a name its answers, from the first one on.
func (s *nameServer) answer(name string, cycle bool, steps ...answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = &answers{steps: steps, cycle: cycle, asked: make(map[uint16]int)}
}

// answerOthers gives all names that have no answers of their own one.
func (s *nameServer) answerOthers(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.other = &answers{steps: []answer{a}, asked: make(map[uint16]int)}
}

func (s *nameServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// asked returns the names that were asked for since the last forget, each once.
func (s *nameServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Clone(s.log)
	slices.Sort(names)
	return slices.Compact(names)
}

// An authority certifies every name and address, and is trusted by this process as
// those that came with the system would be: so the default transport needs no option.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey

	mu     sync.Mutex
	issued map[string]*tls.Certificate // guarded by mu
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := certificate()
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "authority.pem")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600))
	t.Setenv("SSL_CERT_FILE", path) // crypto/x509 reads it at the first handshake
	parsed, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	return &authority{certificate: parsed, key: key, issued: make(map[string]*tls.Certificate)}
}

func certificate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "a world of its own"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
}

// certify returns the certificate of the name that a client asks for, or else of
// the address that it has dialled.
func (a *authority) certify(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	template, name := certificate(), hello.ServerName
	if name == "" {
		ip := hello.Conn.LocalAddr().(*net.TCPAddr).IP
		name, template.IPAddresses = ip.String(), []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if issued := a.issued[name]; issued != nil {
		return issued, nil
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	a.issued[name] = &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: a.key}
	return a.issued[name], nil
}
