// Package shared keeps what outlives a configuration, and makes the keys under which the
// next one finds it: equal for equal settings, and with nothing of them to be read in it.
//
// It knows Caddy's UsagePool and imports nothing of this project.
package shared
