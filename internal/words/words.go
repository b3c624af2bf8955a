package words

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// Block reads a block of words, each with its own function. A word that is not
// among repeatable may stand once.
func Block(d *caddyfile.Dispenser, name string, parse map[string]func() error, repeatable ...string) error {
	seen := make(map[string]bool, len(parse))
	word := ""
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() == "{" {
			return d.Errf("unexpected block: %s takes none", word)
		}
		word = d.Val()
		f, ok := parse[word]
		if !ok {
			return d.Errf("unrecognized subdirective '%s' of %s%s", word, name, Suggest(word, parse))
		}
		if seen[word] && !slices.Contains(repeatable, word) {
			return d.Errf("'%s' stands twice in %s", word, name)
		}
		seen[word] = true
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// One reads the only argument of a word.
func One(d *caddyfile.Dispenser) (word, arg string, err error) {
	word = d.Val()
	if args := d.RemainingArgs(); len(args) != 1 {
		return word, "", d.Errf("%s wants one argument, got %d", word, len(args))
	}
	return word, d.Val(), nil
}

// Text reads the only argument of a word, which may not be empty.
func Text(d *caddyfile.Dispenser, to *string) error {
	word, arg, err := One(d)
	if err == nil && arg == "" {
		err = d.Errf("%s is empty", word)
	}
	*to = arg
	return err
}

// OneOf reads an argument that is one of the choices.
func OneOf(d *caddyfile.Dispenser, to *string, choices ...string) error {
	word, arg, err := One(d)
	if err == nil && !slices.Contains(choices, arg) {
		err = d.Errf("bad %s '%s': one of %v", word, arg, choices)
	}
	*to = arg
	return err
}

// Flag reads a word that has no argument.
func Flag(d *caddyfile.Dispenser, to *bool) error {
	word := d.Val()
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': %s takes none", d.Val(), word)
	}
	*to = true
	return nil
}

// Strings reads the arguments of a word, of which there is at least one, and adds them to those
// that are there.
func Strings(d *caddyfile.Dispenser, to *[]string) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s wants at least one argument", word)
	}
	*to = append(*to, args...)
	return nil
}

// Parsed reads words of which each must pass parse.
func Parsed[T any](d *caddyfile.Dispenser, to *[]string, parse func(string) (T, error)) error {
	word := d.Val()
	if err := Strings(d, to); err != nil {
		return err
	}
	for _, arg := range *to {
		if _, err := parse(arg); err != nil && !HasPlaceholder(arg) {
			return d.Errf("bad %s '%s': %v", word, plaintext.Printable(arg), err)
		}
	}
	return nil
}

// ReplaceStrings is Strings, but for what is there.
func ReplaceStrings(d *caddyfile.Dispenser, to *[]string) error {
	*to = nil
	return Strings(d, to)
}

// Duration reads a positive duration, or the word off where there is one.
func Duration(d *caddyfile.Dispenser, to *caddy.Duration, off string) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	if off != "" && arg == off {
		*to = NoLimit
		return nil
	}
	v, err := caddy.ParseDuration(arg)
	if err != nil {
		return d.Errf("bad %s '%s': %v", word, arg, err)
	}
	if v < time.Microsecond {
		return d.Errf("bad %s '%s': must be positive%s", word, arg, orOff(off))
	}
	*to = caddy.Duration(v)
	return nil
}

// Count reads a number from 1 on, or the word off where there is one.
func Count(d *caddyfile.Dispenser, to *int, off string) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	if off != "" && arg == off {
		*to = NoLimit
		return nil
	}
	n, err := strconv.Atoi(arg)
	if err != nil {
		return d.Errf("bad %s '%s': not a number", word, arg)
	}
	if n < 1 {
		return d.Errf("bad %s '%s': must be at least 1%s", word, arg, orOff(off))
	}
	*to = n
	return nil
}

// Number reads a number from low to high.
func Number(d *caddyfile.Dispenser, to *int, low, high int) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(arg)
	if err != nil {
		return d.Errf("bad %s '%s': not a number", word, arg)
	}
	if n < low || n > high {
		return d.Errf("bad %s '%s': must be between %d and %d", word, arg, low, high)
	}
	*to = n
	return nil
}

// Fraction reads a part of the whole, as a percentage (20%) or a fraction (0.2).
func Fraction(d *caddyfile.Dispenser, to **float64) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	text, percent := strings.CutSuffix(arg, "%")
	v, err := strconv.ParseFloat(text, 64)
	if percent {
		v /= 100
	}
	if err != nil || !IsShare(v) {
		return d.Errf("bad %s '%s': not a share from 0%% to 100%%", word, arg)
	}
	*to = &v
	return nil
}

// Status reads a status code, or a class of them as in 2xx.
func Status(d *caddyfile.Dispenser, to *int) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	digits := strings.TrimSuffix(arg, "xx")
	n, err := strconv.Atoi(digits)
	class := len(digits) < len(arg) || len(arg) == 1
	if err != nil || class && (n < 1 || n > 5) || !class && (n < 100 || n > 599) {
		return d.Errf("bad %s '%s': neither a status nor a class like 2xx", word, arg)
	}
	*to = n
	return nil
}

// HeaderField reads a field and its value.
func HeaderField(d *caddyfile.Dispenser, to *http.Header) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("%s wants a field and a value, got %d arguments", word, len(args))
	}
	if *to == nil {
		*to = make(http.Header)
	}
	to.Add(args[0], args[1])
	return nil
}

func orOff(off string) string {
	if off == "" {
		return ""
	}
	return ", or " + off
}

// Size reads a size in bytes, with a unit if there is one (64KiB).
func Size(d *caddyfile.Dispenser, to *int64) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	n, ok := parseSize(arg)
	if !ok {
		return d.Errf("bad %s '%s': not a size", word, arg)
	}
	*to = n
	return nil
}

// parseSize is how sizes are written, from a byte to a TiB.
func parseSize(s string) (n int64, ok bool) {
	v, err := humanize.ParseBytes(s)
	return int64(v), err == nil && 0 < v && v <= 1<<40
}
