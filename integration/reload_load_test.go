//lint:file-ignore SA1019 net/http offers no HTTP/2 client that sends requests for http over TLS

package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress"
)

// This file contains reloads under load. Whatever its handlers, a server that is given
// up loses some requests that came on a connection of which it had read nothing yet:
// the kernel resets what waits to be accepted, net/http closes what it has accepted or
// kept alive when it reads a request after its Shutdown has begun, and a QUIC connection
// that was just set up may be forgotten, with its client waiting in vain. So a request is
// "lost" that got no byte of an answer, and that neither a handler in front of egress
// nor an origin has ever seen; the same clients ask a site that only says `respond`, to
// know how many those are. A long answer can be "cut" although its handler has written
// all of it: net/http closes an HTTP/2 connection that has become idle in a shutdown
// at once, and the kernel resets it, with what the client has yet to read, if anything
// of the client's is unread. Everything else
// that does not go well is our fault, and fails the test.

// reloads is how many reloads a test makes: few usually, 200 with EGRESS_LONG=1.
func reloads(few int) int {
	if os.Getenv("EGRESS_LONG") != "" {
		return 200
	}
	return few
}

// seenIDs are the X-Id, unique in a test, of requests that an origin or a handler has seen. Where egress
// is done with one, the value is what it has done.
var seenIDs sync.Map

// handled is what egress has done about a request.
type handled struct{ written, what string }

func init() {
	caddy.RegisterModule(seenHandler{})
	httpcaddyfile.RegisterHandlerDirective("egress_test_seen", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return seenHandler{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("egress_test_seen", httpcaddyfile.Before, "root")
}

// seenHandler is a handler that notes what it has seen.
type seenHandler struct{}

func (seenHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.egress_test_seen", New: func() caddy.Module { return new(seenHandler) }}
}

func (seenHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	id := r.Header.Get("X-Id")
	if id != "" {
		seenIDs.Store(id, handled{})
	}
	defer func() {
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok && id != "" {
			written, _ := repl.GetString("http.egress.bytes_down")
			what := repl.ReplaceAll("{http.egress.blame} {http.egress.reason} {http.egress.error} in {http.egress.duration}s, dialed in {http.egress.dial_duration}s", "-")
			seenIDs.Store(id, handled{written, what})
		}
	}()
	return next.ServeHTTP(w, r)
}

// loadSite is a Caddy with an egress and a control site, each in clear and with TLS,
// and with the admin endpoint, by which it is reloaded.
type loadSite struct {
	*testing.T
	proxy               *proxy
	admin               string
	control, controlTLS string
	origin, echo        string
	upstreams           []*scriptedUpstream
	id                  atomic.Int64
	generation          int
	controlSite         string
	inProcess           bool // so that a handler can tell what it has seen
	storage             string
	vary                func(generation int, secure bool) string // the egress block of a configuration, if not the usual one
}

func newLoadSite(t *testing.T) *loadSite {
	seenIDs.Clear() // of another site
	s := &loadSite{T: t, admin: freeAddr(t), control: freeAddr(t), controlTLS: freeAddr(t), storage: t.TempDir()}
	s.proxy = &proxy{plain: freeAddr(t), secure: freeAddr(t)}
	s.origin = newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		seenIDs.LoadOrStore(r.Header.Get("X-Id"), handled{})
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			s.Errorf("the body of %s is cut: %v", r.Header.Get("X-Id"), err)
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%s %d\n", r.Header.Get("X-Id"), n)
		if size, _ := strconv.Atoi(r.URL.Query().Get("size")); size > 0 {
			_, _ = w.Write(bytes.Repeat([]byte{'x'}, size))
		}
	}).URL
	s.echo = forgetfulEcho(t)
	s.upstreams = []*scriptedUpstream{newScriptedUpstream(t, "a"), newScriptedUpstream(t, "b")}
	writeFile(t, s.storage, "big", bytes.Repeat([]byte{'x'}, bigSize))
	s.controlSite = "root * " + s.storage + "\nrespond / ok\nfile_server"
	return s
}

