// Package faultnet spoils connections on purpose, for tests over real sockets:
// it delays, drips, cuts, resets, swallows and adds bytes where a Script says so.
//
// There are two ways to put it between two ends:
//
//   - Proxy is a TCP forwarder in front of a target. Neither end knows of it, so
//     it suits tests of whole programs, and both ends keep real sockets.
//   - Client and Server wrap one net.Conn in this process, Listener those that a
//     net.Listener accepts. They need no socket, so they work in the bubble of
//     testing/synctest too.
//
// Where faults strike is told in bytes of a direction and never in time, and
// what is random comes from Script.Seed alone. How the kernel cuts a stream
// into reads moves neither: the same script does the same to the same bytes.
//
// It is test equipment: nothing imports it but tests, bench and soak.
package faultnet
