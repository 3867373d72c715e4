//go:build e2e

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testUserFiles: a user's scenario is right at once where each destination is a
// subset, its namespace can be kept and reset, and no name can reach an addon's.
func testUserFiles(t *testing.T, c cli) {
	file := filepath.Join("testdata", "scenarios", "subset-good.yaml")
	c.run("scenario", "run", file, "--keep").ok(t, nil)
	if r := c.run("scenario", "reset", "subset-good"); r.code != 0 || !strings.Contains(r.out, "removed namespace mllab-subset-good") {
		t.Error(r)
	}
	if r := c.run("scenario", "reset", file); r.code != 0 || !strings.Contains(r.out, "nothing to reset") {
		t.Error(r)
	}
	c.run("scenario", "reset", "nobody").exits(t, 2, "no scenario is called")
	c.run("scenario", "run", filepath.Join("testdata", "scenarios", "insider.yaml")).ok(t, nil)

	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), "sample.yaml")
	if err := os.WriteFile(named, []byte(strings.Replace(string(text), "name: subset-good", "name: sample", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("scenario", "run", named).exits(t, 2, "namespace mllab-sample is an addon's")
}
