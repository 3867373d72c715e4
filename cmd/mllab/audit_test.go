package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"mllab.local/internal/audit"
)

// The report as a machine gets it, so that the names of its fields are kept, too.
const auditJSON = `{
  "head": "1111111111aa",
  "kustomizations": [{"name": "Kustomization/team/model", "path": "./team", "applied": "1111111111aa", "suspended": true, "notReady": "not Ready: BuildFailed:\n  no such file"}],
  "commits": [
    {"commit": "1111111111aa", "parent": "2222222222bb", "author": "Ada <ada@example.com>", "when": "2026-01-02T03:04:05Z", "message": "90/10\n\nand why", "files": ["team/a.yaml", "Meeting notes.md", "a\nb\u001b[2J"],
     "pushed": {"user": "mllab", "time": "2026-01-02T03:04:06Z"},
     "changes": [{"folder": "team", "kustomization": "Kustomization/team/model", "objects": [
       {"object": "Service/team/model", "action": "changed", "fields": [{"path": "spec.traffic[0].percent", "before": 100, "after": 90}, {"path": "spec.more", "after": "LONG"}]},
       {"object": "ConfigMap/team/new", "action": "created", "fields": [{"path": "data.a", "after": "b"}]}]},
       {"folder": "other", "error": "no\nsuch file"}, {"folder": "again", "errorBefore": "no such file"}, {"folder": "far", "notBuilt": "it names\nan address"}],
     "applied": [{"kustomization": "Kustomization/team/model", "time": "2026-01-02T03:04:07Z", "reason": "ReconciliationSucceeded", "message": "Reconciliation\nfinished", "from": "event"},
       {"kustomization": "Kustomization/b/c", "time": "2026-01-02T03:04:07Z", "reason": "ReconciliationFailed", "from": "status"}],
     "proof": {"scenario": "gitops", "control": "suspended", "step": "a commit", "pass": false, "secondsToTraffic": 1.25, "reasons": ["it never came"]}},
    {"commit": "2222222222bb", "author": "mllab <mllab@mllab.test>", "when": "2026-01-02T03:04:04Z", "message": "first", "note": "by hand"}],
  "older": 3,
  "compared": 4,
  "drift": [{"kustomization": "Kustomization/team/model", "commit": "1111111111aa", "objects": [
      {"object": "ConfigMap/team/gone", "missing": true}, {"object": "ConfigMap/team/odd", "error": "a webhook\nsays no"},
      {"object": "ConfigMap/team/a", "fields": [{"path": "data.a", "git": "1", "live": "2", "manager": "kubectl-edit", "when": "2026-01-02T03:04:08Z", "undone": true},
        {"path": "data.b", "git": "", "undone": true}, {"path": "data.c", "live": {"x": 1}, "manager": "robot"}]}]},
    {"kustomization": "Kustomization/b/c", "commit": "", "error": "nothing was applied yet"}]
}`

func TestTheAuditSaysWhatItKnows(t *testing.T) {
	var r audit.Report
	dec := json.NewDecoder(strings.NewReader(strings.ReplaceAll(auditJSON, "LONG", strings.Repeat("x", 100))))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	printAudit(&b, r)
	want := `1111111111  CLOCK:05  Ada <ada@example.com>
  90/10
  pushed   by mllab at CLOCK:06
  file     team/a.yaml
  file     Meeting notes.md
  file     "a\nb\x1b[2J"
  changed  Service/team/model  (team, by Kustomization/team/model)
             spec.traffic[0].percent: 100 -> 90
             spec.more: - -> ` + strings.Repeat("x", 59) + `…
  created  ConfigMap/team/new  (team, by Kustomization/team/model)
  broken   other: cannot be built: no such file
  fixed    again: it could not be built before
  unknown  far: it names an address
  flux     Kustomization/team/model at CLOCK:07: ReconciliationSucceeded, Reconciliation finished, as its event says
  flux     Kustomization/b/c at CLOCK:07: ReconciliationFailed, as its status says
  traffic  after 1.2 s
  proof    FAIL gitops, control suspended, step "a commit": it never came

2222222222  CLOCK:04  mllab <mllab@mllab.test>
  first
  flux     nothing is known: Kubernetes keeps events for an hour, or it came with a newer commit
  note     no proof, it says: by hand

3 older commits: mllab audit --last 0

Kustomization/team/model, ./team: applied 1111111111, suspended, not Ready: BuildFailed: no such file
drift  ConfigMap/team/gone  (Kustomization/team/model at 1111111111)
         it is gone
drift  ConfigMap/team/odd  (Kustomization/team/model at 1111111111)
         not compared: a webhook says no
drift  ConfigMap/team/a  (Kustomization/team/model at 1111111111)
         data.a: Git 1, live 2, by kubectl-edit at CLOCK:08
         data.b: Git "", live -, by nobody
         data.c: Git -, live {"x":1}, by robot; Flux leaves it
not compared  Kustomization/b/c: nothing was applied yet
`
	local := r.Commits[0].When.Local().Format("2006-01-02 15:04")
	if got := strings.ReplaceAll(b.String(), local, "CLOCK"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	b.Reset()
	printAudit(&b, audit.Report{Compared: 2, Kustomizations: r.Kustomizations[:1]})
	printAudit(&b, audit.Report{})
	if got := b.String(); !strings.Contains(got, "no drift: 2 objects are as Git says\n") || !strings.HasSuffix(got, "no Kustomization of Flux follows the repository\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestTwoLongValuesAreShownWhereTheyDiffer(t *testing.T) {
	const image = "registry.registry.svc.cluster.local:5000/mllab-model-canary/breast-cancer@sha256:"
	for _, tc := range []struct {
		before, after any
		from, to      string
	}{
		{nil, 2, "-", "2"},
		{"a", "a b", "a", "a b"},
		{image + "11", image + "22", "…er@sha256:11", "…er@sha256:22"},
		{image + strings.Repeat("1", 64), image + strings.Repeat("2", 64), "…er@sha256:" + strings.Repeat("1", 48) + "…", "…er@sha256:" + strings.Repeat("2", 48) + "…"},
		{image, image + "1", "…er@sha256:", "…er@sha256:1"},
	} {
		if from, to := fromTo(tc.before, tc.after); from != tc.from || to != tc.to {
			t.Errorf("%v -> %v: got %s -> %s", tc.before, tc.after, from, to)
		}
	}
}
