package file

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const examples = "../../manifests/scenarios/examples/"

// editors is the published schema as an editor's validator has it.
func editors(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for name, ok := range formats {
		c.RegisterFormat(&jsonschema.Format{Name: name, Validate: func(v any) error {
			if s, is := v.(string); is && !ok(s) {
				return &jsonschema.ValidationError{}
			}
			return nil
		}})
	}
	if err := c.AddResource("scenario.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("scenario.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnEditorJudgesTheFormOfAFileAsWeDo(t *testing.T) {
	form, err := scenarioSchema()
	if err != nil {
		t.Fatal(err)
	}
	published := editors(t)
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
			r := &reader{rules: rules, schema: form}
			root := r.tree(data)
			if root == nil || len(r.problems) > 0 {
				continue // no YAML, or more than YAML
			}
			r.check(form, root)
			err = published.Validate(root.any())
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

func TestTheSchemaAndTheGoTypesHaveTheSameFields(t *testing.T) {
	form, err := scenarioSchema()
	if err != nil {
		t.Fatal(err)
	}
	defs := form.Defs
	if most := defs["requests"].Maximum; *most != MaxRequests {
		t.Errorf("the schema takes %v requests, want %d", *most, MaxRequests)
	}
	step, wait := defs["step"].Properties, defs["wait"].AnyOf
	for _, tc := range []struct {
		goes  any
		forms []*schema
	}{
		{document{}, []*schema{form}},
		{stepForm{}, []*schema{defs["step"]}},
		{breakForm{}, []*schema{defs["break"]}},
		{controlForm{}, []*schema{defs["control"]}},
		{itemForm{}, defs["apply"].Items.AnyOf[:2]},
		{Model{}, []*schema{defs["model"], defs["knative"]}},
		{waitForm{}, wait},
		{Split{}, []*schema{defs["split"]}},
		{Mirror{}, []*schema{defs["mirror"]}},
		{Watch{}, []*schema{step["watch"]}},
		{Env{}, []*schema{defs["break"].Properties["env"]}},
		{ExpectSplit{}, []*schema{step["expect-split"]}},
		{ExpectAll{}, []*schema{step["expect-all"]}},
		{ExpectMirror{}, []*schema{step["expect-mirror"]}},
		{ExpectZeroPods{}, []*schema{step["expect-zero-pods"]}},
		{ExpectNoLoss{}, []*schema{step["expect-no-loss"]}},
	} {
		want := map[string]bool{}
		for _, each := range tc.forms {
			for name := range each.Properties {
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
