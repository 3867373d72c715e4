//go:build e2e

package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mllab.local/bootstrap"
	"mllab.local/internal/git"
	"mllab.local/internal/oci"
	"mllab.local/internal/probe"
	"mllab.local/scenarios"
)

// kubeflowMemory is what a node with the minimal Kubeflow may hold, in bytes.
const kubeflowMemory = 6 << 30

// kubeflowScenarios need the minimal Kubeflow; mlops has parts of its own.
var kubeflowScenarios = []string{"train", "pipeline", "kserve", "drift"}

// kubeflowSeconds is what each of its scenarios is meant to take. A machine that
// does other things beside may take twice as long.
var kubeflowSeconds = map[string]float64{"train": 120, "pipeline": 120, "kserve": 120, "drift": 120, "mlops": 300}

func inBudget(t *testing.T, r scenarios.Result) {
	t.Helper()
	t.Logf("%s took %.0f s of %.0f", r.Scenario, r.Seconds, kubeflowSeconds[r.Scenario])
	if r.Seconds > 2*kubeflowSeconds[r.Scenario] {
		t.Errorf("%s took %.0f s, more than twice what it is meant to", r.Scenario, r.Seconds)
	}
}

// TestLabDelivery has the lab with everything: delivery by Git, and the minimal
// Kubeflow.
func TestLabDelivery(t *testing.T) {
	c := newCLI(t, "mllab-e2e-delivery")
	c.up(t, "--with", "all")

	c.part(t, "up --with all again replaces no pod", func(t *testing.T) {
		trained := func() int { // Jobs that ran a pod for the verification of Trainer; a Job may be gone, and its events are not
			jobs := map[string]bool{}
			for _, job := range strings.Fields(c.kubectl(t, "get", "events", "--field-selector", "reason=SuccessfulCreate,involvedObject.kind=Job", "-o", "jsonpath={.items[*].involvedObject.name}")) {
				if strings.HasPrefix(job, "mllab-verify-") && strings.Contains(job, "python") {
					jobs[job] = true
				}
			}
			return len(jobs)
		}
		pods, before := c.kubectl(t, "get", "pods", "-A", "-o", "name"), trained()
		c.run("up", "--image-source", "source", "--with", "all").ok(t, nil)
		after := c.kubectl(t, "get", "pods", "-A", "-o", "name")
		c.became(t, time.Minute, "the second up trains, too", func() bool { return trained() > before }) // an event may come late
		for _, pod := range strings.Fields(pods) {
			// The sample may go to zero, and what was verified with is on its way out.
			if !strings.Contains(after, pod) && !strings.Contains(pod, "sample-") && !strings.Contains(pod, "mllab-verify") {
				t.Errorf("%s is not there any more", pod)
			}
		}
	})

	c.part(t, "a person's own clone, and the audit", func(t *testing.T) { testGitVerbs(t, c) })

	c.part(t, "model-canary, and what Git says of it", func(t *testing.T) { testModelCanary(t, c) })

	testGitOps(t, c)
	testDelivery(t, c, "gitops-helm", "", func(*testing.T, *process) {})

	for _, name := range kubeflowScenarios {
		c.part(t, name, func(t *testing.T) {
			inBudget(t, c.scenario(t, 0, name))
			c.catches(t, name, "--short", "--parallel", "4")
		})
	}

	c.part(t, "the registry does not replace a run's tag", func(t *testing.T) { testRunsTags(t, c) })

	c.part(t, "a notebook is compiled to a pipeline that runs", func(t *testing.T) {
		c.run("pipeline", "compile", "no-such.ipynb").exits(t, 2, "no-such.ipynb", "name a notebook")
		c.run("pipeline", "compile", "e2e_test.go").exits(t, 2, "e2e_test.go: it is no notebook")
		r := c.run("pipeline", "compile", "../../manifests/scenarios/examples/breast-cancer.ipynb")
		r.exits(t, 0)
		file := filepath.Join(t.TempDir(), "pipeline.yaml")
		if err := os.WriteFile(file, []byte(r.out), 0o600); err != nil {
			t.Fatal(err)
		}
		engine(t, "cp", file, c.node()+":/pipeline.yaml")
		c.kubectl(t, "create", "-f", "/pipeline.yaml")
		c.kubectl(t, "wait", "--timeout=300s", "--for=jsonpath={.status.phase}=Succeeded", "workflow", "--all")
	})

	c.part(t, "clients run the example of their own first page", func(t *testing.T) { testClients(t, c) })

	c.part(t, "notebooks as people write them", func(t *testing.T) { testNotebooks(t, c) })

	c.part(t, "mlops passes, it fits, and the proof of each of its commits is in Git", func(t *testing.T) {
		p := c.start("scenario", "mlops", "--keep", "-o", "json")
		peak := c.peak(t, p)
		result := honest(t, p.wait(), 0)
		inBudget(t, result)
		if t.Logf("the node held up to %d MiB", peak>>20); peak == 0 || peak > kubeflowMemory {
			t.Errorf("the node held %d MiB, more than %d", peak>>20, kubeflowMemory>>20)
		}
		all := proofs(t, c.clone(t), "mlops")
		for _, step := range result.Steps[:len(result.Steps)-1] {
			// The proof of a canary that is wrong says so.
			if proof, judged := all[step.Name]; !judged || proof.Pass == strings.Contains(step.Name, "wrong online") {
				t.Errorf("step %q has a proof: %t, passed: %t", step.Name, judged, proof.Pass)
			}
		}
	})
	c.part(t, "a pushed notebook fails with its own error, and a killed runner continues", func(t *testing.T) {
		c.pushesNotebooks(t)
	})
	c.run("scenario", "reset", "mlops").exits(t, 0)
	c.part(t, "every control of mlops is caught for its own reason", func(t *testing.T) {
		c.catches(t, "mlops", "--short", "--parallel", "4")
	})

	c.part(t, "the registry is killed repeatedly in a pipeline: it passes or reports why, and only complete models serve", func(t *testing.T) {
		c.killsTheRegistry(t, "pipeline")
	})
	c.part(t, "the node is stopped while a pipeline trains: up starts it again, and the pipeline continues", func(t *testing.T) {
		c.stopsTheNode(t, "pipeline", "good")
	})

	c.part(t, "it fits", func(t *testing.T) {
		var r bootstrap.StatusReport
		c.run("status", "-o", "json").ok(t, &r)
		if r.Memory > kubeflowMemory {
			t.Errorf("the node holds %d MiB, more than %d", r.Memory>>20, kubeflowMemory>>20)
		}
		// On cgroup v1: a kubelet tries to remove what it sees of the pods of others.
		c.became(t, 3*time.Minute, "only pods of its own", func() bool {
			return engine(t, "exec", c.node(), "sh", "-c", `cd /sys/fs/cgroup; for p in */kubelet/kubepods/*/pod*; do
				[ ! -d "$p" ] || ls -d memory/kubelet/kubepods/*/"${p##*/}" >/dev/null 2>&1 || echo "$p"; done`) == ""
		})
		if q := r.Requests; q.CPU == 0 || q.CPU > q.CPUCapacity || q.Memory > q.MemoryCapacity {
			t.Errorf("the pods ask for %+v", q)
		}
	})
}

