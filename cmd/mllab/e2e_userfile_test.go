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
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.run("scenario", "run", file, "--keep").ok(t, nil)
	write := func(name, old, to string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c.run("scenario", "run", write("other.yaml", "", "")).exits(t, 3, "subset-good.yaml with --keep keeps namespace mllab-subset-good")
	if r := c.run("scenario", "run", file, "--keep"); r.code != 0 || !strings.Contains(r.err, "in place of the one that was left") || !strings.Contains(r.err, "kept mllab-subset-good") {
		t.Error(r)
	}
	if r := c.run("scenario", "reset", "subset-good"); r.code != 0 || !strings.Contains(r.out, "removed namespace mllab-subset-good") {
		t.Error(r)
	}
	if r := c.run("scenario", "reset", file); r.code != 0 || !strings.Contains(r.out, "nothing to reset") {
		t.Error(r)
	}
	c.run("scenario", "reset", "nobody").exits(t, 2, "no scenario is called")
	c.run("scenario", "run", filepath.Join("testdata", "scenarios", "insider.yaml")).ok(t, nil)

	c.run("scenario", "run", write("sample.yaml", "name: subset-good", "name: sample")).exits(t, 2, "namespace mllab-sample is an addon's")

	// A command that the image lacks ends the run after some tries, in the runtime's words.
	lacking := `      - {apiVersion: apps/v1, kind: Deployment, metadata: {name: v2}, spec: {selector: {matchLabels: {app: model, version: v2}}, template: {metadata: {labels: {app: model, version: v2}}, spec: {containers: [{name: web, image: "${image}", command: [/serve], ports: [{name: http, containerPort: 8080}]}]}}}}` + "\n"
	c.run("scenario", "run", write("lacking.yaml", "      - model: {name: model, version: v2, route: false}\n", lacking)).exits(t, 3, `exec: "/serve"`)

	// The cluster itself judges the pods, in the mesh as well.
	meshed := write("meshed.yaml", "name: subset-good\n", "name: meshed\nmesh: true\n")
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
