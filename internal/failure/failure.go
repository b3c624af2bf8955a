package failure

// Blame is who a failure is charged to.
type Blame string

const (
	BlameNobody   Blame = ""
	BlameClient   Blame = "client"
	BlamePolicy   Blame = "policy"
	BlameDNS      Blame = "dns"
	BlameOrigin   Blame = "origin"
	BlameUpstream Blame = "upstream"
	BlameNetwork  Blame = "network" // between us and a destination: nobody in particular
	BlameProxy    Blame = "proxy"   // our own limits and bugs
)

// Failure is what went wrong, in the terms of everything that must know:
// status, Proxy-Status (RFC 9209), blame and a sentence for people. A value of
// it is an error, so that code that knows what happened says so at once.
type Failure struct {
	Status int
	Type   string // error type of RFC 9209 §2.3
	Blame  Blame
	Text   string // for the client: names no internal address and no rule
}

func (f *Failure) Error() string { return f.Text }

// Unreached reports whether it tells that a destination cannot be reached, for its name,
// the connection or TLS. Nothing that a client asks for brings these about.
func (f *Failure) Unreached() bool {
	switch f {
	case NoName, DNS, DNSTimeout, Refused, Unroutable, DialTimeout, TLSTimeout, Certificate, TLS, TLSAlert:
		return true
	}
	return false
}

// Because is the failure with the error behind it.
func (f *Failure) Because(err error) error { return &because{f, err} }

// because is a failure with the error behind it.
type because struct {
	*Failure
	err error
}

func (e *because) Error() string { return e.Failure.Text + ": " + e.err.Error() }

func (e *because) Unwrap() []error { return []error{e.Failure, e.err} }
