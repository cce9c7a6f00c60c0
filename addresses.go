package outhook

import (
	"net/netip"
	"slices"
)

func prefixes(s ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(s))
	for i := range s {
		list[i] = netip.MustParsePrefix(s[i])
	}
	return list
}

// isPublic reports whether an address, not a mapped one, belongs to the public
// internet.
func isPublic(addr netip.Addr) bool {
	if addr.Is4() {
		return !contains(closed4, addr)
	}
	return public6.Contains(addr) && !contains(closed6, addr)
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
	translated6 = prefixes(
		"64:ff9b::/96",   // NAT64, RFC 6052
		"64:ff9b:1::/48", // NAT64 of a network's own, RFC 8215
	)
)

func contains(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}
