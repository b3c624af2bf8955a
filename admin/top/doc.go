// Package top shows the snapshot of the admin API to people: as a live view in a terminal,
// and as plain tables.
//
// It knows the types of package admin and the terminal. It must never import the handler,
// and it does not know how a snapshot is fetched.
package top
