package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"mllab.local/internal/kube"
)

func TestYAMLIsRewrittenWithoutCommentsInOneOrderAndWithItsNumbersIntact(t *testing.T) {
	var out bytes.Buffer
	err := normal(&out, []byte(`# A licence.
---
# only a comment
---
kind: B   # why
apiVersion: v1
max: 9223372036854775807
half: 0.5
text: |
  # not a comment
zero: "yes"
---
apiVersion: v1
kind: A
`))
	if err != nil {
		t.Fatal(err)
	}
	want := `---
{"apiVersion":"v1","half":0.5,"kind":"B","max":9223372036854775807,"text":"# not a comment\n","zero":"yes"}
---
{"apiVersion":"v1","kind":"A"}
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestAFileThatUpstreamNoLongerHasIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("kind: A\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := source{pin: ".", module: "example.com/m", globs: []string{"a.yaml"}}
	mods := map[string]module{s.key(): {"v1.2.3", dir}}
	text, err := output{"x.yaml", []source{s}}.text(mods)
	if want := "# rendered from example.com/m@v1.2.3\n---\n{\"kind\":\"A\"}\n"; err != nil || string(text) != want {
		t.Errorf("got %q and %v, want %q", text, err, want)
	}
	s.globs = append(s.globs, "b/*.yaml")
	if _, err = (output{"x.yaml", []source{s}}).text(mods); err == nil || !strings.Contains(err.Error(), "b/*.yaml") {
		t.Errorf("error is %v, want it to name what is missing", err)
	}
}

func TestTheStampChangesWithAVersionAndWithAnAddonsFile(t *testing.T) {
	mods := map[string]module{}
	for _, s := range allSources() {
		mods[s.key()] = module{version: "v1.0.0"}
	}
	text := func(files fstest.MapFS) string {
		t.Helper()
		stamp, err := stampText(mods, files)
		if err != nil {
			t.Fatal(err)
		}
		return stamp
	}
	files := fstest.MapFS{"a/b.yaml": {Data: []byte("1")}}
	before := text(files)
	if before != text(files) {
		t.Error("two stamps of the same modules differ")
	}
	for _, other := range []fstest.MapFS{{"a/b.yaml": {Data: []byte("2")}}, {"a/c.yaml": {Data: []byte("1")}}, {}} {
		if text(other) == before {
			t.Errorf("the stamp does not see %v", other)
		}
	}
	for _, s := range allSources() {
		mods[s.key()] = module{version: "v1.0.1"}
		if text(files) == before {
			t.Errorf("the stamp does not see %s", s.module)
		}
		mods[s.key()] = module{version: "v1.0.0"}
	}
}

func TestTheAddonsFoldersNameOnlyModulesThatAreKnown(t *testing.T) {
	mods := map[string]module{}
	for _, s := range allSources() {
		mods[s.key()] = module{version: "v1.0.0"}
	}
	if err := copyAddons(t.TempDir(), os.DirFS("../addons"), mods); err != nil {
		t.Error(err)
	}
}

func TestAnAddonsFolderIsBuiltWithVersionsAndSettings(t *testing.T) {
	const kustomization = "resources: [a.yaml]\n"
	const config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  json: |\n    {\"a\": {\"b\": 1, \"c\": 2}}\n  yaml: |\n    d: {e: true, f: 3}\n  version: ${example.com/m/v2}\n"
	mods := map[string]module{"pin example.com/m/v2": {version: "v2.3.4"}}
	for name, c := range map[string]struct {
		config, settings string
		want             string // data, or the error
	}{
		"merged":             {config, "c: {json: {a: {b: 7}}, yaml: {d: {e: false}}}", `map[json:{"a":{"b":7,"c":2}} version:v2.3.4 yaml:d:` + "\n  e: false\n  f: 3\n]"},
		"no settings":        {config, "", "map[json:{\"a\": {\"b\": 1, \"c\": 2}}\n version:v2.3.4 yaml:d: {e: true, f: 3}\n]"},
		"no such document":   {config, "c: {toml: {}}", "ConfigMap/c, toml: there is no such document"},
		"no such ConfigMap":  {config, "d: {json: {}}", "there is no ConfigMap d"},
		"a module not known": {strings.Replace(config, "/m/", "/n/", 1), "", `from a module "example.com/n/v2"`},
	} {
		t.Run(name, func(t *testing.T) {
			files := fstest.MapFS{"x/kustomization.yaml": {Data: []byte(kustomization)}, "x/a.yaml": {Data: []byte(c.config)}}
			if c.settings != "" {
				files["x/settings.yaml"] = &fstest.MapFile{Data: []byte(c.settings)}
			}
			dir := t.TempDir()
			err := copyAddons(dir, files, mods)
			var text []byte
			if err == nil {
				text, err = addon(dir, "x")
			}
			got := fmt.Sprint(err)
			if err == nil {
				objs, err := kube.Decode(text)
				if err != nil {
					t.Fatal(err)
				}
				got = fmt.Sprint(objs[0].Object["data"])
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