// forgetfulEcho is an echo that keeps nothing of connections that are over, unlike
// newEchoOrigin: the heap is measured.
func forgetfulEcho(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

// caddyfile is the next configuration, each different from the one before.
func (s *loadSite) caddyfile() string {
	s.generation++
	more := ""
	if s.generation/5%2 == 1 { // from time to time, connections must drain
		more = "transport {\nkeepalive 1s\nmax_conns_per_host 50\n}\n"
	} else {
		more = "transport {\nkeepalive 1s\n}\n"
	}
	egress := fmt.Sprintf("egress {\n%sserver_name %s\n%sroute {\nmatch {\nheader X-Via parent\n}\nto default\n}\nroute direct\n%s}\n",
		usual, s.name(), more, groupOf("lb_policy round_robin\n", s.upstreams...))
	if s.inProcess {
		egress = "egress_test_seen\n" + egress
	}
	egressTLS := egress
	if s.vary != nil {
		egress, egressTLS = "egress_test_seen\n"+s.vary(s.generation, false), "egress_test_seen\n"+s.vary(s.generation, true)
	}
	cert, key := proxyCertFiles(s.T)
	global := globals{
		admin: s.admin, storage: s.storage,
		more: "skip_install_trust\nmetrics\nlog default {\n output discard\n}",
	}
	return fmt.Sprintf(`%s
http://:%s {
	bind 127.0.0.1
	%s
}
https://:%s {
	bind 127.0.0.1
	tls %[5]s %[6]s
	%[10]s
}
http://:%[7]s {
	bind 127.0.0.1
	%[9]s
}
https://:%[8]s {
	bind 127.0.0.1
	tls %[5]s %[6]s
	%[9]s
}
`, global, port(s.proxy.plain), egress, port(s.proxy.secure), cert, key, port(s.control), port(s.controlTLS), s.controlSite, egressTLS)
}

// name is what the proxy of the last configuration calls itself.
func (s *loadSite) name() string { return fmt.Sprintf("g%d", s.generation) }

// reload loads the next configuration through the admin endpoint.
func (s *loadSite) reload() {
	s.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.caddyfile()), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		config, err = withQUICOrder(config)
	}
	if err != nil {
		s.Error(err)
		return
	}
	var resp *http.Response
	for range 20 { // the admin endpoint loses fresh connections to reloads as well
		r, _ := http.NewRequest(http.MethodPost, "http://"+s.admin+"/load", bytes.NewReader(config))
		r.Header.Set("Content-Type", "application/json")
		r.Close = true
		if resp, err = http.DefaultTransport.RoundTrip(r); err == nil {
			break
		}
	}
	if err != nil {
		s.Error(err) // not from the goroutine of the test
		return
	}
	defer resp.Body.Close()
	afterLoad()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		s.Errorf("%s: %s", resp.Status, b)
	}
}

// series are the metrics that there are, without their values.
func (s *loadSite) series() int {
	s.Helper()
	r, _ := http.NewRequest(http.MethodGet, "http://"+s.admin+"/metrics", http.NoBody)
	r.Close = true
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return strings.Count(string(b), "\n")
}

// loadClient sends requests in one protocol, over connections that it keeps, or, with
// fresh, over one for each.
type loadClient struct {
	rt    http.RoundTripper
	close func()
}

// loadClient makes a client of the proxy, or, with control, of the other site.
func (s *loadSite) client(kind string, control, fresh bool) *loadClient {
	secure := s.proxy.secure
	if control {
		secure = s.controlTLS
	}
	switch kind {
	case "h1", "h1tls":
		tr := &http.Transport{DisableKeepAlives: fresh, TLSClientConfig: clientTLS(), DisableCompression: true}
		if !control {
			tr.Proxy = http.ProxyURL(&url.URL{Scheme: map[string]string{"h1": "http", "h1tls": "https"}[kind], Host: map[string]string{"h1": s.proxy.plain, "h1tls": secure}[kind]})
		}
		return &loadClient{tr, tr.CloseIdleConnections}
	case "h2":
		tr := &http2.Transport{AllowHTTP: true, DisableCompression: true, DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
			return (&tls.Dialer{Config: clientTLS("h2")}).DialContext(ctx, "tcp", secure)
		}}
		return &loadClient{tr, tr.CloseIdleConnections}
	default:
		tr := &http3.Transport{DisableCompression: true, TLSClientConfig: clientTLS(http3.NextProtoH3), Dial: func(ctx context.Context, _ string, _ *tls.Config, cfg *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, secure, clientTLS(http3.NextProtoH3), cfg)
		}}
		return &loadClient{tr, func() { _ = tr.Close() }}
	}
}

