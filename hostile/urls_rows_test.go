//go:build linux

package hostile_test

import (
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/idna"
)

// A row is a line of testdata/ssrf-urls.tsv in the root: a URL, "allow" or "deny",
// and the reason. To have another URL tested, add a line; no code has to change.
//
//   - {CR}, {LF} and {DEL} in the URL stand for those characters.
//   - [dns A=192.0.2.1,192.0.2.2 AAAA=2001:db8::1] in the reason is what the host
//     name resolves to. "then" begins what it resolves to at the next look-up, where
//     it stays at the last: [dns A=192.0.2.1 then A=127.0.0.1]. Without it the name
//     does not exist, unless another row has answers for the same name.
//   - The verdict is about the last answer. Of those before, the ones with a
//     public address are allowed.
//   - Public are the addresses that rows with "allow" name and rows with "deny" do
//     not: mixed.example.com is allowed, but not at 127.0.0.1. Rows with "deny" and
//     [url] say nothing of the address, but of the URL's form.
type row struct {
	url    string
	allow  bool
	reason string
	name   string     // the host in ASCII, if it is a name
	addr   netip.Addr // the host, if it is an address
	steps  []answer   // what the row says that the name resolves to; nil: nothing
}

var (
	controls = strings.NewReplacer("{CR}", "\r", "{LF}", "\n", "{DEL}", "\x7f")
	dnsTag   = regexp.MustCompile(`\[dns ([^\]]*)\]`)
)

func readRows(t testing.TB) (rows []row) {
	t.Helper()
	text, err := os.ReadFile("../testdata/ssrf-urls.tsv")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	require.Equal(t, "url\texpected\treason", lines[0])
	for _, line := range lines[1:] {
		cells := strings.Split(line, "\t")
		require.Len(t, cells, 3, line)
		require.Contains(t, []string{"allow", "deny"}, cells[1], line)
		r := row{url: controls.Replace(cells[0]), allow: cells[1] == "allow", reason: cells[2]}
		if u, err := url.Parse(r.url); err == nil {
			if r.addr, err = netip.ParseAddr(u.Hostname()); err != nil {
				r.name, _ = idna.Lookup.ToASCII(u.Hostname()) // "" if it cannot be one
			}
		}
		if tag := dnsTag.FindStringSubmatch(r.reason); tag != nil {
			require.NotEmpty(t, r.name, line)
			r.steps = parseAnswers(t, tag[1])
		}
		rows = append(rows, r)
	}
	return rows
}

// parseAnswers reads what stands in a tag.
func parseAnswers(t testing.TB, tag string) (steps []answer) {
	t.Helper()
	types := map[string]uint16{"A": dns.TypeA, "AAAA": dns.TypeAAAA}
	for step := range strings.SplitSeq(tag, " then ") {
		a := make(answer)
		for field := range strings.FieldsSeq(step) {
			name, list, _ := strings.Cut(field, "=")
			require.Contains(t, types, name, tag)
			for s := range strings.SplitSeq(list, ",") {
				addr, err := netip.ParseAddr(s)
				require.NoError(t, err, tag)
				require.Equal(t, name == "A", addr.Is4(), tag)
				a[types[name]] = append(a[types[name]], addr)
			}
		}
		steps = append(steps, a)
	}
	return steps
}

func (a answer) addrs() []netip.Addr { return slices.Concat(a[dns.TypeA], a[dns.TypeAAAA]) }

// publicAddrs returns the addresses that may be connected to, by what the rows say.
func publicAddrs(rows []row) map[netip.Addr]bool {
	public := make(map[netip.Addr]bool)
	for _, allow := range []bool{true, false} {
		for _, r := range rows {
			if r.allow != allow || strings.HasPrefix(r.reason, "[url]") {
				continue
			}
			addrs := []netip.Addr{r.addr}
			if r.steps != nil {
				addrs = r.steps[len(r.steps)-1].addrs()
			}
			for _, addr := range addrs {
				public[addr.Unmap()] = allow
			}
		}
	}
	delete(public, netip.Addr{}) // of names without answers
	return public
}

// zone returns what the rows say of all names.
func zone(rows []row) map[string][]answer {
	zone := make(map[string][]answer)
	for _, r := range rows {
		if r.steps != nil {
			zone[r.name] = r.steps
		}
	}
	return zone
}

var portInURL = regexp.MustCompile(`:(\d+)(?:[/?#\\@;]|$)`)

// ports returns those that the rows name, in whatever place, and those of HTTP, and
// for each whether it has TLS: if an https URL names it.
func ports(rows []row) map[uint16]bool {
	ports := map[uint16]bool{80: false, 443: true}
	for _, r := range rows {
		for _, match := range portInURL.FindAllStringSubmatch(r.url, -1) {
			if n, err := strconv.ParseUint(match[1], 10, 16); err == nil && n > 0 {
				ports[uint16(n)] = ports[uint16(n)] || strings.HasPrefix(strings.ToLower(r.url), "https:")
			}
		}
	}
	return ports
}
