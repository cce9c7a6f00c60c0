package outhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// hostname returns the ASCII form of the host name of a URL, as net/http would
// dial it.
func hostname(host string) (string, error) {
	if strings.IndexFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
		return host, nil
	}
	name := mapped(host)
	if strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 {
		return "", block("the host name is no international domain name (UTS 46)")
	}
	return name, nil
}

// mapped maps an international name as net/http does (idna.Lookup of
// golang.org/x/net). The standard library shows what that gives in no other way
// than as the address that a transport asks its dialer for.
func mapped(host string) (name string) {
	transport := &http.Transport{DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
		name, _, _ = net.SplitHostPort(address)
		return nil, errors.ErrUnsupported
	}}
	_, _ = transport.RoundTrip(&http.Request{URL: &url.URL{Scheme: "http", Host: host}, Header: http.Header{}})
	return name
}

// checkName says what is wrong with a host name in ASCII.
func checkName(name string) string {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return "the host name is longer than 253 bytes"
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "the host name has a label that is empty or longer than 63 bytes"
		}
		if strings.IndexFunc(label, func(r rune) bool { return !isWord(r) && r != '-' }) >= 0 {
			return "the host name holds other characters than letters, digits, '-' and '_'"
		}
		last = label
	}
	if isNumber(last) {
		return "the host name ends in a number but is no address" // some resolvers read it as one
	}
	return ""
}

func isNumber(label string) bool {
	if _, err := strconv.ParseUint(label, 10, 64); err == nil {
		return true
	}
	digits, ok := strings.CutPrefix(strings.ToLower(label), "0x")
	return ok && strings.Trim(digits, "0123456789abcdef") == "" || strings.Trim(label, "0123456789") == ""
}

// isPrivateName reports whether a name has one label or a suffix that public
// DNS does not have: the special-use domain names of RFC 6761 and its
// successors, and what networks and clouds use inside.
func isPrivateName(name string) bool {
	name = "." + strings.ToLower(strings.TrimSuffix(name, "."))
	return strings.LastIndexByte(name, '.') == 0 ||
		slices.ContainsFunc(privateSuffixes, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

var privateSuffixes = []string{
	".localhost", ".invalid", ".test", // RFC 6761
	".local",     // RFC 6762
	".onion",     // RFC 7686
	".home.arpa", // RFC 8375
	".alt",       // RFC 9476
	".internal",  // reserved by ICANN for private use
	".localdomain", ".lan", ".home", ".corp", ".intranet", ".private",
}
