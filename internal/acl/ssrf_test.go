package acl

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/target"
)

// spellingsOf returns the ways in which an attacker may write an IPv4 address
// as the host of a request (docs: "SSRF by spelling").
func spellingsOf(ip string) map[string]string {
	b := netip.MustParseAddr(ip).As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	hi, lo := n>>16, n&0xffff
	wide := strings.NewReplacer(
		"0", "０", "1", "１", "2", "２", "3", "３", "4", "４",
		"5", "５", "6", "６", "7", "７", "8", "８", "9", "９",
	)
	return map[string]string{
		"plain":                  ip,
		"trailing dot":           ip + ".",
		"decimal":                fmt.Sprint(n),
		"hexadecimal":            fmt.Sprintf("%#x", n),
		"hexadecimal upper case": fmt.Sprintf("0X%X", n),
		"hexadecimal padded":     fmt.Sprintf("0x0000000000%08x", n),
		"octal":                  fmt.Sprintf("0%o", n),
		"two parts":              fmt.Sprintf("%d.%d", b[0], n&0xffffff),
		"three parts":            fmt.Sprintf("%d.%d.%d", b[0], b[1], lo),
		"octal parts":            fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
		"octal parts padded":     fmt.Sprintf("000%o.000%o.000%o.000%o", b[0], b[1], b[2], b[3]),
		"hexadecimal parts":      fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]),
		"mixed parts":            fmt.Sprintf("0x%x.0%o.%d", b[0], b[1], lo),
		"full-width digits":      wide.Replace(ip),
		"full-width decimal":     wide.Replace(fmt.Sprint(n)),
		"ideographic full stops": strings.ReplaceAll(ip, ".", "。"),
		"half-width full stops":  strings.ReplaceAll(ip, ".", "｡"),
		"full-width full stops":  strings.ReplaceAll(ip, ".", "．") + "。",
		"soft hyphen":            ip[:1] + "\u00ad" + ip[1:],
		"percent-encoded":        fmt.Sprintf("%%%02x%s", ip[0], ip[1:]),
		"user information":       "allowed.example@" + ip,
		"user and password":      "allowed.example:80@" + ip,
		"backslash":              `allowed.example\@` + ip,
		"fragment":               "allowed.example#@" + ip,
		"NUL":                    ip + "\x00.allowed.example",
		"zone":                   "[::ffff:" + ip + "%25lo]",
		"mapped":                 "[::ffff:" + ip + "]",
		"mapped hexadecimal":     fmt.Sprintf("[::FFFF:%X:%x]", hi, lo),
		"mapped full":            fmt.Sprintf("[0:0:0:0:0:ffff:%x:%x]", hi, lo),
		"compatible":             "[::" + ip + "]",
		"translated":             "[::ffff:0:" + ip + "]",
		"NAT64":                  "[64:ff9b::" + ip + "]",
		"NAT64 local /96":        "[64:ff9b:1::" + ip + "]",
		"NAT64 local /48":        fmt.Sprintf("[64:ff9b:1:%x:%x:%x::]", hi, b[2], uint16(b[3])<<8),
		"6to4":                   fmt.Sprintf("[2002:%x:%x::1]", hi, lo),
		"Teredo client":          fmt.Sprintf("[2001:0:808:808:0:0:%x:%x]", ^hi&0xffff, ^lo&0xffff),
		"Teredo server":          fmt.Sprintf("[2001:0:%x:%x:0:0:f7f7:f7f7]", hi, lo),
		"ISATAP":                 "[2606:4700::5efe:" + ip + "]",
		"ISATAP global":          "[2606:4700::200:5efe:" + ip + "]",
	}
}

// reached runs a request for an authority as far as it goes without a dial. It
// tells whether a connection would be made.
func reached(l *List, authority string) bool {
	t, err := target.ParseAuthority(authority)
	return err == nil && l.CheckTarget(t) == nil && (!t.IsAddr() || l.CheckAddr(t, t.Addr) == nil)
}

func TestSSRFSpellingsByDefault(t *testing.T) {
	for _, ip := range []string{
		"127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1",
		"169.254.169.254", "100.100.100.200", "168.63.129.16", "224.0.0.1", "255.255.255.255",
	} {
		for name, host := range spellingsOf(ip) {
			for _, l := range []*List{mustAccessList(t), mustAccessList(t, "allow all")} {
				if reached(l, host+":80") {
					t.Errorf("%s, %s: %q is reached", ip, name, host)
				}
			}
		}
	}
	for _, host := range []string{"[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::1%25lo]", "0", "0x0", "00", "127.1", "0x7f.1"} {
		if reached(mustAccessList(t), host+":80") {
			t.Errorf("%q is reached", host)
		}
	}
}

