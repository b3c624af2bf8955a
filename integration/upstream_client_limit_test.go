package integration

import "testing"

// max_per_client and max_per_user hold on all paths: one client cannot have an
// upstream for itself.
func TestUpstreamLimits_PerClient(t *testing.T) {
	checkLeaks(t)
	release, arrived := newGate(), make(chan struct{}, 10)
	up := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
		arrived <- struct{}{}
		oc.hold(release.c)
		oc.ok("ok")
		return true
	})
	p := start(t, mode{access: true}, setup{egress: "transport {\n max_per_client 1\n}\n" + group("", up.addr)})
	c := p.client(t, "h1")
	first := c.goTry(c.newRequest(t, "GET", "http://o.test/1", nil))
	await(t, arrived, "the first request")
	expectError(t, c.get(t, "http://o.test/2").Response, 503, "connection_limit_reached")
	if line := p.egressLine(t, "/2"); line.str("egress.blame") != "client" {
		t.Errorf("%v", line["egress"])
	}
	release.open()
	await(t, first, "the response").must(t).expect(t, 200, "ok")
	c.get(t, "http://o.test/3").expect(t, 200, "ok")
}
