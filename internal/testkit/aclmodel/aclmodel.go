package aclmodel

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/target"
)

// Rule is a rule on one subject.
type Rule struct {
	Subject string
	Allow   bool
}

// Subjects are one of each kind, and some that meet each other's edges.
var Subjects = []string{
	"all", "private", "example.com", "*.example.com", "*.com", "a.example.com", "EXAMPLE.com.",
	"0.0.0.0/0", "::/0", "127.0.0.0/8", "127.0.0.1", "::1", "10.0.0.0/8", "10.0.0.0/9", "10.1.2.3",
	"8.8.8.8", "8.8.8.0/24", "8.8.8.8:443", "127.0.0.1:80", "[::1]:80", "100.64.0.0/10", "100.100.100.200",
	"169.254.0.0/16", "fd00::/8", "fd00:ec2::254", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16",
	"2001::/32", "2000::/3", "::ffff:8.8.8.0/120", "2001:db8::/32", "[64:ff9b::808:808]:443", "::/96",
}

// Allows reports whether the rules allow a destination at an address.
func Allows(rules []Rule, t target.Target, ip netip.Addr) bool {
	if t.Port == 0 || t.Port == 25 {
		return false
	}
	ip = ip.WithZone("") // it is the interface that it says, and rules are about addresses
	for _, a := range append(carried(ip), ip.Unmap()) {
		if !allowsOne(rules, t, a) {
			return false
		}
	}
	return true
}

func allowsOne(rules []Rule, t target.Target, ip netip.Addr) bool {
	decided, opened, addrDecided := false, false, false
	for _, r := range rules {
		name, addr := matches(r.Subject, r.Allow, t, ip)
		if (name || addr) && !decided {
			decided = true
			if !r.Allow {
				return false
			}
		}
		if addr && !addrDecided {
			addrDecided, opened = true, r.Allow
		}
	}
	return opened || public(ip)
}

func matches(s string, allow bool, t target.Target, ip netip.Addr) (name, addr bool) {
	s = strings.Replace(s, "::ffff:8.8.8.0/120", "8.8.8.0/24", 1)
	in := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(ip) }
	switch {
	case s == "all":
		return true, false
	case s == "private":
		if allow && (ip.String() == "100.100.100.200" || ulaMetadata(ip)) || ip.String() == "100.96.0.96" && allow {
			return false, false
		}
		return false, ip.IsPrivate() || in("100.64.0.0/10")
	case strings.Contains(s, "/"):
		return false, in(s)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return false, a == ip
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return false, ap.Addr() == ip && ap.Port() == t.Port
	}
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	if below, ok := strings.CutPrefix(s, "*"); ok {
		return !t.IsAddr() && strings.HasSuffix("."+t.Host, below), false
	}
	return !t.IsAddr() && s == t.Host, false
}

func ulaMetadata(ip netip.Addr) bool {
	full := ip.StringExpanded()
	return strings.HasPrefix(full, "fd00:0ec2:") || strings.HasPrefix(full, "fd00:a9fe:a9fe:0000:") ||
		strings.Contains(" fd20:ce::254 fd00:42::42 fd00:c1::a9fe:a9fe fd00:100::100:200 ", " "+ip.String()+" ")
}

// public is for unmapped addresses without zone. It asks the standard
// library where that has a word, and the text of the address elsewhere.
func public(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	if ip.Is4() {
		o := ip.As4()
		two := int(o[0])<<8 | int(o[1])
		three := two<<8 | int(o[2])
		return o[0] != 0 && o[0] < 240 && (o[0] != 100 || o[1]&0xc0 != 64) &&
			two != 198<<8|18 && two != 198<<8|19 && three != 192<<16 && three != 192<<16|2 &&
			three != 198<<16|51<<8|100 && three != 203<<16|113 && three != 192<<16|88<<8|99 &&
			ip.String() != "168.63.129.16"
	}
	full := ip.StringExpanded()
	group := func(i int) uint64 { n, _ := strconv.ParseUint(strings.Split(full, ":")[i], 16, 16); return n }
	if strings.HasPrefix(full, "0064:ff9b:0000:0000:0000:0000:") {
		return true
	}
	if full[0] != '2' && full[0] != '3' {
		return false
	}
	switch g := group(1); {
	case group(0) == 0x3fff:
		return g > 0xfff
	case group(0) != 0x2001:
		return true
	case g == 0xdb8:
		return false
	case g == 1:
		return strings.HasPrefix(full, "2001:0001:0000:0000:0000:0000:0000:000") && group(7) >= 1 && group(7) <= 3
	case g == 4:
		return group(2) == 0x112
	default:
		return g == 0 || g == 3 || g >= 0x20 && g <= 0x3f || g > 0x1ff
	}
}

// carried cuts addresses out of the hexadecimal text.
func carried(ip netip.Addr) (found []netip.Addr) {
	if !ip.Is6() || ip.Is4In6() {
		return nil
	}
	hex := strings.ReplaceAll(ip.StringExpanded(), ":", "")
	at := func(nibbles string, flip uint64) {
		n, err := strconv.ParseUint(nibbles, 16, 32)
		if err != nil {
			panic(err)
		}
		n ^= flip
		found = append(found, netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}))
	}
	last := hex[24:]
	switch zeros := strings.Repeat("0", 24); {
	case hex[:24] == zeros && last != "00000000" && last != "00000001",
		hex[:24] == "0000000000000000ffff0000",
		hex[:24] == "0064ff9b"+zeros[:16]:
		at(last, 0)
	case strings.HasPrefix(hex, "0064ff9b0001"):
		short := hex[12:16] + hex[18:22]
		if !strings.HasPrefix(short, "00") || strings.HasPrefix(last, "00") {
			at(short, 0)
		}
		if !strings.HasPrefix(last, "00") || strings.HasPrefix(short, "00") {
			at(last, 0)
		}
	case strings.HasPrefix(hex, "2002"):
		at(hex[4:12], 0)
	case strings.HasPrefix(hex, "20010000"):
		at(hex[8:16], 0)
		at(last, 0xffffffff)
	}
	if id := hex[16:24]; id == "00005efe" || id == "02005efe" {
		at(last, 0)
	}
	return found
}
