//go:build e2e

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/bootstrap"
	"mllab.local/scenarios"
)

// TestLabScenarios has the core lab: each of its scenarios in full length, each
// control, worlds that no control names, and then its addons by GitOps.
func TestLabScenarios(t *testing.T) {
	c := newCLI(t, "mllab-e2e-scenarios")
	c.up(t, "--core")

	c.part(t, "canary passes, its verdict carries n, counts, interval, alpha and power, its evidence each request's ID once, and reset removes what --keep left", func(t *testing.T) {
		r := c.run("scenario", "canary", "--shares", "80/20", "--requests", "400", "--keep")
		r.ok(t, nil)
		_, verdict, _ := strings.Cut(r.out, "PASS canary")
		_, split, _ := strings.Cut(verdict, "80/20: ")
		split, rest, _ := strings.Cut(split, "\n")
		for _, word := range []string{"n=400", "v1 ", "v2 ", "accepted 43..121", "alpha 1e-06", "power 0.99"} {
			if !strings.Contains(split, word) {
				t.Errorf("the verdict on the split lacks %q: %s", word, r.out)
			}
		}
		if !strings.Contains(rest, "watched requests lost") {
			t.Errorf("the verdict lacks the watcher: %s", r.out)
		}
		events, err := os.ReadFile(filepath.Join(c.state, c.name, "evidence", "canary", "events.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		var end struct{ Result scenarios.Result } // of the last event
		lines := bytes.Split(bytes.TrimSpace(events), []byte("\n"))
		if err := json.Unmarshal(lines[len(lines)-1], &end); err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for _, step := range end.Result.Steps {
			if step.Evidence.Verdict == nil {
				continue
			}
			data, err := os.ReadFile(step.Evidence.File)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range bytes.Lines(data) {
				var answer struct{ ID, Echo string }
				if err := json.Unmarshal(line, &answer); err != nil {
					t.Fatal(err)
				}
				if answer.ID == "" || answer.Echo != answer.ID || ids[answer.ID] {
					t.Errorf("%s: request ID %q came back as %q, seen before: %v", step.Name, answer.ID, answer.Echo, ids[answer.ID])
				}
				ids[answer.ID] = true
				n++
			}
			if n != step.Evidence.Verdict.N {
				t.Errorf("%s: %d answers kept of %d", step.Name, n, step.Evidence.Verdict.N)
			}
		}
		if len(ids) < 5*400 {
			t.Errorf("only %d requests are on record", len(ids))
		}

		if ns := c.kubectl(t, "get", "namespace", "mllab-canary", "--ignore-not-found", "-o", "name"); ns == "" {
			t.Error("--keep kept nothing")
		}
		if r := c.run("scenario", "reset", "canary"); r.code != 0 || !strings.Contains(r.out, "mllab-canary") {
			t.Error(r)
		}
		if r := c.run("scenario", "reset", "canary"); r.code != 0 || !strings.Contains(r.out, "nothing to reset") {
			t.Error(r)
		}
		if r := c.run("scenario", "reset", "canary", "-o", "json"); r.code != 0 || !strings.Contains(r.out, `"removed": []`) {
			t.Error(r)
		}
	})

	c.part(t, "every scenario passes", func(t *testing.T) { c.everyScenario(t, scenarios.Options{}, core) })

	c.part(t, "every control of every scenario is caught for its own reason", func(t *testing.T) {
		var runs []scenarios.Result
		c.run("scenario", "all", "--controls", "--short", "--parallel", "3", "--timeout", "40m", "-o", "json").decode(t, &runs)
		for _, s := range scenarios.All() {
			if !core(s) {
				continue
			}
			caught(t, s, runs)
		}
	})

	c.part(t, "a canary by steps with a guard, and one by Knative itself, with their controls", func(t *testing.T) {
		testGuardedCanary(t, c)
		c.run("scenario", "canary", "--rollout-duration", "20s").ok(t, nil)
		c.run("scenario", "canary", "--rollout-duration", "20s", "--controls", "--parallel", "3").ok(t, nil)
	})

	c.part(t, "the scenarios that users are shown pass, and their controls are caught", func(t *testing.T) {
		files, err := filepath.Glob("../../manifests/scenarios/examples/*.yaml")
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			c.run("scenario", "run", file).ok(t, nil)
			c.run("scenario", "run", file, "--controls", "--parallel", "3").ok(t, nil)
		}
	})

	c.part(t, "status reports a proxy that rejects its routes", func(t *testing.T) { testRefusingProxy(t, c) })
	c.part(t, "a gateway that answers 503 fails the claim, not the tool, and disturbs nobody else", func(t *testing.T) {
		busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
		defer busy.Close()
		other := c
		other.env = append(slices.Clone(c.env), "MLLAB_STATE_DIR="+c.stateWithGateway(t, busy.Listener.Addr().(*net.TCPAddr).Port))
		p := other.start("scenario", "canary", "--requests", "200", "-o", "junit")
		// That run waits a minute, and the lab's own gateway answers.
		c.part(t, "users' files: the field's cases", func(t *testing.T) { testUserFiles(t, c) })
		c.part(t, "istiod refuses a route that no proxy accepts", func(t *testing.T) { testRefusedRoutes(t, c) })
		c.part(t, "a user's own Gateway answers on the lab's one port", func(t *testing.T) { testNetwork(t, c) })
		c.part(t, "what live and shadow capture is what the IDs say", func(t *testing.T) { testCapture(t, c) })
		r := p.wait()
		r.exits(t, 1, "503")
		var suites struct {
			Failures int `xml:"failures,attr"`
		}
		if err := xml.Unmarshal([]byte(r.out), &suites); err != nil || suites.Failures == 0 {
			t.Errorf("JUnit counts %d failures, %v:\n%s", suites.Failures, err, r.out)
		}
	})

	// What no control names.
	for _, world := range []struct {
		name   string
		change func(t *testing.T)
		may    func(scenarios.Result) bool // pass
	}{
		{
			"traffic is moved by hand in the middle of a sample",
			func(t *testing.T) {
				c.kubectl(t, "-n", "mllab-canary", "patch", "services.serving.knative.dev", "model", "--type=json", "-p",
					`[{"op":"replace","path":"/spec/traffic/0/percent","value":88},{"op":"replace","path":"/spec/traffic/1/percent","value":12}]`)
			},
			func(scenarios.Result) bool { return false },
		},
		{
			// Envoy itself: a pod that is deleted, also by force, may end without a loss.
			"the gateway is killed in the middle of a sample",
			func(t *testing.T) {
				engine(t, "exec", c.node(), "sh", "-c", `none=1
					for p in /proc/[0-9]*; do read -r name <"$p/comm" && [ "$name" = envoy ] && kill -9 "${p#/proc/}" && none=0; done
					exit $none`)
			},
			func(scenarios.Result) bool { return false },
		},
		{
			"v2's pod is deleted in the middle of a sample",
			func(t *testing.T) {
				c.kubectl(t, "-n", "mllab-canary", "delete", "pod", "-l", "serving.knative.dev/revision=model-v2", "--wait=false")
			},
			// Knative may well replace it without a loss. If so, that must be what was counted.
			func(r scenarios.Result) bool {
				for _, step := range r.Steps {
					if step.Evidence.Tally != nil && len(step.Evidence.Tally.Failed) > 0 {
						return false
					}
				}
				return true
			},
		},
	} {
		c.part(t, "no untrue pass when "+world.name, func(t *testing.T) {
			p := c.start("scenario", "canary", "--requests", "5000", "-o", "json") // long enough for what happens in the middle
			p.says(t, "canary: 90/10: started")
			c.inForce(t, "90 10")
			world.change(t)
			r := p.wait()
			var runs []scenarios.Result
			if err := json.Unmarshal([]byte(r.out), &runs); err != nil || len(runs) != 1 {
				t.Fatalf("%v: %s", err, r)
			}
			if runs[0].Pass && !world.may(runs[0]) {
				t.Errorf("it passed: %s", r)
			}
			if runs[0].Pass != (r.code == 0) {
				t.Errorf("pass %v with %s", runs[0].Pass, r)
			}
			c.kubectl(t, "-n", "istio-system", "rollout", "status", "deployment/istio-ingressgateway", "--timeout=300s")
		})
	}

	c.part(t, "a stopped node: the scenario names up, and up starts the node again", func(t *testing.T) {
		engine(t, "stop", "-t", "5", c.node())
		c.run("scenario", "canary").exits(t, 3, "mllab up --core")
		c.run("status").exits(t, 3, "mllab up --core")
		var sum bootstrap.Summary
		c.run("up", "--core", "--image-source", "source", "-o", "json").ok(t, &sum)
		if sum.Created {
			t.Error("the node was replaced, not started")
		}
		c.run("scenario", "canary", "--requests", "200").ok(t, nil)
	})

	c.part(t, "a registry filled with the built images gives the same images", func(t *testing.T) { registrySource(t, c) })

	c.part(t, "flux and git are added to a lab that is up", func(t *testing.T) {
		var sum bootstrap.Summary
		c.run("up", "--core", "--image-source", "source", "--with", "flux,git", "-o", "json").ok(t, &sum)
		if sum.Created {
			t.Error("it made a new cluster")
		}
	})
	c.part(t, "a real browser follows runs on the page of mllab view, starts and stops them", func(t *testing.T) { testView(t, c) })
	c.part(t, "the addons come from the lab's own Git", func(t *testing.T) { testUpGitOps(t, c) })
}

// everyScenario runs all of them with these flags. Each must pass with all its
// steps, or be skipped because it needs an addon that the lab does not have.
func (c cli) everyScenario(t *testing.T, o scenarios.Options, has func(scenarios.Scenario) bool, flags ...string) {
	t.Helper()
	junit := filepath.Join(t.TempDir(), "report.xml")
	var runs []scenarios.Result
	c.run(append([]string{"scenario", "all", "--junit", junit, "-o", "json"}, flags...)...).decode(t, &runs) // what failed is said below, in less than all of it
	steps := 0
	for _, s := range scenarios.All() {
		i := slices.IndexFunc(runs, func(r scenarios.Result) bool { return r.Scenario == s.Name })
		plan := planOf(t, s, o)
		switch {
		case i < 0:
			t.Errorf("%s was not run", s.Name)
		case !has(s):
			if !strings.Contains(runs[i].Skipped, "mllab up --core --with ") {
				t.Errorf("%s was not skipped: %+v", s.Name, runs[i])
			}
			steps++
			continue
		case !runs[i].Pass || len(runs[i].Steps) != len(plan.Steps):
			t.Errorf("%s: %d of %d steps: %v", s.Name, len(runs[i].Steps), len(plan.Steps), runs[i].Err())
		default:
			t.Logf("%s passed in %.0f s", s.Name, runs[i].Seconds)
		}
		steps += len(plan.Steps)
	}
	data, err := os.ReadFile(junit)
	if err != nil {
		t.Fatal(err)
	}
	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
	}
	if err := xml.Unmarshal(data, &suites); err != nil || suites.Tests != steps || suites.Failures != 0 {
		t.Errorf("JUnit counts %d tests and %d failures, %v; want %d and none", suites.Tests, suites.Failures, err, steps)
	}
	if left := c.kubectl(t, "get", "namespace", "-l", "app.kubernetes.io/managed-by=mllab", "-o", "name"); strings.Contains(left, "mllab-canary") || strings.Contains(left, "mllab-shadow") {
		t.Errorf("it left %s", left)
	}
}

