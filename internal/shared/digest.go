package shared

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Digest is the same for the same values. They hold credentials, so nothing of
// them may be seen in it.
func Digest(values ...any) string {
	sum, err := DigestOf(values...)
	if err != nil {
		panic(err) // strings, numbers and maps of these
	}
	return sum
}

// DigestOf is digest of values that hold JSON of the operator's.
func DigestOf(values ...any) (string, error) {
	b, err := json.Marshal(values)
	if err != nil {
		return "", err
	}
	if bytes.Contains(b, []byte(`\ufffd`)) {
		b = appendNotText(b, reflect.ValueOf(values))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// appendNotText appends the strings that are not UTF-8, as passwords in Latin-1 are: in JSON,
// what makes them so is replaced by one and the same character.
func appendNotText(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); !utf8.ValidString(s) {
			b = strconv.AppendQuoteToASCII(append(b, ' '), s)
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			b = appendNotText(b, v.Elem())
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			b = appendNotText(b, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" {
				b = appendNotText(b, v.Field(i))
			}
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			b = appendNotText(appendNotText(b, key), v.MapIndex(key))
		}
	}
	return b
}
