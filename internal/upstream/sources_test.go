package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/events"
	"github.com/caddy-egress/egress/selection"
)

// specAt is an upstream of which nothing is known but where it is.
func specAt(addr Address, rank Rank) (*Spec, error) {
	return &Spec{Addr: addr, Weight: max(rank.Weight, 1), Priority: rank.Priority}, nil
}

// sourceGroup is a group of dynamic sources, which is not followed yet.
func sourceGroup(t *testing.T, sources ...Source) *Group {
	t.Helper()
	for i := range sources {
		sources[i].ID = t.Name() + sources[i].Name
		sources[i].Every, sources[i].Patience = time.Minute, 5*time.Second
	}
	return mustNew(t, Config{Sources: sources, Scheme: HTTP, At: specAt, Dialer: &dial.Dialer{Timeout: 10 * time.Second}})
}

// members are the hosts of a group in its order.
func members(g *Group) string {
	var hosts []string
	for _, m := range g.Members() {
		hosts = append(hosts, m.Spec.Addr.Host)
	}
	return strings.Join(hosts, " ")
}

func found(hosts ...string) (all []Found) {
	for _, h := range hosts {
		all = append(all, Found{HostPort: h + ":1"})
	}
	return all
}

// script is a source that says one thing after the other, the last one for ever: hosts,
// or an error.
func script(name string, asked *atomic.Int64, says ...string) Source {
	return Source{Name: name, Ask: func(context.Context) ([]Found, error) {
		said := says[min(int(asked.Add(1)), len(says))-1]
		if strings.HasPrefix(said, "error") {
			return nil, errors.New(said)
		}
		return found(strings.Fields(said)...), nil
	}}
}

// A source that fails is told of, one that a reload cuts off is not: it has done
// nothing wrong, and who would be told to act has nothing to do.
func TestFollowSource_CutOff(t *testing.T) {
	for name, fails := range map[string]bool{"fails": true, "is cut off": false} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.ErrorLevel)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := make(chan struct{}, 1)
			g := &Group{cfg: Config{Context: ctx, Logger: zap.New(core)}, events: events.To(noEvents{}), stop: make(chan struct{}), unasked: 2}
			g.cfg.Sources = []Source{{Patience: time.Minute, Ask: func(ctx context.Context) ([]Found, error) {
				if fails {
					close(g.stop) // it is asked once
					return nil, errors.New("no answer")
				}
				asked <- struct{}{}
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}}}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				g.followSource(0)
			}()
			if !fails {
				<-asked
				cancel() // Cleanup, which closes the group, comes after that
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("it goes on")
			}
			if n := logs.Len(); (n > 0) != fails {
				t.Errorf("told: %v", logs.All())
			}
		})
	}
}

// Of several sources, each is asked by itself: what it told stays while it fails, and
// one that does not answer keeps nothing from the others.
func TestFollowSource_Parts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b, c atomic.Int64
		silent := Source{Name: "silent", Ask: func(ctx context.Context) ([]Found, error) {
			c.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		g := sourceGroup(t, silent, script("a", &a, "a1 a2", "error", "error", "a3"), script("b", &b, "b1", "b1", "error"))
		g.Follow()
		for _, step := range []struct {
			after time.Duration
			want  string
		}{
			{0, "a1 a2 b1"},
			{61 * time.Second, "a1 a2 b1"}, // a has failed once
			{time.Second, "a1 a2 b1"},      // and again
			{2 * time.Second, "a3 b1"},
			{2 * time.Minute, "a3 b1"}, // b has failed
		} {
			time.Sleep(step.after)
			synctest.Wait()
			if got := members(g); got != step.want {
				t.Fatalf("%s later: %s, want %s", step.after, got, step.want)
			}
		}
		if a.Load() < 4 || b.Load() < 3 || c.Load() < 2 {
			t.Errorf("asked %d, %d and %d times", a.Load(), b.Load(), c.Load())
		}
	})
}

// A source that is silent is given up each time, and left alone for longer and longer:
// it may hold locks that others wait for.
func TestFollowSource_Pauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun []time.Duration
		start := time.Now()
		g := sourceGroup(t, Source{Ask: func(ctx context.Context) ([]Found, error) {
			begun = append(begun, time.Since(start))
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		g.Follow()
		time.Sleep(100 * time.Second)
		g.Close()
		synctest.Wait()
		var pauses []time.Duration
		for i := range begun[1:] {
			pauses = append(pauses, begun[i+1]-begun[i]-5*time.Second)
		}
		s := time.Second
		if want := []time.Duration{s, 2 * s, 4 * s, 8 * s, 15 * s, 15 * s, 15 * s}; !slices.Equal(pauses, want) {
			t.Errorf("pauses of %v, want %v", pauses, want)
		}
	})
}

