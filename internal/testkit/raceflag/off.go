//go:build !race

// Package raceflag tells tests whether the race detector runs, for what it makes
// too slow or too big to be measured.
package raceflag

// On: this program was built with the race detector.
const On = false
