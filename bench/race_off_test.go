//go:build !race

package main

// raceDetector: this test was built with the race detector.
const raceDetector = false
