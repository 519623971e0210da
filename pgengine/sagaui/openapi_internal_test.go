package sagaui

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// answers are the structs of the pages, by their paths below the root.
var answers = map[string]any{
	"/overview": Overview{}, "/sagas": List{}, "/sagas/{id}": Saga{}, "/sagas/{id}/history": History{}, "/definitions": Definitions{}, "/definitions/{name}/{version}": Definition{},
	"/schedules": Schedules{}, "/schedules/{id}": Schedule{}, "/outbox": Outbox{}, "/outbox/{id}": OutboxLetter{}, "/inbox": Inbox{}, "/inbox/{id}": InboxLetter{},
}

// queries are what pages may be asked for beyond their paths.
var queries = map[string][]string{"/sagas": filters, "/outbox": {"topic", "key", "before"}, "/inbox": {"consumer", "after"}}

type object = map[string]any

// schemas are the types that the document names.
type schemas struct{ named object }

var timeType, uuidType, rawType = reflect.TypeFor[time.Time](), reflect.TypeFor[uuid.UUID](), reflect.TypeFor[json.RawMessage]()

// of is what JSON makes of a type.
func (s schemas) of(t reflect.Type) object {
	switch t {
	case timeType:
		return object{"type": "string", "format": "date-time"}
	case uuidType:
		return object{"type": "string", "format": "uuid"}
	case rawType:
		return object{"description": "any JSON"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem()) // left out, or null, if it is nil
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Map:
		return object{"type": []any{"object", "null"}, "additionalProperties": s.of(t.Elem())}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": []any{"string", "null"}, "contentEncoding": "base64"}
		}
		return object{"type": []any{"array", "null"}, "items": s.of(t.Elem())}
	case reflect.Struct:
		name := t.Name()
		if _, ok := s.named[name]; !ok {
			s.named[name] = object{}
			properties, required := object{}, []any{}
			s.fields(t, properties, &required)
			s.named[name] = object{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
		}
		return object{"$ref": "#/components/schemas/" + name}
	}
	panic("openapi: a " + t.String())
}

func (s schemas) fields(t reflect.Type, properties object, required *[]any) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && name == "":
			s.fields(f.Type, properties, required)
		case !f.IsExported() || name == "-":
		default:
			if name == "" {
				panic(t.String() + "." + f.Name + " has no name in JSON")
			}
			properties[name] = s.of(f.Type)
			if !strings.Contains(options, "omit") {
				*required = append(*required, name)
			}
		}
	}
}

var parameter = regexp.MustCompile(`\{(\w+)\}`)

// document is the OpenAPI document of the tables.
func document() object {
	s := schemas{object{}}
	reply := func(code, what string, v any) object {
		return object{
			code:      object{"description": what, "content": object{"application/json": object{"schema": s.of(reflect.TypeOf(v))}}},
			"default": object{"description": "what is wrong", "content": object{"application/json": object{"schema": s.of(reflect.TypeFor[apiError]())}}},
		}
	}
	parameters := func(path string, query []string) []any {
		all := []any{}
		for _, p := range parameter.FindAllStringSubmatch(path, -1) {
			all = append(all, object{"name": p[1], "in": "path", "required": true, "schema": object{"type": "string"}})
		}
		for _, q := range query {
			all = append(all, object{"name": q, "in": "query", "schema": object{"type": "string"}})
		}
		return all
	}
	paths := object{}
	for _, p := range pages {
		paths[apiRoot+p.api] = object{"get": object{
			"summary": p.title, "operationId": "get" + strings.NewReplacer("/", "_", "{", "", "}", "").Replace(p.api),
			"parameters": parameters(p.api, queries[p.api]), "responses": reply("200", p.title, answers[p.api]),
		}}
	}
	for _, k := range subjects {
		paths[apiRoot+k.api+"/actions"] = object{"get": object{
			"summary": "What can be done, and what that will do", "operationId": "offers_" + k.on,
			"parameters": parameters(k.api, nil), "responses": reply("200", "what can be done", apiActions{}),
		}}
		var names []any
		var does []string
		for _, a := range actions {
			if a.on == k.on {
				names = append(names, a.name)
				does = append(does, a.name+" ("+strings.Join(append([]string{"reason"}, a.fields...), ", ")+")")
			}
		}
		in := parameters(k.api+"/actions/{action}", nil)
		in[len(in)-1].(object)["schema"] = object{"type": "string", "enum": names}
		paths[apiRoot+k.api+"/actions/{action}"] = object{"post": object{
			"summary": "Do something", "description": "Actions, and what they need: " + strings.Join(does, "; ") + ".", "operationId": "act_" + k.on,
			"parameters": in, "requestBody": object{"required": true, "content": object{"application/json": object{"schema": s.of(reflect.TypeFor[Ask]())}}},
			"responses": reply("202", "it was asked for", Done{}),
		}}
	}
	paths[apiRoot+"/openapi.json"] = object{"get": object{"summary": "This document", "operationId": "openapi", "responses": object{
		"200": object{"description": "this document", "content": object{"application/json": object{"schema": object{"type": "object"}}}},
	}}}
	return object{
		"openapi": "3.1.0",
		"info": object{"title": "pgsagaz console", "version": "1", "description": "All that the console shows and does. Paths are below the console's prefix. " +
			"Durations are in nanoseconds if they are integers, and in seconds if they are numbers. An action answers 409 if things have moved on."},
		"paths": paths, "components": object{"schemas": s.named},
	}
}

