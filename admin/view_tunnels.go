package admin

import (
	"cmp"
	"container/heap"
	"errors"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Tunnel is a tunnel at a moment.
type Tunnel struct {
	ID       uint64    `json:"id" doc:"Its number, among all of the process."`
	Handler  string    `json:"handler" doc:"The place of its handler, which may be gone."`
	User     string    `json:"user,omitempty" doc:"Whose it is; absent for nobody."`
	Client   string    `json:"client" doc:"The IP address of the client, as Caddy's {client_ip} has it."`
	Target   string    `json:"target" doc:"The host and port that were asked for."`
	RemoteIP string    `json:"remote_ip,omitempty" doc:"The address of the destination that it leads to; absent where an upstream was told a name."`
	Group    string    `json:"group,omitempty" doc:"The group of its upstream."`
	Upstream string    `json:"upstream,omitempty" doc:"The URL of its upstream without credentials; absent where it is direct."`
	ViaID    string    `json:"upstream_id,omitempty" doc:"What the upstream is known by."`
	HTTP     int       `json:"http_version" doc:"The major version of HTTP that it was asked for in."`
	Began    time.Time `json:"began" doc:"When it was opened."`
	Age      seconds   `json:"age_seconds" doc:"How long ago that was."`

	BytesUp   int64   `json:"bytes_up" doc:"Bytes from the client that were delivered."`
	BytesDown int64   `json:"bytes_down" doc:"Bytes to the client that were delivered."`
	RateUp    float64 `json:"bytes_up_per_second" doc:"Bytes a second from the client over the last 10 seconds."`
	RateDown  float64 `json:"bytes_down_per_second" doc:"Bytes a second from the destination over the last 10 seconds."`
}

// tunnelParams are what tunnels are selected and ordered by.
var tunnelParams = []param{
	handler,
	text("user", "Only of this user."),
	network("client", "Only of clients with this address, or in this network."),
	text("target", "Only to this host, to all below it (`*.example.com`), or to this host and port."),
	text("upstream", "Only through this upstream: its ID, or its URL as it is listed, or all at this address. Without credentials."),
	age("min_age", "Only those of at least this age."),
	size("min_bytes", "Only those that have carried at least so many bytes, both ways together."),
	word("sort", "What the greatest of comes first. Default: rate.", "rate", "bytes", "age"),
	limit,
}

// network is a parameter that is an address or a network.
func network(name, does string) param {
	return param{name, does, "an IP address or a network such as 10.0.0.0/8", schema{"type": "string"}, func(s string) (any, error) {
		if p, err := netip.ParsePrefix(s); err == nil {
			p, ok := target.Unmapped(p)
			if !ok {
				return nil, errValue
			}
			return p.Masked(), nil
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, errValue
		}
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}}
}

func viewTunnels(c *call) (list[Tunnel], error) {
	books, err := c.books()
	if err != nil {
		return list[Tunnel]{}, err
	}
	filter, err := c.tunnelFilter()
	if err != nil {
		return list[Tunnel]{}, err
	}
	found := tunnelRanking{filter: filter, by: asked[string](c, "sort"), limit: c.limit(), now: time.Now()}
	each(books, found.add)
	return found.list(), nil
}

// books are those that are asked for: also of handlers that are gone, whose tunnels have a
// while left.
func (c *call) books() ([]*tunnels.Book, error) {
	all := tunnels.Books.All()
	place := asked[string](c, "handler")
	if place == "" {
		return all, nil
	}
	if of := slices.IndexFunc(all, func(b *tunnels.Book) bool { return b.Handler == place }); of >= 0 {
		return all[of : of+1], nil
	}
	h, err := Handlers.Find(place)
	if err != nil {
		return nil, apiError(http.StatusNotFound, err)
	}
	return slices.DeleteFunc(all, func(b *tunnels.Book) bool { return b.Handler != h.Place() }), nil
}

// carried is what a tunnel has carried up to a moment.
type carried struct {
	up, down         int64
	rateUp, rateDown float64
}

// each calls f for the tunnels of some books.
func each(books []*tunnels.Book, f func(tunnels.Entry, carried)) {
	for _, b := range books {
		b.Each(func(e tunnels.Entry) {
			var c carried
			c.up, c.down = e.Bytes()
			c.rateUp, c.rateDown = e.Rates()
			f(e, c)
		})
	}
}

// tunnelFilter selects tunnels. The zero value selects all.
type tunnelFilter struct {
	user, target, upstream string
	listed                 *listedUpstreams // under the URL upstream; nil for none
	client                 netip.Prefix
	minAge                 time.Duration
	minBytes               int64
}

func (c *call) tunnelFilter() (tunnelFilter, error) {
	f := tunnelFilter{
		user: asked[string](c, "user"), target: strings.ToLower(asked[string](c, "target")), upstream: asked[string](c, "upstream"),
		client: asked[netip.Prefix](c, "client"), minAge: asked[time.Duration](c, "min_age"), minBytes: asked[int64](c, "min_bytes"),
	}
	if _, had := upstream.WithoutCredentials(f.upstream); had {
		return f, apiError(http.StatusBadRequest,
			errors.New("query parameter 'upstream': leave the credentials out, or give the id; GET "+root+"upstreams lists them"))
	}
	if strings.Contains(f.upstream, "://") {
		f.listed = upstreamsListedAs(f.upstream)
	}
	return f, nil
}

// listedUpstreams are those that are listed under one URL, which may have a number for those
// that differ only in what is not told.
type listedUpstreams struct {
	ids   map[string]string // their groups
	twice bool              // handlers list different ones of a group under it
}

// upstreamsListedAs returns nil where none is listed.
func upstreamsListedAs(name string) *listedUpstreams {
	found := &listedUpstreams{ids: make(map[string]string)}
	groups := make(map[string]string) // the id in them
	for _, h := range Handlers.All() {
		for _, g := range h.Report().Groups {
			for i := range g.Members {
				m := &g.Members[i]
				if m.Name != name {
					continue
				}
				if id, known := groups[g.Name]; known && id != m.ID {
					found.twice = true
				}
				groups[g.Name], found.ids[m.ID] = m.ID, g.Name
			}
		}
	}
	if len(found.ids) == 0 {
		return nil
	}
	return found
}

// takesVia reports whether a tunnel goes through the upstream that is selected.
func (f *tunnelFilter) takesVia(via *tunnels.Via) bool {
	switch {
	case via == nil:
		return false
	case via.ID == f.upstream:
		return true
	case f.listed != nil:
		return f.listed.ids[via.ID] != ""
	}
	return via.Upstream == f.upstream || strings.HasSuffix(via.Upstream, "://"+f.upstream)
}

// takes reports whether a tunnel is selected.
func (f *tunnelFilter) takes(e tunnels.Entry, c carried, now time.Time) bool {
	if f.user != "" && e.User() != f.user || f.client.IsValid() && !f.client.Contains(e.Client()) ||
		f.minAge > 0 && now.Sub(e.Began()) < f.minAge || c.up+c.down < f.minBytes {
		return false
	}
	if f.upstream != "" && !f.takesVia(e.Via()) {
		return false
	}
	return f.target == "" || f.takesTarget(e.Target())
}

func (f *tunnelFilter) takesTarget(host string, port uint16) bool {
	if below, ok := strings.CutPrefix(f.target, "*."); ok {
		return host == below || strings.HasSuffix(host, "."+below)
	}
	return host == strings.Trim(f.target, "[]") || net.JoinHostPort(host, strconv.Itoa(int(port))) == f.target
}

// tunnelRanking finds the selected tunnels with the greatest of what they are sorted by. It
// holds no more of them than it is to show.
type tunnelRanking struct {
	filter tunnelFilter
	by     string // rate, which is the default, bytes or age
	limit  int
	now    time.Time

	total int
	top   rankedTunnels
}

func (r *tunnelRanking) add(e tunnels.Entry, c carried) {
	if !r.filter.takes(e, c, r.now) {
		return
	}
	r.total++
	t := rankedTunnel{entry: e, carried: c}
	switch r.by {
	case "age":
		t.rank = r.now.Sub(e.Began()).Seconds()
	case "bytes":
		t.rank = float64(c.up + c.down)
	default:
		t.rank = c.rateUp + c.rateDown
	}
	switch {
	case len(r.top) < r.limit:
		heap.Push(&r.top, t)
	case compareTunnels(&t, &r.top[0]) < 0:
		r.top[0] = t
		heap.Fix(&r.top, 0)
	}
}

func (r *tunnelRanking) list() list[Tunnel] {
	slices.SortFunc(r.top, func(a, b rankedTunnel) int { return compareTunnels(&a, &b) })
	out := newList[Tunnel](r.limit)
	for i := range r.top {
		out.add(func() Tunnel { return tunnelOf(&r.top[i], r.now) })
	}
	out.Total = r.total
	return out
}

type rankedTunnel struct {
	rank  float64
	entry tunnels.Entry
	carried
}

// compareTunnels orders tunnels for those who look: the greatest first, then the oldest.
func compareTunnels(a, b *rankedTunnel) int {
	return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.entry.ID(), b.entry.ID()))
}

