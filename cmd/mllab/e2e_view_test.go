//go:build e2e

package main

import (
	"os/exec"
	"testing"
)

// testView has a real browser follow runs on the lab, and start and stop them.
func testView(t *testing.T, c cli) {
	if out, err := exec.CommandContext(t.Context(), "../../scripts/install", "chromium").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-C", "../../view/browser", "-count=1", "-timeout=30m", "-v", "./...")
	cmd.Env = append(c.env, "MLLAB_BIN="+c.bin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