// planOf is what a run of a scenario with these options does.
func planOf(t *testing.T, s scenarios.Scenario, o scenarios.Options) *scenarios.Plan {
	t.Helper()
	p, err := s.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// core reports whether a scenario needs no more than the core lab has.
func core(s scenarios.Scenario) bool {
	return !slices.ContainsFunc(s.Needs, func(addon string) bool {
		return slices.Contains([]string{"flux", "kubeflow", "progressive", "alertmanager"}, addon)
	})
}

// inForce returns when the canary's traffic is so, in percents, and Knative calls it ready: then its sample begins.
func (c cli) inForce(t *testing.T, percents string) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(2 * time.Minute); ; {
		got := c.kubectl(t, "-n", "mllab-canary", "get", "services.serving.knative.dev", "model", "-o",
			`jsonpath={.status.traffic[*].percent} {.status.conditions[?(@.type=="Ready")].status} {.metadata.generation} {.status.observedGeneration}`)
		if f := strings.Fields(got); strings.HasPrefix(got, percents+" True ") && f[len(f)-1] == f[len(f)-2] {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("the traffic is %q, never %q", got, percents)
		}
	}
}

// stateWithGateway is a copy of the state folder in which the lab's gateway is
// on another port.
func (c cli) stateWithGateway(t *testing.T, port int) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(c.state)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, c.name, "state.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var st map[string]any
	if err := json.Unmarshal(data, &st); err != nil {
		t.Fatal(err)
	}
	st["port"] = port
	if data, err = json.Marshal(st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
