package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains what an endpoint is asked: the values in the path, the query
// parameters, the body.

// call is one request to an endpoint.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	path  map[string]string // what stands for the names in the path of the endpoint
	query map[string]any    // the query parameters that were given, as parsed
}

// param is a query parameter.
type param struct {
	name, does string
	allowed    string // what it may be, for people
	schema     map[string]any
	parse      func(string) (any, error)
}

// newCall reads the query of a request. Whatever is wrong with it is said with what would
// be right.
func newCall(w http.ResponseWriter, r *http.Request, m *method, path map[string]string) (*call, error) {
	c := &call{w: w, r: r, path: path, query: make(map[string]any)}
	query, err := url.ParseQuery(r.URL.RawQuery) // Query leaves out what it cannot read
	if err != nil {
		return nil, fmt.Errorf("the query cannot be read: %w; write %%25 for '%%', %%26 for '&' and %%3B for ';' within values", err)
	}
	if m.body == nil && hasBody(r) {
		return nil, fmt.Errorf("%s takes no body here; allowed query parameters: %s", r.Method, m.paramNames())
	}
	for name, values := range query {
		i := slices.IndexFunc(m.params, func(p param) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("query parameter '%s' is unknown here; allowed: %s", plaintext.Printable(name), m.paramNames())
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("query parameter '%s' is given %d times; give it once", name, len(values))
		}
		v, err := m.params[i].parse(values[0])
		if err != nil {
			return nil, fmt.Errorf("query parameter '%s': '%s' is not %s", name, plaintext.Printable(values[0]), m.params[i].allowed)
		}
		c.query[name] = v
	}
	return c, nil
}

func (m *method) paramNames() string {
	if len(m.params) == 0 {
		return "none"
	}
	var names []string
	for _, p := range m.params {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// asked is the value of a query parameter, and otherwise the zero value.
func asked[T any](c *call, name string) T {
	v, _ := c.query[name].(T)
	return v
}

// hasBody reports whether a request has a body that is not empty.
func hasBody(r *http.Request) bool {
	if r.ContentLength >= 0 || r.Body == nil {
		return r.ContentLength > 0
	}
	n, _ := io.ReadFull(r.Body, make([]byte, 1))
	return n > 0
}

// maxBody is far more than any request head that Caddy takes.
const maxBody = 1 << 20

// decode reads the body into a struct: one JSON object that says nothing twice. what is what
// it stands for.
func (c *call) decode(what string, into any) error {
	bad := func(err error) error { return apiError(http.StatusBadRequest, fmt.Errorf("%s: %w", what, err)) }
	text, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	if err != nil {
		return bad(err)
	}
	body := json.NewDecoder(bytes.NewReader(text))
	body.DisallowUnknownFields()
	if err := body.Decode(into); err != nil {
		return bad(err)
	}
	if _, err := body.Token(); err != io.EOF {
		return bad(errors.New("something follows the JSON object"))
	}
	if err := checkFields(text, fieldNames(reflect.TypeOf(into).Elem())); err != nil {
		return bad(err)
	}
	return nil
}

// fieldNames are the names of the fields of a struct in JSON.
func fieldNames(t reflect.Type) []string {
	properties := make(schema)
	(&describer{components: make(schema)}).fields(t, properties, new([]string))
	return slices.Collect(maps.Keys(properties))
}

// checkFields checks that valid JSON is an object whose fields have names from a list, and
// that no object in it has a field twice. encoding/json would take `State` and `ſtate` for
// `state` as well, and the last one of several.
func checkFields(text []byte, names []string) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, _ := d.Token(); t != json.Delim('{') {
		return errors.New("it is not a JSON object")
	}
	return checkObject(d, names)
}

// checkObject checks an object of which the bracket has been read; names is nil for any.
func checkObject(d *json.Decoder, names []string) error {
	known := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if names != nil && !slices.Contains(names, name) {
			if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) }); i >= 0 {
				return fmt.Errorf("field '%s' is unknown; write '%s'", plaintext.Printable(name), names[i])
			}
			return fmt.Errorf("field '%s' is unknown", plaintext.Printable(name)) // unless decoding has refused it
		}
		if known[name] {
			return fmt.Errorf("field '%s' stands twice", plaintext.Printable(name))
		}
		known[name] = true
		if err := checkValue(d); err != nil {
			return err
		}
	}
	_, err := d.Token() // the bracket
	return err
}

// checkValue checks the objects in a value.
func checkValue(d *json.Decoder) error {
	t, err := d.Token()
	switch {
	case err != nil:
		return err
	case t == json.Delim('{'):
		return checkObject(d, nil)
	case t != json.Delim('['):
		return nil
	}
	for d.More() {
		if err := checkValue(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// errValue is a value that a parameter may not have; what it may be is said by the parameter.
var errValue = errors.New("not allowed")

// text is a parameter that may be anything but empty.
func text(name, does string) param {
	return param{name, does, "a text", schema{"type": "string"}, func(s string) (any, error) {
		if s == "" {
			return nil, errValue
		}
		return s, nil
	}}
}

// word is a parameter that is one of some words.
func word(name, does string, words ...string) param {
	return param{name, does, "one of " + strings.Join(words, ", "), schema{"type": "string", "enum": words}, func(s string) (any, error) {
		if !slices.Contains(words, s) {
			return nil, errValue
		}
		return s, nil
	}}
}

// age is a parameter that is a time, as Go writes it.
func age(name, does string) param {
	return param{name, does, "a duration such as 90s or 1h30m", schema{"type": "string", "examples": []string{"90s"}}, func(s string) (any, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return nil, errValue
		}
		return d, nil
	}}
}

// size is a parameter that is a number of bytes.
func size(name, does string) param {
	return param{name, does, "a number of bytes", schema{"type": "integer", "minimum": 0}, func(s string) (any, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return nil, errValue
		}
		return n, nil
	}}
}

// How many items a list has, where there are more.
const (
	defaultLimit = 1000
	maxLimit     = 10_000
)

// limit is the parameter that bounds lists.
var limit = param{
	"limit", fmt.Sprintf("How many items a list has at most. Default: %d.", defaultLimit),
	fmt.Sprintf("a number from 1 to %d", maxLimit),
	schema{"type": "integer", "minimum": 1, "maximum": maxLimit, "default": defaultLimit},
	func(s string) (any, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxLimit {
			return nil, errValue
		}
		return n, nil
	},
}

// limit is how many items a list of the answer may have.
func (c *call) limit() int {
	if n := asked[int](c, "limit"); n > 0 {
		return n
	}
	return defaultLimit
}

// handler is the parameter that selects one handler.
var handler = text("handler", "Only of this handler: its name, or its place, as in `:8080#1`. Default: all.")

// selected is a handler that is asked.
type selected struct {
	Entry
	place string
}

// handlers are those that are asked: all, but where one is selected.
func (c *call) handlers() ([]selected, error) {
	place := asked[string](c, "handler")
	if place != "" {
		h, err := Handlers.Find(place)
		if err != nil {
			return nil, apiError(http.StatusNotFound, err)
		}
		return []selected{{h, h.Place()}}, nil
	}
	found, places := Handlers.ByPlace()
	slices.Sort(places)
	all := make([]selected, len(places))
	for i, p := range places {
		all[i] = selected{found[p], p}
	}
	return all, nil
}

// handler is the one that is asked, where only one can be.
func (c *call) handler() (Entry, error) {
	h, err := Handlers.Find(asked[string](c, "handler"))
	if err != nil {
		return nil, apiError(http.StatusNotFound, err)
	}
	return h, nil
}
