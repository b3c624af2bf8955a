// Package netns runs tests in network namespaces of their own. It is for Linux.
//
// It is test equipment: nothing imports it but tests.
package netns
