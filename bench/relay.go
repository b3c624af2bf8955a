//go:build linux

package main

import (
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// relayMain is the floor for tunnels: it connects whoever comes to one fixed
// address and copies, both ways, with io.Copy, which on Linux is splice(2). It
// parses nothing. It has a listener for each address among its arguments.
func relayMain(targets []string) error {
	settle := make(chan os.Signal, 1)
	signal.Notify(settle, syscall.SIGUSR2)
	go func() {
		for range settle {
			debug.FreeOSMemory()
		}
	}()
	entries := make(map[string]string)
	for _, target := range targets {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		entries[target] = ln.Addr().String()
		go acceptAll(ln, func(c net.Conn) { relay(c, target) })
	}
	return serveParent(entries, func() any { return nil })
}

func relay(client net.Conn, target string) {
	defer client.Close()
	origin, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer origin.Close()
	up := make(chan struct{})
	go func() {
		defer close(up)
		pump(origin, client)
	}()
	pump(client, origin)
	<-up
}

// pump copies one direction to its end.
func pump(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close() // as a reset has no half
		_ = from.Close()
		return
	}
	_ = to.(*net.TCPConn).CloseWrite()
}
