//go:build e2e

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mllab.local/bootstrap"
)

// jane is a person with a clone of the lab's Git.
type jane struct{ dir string }

func (j jane) git(t *testing.T, args ...string) string {
	t.Helper()
	return gitUser{t, j.dir}.git(args...)
}

// edit replaces a text in a file of the clone, which must be there.
func (j jane) edit(t *testing.T, file, old, with string) {
	t.Helper()
	path := filepath.Join(j.dir, file)
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q: %v\n%s", file, old, err, text)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, with, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// push commits what was changed, pushes it and waits until it is so.
func (j jane) push(t *testing.T, c cli, message string, limit time.Duration, so func() bool) {
	t.Helper()
	if message != "" {
		j.git(t, "commit", "-q", "-a", "-m", message)
	}
	began := time.Now()
	j.git(t, "push", "-q")
	c.became(t, limit, j.git(t, "log", "-1", "--format=%s"), so)
	t.Logf("%s: active after %.1f s", j.git(t, "log", "-1", "--format=%s"), time.Since(began).Seconds())
}

// became returns when it is so.
func (c cli) became(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Second) // each look costs a fifth of a CPU-second
	defer tick.Stop()
	for over := time.After(limit); !so(); {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("%s: not so after %s\n%s", what, limit, c.kubectl(t, "get", "kustomizations,gitrepositories", "-n", "flux-system"))
		}
	}
}

