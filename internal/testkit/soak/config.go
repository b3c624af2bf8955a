package main

import (
	"fmt"
	"strings"
)

// The names that requests go to. Both are this machine; the routes of the proxy
// under test tell them apart.
const (
	directHost  = "direct.test"
	parentsHost = "parents.test"
)

// Limits of the proxy under test, which the final checks fill to the last slot.
const (
	maxConnsPerHost = 64
	maxMember       = 16 // exchanges, and tunnels, through each upstream proxy
)

// caddyfile is a configuration with a proxy in clear and one within TLS. A client
// that is gone without a word does not hold its slots for longer than its timeouts.
//
// It goes without HTTP/3, which nobody here speaks: while Caddy starts that, the race
// detector finds a race of Caddy's own with the first requests to the same server.
func (l *lab) caddyfile(c *caddy, egress string) string {
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	skip_install_trust
	metrics
	servers {
		protocols h1 h2
		timeouts {
			read_body_idle 10s
			write_idle 10s
		}
	}
	storage file_system %s
	log default {
		level ERROR
	}
}
(proxy) {
	bind 127.0.0.1
	egress {
		allow_unauthenticated
		hosts proxy.test
		acl {
			allow 127.0.0.0/8
		}
%s	}
}
http://:%s {
	import proxy
}
https://:%s {
	tls %s %s
	import proxy
}
`, c.admin, c.dir, egress, port(c.plain), port(c.secure), l.cert.Cert, l.cert.Key)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// names makes both names known.
const names = `			hosts_override direct.test 127.0.0.1
			hosts_override parents.test 127.0.0.1
`

// parentConfig is that of an upstream proxy, which lets its child find out what
// fails.
func (l *lab) parentConfig(c *caddy) string {
	return l.caddyfile(c, `		destination_circuit off
		transport {
			keepalive 2s
			max_conns_per_host off
			response_header_timeout 12s
`+names+`		}
`)
}

// egressConfig is that of the proxy under test. The serial number makes one
// configuration differ from another in a way that keeps all state.
func (l *lab) egressConfig(serial int) string {
	var members strings.Builder
	for _, url := range l.members() {
		fmt.Fprintf(&members, "\t\t\tupstream %s {\n\t\t\t\tmax_conns %d\n\t\t\t\tmax_tunnels %[2]d\n", url, maxMember)
		if strings.HasPrefix(url, "https:") {
			fmt.Fprintf(&members, "\t\t\t\ttls_trust_pool file %s\n", l.cert.Cert)
		}
		members.WriteString("\t\t\t}\n")
	}
	return l.caddyfile(l.egress, fmt.Sprintf(`		server_name egress%d
		destination_circuit {
			open_for 100ms
			max_open_for 500ms
		}
		transport {
			dial_timeout 5s
			tls_timeout 5s
			response_header_timeout 8s
			keepalive 2s
			max_conns_per_host %d
%s		}
		tunnel {
			idle_timeout 15s
			half_close_timeout 5s
		}
		upstreams parents {
%s			health_check tcp
			health_interval 1s
			attempt_timeout 5s
			circuit {
				open_for 500ms
				max_open_for 1s
			}
			slow_start off
		}
		route {
			match {
				host %s
			}
			to parents
		}
		route direct
`, serial, maxConnsPerHost, names, members.String(), parentsHost))
}

// members are the URLs of the upstream proxies. With faults, there are links to
// two of three; without, the two programs have two each.
func (l *lab) members() []string {
	a, b := l.parents[0], l.parents[1]
	if l.plan.faults {
		return []string{"http://" + l.links.parent.addr, "https://" + l.links.parentTLS.addr, "http://" + b.plain}
	}
	return []string{"http://" + a.plain, "https://" + a.secure, "http://" + b.plain, "https://" + b.secure}
}
