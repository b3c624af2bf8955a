// Package peers starts the real programs that tests and benchmarks speak with:
// squid, tinyproxy, nghttpx and microsocks. Each runs in the foreground, on a
// free port of 127.0.0.1, with a configuration written by code in a directory
// of its own, without caches and logs.
//
// Nothing is left behind by Stop or Kill: the process, its descendants and the
// directory are gone when they return. Where the process of the caller dies
// without either, the kernel kills the peer, except for a squid that was started
// by root: it changes its user, and that revokes the order.
//
// The package does not import testing, so that the benchmark program can use it.
// Tests take it through the sub-package peertest.
//
// It is test equipment: nothing imports it but tests, bench and soak.
package peers
