// Package commands is what this module adds to Caddy's command line: `caddy egress` and
// what is below it. The commands ask the admin API of the Caddy that runs; explain reads a
// configuration too.
//
// It knows package admin, the view of package top, and Caddy's commands. It must never
// import the handler.
package commands
