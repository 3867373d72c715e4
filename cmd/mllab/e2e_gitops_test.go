//go:build e2e

package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/git"
	"mllab.local/scenarios"
)

// testDelivery delivers by commits: a scenario that needs Flux and the lab's Git, and its controls. Meanwhile, what the title
// says is done to the run.
func testDelivery(t *testing.T, c cli, name, title string, meanwhile func(*testing.T, *process)) {
	c.part(t, name+" passes"+title+", and the proof of each of its commits is in Git", func(t *testing.T) {
		p := c.start("scenario", name, "--timeout", "25m", "-o", "json")
		meanwhile(t, p)
		result := honest(t, p.wait(), 0)
		judged := map[string]bool{}
		repo := c.clone(t)
		notes, err := repo.Notes()
		if err != nil {
			t.Fatal(err)
		}
		for commit, note := range notes {
			var proof scenarios.Proof
			if err := json.Unmarshal(note, &proof); err != nil {
				t.Errorf("the note of %s: %v", commit, err)
			}
			if proof.Scenario == name && proof.Control == "" {
				judged[proof.Step] = true
				if !proof.Pass || !strings.HasPrefix(proof.Applied, "main@sha1:") || proof.Evidence.Summary == "" {
					t.Errorf("the note of %s: %s", commit, note)
				}
			}
		}
		for _, step := range result.Steps {
			// What these judge is no commit.
			if !judged[step.Name] && step.Name != "no request lost" && step.Name != "a change by hand is undone" {
				t.Errorf("no commit has a proof by step %q", step.Name)
			}
		}
		if files, err := repo.Files(repo.Head(), "scenarios/"+scenarios.Namespace(name)); err != nil || len(files) > 0 {
			t.Errorf("the run left %d files in Git (%v)", len(files), err)
		}
	})
	c.part(t, "every control of "+name+" is caught for its own reason", func(t *testing.T) {
		c.catches(t, name, "--short", "--parallel", "4") // most of it is waiting for Flux
	})
}

// testGitOps delivers by commits, and kills what delivers in the middle of it.
func testGitOps(t *testing.T, c cli) {
	testDelivery(t, c, "gitops", " while a person pushes between its commits", c.pushesDuring)

	c.part(t, "the Git pod and two of Flux's are killed during a run: the lab converges and nothing is lost", func(t *testing.T) {
		p := c.start("scenario", "gitops", "--short", "-o", "json")
		for _, kill := range []struct{ step, namespace, app string }{
			{"a commit moves 10 % to v2", "git", "git"},
			{"git revert brings the old model back", "flux-system", "source-controller"},
			{"a change by hand is undone", "flux-system", "kustomize-controller"},
		} {
			// An earlier kill may have ended the run.
			if p.reaches("gitops: " + kill.step + ": started") {
				c.kubectl(t, "-n", kill.namespace, "delete", "pod", "-l", "app="+kill.app, "--grace-period=0", "--force", "--wait=false")
			}
		}
		killed := honest(t, p.wait(), 0, 1, 3)
		t.Logf("the run with the kills: pass %v, %v", killed.Pass, killed.Err())
		c.converges(t)
		c.gitIsWhole(t)
	})

	c.part(t, "the node is stopped during a run: up starts it again, and nothing is lost", func(t *testing.T) {
		p := c.start("scenario", "gitops", "--short", "-o", "json")
		p.says(t, "gitops: a commit moves 10 % to v2: started")
		c.stopsNodeOf(t, p)
		c.run("up", "--image-source", "source", "--with", "all").ok(t, nil)
		c.gitIsWhole(t)
		c.run("scenario", "reset", "gitops").ok(t, nil)
	})
}

// pushesDuring pushes to Git during a run, as a person would with a clone: every push is in the history in the end.
func (c cli) pushesDuring(t *testing.T, p *process) {
	ada := gitUser{t, t.TempDir()}
	ada.git("clone", "-q", c.gitRemote(t).String(), ".")
	defer func() {
		if p.running() {
			p.kill()
		}
	}()
	pushed, late := 0, 0
	for tick := time.NewTicker(5 * time.Second); p.running(); <-tick.C {
		// Flux looks after each push, and would put back what is changed by hand before it is in the traffic.
		if byHand := "gitops: a change by hand is undone: "; strings.Contains(p.stderr(), byHand+"started") && !strings.Contains(p.stderr(), byHand+"done") {
			continue
		}
		message := fmt.Sprint("Ada's commit ", pushed)
		ada.commit(message, "ada/notes.md", message+"\n")
		for out, err := ada.try("push", "-q"); err != nil; out, err = ada.try("push", "-q") {
			// By git's own look, or the server's when the run came in between.
			if !strings.Contains(out, "fetch first") && !strings.Contains(out, "fetch, merge and push again") {
				t.Fatalf("git push: %v\n%s", err, out)
			}
			ada.git("pull", "-q", "--rebase")
			late++
		}
		pushed++
	}
	if pushed < 5 {
		t.Errorf("only %d pushes fell into the run", pushed)
	}
	t.Logf("%d pushes, %d of them again because the run was first", pushed, late)
	if n := strings.Count(ada.git("log", "--format=%s", "--", "ada"), "Ada's commit"); n != pushed {
		t.Errorf("%d of %d commits are in the history", n, pushed)
	}
	c.gitIsWhole(t)
	ada.git("pull", "-q", "--rebase")
	ada.git("rm", "-q", "-r", "ada")
	ada.git("commit", "-q", "-m", "Ada is done")
	ada.git("push", "-q")
}

