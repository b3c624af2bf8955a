package words

import (
	"math"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// NoLimit is what the configuration says for "off".
const NoLimit = -1

// UntilAnswered is why a time for an answer cannot be off.
const UntilAnswered = "a peer that is silent would be waited for without an end"

// Shortest is the shortest duration that can be meant: a lower one is the number of a
// configuration in JSON, which counts nanoseconds.
const Shortest = time.Millisecond

// Longest is the longest duration that makes sense anywhere: a year.
const Longest = 365 * 24 * time.Hour

// Delay reads a duration that may be 0, or the word off for that.
func Delay(d *caddyfile.Dispenser, to **caddy.Duration) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	if arg == off {
		arg = "0"
	}
	v, err := caddy.ParseDuration(arg)
	if err != nil {
		return d.Errf("bad %s '%s': %s", word, arg, notDuration(arg))
	}
	switch {
	case v < 0:
		return d.Errf("bad %s '%s': must not be negative", word, arg)
	case v > Longest:
		return d.Errf("bad %s '%s': must be at most a year", word, arg)
	}
	value := caddy.Duration(v)
	*to = &value
	return nil
}

// ByteRate reads a size that passes in a second, or the word off.
func ByteRate(d *caddyfile.Dispenser, to *int64) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	if arg == off {
		*to = NoLimit
		return nil
	}
	n, ok := parseSize(arg)
	if !ok {
		return d.Errf("bad %s '%s': not a size in bytes (per second), or off", word, arg)
	}
	*to = n
	return nil
}

// IsShare reports whether f is a part of a whole: from 0 to 1.
func IsShare(f float64) bool { return !math.IsNaN(f) && f >= 0 && f <= 1 }
