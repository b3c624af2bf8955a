//go:build !linux

package self

import "net/netip"

// leadsHere cannot be told.
func leadsHere(netip.Addr) bool { return false }
