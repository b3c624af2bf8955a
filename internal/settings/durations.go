package settings

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/words"
)

// CheckDurations refuses durations that nobody can mean, in all of a configuration, which v
// points to: "dial_timeout": 10 is ten nanoseconds, and none is over a year. (The Caddyfile
// has the same bounds.)
func CheckDurations(v any) error {
	return checkDurationsIn(reflect.ValueOf(v).Elem(), "")
}

// checkDurationsIn looks at all durations in a value, which is at a path of the
// configuration.
func checkDurationsIn(v reflect.Value, path string) error {
	switch v.Kind() {
	case reflect.Int64:
		value, ok := v.Interface().(caddy.Duration)
		switch d := time.Duration(value); {
		case !ok:
		case 0 < d && d < words.Shortest:
			return fmt.Errorf("%s: %s is below %s: a duration in JSON is a string such as \"10s\", or a number of nanoseconds", path, d, words.Shortest)
		case d > words.Longest:
			return fmt.Errorf("%s: %s is over a year", path, d)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return checkDurationsIn(v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkDurationsIn(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := checkDurationsIn(it.Value(), fmt.Sprintf("%s.%s", path, it.Key())); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !field.IsExported() || name == "-" {
				continue
			}
			if err := checkDurationsIn(v.Field(i), strings.TrimPrefix(path+"."+name, ".")); err != nil {
				return err
			}
		}
	}
	return nil
}
