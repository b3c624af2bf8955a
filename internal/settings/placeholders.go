package settings

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/words"
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

var (
	rawMessageType    = reflect.TypeFor[json.RawMessage]()
	headerSettingType = reflect.TypeFor[headers.Handler]()
)

// ReplacePlaceholders replaces the placeholders in all strings of a configuration, which v
// points to.
func ReplacePlaceholders(v any) error {
	return replaceIn(reflect.ValueOf(v).Elem(), "", "", caddy.NewReplacer())
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

// ReplaceText replaces the placeholders in a string that marks itself as `own`.
func ReplaceText(text string, repl *caddy.Replacer) (string, error) {
	return replaceText(text, "", repl)
}

// replaceText replaces the placeholders in one string.
func replaceText(text, mode string, repl *caddy.Replacer) (string, error) {
	if !strings.Contains(text, "{") {
		return text, nil
	}
	for key := range words.Placeholders(text) {
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

// Emptied is the error of a text of which its placeholders have left nothing.
func Emptied(text string) error {
	var names []string
	for key := range words.Placeholders(text) {
		names = append(names, "{"+key+"}")
	}
	return fmt.Errorf("empty after replacing %s: is it set?", strings.Join(names, ", "))
}
