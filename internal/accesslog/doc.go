// Package accesslog writes lines of Caddy's access log that Caddy does not write itself, into
// the loggers and in the form that Caddy would have chosen.
//
// It knows Caddy and zap, and of this project target alone. When a line is written, and what
// of a request is shown in it, is for the roof.
package accesslog
