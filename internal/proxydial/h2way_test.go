package proxydial

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// narrow is the proxy's end of a connection over which bytes come slowly.
type narrow struct {
	net.Conn
	rate int // bytes a second
}

func (n narrow) Read(p []byte) (int, error) {
	got, err := n.Conn.Read(p[:min(len(p), n.rate/10)])
	time.Sleep(time.Duration(got) * time.Second / time.Duration(n.rate))
	return got, err
}

// A PING that stands behind an upload on a slow link is waited for until it has left,
// and then for PingTimeout. A proxy that answers none, or to whom nothing moves any
// more, is given up all the same.
func TestH2PingBehindAnUpload(t *testing.T) {
	const large = 1 << 30
	for _, tc := range []struct {
		name    string
		after   int // bytes after which the proxy reads no more; or 0
		answers bool
		want    error
	}{
		{"answers", 0, true, nil},
		{"does not answer", 0, false, errPingTimeout},
		{"stops reading", 200_000, true, errPingTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := h2Peers(t, func(p *h2Peer) {
					_ = p.WriteWindowUpdate(0, large)
					id := p.acceptStream()
					p.reply(id, "200")
					for total := 0; tc.after == 0 || total < tc.after; {
						switch f := p.next().(type) {
						case *http2.PingFrame:
							if tc.answers {
								_ = p.WritePing(true, f.Data)
							}
						case *http2.DataFrame:
							total += len(f.Data())
						}
					}
					<-t.Context().Done()
				}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: large})
				dial := cfg.Dial
				cfg.Dial = func(ctx context.Context) (net.Conn, error) {
					c, err := dial(ctx)
					if err != nil {
						return nil, err
					}
					client, middle := net.Pipe()
					t.Cleanup(func() { middle.Close() })
					go pipe(narrow{middle, 10_000}, c)
					return client, nil
				}
				d := newDialer(t, cfg)
				c := open(t, d, reads)
				start := time.Now()
				n, err := c.Write(make([]byte, 1_000_000))
				if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
					t.Errorf("after %v, %d bytes: %v; want %v", time.Since(start), n, err, tc.want)
				}
				c.Close() // now, not in the clean-up: the link takes its time with these bytes, too
				d.Close()
				defer time.Sleep(time.Minute) // for the link
				if took := time.Since(start); tc.want != nil && took > time.Minute {
					t.Errorf("given up after %v", took)
				}
			})
		})
	}
}

// pipe moves bytes both ways until one ends.
func pipe(a, b net.Conn) {
	done := make(chan struct{}, 2)
	for _, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			for buf := make([]byte, 4096); ; {
				n, err := ends[0].Read(buf)
				if err == nil {
					_, err = ends[1].Write(buf[:n])
				}
				if err != nil {
					break
				}
			}
			done <- struct{}{}
		}()
	}
	<-done
	a.Close()
	b.Close()
	<-done
}

func TestPingWay(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	type look struct {
		s             int
		acked, writes uint64
		known         bool
		from          int
		arrived       bool
	}
	for _, tc := range []struct {
		name  string
		way   pingWay
		looks []look
	}{
		{"at rest", pingWay{left: true, behind: 10}, []look{{1, 10, 0, true, 0, true}}},
		{"cut off", pingWay{left: true, behind: 10}, []look{{1, 0, 0, true, 0, false}, {5, 0, 9, true, 0, false}}},
		{"behind others", pingWay{left: true, behind: 30}, []look{{1, 10, 0, true, 1, false}, {2, 20, 0, true, 2, false}, {3, 40, 0, true, 2, true}}},
		{"behind others that stop", pingWay{left: true, behind: 30}, []look{{1, 10, 0, true, 1, false}, {2, 10, 0, true, 1, false}}},
		{"in our buffer", pingWay{}, []look{{1, 10, 1, true, 1, false}, {2, 20, 1, true, 2, false}}},
		{"in our buffer, no socket", pingWay{}, []look{{1, 0, 1, false, 1, false}, {2, 0, 1, false, 1, false}}},
	} {
		w := tc.way
		w.from, w.looked = start, start
		for _, l := range tc.looks {
			w.look(at(l.s), l.acked, l.known, l.writes)
			if !w.from.Equal(at(l.from)) || w.arrived != l.arrived {
				t.Errorf("%s, after %d s: from %v, arrived %v; want %d s, %v", tc.name, l.s, w.from.Sub(start), w.arrived, l.from, l.arrived)
			}
		}
	}
}