func TestSSRFSpellingsDenyCIDR(t *testing.T) {
	// Without the rule the plain spelling is reached; with it none is.
	if !reached(mustAccessList(t), "93.184.216.34:80") {
		t.Fatal("a public address is not reached")
	}
	for _, rules := range [][]string{
		{"deny 93.184.216.0/24"},
		{"deny 93.184.216.34", "allow all"},
		{"deny 93.184.216.34:80", "allow 0.0.0.0/0 ::/0"},
		{"deny ::ffff:93.184.216.0/120", "allow 0.0.0.0/0 ::/0"},
		{"allow example.com", "deny 0.0.0.0/0", "allow ::/0"},
	} {
		l := mustAccessList(t, rules...)
		for name, host := range spellingsOf("93.184.216.34") {
			if reached(l, host+":80") {
				t.Errorf("%v, %s: %q is reached", rules, name, host)
			}
		}
	}
}

func TestSSRFSpellingsDenyName(t *testing.T) {
	spellings := []string{
		"bücher.example", "BÜCHER.EXAMPLE", "bu\u0308cher.example", "xn--bcher-kva.example",
		"XN--bcher-KVA.example", "bücher.example.", "bücher。example", "bücher．example｡",
		"ｂücher.ｅxample", "bü\u00adcher.example", "ⓑücher.example", "allowed@bücher.example",
		"b%c3%bccher.example", "bücher.example\x00", "bücher.example..",
	}
	for _, rule := range []string{
		"deny bücher.example", "deny *.bücher.example", "deny xn--bcher-kva.example.", "deny *.example",
		"deny BÜCHER.EXAMPLE", "deny all",
	} {
		l := mustAccessList(t, rule, "allow all")
		for _, host := range spellings {
			if reached(l, host+":443") {
				t.Errorf("%s: %q is reached", rule, host)
			}
		}
	}
	if !reached(mustAccessList(t, "deny bücher.example"), "bucher.example:443") {
		t.Error("another name is not reached")
	}
}

// A name that a rule allows may not lead to where the rules do not let it.
func TestSSRFByName(t *testing.T) {
	l := mustAccessList(t, "allow allowed.example", "allow all")
	tgt := mustTarget(t, "allowed.example:80")
	if err := l.CheckTarget(tgt); err != nil {
		t.Fatal(err)
	}
	for _, ip := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "fe80::1%eth0"} {
		if l.CheckAddr(tgt, netip.MustParseAddr(ip)) == nil {
			t.Errorf("%s may be dialed", ip)
		}
	}
}

func TestAccessListDoesNotAllocate(t *testing.T) {
	l, tgt := bigAccessList(t), mustTarget(t, "a.b.c.example.com:443")
	lit := mustTarget(t, "[2002:808:808::1]:443")
	for name, f := range map[string]func(){
		"allowed name":    func() { _ = l.CheckTarget(tgt) },
		"denied name":     func() { _ = l.CheckTarget(target.Target{Host: "x.denied7.example", Port: 443}) },
		"allowed address": func() { _ = l.CheckAddr(tgt, netip.MustParseAddr("8.8.8.8")) },
		"denied address":  func() { _ = l.CheckAddr(tgt, netip.MustParseAddr("10.0.0.1")) },
		"carried address": func() { _ = l.CheckTarget(lit) },
		"opensSelf":       func() { _ = l.OpensSelf(netip.MustParseAddr("127.0.0.1"), 80) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// bigAccessList has 600 subjects of all kinds.
func bigAccessList(t testing.TB) *List {
	var rules []string
	for i := range 200 {
		rules = append(rules,
			fmt.Sprintf("deny *.denied%d.example", i),
			fmt.Sprintf("allow host%d.example", i))
	}
	for i := range 200 {
		rules = append(rules, fmt.Sprintf("deny 20.%d.0.0/16", i))
	}
	return mustAccessList(t, rules...)
}

func BenchmarkAccessList(b *testing.B) {
	l := bigAccessList(b)
	tgt, ip := mustTarget(b, "www.example.com:443"), netip.MustParseAddr("2606:4700::1")
	b.ReportAllocs()
	for b.Loop() {
		if l.CheckTarget(tgt) != nil || l.CheckAddr(tgt, ip) != nil {
			b.Fatal("denied")
		}
	}
}