// The order of the members is that of their ranks and addresses: answers rotate.
func TestFollowSource_Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		g := sourceGroup(t, script("a", &asked, "b a c", "c b a", "a c b"), Source{Name: "ranked", Ask: func(context.Context) ([]Found, error) {
			return []Found{{"x:1", Rank{20, 1}}, {"y:1", Rank{10, 1}}, {"w:1", Rank{10, 5}}}, nil
		}})
		g.Follow()
		for range 4 {
			synctest.Wait()
			if got := members(g); got != "a b c w y x" {
				t.Fatal(got)
			}
			time.Sleep(time.Minute)
		}
		if m := g.Members()[5].Spec; m.Priority != 20 {
			t.Errorf("the priority of x is %d", m.Priority)
		}
	})
}

// What a source told last is kept by its settings, whatever the group around it is, and
// forgotten with the last group that asks it.
func TestSources_Kept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		one := sourceGroup(t, script("a", &asked, "a1"), script("b", new(atomic.Int64), "b1"))
		one.Follow()
		synctest.Wait()
		two := sourceGroup(t, script("b", new(atomic.Int64), "error"), script("other", new(atomic.Int64), "error"))
		if got := members(two); got != "b1" {
			t.Errorf("the next one begins with %q", got)
		}
		one.Close()
		two.Close()
		if held := SharedTold.Holders(); len(held) != 0 {
			t.Errorf("held: %v", held)
		}
		if got := members(sourceGroup(t, script("a", new(atomic.Int64), "error"))); got != "" {
			t.Errorf("a later one begins with %q", got)
		}
	})
}

// Before the first answer, requests wait for it: until there are members or every source
// has failed, for the time of a dial, and not longer than their client.
func TestAwaitMembers(t *testing.T) {
	silent := func(ctx context.Context) ([]Found, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	in := func(d time.Duration, hosts ...string) func(context.Context) ([]Found, error) {
		return func(context.Context) ([]Found, error) {
			time.Sleep(d)
			if hosts == nil {
				return nil, errors.New("no answer")
			}
			return found(hosts...), nil
		}
	}
	for name, tc := range map[string]struct {
		ask  []func(context.Context) ([]Found, error)
		took time.Duration
		err  error
	}{
		"an answer":                  {ask: []func(context.Context) ([]Found, error){in(2*time.Second, "a")}, took: 2 * time.Second},
		"one of two":                 {ask: []func(context.Context) ([]Found, error){silent, in(2*time.Second, "a")}, took: 2 * time.Second},
		"one fails, the other waits": {ask: []func(context.Context) ([]Found, error){in(time.Second), in(2*time.Second, "a")}, took: 2 * time.Second},
		"a failure":                  {ask: []func(context.Context) ([]Found, error){in(time.Second)}, took: time.Second},
		"an empty answer":            {ask: []func(context.Context) ([]Found, error){in(time.Second, []string{}...), in(0)}, took: time.Second},
		"the time of a dial":         {ask: []func(context.Context) ([]Found, error){in(time.Minute, "a")}, took: 10 * time.Second},
		"the client leaves":          {ask: []func(context.Context) ([]Found, error){in(time.Minute, "a")}, took: 3 * time.Second, err: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sources []Source
				for i, ask := range tc.ask {
					sources = append(sources, Source{Name: string(rune('a' + i)), Ask: ask})
				}
				g := sourceGroup(t, sources...)
				defer func() { g.Close(); time.Sleep(time.Hour) }()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tc.err != nil {
					time.AfterFunc(3*time.Second, cancel)
				}
				g.Follow()
				start := time.Now()
				err := g.AwaitMembers(ctx)
				if took := time.Since(start); took != tc.took || !errors.Is(err, tc.err) {
					t.Errorf("after %s: %v, want %s and %v", took, err, tc.took, tc.err)
				}
			})
		})
	}
}

// A group that has members waits for none.
func TestAwaitMembers_HasSome(t *testing.T) {
	g := mustNew(t, Config{
		Static: []*Spec{{}}, Scheme: HTTP, At: specAt,
		Sources: []Source{{ID: t.Name(), Ask: func(context.Context) ([]Found, error) { select {} }}},
	})
	if err := g.AwaitMembers(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := g.Pick(&selection.Choice{Request: httptest.NewRequest(http.MethodGet, "http://a.example/", nil)}, Exchange); err != nil {
		t.Error(err)
	}
}

// A comment behind an upstream of a list is none of its password; what has no space
// before it is.
func TestReadFile_Comments(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	list := "# ours\na.example:1:u:pa#ss # the first\nhttp://u:p%23w@b.example:2\t# the second\n  #none\nc.example:3:u:#x\n"
	if err := os.WriteFile(path, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	var passwords []string
	g := mustNew(t, Config{File: path, At: func(addr Address, rank Rank) (*Spec, error) {
		password, _ := addr.User.Password()
		passwords = append(passwords, password)
		return specAt(addr, rank)
	}})
	if want := []string{"pa#ss", "p#w", "#x"}; members(g) != "a.example b.example c.example" || !slices.Equal(passwords, want) {
		t.Errorf("%s with %q, want %q", members(g), passwords, want)
	}
}
