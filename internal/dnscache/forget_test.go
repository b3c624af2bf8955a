package dnscache

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// What was forgotten does not come back with the answer to a question that was under way:
// neither the addresses of the other family, nor those that were to serve as stale, nor the
// late answer itself. Who has waited for it gets it.
func TestForget_UnderWay(t *testing.T) {
	for _, all := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := new(script)
			b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Hour})
			c := New(Config{Backend: b})
			ask(c, "origin.test", IPv4)
			b.after = 4 * time.Second
			b.set("origin.test IPv6", Reply{Addrs: addrs("2001:db8::1"), TTL: time.Hour})
			_, fl := c.Lookup("origin.test", IPv6)
			synctest.Wait()
			name := "origin.test"
			if all {
				name = ""
			}
			if n := c.Forget(name); n != 1 {
				t.Errorf("forgotten: %d", n)
			}
			b.set("origin.test", Reply{Addrs: addrs("192.0.2.2"), TTL: time.Hour})
			<-fl.Done()
			if a := fl.Answer(); !slices.Equal(a.Addrs, addrs("2001:db8::1")) {
				t.Errorf("who has waited gets %+v", a)
			}
			fl.Leave()
			synctest.Wait()
			if known := c.Look("origin.test"); len(known) != 0 {
				t.Errorf("back: %+v", known)
			}
			b.set("origin.test IPv6", Reply{Addrs: addrs("2001:db8::2"), TTL: time.Hour})
			for f, want := range map[Family]string{IPv4: "192.0.2.2", IPv6: "2001:db8::2"} {
				if a, hit := ask(c, "origin.test", f); hit || !slices.Equal(a.Addrs, addrs(want)) {
					t.Errorf("%s: %+v, from memory: %t", f, a, hit)
				}
			}
			if n := c.Len(); n != 1 {
				t.Errorf("%d names are remembered", n)
			}
		})
	}
}

// A question that begins after the order does not join one from before, and its answer is
// remembered, whichever of the two comes first.
func TestForget_AskedAgain(t *testing.T) {
	for _, later := range []time.Duration{time.Second, 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := new(script)
			b.after = 5 * time.Second
			b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Hour})
			c := New(Config{Backend: b})
			_, old := c.Lookup("origin.test", IPv4)
			synctest.Wait()
			c.Forget("origin.test")
			b.mu.Lock()
			b.after = later
			b.mu.Unlock()
			_, fresh := c.Lookup("origin.test", IPv4)
			if old == fresh {
				t.Fatal("the question from before is joined")
			}
			<-old.Done()
			<-fresh.Done()
			old.Leave()
			fresh.Leave()
			synctest.Wait()
			if asked := b.asked.Load(); asked != 2 {
				t.Errorf("asked %d times", asked)
			}
			a, hit := ask(c, "origin.test", IPv4)
			fresh.shard.mu.Lock()
			defer fresh.shard.mu.Unlock()
			if !hit || len(a.Addrs) != 1 || len(fresh.shard.asked) != 0 {
				t.Errorf("%+v, from memory: %t, %d asked for", a, hit, len(fresh.shard.asked))
			}
		})
	}
}

// Addresses whose time is over, and which would have served as long as nobody can tell
// others, are gone as well.
func TestForget_Stale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: MinTTL})
		c := New(Config{Backend: b})
		ask(c, "origin.test", IPv4)
		time.Sleep(2 * MinTTL)
		b.after = time.Second
		b.fail(errBroken)
		_, fl := c.Lookup("origin.test", IPv4)
		synctest.Wait()
		c.Forget("origin.test")
		<-fl.Done()
		fl.Leave()
		if a, hit := ask(c, "origin.test", IPv4); hit || a.Err == nil {
			t.Errorf("%+v, from memory: %t", a, hit)
		}
	})
}
