package layers

import (
	"net"
	"reflect"

	"github.com/pires/go-proxyproto"
)

// Innermost reaches the TCP connection through the wrappers that we know, so
// that the kernel can move the bytes of a tunnel. They do nothing more once the
// first request has been read: the one around `protocols h1` watches for an
// HTTP/2 preface, the PROXY protocol's takes away a header. Any other connection
// is left as it is, and its bytes are copied.
func Innermost(c net.Conn) net.Conn {
	for {
		inner := unwrapConn(c)
		if inner == nil {
			return c
		}
		c = inner
	}
}

// CaddyHTTP is where Caddy's own wrapper is defined.
const CaddyHTTP = "github.com/caddyserver/caddy/v2/modules/caddyhttp"

func unwrapConn(c net.Conn) net.Conn {
	if pp, ok := c.(*proxyproto.Conn); ok {
		return pp.Raw() // TCP or a unix socket
	}
	// caddyhttp's type is not exported, but the net.Conn that it embeds is.
	v := reflect.ValueOf(c)
	if v.Kind() != reflect.Pointer || v.Elem().Type().Name() != "http2Conn" || v.Elem().Type().PkgPath() != CaddyHTTP {
		return nil
	}
	field := v.Elem().FieldByName("Conn")
	if !field.IsValid() {
		return nil
	}
	inner, _ := field.Interface().(net.Conn)
	return inner
}
