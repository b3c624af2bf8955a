package layers

import (
	"net"
	"slices"
	"sync"
	"testing"
)

// noted is a connection that notes what is done to it.
type noted struct {
	net.Conn
	name  string
	calls *[]string
}

// noting is held while something is noted: what is closed may be reset beside it.
var noting sync.Mutex

func (n noted) note(what string) {
	noting.Lock()
	defer noting.Unlock()
	*n.calls = append(*n.calls, n.name+" "+what)
}

func (n noted) Close() error { n.note("closed"); return nil }

// over is a layer over another connection.
type over struct {
	noted
	below net.Conn
}

func (o over) NetConn() net.Conn { return o.below }

// lingering can be reset as a TCP socket can.
type lingering struct{ noted }

func (l lingering) SetLinger(sec int) error {
	if sec == 0 {
		l.note("set to reset")
	}
	return nil
}

// resettable can be reset without a socket.
type resettable struct{ noted }

func (r resettable) Abort() { r.note("aborted") }

func TestAbort(t *testing.T) {
	var calls []string
	note := func(name string) noted { return noted{name: name, calls: &calls} }
	for _, tc := range []struct {
		name string
		conn net.Conn
		want []string
	}{
		{"socket", lingering{note("socket")}, []string{"socket set to reset", "socket closed"}},
		{"unknown", note("it"), []string{"it closed"}},
		{"layers over a socket", over{note("top"), over{note("middle"), lingering{note("socket")}}}, []string{"socket set to reset", "socket closed", "top closed"}},
		{"a layer over what is unknown", over{note("top"), note("it")}, []string{"it closed", "top closed"}},
		{"layers over a stream", over{note("top"), over{note("middle"), resettable{note("stream")}}}, []string{"stream aborted", "top closed"}},
		{"a layer that tells nothing", over{note("top"), nil}, []string{"top closed"}},
	} {
		calls = nil
		Abort(tc.conn)
		if !slices.Equal(calls, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, calls, tc.want)
		}
	}
}

func TestTCP(t *testing.T) {
	tcp := new(net.TCPConn)
	for _, tc := range []struct {
		name string
		conn any
		want *net.TCPConn
	}{
		{"TCP", tcp, tcp},
		{"layers over TCP", over{below: over{below: tcp}}, tcp},
		{"unix", new(net.UnixConn), nil},
		{"over unix", over{below: new(net.UnixConn)}, nil},
		{"a layer that tells nothing", over{}, nil},
		{"nothing", nil, nil},
	} {
		if got := TCP(tc.conn); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// stream knows itself what is unsent.
type stream struct{ noted }

func (stream) Unsent() int { return 7 }

func TestUnsent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	tcp, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	_, told := Unsent(tcp) // not on every platform
	for _, tc := range []struct {
		name string
		conn any
		n    int
		ok   bool
	}{
		{"TCP", tcp, 0, told},
		{"layers over TCP", over{below: over{below: tcp}}, 0, told},
		{"layers over a stream", over{below: over{below: stream{}}}, 7, true},
		{"a layer that tells nothing", over{}, 0, false},
		{"unix", new(net.UnixConn), 0, false},
		{"no socket", new(net.TCPConn), 0, false},
		{"nothing", nil, 0, false},
	} {
		if n, ok := Unsent(tc.conn); n != tc.n || ok != tc.ok {
			t.Errorf("%s: %d, %v; want %d, %v", tc.name, n, ok, tc.n, tc.ok)
		}
	}
}