// peak is the most memory that the node has held while p was running.
func (c cli) peak(t *testing.T, p *process) (most uint64) {
	t.Helper()
	for tick := time.NewTicker(15 * time.Second); p.running(); <-tick.C { // each look costs two CPU-seconds
		var r bootstrap.StatusReport
		// It may say that something is not ready, which is how a model comes up.
		if err := json.Unmarshal([]byte(c.run("status", "-o", "json").out), &r); err != nil {
			t.Fatal(err)
		}
		most = max(most, r.Memory)
	}
	return most
}

// killsTheRegistry kills the registry's pod, again and again, while a scenario
// runs.
func (c cli) killsTheRegistry(t *testing.T, name string) {
	p := c.start("scenario", name, "--short", "--keep", "-o", "json")
	kills := 0
	for tick := time.NewTicker(10 * time.Second); p.running(); <-tick.C {
		// Not before it is back: one that is never there lets nothing pass.
		if kills < 8 && c.kubectl(t, "-n", "registry", "get", "deployment", "registry", "-o", "jsonpath={.status.readyReplicas}") == "1" {
			c.kubectl(t, "-n", "registry", "delete", "pod", "-l", "app=registry", "--grace-period=0", "--force", "--wait=false")
			kills++
		}
	}
	run := honest(t, p.wait(), 0, 1, 3)
	t.Logf("%d kills: pass %v, %v", kills, run.Pass, run.Err())
	if kills < 3 {
		t.Errorf("only %d kills fell into the run", kills)
	}
	if err := run.Err(); err != nil && !strings.Contains(err.Error(), "registry") && !strings.Contains(err.Error(), "/v2/") {
		t.Errorf("it does not say that the registry is why: %v", err)
	}
	c.kubectl(t, "-n", "registry", "rollout", "status", "deployment/registry", "--timeout=300s")
	c.servesWholeModels(t, scenarios.Namespace(name))
	c.run("scenario", "reset", name).exits(t, 0)
}

