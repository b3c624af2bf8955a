//go:build race

package raceflag

// On: this program was built with the race detector.
const On = true
