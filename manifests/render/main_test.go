package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
apiVersion: v1
half: 0.5
kind: B
max: 9223372036854775807
text: |
  # not a comment
zero: "yes"
---
apiVersion: v1
kind: A
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
	if want := "# rendered from example.com/m@v1.2.3\n---\nkind: A\n"; err != nil || string(text) != want {
		t.Errorf("got %q and %v, want %q", text, err, want)
	}
	s.globs = append(s.globs, "b/*.yaml")
	if _, err = (output{"x.yaml", []source{s}}).text(mods); err == nil || !strings.Contains(err.Error(), "b/*.yaml") {
		t.Errorf("error is %v, want it to name what is missing", err)
	}
}

func TestTheStampChangesWithAVersion(t *testing.T) {
	mods := map[string]module{}
	for _, s := range allSources() {
		mods[s.key()] = module{version: "v1.0.0"}
	}
	before := stampText(mods)
	if before != stampText(mods) {
		t.Error("two stamps of the same modules differ")
	}
	for _, s := range allSources() {
		mods[s.key()] = module{version: "v1.0.1"}
		if stampText(mods) == before {
			t.Errorf("the stamp does not see %s", s.module)
		}
		mods[s.key()] = module{version: "v1.0.0"}
	}
}
