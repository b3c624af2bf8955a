package failure

// Interface is a network interface that this machine does not have, or not for us.
var Interface = &Failure{500, "proxy_configuration_error", BlameProxy, "connections cannot be made by the configured network interface"}

// LocalAddress is a source that this machine does not have.
var LocalAddress = &Failure{500, "proxy_configuration_error", BlameProxy, "connections cannot be made from the configured local address"}

// The failures. Statuses are those that RFC 9209 §2.3 recommends, but for
// policy (403) and loops (508).
var (
	Target        = &Failure{400, "http_request_error", BlameClient, "malformed request target"}
	Request       = &Failure{400, "http_request_error", BlameClient, "malformed request"}
	Fields        = &Failure{431, "http_request_error", BlameClient, "request has too many header fields"}
	Via           = &Failure{431, "http_request_error", BlameClient, "request has passed through too many proxies"}
	FieldsSize    = &Failure{431, "http_request_error", BlameClient, "header fields of the request are too large"}
	BodySize      = &Failure{413, "http_request_error", BlameClient, "request body is too large"}
	Auth          = &Failure{407, "http_request_denied", BlameClient, "proxy authentication required"}
	ClientLogins  = &Failure{429, "http_request_denied", BlameClient, "too many logins of this client are being checked"}
	Logins        = &Failure{503, "http_request_denied", BlameProxy, "too many logins are being checked"}
	Early         = &Failure{425, "http_request_denied", BlameClient, "request may be a replay; repeat it after the TLS handshake"}
	Denied        = &Failure{403, "http_request_denied", BlamePolicy, "destination is not allowed"}
	DeniedAddress = &Failure{403, "destination_ip_prohibited", BlamePolicy, "address of the destination is not allowed"}
	Emergency     = &Failure{503, "http_request_denied", BlamePolicy, "all requests are denied for the time being"}
	Loop          = &Failure{508, "proxy_loop_detected", BlamePolicy, "request would loop back to this proxy"}
	DNS           = &Failure{502, "dns_error", BlameDNS, "name of the destination does not resolve"}
	NoName        = &Failure{502, "dns_error", BlameClient, "name of the destination does not exist, or has no address"}
	DNSTimeout    = &Failure{504, "dns_timeout", BlameDNS, "resolving the name of the destination timed out"}
	Refused       = &Failure{502, "connection_refused", BlameOrigin, "connection refused by the destination"}
	Unroutable    = &Failure{502, "destination_ip_unroutable", BlameNetwork, "no route to the destination"}
	DialTimeout   = &Failure{504, "connection_timeout", BlameOrigin, "connecting to the destination timed out"}
	TLSTimeout    = &Failure{504, "connection_timeout", BlameOrigin, "TLS handshake with the destination timed out"}
	Terminated    = &Failure{502, "connection_terminated", BlameOrigin, "connection closed by the destination"}
	Certificate   = &Failure{502, "tls_certificate_error", BlameOrigin, "certificate of the destination is not valid"}
	TLS           = &Failure{502, "tls_protocol_error", BlameOrigin, "TLS handshake with the destination failed"}
	TLSAlert      = &Failure{502, "tls_alert_received", BlameOrigin, "TLS handshake refused by the destination"}
	Protocol      = &Failure{502, "http_protocol_error", BlameOrigin, "malformed response of the destination"}
	HeaderSize    = &Failure{502, "http_response_header_section_size", BlameOrigin, "response header of the destination is too large"}
	Incomplete    = &Failure{502, "http_response_incomplete", BlameOrigin, "response of the destination is incomplete"}
	HeadTimeout   = &Failure{504, "http_response_timeout", BlameOrigin, "destination did not answer in time"}
	Stopped       = &Failure{504, "http_response_timeout", BlameOrigin, "response of the destination has stopped"}
	Limit         = &Failure{503, "connection_limit_reached", BlameProxy, "too many connections"}
	Dialing       = &Failure{503, "connection_limit_reached", BlameProxy, "waiting for a connection that is being dialed"}
	Holding       = &Failure{503, "connection_limit_reached", BlameClient, "too many requests of this client or user at once"}
	Circuit       = &Failure{503, "destination_unavailable", BlameOrigin, "destination has failed repeatedly and is given a pause"}
	NoNameCircuit = &Failure{503, "destination_unavailable", BlameClient, "name of the destination has not existed repeatedly, and is given a pause"}
	Unavailable   = &Failure{503, "destination_unavailable", BlameOrigin, "upstream proxy has no way to the destination"}
	Canceled      = &Failure{499, "", BlameClient, "client went away"}
	Internal      = &Failure{500, "proxy_internal_error", BlameProxy, "internal error"}

	NoUpstream          = &Failure{503, "destination_unavailable", BlameUpstream, "no upstream proxy is available"}
	UpstreamConnect     = &Failure{502, "connection_refused", BlameUpstream, "upstream proxy cannot be reached"}
	UpstreamTimeout     = &Failure{504, "connection_timeout", BlameUpstream, "connecting to the upstream proxy timed out"}
	UpstreamTLS         = &Failure{502, "tls_protocol_error", BlameUpstream, "TLS handshake with the upstream proxy failed"}
	UpstreamTLSTimeout  = &Failure{504, "connection_timeout", BlameUpstream, "TLS handshake with the upstream proxy timed out"}
	UpstreamCertificate = &Failure{502, "tls_certificate_error", BlameUpstream, "certificate of the upstream proxy is not valid"}
	UpstreamTerminated  = &Failure{502, "connection_terminated", BlameUpstream, "connection closed by the upstream proxy"}
	UpstreamProtocol    = &Failure{502, "http_protocol_error", BlameUpstream, "malformed answer of the upstream proxy"}
	UpstreamAuth        = &Failure{500, "proxy_configuration_error", BlameUpstream, "upstream proxy refuses our credentials"}
	UpstreamChallenge   = &Failure{500, "proxy_configuration_error", BlameUpstream, "upstream proxy, or what is behind it, asks for credentials that it has none of"}
	UpstreamInternal    = &Failure{502, "proxy_internal_error", BlameUpstream, "upstream proxy has failed"}
	UpstreamLimit       = &Failure{503, "connection_limit_reached", BlameUpstream, "upstream proxy is overloaded"}
	UpstreamDenied      = &Failure{403, "http_request_denied", BlamePolicy, "destination is refused by the upstream proxy"}
	UpstreamRequest     = &Failure{502, "http_request_error", BlameClient, "upstream proxy does not take the request"}
	UpstreamGateway     = &Failure{502, "destination_unavailable", BlameNetwork, "upstream proxy did not get through to the destination"}
	UpstreamPath        = &Failure{502, "destination_unavailable", BlameUpstream, "upstream proxy cannot reach an upstream proxy of its own"}
	UpstreamSilent      = &Failure{504, "connection_timeout", BlameNetwork, "upstream proxy did not answer in time"}
)

// ofUpstreams are the failures on the way to, and through, upstream proxies that have
// their error type in common with failures of a destination.
var ofUpstreams = []*Failure{NoUpstream, UpstreamConnect, UpstreamTimeout, UpstreamTLS, UpstreamTLSTimeout, UpstreamCertificate, UpstreamGateway, UpstreamPath, UpstreamSilent}

// OfUpstreams returns which of our failures with upstream proxies has the text, as the
// details in the Proxy-Status of another proxy may have it; nil: none that could be taken
// for a failure of the destination.
func OfUpstreams(text string) *Failure {
	for _, f := range ofUpstreams {
		if f.Text == text {
			return f
		}
	}
	return nil
}
