package proxydial

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress/internal/h1"
)

// bareSize is what a CONNECT to testTarget takes without further fields.
const bareSize = len(":method"+"CONNECT") + 32 + len(":authority"+"origin.test:443") + 32

// withField is testTarget with a field that makes the CONNECT as large as size says.
func withField(size int) Target {
	to := testTarget
	to.Header = []h1.Field{{Name: "X-Tag", Value: strings.Repeat("y", size-bareSize-len("X-Tag")-32)}}
	return to
}

func wantHeadSizeError(t *testing.T, err error, size, limit int) {
	t.Helper()
	if e, ok := errors.AsType[*HeadSizeError](err); !ok || *e != (HeadSizeError{size, limit}) {
		t.Errorf("%v (%T), want a head of %d bytes over %d", err, err, size, limit)
	}
}

// A CONNECT with larger fields than the proxy takes is not sent: most proxies would end
// the connection, with the tunnels of others.
func TestH2HeaderLimitOfThePeer(t *testing.T) {
	const limit = 700
	f := h2Fake(t, func(p *h2Peer) {
		for {
			switch f := p.next().(type) {
			case *http2.MetaHeadersFrame:
				size := 0
				for _, field := range f.Fields {
					size += int(field.Size())
				}
				if size > limit {
					return // with the connection
				}
				p.reply(f.StreamID, "200")
			case *http2.DataFrame:
				_ = p.WriteData(f.StreamID, false, f.Data())
			}
		}
	}, http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: limit})
	d := newDialer(t, h2Config(f.addr))
	other := mustTunnel(t, d)
	for _, size := range []int{limit + 1, 20_000, maxHead} {
		_, err := d.DialTunnel(testContext(t), withField(size), Client{})
		wantHeadSizeError(t, err, size, limit)
	}
	if got := d.Stats(); got != (Stats{Conns: 1, Streams: 1}) {
		t.Errorf("%+v after the refusals", got)
	}
	largest, err := d.DialTunnel(testContext(t), withField(limit), Client{})
	if err != nil {
		t.Fatal(err)
	}
	defer largest.Conn.Close()
	echo(t, other, "the other tunnel")
	echo(t, largest, "the largest that is allowed")
	if n := f.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A proxy that does not even allow what every CONNECT has is of no use, and no caller
// can help it.
func TestH2HeaderLimitBelowAnyConnect(t *testing.T) {
	f := h2Fake(t, func(p *h2Peer) { p.linger() }, http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(bareSize - 1)})
	_, err := newDialer(t, h2Config(f.addr)).DialTunnel(testContext(t), withField(5000), Client{})
	if _, malformed := errors.AsType[*MalformedError](err); !malformed || wantError(t, err).Stage != StageNegotiate {
		t.Errorf("%v", err)
	}
}

// Whatever a proxy allows, a CONNECT has a bound.
func TestHeadSize(t *testing.T) {
	const unlimited = 1<<32 - 1
	plain := listen(t, func(c net.Conn) {
		if _, err := readHead(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		}
		_, _ = io.Copy(io.Discard, c)
	})
	serve := func(p *h2Peer) {
		p.MaxHeaderListSize = unlimited
		p.ReadMetaHeaders.SetMaxStringLength(2 * maxHead)
		for {
			p.reply(p.acceptStream(), "200")
		}
	}
	silent := h2Fake(t, serve)
	generous := h2Fake(t, serve, http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: unlimited})
	for name, cfg := range map[string]Config{
		"HTTP/1.1":                {Scheme: HTTP, Dial: dialTo(plain.addr)},
		"HTTP/2 without a limit":  h2Config(silent.addr),
		"HTTP/2 with a large one": h2Config(generous.addr),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDialer(t, cfg)
			_, err := d.DialTunnel(testContext(t), withField(maxHead+1), Client{})
			wantHeadSizeError(t, err, maxHead+1, maxHead)
			tn, err := d.DialTunnel(testContext(t), withField(maxHead), Client{})
			if err != nil {
				t.Fatal(err)
			}
			tn.Conn.Close()
		})
	}
}

// What the configuration adds to every CONNECT leaves room for the request.
func TestHeadSizeOfTheConfiguration(t *testing.T) {
	cfg := Config{Scheme: HTTP, Dial: dialTo("127.0.0.1:1"), Header: []h1.Field{{Name: "X", Value: strings.Repeat("y", maxHead/2-32)}}}
	if _, err := New(cfg); err == nil || err.Error() != "upstream proxy: header fields of 32769 bytes, over 32768" {
		t.Error(err)
	}
	cfg.Header[0].Value = cfg.Header[0].Value[1:]
	newDialer(t, cfg)
}
