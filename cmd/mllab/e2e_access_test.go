//go:build e2e

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testAccess reaches the lab as a person does, from a shell whose environment sends everything through a proxy.
func testAccess(t *testing.T, c cli) {
	proxy := record(t)
	mine := filepath.Join(t.TempDir(), "config")
	behind := c
	behind.env = append(slices.Clone(c.env), append(proxied(proxy.URL), "KUBECONFIG="+mine)...)

	behind.run("status").ok(t, nil)
	if r := behind.run("curl", "sample", "--fail", "--silent"); r.code != 0 || strings.TrimSpace(r.out) != "world" {
		t.Errorf("curl: code %d, %s%s", r.code, r.out, r.err)
	}
	if r := behind.run("curl", "nobody.mllab-sample", "--fail", "--silent"); r.code != 22 {
		t.Errorf("a host that is not there: code %d, %s%s", r.code, r.out, r.err)
	}
	r := behind.run("kubeconfig", "--merge")
	r.ok(t, nil)
	if text, err := os.ReadFile(mine); err != nil || !strings.Contains(string(text), "current-context: mllab-"+c.name) {
		t.Errorf("%v\n%s", err, text)
	}
	if asked := proxy.all(); asked != "" {
		t.Errorf("the proxy was asked:\n%s", asked)
	}
}