// tally is how the requests of one kind of client ended.
type tally struct {
	done atomic.Int64
	cut  atomic.Int64 // behind the handler, which had written all of the answer
	mu   sync.Mutex
	lost map[string]loss // by ID
}

// loss is a request that got no answer, of the size that it should have had.
type loss struct {
	err  error
	size int
}

func (c *tally) lose(id string, size int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = make(map[string]loss)
	}
	c.lost[id] = loss{err, size}
}

// bigSize is an answer that takes many packets.
const bigSize = 300_000

// slowBody is an upload that takes its time.
type slowBody struct{ chunks int }

func (b *slowBody) Read(p []byte) (int, error) {
	if b.chunks == 0 {
		return 0, io.EOF
	}
	b.chunks--
	time.Sleep(15 * time.Millisecond) // the load's own pace
	return copy(p, bytes.Repeat([]byte{'u'}, 8<<10)), nil
}

// exchange sends one request and holds the answer to being its own, and whole.
func (s *loadSite) exchange(c *loadClient, kind string, n int, to *tally) {
	id := strconv.FormatInt(s.id.Add(1), 10)
	size := 0
	r, _ := http.NewRequest(http.MethodGet, s.origin, http.NoBody)
	want := id + " 0\n"
	switch n % 4 {
	case 1:
		const chunks = 8
		r, _ = http.NewRequest(http.MethodPost, s.origin, &slowBody{chunks})
		want = fmt.Sprintf("%s %d\n", id, chunks*8<<10)
	case 2:
		size = bigSize
		r.URL.RawQuery = fmt.Sprintf("size=%d", size)
	}
	if kind == "h3" {
		r.URL.Scheme = "https" // the client insists; nobody is told
	}
	if n%3 == 0 {
		r.Header.Set("X-Via", "parent")
	}
	r.Header.Set("X-Id", id)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	resp, err := c.rt.RoundTrip(r.WithContext(ctx))
	if err != nil {
		to.lose(id, len(want)+size, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil && s.cutBehind(id, kind, len(want)+size) {
		to.cut.Add(1)
		return
	}
	if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(string(body), want) || len(body) != len(want)+size {
		s.Errorf("%s %s %s: %s, %d bytes, want %d, %v; %v %.100q", kind, r.Method, id, resp.Status, len(body), len(want)+size, err, resp.Header, body)
		return
	}
	to.done.Add(1)
}

// cutBehind reports whether egress had written the whole answer of a request that its
// client got nothing, or only a part, of. Of another process it is not known; there,
// HTTP/2 is believed to have done so.
func (s *loadSite) cutBehind(id, kind string, size int) bool {
	v, _ := seenIDs.Load(id)
	did, _ := v.(handled)
	return did.written == strconv.Itoa(size) || !s.inProcess && kind == "h2"
}

// controlled asks the control site, with a body that cannot be sent again as often as
// exchange does.
func (s *loadSite) controlled(c *loadClient, kind string, n int, to *tally) {
	id := strconv.FormatInt(s.id.Add(1), 10)
	u := "https://" + s.controlTLS
	if kind == "h1" {
		u = "http://" + s.control
	}
	r, _ := http.NewRequest(http.MethodGet, u, http.NoBody)
	want := 2
	switch n % 4 {
	case 1:
		r, _ = http.NewRequest(http.MethodPost, u, &slowBody{1})
	case 2:
		r.URL.Path = "/big"
		want = bigSize
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	resp, err := c.rt.RoundTrip(r.WithContext(ctx))
	if err != nil {
		to.lose(id, 0, err)
		return
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != want {
		s.Logf("%s control: %d bytes of %d, %v", kind, len(b), want, err)
		to.cut.Add(1)
		return
	}
	to.done.Add(1)
}

// shortTunnel opens a tunnel over a new connection, and uses it.
func (s *loadSite) shortTunnel(to *tally) {
	id := strconv.FormatInt(s.id.Add(1), 10)
	conn, err := net.Dial("tcp", s.proxy.plain)
	if err != nil {
		to.lose(id, 0, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nX-Id: %[2]s\r\n\r\n", s.echo, id)
	answer := make([]byte, len("HTTP/1.1 200"))
	if n, err := io.ReadFull(conn, answer); n == 0 {
		to.lose(id, 0, err)
		return
	}
	fmt.Fprint(conn, "ping")
	_ = conn.(*net.TCPConn).CloseWrite()
	rest, err := io.ReadAll(conn)
	if string(answer) != "HTTP/1.1 200" || err != nil || !strings.HasSuffix(string(rest), "\r\n\r\nping") {
		s.Errorf("tunnel: %q %q, %v", answer, rest, err)
		return
	}
	to.done.Add(1)
}

// longTunnel is a tunnel that is in use all the time, until it is told to end.
func (s *loadSite) longTunnel(kind string, stop <-chan struct{}) (wait func()) {
	s.Helper()
	c := s.proxy.client(s.T, kind)
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	c.ctx = ctx // as long as it takes
	tun := c.open(s.T, s.echo)
	if raw, ok := tun.Reader.(*rawConn); ok {
		_ = raw.SetDeadline(time.Time{})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer tun.Close()
		buf := make([]byte, 8)
		for i := 0; ; i++ {
			select {
			case <-stop:
				_ = tun.CloseWrite()
				if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
					s.Errorf("tunnel of %s ended with %q, %v", kind, rest, err)
				}
				return
			default:
			}
			want := fmt.Sprintf("%08d", i)
			if _, err := io.WriteString(tun, want); err != nil {
				s.Errorf("tunnel of %s, write %d: %v", kind, i, err)
				return
			}
			if _, err := io.ReadFull(tun, buf); err != nil || string(buf) != want {
				s.Errorf("tunnel of %s: %q, %v, want %s", kind, buf, err, want)
				return
			}
			time.Sleep(5 * time.Millisecond) // the load's own pace
		}
	}()
	return func() {
		select {
		case <-ended:
		case <-time.After(2 * patience):
			s.Errorf("the tunnel of %s does not end", kind)
		}
		switch {
		case c.h2 != nil:
			c.h2.Close()
		case c.h3 != nil:
			_ = c.h3.CloseWithError(0x100, "")
		}
	}
}

// underLoad runs everything at once while during runs, and returns how it went, by
// kind of client.
func (s *loadSite) underLoad(during func()) map[string]*tally {
	stop := make(chan struct{})
	tallies := make(map[string]*tally)
	var wg sync.WaitGroup
	repeat := func(name string, one func(n int, to *tally), end func()) {
		to := tallies[name]
		if to == nil {
			to = new(tally)
			tallies[name] = to
		}
		wg.Go(func() {
			defer end()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					one(n, to)
				}
			}
		})
	}
	var tunnels []func()
	for _, kind := range clientKinds {
		tunnels = append(tunnels, s.longTunnel(kind, stop))
		for i := range 2 {
			c := s.client(kind, false, false)
			repeat(kind, func(n int, to *tally) { s.exchange(c, kind, n+i, to) }, c.close)
		}
		c := s.client(kind, true, false)
		repeat(kind+" control", func(n int, to *tally) {
			s.controlled(c, kind, n, to)
			time.Sleep(5 * time.Millisecond) // the load's own pace
		}, c.close)
	}
	c, control := s.client("h1", false, true), s.client("h1", true, true)
	repeat("fresh", func(n int, to *tally) { s.exchange(c, "h1", 4*n, to) }, c.close)
	repeat("fresh control", func(_ int, to *tally) { s.controlled(control, "h1", 0, to) }, control.close)
	repeat("tunnels", func(_ int, to *tally) { s.shortTunnel(to) }, func() {})
	during()
	close(stop)
	wg.Wait()
	for _, wait := range tunnels {
		wait()
	}
	return tallies
}

// judge fails the test if anything was lost through us.
func (s *loadSite) judge(tallies map[string]*tally) {
	for name, c := range tallies {
		if c.done.Load() == 0 {
			s.Errorf("%s: nothing was done", name)
		}
		s.Logf("%-14s %6d done, %d lost, %d cut behind the handler", name, c.done.Load(), len(c.lost), c.cut.Load())
		shown := 0
		for id, l := range c.lost {
			if did, seen := seenIDs.Load(id); seen && s.cutBehind(id, name, l.size) {
				s.Logf("%s: not answered behind the handler: %v", name, l.err)
			} else if seen {
				s.Errorf("%s: request %s reached a handler, and was not answered: %v; %+v", name, id, l.err, did)
			} else if shown++; shown <= 3 {
				s.Logf("%s: lost: %v", name, l.err)
			}
		}
	}
	// Each has twice as many clients as its control; more than that must be chance.
	for ours, theirs := range map[string]string{
		"h1": "h1 control", "h1tls": "h1tls control", "h2": "h2 control", "h3": "h3 control", "fresh": "fresh control", "tunnels": "fresh control",
	} {
		o, c := tallies[ours], tallies[theirs]
		if lost, most := len(o.lost), 20+8*len(c.lost); lost > most {
			s.Errorf("%s: %d of %d lost, while the control lost %d of %d", ours, lost, o.done.Load(), len(c.lost), c.done.Load())
		}
	}
}

// heap is how much of it is in use.
func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// footprint is what a leak would raise.
type footprint struct {
	goroutines, files, series int
	heap                      uint64
}

func (s *loadSite) footprint() footprint {
	files := 0
	for _, n := range descriptors(s.T) {
		files += n
	}
	for _, u := range s.upstreams {
		u.asked() // which forgets what it was asked
	}
	return footprint{runtime.NumGoroutine(), files, s.series(), heap()}
}

// settle waits until nothing falls any more, of a configuration that has served nobody.
func (s *loadSite) settle() footprint {
	s.reload()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	l := s.footprint()
	for same := 0; same < 3; {
		time.Sleep(400 * time.Millisecond) // there is no event for nothing happening
		now := s.footprint()
		if now.goroutines < l.goroutines || now.files < l.files {
			same = 0
		} else {
			same++
		}
		l = now
	}
	return l
}

// Many reloads under a load of everything lose nothing through us, and leave nothing
// behind.
func TestReload_UnderLoad(t *testing.T) {
	s := newLoadSite(t)
	s.inProcess = true
	load(t, s.caddyfile())
	var old []weak.Pointer[egress.Handler]
	round := func(n int) {
		tallies := s.underLoad(func() {
			for range n {
				old = append(old, running(t)...)
				s.reload()
				time.Sleep(100 * time.Millisecond) // the load's own pace
			}
		})
		s.judge(tallies)
		seenIDs.Clear()
	}
	round(6) // what stays: pools, caches, lazily started loops
	if t.Failed() {
		return
	}
	before := s.settle()
	n := reloads(24)
	round(n)
	if t.Failed() {
		return
	}
	// Of the heap. Caddy and net/http2 hold some of the last configurations for a
	// minute, by the timers of streams that clients have left: who wants to know more
	// waits for that.
	spare := uint64(8 << 20)
	if n > 24 {
		old = append(old, running(t)...)
		s.settle()
		expectCollected(t, 2*time.Minute, old)
		spare = 1 << 20
	} else {
		expectCollected(t, 2*patience, old[:1])
	}
	after := s.settle()
	risen := func() bool {
		return after.goroutines > before.goroutines || after.files > before.files || after.heap > before.heap+spare
	}
	for deadline := time.Now().Add(2 * patience); risen() && time.Now().Before(deadline); after = s.footprint() {
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("before %+v, after %d reloads %+v", before, n, after)
	if risen() || after.series > before.series {
		t.Errorf("something has grown: %+v before, %+v after", before, after)
	}
	if f := os.Getenv("EGRESS_HEAP"); f != "" { // to see what has grown
		w, _ := os.Create(f)
		_ = pprof.WriteHeapProfile(w)
		w.Close()
	}
}
