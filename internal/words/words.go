package words

import (
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// Opening is how a block opens, with the words that stand in it.
type Opening struct {
	Text  string
	Words map[string]func() error
}

// Grammar are all blocks, as they open. It is asked for when a word is unknown, which may
// belong to another block; nil where there is none.
type Grammar func() []Opening

// Block reads a block of words, each with its own function. A word that is not
// among repeatable may stand once.
func Block(d *caddyfile.Dispenser, name string, parse map[string]func() error, repeatable ...string) error {
	return Grammar(nil).Block(d, name, parse, repeatable...)
}

// Block is the function Block within the grammar.
func (g Grammar) Block(d *caddyfile.Dispenser, name string, parse map[string]func() error, repeatable ...string) error {
	seen := make(map[string]bool, len(parse))
	word := ""
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() == "{" {
			return d.Errf("unexpected block: %s takes none", word)
		}
		word = d.Val()
		f, ok := parse[word]
		if !ok {
			return d.Errf("unrecognized subdirective '%s' of %s%s", plaintext.Printable(word), name, hint(word, parse, g))
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

// CheckText refuses words that are not UTF-8, from d to its end. Caddy replaces their bytes by
// U+FFFD in silence, so that different passwords would be one.
func CheckText(d *caddyfile.Dispenser) error {
	for at := *d; at.Next(); {
		if strings.ContainsRune(at.Val(), utf8.RuneError) {
			// The word is perhaps a password: it is not quoted.
			return at.Err("a word is not UTF-8: write its bytes as %xx in a URL, or take it from {env.…} or a file")
		}
	}
	return nil
}

// At is the error of settings that do not go together, with the line at which d is.
func At(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
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

// Checked reads the only argument of a word, which may not be empty and must pass check.
func Checked(d *caddyfile.Dispenser, to *string, check func(string) error) error {
	word := d.Val()
	if err := Text(d, to); err != nil {
		return err
	}
	if err := check(*to); err != nil && !HasPlaceholder(*to) {
		return d.Errf("bad %s '%s': %v", word, plaintext.Escaped(*to), err)
	}
	return nil
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

// off is the word for nothing, and the argument off of the functions below where it has
// that meaning. Any other argument off says why it has none.
const off = "off"

// notOff is the error of the word off where it has no meaning.
func notOff(d *caddyfile.Dispenser, word, why string) error {
	if why != "" {
		why = ": " + why
	}
	return d.Errf("%s cannot be off%s", word, why)
}

// Duration reads a positive duration, or the word off.
func Duration(d *caddyfile.Dispenser, to *caddy.Duration, whyNotOff string) error {
	return DurationFrom(d, to, Shortest, whyNotOff)
}

// DurationFrom reads a duration from low on, or the word off.
func DurationFrom(d *caddyfile.Dispenser, to *caddy.Duration, low time.Duration, whyNotOff string) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	switch {
	case arg == off && whyNotOff != off:
		return notOff(d, word, whyNotOff)
	case arg == off:
		*to = NoLimit
		return nil
	}
	v, err := caddy.ParseDuration(arg)
	if err != nil {
		return d.Errf("bad %s '%s': %s%s", word, arg, notDuration(arg), orOff(whyNotOff))
	}
	switch {
	case v <= 0:
		return d.Errf("bad %s '%s': must be positive%s", word, arg, orOff(whyNotOff))
	case v < low:
		return d.Errf("bad %s '%s': must be at least %s%s", word, arg, low, orOff(whyNotOff))
	case v > Longest:
		return d.Errf("bad %s '%s': must be at most a year%s", word, arg, orOff(whyNotOff))
	}
	*to = caddy.Duration(v)
	return nil
}

// amount is a number, and the name of a unit behind it or nothing.
var amount = regexp.MustCompile(`^([0-9]+)([a-z]*)$`)

// notDuration says how a text that is no duration would be one.
func notDuration(text string) string {
	m := amount.FindStringSubmatch(text)
	if m == nil {
		return "not a duration; write 10s"
	}
	unit := "s"
	for _, known := range [...]string{"ms milliseconds", "m minutes", "h hours", "d days"} {
		short, name, _ := strings.Cut(known, " ")
		if m[2] != "" && strings.HasPrefix(name, m[2]) {
			unit = short
		}
	}
	return "not a duration; write " + m[1] + unit
}

// Count reads a number from 1 on, or the word off.
func Count(d *caddyfile.Dispenser, to *int, whyNotOff string) error {
	return AtLeast(d, to, 1, whyNotOff)
}

// AtLeast reads a number from low on, or the word off.
func AtLeast(d *caddyfile.Dispenser, to *int, low int, whyNotOff string) error {
	return number(d, to, low, math.MaxInt, whyNotOff, fmt.Sprintf("at least %d", low))
}

// Number reads a number from low to high, or the word off.
func Number(d *caddyfile.Dispenser, to *int, low, high int, whyNotOff string) error {
	return number(d, to, low, high, whyNotOff, fmt.Sprintf("between %d and %d", low, high))
}

func number(d *caddyfile.Dispenser, to *int, low, high int, whyNotOff, must string) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	switch {
	case arg == off && whyNotOff != off:
		return notOff(d, word, whyNotOff)
	case arg == off:
		*to = NoLimit
		return nil
	}
	n, err := strconv.Atoi(arg)
	if err != nil {
		return d.Errf("bad %s '%s': not a number%s", word, arg, orOff(whyNotOff))
	}
	if n < low || n > high {
		return d.Errf("bad %s '%s': must be %s%s", word, arg, must, orOff(whyNotOff))
	}
	*to = n
	return nil
}

// Fraction reads a part of the whole, as a percentage (20%) or a fraction (0.2), or the
// word off for 0.
func Fraction(d *caddyfile.Dispenser, to **float64, whyNotOff string) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	switch {
	case arg == off && whyNotOff != off:
		return notOff(d, word, whyNotOff)
	case arg == off:
		*to = new(float64)
		return nil
	}
	text, percent := strings.CutSuffix(arg, "%")
	v, err := strconv.ParseFloat(text, 64)
	if percent {
		v /= 100
	}
	switch {
	case err == nil && !percent && v > 1 && v <= 100:
		return d.Errf("bad %s '%s': not a share; write %s%%", word, arg, arg)
	case err != nil || !IsShare(v):
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

// HeaderField reads a field and its value, which must pass check.
func HeaderField(d *caddyfile.Dispenser, to *http.Header, check func(name string, values ...string) error) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("%s wants a field and a value, got %d arguments", word, len(args))
	}
	if err := check(args[0], args[1]); err != nil && !HasPlaceholder(args[0]) && !HasPlaceholder(args[1]) {
		return d.Errf("%s: %v", word, err)
	}
	if *to == nil {
		*to = make(http.Header)
	}
	to.Add(args[0], args[1])
	return nil
}

func orOff(whyNotOff string) string {
	if whyNotOff != off {
		return ""
	}
	return ", or off"
}

// Size reads a size in bytes from low to high, with a unit if there is one (64KiB).
func Size(d *caddyfile.Dispenser, to *int64, low, high int64, whyNotOff string) error {
	word, arg, err := One(d)
	if err != nil {
		return err
	}
	if arg == off {
		return notOff(d, word, whyNotOff)
	}
	n, ok := parseSize(arg)
	if !ok {
		return d.Errf("bad %s '%s': not a size", word, arg)
	}
	if n < low || n > high {
		return d.Errf("bad %s '%s': must be between %d and %d bytes", word, arg, low, high)
	}
	*to = n
	return nil
}

// parseSize is how sizes are written, from a byte to a TiB.
func parseSize(s string) (n int64, ok bool) {
	v, err := humanize.ParseBytes(s)
	return int64(v), err == nil && 0 < v && v <= 1<<40
}
