package file

import (
	"bytes"
	"cmp"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const examples = "../../manifests/scenarios/examples/"

func TestAnEditorJudgesTheFormOfAFileAsWeDo(t *testing.T) {
	form, err := scenarioForm()
	if err != nil {
		t.Fatal(err)
	}
	refused := map[bool]int{}
	for _, pattern := range []string{examples + "*.yaml", "../../cmd/mllab/testdata/scenarios/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r := &reader{rules: rules, form: form}
			root := r.tree(data)
			if root == nil || len(r.problems) > 0 {
				continue // no YAML, or more than YAML
			}
			r.check(form.Schema, root)
			err = form.Validate(root.any())
			if (len(r.problems) > 0) != (err != nil) {
				t.Errorf("%s: we see %v, an editor %v", path, r.problems, err)
			}
			if err != nil && !strings.Contains(pattern, "bad") {
				t.Errorf("%s: %v", path, err)
			}
			refused[err != nil]++
		}
	}
	if refused[true] < 40 || refused[false] < 20 {
		t.Errorf("an editor refuses and takes %v: the test reads too little", refused)
	}
}

// judged are the keywords that check follows by itself, or the library for it, by types. check follows a reference and sees
// nothing beside it, and of forms no more than which one is meant.
var judged = map[string]string{
	"":        "anyOf",
	"$ref":    "$ref",
	"object":  "properties additionalProperties required propertyNames minProperties",
	"array":   "items minItems",
	"string":  "const enum maxLength pattern format not anyOf",
	"integer": "enum minimum maximum exclusiveMinimum exclusiveMaximum",
	"number":  "enum minimum maximum exclusiveMinimum exclusiveMaximum",
	"boolean": "const",
}

// unjudged returns the keywords of a part of the schema by which only an editor would judge.
func unjudged(at string, s map[string]any) (all []string) {
	types := fmt.Sprint(cmp.Or[any](s["type"], "string"))
	switch {
	case s["$ref"] != nil:
		types = "$ref"
	case s["type"] == nil && s["anyOf"] != nil:
		types = ""
	}
	known := []string{"type", "title", "description", "$schema", "$defs", "x-refused"}
	for _, each := range strings.Split(strings.Trim(types, "[]"), " ") {
		known = append(known, strings.Fields(judged[each])...)
	}
	for key, part := range s {
		at := at + "/" + key
		if !slices.Contains(known, key) || key == "format" && formats[fmt.Sprint(part)] == nil {
			all = append(all, at)
			continue
		}
		switch part := part.(type) {
		case map[string]any:
			switch key {
			case "properties", "$defs":
				for name, each := range part {
					all = append(all, unjudged(at+"/"+name, each.(map[string]any))...)
				}
			case "items", "additionalProperties", "propertyNames", "not":
				all = append(all, unjudged(at, part)...)
			}
		case []any:
			for _, each := range part {
				if form, ok := each.(map[string]any); ok {
					all = append(all, unjudged(at, form)...)
				}
			}
		}
	}
	return all
}

func TestWeJudgeByEveryKeywordOfTheSchema(t *testing.T) {
	read := func(text []byte) (s map[string]any) {
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		complete(s)
		return s
	}
	if got := unjudged("", read(schemaYAML)); len(got) > 0 {
		t.Errorf("only an editor judges by %v", got)
	}
	for _, tc := range []struct{ schema, want string }{
		{"properties: {a: {items: {minimum: 1}, maxItems: 2, uniqueItems: true}}", "[/properties/a/items/minimum /properties/a/maxItems /properties/a/uniqueItems]"},
		{"$defs: {a: {type: integer, multipleOf: 2}}", "[/$defs/a/multipleOf]"},
		{"requierd: [a]\nproperties: {a: {$ref: x, pattern: a}}", "[/properties/a/pattern /requierd]"},
		{"anyOf: [{type: [integer, string], pattern: a, format: widow}]\noneOf: []", "[/anyOf/format /oneOf]"},
	} {
		got := unjudged("", read([]byte(tc.schema)))
		slices.Sort(got)
		if fmt.Sprint(got) != tc.want {
			t.Errorf("%s: found %v, want %s", tc.schema, got, tc.want)
		}
	}
}

func TestTheSchemaAndTheGoTypesHaveTheSameFields(t *testing.T) {
	root, err := scenarioForm()
	if err != nil {
		t.Fatal(err)
	}
	type form = *jsonschema.Schema
	at := func(from form, fields ...string) form {
		for _, name := range fields {
			if from = follow(from.Properties[name]); from.Items2020 != nil {
				from = follow(from.Items2020)
			}
		}
		return from
	}
	step, control := at(root.Schema, "steps"), at(root.Schema, "controls")
	items := at(step, "apply").AnyOf
	if most := at(step, "expect-split", "requests").Maximum; most.Cmp(big.NewRat(MaxRequests, 1)) != 0 {
		t.Errorf("the schema takes %v requests, want %d", most, MaxRequests)
	}
	for _, tc := range []struct {
		goes  any
		forms []form
	}{
		{document{}, []form{root.Schema}},
		{stepForm{}, []form{step}},
		{breakForm{}, []form{at(control, "break")}},
		{controlForm{}, []form{control}},
		{itemForm{}, items[:2]},
		{Model{}, []form{at(items[0], "model"), at(items[1], "knative")}},
		{waitForm{}, at(step, "wait").AnyOf},
		{Split{}, []form{at(step, "split")}},
		{Mirror{}, []form{at(step, "mirror")}},
		{Watch{}, []form{at(step, "watch")}},
		{Env{}, []form{at(control, "break", "env")}},
		{ExpectSplit{}, []form{at(step, "expect-split")}},
		{ExpectAll{}, []form{at(step, "expect-all")}},
		{ExpectMirror{}, []form{at(step, "expect-mirror")}},
		{ExpectZeroPods{}, []form{at(step, "expect-zero-pods")}},
		{ExpectNoLoss{}, []form{at(step, "expect-no-loss")}},
	} {
		want := map[string]bool{}
		for _, each := range tc.forms {
			for name := range follow(each).Properties {
				want[name] = true
			}
		}
		got := fieldsOf(reflect.TypeOf(tc.goes))
		delete(got, "")
		if !slices.Equal(sorted(got), sorted(want)) {
			t.Errorf("%T has %v, the schema %v", tc.goes, sorted(got), sorted(want))
		}
	}
}

func TestTheExamplesNameTheSchemaBesideThem(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	const name = "scenario.schema.json"
	if got, err := os.ReadFile(examples + name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("write it again: mllab scenario schema > manifests/scenarios/examples/%s (%v)", name, err)
	}
	files, err := filepath.Glob(examples + "*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d examples: %v", len(files), err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if line, _, _ := strings.Cut(string(text), "\n"); err != nil || line != "# yaml-language-server: $schema="+name {
			t.Errorf("%s begins with %q, %v", path, line, err)
		}
	}
}
