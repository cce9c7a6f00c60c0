package outhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

// A Guard says which URLs and addresses may be called. Customers choose the
// URLs of webhooks, so by default, as the zero Guard, only https to public
// addresses is allowed.
//
// It judges twice: [Guard.CheckURL] when an event is sent and again before each
// attempt, and [Guard.CheckAddr] by the default transport on the very address
// that is about to be dialled, after name resolution, which is the boundary that
// holds whatever a name resolves to.
type Guard struct {
	// PlainHTTP also allows http URLs. Their payloads can be read and
	// changed on the way.
	PlainHTTP bool

	// Ports are those that may be called at public addresses. Nil: all.
	Ports []uint16

	// Allow lists ranges that may be called although they are not public,
	// such as 127.0.0.0/8 or 10.0.0.0/8. With any range, names of private
	// networks such as "localhost" are allowed too: the address decides.
	// Nil: none.
	Allow []Range

	// Deny lists addresses that may not be called although they are public,
	// or in Allow: those of the host itself, say, see [LocalAddresses].
	// Nil: none.
	Deny []netip.Prefix

	// NAT64 lists the /96 prefixes by which this network reaches IPv4 from
	// IPv6 (RFC 6052), such as 64:ff9b::/96: an address in one is judged as
	// the IPv4 address that it ends in. A gateway with a prefix of the
	// network's own, which looks public, has to be in here. Nil: none.
	NAT64 []netip.Prefix

	// Proxy makes the connections, by an http, https or socks5 URL. Then it
	// is the proxy that decides which addresses are called: of this guard
	// only the check of the URL is left, and the proxy's own address is not
	// judged. Nil: no proxy, not even one from the environment.
	Proxy *url.URL
}

// A Range is a range of addresses and ports. An IPv4 range also contains its
// addresses as they are mapped to IPv6, ::ffff:0:0/96.
type Range struct {
	Prefix netip.Prefix
	Ports  []uint16 // nil: all
}

// DevelopmentGuard also allows plain http and the loopback addresses: for
// examples, tests and the developer's own machine.
func DevelopmentGuard() Guard {
	return Guard{PlainHTTP: true, Allow: []Range{
		{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
		{Prefix: netip.MustParsePrefix("::1/128")},
	}}
}

// LocalAddresses returns the addresses of this machine's network interfaces, for
// Guard.Deny: behind a public address of its own, a machine may offer itself what
// it offers nobody else.
func LocalAddresses() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("outhook: local addresses: %w", err)
	}
	var local []netip.Prefix
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(ip.IP); ok {
				addr = addr.Unmap()
				local = append(local, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	return local, nil
}

// Format implements [fmt.Formatter] for all verbs. Of the proxy's URL, which may hold a
// password, it shows scheme and host.
func (g Guard) Format(f fmt.State, verb rune) {
	type plain Guard
	if g.Proxy != nil {
		g.Proxy = &url.URL{Scheme: g.Proxy.Scheme, Host: g.Proxy.Host}
	}
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), plain(g))
}

// clone copies the lists.
func (g Guard) clone() Guard {
	g.Ports, g.Allow, g.Deny, g.NAT64 = slices.Clone(g.Ports), slices.Clone(g.Allow), slices.Clone(g.Deny), slices.Clone(g.NAT64)
	for i := range g.Allow {
		g.Allow[i].Ports = slices.Clone(g.Allow[i].Ports)
	}
	return g
}

// check reports the faults of a guard's own fields.
func (g Guard) check(f *faults) {
	prefix := func(field string, p netip.Prefix) {
		switch {
		case !p.IsValid():
			f.add("", field, "is no valid prefix")
		case p.Addr().Is4In6():
			f.add("", field, "%v is an IPv4 range mapped to IPv6: write it as IPv4", p)
		}
	}
	for i, r := range g.Allow {
		field := fmt.Sprintf("Options.Guard.Allow[%d].Prefix", i)
		prefix(field, r.Prefix)
		if r.Prefix.IsValid() && slices.ContainsFunc(translated6, func(p netip.Prefix) bool {
			return p.Bits() <= r.Prefix.Bits() && p.Contains(r.Prefix.Addr())
		}) {
			f.add("", field, "%v holds IPv4 addresses, which would not be judged: list it in NAT64", r.Prefix)
		}
	}
	for i, p := range g.Deny {
		prefix(fmt.Sprintf("Options.Guard.Deny[%d]", i), p)
	}
	for i, p := range g.NAT64 {
		if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != 96 {
			f.add("", fmt.Sprintf("Options.Guard.NAT64[%d]", i), "%v is no IPv6 prefix of 96 bits", p)
		}
	}
	if p := g.Proxy; p != nil && (p.Host == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, p.Scheme)) {
		f.add("", "Options.Guard.Proxy", "is no http, https or socks5 URL with a host") // it may hold a password
	}
}

const maxURL = 2048 // bytes

// A blocked error matches [ErrBlocked]. Its detail is for the operator, and of a
// URL for whoever chose it.
type blocked struct{ detail string }

func (b *blocked) Error() string { return ErrBlocked.Error() + ": " + b.detail }
func (b *blocked) Unwrap() error { return ErrBlocked }

func block(format string, args ...any) error { return &blocked{fmt.Sprintf(format, args...)} }

