package proxydial

import "testing"

// What is unsent becomes less when the proxy gives the window of the tunnel back.
func TestH2Unsent(t *testing.T) {
	d := newDialer(t, h2Config(newHoarder(t, 0).addr))
	tn := mustTunnel(t, d)
	unsent := tn.Conn.(interface{ Unsent() int }).Unsent
	write := func(n int) {
		t.Helper()
		if _, err := tn.Conn.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	write(1000)
	if n := unsent(); n != 1000 {
		t.Errorf("%d of 1000 bytes are unsent, and no window was given back", n)
	}
	write(initialWindow/2 - 1000)
	eventually(t, "the window is given back", func() bool { return unsent() == 0 })
}
