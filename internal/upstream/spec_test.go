package upstream

import "testing"

// What an upstream is dialed by decides which connections it shares over a reload.
func TestIdentity_Interface(t *testing.T) {
	addr, err := ParseURL("http://127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	any, lo := &Spec{Addr: addr}, &Spec{Addr: addr, Interface: "lo"}
	if any.connsID("g", "") == lo.connsID("g", "") {
		t.Error("connections are shared with those by another interface")
	}
	if any.healthID("g") != lo.healthID("g") {
		t.Error("it is another upstream")
	}
}
