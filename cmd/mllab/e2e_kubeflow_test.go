//go:build e2e

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mllab.local/bootstrap"
	"mllab.local/internal/git"
	"mllab.local/scenarios"
)

// kubeflowMemory is what a node with the minimal Kubeflow may hold, in bytes.
const kubeflowMemory = 6 << 30

// TestLabKubeflow is a lab of its own, with the minimal Kubeflow from the start.
func TestLabKubeflow(t *testing.T) {
	c := newCLI(t)
	clean := func() { c.run("down").ok(t, nil) }
	clean()
	t.Cleanup(clean)

	t.Run("up --with kubeflow, and again", func(t *testing.T) {
		c.run("up", "--images", "source", "--port", "auto", "--with", "kubeflow").ok(t, nil)
		pods := kubectl(t, "get", "pods", "-A", "-o", "name")
		c.run("up", "--images", "source", "--with", "kubeflow").ok(t, nil)
		after := kubectl(t, "get", "pods", "-A", "-o", "name")
		for _, pod := range strings.Fields(pods) {
			// The sample may go to zero, and what was verified with is on its way out.
			if !strings.Contains(after, pod) && !strings.Contains(pod, "sample-") && !strings.Contains(pod, "mllab-verify") {
				t.Errorf("%s is not there any more", pod)
			}
		}
	})

	for _, name := range []string{"train", "pipeline", "kserve"} {
		t.Run(name, func(t *testing.T) {
			c.scenario(t, 0, name)
			c.catches(t, name)
		})
	}

	t.Run("a notebook is compiled to a pipeline that runs", func(t *testing.T) {
		c.run("pipeline", "compile", "no-such.ipynb").exits(t, 2, "no-such.ipynb", "name a notebook")
		c.run("pipeline", "compile", "e2e_test.go").exits(t, 2, "e2e_test.go: it is no notebook")
		r := c.run("pipeline", "compile", "../../manifests/scenarios/examples/breast-cancer.ipynb")
		r.exits(t, 0)
		file := filepath.Join(t.TempDir(), "pipeline.yaml")
		if err := os.WriteFile(file, []byte(r.out), 0o600); err != nil {
			t.Fatal(err)
		}
		engine(t, "cp", file, e2eCluster+"-control-plane:/pipeline.yaml")
		kubectl(t, "apply", "-f", "/pipeline.yaml")
		kubectl(t, "wait", "--timeout=120s", "--for=jsonpath={.status.phase}=Succeeded", "workflow", "--all")
	})

	t.Run("git is added", func(t *testing.T) {
		c.run("up", "--images", "source", "--with", "kubeflow,git").ok(t, nil)
	})
	t.Run("mlops passes, and the proof of each of its commits is in Git", func(t *testing.T) {
		result := c.scenario(t, 0, "mlops", "--keep")
		notes, err := c.clone(t).Notes()
		if err != nil {
			t.Fatal(err)
		}
		passes := map[string]bool{}
		for commit, note := range notes {
			var proof scenarios.Proof
			if err := json.Unmarshal(note, &proof); err != nil {
				t.Errorf("the note of %s: %v", commit, err)
			}
			passes[proof.Step] = proof.Pass
		}
		for _, step := range result.Steps[:len(result.Steps)-1] {
			// The proof of a canary that is wrong says so.
			if pass, judged := passes[step.Name]; !judged || pass == strings.Contains(step.Name, "wrong online") {
				t.Errorf("step %q has a proof: %t, passed: %t", step.Name, judged, pass)
			}
		}
	})
	t.Run("a pushed notebook fails with its own words, and a killed runner is taken up again", func(t *testing.T) {
		c.pushesNotebooks(t)
	})
	c.run("scenario", "reset", "mlops").exits(t, 0)
	t.Run("every control of mlops is caught for its own reason", func(t *testing.T) {
		c.catches(t, "mlops", "--short")
	})

	t.Run("it fits", func(t *testing.T) {
		var r bootstrap.StatusReport
		c.run("status", "-o", "json").ok(t, &r)
		if r.Memory > kubeflowMemory {
			t.Errorf("the node holds %d MiB, more than %d", r.Memory>>20, kubeflowMemory>>20)
		}
		if q := r.Requests; q.CPU == 0 || q.CPU > q.CPUCapacity || q.Memory > q.MemoryCapacity {
			t.Errorf("the pods ask for %+v", q)
		}
	})
}

// pushesNotebooks pushes notebooks to a run of mlops that has stayed, as a
// person would.
func (c cli) pushesNotebooks(t *testing.T) {
	const folder, file = "scenarios/mllab-mlops/training", "breast-cancer.ipynb"
	job := func(args ...string) string {
		t.Helper()
		return kubectl(t, append([]string{"-n", "mllab-mlops"}, args...)...)
	}
	files, err := c.clone(t).Files(c.clone(t).Head(), folder)
	if err != nil {
		t.Fatal(err)
	}
	good := string(files[file])
	// push returns when Flux has made the Job of the notebook.
	push := func(text string) {
		t.Helper()
		was := job("get", "job", "training", "-o", "jsonpath={.metadata.uid}")
		if _, err := c.clone(t).Commit(t.Context(), git.Change{Folder: folder, Files: map[string][]byte{file: []byte(text)}, Message: "a notebook"}); err != nil {
			t.Fatal(err)
		}
		became(t, 3*time.Minute, "another Job", func() bool {
			return !strings.Contains(job("get", "job", "training", "--ignore-not-found", "-o", "jsonpath={.metadata.uid} "), was+" ") &&
				job("get", "pods", "-l", "batch.kubernetes.io/job-name=training", "-o", "name") != ""
		})
	}
	says := func() string {
		t.Helper()
		return job("get", "pods", "-l", "batch.kubernetes.io/job-name=training", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.terminated.message}")
	}
	commits := func() (all int) {
		t.Helper()
		log, err := c.clone(t).Log()
		if err != nil {
			t.Fatal(err)
		}
		for _, commit := range log {
			if strings.HasPrefix(commit.Author, "runner ") {
				all++
			}
		}
		return all
	}

	before := commits()
	for want, text := range map[string]string{
		"step train: main: Error (exit code 1): cell 3: ZeroDivisionError": strings.Replace(good, "seed = 1", "seed = 1 / 0", 1),
		"cell 2 has no tag": strings.ReplaceAll(good, `"tags"`, `"labels"`),
	} {
		push(text)
		job("wait", "--timeout=120s", "--for=condition=Failed", "job/training")
		if got := says(); !strings.Contains(got, want) {
			t.Errorf("the runner says %q, want %q", got, want)
		}
	}
	if n := commits(); n != before {
		t.Errorf("the runner made %d commits of notebooks that fail", n-before)
	}

	workflows := func() string { t.Helper(); return job("get", "workflows", "-o", "name") }
	was := workflows()
	push(strings.Replace(good, "seed = 1", "seed = 3", 1))
	became(t, 3*time.Minute, "its Workflow", func() bool { return workflows() != was })
	job("delete", "pod", "-l", "batch.kubernetes.io/job-name=training", "--wait=false")
	job("wait", "--timeout=180s", "--for=condition=Complete", "job/training")
	if got := job("logs", "-l", "batch.kubernetes.io/job-name=training", "--tail=-1"); !strings.Contains(got, `"taken up","kind":"Workflow"`) || !strings.Contains(says(), `"commit"`) {
		t.Errorf("the second runner said %s\n%s", says(), got)
	}
	if n := commits(); n != before+1 {
		t.Errorf("the runner made %d commits of one notebook", n-before)
	}
}
