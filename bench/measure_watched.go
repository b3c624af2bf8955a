//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// This file contains what it costs to be watched: metrics that are counted and read each
// second, and snapshots, by a proxy that holds many tunnels through many upstreams.

// watchedUpstreams is how many upstreams there are. They are addresses of one proxy.
const watchedUpstreams = 200

// watchedTunnels is how many tunnels are held: 10,000, or what a process has descriptors
// for, of which a tunnel takes two and the load and the reserve of egress some.
func (s scaled) watchedTunnels() int64 {
	n := max(int64(10_000*min(float64(s), 1)), 100)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		n = min(n, int64(limit.Cur)*15/16/2-500)
	}
	return n
}

func (s scaled) watched() memoryRun {
	n := s.watchedTunnels()
	return memoryRun{
		key: "watched", name: fmt.Sprintf("Watched: GET 1 KiB beside %d tunnels through %d upstreams", n, watchedUpstreams),
		subjects: []string{egressWatch, egressQuiet, egressSilent},
		figures: []memoryFigure{
			{key: "watched", what: "processor time of a GET", unit: "µs", digits: 1},
			{key: "watched.allocs", what: "allocations of a GET", digits: 1},
			{key: "watched.scrape", what: "a scrape", unit: "ms", digits: 1},
			{key: "watched.scrape.size", what: "its text", unit: "KiB"},
			{key: "watched.snapshot", what: "a snapshot", unit: "ms", digits: 1},
			{key: "watched.snapshot.size", what: "its text", unit: "KiB"},
			{key: "watched.snapshot.bytes", what: "allocated for a byte of it", unit: "B", digits: 1},
			{key: "watched.all", what: "a snapshot with all tunnels", unit: "ms", digits: 1},
			{key: "watched.all.size", what: "its text", unit: "KiB"},
			{key: "watched.all.bytes", what: "allocated for a byte of it", unit: "B", digits: 1},
		},
		once: func(l *lab, p *proxy) ([]float64, loadResult, error) { return l.watch(p, n, s.n(100_000)) },
	}
}

// watch holds tunnels, and measures requests and what is asked about both.
func (l *lab) watch(p *proxy, tunnels, gets int64) (values []float64, result loadResult, err error) {
	c, err := l.startLoad(p, "echo", load{Do: "hold", Conns: 32, N: tunnels}, &result)
	if err != nil {
		return nil, result, err
	}
	defer c.stop()
	get := load{Do: "requests", Conns: 32, N: gets / 10, Size: getSize}
	warm, err := l.generate(p, "http", get)
	if result = result.and(warm); err != nil {
		return nil, result, err
	}
	scrape, err := p.answers("/metrics")
	if err != nil {
		return nil, result, err
	}
	snapshot, err := p.answers("/egress/snapshot")
	if err != nil {
		return nil, result, err
	}
	all, err := p.answers(fmt.Sprintf("/egress/snapshot?limit=%d", tunnels))
	if err != nil {
		return nil, result, err
	}
	get.N = gets
	cost, allocs, got, err := l.watchGets(p, get, scrape)
	if result = result.and(got); err != nil {
		return nil, result, err
	}
	const ms = float64(time.Millisecond)
	return []float64{
		cost, allocs,
		float64(scrape.took) / ms, scrape.size / 1024,
		float64(snapshot.took) / ms, snapshot.size / 1024, snapshot.bytes / snapshot.size,
		float64(all.took) / ms, all.size / 1024, all.bytes / all.size,
	}, result, nil
}

// watchGets returns the processor time of a request in µs, with its part of the scrapes, and
// its allocations without.
func (l *lab) watchGets(p *proxy, get load, scrape answer) (cost, allocs float64, result loadResult, err error) {
	scrapes := func() int { return 0 }
	if p.scraped {
		scrapes = p.scrapeEachSecond()
	}
	used, err := p.allocated(func() error {
		before, err := cpu(p.pids...)
		if err != nil {
			return err
		}
		if result, err = l.generate(p, "http", get); err != nil {
			return err
		}
		after, err := cpu(p.pids...)
		cost = microseconds(after.sub(before).total()) / float64(max(result.OK, 1))
		return err
	})
	used.objects -= float64(scrapes()) * scrape.objects
	return cost, used.objects / float64(max(result.OK, 1)), result, err
}