// scenario runs one and returns its result, which must have that exit code.
func (c cli) scenario(t *testing.T, code int, args ...string) scenarios.Result {
	t.Helper()
	return honest(t, c.run(append([]string{"scenario"}, append(args, "--timeout", "25m", "-o", "json")...)...), code)
}

// catches runs the controls of a scenario, each of which must be caught for its
// own reason.
func (c cli) catches(t *testing.T, name string, args ...string) {
	t.Helper()
	var runs []scenarios.Result
	c.run(append([]string{"scenario", name, "--controls", "--timeout", "30m", "-o", "json"}, args...)...).decode(t, &runs)
	s, err := scenarios.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	caught(t, s, runs)
}

// caught checks that these runs hold one of each control of the scenario, caught
// for its own reason.
func caught(t *testing.T, s scenarios.Scenario, runs []scenarios.Result) {
	t.Helper()
	for _, control := range planOf(t, s, scenarios.Options{}).Controls {
		i := slices.IndexFunc(runs, func(r scenarios.Result) bool { return r.Scenario == s.Name && r.Control == control.Name })
		switch {
		case i < 0:
			t.Errorf("%s, control %s was not run", s.Name, control.Name)
		case !runs[i].Pass || runs[i].Refuted != control.Catches:
			t.Errorf("%s, control %s was not caught by claim %q, but by %q: %q, error %q", s.Name, control.Name, control.Catches, runs[i].Refuted, runs[i].Reasons, runs[i].Error)
		}
	}
}

// honest is the one result of a call that may end with these codes; a pass is 0
// and nothing else is.
func honest(t *testing.T, r result, codes ...int) scenarios.Result {
	t.Helper()
	var runs []scenarios.Result
	if err := json.Unmarshal([]byte(r.out), &runs); err != nil || len(runs) != 1 || !slices.Contains(codes, r.code) {
		t.Fatalf("%v, want exit %v: %s", err, codes, r)
	}
	if runs[0].Pass != (r.code == 0) {
		t.Fatalf("pass %v with %s", runs[0].Pass, r)
	}
	return runs[0]
}

// stopsNodeOf stops the node of a run, which must then end soon and not pass.
func (c cli) stopsNodeOf(t *testing.T, p *process) {
	t.Helper()
	engine(t, "stop", "-t", "5", c.node())
	began := time.Now()
	run := honest(t, p.wait(), 1, 3)
	took := time.Since(began).Round(time.Second)
	t.Logf("the run without a node, %s after it: %v", took, run.Err())
	if took > 2*time.Minute {
		t.Errorf("it ended only %s after its node", took)
	}
	c.run("status").exits(t, 3, "mllab up")
}

// reaches says that stderr held text before the call ended.
func (p *process) reaches(text string) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.stderr(), text) {
		select {
		case <-p.done:
			return strings.Contains(p.stderr(), text)
		case <-tick.C:
		}
	}
	return true
}

// running says that the call has not ended.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// converges returns when the lab says that it is ready.
func (c cli) converges(t *testing.T) {
	t.Helper()
	c.became(t, 3*time.Minute, "the lab gets ready", func() bool { return c.run("status").code == 0 })
}

// gitRemote is the address of the lab's Git, with its token.
func (c cli) gitRemote(t *testing.T) *url.URL {
	t.Helper()
	r := c.run("git", "url")
	r.ok(t, nil)
	at, err := url.Parse(strings.TrimSpace(r.out))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// clone clones the lab's Git.
func (c cli) clone(t *testing.T) *git.Repo {
	t.Helper()
	repo, err := git.Clone(t.Context(), c.gitRemote(t), "test")
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// gitIsWhole checks that every push that the server has accepted is in the
// history. Its record has a line for each, written just before the ref moves:
// when the server died in between, the next line begins where this one did.
func (c cli) gitIsWhole(t *testing.T) {
	t.Helper()
	repo := c.clone(t)
	log, err := repo.Log()
	if err != nil {
		t.Fatal(err)
	}
	history := map[string]bool{}
	for _, commit := range log {
		history[commit.Hash] = true
	}
	type line struct{ Ref, Old, New string }
	var pushes []line
	for text := range strings.Lines(engine(t, "exec", c.node(), "cat", "/var/lib/mllab/git/pushes.jsonl")) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if l.Ref == "refs/heads/"+git.Main {
			pushes = append(pushes, l)
		}
	}
	if len(pushes) < 10 {
		t.Fatalf("only %d pushes are on record", len(pushes))
	}
	for i, l := range pushes {
		died := i+1 < len(pushes) && pushes[i+1].Old == l.Old || i+1 == len(pushes) && repo.Head() == l.Old
		if history[l.New] == died {
			t.Errorf("push %+v is in the history: %v, the server died in it: %v", l, history[l.New], died)
		}
	}
	notes, err := repo.Notes()
	if err != nil {
		t.Fatal(err)
	}
	for commit := range notes {
		if !history[commit] {
			t.Errorf("commit %s was proven and is not in the history", commit)
		}
	}
}
