package metrics

import "github.com/prometheus/client_golang/prometheus"

const namespace, subsystem = "caddy", "egress"

// timeBuckets are for times from a millisecond to a minute.
var timeBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// waitBuckets are for waits that should not be: fewer tell enough of them.
var waitBuckets = []float64{.001, .01, .1, .5, 1, 5, 10, 30}

// lifeBuckets are for the lives of tunnels.
var lifeBuckets = []float64{.1, 1, 10, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600}

// Entry describes a metric, for those who read about it.
type Entry struct {
	Name, Type, Help string
	Labels           []string
}

// catalogue holds all metrics, in the order of the code.
var catalogue []Entry

// Catalogue describes all metrics.
func Catalogue() []Entry { return catalogue }

func enter(name, typ, help string, labels []string) string {
	name = prometheus.BuildFQName(namespace, subsystem, name)
	catalogue = append(catalogue, Entry{name, typ, help, labels})
	return name
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	labels = append([]string{"handler"}, labels...)
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: enter(name, "counter", help, labels), Help: help}, labels)
}

func gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	labels = append([]string{"handler"}, labels...)
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: enter(name, "gauge", help, labels), Help: help}, labels)
}

// histogramVec has classic and native buckets.
func histogramVec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	labels = append([]string{"handler"}, labels...)
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: enter(name, "histogram", help, labels), Help: help,
		Buckets:                        buckets,
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 100,
	}, labels)
}

// The families that requests are counted in, for all handlers of the process.
var (
	requests = counterVec("requests_total",
		"Requests that were answered: exchanges, and CONNECT requests, when the tunnel stands or was refused.",
		"door", "kind", "path", "group", "code", "outcome")
	failures = counterVec("failures_total",
		"What failed, by whom it is charged to and by its error type of RFC 9209: requests, when they are over or their tunnel was refused, and (stage tunnel) tunnels that were established and have broken.",
		"kind", "stage", "blame", "reason")
	inFlight = gaugeVec("requests_in_flight",
		"Requests that are being served. A tunnel counts until it stands.",
		"kind")
	requestDuration = histogramVec("request_duration_seconds",
		"Time from the head of a request to the end of its response; for a tunnel, until it stands or was refused.",
		timeBuckets, "kind", "path", "group")
	ttfb = histogramVec("ttfb_seconds",
		"Time from the head of a request to the head of its response.",
		timeBuckets, "path", "group")
	dialDuration = histogramVec("dial_duration_seconds",
		"Time to get a new connection to a destination: waiting for a slot, names, connecting, TLS, and the way through an upstream.",
		timeBuckets, "path", "group")
	queueDuration = histogramVec("queue_duration_seconds",
		"Time that exchanges have waited for a slot of a pool, of those that had to: ok where there was one, or how the exchange has failed.",
		waitBuckets, "path", "group", "result")
	dnsDuration = histogramVec("dns_duration_seconds",
		"Time that DNS servers were waited for, of look-ups that could not be answered from memory: ok, negative, stale, failed and refused as in dns_lookups_total.",
		timeBuckets, "result")
	tlsDuration = histogramVec("tls_handshake_duration_seconds",
		"Time of TLS handshakes with destinations, directly and through upstreams.",
		timeBuckets, "result")
	lookups = counterVec("dns_lookups_total",
		"Look-ups of addresses of destinations, each for IPv4 and IPv6: hit, stale, negative (there are none), failed (no server has answered) and refused (servers have answered that they cannot tell) from memory, miss where a DNS server was to be asked.",
		"result")
	poolDials = counterVec("pool_dials_total",
		"Dials of connections for the pool, by how they have ended: ok, failed, canceled (nobody wanted it any more).",
		"path", "group", "result")
	poolClosed = counterVec("pool_closed_total",
		"Pooled connections that were closed: idle for too long, at the end of their lifetime, dead (closed by their peer while idle), evicted by others, retired with their pool, detached (no longer pooled, since an upgrade has made tunnels of them), or discarded by an exchange that was the last one they could carry.",
		"path", "group", "reason")
	poolReuses = counterVec("pool_reuses_total",
		"Exchanges that were served over a connection that had carried another one.",
		"path", "group")
	tunnelsOpen = gaugeVec("tunnels",
		"Tunnels that stand.",
		"path", "group")
	tunnelsOpened = counterVec("tunnels_opened_total",
		"Tunnels that were opened.",
		"path", "group")
	tunnelsClosed = counterVec("tunnels_closed_total",
		"Tunnels that have ended, by reason.",
		"path", "group", "reason")
	tunnelDuration = histogramVec("tunnel_duration_seconds",
		"Time from the CONNECT request to the end of the tunnel.",
		lifeBuckets, "path", "group")
	bytesMoved = counterVec("bytes_total",
		"Bytes of bodies and of tunnels. Up is from the client. They are counted when the exchange or the tunnel has ended.",
		"kind", "direction", "path", "group")
	clientConnections = gaugeVec("client_connections",
		"Connections of clients over TCP to the server of the handler, by what they speak: http/1, http/2 (over TLS; without, it counts as http/1), or none, as long as nothing was asked. One that became a tunnel over HTTP/1.1 is among the tunnels. Connections of HTTP/3 cannot be seen.",
		"door", "protocol")
	clientsTotal = counterVec("client_connections_total",
		"Connections of clients over TCP, counted when it is known what they speak: as none where they have ended before they asked anything.",
		"door", "protocol")
	logins = counterVec("auth_total",
		"Checks of credentials, where the handler asks for some: ok, or why they failed.",
		"result")
	retries = counterVec("retries_total",
		"Attempts beyond the first of a request, one after the other: over another connection, or through another upstream. The result is that of the request in the end.",
		"kind", "path", "group", "result")
	hedges = counterVec("hedges_total",
		"Attempts to open a tunnel beside one that is slow: won where it was the one that the tunnel has got, else lost.",
		"group", "result")
	userRequests = counterVec("user_requests_total",
		"Requests of users that metrics_users names, of the other ones together as _other; without metrics_users, and of who has not logged in, they are not counted.",
		"user", "kind", "outcome")
	userBytes = counterVec("user_bytes_total",
		"Bytes of bodies and tunnels of the same users. Up is from the client. They are counted when the exchange or the tunnel has ended.",
		"user", "direction")
	limited = counterVec("limit_rejections_total",
		"Requests that were refused by a limit of this proxy.",
		"limit")
)

// families are all of them.
var families = []interface {
	prometheus.Collector
	DeletePartialMatch(prometheus.Labels) int
}{
	requests, failures, inFlight, requestDuration, ttfb, dialDuration, queueDuration, dnsDuration, tlsDuration, lookups,
	poolDials, poolReuses, poolClosed, tunnelsOpen, tunnelsOpened, tunnelsClosed, tunnelDuration, bytesMoved,
	retries, hedges, logins, limited, clientConnections, clientsTotal,
	userRequests, userBytes,
}
