//go:build e2e

package main

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"mllab.local/internal/prom"
)

// TestLabProgressive has the core lab with Flagger, Prometheus and Alertmanager.
func TestLabProgressive(t *testing.T) {
	c := newCLI(t, "mllab-e2e-progressive")
	c.up(t, "--core", "--with", "progressive")

	c.part(t, "progressive", func(t *testing.T) { testProgressive(t, c) })
	c.part(t, "Prometheus, Flagger and istiod are killed while versions are delivered: none is promoted for that", c.killedWhileDelivering)
	testAlerts(t, c)
	c.part(t, "a job with the repository's action passes on the lab, keeps its reports and removes the lab", func(t *testing.T) {
		if c.lent {
			t.Skip("it removes the lab: leave LAB out")
		}
		job := exec.Command("../../scripts/tools/act/run")
		job.Env = c.env
		if out, err := job.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if left := c.left(t); left != "" {
			t.Errorf("it left %s", left)
		}
	})
}

// testProgressive has Flagger judge versions, and `top` say what they did.
func testProgressive(t *testing.T, c cli) {
	c.scenario(t, 0, "progressive", "--short")
	var versions []prom.Version
	c.run("top", "-o", "json").ok(t, &versions)
	if !slices.ContainsFunc(versions, func(v prom.Version) bool {
		return v.Namespace == "mllab-progressive" && v.Model == "slow" && v.Version == "v1" && v.Requests > 100 && v.P95.At > 0
	}) {
		t.Errorf("top says of the last minute %+v", versions)
	}
	c.catches(t, "progressive", "--short", "--parallel", "4") // most of it is waiting for Flagger
}

// killedWhileDelivering kills Prometheus, Flagger and istiod when the versions have
// their first weight: no version that is not good is promoted for that, and the run
// does not pass unless it has seen all of it.
func (c cli) killedWhileDelivering(t *testing.T) {
	p := c.start("scenario", "progressive", "--short", "--keep", "-o", "json")
	p.says(t, "v2 at 20 %: done")
	killed := map[string]string{"monitoring": "prometheus", "flagger-system": "flagger", "istio-system": "istiod"}
	for ns, app := range killed {
		c.kubectl(t, "-n", ns, "delete", "pod", "-l", "app="+app, "--grace-period=0", "--force", "--wait=false")
	}
	run := honest(t, p.wait(), 0, 1, 3)
	t.Logf("the run ended: %v", run.Err())
	phase := func(model string) string {
		return c.kubectl(t, "-n", "mllab-progressive", "get", "canary", model, "-o", "jsonpath={.status.phase}")
	}
	for _, model := range []string{"erring", "slow", "quiet", "good"} {
		c.became(t, 3*time.Minute, "Flagger's last word on "+model, func() bool { return slices.Contains([]string{"Failed", "Succeeded"}, phase(model)) })
		if got := phase(model); got == "Succeeded" && model != "good" {
			t.Errorf("the version of %s was promoted", model)
		}
	}
	c.run("scenario", "reset", "progressive").exits(t, 0)
	for ns, app := range killed {
		c.kubectl(t, "-n", ns, "rollout", "status", "deployment/"+app, "--timeout=300s")
	}
}
