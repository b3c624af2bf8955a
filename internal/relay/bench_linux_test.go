package relay

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The benchmarks run the relay in a process of its own (this test binary,
// started again), so that its CPU and memory are not those of the peers:
//
//	go test -run - -bench . ./internal/relay
//
// "iocopy" is the usual relay, two io.Copy, for comparison.

func init() { benchProxy = serveBenchProxy }

// serveBenchProxy is the proxy process: it relays every connection to the address
// in RELAY_BENCH_TARGET, and answers each line on its standard input with
// CPU ns, resident bytes, Go heap and stack bytes in use, descriptors.
func serveBenchProxy(mode string) {
	ln, err := net.Listen("tcp4", loopback())
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				panic(err)
			}
			o, err := net.Dial("tcp4", os.Getenv("RELAY_BENCH_TARGET"))
			if err != nil {
				panic(err)
			}
			if mode == "relay" {
				New(c.(*net.TCPConn), o.(*net.TCPConn), Config{IdleTimeout: time.Hour}).Start(nil)
			} else {
				go copyRelay(c.(*net.TCPConn), o.(*net.TCPConn))
			}
		}
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var ru syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
		if in.Text() == "memory" {
			debug.FreeOSMemory()
		}
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		fds, _ := os.ReadDir("/proc/self/fd")
		fmt.Println(ru.Utime.Nano()+ru.Stime.Nano(), residentBytes(), ms.HeapInuse+ms.StackInuse, len(fds))
	}
}

func copyRelay(client, origin *net.TCPConn) {
	var wg sync.WaitGroup
	oneWay := func(dst, src *net.TCPConn) {
		_, _ = io.Copy(dst, src)
		_ = dst.CloseWrite()
	}
	wg.Go(func() { oneWay(origin, client) })
	oneWay(client, origin)
	wg.Wait()
	client.Close()
	origin.Close()
}

func residentBytes() int64 {
	statm, _ := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(statm)); len(f) > 1 {
		pages, _ := strconv.ParseInt(f[1], 10, 64)
		return pages * int64(os.Getpagesize())
	}
	return 0
}

// proxyProcess is a running serveBenchProxy.
type proxyProcess struct {
	addr string
	in   io.WriteCloser
	out  *bufio.Scanner
}

// usage is what the proxy process has used so far.
type usage struct{ cpu, rss, inUse, fds int64 }

func startProxy(b *testing.B, mode, target string) *proxyProcess {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RELAY_BENCH_PROXY="+mode, "RELAY_BENCH_TARGET="+target)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p := &proxyProcess{in: in, out: bufio.NewScanner(out)}
	if !p.out.Scan() {
		b.Fatal("the proxy process did not start")
	}
	p.addr = p.out.Text()
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return p
}

func (p *proxyProcess) usage(b *testing.B, question string) (u usage) {
	b.Helper()
	fmt.Fprintln(p.in, question)
	p.out.Scan()
	if _, err := fmt.Sscan(p.out.Text(), &u.cpu, &u.rss, &u.inUse, &u.fds); err != nil {
		b.Fatalf("%q: %v", p.out.Text(), err)
	}
	return u
}

// serve accepts connections until the benchmark ends.
func serve(b *testing.B, f func(net.Conn)) string {
	b.Helper()
	ln, err := net.Listen("tcp4", loopback())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	return ln.Addr().String()
}

// BenchmarkThroughput reports the proxy's CPU seconds per GiB.
func BenchmarkThroughput(b *testing.B) {
	const size = 256 << 20
	for _, mode := range []string{"iocopy", "relay"} {
		for _, parallel := range []int{1, 8} {
			for _, way := range []string{"down", "up", "both"} {
				b.Run(fmt.Sprintf("%s/%s/x%d", mode, way, parallel), func(b *testing.B) {
					throughput(b, mode, way, parallel, size)
				})
			}
		}
	}
}

// throughput moves size bytes through each of some tunnels at once: from the
// origin, to it, or both.
func throughput(b *testing.B, mode, way string, parallel int, size int64) {
	var up, down int64
	if way != "down" {
		up = size
	}
	if way != "up" {
		down = size
	}
	target := serve(b, func(c net.Conn) {
		defer c.Close()
		exchangeBulk(b, c, down, up)
	})
	p := startProxy(b, mode, target)
	b.SetBytes((up + down) * int64(parallel))
	before := p.usage(b, "cpu")
	for b.Loop() {
		var wg sync.WaitGroup
		for range parallel {
			wg.Go(func() {
				c, err := net.Dial("tcp4", p.addr)
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				exchangeBulk(b, c, up, down)
			})
		}
		wg.Wait()
	}
	used := p.usage(b, "cpu").cpu - before.cpu
	gib := float64(b.N) * float64(parallel) * float64(up+down) / (1 << 30)
	b.ReportMetric(float64(used)/1e9/gib, "cpu-s/GiB")
}

