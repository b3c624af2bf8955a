// Command soak puts a mixed load on a Caddy with egress, lets things fail around it,
// and holds it to what it promises:
//
//	go run ./internal/testkit/soak -for 10m faults
//	go run ./internal/testkit/soak -for 1h soak
//
// The load is exchanges of many methods, sizes and framings, with uploads, and
// tunnels, with and without TLS in them, from clients on HTTP/1.1, HTTP/1.1 within
// TLS and HTTP/2, half of it directly and half of it through a group of upstream
// proxies, which are egress too. Each proxy is a process of its own.
//
// In the mode faults, links between client, proxy, upstream proxies and origins add
// latency, drip, cut into pieces, break, truncate (TLS without close_notify, too),
// half-close, swallow, and slip in garbage; and some origins and clients know no
// manners. In the mode soak nothing fails but what is killed: one of the two upstream
// programs at a time. In both, the configuration is reloaded under load.
//
// It exits with 1 if a promise is broken:
//
//   - each response belongs to its request, byte for byte, and is whole or broken
//     off so that the client notices; so are uploads at the origin
//   - a POST reaches an origin once at most
//   - each error has an explanation: a fault on its way; an upstream killed while
//     the request was under way; or, where there was no answer at all, a reload
//   - afterwards, no request is in flight, every limit can be filled to the last
//     slot, and goroutines, descriptors and heap are back where they were
//   - no panic; and SIGTERM ends the process with 0
//
// What reproduces with a seed: request n of the load, with all its properties, and
// when it is sent; and what happens to connection k of each link, told in bytes. What
// does not: which request meets which connection, as that depends on who is faster.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetOutput(io.Discard) // net/http tells there what the links do to it
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := mainCode(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func mainCode(ctx context.Context, args []string) int {
	o, err := parse(args)
	if err == flag.ErrHelp {
		return 0
	}
	if err == nil {
		o.dir, err = os.MkdirTemp("", "soak-")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 2
	}
	fmt.Fprintf(os.Stderr, "seed %d\n", o.seed)
	res, err := run(ctx, o, func(s string) { fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05"), s) })
	if err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\nsee %s\n", err, o.dir)
		return 2
	}
	res.report(os.Stdout)
	if !res.good() {
		return 1 // and what the processes wrote is kept
	}
	os.RemoveAll(o.dir)
	return 0
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "usage: soak [flags] %s|%s\n", modeFaults, modeSoak)
		flags.PrintDefaults()
	}
	flags.DurationVar(&o.length, "for", 10*time.Minute, "how long the load lasts; SIGINT ends it earlier")
	flags.Float64Var(&o.rate, "rate", 50, "requests a second")
	flags.DurationVar(&o.reload, "reload", time.Minute, "how often the configuration is reloaded; 0 for never")
	flags.DurationVar(&o.kill, "kill", 40*time.Second, "soak: how often an upstream is killed, to be started a third of that later; 0 for never")
	flags.Uint64Var(&o.seed, "seed", rand.Uint64(), "what the load and the faults are made of")
	caddy := flags.String("caddy", "", "the program under test (default: cmd/caddy, built from source)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *caddy != "" {
		o.binary = []string{*caddy}
	}
	switch o.mode = flags.Arg(0); {
	case flags.NArg() != 1 || o.mode != modeFaults && o.mode != modeSoak:
		return o, fmt.Errorf("one mode is wanted, %s or %s, behind the flags; got %q", modeFaults, modeSoak, flags.Args())
	case o.length <= 0 || o.reload < 0 || o.kill < 0:
		return o, fmt.Errorf("-for must be positive, -reload and -kill not negative")
	case o.rate <= 0 || o.rate > 10_000:
		return o, fmt.Errorf("-rate %g: must be above 0, at most 10000", o.rate)
	}
	if o.mode == modeFaults {
		o.kill = 0
	}
	o.patience, o.calm = 20*time.Second, 150
	return o, nil
}
