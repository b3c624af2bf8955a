//go:build linux

// Command refcaddy is the Caddy that the benchmark measures: the standard
// modules, egress, and reference handlers to compare it with.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
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
// When that is done it writes the number of its goroutines to the file that
// BENCH_SETTLED names.
func settleOnSignal() {
	settle := make(chan os.Signal, 1)
	signal.Notify(settle, syscall.SIGUSR2)
	go func() {
		for range settle {
			debug.FreeOSMemory()
			if err := tellSettled(os.Getenv("BENCH_SETTLED")); err != nil {
				fmt.Fprintln(os.Stderr, "refcaddy:", err)
			}
		}
	}()
}

// tellSettled writes the file in one step, so that nobody reads half of it.
func tellSettled(path string) error {
	if path == "" {
		return nil
	}
	if err := os.WriteFile(path+".new", fmt.Appendln(nil, runtime.NumGoroutine()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
