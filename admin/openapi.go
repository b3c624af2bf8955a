package admin

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"
)

// This file contains the description of the endpoints for programs: it is made of the table
// of endpoints and of the types that they return, with what the tag `doc` says of their
// fields.

type schema = map[string]any

// describe returns the description.
func describe(*call) (schema, error) { return description(), nil }

var description = sync.OnceValue(func() schema {
	d := describer{components: make(schema)}
	paths := make(schema)
	for _, e := range endpoints {
		at := make(schema)
		for i := range e.methods {
			at[strings.ToLower(e.methods[i].name)] = d.operation(&e, &e.methods[i])
		}
		paths[root+e.path] = at
	}
	return schema{
		"openapi": "3.1.0",
		"info": schema{
			"title": "Caddy Egress admin API", "version": Version(),
			"description": "Durations are numbers of seconds, times are in RFC 3339. A field is absent, and never null, where it does not apply.",
		},
		"paths":      paths,
		"components": schema{"schemas": d.components},
	}
})

// describer makes schemas of types.
type describer struct{ components schema }

func (d *describer) operation(e *endpoint, m *method) schema {
	failed := schema{"description": "What is wrong, in a sentence.", "content": content(d.schemaOf(reflect.TypeFor[problem]()))}
	answer := schema{"type": "object"} // of the description itself
	if m.serve == nil || reflect.TypeOf(m.answer) != reflect.TypeFor[schema]() {
		answer = d.schemaOf(reflect.TypeOf(m.answer))
	}
	op := schema{
		"summary":   m.does,
		"responses": schema{"200": schema{"description": "OK", "content": content(answer)}, "4XX": failed, "5XX": failed},
	}
	if reflect.TypeOf(m.answer) == reflect.TypeFor[Event]() {
		op["responses"].(schema)["200"] = schema{
			"description": "A stream of events, each with this as its data. A comment is sent each 15 s.",
			"content":     schema{"text/event-stream": schema{"schema": schema{"type": "string"}, "x-data": answer}},
		}
	}
	parameters := []schema{}
	for name := range strings.SplitSeq(e.path, "/") {
		if strings.HasPrefix(name, "{") {
			parameters = append(parameters, schema{"name": strings.Trim(name, "{}"), "in": "path", "required": true, "schema": schema{"type": "string"}})
		}
	}
	for _, p := range m.params {
		parameters = append(parameters, schema{"name": p.name, "in": "query", "description": p.does, "schema": p.schema})
	}
	if len(parameters) > 0 {
		op["parameters"] = parameters
	}
	if m.body != nil {
		op["requestBody"] = schema{"required": true, "content": content(d.schemaOf(reflect.TypeOf(m.body)))}
	}
	return op
}

func content(of schema) schema { return schema{"application/json": schema{"schema": of}} }

// problem is what an error looks like, as Caddy writes it.
type problem struct {
	Error string `json:"error" doc:"What is wrong, and what would be right."`
}

func (d *describer) schemaOf(t reflect.Type) schema {
	switch t {
	case reflect.TypeFor[time.Time]():
		return schema{"type": "string", "format": "date-time"}
	case reflect.TypeFor[seconds]():
		return schema{"type": "number", "minimum": 0}
	case reflect.TypeFor[http.Header]():
		return schema{"type": "object", "additionalProperties": schema{"type": "array", "items": schema{"type": "string"}}}
	}
	switch t.Kind() {
	case reflect.Interface:
		return schema{} // anything
	case reflect.Pointer:
		return d.schemaOf(t.Elem())
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.String:
		return schema{"type": "string"}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return schema{"type": "integer"}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return schema{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return schema{"type": "number"}
	case reflect.Slice, reflect.Array:
		return schema{"type": "array", "items": d.schemaOf(t.Elem())}
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": d.schemaOf(t.Elem())}
	case reflect.Struct:
		return d.component(t)
	}
	panic(fmt.Sprintf("%s has no schema", t)) // a type of ours: a bug, which the tests find
}

// component is a reference to the schema of a type.
func (d *describer) component(t reflect.Type) schema {
	name := componentName(t)
	if d.components[name] == nil {
		properties, required := make(schema), []string{}
		d.components[name] = schema{"type": "object", "properties": properties, "additionalProperties": false}
		d.fields(t, properties, &required)
		if len(required) > 0 {
			d.components[name].(schema)["required"] = required
		}
	}
	return schema{"$ref": "#/components/schemas/" + name}
}

// componentName is the name of a type without what Go writes around those of others.
func componentName(t reflect.Type) string {
	pkg := t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]
	name, of, generic := strings.Cut(t.Name(), "[")
	if generic {
		name = of[strings.LastIndex(of, ".")+1:len(of)-1] + "List"
	}
	if pkg != "admin" {
		pkg = strings.ToUpper(pkg[:1]) + pkg[1:]
		return pkg + name
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// fields adds the fields of a struct, as encoding/json finds them.
func (d *describer) fields(t reflect.Type, properties schema, required *[]string) {
	for f := range t.Fields() {
		tag, tagged := f.Tag.Lookup("json")
		switch {
		case f.Anonymous && !tagged:
			d.fields(f.Type, properties, required)
			continue
		case !f.IsExported() || tag == "-":
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		s := d.schemaOf(f.Type)
		if doc := f.Tag.Get("doc"); doc != "" {
			s["description"] = doc
		}
		properties[name] = s
		if !strings.Contains(options, "omit") {
			*required = append(*required, name)
		}
	}
}
