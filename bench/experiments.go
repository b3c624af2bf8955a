//go:build linux

package main

import "time"

// Sizes of what is asked for.
const (
	getSize  = 1 << 10
	postSize = 64 << 10
	oneGiB   = 1 << 30
	oneMiB   = 1 << 20
)

// experiment measures the processor time that an operation costs a proxy.
type experiment struct {
	key      string // for -only
	name     string
	unit     string
	digits   int // behind the point
	inUnit   func(perOperation time.Duration) float64
	subjects []string // the others are compared with the first
	listener string   // of the origin
	load     load

	latency bool   // percentiles go into the report
	needs   string // a subject without which there is nothing to compare
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// perGiB is the unit for operations that move so many bytes.
func perGiB(size int64) func(time.Duration) float64 {
	return func(d time.Duration) float64 { return d.Seconds() * oneGiB / float64(size) }
}

// experiments returns all of them; scale is applied to their sizes.
func experiments(scale float64) []experiment {
	s := scaled(scale)
	all := append(s.exchanges(), s.tunnels()...)
	all = append(all, s.shared()...)
	return append(all, s.bulk()...)
}

type scaled float64

// n is a number of operations.
func (s scaled) n(full int64) int64 { return max(int64(float64(full)*float64(s)), 64) }

// bytes is how much goes through tunnels, one or several.
func (s scaled) bytes() int64 { return max(int64(oneGiB*min(float64(s), 1)), 64*oneMiB) }

func (s scaled) exchanges() []experiment {
	all := []string{egress, transport, noReadFrom, reverseProxy, caddyRespond, squid, trafficSrv, tinyproxy, goProxy}
	get := load{Do: "requests", Conns: 32, N: s.n(20_000), Size: getSize}
	return []experiment{
		{
			key: "get", name: "GET 1 KiB", unit: "µs", inUnit: microseconds, latency: true,
			subjects: all, listener: "http", load: get,
		},
		{
			key: "post", name: "POST 64 KiB", unit: "µs", inUnit: microseconds,
			subjects: all, listener: "http",
			load: load{Do: "requests", Conns: 32, N: s.n(6_000), Size: getSize, Post: postSize},
		},
		{
			key: "low", name: "GET 1 KiB, 1,000 a second", unit: "µs", inUnit: microseconds, latency: true,
			subjects: []string{egress, transport, caddyRespond, squid, trafficSrv, goProxy}, listener: "http",
			load: load{Do: "paced", Conns: 64, N: s.n(2_000), Rate: 1000, Size: getSize},
		},
		{
			key: "upstream", name: "GET 1 KiB through an HTTP upstream", unit: "µs", inUnit: microseconds, latency: true,
			subjects: []string{egressBehind, egress}, listener: "http", load: get, needs: egressBehind,
		},
	}
}

func (s scaled) tunnels() []experiment {
	all := []string{egress, bareRelay, squid, trafficSrv, tinyproxy, goProxy}
	return []experiment{
		{
			key: "connect", name: "CONNECT, one byte echoed, close", unit: "µs", inUnit: microseconds,
			subjects: all, listener: "echo",
			load: load{Do: "connects", Conns: 32, N: s.n(5_000)},
		},
		{
			key: "connecttls", name: "CONNECT, TLS handshake with the origin, one byte echoed, close", unit: "µs", inUnit: microseconds,
			subjects: all, listener: "tls",
			load: load{Do: "secure", Conns: 16, N: s.n(2_000)},
		},
		{
			key: "h2", name: "one byte there and back, 100 tunnels over one HTTP/2 connection", unit: "µs", inUnit: microseconds,
			subjects: []string{egressHTTP2, nghttpxSquid}, listener: "echo",
			load: load{Do: "pings", Conns: 100, N: s.n(20_000), HTTP2: true},
		},
	}
}

// shared is the delay of a tunnel on a connection that it shares, alone there and
// beside one that has stalled: with the client, and between egress and an upstream,
// where two clients share it.
func (s scaled) shared() (all []experiment) {
	for _, e := range []struct {
		key, where, subject string
		http2               bool
	}{
		{"client", "of one HTTP/2 client", egressHTTP2, true},
		{"parent", "of two clients, over one HTTP/2 connection to an upstream", egressBeside, false},
	} {
		for i, beside := range []string{"alone", "beside a stalled tunnel"} {
			all = append(all, experiment{
				key: [...]string{"alone", "beside"}[i] + e.key, unit: "µs", inUnit: microseconds, latency: true,
				name:     "one byte there and back in a tunnel " + e.where + ", " + beside,
				subjects: []string{e.subject}, listener: "echo",
				load: load{Do: "beside", Conns: 1, N: s.n(2_000), HTTP2: e.http2, Stalled: int64(i)},
			})
		}
	}
	return all
}

func (s scaled) bulk() (all []experiment) {
	subjects := []string{egress, bareRelay, squid, trafficSrv, tinyproxy, goProxy}
	for _, e := range []struct {
		key, name, do, listener string
		tunnels                 int64
	}{
		{"tunnel", "1 GiB through a tunnel, to the client", "bulk", "bulk", 1},
		{"tunnelup", "1 GiB through a tunnel, to the origin", "push", "sink", 1},
		{"tunnel8", "1 GiB through 8 tunnels, to the client", "bulk", "bulk", 8},
		{"tunnelup8", "1 GiB through 8 tunnels, to the origin", "push", "sink", 8},
	} {
		size := s.bytes() / e.tunnels
		all = append(all, experiment{
			key: e.key, name: e.name, unit: "s", digits: 2, inUnit: perGiB(size),
			subjects: subjects, listener: e.listener,
			load: load{Do: e.do, Conns: int(e.tunnels), N: e.tunnels, Size: size},
		})
	}
	size := s.bytes() / 100
	return append(all, experiment{
		key: "h2tunnel", name: "1 GiB through 100 tunnels over one HTTP/2 connection, to the client", unit: "s", digits: 2,
		inUnit: perGiB(size), subjects: []string{egressHTTP2, nghttpxSquid}, listener: "bulk",
		load: load{Do: "bulk", Conns: 100, N: 100, Size: size, HTTP2: true},
	})
}
