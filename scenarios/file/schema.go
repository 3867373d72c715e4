package file

import (
	"bytes"
	_ "embed" // schema.yaml
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

//go:embed schema.yaml
var schemaYAML []byte

// Schema returns the JSON Schema of a file, for editors. mllab checks every file
// with the same schema: https://json-schema.org/draft/2020-12/json-schema-core
func Schema() ([]byte, error) {
	var all map[string]any
	if err := yaml.Unmarshal(schemaYAML, &all); err != nil {
		return nil, fmt.Errorf("reading the schema of scenarios: %w", err)
	}
	complete(all)
	text, err := json.MarshalIndent(all, "", "  ")
	return append(text, '\n'), err
}

// complete adds the defaults of schema.yaml: objects have no other fields, and
// values are not empty.
func complete(s map[string]any) {
	set := func(typ, key string, value any) {
		if s["type"] = typ; s[key] == nil {
			s[key] = value
		}
	}
	switch {
	case s["properties"] != nil:
		set("object", "additionalProperties", false)
	case s["propertyNames"] != nil:
		set("object", "minProperties", 1)
	case s["items"] != nil:
		set("array", "minItems", 1)
	}
	for key, part := range s {
		switch part := part.(type) {
		case map[string]any:
			switch key {
			case "properties", "$defs":
				for _, each := range part {
					complete(each.(map[string]any))
				}
			case "items", "additionalProperties", "propertyNames", "not":
				complete(part)
			}
		case []any:
			for _, each := range part {
				if form, ok := each.(map[string]any); ok {
					complete(form)
				}
			}
		}
	}
}

// form is the schema, and why some fields are not in it.
type form struct {
	*jsonschema.Schema
	refused map[string]any
}

var scenarioForm = sync.OnceValues(func() (*form, error) {
	text, err := Schema()
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading the schema of scenarios: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for name, takes := range formats {
		c.RegisterFormat(&jsonschema.Format{Name: name, Validate: func(v any) error {
			if s, isText := v.(string); isText && !takes(s) {
				return errors.ErrUnsupported // check has the words
			}
			return nil
		}})
	}
	const name = "scenario.schema.json"
	if err = c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("reading the schema of scenarios: %w", err)
	}
	root, err := c.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the schema of scenarios: %w", err)
	}
	refused, _ := doc.(map[string]any)["x-refused"].(map[string]any)
	return &form{root, refused}, nil
})

// follow returns what a reference stands for.
func follow(s *jsonschema.Schema) *jsonschema.Schema {
	for s != nil && s.Ref != nil {
		s = s.Ref
	}
	return s
}

func accepts(s *jsonschema.Schema, v any) bool { return s.Validate(v) == nil }

var kindOf = map[string]kind{"object": mapping, "array": list, "string": text, "integer": whole, "number": number, "boolean": boolean}

// check reports where v does not match s. It walks the schema itself, because the
// library's own errors have neither places nor words for a person.
func (r *reader) check(s *jsonschema.Schema, v *value) {
	s = follow(s)
	if len(s.AnyOf) > 0 {
		r.checkForms(s, v)
		return
	}
	if s.Format != nil && (v.kind == whole || v.kind == number || v.kind == boolean) { // in quotes it would be no better
		r.wrong(v, "%s is not %s; write one", quote(v.text), s.Description)
		return
	}
	types := []string{"string"}
	if s.Types != nil {
		types = s.Types.ToStrings()
	}
	if !r.is(v, types) {
		return
	}
	switch v.kind {
	case mapping:
		r.checkFields(s, v)
	case list:
		if len(v.items) < *s.MinItems {
			r.wrong(v, "the list is empty; give it an item, or remove it")
		}
		for _, i := range v.items {
			r.check(s.Items2020, i)
		}
	case text:
		switch {
		case accepts(s, v.text):
		case s.Const != nil:
			r.wrong(v, "%s is not one of: %s; use one of them", quote(v.text), *s.Const)
		case s.Enum != nil:
			r.wrong(v, "%s is not one of: %s; use one of them", quote(v.text), choices(s))
		default:
			r.wrong(v, "%s is not %s; write one", quote(v.text), s.Description)
		}
	case whole, number:
		low, high := limit(-1<<53, s.Minimum, s.ExclusiveMinimum), limit(1<<53, s.Maximum, s.ExclusiveMaximum)
		switch {
		case s.Enum != nil && !accepts(s, v.any()):
			r.wrong(v, "%s is not one of: %s; use one of them", v.text, choices(s))
		case v.float < low || v.float > high || s.ExclusiveMinimum != nil && v.float == low || s.ExclusiveMaximum != nil && v.float == high:
			r.wrong(v, "%s is not between %s and %s; use a number in between", v.text, strconv.FormatFloat(low, 'f', -1, 64), strconv.FormatFloat(high, 'f', -1, 64))
		}
	case boolean:
		if s.Const != nil && *s.Const != v.truth {
			r.wrong(v, "%s; write %v, or leave it out", s.Description, *s.Const)
		}
	}
}

