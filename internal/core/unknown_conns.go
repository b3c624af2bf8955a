package core

import (
	"net"
	"reflect"
	"sync"

	"go.uber.org/zap"
)

// unknownConns are the types of connections of which the log has told.
var unknownConns sync.Map

// SayUnknown tells, once for each type, what is not done with a connection of a type
// that is not known, such as one of a listener wrapper that hides what it wraps.
func (p *Proxy) SayUnknown(c net.Conn, effect string) {
	kind := reflect.TypeOf(c)
	if _, told := unknownConns.LoadOrStore(kind, nil); !told {
		p.Logger.Warn("connection of an unknown type: "+effect, zap.Stringer("type", kind))
	}
}