// CheckURL parses a URL and returns it as it will be called, an international
// host name in its ASCII form, or an error that matches [ErrBlocked]. It resolves
// no name. The error's text says what is wrong with the URL, and is meant for
// whoever chose it.
func (g Guard) CheckURL(raw string) (*url.URL, error) {
	if len(raw) > maxURL || !utf8.ValidString(raw) {
		return nil, block("the URL is longer than %d bytes or not UTF-8", maxURL)
	}
	if strings.IndexFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) >= 0 {
		return nil, block("the URL holds a space, a control character or a backslash")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, block("the URL cannot be parsed") // the parser's error repeats the URL
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, block("the scheme must be https")
	case u.Scheme == "http" && !g.PlainHTTP:
		return nil, block("plain http is not allowed")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, block("the URL has no host")
	case u.User != nil:
		return nil, block("the URL holds user information")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, block("the URL holds a fragment")
	}
	port, err := portOf(u)
	if err != nil {
		return nil, err
	}
	if u.Host, err = g.checkHost(u.Host, port); err != nil {
		return nil, err
	}
	if len(u.String()) > maxURL { // what has to be escaped is
		return nil, block("the URL is longer than %d bytes", maxURL)
	}
	return u, nil
}

// portOf returns the port of a URL, or that of its scheme.
func portOf(u *url.URL) (uint16, error) {
	switch port := u.Port(); {
	case port != "":
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return 0, block("the port is not in 1 to 65535")
		}
		return uint16(n), nil
	case strings.HasSuffix(u.Host, ":"):
		return 0, block("the port is empty")
	case u.Scheme == "http":
		return 80, nil
	default:
		return 443, nil
	}
}

// checkHost judges the host of a URL, a literal or a name, and returns it with
// its port in ASCII.
func (g Guard) checkHost(hostport string, port uint16) (string, error) {
	host := (&url.URL{Host: hostport}).Hostname()
	if strings.ContainsAny(hostport, "[]") || strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		if err != nil || !addr.Is6() || !strings.HasPrefix(hostport, "[") {
			return "", block("the host is no IPv6 address")
		}
		return hostport, g.checkLiteral(addr, port)
	}
	name, err := hostname(host)
	if err != nil {
		return "", err
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		return name + hostport[len(host):], g.checkLiteral(addr, port)
	}
	if fault := checkName(name); fault != "" {
		return "", block("%s", fault)
	}
	if len(g.Allow) == 0 && isPrivateName(name) {
		return "", block("the host name belongs to private networks")
	}
	if !g.mayCall(port) {
		return "", block("the port is not allowed")
	}
	return name + hostport[len(host):], nil
}

// checkLiteral judges an address in a URL. It does not say why: that would tell a
// customer what is in Deny.
func (g Guard) checkLiteral(addr netip.Addr, port uint16) error {
	if g.CheckAddr(netip.AddrPortFrom(addr, port)) != nil {
		return block("%v may not be called, or not at this port", addr)
	}
	return nil
}

// mayCall reports whether a port may be called at any address.
func (g Guard) mayCall(port uint16) bool {
	return anyPort(g.Ports, port) ||
		slices.ContainsFunc(g.Allow, func(r Range) bool { return anyPort(r.Ports, port) })
}

func anyPort(ports []uint16, port uint16) bool { return ports == nil || slices.Contains(ports, port) }

// CheckAddr returns an error that matches [ErrBlocked] if the address may not be
// called. Its text says why, and is meant for the operator: to a customer who
// chose a name, it would tell what that name means inside.
func (g Guard) CheckAddr(target netip.AddrPort) error {
	addr := target.Addr()
	if !addr.IsValid() || addr.Zone() != "" {
		return block("%v has a zone, or is no address", addr)
	}
	addr = addr.Unmap()
	if contains(g.Deny, addr) {
		return block("%v is denied", addr)
	}
	if contains(g.NAT64, addr) {
		b := addr.As16()
		return g.CheckAddr(netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), target.Port()))
	}
	for _, r := range g.Allow {
		if r.Prefix.Contains(addr) && anyPort(r.Ports, target.Port()) {
			return nil
		}
	}
	switch {
	case !isPublic(addr):
		return block("the address %v is not public", addr)
	case !anyPort(g.Ports, target.Port()):
		return block("the port is not allowed")
	}
	return nil
}

// control is the ControlContext of the default transport's dialer. Whatever it
// cannot read as an address of TCP is refused.
func (g Guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return block("the network is %s", network)
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return block("the address cannot be parsed")
	}
	return g.CheckAddr(target)
}

// dial connects as the dialer does. A name may have addresses of both kinds, and the
// dialer returns the error of the first: if an allowed one was tried, too, it is that
// one's being out of reach that counts, which may pass.
func (g Guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := g.dialer()
	var allowed atomic.Bool
	if judge := d.ControlContext; judge != nil {
		d.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
			err := judge(ctx, network, address, c)
			if err == nil {
				allowed.Store(true)
			}
			return err
		}
	}
	conn, err := d.DialContext(ctx, network, address)
	if errors.Is(err, ErrBlocked) && allowed.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errOutOfReach}
	}
	return conn, err
}

var errOutOfReach = errors.New("no address that is allowed could be connected to")

// dialer returns the dialer that the default transport connects with. net/http
// goes on dialling when the attempt has ended, so that it needs a bound of its own.
func (g Guard) dialer() *net.Dialer {
	d := &net.Dialer{ControlContext: g.control, Timeout: 10 * time.Second}
	if g.Proxy != nil { // only that is dialled
		d.ControlContext = nil
	}
	return d
}