// exchangeBulk writes and reads so many bytes, and the ends.
func exchangeBulk(b *testing.B, c net.Conn, out, want int64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		chunk := make([]byte, 128<<10)
		for ; out > 0; out -= int64(len(chunk)) {
			if _, err := c.Write(chunk); err != nil {
				b.Error(err)
				return
			}
		}
		_ = c.(*net.TCPConn).CloseWrite()
	})
	buf := make([]byte, 256<<10)
	var n int64
	for {
		k, err := c.Read(buf)
		n += int64(k)
		if err != nil {
			break
		}
	}
	if n != want {
		b.Errorf("received %d bytes; want %d", n, want)
	}
}

// BenchmarkPingPong reports the proxy's CPU for one byte there and back.
func BenchmarkPingPong(b *testing.B) {
	for _, mode := range []string{"iocopy", "relay"} {
		b.Run(mode, func(b *testing.B) {
			target := serve(b, echo)
			p := startProxy(b, mode, target)
			c, err := net.Dial("tcp4", p.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, 1)
			before := p.usage(b, "cpu")
			for b.Loop() {
				pingPong(b, c, buf)
			}
			b.ReportMetric(float64(p.usage(b, "cpu").cpu-before.cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkLife is what a relay itself costs from New to its end, over streams
// that have ended already, without sockets to dial and close.
func BenchmarkLife(b *testing.B) {
	b.ReportAllocs()
	done := make(chan struct{})
	for b.Loop() {
		New(over{}, over{}, Config{IdleTimeout: time.Hour}).Start(func(Result) { done <- struct{}{} })
		<-done
	}
}

// over is a stream that has ended.
type over struct{}

func (over) Read([]byte) (int, error)    { return 0, io.EOF }
func (over) Write(p []byte) (int, error) { return len(p), nil }
func (over) CloseWrite() error           { return nil }
func (over) Close() error                { return nil }

// BenchmarkSetup is New and the end of a relay of two sockets, whose dialing is
// not measured.
func BenchmarkSetup(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		client, origin := benchLink(b), benchLink(b)
		b.StartTimer()
		done := make(chan struct{})
		New(client.near, origin.near, Config{IdleTimeout: time.Hour}).Start(func(Result) { close(done) })
		client.far.Close()
		origin.far.Close()
		<-done
	}
}

// benchLink is tcpLink for a loop: nothing is left to clean up.
func benchLink(b *testing.B) link {
	ln, err := listener()
	if err != nil {
		b.Fatal(err)
	}
	far, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return link{near.(*net.TCPConn), far.(*net.TCPConn)}
}

// BenchmarkShortTunnel is a tunnel's whole life: dial, one byte echoed, close.
func BenchmarkShortTunnel(b *testing.B) {
	for _, mode := range []string{"iocopy", "relay"} {
		b.Run(mode, func(b *testing.B) {
			target := serve(b, echo)
			p := startProxy(b, mode, target)
			buf := make([]byte, 1)
			before := p.usage(b, "cpu")
			for b.Loop() {
				c, err := net.Dial("tcp4", p.addr)
				if err != nil {
					b.Fatal(err)
				}
				pingPong(b, c, buf)
				c.Close()
			}
			b.ReportMetric(float64(p.usage(b, "cpu").cpu-before.cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}

func echo(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

func pingPong(b *testing.B, c net.Conn, buf []byte) {
	if _, err := c.Write(buf); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkIdleTunnel reports what a tunnel costs that has moved a byte each
// way, and one that has moved a burst, while nothing happens.
func BenchmarkIdleTunnel(b *testing.B) {
	const tunnels = 1000
	for _, mode := range []string{"iocopy", "relay"} {
		for _, bytes := range []int{1, 1 << 20} {
			b.Run(fmt.Sprintf("%s/after_%d_bytes", mode, bytes), func(b *testing.B) {
				for b.Loop() {
					idleTunnels(b, mode, tunnels, bytes)
				}
			})
		}
	}
}

func idleTunnels(b *testing.B, mode string, tunnels, bytes int) {
	target := serve(b, echo)
	p := startProxy(b, mode, target)
	before := p.usage(b, "memory")
	conns := make([]net.Conn, 0, tunnels)
	for range tunnels {
		c, err := net.Dial("tcp4", p.addr)
		if err != nil {
			b.Fatal(err)
		}
		conns = append(conns, c)
		go c.Write(make([]byte, bytes))
		if _, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, int64(bytes)); err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(2*pipeTrim + time.Second)
	p.usage(b, "memory")
	after := p.usage(b, "memory")
	n := float64(tunnels)
	b.ReportMetric(float64(after.rss-before.rss)/n/1024, "rss-KiB/tunnel")
	b.ReportMetric(float64(after.inUse-before.inUse)/n/1024, "go-KiB/tunnel")
	b.ReportMetric(float64(after.fds-before.fds)/n, "fds/tunnel")
	for _, c := range conns {
		c.Close()
	}
}