// heap is what a process has allocated.
type heap struct{ objects, bytes float64 }

// allocated is what the proxy allocates while f runs, but for what it takes to ask.
func (p *proxy) allocated(f func() error) (heap, error) {
	var at [3]heap
	for i := range at {
		if i == 2 {
			if err := f(); err != nil {
				return heap{}, err
			}
		}
		body, err := p.ask("/debug/vars")
		if err != nil {
			return heap{}, err
		}
		var vars struct {
			Memstats struct{ Mallocs, TotalAlloc float64 }
		}
		if err := json.Unmarshal(body, &vars); err != nil {
			return heap{}, err
		}
		at[i] = heap{vars.Memstats.Mallocs, vars.Memstats.TotalAlloc}
	}
	return heap{at[2].objects - 2*at[1].objects + at[0].objects, at[2].bytes - 2*at[1].bytes + at[0].bytes}, nil
}

// answer is what an answer of the admin endpoint costs.
type answer struct {
	took time.Duration
	size float64 // of its text, in bytes
	heap
}

// answers asks for something several times, and returns the mean.
func (p *proxy) answers(path string) (a answer, err error) {
	const times = 10
	if _, err := p.ask(path); err != nil { // what the first one sets up is no part of the price
		return a, err
	}
	a.heap, err = p.allocated(func() error {
		start := time.Now()
		for range times {
			body, err := p.ask(path)
			if err != nil {
				return err
			}
			a.size = float64(len(body))
		}
		a.took = time.Since(start) / times
		return nil
	})
	a.objects, a.bytes = a.objects/times, a.bytes/times
	return a, err
}

// ask asks the admin endpoint.
func (p *proxy) ask(path string) ([]byte, error) {
	resp, err := http.Get("http://" + p.admin + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", path, resp.Status, body)
	}
	return body, err
}

// scrapeEachSecond reads the metrics each second. The returned function ends that and returns
// how often it was done.
func (p *proxy) scrapeEachSecond() (times func() int) {
	n := 0
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				return
			case <-ticker.C:
			}
			if _, err := p.ask("/metrics"); err == nil {
				n++
			}
		}
	})
	return func() int {
		close(end)
		wg.Wait()
		return n
	}
}

// startObserved starts an egress with an admin endpoint that has tunnels leave through many
// upstreams, and exchanges directly.
func startObserved(l *lab) (*proxy, error) { return startObservedAs(l, l.refcaddy) }

// startSilent is startObserved with the build that counts nothing.
func startSilent(l *lab) (*proxy, error) {
	if l.silent == "" {
		binary := filepath.Join(l.dir, "refcaddy-uncounted")
		if err := l.build(binary, l.source, "./bench/refcaddy", "-tags", "egress_uncounted"); err != nil {
			return nil, err
		}
		l.silent = binary
	}
	return startObservedAs(l, l.silent)
}

func startObservedAs(l *lab, binary string) (*proxy, error) {
	var addrs []string
	for i := range watchedUpstreams {
		addrs = append(addrs, fmt.Sprintf("127.0.1.%d", i+1))
	}
	parent, err := newCaddyRun(l, "http", "bind "+strings.Join(addrs, " ")+"\negress {\n"+egressRules+"}")
	if err != nil {
		return nil, err
	}
	upstreams, err := parent.start(l)
	if err != nil {
		return nil, err
	}
	p, err := startBefore(l, binary, addrs, parent.port)
	if err != nil {
		upstreams.stop()
		return nil, err
	}
	return p.and(upstreams), nil
}

// startBefore starts the egress in front of upstreams that have a port in common.
func startBefore(l *lab, binary string, addrs []string, port string) (*proxy, error) {
	adminPort, err := freePort()
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	text.WriteString("@tunnels method CONNECT\negress {\n" + egressRules + "upstreams parents {\n")
	for _, a := range addrs {
		fmt.Fprintf(&text, "upstream http://%s:%s\n", a, port)
	}
	text.WriteString("}\nroute @tunnels parents\nroute direct\n}")
	admin := "127.0.0.1:" + adminPort
	c, err := newCaddyRunWith(l, "admin "+admin, "http", text.String())
	if err != nil {
		return nil, err
	}
	c.binary = binary
	p, err := c.start(l)
	if err != nil {
		return nil, err
	}
	p.admin = admin
	return p, nil
}
