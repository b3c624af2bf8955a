// Package sources is the dynamic sources of groups of upstream proxies. They are modules of
// reverse_proxy. Of its own sources the settings are taken, and the look-ups are made here:
// reverse_proxy holds one lock of the whole process while it waits for DNS, answers for
// another resolver from its cache, and keeps the priorities and weights of SRV records to
// itself.
//
// It knows Caddy, whose modules sources are, and makes them what internal/upstream asks. It
// must never import what serves requests.
package sources