// testUpGitOps puts the lab's addons under GitOps and changes them by commits. They are as mllab renders them then, and
// stay under GitOps.
func testUpGitOps(t *testing.T, c cli) {
	up := func(t *testing.T, args ...string) (bootstrap.Summary, result) {
		t.Helper()
		var sum bootstrap.Summary
		r := c.run(append([]string{"up", "--core", "--image-source", "source", "-o", "json"}, args...)...)
		r.ok(t, &sum)
		return sum, r
	}
	pods := func() string {
		return c.kubectl(t, "get", "pods", "-A", "-l", "!serving.knative.dev/service", "-o",
			`jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
	}
	// What Flux applied, and which version of it the API server has.
	versions := func() string {
		return c.kubectl(t, "get", "-A", "-l", "kustomize.toolkit.fluxcd.io/namespace=flux-system", "-o",
			`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`,
			"crds,namespaces,clusterroles,clusterrolebindings,configmaps,secrets,services,serviceaccounts,deployments,"+
				"mutatingwebhookconfigurations,validatingwebhookconfigurations,gateways.gateway.networking.k8s.io,gateways.networking.istio.io")
	}

	c.run("up", "--core", "--image-source", "source", "--with", "git").ok(t, nil)
	was := pods()
	if _, r := up(t, "--gitops"); !strings.Contains(r.err, "committed") || !strings.Contains(r.err, "mllab: lab, gateway-api 1.") {
		t.Errorf("it says of no commit: %s", r)
	}
	if now := pods(); now != was {
		t.Errorf("the handover replaced pods: they were\n%s\nand are\n%s", was, now)
	}
	for line := range strings.Lines(c.kubectl(t, "get", "kustomizations", "-n", "flux-system", "--no-headers")) {
		if !strings.Contains(line, "True") {
			t.Errorf("not ready: %s", line)
		}
	}
	var lab bootstrap.StatusReport
	c.became(t, 3*time.Minute, "status says ready", func() bool { c.run("status", "-o", "json").decode(t, &lab); return lab.Ready })
	if !strings.HasPrefix(lab.GitOps, "main@sha1:") || len(lab.Addons) != 7 {
		t.Errorf("status: %+v", lab)
	}

	remote := c.gitRemote(t)
	token, _ := remote.User.Password()
	j := jane{t.TempDir()}
	j.git(t, "clone", "-q", remote.String(), ".")
	head := j.git(t, "rev-parse", "HEAD")

	c.part(t, "Git has no secrets", func(t *testing.T) {
		err := filepath.WalkDir(j.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
				return err
			}
			text, err := os.ReadFile(path)
			secret := strings.Contains(string(text), "\nkind: Secret\n") && (strings.Contains(string(text), "\ndata:") || strings.Contains(string(text), "\nstringData:"))
			if secret || strings.Contains(string(text), token) {
				t.Errorf("%s:\n%s", path, text)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})

	c.part(t, "a second up commits nothing", func(t *testing.T) {
		sum, _ := up(t, "--gitops")
		for _, a := range sum.Addons {
			for _, ch := range a.Changes {
				if ch.Action != "unchanged" {
					t.Errorf("%s: %s %s", a.Name, ch.Object, ch.Action)
				}
			}
		}
		if j.git(t, "pull", "-q"); j.git(t, "rev-parse", "HEAD") != head {
			t.Errorf("it committed:\n%s", j.git(t, "log", "--stat", head+".."))
		}
	})

	c.part(t, "no two managers overwrite each other's fields", func(t *testing.T) {
		before := versions()
		if strings.Count(before, "\n") < 90 {
			t.Fatalf("that is not all:\n%s", before)
		}
		for range 2 {
			asked := fmt.Sprint(time.Now().UnixNano())
			c.kubectl(t, "annotate", "--overwrite", "--field-manager=flux", "kustomizations", "-n", "flux-system", "--all", "reconcile.fluxcd.io/requestedAt="+asked)
			c.became(t, 5*time.Minute, "a reconcile of all", func() bool {
				handled := c.kubectl(t, "get", "kustomizations", "-n", "flux-system", "-o", `jsonpath={range .items[*]}[{.status.lastHandledReconcileAt}]{end}`)
				return strings.Count(handled, "["+asked+"]") == strings.Count(handled, "[")
			})
		}
		if after := versions(); after != before {
			t.Errorf("they were\n%s\nand are\n%s", before, after)
		}
	})

	const config, service = "addons/knative/configmap_knative-serving_config-gc.yaml", "addons/sample/service.serving.knative.dev_mllab-sample_sample.yaml"
	live := func() string {
		return c.kubectl(t, "get", "configmap", "config-gc", "-n", "knative-serving", "-o", "jsonpath={.data.min-non-active-revisions}") + "/" +
			c.kubectl(t, "get", "services.serving.knative.dev", "sample", "-n", "mllab-sample", "-o", `jsonpath={.metadata.labels.app\.kubernetes\.io/version}`)
	}
	const autoscaler = "addons/knative/deployment.apps_knative-serving_autoscaler.yaml"
	image := func() string {
		return c.kubectl(t, "get", "pods", "-n", "knative-serving", "-l", "app=autoscaler", "-o", "jsonpath={.items[*].spec.containers[*].image}")
	}
	made, old := live(), image()
	// Another release, as far as Kubernetes and Flux can tell.
	next := old[:strings.LastIndex(old, ":")] + ":next"
	engine(t, "exec", c.node(), "ctr", "--namespace=k8s.io", "images", "tag", old, next)
	c.part(t, "a commit changes and upgrades addons, also what mllab itself had applied", func(t *testing.T) {
		j.edit(t, autoscaler, old, next)
		j.edit(t, config, "data: {}", "data: {min-non-active-revisions: \"5\"}")
		j.edit(t, service, "    app.kubernetes.io/version: 0.1.0\n", "")
		j.push(t, c, "five old revisions, no version, the next autoscaler", 3*time.Minute, func() bool { return live() == "5/" && image() == next })
		head = j.git(t, "rev-parse", "HEAD")
		_, r := up(t)
		if !strings.Contains(r.err, "knative stays as commit "+head[:7]) || !strings.Contains(r.err, "sample stays as commit "+head[:7]) {
			t.Errorf("up does not say so: %s", r)
		}
		if j.git(t, "pull", "-q"); j.git(t, "rev-parse", "HEAD") != head || live() != "5/" || image() != next {
			t.Errorf("up changed it: %s %s\n%s", live(), image(), j.git(t, "log", "--stat", head+".."))
		}
	})

	c.part(t, "its revert brings back what was", func(t *testing.T) {
		j.git(t, "revert", "--no-edit", "HEAD")
		j.push(t, c, "", 3*time.Minute, func() bool { return live() == made && image() == old })
	})

	c.part(t, "up restores the controller that applies commits", func(t *testing.T) {
		c.kubectl(t, "delete", "deployment", "kustomize-controller", "-n", "flux-system")
		_, r := up(t)
		if !strings.Contains(r.err, "mllab applies them itself: flux: Deployment/flux-system/kustomize-controller") {
			t.Errorf("up does not say so: %s", r)
		}
		j.edit(t, config, "data: {}", "data: {min-non-active-revisions: \"6\"}")
		j.push(t, c, "six old revisions", 3*time.Minute, func() bool { return strings.HasPrefix(live(), "6/") })
		j.git(t, "revert", "--no-edit", "HEAD")
		j.push(t, c, "", 3*time.Minute, func() bool { return live() == made })
	})

	c.part(t, "a commit removes an addon, and up does not restore it", func(t *testing.T) {
		j.git(t, "rm", "-q", "-r", "lab/sample.yaml", "addons/sample")
		j.push(t, c, "no sample", 6*time.Minute, func() bool {
			return c.kubectl(t, "get", "namespace", "mllab-sample", "--ignore-not-found", "-o", "name") == ""
		})
		_, r := up(t)
		if !strings.Contains(r.err, "sample is not in the lab's Git since commit ") {
			t.Errorf("up does not say so: %s", r)
		}
		var lab bootstrap.StatusReport
		c.became(t, 3*time.Minute, "status says ready", func() bool { c.run("status", "-o", "json").decode(t, &lab); return lab.Ready })
		if len(lab.Addons) != 6 || c.kubectl(t, "get", "namespace", "mllab-sample", "--ignore-not-found", "-o", "name") != "" {
			t.Errorf("the sample is back: %+v", lab)
		}
	})

	c.part(t, "its revert brings the addon back", func(t *testing.T) {
		j.git(t, "revert", "--no-edit", "HEAD")
		j.push(t, c, "", 3*time.Minute, func() bool {
			return c.kubectl(t, "get", "services.serving.knative.dev", "-n", "mllab-sample", "--ignore-not-found", "-o", "name") != ""
		})
		if sum, _ := up(t); len(sum.Addons) != 7 {
			t.Errorf("up has %+v", sum.Addons)
		}
	})
}
