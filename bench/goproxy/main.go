//go:build linux

// Command goproxy is the goproxy that the benchmark measures. It is a module of
// its own, so that whoever uses egress does not get goproxy among the modules
// that theirs depends on.
//
//	goproxy 127.0.0.1:8080
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/elazarl/goproxy"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: goproxy <address to listen on>")
		os.Exit(2)
	}
	settleOnSignal()
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], tunedProxy()))
	os.Exit(1)
}

// tunedProxy keeps as many idle connections as there are. With net/http's two
// per host, which it has as it comes, it dials for most requests of a load.
func tunedProxy() http.Handler {
	proxy := goproxy.NewProxyHttpServer()
	proxy.Tr = &http.Transport{
		MaxIdleConns:        8192,
		MaxIdleConnsPerHost: 8192,
		IdleConnTimeout:     5 * time.Minute,
		DisableCompression:  true,
	}
	return proxy
}

// settleOnSignal gives free memory back to the system on SIGUSR2, as the other
// subjects in Go do.
func settleOnSignal() {
	settle := make(chan os.Signal, 1)
	signal.Notify(settle, syscall.SIGUSR2)
	go func() {
		for range settle {
			debug.FreeOSMemory()
		}
	}()
}
