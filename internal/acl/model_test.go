package acl

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/aclmodel"

	"pgregory.net/rapid"

	"github.com/caddy-egress/egress/internal/target"
)

// naiveList is an access list as its documentation reads: a list of subjects that
// is walked from the start. It is what List must agree with.
type naiveList struct {
	ports    []PortRange
	subjects []naiveSubject
}

type naiveSubject struct {
	subject
	verdict *Denial // nil allows
}

// newNaiveList takes the content of files along. In a file the order is of no
// account; names are walked first, as List promises.
func newNaiveList(rules []Rule, files map[string][]string, ports []PortRange) *naiveList {
	n := &naiveList{ports: ports}
	add := func(text, rule string, allow bool) {
		s, err := parseSubject(text)
		if err != nil {
			panic(err)
		}
		entry := naiveSubject{subject: s}
		if !allow {
			entry.verdict = &Denial{Reason: DenyHost, Rule: rule}
			if len(s.prefixes) > 0 {
				entry.verdict.Reason = DenyAddress
			}
		}
		n.subjects = append(n.subjects, entry)
	}
	for _, r := range rules {
		for _, text := range r.Subjects {
			add(text, "deny "+text, r.Allow)
		}
		for _, path := range r.Files {
			for _, addrs := range []bool{false, true} {
				for _, text := range files[path] {
					if s, _ := parseSubject(text); (len(s.prefixes) > 0) == addrs {
						add(text, "deny_file "+path, r.Allow)
					}
				}
			}
		}
	}
	return n
}

func (n *naiveList) port(port uint16) error {
	for _, p := range n.ports {
		if p.Low <= port && port <= p.High {
			return nil
		}
	}
	if len(n.ports) == 0 && port != 0 && port != 25 {
		return nil
	}
	return ErrPortDenied
}

// onName and onAddr report whether a subject matches.
func (s *naiveSubject) onName(t target.Target) bool {
	return s.all || s.name != "" && !t.IsAddr() && (t.Host == s.name || s.wildcard && strings.HasSuffix(t.Host, "."+s.name))
}

func (s *naiveSubject) onAddr(ip netip.Addr, port uint16) bool {
	if s.port != 0 && s.port != port || s.private && s.verdict == nil && specialAddr(ip) == denyMetadata {
		return false
	}
	for _, p := range s.prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// checkName walks the names; with until, only up to the first subject that allows what
// an address could match.
func (n *naiveList) checkName(t target.Target, until bool) error {
	if t.IsAddr() {
		return n.checkAddr(t, t.Addr)
	}
	if err := n.port(t.Port); err != nil {
		return err
	}
	for _, s := range n.subjects {
		if until && s.verdict == nil && len(s.prefixes) > 0 && (s.port == 0 || s.port == t.Port) {
			return nil
		}
		if s.onName(t) {
			return s.error()
		}
	}
	return nil
}

func (s *naiveSubject) error() error {
	if s.verdict == nil {
		return nil
	}
	return s.verdict
}

func (n *naiveList) checkAddr(t target.Target, ip netip.Addr) error {
	if err := n.port(t.Port); err != nil {
		return err
	}
	ip = ip.Unmap().WithZone("")
	carried, count := target.Carried(ip)
	for _, a := range append([]netip.Addr{ip}, carried[:count]...) {
		if err := n.checkOne(t, a); err != nil {
			return err
		}
	}
	return nil
}

func (n *naiveList) checkOne(t target.Target, ip netip.Addr) error {
	opened := false
	for _, s := range n.subjects {
		if s.onAddr(ip, t.Port) {
			opened = s.verdict == nil
			break
		}
	}
	for _, s := range n.subjects {
		if s.onName(t) || s.onAddr(ip, t.Port) {
			if s.verdict != nil {
				return s.verdict
			}
			break
		}
	}
	if special := specialAddr(ip); special != nil && !opened {
		return special
	}
	return nil
}

func (n *naiveList) opensSelf(ip netip.Addr, port uint16) bool {
	for _, s := range n.subjects {
		if s.port == port && port != 0 && s.prefixes[0].Addr() == ip.Unmap().WithZone("") {
			return s.verdict == nil
		}
	}
	return false
}

var (
	modelSubject = rapid.OneOf(
		rapid.SampledFrom(aclmodel.Subjects),
		rapid.SampledFrom([]string{
			"*.a.example.com", "b.a.example.com", "net", "*.net", "xn--bcher-kva.example", "172.16.0.0/13", "172.16.0.0/12",
			"8.8.0.0/16", "8.8.8.8/31", "8.0.0.0/8", "8.8.8.8:80", "10.1.2.3:443", "[2606:4700::1]:443", "2606::/16", "2606:4700::/32",
			"fc00::/7", "fd00::/9", "192.168.0.0/16", "168.63.129.16", "[::ffff:8.8.8.8]:80", "100.100.100.0/24", "fd20:ce::/48",
		}))
	modelAddr = rapid.OneOf(
		rapid.SampledFrom(modelAddrs()),
		rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")))
		}))
	modelHost = rapid.SampledFrom([]string{
		"example.com", "a.example.com", "b.a.example.com", "c.b.a.example.com", "badexample.com", "com", "net", "x.net",
		"example.org", "xn--bcher-kva.example", strings.Repeat("a.", 110) + "example.com",
	})
	modelPort = rapid.SampledFrom([]uint16{0, 25, 80, 443, 8080, 65535})
)