// TestOpenAPIIsOfTheHandler: the document says of each route what there is, and of nothing else. Run it with -args -update after a
// change of the tables or of their structs.
func TestOpenAPIIsOfTheHandler(t *testing.T) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	if err := e.Encode(document()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.json", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(b.Bytes(), openAPI) {
		t.Error("openapi.json is not that of the handler: run the test with -args -update")
	}
	if len(answers) != len(pages) {
		t.Errorf("%d answers for %d pages", len(answers), len(pages))
	}
}

// Conforms says where JSON is not as the document's schema of a path says. For the tests of the handler.
func Conforms(method, path string, code int, body []byte) []string {
	var doc, v any
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		return []string{err.Error()}
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return []string{err.Error()}
	}
	at := func(v any, keys ...string) any {
		for _, k := range keys {
			v, _ = v.(object)[k]
		}
		return v
	}
	for template, item := range at(doc, "paths").(object) {
		pattern := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(template), "[^/]+")
		if ok, _ := regexp.MatchString("^"+pattern+"$", path); !ok || at(item, method) == nil {
			continue
		}
		responses := at(item, method, "responses").(object)
		response, ok := responses[map[int]string{200: "200", 202: "202"}[code]]
		if !ok {
			response = responses["default"]
		}
		return check(at(doc, "components", "schemas").(object), at(response, "content", "application/json", "schema").(object), v, template)
	}
	return []string{"the document has no " + method + " " + path}
}

// check is as much of JSON Schema as the document needs.
func check(named, schema object, v any, where string) (wrong []string) {
	if ref, ok := schema["$ref"].(string); ok {
		return check(named, named[strings.TrimPrefix(ref, "#/components/schemas/")].(object), v, where)
	}
	var is string
	switch v := v.(type) {
	case nil:
		is = "null"
	case bool:
		is = "boolean"
	case string:
		is = "string"
	case float64:
		if is = "number"; v == float64(int64(v)) {
			is = "integer"
		}
	case []any:
		is = "array"
		if items, ok := schema["items"].(object); ok {
			for _, e := range v {
				wrong = append(wrong, check(named, items, e, where+"[]")...)
			}
		}
	case object:
		is = "object"
		properties, _ := schema["properties"].(object)
		for k, e := range v {
			if p, ok := properties[k].(object); ok {
				wrong = append(wrong, check(named, p, e, where+"."+k)...)
			} else if more, ok := schema["additionalProperties"].(object); ok {
				wrong = append(wrong, check(named, more, e, where+"."+k)...)
			} else if schema["additionalProperties"] == false {
				wrong = append(wrong, where+" has an unknown "+k)
			}
		}
		required, _ := schema["required"].([]any)
		for _, k := range required {
			if _, ok := v[k.(string)]; !ok {
				wrong = append(wrong, where+" lacks "+k.(string))
			}
		}
	}
	var types []any
	switch t := schema["type"].(type) {
	case string:
		types = []any{t}
	case []any:
		types = t
	}
	if types != nil && !slices.Contains(types, any(is)) && !(is == "integer" && slices.Contains(types, any("number"))) {
		wrong = append(wrong, where+" is a "+is)
	}
	return wrong
}
