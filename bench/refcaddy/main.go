//go:build linux

// Command refcaddy is the Caddy that the benchmark measures: the standard
// modules, egress, and reference handlers to compare it with.
package main

import (
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-egress/egress"
)

func main() {
	settleOnSignal()
	caddycmd.Main()
}

// settleOnSignal collects garbage and gives free memory back to the system on
// SIGUSR2, which Caddy itself only logs: what is resident afterwards is in use.
func settleOnSignal() {
	settle := make(chan os.Signal, 1)
	signal.Notify(settle, syscall.SIGUSR2)
	go func() {
		for range settle {
			debug.FreeOSMemory()
		}
	}()
}
