package egress

import (
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains the placeholders of the configuration. Every string takes global
// ones (`{env.X}`, `{file.X}`, `{system.X}`, `{time.X}`), which are replaced when the
// handler is provisioned, before anything looks at the strings. What has no value then
// is an error: nothing is ever sent, dialed or compared as it is written. The tag
// `placeholders` marks the exceptions among our own fields:
//
//	own     the field replaces placeholders itself, where it is used
//	refused the field takes none
//
// Keys of maps take none. Modules of others, and the header settings of routes, which
// are replaced for each request, are left to themselves.

// placeholderName is what counts as a placeholder: a name, or what begins with one of
// Caddy's own, whatever characters follow (a file may have spaces in its name). Other
// text in braces is just text.
var placeholderName = regexp.MustCompile(`^([A-Za-z][^{}\s"']*$|(env|file|system|time|http)\.)`)

var (
	rawMessageType    = reflect.TypeFor[json.RawMessage]()
	headerSettingType = reflect.TypeFor[headers.Handler]()
)

// hasPlaceholder reports whether a word of the Caddyfile can be checked only when its
// placeholders are replaced.
func hasPlaceholder(word string) bool {
	for range placeholdersIn(word) {
		return true
	}
	return false
}

// placeholdersIn are the names of the placeholders in a text, as Caddy's replacer finds
// them: a brace behind a backslash is none, and a name goes up to the first closing
// brace. What is not replaced there is looked at again from its second character on.
func placeholdersIn(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := 0; i < len(text); i++ {
			if text[i] != '{' || escaped(text, i) {
				continue
			}
			end := closingBrace(text, i)
			if end < 0 || !placeholderName.MatchString(text[i+1:end]) {
				continue
			}
			if !yield(text[i+1 : end]) {
				return
			}
			i = end
		}
	}
}

// closingBrace is where the placeholder ends that begins at i, -1 if it does not. One
// at the very end of the text closes it also behind a backslash, for Caddy.
func closingBrace(text string, i int) int {
	for ; i < len(text); i++ {
		if text[i] == '}' && (i == len(text)-1 || !escaped(text, i)) {
			return i
		}
	}
	return -1
}

func escaped(text string, i int) bool { return i > 0 && text[i-1] == '\\' }

func (h *Handler) replacePlaceholders(caddy.Context) error {
	return replaceIn(reflect.ValueOf(h).Elem(), "", "", caddy.NewReplacer())
}

// replaceIn replaces the placeholders in all strings of a value, which is at a path of
// the configuration.
func replaceIn(v reflect.Value, path, mode string, repl *caddy.Replacer) error {
	if mode == "own" || v.Type() == rawMessageType || v.Type() == headerSettingType {
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		text, err := replaceText(v.String(), mode, repl)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		v.SetString(text)
	case reflect.Pointer:
		if !v.IsNil() {
			return replaceIn(v.Elem(), path, mode, repl)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := replaceIn(v.Index(i), fmt.Sprintf("%s[%d]", path, i), mode, repl); err != nil {
				return err
			}
		}
	case reflect.Map:
		if v.Type().Elem() == rawMessageType {
			return nil // modules by name
		}
		return replaceInMap(v, path, mode, repl)
	case reflect.Struct:
		return replaceInStruct(v, path, repl)
	}
	return nil
}

func replaceInStruct(v reflect.Value, path string, repl *caddy.Replacer) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		if path != "" {
			name = path + "." + name
		}
		if err := replaceIn(v.Field(i), name, field.Tag.Get("placeholders"), repl); err != nil {
			return err
		}
	}
	return nil
}

// replaceInMap replaces what is in the values; those in maps of ours are pointers and
// slices.
func replaceInMap(v reflect.Value, path, mode string, repl *caddy.Replacer) error {
	for it := v.MapRange(); it.Next(); {
		key := it.Key().String()
		if _, err := replaceText(key, "refused", repl); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := replaceIn(it.Value(), path+"."+plaintext.Escaped(key), mode, repl); err != nil {
			return err
		}
	}
	return nil
}

// replaceText replaces the placeholders in one string.
func replaceText(text, mode string, repl *caddy.Replacer) (string, error) {
	if !strings.Contains(text, "{") {
		return text, nil
	}
	for key := range placeholdersIn(text) {
		if mode == "refused" {
			return "", fmt.Errorf("{%s}: placeholders are not replaced here", key)
		}
		switch value, known := repl.GetString(key); {
		case !known:
			return "", fmt.Errorf(`{%s} has no value when the configuration is loaded: only global placeholders, such as {env.NAME}, are replaced here (\{ is a brace)`, key)
		case value == "":
			return "", fmt.Errorf("{%s} is empty: is it set?", key)
		}
	}
	if mode == "refused" {
		return text, nil
	}
	return repl.ReplaceOrErr(text, false, false)
}