func modelAddrs() (addrs []netip.Addr) {
	for _, s := range []string{
		"8.8.8.8", "8.8.8.9", "8.8.9.1", "8.1.1.1", "10.1.2.3", "10.200.0.1", "172.16.0.1", "172.31.0.1", "192.168.1.1", "127.0.0.1",
		"100.64.0.1", "100.100.100.200", "168.63.129.16", "169.254.169.254", "0.0.0.0", "255.255.255.255", "::1", "::", "fe80::1%eth0",
		"2606:4700::1", "2606:4700::2", "2606::1", "fd00::1", "fd80::1", "fd00:ec2::254", "fd20:ce::254", "fc00::1", "2001:db8::1",
		"::ffff:8.8.8.8", "::ffff:10.1.2.3", "::8.8.8.8", "64:ff9b::808:808", "64:ff9b::a01:203", "64:ff9b:1:a01:2:300::",
		"2002:808:808::1", "2002:a01:203::", "2001:0:808:808::80ff:fffe", "2606::5efe:10.1.2.3",
	} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

// List says of everything, with the same words, what a walk through the
// rules says, whether the subjects stand in the configuration or in files.
func TestAccessList_Model(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		files := make(map[string][]string)
		rules := make([]Rule, rapid.IntRange(0, 8).Draw(t, "rules"))
		for i := range rules {
			r := &rules[i]
			r.Allow = rapid.Bool().Draw(t, "allow")
			r.Subjects = rapid.SliceOfN(modelSubject, 0, 4).Draw(t, "subjects")
			if len(r.Subjects) == 0 || rapid.Bool().Draw(t, "has a file") {
				path := filepath.Join(dir, rapid.SampledFrom([]string{"one", "two"}).Draw(t, "file"))
				r.Files = []string{path}
				if files[path] == nil {
					files[path] = append([]string{}, rapid.SliceOfN(modelSubject, 0, 6).Draw(t, "lines")...)
				}
			}
		}
		for path, lines := range files {
			if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var ports []PortRange
		if rapid.Bool().Draw(t, "ports") {
			ports = []PortRange{{80, 80}, {443, 9000}}
		}
		list, err := New(rules, ports)
		if err != nil {
			t.Fatal(err)
		}
		naive := newNaiveList(rules, files, ports)
		for range 20 {
			compareLists(t, list, naive)
		}
	})
}

func compareLists(t *rapid.T, list *List, naive *naiveList) {
	ip := modelAddr.Draw(t, "ip")
	tgt := target.Target{Host: modelHost.Draw(t, "host"), Port: modelPort.Draw(t, "port")}
	if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
		tgt.Addr = ip.Unmap().WithZone("")
		tgt.Host = tgt.Addr.String()
	}
	same := func(what string, got, want error) {
		t.Helper()
		if (got == nil) != (want == nil) || got != nil && got.Error() != want.Error() {
			t.Fatalf("%s(%v, %v): %v, want %v", what, tgt, ip, got, want)
		}
	}
	same("checkTarget", list.CheckTarget(tgt), naive.checkName(tgt, true))
	same("checkUnresolved", list.CheckUnresolved(tgt), naive.checkName(tgt, false))
	same("checkAddr", list.CheckAddr(tgt, ip), naive.checkAddr(tgt, ip))
	if got, want := list.OpensSelf(ip, tgt.Port), naive.opensSelf(ip, tgt.Port); got != want {
		t.Fatalf("opensSelf(%v, %d): %t, want %t", ip, tgt.Port, got, want)
	}
}
