package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
)

// plan says what the load consists of. Request n is made of the seed and n alone:
// it is the same in each run, whatever became of the others.
type plan struct {
	seed uint64
	// faults puts half of the clients and of the origins behind links that fail.
	faults bool
}

// request is one exchange or one tunnel.
type request struct {
	number  int64
	client  string // one of clientKinds
	parents bool   // it leaves through the group of upstream proxies

	// Which links are between the ends.
	badClient, badOrigin bool

	// Of an exchange.
	method        string // CONNECT for a tunnel
	size          int64  // of the response body, or what a tunnel sends and gets back
	chunked       bool   // the response has no Content-Length
	pause         bool   // the origin stops within the response for a moment
	upload        int64  // size of the request body
	uploadChunked bool
	last          bool // the client's connection is not to be used again
	rude          rudeness

	// Of a tunnel.
	tls       bool // TLS between client and origin
	halfClose bool // the client ends its direction and reads to the end
}

// clientKinds are the ways in which clients speak to the proxy.
var clientKinds = []string{"h1", "h1tls", "h2"}

func (p plan) request(n int64) request {
	r := rand.New(rand.NewPCG(p.seed, uint64(n)))
	q := request{
		number:  n,
		client:  clientKinds[r.IntN(len(clientKinds))],
		parents: r.IntN(2) == 0,
	}
	badClient, badOrigin := r.IntN(2) == 0, r.IntN(2) == 0
	q.badClient, q.badOrigin = p.faults && badClient, p.faults && badOrigin
	if r.IntN(5) == 0 {
		q.method = http.MethodConnect
		q.size = someSize(r, 256<<10)
		q.tls, q.halfClose = r.IntN(2) == 0, r.IntN(2) == 0
		return q
	}
	q.method = [...]string{"GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "PUT"}[r.IntN(8)]
	q.size = someSize(r, 1<<20)
	q.chunked, q.pause = r.IntN(3) == 0, r.IntN(10) == 0
	q.last = r.IntN(10) == 0
	if q.method == "POST" || q.method == "PUT" {
		q.upload = someSize(r, 512<<10)
		q.uploadChunked = r.IntN(3) == 0
	}
	if p.faults && r.IntN(10) == 0 {
		q.rude = rudeness(1 + r.IntN(int(rudeKinds)-1))
		q.badOrigin, q.chunked, q.pause = false, false, false
		q.size = min(q.size, 64<<10)
		if q.method == http.MethodHead {
			q.method = http.MethodGet
		}
		if q.rude == malformedHead {
			q.client, q.badClient, q.method, q.upload, q.uploadChunked = "h1", false, http.MethodGet, 0, false
		}
	}
	return q
}

// someSize is up to limit bytes: any order of magnitude is as likely as another.
func someSize(r *rand.Rand, limit int64) int64 {
	return int64(math.Exp(r.Float64()*math.Log(float64(limit)))) - 1 + r.Int64N(2)
}

// id begins the bodies of the request and of its response.
func (q request) id() string { return fmt.Sprintf("%016x", q.number) }

// clean reports whether nothing that fails is between the ends.
func (q request) clean() bool { return !q.badClient && !q.badOrigin && !q.parents }

// lane names what is between the ends.
func (q request) lane() string {
	s := "client"
	if q.badClient {
		s += " ~"
	}
	s += " > egress"
	if q.parents {
		s += " > parents"
	}
	if q.badOrigin {
		s += " ~"
	}
	if s += " > origin"; q.rude != polite {
		s += " (" + q.rude.String() + ")"
	}
	return s
}

func (q request) String() string {
	s := fmt.Sprintf("#%d %s %s of %d bytes, %s", q.number, q.client, q.method, q.size, q.lane())
	if q.rude != polite {
		s += ", " + q.rude.String()
	}
	if q.upload > 0 {
		s += fmt.Sprintf(", upload of %d", q.upload)
	}
	for _, f := range []struct {
		set  bool
		name string
	}{
		{q.chunked, "chunked"},
		{q.pause, "pause"},
		{q.uploadChunked, "chunked upload"},
		{q.last, "close"},
		{q.tls, "TLS inside"},
		{q.halfClose, "half-close"},
	} {
		if f.set {
			s += ", " + f.name
		}
	}
	return s
}
