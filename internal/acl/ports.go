package acl

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// PortRange is a range of ports, both ends included. In JSON it is a string
// ("443" or "1024-65535") or, for a single port, a number.
type PortRange struct {
	// The first port, between 1 and 65535.
	Low uint16

	// The last port, not below Low.
	High uint16
}

// ErrPortDenied is the denial of every port that is not allowed.
var ErrPortDenied = &Denial{Reason: denyPort, Rule: "ports"}

// smtpPort is the one port that is not allowed by default.
const smtpPort = 25

// ParsePortRange parses "443" or "1024-65535".
func ParsePortRange(s string) (PortRange, error) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	l, errLow := strconv.ParseUint(low, 10, 16)
	h, errHigh := strconv.ParseUint(high, 10, 16)
	if errLow != nil || errHigh != nil {
		return PortRange{}, fmt.Errorf("bad port range '%s': write a port (443) or a range (1024-65535)", plaintext.Printable(s))
	}
	p := PortRange{Low: uint16(l), High: uint16(h)}
	return p, p.validate()
}

func (p PortRange) validate() error {
	switch {
	case p.Low == 0 || p.High == 0:
		return fmt.Errorf("bad port range '%s': ports are between 1 and 65535", p)
	case p.Low > p.High:
		return fmt.Errorf("bad port range '%s': write the lower port first (%d-%d)", p, p.High, p.Low)
	}
	return nil
}

// String returns the range as it is written: "443" or "1024-65535".
func (p PortRange) String() string {
	if p.Low == p.High {
		return strconv.Itoa(int(p.Low))
	}
	return fmt.Sprintf("%d-%d", p.Low, p.High)
}

// MarshalJSON returns the range as a string.
func (p PortRange) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// UnmarshalJSON takes a string or a number. Its errors name the field that ranges
// stand in, since encoding/json does not.
func (p *PortRange) UnmarshalJSON(data []byte) error {
	text := string(data)
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	}
	parsed, err := ParsePortRange(text)
	if err != nil {
		return fmt.Errorf("allowed_ports: %w", err)
	}
	*p = parsed
	return nil
}

// portAllowed tells whether a port may be connected to. Without ranges it is
// every port but that of SMTP.
func (l *List) portAllowed(port uint16) bool {
	if len(l.ports) == 0 {
		return port != 0 && port != smtpPort
	}
	for _, p := range l.ports {
		if p.Low <= port && port <= p.High {
			return true
		}
	}
	return false
}

// Interface guards
var (
	_ json.Marshaler   = PortRange{}
	_ json.Unmarshaler = (*PortRange)(nil)
)
