// Package descriptors bounds the file descriptors of the process that connections may
// have: how many may be idle, and how many are left for clients who are to be told that
// there is no connection for them.
//
// It knows no connection but as something idle that can be closed, and imports of this
// project only connpool.
package descriptors
