//go:build !unix

package egress

// descriptorLimit returns 0: there is no limit, or none that could be asked for.
func descriptorLimit() int { return 0 }
