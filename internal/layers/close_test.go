package layers

import (
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// To close a connection whose peer does not read takes no longer than a moment, however many
// layers say good-bye.
func TestClose_Stuck(t *testing.T) {
	for _, twice := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			client, server := secure(t, near, far)
			if twice {
				client, server = secure(t, client, server)
			}
			_ = server // it reads nothing any more
			start := time.Now()
			_ = Close(client)
			if took := time.Since(start); took > goodbyeTime {
				t.Errorf("over TLS twice %t: after %s", twice, took)
			}
			if _, err := near.Write([]byte("x")); err == nil {
				t.Error("what it runs on is open")
			}
		})
	}
}

// A peer that reads is told good-bye.
func TestClose_Goodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		client, server := secure(t, near, far)
		read := make(chan error, 1)
		go func() {
			_, err := server.Read(make([]byte, 1))
			read <- err
		}()
		if err := Close(client); err != nil {
			t.Error(err)
		}
		if err := <-read; err == nil || err.Error() != "EOF" {
			t.Errorf("%v, want an end", err)
		}
	})
}

// What shares a connection with others is reset, and leaves that alone.
func TestClose_Shared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []string
		n := func(name string) noted { return noted{name: name, calls: &calls} }
		stream := resettable{n("stream")}
		_ = Close(slow{over{n("layer"), sharing{stream, n("shared")}}, goodbyeTime + 1})
		synctest.Wait()
		if len(calls) != 2 || calls[0] != "stream aborted" || calls[1] != "layer closed" {
			t.Errorf("%q", calls)
		}
	})
}

// slow takes its time to close.
type slow struct {
	over
	takes time.Duration
}

func (s slow) Close() error {
	time.Sleep(s.takes)
	return s.over.Close()
}

// sharing is a stream of a connection that is known.
type sharing struct {
	resettable
	on net.Conn
}

func (s sharing) NetConn() net.Conn { return s.on }

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	files, _, err := testcert.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// secure puts TLS over two ends.
func secure(t *testing.T, near, far net.Conn) (client, server *tls.Conn) {
	t.Helper()
	client = tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	server = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate(t)}, SessionTicketsDisabled: true})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, server
}
