package outhook

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
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

	// Allow lists ranges that may be called although they are not public,
	// such as 127.0.0.0/8 or 10.0.0.0/8. With any range, names of private
	// networks such as "localhost" are allowed too: the address decides.
	// IPv6 ranges are compared as they are, IPv4 also behind ::ffff:0:0/96.
	Allow []netip.Prefix
}

// DevelopmentGuard also allows plain http and the loopback addresses: for
// examples, tests and the developer's own machine.
func DevelopmentGuard() Guard {
	return Guard{PlainHTTP: true, Allow: []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("::1/128"),
	}}
}

const maxURL = 2048 // bytes

// CheckURL parses a URL and returns an error that matches [ErrBlocked] if it
// may not be called. It resolves no name. The error's text says what is wrong
// with the URL, and is meant for whoever chose it.
func (g Guard) CheckURL(raw string) (*url.URL, error) {
	blocked := func(format string, args ...any) (*url.URL, error) {
		return nil, fmt.Errorf("%w: %s", ErrBlocked, fmt.Sprintf(format, args...))
	}
	if len(raw) > maxURL || !utf8.ValidString(raw) {
		return blocked("the URL is longer than %d bytes or not UTF-8", maxURL)
	}
	if strings.IndexFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) >= 0 {
		return blocked("the URL holds a space, a control character or a backslash")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return blocked("the URL cannot be parsed") // the parser's error repeats the URL
	}
	switch {
	case len(u.String()) > maxURL: // what has to be escaped is
		return blocked("the URL is longer than %d bytes", maxURL)
	case u.Scheme != "https" && u.Scheme != "http":
		return blocked("the scheme must be https")
	case u.Scheme == "http" && !g.PlainHTTP:
		return blocked("plain http is not allowed")
	case u.Opaque != "" || u.Hostname() == "":
		return blocked("the URL has no host")
	case u.User != nil:
		return blocked("the URL holds user information")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return blocked("the URL holds a fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return blocked("the port is not in 1 to 65535")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return blocked("the port is empty")
	}
	if fault := g.checkHost(u.Hostname(), strings.HasPrefix(u.Host, "[")); fault != "" {
		return blocked("%s", fault)
	}
	return u, nil
}

// checkHost judges the host of a URL, a literal or a name, and says what is
// wrong with it.
func (g Guard) checkHost(host string, bracketed bool) string {
	if bracketed || strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		if err != nil || !addr.Is6() || !bracketed {
			return "the host is no IPv6 address"
		}
		return g.checkLiteral(addr)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return g.checkLiteral(addr)
	}

	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if len(name) > 253 {
		return "the host name is longer than 253 bytes"
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return "the host name has a label that is empty or longer than 63 bytes"
		}
		if strings.IndexFunc(label, func(r rune) bool { return !isWord(r) && r != '-' }) >= 0 {
			return "the host name holds other characters than letters, digits, '-' and '_'; write an international name in its xn-- form"
		}
	}
	if last := labels[len(labels)-1]; isNumber(last) {
		return "the host name ends in a number but is no address" // some resolvers read it as one
	}
	if len(g.Allow) == 0 && isPrivateName(labels) {
		return "the host name belongs to private networks"
	}
	return ""
}

func (g Guard) checkLiteral(addr netip.Addr) string {
	if !g.allows(addr) {
		return "the address is not public"
	}
	return ""
}

// CheckAddr returns [ErrBlocked] if the address may not be called.
func (g Guard) CheckAddr(addr netip.Addr) error {
	if !g.allows(addr) {
		return ErrBlocked
	}
	return nil
}

func (g Guard) allows(addr netip.Addr) bool {
	if !addr.IsValid() || addr.Zone() != "" {
		return false
	}
	addr = addr.Unmap()
	for _, p := range g.Allow {
		if p.Contains(addr) {
			return true
		}
	}
	if addr.Is4() {
		return !within(addr, closed4)
	}
	return public6.Contains(addr) && !within(addr, closed6)
}

// control is the ControlContext of the default transport's dialer. Whatever it
// cannot read as an address of TCP is refused.
func (g Guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return ErrBlocked
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrBlocked
	}
	return g.CheckAddr(ap.Addr())
}

// dialer returns the dialer that the default transport connects with. net/http
// goes on dialling when the attempt has ended, so that it needs a bound of its own.
func (g Guard) dialer() *net.Dialer {
	return &net.Dialer{ControlContext: g.control, Timeout: 10 * time.Second}
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func isNumber(label string) bool {
	if _, err := strconv.ParseUint(label, 10, 64); err == nil {
		return true
	}
	digits, ok := strings.CutPrefix(label, "0x")
	return ok && strings.Trim(digits, "0123456789abcdef") == "" || strings.Trim(label, "0123456789") == ""
}

// isPrivateName reports whether a name has one label or a suffix that public
// DNS does not have: the special-use domain names of RFC 6761 and its
// successors, and what clouds use inside.
func isPrivateName(labels []string) bool {
	if len(labels) == 1 {
		return true
	}
	name := "." + strings.Join(labels, ".")
	for _, suffix := range privateSuffixes {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

var privateSuffixes = []string{".localhost", ".local", ".localdomain", ".internal", ".home.arpa", ".onion", ".invalid", ".test"}

func prefixes(s ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(s))
	for i := range s {
		list[i] = netip.MustParsePrefix(s[i])
	}
	return list
}

// IANA IPv4 and IPv6 special-purpose address registries. IPv6 is allowed only
// inside 2000::/3, which is all that is assigned as global unicast.
var (
	closed4 = prefixes(
		"0.0.0.0/8",        // this network, RFC 791
		"10.0.0.0/8",       // private, RFC 1918
		"100.64.0.0/10",    // shared address space, RFC 6598
		"127.0.0.0/8",      // loopback, RFC 1122
		"168.63.129.16/32", // Azure's WireServer
		"169.254.0.0/16",   // link-local, RFC 3927: metadata of clouds
		"172.16.0.0/12",    // private, RFC 1918
		"192.0.0.0/24",     // IETF protocol assignments, RFC 6890
		"192.0.2.0/24",     // documentation, RFC 5737
		"192.31.196.0/24",  // AS112, RFC 7535
		"192.52.193.0/24",  // AMT, RFC 7450
		"192.88.99.0/24",   // 6to4 relay anycast, RFC 7526
		"192.168.0.0/16",   // private, RFC 1918
		"192.175.48.0/24",  // AS112, RFC 7534
		"198.18.0.0/15",    // benchmarking, RFC 2544
		"198.51.100.0/24",  // documentation, RFC 5737
		"203.0.113.0/24",   // documentation, RFC 5737
		"224.0.0.0/4",      // multicast, RFC 5771
		"240.0.0.0/4",      // reserved, RFC 1112, and broadcast
	)
	public6 = netip.MustParsePrefix("2000::/3")
	closed6 = prefixes(
		"2001::/23",         // IETF protocol assignments, RFC 2928: Teredo, ORCHID, benchmarking
		"2001:db8::/32",     // documentation, RFC 3849
		"2002::/16",         // 6to4, RFC 3056: holds an IPv4 address
		"2620:4f:8000::/48", // AS112, RFC 7534
		"3fff::/20",         // documentation, RFC 9637
	)
)