// servesWholeModels checks that each model with traffic is in the registry, as
// its digests say, and that nothing else answers.
func (c cli) servesWholeModels(t *testing.T, namespace string) {
	t.Helper()
	get := func(args ...string) string {
		t.Helper()
		return c.kubectl(t, append([]string{"-n", namespace, "get", "--ignore-not-found"}, args...)...)
	}
	var lab bootstrap.StatusReport
	c.run("status", "-o", "json").decode(t, &lab)
	whole := map[string]bool{}
	for _, revision := range strings.Fields(get("services.serving.knative.dev", "model", "-o", "jsonpath={.status.traffic[*].revisionName}")) {
		image := get("revisions.serving.knative.dev", revision, "-o", "jsonpath={.spec.initContainers[0].image}")
		_, path, _ := strings.Cut(image, "/")
		files, err := oci.Pull(t.Context(), lab.URL, path)
		if err != nil || !strings.Contains(image, "@sha256:") {
			t.Errorf("revision %s has traffic, and image %s: %v", revision, image, err)
		}
		whole[fmt.Sprintf("sha256:%x", sha256.Sum256(files["model.json"]))] = true
	}
	if len(whole) == 0 {
		return // nothing has traffic
	}
	host := strings.TrimPrefix(get("services.serving.knative.dev", "model", "-o", "jsonpath={.status.url}"), "http://")
	sender := probe.NewHTTP(10 * time.Second)
	for range 50 {
		a := sender.Send(t.Context(), probe.Request{URL: lab.URL, Host: host})
		if !a.OK() || !whole[a.Model] {
			t.Errorf("%s answers as model %s, which is none of %v", a.Problem(), a.Model, whole)
		}
	}
}

// stopsTheNode stops the node while a job of a scenario trains.
func (c cli) stopsTheNode(t *testing.T, name, workflow string) {
	namespace, job := scenarios.Namespace(name), workflow+"-train"
	p := c.start("scenario", name, "--short", "--keep", "-o", "json")
	c.became(t, 3*time.Minute, "its training", func() bool {
		phase := c.kubectl(t, "-n", namespace, "get", "pods", "-l", "jobset.sigs.k8s.io/jobset-name="+job, "-o", "jsonpath={.items[*].status.phase}")
		return phase != "" && phase != "Pending" // it runs, or has just ended
	})
	c.stopsNodeOf(t, p)
	c.run("up", "--image-source", "source", "--with", "all").ok(t, nil)
	c.kubectl(t, "-n", namespace, "wait", "--timeout=300s", "--for=condition=Complete", "trainjob/"+job)
	c.kubectl(t, "-n", namespace, "wait", "--timeout=300s", "--for=jsonpath={.status.phase}=Succeeded", "workflow/"+workflow)
	c.servesWholeModels(t, namespace)
	c.run("scenario", "reset", name).exits(t, 0)
}

// pushesNotebooks pushes notebooks to a run of mlops that has stayed, as a
// person would.
func (c cli) pushesNotebooks(t *testing.T) {
	const folder, file = "scenarios/mllab-mlops/training", "breast-cancer.ipynb"
	job := func(args ...string) string {
		t.Helper()
		return c.kubectl(t, append([]string{"-n", "mllab-mlops"}, args...)...)
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
		c.became(t, 3*time.Minute, "another Job", func() bool {
			is := job("get", "job", "training", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}") // none, between the two
			return is != "" && is != was && job("get", "pods", "-l", "batch.kubernetes.io/controller-uid="+is, "-o", "name") != ""
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
		job("wait", "--timeout=300s", "--for=condition=Failed", "job/training")
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
	c.became(t, 3*time.Minute, "its Workflow", func() bool { return workflows() != was })
	job("delete", "pod", "-l", "batch.kubernetes.io/job-name=training", "--wait=false")
	job("wait", "--timeout=300s", "--for=condition=Complete", "job/training")
	if got := job("logs", "-l", "batch.kubernetes.io/job-name=training", "--tail=-1"); !strings.Contains(got, `"found","kind":"Workflow"`) || !strings.Contains(says(), `"commit"`) {
		t.Errorf("the second runner said %s\n%s", says(), got)
	}
	if n := commits(); n != before+1 {
		t.Errorf("the runner made %d commits of one notebook", n-before)
	}
}
