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

	// The cluster itself judges the pods, in the mesh as well.
	meshed := filepath.Join(t.TempDir(), "meshed.yaml")
	if err := os.WriteFile(meshed, []byte(strings.Replace(strings.Replace(string(text), "name: subset-good", "name: meshed", 1), "steps:", "mesh: true\nsteps:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("scenario", "run", meshed, "--keep").ok(t, nil)
	for pod, refused := range map[string]bool{
		`{containers: [{name: a, image: a}]}`:                                                                                             false,
		`{hostPID: true, containers: [{name: a, image: a}]}`:                                                                              true,
		`{serviceAccountName: other, containers: [{name: a, image: a}]}`:                                                                  true,
		`{securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "1"}]}, containers: [{name: a, image: a}]}`:                   true,
		`{volumes: [{name: a, hostPath: {path: /}}], containers: [{name: a, image: a}]}`:                                                  true,
		`{volumes: [{name: a, secret: {secretName: a}}], containers: [{name: a, image: a}]}`:                                              true,
		`{containers: [{name: a, image: a, securityContext: {privileged: true}}]}`:                                                        true,
		`{initContainers: [{name: a, image: a, securityContext: {capabilities: {add: [NET_ADMIN]}}}], containers: [{name: b, image: a}]}`: true,
		`{containers: [{name: a, image: a, ports: [{containerPort: 80, hostPort: 80}]}]}`:                                                 true,
		`{containers: [{name: a, image: a, envFrom: [{secretRef: {name: a}}]}]}`:                                                          true,
	} {
		deployment := "{apiVersion: apps/v1, kind: Deployment, metadata: {name: try, namespace: mllab-meshed}, spec: {selector: {matchLabels: {app: try}}, template: {metadata: {labels: {app: try}}, spec: " + pod + "}}}"
		out, err := tryEngine("exec", c.node(), "sh", "-c", "kubectl --kubeconfig=/etc/kubernetes/admin.conf create --dry-run=server -f - <<'END'\n"+deployment+"\nEND")
		if (err != nil) != refused || refused && !strings.Contains(out, "confined.mllab.local") {
			t.Errorf("%s: refused %v, want %v: %s", pod, err != nil, refused, out)
		}
	}
	c.run("scenario", "reset", "meshed").ok(t, nil)
}