func choices(s *jsonschema.Schema) string {
	var all []string
	for _, each := range s.Enum.Values {
		all = append(all, fmt.Sprint(each))
	}
	return strings.Join(all, ", ")
}

// limit returns the one of a number's limits that is given, or else other.
func limit(other float64, given ...*big.Rat) float64 {
	for _, r := range given {
		if r != nil {
			other, _ = r.Float64()
		}
	}
	return other
}

// formats has checks that no pattern can express.
var formats = map[string]func(string) bool{
	"istio-time": isTime,
	"cookie-ttl": func(s string) bool { return s == "0s" || isTime(s) },
	"header-value": func(s string) bool {
		return len(s) <= maxHeader && !strings.Contains(commands.ReplaceAllString(s, ""), "%")
	},
	"re2":        isRegex,
	"re2-or-all": func(s string) bool { return s == "*" || isRegex(s) },
	"retry-on": func(s string) bool {
		return !slices.ContainsFunc(strings.Split(s, ","), func(each string) bool {
			code, _ := strconv.Atoi(each)
			return http.StatusText(code) == "" && !retryOn.MatchString(each)
		})
	},
	"within": func(s string) bool {
		d, err := time.ParseDuration(s)
		return err == nil && d >= time.Second && d <= maxWithin
	},
	"window": func(s string) bool {
		d, err := time.ParseDuration(s)
		return err == nil && d >= 6*time.Second && d <= time.Hour && d%time.Second == 0
	},
}

// isTime reports whether Istio takes s as a time.
func isTime(s string) bool {
	d, err := time.ParseDuration(s)
	return err == nil && d >= time.Millisecond && d%time.Millisecond == 0
}

// isRegex reports whether Istio takes s as a regular expression. It compiles it with Go's library, too:
// https://github.com/istio/istio/blob/master/pkg/config/validation/validation.go
func isRegex(s string) bool {
	_, err := regexp.Compile(s)
	return err == nil && s != "" && len(s) <= 1024
}

// maxHeader is the largest value of a header, in bytes, that Envoy sets. It refuses all routes because of a larger one.
// https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/base.proto#config-core-v3-headervalue
const maxHeader = 16384

// commands matches what Envoy fills in in the value of a header, and %%. It refuses all routes because of another percent sign. The names
// of commands are Envoy's to know: a wait says which object has one that it refuses. An argument may have brackets of its own, as CEL's do.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#command-operators
var commands = regexp.MustCompile(`%([A-Z][A-Z0-9_]*(\(([^()]|\([^()]*\))*\))?(:[0-9]+)?)?%`)

// retryOn matches the conditions for another try that Istio takes besides status codes, as Envoy spells them.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-retry-on
var retryOn = regexp.MustCompile(`^(5xx|gateway-error|reset|reset-before-request|connect-failure|retriable-4xx|refused-stream|retriable-status-codes|retriable-headers|` +
	`envoy-ratelimited|http3-post-connect-failure|cancel{2}ed|deadline-exceeded|internal|resource-exhausted|unavailable)$`)

func (r *reader) checkFields(s *jsonschema.Schema, v *value) {
	if s.MinProperties != nil && len(v.fields) < *s.MinProperties {
		r.wrong(v, "it is empty; give it a field, or remove it")
	}
	for _, f := range v.fields {
		each := s.Properties[f.name]
		if others, ok := s.AdditionalProperties.(*jsonschema.Schema); each == nil && ok {
			each = others
		}
		switch {
		case each == nil && r.form.refused[f.name] != nil:
			r.say(f.place, f.path, "a scenario may not set this: %s; remove it", r.form.refused[f.name])
			continue
		case each == nil:
			r.say(f.place, f.path, "there is no such field here; use %s", strings.Join(sorted(s.Properties), ", "))
			continue
		case s.PropertyNames != nil && !accepts(s.PropertyNames, f.name):
			r.say(f.place, f.path, "%s is not %s; use another name", quote(f.name), follow(s.PropertyNames).Description)
		}
		r.check(each, f.value)
	}
	for _, name := range s.Required {
		if v.get(name) == nil {
			r.say(v.place, below(v.path, name), "it is missing; add `%s: …`", name)
		}
	}
}

