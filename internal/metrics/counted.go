//go:build !egress_uncounted

package metrics

// Counted is whether handlers have requests counted. It is false only in the build that the
// benchmark compares with, to find what counting costs.
const Counted = true
