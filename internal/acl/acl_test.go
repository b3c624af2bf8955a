package acl

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/target"
)

// aclRules turns lines such as "deny 10.0.0.0/8 *.example" into rules.
func aclRules(t testing.TB, lines ...string) []Rule {
	t.Helper()
	var rules []Rule
	for _, line := range lines {
		verb, subjects, _ := strings.Cut(line, " ")
		if verb != "allow" && verb != "deny" {
			t.Fatalf("bad rule %q", line)
		}
		rules = append(rules, Rule{Subjects: strings.Fields(subjects), Allow: verb == "allow"})
	}
	return rules
}

func mustAccessList(t testing.TB, lines ...string) *List {
	t.Helper()
	l, err := New(aclRules(t, lines...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustTarget(t testing.TB, s string) target.Target {
	t.Helper()
	tgt, err := target.ParseHostPort(s, 443)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return tgt
}

// verdictOf is the reason and the rule of a denial, or "" for nil.
func verdictOf(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var d *Denial
	if !errors.As(err, &d) {
		t.Fatalf("error %#v is no denial", err)
	}
	return string(d.Reason) + ": " + d.Rule
}

func TestNewAccessListErrors(t *testing.T) {
	for _, tc := range []struct{ subject, want string }{
		{"", "empty; write 'all', a host name, an IP address or a CIDR"},
		{"ALL", "write 'all' in lower case"},
		{"Private", "write 'private' in lower case"},
		{"*", "write 'all' for every destination"},
		{"*.", "the host is empty"},
		{"*.*.example.com", "a wildcard stands for whole labels at the start; write '*.example.com'"},
		{"www.*.com", "a wildcard stands for whole labels at the start; write '*.example.com'"},
		{"*example.com", "a wildcard stands for whole labels at the start; write '*.example.com'"},
		{"*.10.0.0.1", "a wildcard needs a host name; write a CIDR for a range of addresses, such as '10.0.0.0/8'"},
		{"https://example.com/", "a URL; write its host only"},
		{"example.com:443", "a host name takes no port; write 'example.com'"},
		{"example.com:", "the port is missing"},
		{"example.com/24", "not a CIDR; write an address and a length, such as '10.0.0.0/8' or '2001:db8::/32'"},
		{"10.0.0.0/33", "the length behind the slash is a number from 0 to 32"},
		{"10.0.0.0/", "the length behind the slash is a number from 0 to 32"},
		{"10.0.0.0/-1", "the length behind the slash is a number from 0 to 32"},
		{"10.0.0.0/255.0.0.0", "the length behind the slash is a number from 0 to 32"},
		{"10.0.0.0/08", "not a CIDR; write an address and a length, such as '10.0.0.0/8' or '2001:db8::/32'"},
		{"::/129", "the length behind the slash is a number from 0 to 128"},
		{"10/8", "not a CIDR; write an address and a length, such as '10.0.0.0/8' or '2001:db8::/32'"},
		{"fe80::1%eth0/64", "not a CIDR; write an address and a length, such as '10.0.0.0/8' or '2001:db8::/32'"},
		{"10.1.2.3/8", "the address has bits beyond its length; write '10.0.0.0/8', or '10.1.2.3' for the address alone"},
		{"2001:db8::1/32", "the address has bits beyond its length; write '2001:db8::/32', or '2001:db8::1' for the address alone"},
		{"::ffff:10.1.2.3/104", "the address has bits beyond its length; write '10.0.0.0/8', or '10.1.2.3' for the address alone"},
		{"::ffff:0.0.0.0/95", "an IPv4-mapped CIDR needs a length of at least 96; write IPv4, such as '10.0.0.0/8'"},
		{"10.0.0.1:0", "port 0 cannot be connected to"},
		{"10.0.0.1:99999", "the port is above 65535"},
		{"[::1]:http", "the port is not a number"},
		{"2001:db8::1:443", "ambiguous; write '[2001:db8::1]:443' for one port, '2001:db8::1' for all ports, or '[2001:db8::1:443]' if all of it is the address"},
		{".example.com", "begins with a dot; write '*.example.com'"},
		{"::1:80000", "more than one colon (an IPv6 address needs brackets)"},
		{"[::1", "']' is missing"},
		{"127.0.0.010", "would be the address 127.0.0.8; write '127.0.0.8' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"192.168", "would be the address 192.0.0.168; write '192.0.0.168' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"25", "would be the address 0.0.0.25; write '0.0.0.25' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"0x7f.1", "would be the address 127.0.0.1; write '127.0.0.1' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"10.0.0.1.", "would be the address 10.0.0.1; write '10.0.0.1' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"010.0.0.1:80", "would be the address 8.0.0.1; write '8.0.0.1' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"10.1:80", "would be the address 10.0.0.1; write '10.0.0.1' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"10.0.0.256", "it ends in a number but is not an IPv4 address"},
		{"fe80::1%eth0", "it has a percent sign (percent-encoding and zone identifiers are not accepted)"},
		{"user@example.com", "it has user information ('@')"},
		{"a b", "it has a space"},
		{"a..b", "the host has an empty label"},
		{"example.com,example.net", "the host has the character ','"},
	} {
		_, err := New([]Rule{
			{Subjects: []string{"all"}},
			{Subjects: []string{"example.org", tc.subject}},
		}, nil)
		want := "acl[1]: subject '" + tc.subject + "': " + tc.want
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}

	_, err := New([]Rule{{Allow: true}}, nil)
	if want := "acl[0]: no subjects; write at least one, or 'all'"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = New([]Rule{{Subjects: []string{"a\x1b[1m"}}}, nil)
	if want := "acl[0]: subject 'a\uFFFD[1m': it has the control byte 0x1b"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestPortRange(t *testing.T) {
	for _, tc := range []struct{ in, want, err string }{
		{in: `"443"`, want: `"443"`},
		{in: `443`, want: `"443"`},
		{in: `"1024-65535"`, want: `"1024-65535"`},
		{in: `"80-80"`, want: `"80"`},
		{in: `"0443"`, want: `"443"`},
		{in: `0`, err: "bad port range '0': ports are between 1 and 65535"},
		{in: `"0-80"`, err: "bad port range '0-80': ports are between 1 and 65535"},
		{in: `"80-79"`, err: "bad port range '80-79': write the lower port first (79-80)"},
		{in: `65536`, err: "bad port range '65536': write a port (443) or a range (1024-65535)"},
		{in: `"1-65536"`, err: "bad port range '1-65536': write a port (443) or a range (1024-65535)"},
		{in: `-1`, err: "bad port range '-1': write a port (443) or a range (1024-65535)"},
		{in: `443.0`, err: "bad port range '443.0': write a port (443) or a range (1024-65535)"},
		{in: `""`, err: "bad port range '': write a port (443) or a range (1024-65535)"},
		{in: `"https"`, err: "bad port range 'https': write a port (443) or a range (1024-65535)"},
		{in: `"1-2-3"`, err: "bad port range '1-2-3': write a port (443) or a range (1024-65535)"},
		{in: `"+80"`, err: "bad port range '+80': write a port (443) or a range (1024-65535)"},
		{in: `"80, 443"`, err: "bad port range '80, 443': write a port (443) or a range (1024-65535)"},
		{in: `null`, err: "bad port range 'null': write a port (443) or a range (1024-65535)"},
		{in: `[80]`, err: "bad port range '[80]': write a port (443) or a range (1024-65535)"},
	} {
		var p PortRange
		err := json.Unmarshal([]byte(tc.in), &p)
		if tc.err != "" {
			if want := "allowed_ports: " + tc.err; err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", tc.in, err, want)
			}
			continue
		}
		out, _ := json.Marshal(p)
		if err != nil || string(out) != tc.want {
			t.Errorf("%s: got %s, %v; want %s", tc.in, out, err, tc.want)
		}
	}

	_, err := New(nil, []PortRange{{80, 80}, {}})
	if want := "allowed_ports[1]: bad port range '0': ports are between 1 and 65535"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAccessListPorts(t *testing.T) {
	for _, tc := range []struct {
		ports   []PortRange
		allowed []uint16
		denied  []uint16
	}{
		{nil, []uint16{1, 24, 26, 80, 443, 465, 65535}, []uint16{0, 25}},
		{[]PortRange{{443, 443}}, []uint16{443}, []uint16{0, 25, 80, 442, 444}},
		{[]PortRange{{25, 25}, {1024, 65535}}, []uint16{25, 1024, 65535}, []uint16{0, 24, 443, 1023}},
	} {
		l, err := New(aclRules(t, "allow all", "allow 0.0.0.0/0"), tc.ports)
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"example.com", "8.8.8.8"} {
			tgt := mustTarget(t, host)
			for _, tgt.Port = range tc.allowed {
				if err := l.CheckTarget(tgt); err != nil {
					t.Errorf("%v %v: %v", tc.ports, tgt, err)
				}
			}
			for _, tgt.Port = range tc.denied {
				for _, err := range []error{
					l.CheckTarget(tgt), l.CheckUnresolved(tgt), l.CheckAddr(tgt, netip.MustParseAddr("8.8.8.8")),
				} {
					if got := verdictOf(t, err); got != "port: ports" {
						t.Errorf("%v %v: %q", tc.ports, tgt, got)
					}
				}
			}
		}
	}

	// A leading zero is no way around the ports.
	l, _ := New(nil, []PortRange{{443, 443}})
	if err := l.CheckTarget(mustTarget(t, "example.com:0443")); err != nil {
		t.Error(err)
	}
	if err := l.CheckTarget(mustTarget(t, "example.com:025")); err == nil {
		t.Error("port 025 is allowed")
	}
}

// The order of rules decides, before and after resolution.
func TestAccessListOrder(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rules  []string
		target string
		before string // CheckTarget
		ip     string
		after  string // CheckAddr
		upst   string // CheckUnresolved; "-" means as before
	}{
		{"nothing matches", nil, "example.com", "", "8.8.8.8", "", "-"},
		{"deny all", []string{"deny all"}, "example.com", "host: deny all", "8.8.8.8", "host: deny all", "-"},
		{"allow a name, deny all", []string{"allow example.com", "deny all"}, "example.com", "", "8.8.8.8", "", "-"},
		{"another name", []string{"allow example.com", "deny all"}, "www.example.com", "host: deny all", "8.8.8.8", "host: deny all", "-"},
		{"wildcard is the name", []string{"deny *.example.com"}, "example.com", "host: deny *.example.com", "8.8.8.8", "host: deny *.example.com", "-"},
		{"wildcard is below", []string{"deny *.example.com"}, "a.b.example.com", "host: deny *.example.com", "8.8.8.8", "host: deny *.example.com", "-"},
		{"wildcard is whole labels", []string{"deny *.example.com"}, "badexample.com", "", "8.8.8.8", "", "-"},
		{"wildcard of a top-level domain", []string{"deny *.com"}, "example.com", "host: deny *.com", "8.8.8.8", "host: deny *.com", "-"},
		{"first of two names", []string{"allow a.example.com", "deny *.example.com"}, "a.example.com", "", "8.8.8.8", "", "-"},
		{"first of two names, other way", []string{"deny *.example.com", "allow a.example.com"}, "a.example.com", "host: deny *.example.com", "8.8.8.8", "host: deny *.example.com", "-"},
		{"wide before narrow wildcard", []string{"allow *.example.com", "deny *.a.example.com"}, "x.a.example.com", "", "8.8.8.8", "", "-"},
		{"duplicate keeps the first", []string{"allow a.example", "deny a.example"}, "a.example", "", "8.8.8.8", "", "-"},
		{"subject in upper case and with dot", []string{"deny EXAMPLE.com."}, "example.com", "host: deny EXAMPLE.com.", "8.8.8.8", "host: deny EXAMPLE.com.", "-"},
		{"subject with IDN", []string{"deny *.bücher.example"}, "www.xn--bcher-kva.example", "host: deny *.bücher.example", "8.8.8.8", "host: deny *.bücher.example", "-"},

		{"an address decides behind a name", []string{"deny 8.8.8.0/24"}, "dns.google", "", "8.8.8.8", "address: deny 8.8.8.0/24", "-"},
		{"an allowed name passes an address rule behind", []string{"allow dns.google", "deny 8.8.8.0/24"}, "dns.google", "", "8.8.8.8", "", "-"},
		{"an address rule before a name is undetermined", []string{"allow 8.8.8.8", "deny dns.google"}, "dns.google", "", "8.8.8.8", "", "host: deny dns.google"},
		{"undetermined, then denied by name", []string{"allow 8.8.8.8", "deny dns.google"}, "dns.google", "", "8.8.4.4", "host: deny dns.google", "host: deny dns.google"},
		{"allow-list of addresses", []string{"allow 10.0.0.0/8", "deny all"}, "intranet", "", "10.1.2.3", "", "host: deny all"},
		{"allow-list of addresses, outside", []string{"allow 10.0.0.0/8", "deny all"}, "example.com", "", "8.8.8.8", "host: deny all", "host: deny all"},
		{"IP:port for another port cannot match", []string{"allow 10.0.0.1:80", "deny all"}, "intranet:443", "host: deny all", "10.0.0.1", "host: deny all", "-"},
		{"IP:port", []string{"allow 10.0.0.1:443", "deny all"}, "intranet:443", "", "10.0.0.1", "", "host: deny all"},

		{"literal", []string{"deny 8.8.8.0/24"}, "8.8.8.8", "address: deny 8.8.8.0/24", "8.8.8.8", "address: deny 8.8.8.0/24", "-"},
		{"all matches a literal", []string{"deny all"}, "8.8.8.8", "host: deny all", "8.8.8.8", "host: deny all", "-"},
		{"order of all and address for a literal", []string{"allow 8.8.8.8", "deny all"}, "8.8.8.8", "", "8.8.8.8", "", "-"},
		{"a denial of addresses opens nothing", []string{"deny 10.0.0.0/8", "deny *.bad.example"}, "x.bad.example", "host: deny *.bad.example", "10.1.2.3", "address: deny 10.0.0.0/8", "-"},
		{"a denial of addresses and names", []string{"deny 198.51.100.0/24 *.bad.example"}, "x.bad.example", "host: deny *.bad.example", "8.8.8.8", "host: deny *.bad.example", "-"},
		{"a denial of addresses before an allowance", []string{"deny 10.0.0.0/8", "allow 10.0.0.0/8", "deny *.bad.example"}, "x.bad.example", "", "8.8.8.8", "host: deny *.bad.example", "host: deny *.bad.example"},
		{"a denial of addresses before an allowed name", []string{"deny 8.8.8.8", "allow dns.google"}, "dns.google", "", "8.8.8.8", "address: deny 8.8.8.8", "-"},
		{"IPv4-mapped subject", []string{"deny ::ffff:8.8.8.0/120"}, "8.8.8.8", "address: deny ::ffff:8.8.8.0/120", "8.8.8.8", "address: deny ::ffff:8.8.8.0/120", "-"},
		{"IPv4-mapped address", []string{"deny 8.8.8.8"}, "dns.google", "", "::ffff:8.8.8.8", "address: deny 8.8.8.8", "-"},
		{"address with a zone", []string{"deny 2606::/16"}, "example.com", "", "2606::1%eth0", "address: deny 2606::/16", "-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := mustAccessList(t, tc.rules...)
			tgt := mustTarget(t, tc.target)
			if got := verdictOf(t, l.CheckTarget(tgt)); got != tc.before {
				t.Errorf("before resolution: got %q, want %q", got, tc.before)
			}
			if got := verdictOf(t, l.CheckAddr(tgt, netip.MustParseAddr(tc.ip))); got != tc.after {
				t.Errorf("after resolution: got %q, want %q", got, tc.after)
			}
			if tc.upst == "-" {
				tc.upst = tc.before
			}
			if got := verdictOf(t, l.CheckUnresolved(tgt)); got != tc.upst {
				t.Errorf("unresolved: got %q, want %q", got, tc.upst)
			}
		})
	}
}

func TestAccessListDefaultDenies(t *testing.T) {
	kinds := map[string]string{
		"unspecified":    "0.0.0.0 0.1.2.3 ::",
		"loopback":       "127.0.0.1 127.255.255.254 ::1",
		"private":        "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.255 fc00::1 fd12:3456::1",
		"link-local":     "169.254.0.1 169.254.169.254 169.254.170.2 fe80::1 fe80::a9fe:a9fe febf::1",
		"cloud metadata": "100.100.100.200 100.96.0.96 168.63.129.16 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42 fd00:a9fe:a9fe::1 fd00:c1::a9fe:a9fe fd00:100::100:200",
		"multicast":      "224.0.0.1 239.255.255.255 ff02::1",
		"broadcast":      "255.255.255.255",
		"benchmark":      "198.18.0.1 198.19.255.255 2001:2::1",
		"documentation":  "192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1 3fff:fff::1",
		"reserved":       "192.0.0.1 192.0.0.9 192.88.99.1 240.0.0.1 255.255.255.254 fec0::1 100::1 5f00::1 64:ff9b:1::808:808 ::8.8.8.8 ::ffff:0:8.8.8.8 2001:10::1 2001:1ff::1 4000::1 e000::1 1::1",
	}
	public := "8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 " +
		"172.15.255.255 172.32.0.0 169.253.255.255 168.63.129.17 198.17.255.255 198.20.0.0 223.255.255.255 " +
		"192.0.1.1 2606:4700::1111 2001:4860:4860::8888 2001:200::1 2001:1::1 2001:20::1 2400::1 2002:808:808::1 64:ff9b::8.8.8.8 " +
		"2001:0:808:808:0:0:f7f7:f7f7 3ffe::1"

	// Rules on names never open anything.
	for _, l := range []*List{
		mustAccessList(t),
		mustAccessList(t, "allow all"),
		mustAccessList(t, "allow example.com *.com all"),
	} {
		for _, ip := range strings.Fields(public) {
			for _, tgt := range []target.Target{mustTarget(t, "example.com"), mustTarget(t, bracketed(ip))} {
				if err := l.CheckAddr(tgt, netip.MustParseAddr(ip)); err != nil {
					t.Errorf("%s for %v: %v", ip, tgt, err)
				}
			}
		}
		for kind, ips := range kinds {
			for _, ip := range strings.Fields(ips) {
				want := "address: default deny: " + kind
				if got := verdictOf(t, l.CheckTarget(mustTarget(t, bracketed(ip)))); got != want {
					t.Errorf("literal %s: got %q, want %q", ip, got, want)
				}
				if got := verdictOf(t, l.CheckAddr(mustTarget(t, "example.com"), netip.MustParseAddr(ip))); got != want {
					t.Errorf("name to %s: got %q, want %q", ip, got, want)
				}
			}
		}
	}

	// allow 0.0.0.0/0 ::/0 opens everything, addresses within addresses too.
	l := mustAccessList(t, "allow 0.0.0.0/0 ::/0")
	for _, ips := range kinds {
		for _, ip := range strings.Fields(ips) {
			if err := l.CheckTarget(mustTarget(t, bracketed(ip))); err != nil {
				t.Errorf("%s: %v", ip, err)
			}
		}
	}
	if got := verdictOf(t, l.CheckAddr(mustTarget(t, "example.com"), netip.Addr{})); got != "address: default deny: invalid address" {
		t.Errorf("zero address: %q", got)
	}
}

func bracketed(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

// What opens an address that is denied by default, and what does not.
func TestAccessListOpens(t *testing.T) {
	const loopback, private, metadata = "address: default deny: loopback", "address: default deny: private", "address: default deny: cloud metadata"
	for _, tc := range []struct {
		rules []string
		ip    string
		port  string
		want  string
	}{
		{[]string{"allow private"}, "10.1.2.3", "443", ""},
		{[]string{"allow private"}, "100.64.0.1", "443", ""},
		{[]string{"allow private"}, "fd12::1", "443", ""},
		{[]string{"allow private"}, "::ffff:192.168.1.1", "443", ""},
		{[]string{"allow private"}, "127.0.0.1", "443", loopback},
		{[]string{"allow private"}, "169.254.169.254", "443", "address: default deny: link-local"},
		{[]string{"allow private"}, "fd00:ec2::254", "443", metadata},
		{[]string{"allow private"}, "100.100.100.200", "443", metadata},
		{[]string{"allow private"}, "168.63.129.16", "443", metadata},
		{[]string{"allow private", "allow 100.64.0.0/10"}, "100.100.100.200", "443", ""},
		{[]string{"allow fd00:ec2::254"}, "fd00:ec2::254", "443", ""},
		{[]string{"deny private", "allow 100.64.0.0/10"}, "100.100.100.200", "443", "address: deny private"},
		{[]string{"deny private"}, "8.8.8.8", "443", ""},

		{[]string{"allow example.com", "allow 10.0.0.0/8"}, "10.0.0.1", "443", ""},
		{[]string{"allow example.com", "deny 10.0.0.0/8"}, "10.0.0.1", "443", private},
		{[]string{"allow example.com", "deny 10.0.0.1", "allow 10.0.0.0/8"}, "10.0.0.1", "443", private},
		{[]string{"allow 10.0.0.1", "deny 10.0.0.0/8"}, "10.0.0.1", "443", ""},
		{[]string{"deny 10.0.0.1", "allow 10.0.0.0/8"}, "10.0.0.1", "443", "address: deny 10.0.0.1"},
		{[]string{"deny example.com", "allow 10.0.0.0/8"}, "10.0.0.1", "443", "host: deny example.com"},
		{[]string{"allow 127.0.0.1:8080"}, "127.0.0.1", "8080", ""},
		{[]string{"allow 127.0.0.1:8080"}, "127.0.0.1", "8081", loopback},
		{[]string{"allow 127.0.0.1:8080"}, "127.0.0.2", "8080", loopback},
		{[]string{"allow [::1]:8080"}, "::1", "8080", ""},
		{[]string{"allow ::1"}, "::1", "8080", ""},
		{[]string{"allow [::1]"}, "::1", "8080", ""},

		// Every address that is carried needs its own permission.
		{[]string{"allow ::/0"}, "64:ff9b::127.0.0.1", "443", loopback},
		{[]string{"allow ::/0"}, "::127.0.0.1", "443", loopback},
		{[]string{"allow ::/0"}, "::ffff:127.0.0.1", "443", loopback},
		{[]string{"allow ::/0"}, "2002:7f00:1::", "443", loopback},
		{[]string{"allow ::/0"}, "2001:0:808:808::80ff:fffe", "443", loopback},
		{[]string{"allow ::/0"}, "2001:0:7f00:1::f7f7:f7f7", "443", loopback},
		{[]string{"allow ::/0"}, "2606::5efe:127.0.0.1", "443", loopback},
		{[]string{"allow ::/0"}, "64:ff9b:1::127.0.0.1", "443", loopback},
		{[]string{"allow ::/0"}, "64:ff9b:1:7f00:0:100::", "443", loopback},
		{[]string{"allow ::/0"}, "64:ff9b:1::8.8.8.8", "443", ""},
		{[]string{"allow ::/0"}, "64:ff9b:1:808:8:800::", "443", ""},
		{[]string{"allow ::/0", "allow 127.0.0.0/8"}, "64:ff9b::127.0.0.1", "443", ""},
		{[]string{"allow 127.0.0.0/8"}, "64:ff9b::127.0.0.1", "443", ""},
		{[]string{"allow 127.0.0.0/8"}, "::127.0.0.1", "443", "address: default deny: reserved"},
		{[]string{"allow 127.0.0.0/8"}, "::ffff:127.0.0.1", "443", ""},
		{[]string{"deny 8.8.8.0/24"}, "64:ff9b::8.8.8.8", "443", "address: deny 8.8.8.0/24"},
		{[]string{"deny 8.8.8.0/24"}, "2002:808:808::1", "443", "address: deny 8.8.8.0/24"},
		{[]string{"allow 64:ff9b::/96", "deny all"}, "64:ff9b::8.8.8.8", "443", "host: deny all"},
	} {
		l := mustAccessList(t, tc.rules...)
		tgt := mustTarget(t, "example.com:"+tc.port)
		if got := verdictOf(t, l.CheckAddr(tgt, netip.MustParseAddr(tc.ip))); got != tc.want {
			t.Errorf("%v, %s:%s: got %q, want %q", tc.rules, tc.ip, tc.port, got, tc.want)
		}
	}
}

func TestAccessListOpensSelf(t *testing.T) {
	l := mustAccessList(t, "allow all 127.0.0.0/8 ::/0 127.0.0.1", "allow 127.0.0.1:8080 [::1]:8080",
		"deny 10.0.0.1:80", "allow 10.0.0.1:80")
	for _, tc := range []struct {
		ip   string
		port uint16
		want bool
	}{
		{"127.0.0.1", 8080, true},
		{"::ffff:127.0.0.1", 8080, true},
		{"::1", 8080, true},
		{"127.0.0.1", 8081, false},
		{"127.0.0.1", 0, false},
		{"127.0.0.2", 8080, false},
		{"::", 8080, false},
		{"10.0.0.1", 80, false}, // the first match denies
	} {
		if got := l.OpensSelf(netip.MustParseAddr(tc.ip), tc.port); got != tc.want {
			t.Errorf("%s port %d: %t", tc.ip, tc.port, got)
		}
	}
	if l.OpensSelf(netip.Addr{}, 8080) {
		t.Error("the zero address opens")
	}
}

func TestDenialText(t *testing.T) {
	err := mustAccessList(t, "deny 8.8.8.8").CheckTarget(mustTarget(t, "8.8.8.8"))
	if got, want := err.Error(), "destination address not allowed (deny 8.8.8.8)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
