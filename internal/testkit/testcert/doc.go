// Package testcert makes certificates for the servers that tests and benchmarks start
// on this machine.
//
// It is test equipment: nothing imports it but tests, bench and soak.
package testcert
