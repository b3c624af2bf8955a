// Package quantile estimates quantiles of durations of the recent past, without a
// lock and without keeping the durations.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package quantile