// checkForms checks v against one of several forms: the form whose constants v
// has, or whose first required field v has.
func (r *reader) checkForms(s *jsonschema.Schema, v *value) {
	var kinds []string
	for _, form := range s.AnyOf {
		form = follow(form)
		api, kind := follow(form.Properties["apiVersion"]), follow(form.Properties["kind"])
		switch {
		case form.Const != nil && v.kind == boolean,
			api != nil && accepts(api, v.get("apiVersion").str()) && accepts(kind, v.get("kind").str()),
			api == nil && form.Const == nil && v.get(form.Required[0]) != nil:
			r.check(form, v)
			return
		case api != nil:
			newest := api.Const
			if newest == nil {
				newest = &api.Enum.Values[0]
			}
			kinds = append(kinds, fmt.Sprint(*newest, " ", *kind.Const))
		}
	}
	switch api, kind := v.get("apiVersion"), v.get("kind"); {
	case kinds == nil: // use the last form
		r.check(s.AnyOf[len(s.AnyOf)-1], v)
	case !r.is(v, []string{"object"}):
	case api == nil || kind == nil:
		r.wrong(v, "%s", s.Description)
	default:
		r.say(kind.place, kind.path, "a scenario may not apply %s of %s; use %s", quote(kind.str()), quote(api.str()), strings.Join(kinds, ", "))
	}
}

// is reports whether v has one of these types. A whole number is also a number.
func (r *reader) is(v *value, types []string) bool {
	var words []string
	for _, t := range types {
		want := kindOf[t]
		if v.kind == want || want == number && v.kind == whole {
			return true
		}
		words = append(words, want.String())
	}
	got, want := v.kind.String(), strings.Join(words, " or ")
	scalar := v.kind == text || v.kind == whole || v.kind == number || v.kind == boolean
	if scalar {
		got = fmt.Sprintf("%s (%s)", got, quote(v.text))
	}
	fix := "write " + want
	if scalar && types[0] == "string" {
		fix = "put it in quotes: " + quote(v.text)
	}
	r.wrong(v, "want %s, and this is %s; %s", want, got, fix)
	return false
}

func quote(s string) string {
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// fill stores v in a Go value. v is valid, so that each field exists. Fields that v
// does not have keep their values.
func fill(v *value, into reflect.Value) {
	switch to := into.Addr().Interface().(type) {
	case **value:
		*to = v
		return
	case *time.Duration:
		*to, _ = time.ParseDuration(v.text)
		return
	case *[]Share:
		for _, f := range v.fields {
			*to = append(*to, Share{f.name, f.float})
		}
		return
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		if d, ok := into.Interface().(interface{ defaults() }); ok {
			d.defaults()
		}
		fill(v, into.Elem())
	case reflect.Struct:
		for name, index := range fieldsOf(into.Type()) {
			if name == "" {
				fill(v, into.FieldByIndex(index))
			} else if each := v.get(name); each != nil {
				fill(each, into.FieldByIndex(index))
			}
		}
	case reflect.Slice:
		for _, item := range v.items {
			each := reflect.New(into.Type().Elem()).Elem()
			fill(item, each)
			into.Set(reflect.Append(into, each))
		}
	case reflect.Map:
		into.Set(reflect.ValueOf(dictOf(v)))
	case reflect.String:
		into.SetString(v.text)
	case reflect.Bool:
		into.SetBool(v.truth)
	case reflect.Int:
		into.SetInt(v.int)
	case reflect.Float64:
		into.SetFloat(v.float)
	}
}

// fieldsOf returns the indexes of a struct's fields by their names in a file; "" is
// the part of the file itself. It skips fields without a tag.
func fieldsOf(t reflect.Type) map[string][]int {
	all := map[string][]int{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			for name, index := range fieldsOf(f.Type) {
				all[name] = append([]int{i}, index...)
			}
		} else if name, ok := f.Tag.Lookup("file"); ok {
			all[name] = []int{i}
		}
	}
	return all
}

func dictOf(v *value) map[string]string {
	m := map[string]string{}
	for _, f := range v.all() {
		m[f.name] = f.text
	}
	return m
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