// rankedTunnels is a heap with the last of them on top.
type rankedTunnels []rankedTunnel

func (r rankedTunnels) Len() int           { return len(r) }
func (r rankedTunnels) Less(i, j int) bool { return compareTunnels(&r[i], &r[j]) > 0 }
func (r rankedTunnels) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *rankedTunnels) Push(x any)        { *r = append(*r, x.(rankedTunnel)) }
func (r *rankedTunnels) Pop() any          { panic("nothing is taken out") }

func tunnelOf(r *rankedTunnel, now time.Time) Tunnel {
	e := &r.entry
	host, port := e.Target()
	out := Tunnel{
		ID: e.ID(), Handler: e.Handler(), User: e.User(), Client: e.Client().String(),
		Target: net.JoinHostPort(host, strconv.Itoa(int(port))), HTTP: int(e.HTTPMajor()),
		Began: e.Began(), Age: secondsOf(now.Sub(e.Began())),
		BytesUp: r.up, BytesDown: r.down, RateUp: math.Round(r.rateUp), RateDown: math.Round(r.rateDown),
	}
	if remote := e.Remote(); remote.IsValid() {
		out.RemoteIP = remote.String()
	}
	if v := e.Via(); v != nil {
		out.Group, out.Upstream, out.ViaID = v.Group, v.Upstream, v.ID
	}
	return out
}
