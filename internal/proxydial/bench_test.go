package proxydial

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// BenchmarkConnectH1 is a tunnel over HTTP/1.1: dial, CONNECT, close.
func BenchmarkConnectH1(b *testing.B) {
	f := listen(b, serveConnects)
	d := newDialer(b, Config{Scheme: HTTP, Dial: dialTo(f.addr)})
	benchmarkConnect(b, d)
}

// BenchmarkConnectH2 is a tunnel over an HTTP/2 connection that stands.
func BenchmarkConnectH2(b *testing.B) {
	p := newGoProxy(b, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body)
	})
	benchmarkConnect(b, newDialer(b, h2Config(p.addr)))
}

func benchmarkConnect(b *testing.B, d *Dialer) {
	b.ReportAllocs()
	for b.Loop() {
		tn, err := d.DialTunnel(context.Background(), testTarget, Client{})
		if err != nil {
			b.Fatal(err)
		}
		tn.Conn.Close()
	}
}

// BenchmarkH2Down and BenchmarkH2Up move bytes through one tunnel over HTTP/2,
// in 32 KiB writes; Go's server is the other end.
func BenchmarkH2Down(b *testing.B) {
	p := newGoProxy(b, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		for block := make([]byte, 32<<10); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	benchmarkBytes(b, newDialer(b, h2Config(p.addr)), func(c net.Conn, p []byte) (int, error) { return io.ReadFull(c, p) })
}

func BenchmarkH2Up(b *testing.B) {
	p := newGoProxy(b, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{r.Body}, make([]byte, 32<<10))
	})
	benchmarkBytes(b, newDialer(b, h2Config(p.addr)), net.Conn.Write)
}

func benchmarkBytes(b *testing.B, d *Dialer, move func(net.Conn, []byte) (int, error)) {
	tn, err := d.DialTunnel(context.Background(), testTarget, Client{})
	if err != nil {
		b.Fatal(err)
	}
	defer tn.Conn.Close()
	block := make([]byte, 32<<10)
	b.SetBytes(int64(len(block)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := move(tn.Conn, block); err != nil {
			b.Fatal(err)
		}
	}
}
