// Package orders is what an operator has ordered while the process runs: upstreams that
// are taken out of rotation or weighed otherwise, and the emergency in which everything
// new is denied. Orders are of the process and not of a configuration: a reload leaves them
// alone, and the storage of the configuration that runs has them for the next start. Each may
// have an end, at which it is taken back by itself.
//
// book.go has the orders that hold, keep.go where they are kept, save.go how they get there, and
// saved.go what is there, which other processes may change.
//
// It knows the words for the state of an upstream, and storage by an interface. It must
// never import upstreams, handlers or Caddy.
package orders
