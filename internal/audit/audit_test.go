package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/kustomize"
)

func settings(color string) map[string][]byte {
	return map[string][]byte{
		"README.md":                              []byte("text"),
		"runs/a/base/kustomization.yaml":         []byte("resources: [settings.yaml]\n"),
		"runs/a/base/settings.yaml":              []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: " + color + "}}\n"),
		"runs/a/overlays/lab/Kustomization":      []byte("resources: [../../base]\n"),
		"runs/b/overlays/lab/kustomization.yaml": []byte("resources: [one.yaml]\n"),
		"runs/b/overlays/lab/one.yaml":           []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n"),
	}
}

// told is a list of changes in few words.
func told(list []Change) string {
	var words []string
	for _, c := range list {
		for _, o := range c.Objects {
			word := c.Folder + " " + c.By + " " + o.Action + " " + o.Object
			for _, f := range o.Fields {
				if o.Action == "changed" {
					word += fmt.Sprintf(" %s %v->%v", f.Path, f.Before, f.After)
				}
			}
			words = append(words, word)
		}
		if c.Error != "" {
			words = append(words, c.Folder+" "+c.By+" broken")
		}
		if c.Before != "" {
			words = append(words, c.Folder+" "+c.By+" was broken")
		}
	}
	return strings.Join(words, "; ")
}

func TestACommitsChangesAreThoseOfWhatIsBuilt(t *testing.T) {
	green, red := settings("green"), settings("red")
	broken := settings("red")
	broken["runs/a/overlays/lab/Kustomization"] = []byte("resources: [../../bases]\n")
	removed := settings("red")
	for name := range removed {
		if strings.HasPrefix(name, "runs/a/") {
			delete(removed, name)
		}
	}
	b := builder{files: map[string]map[string][]byte{"green": green, "red": red, "broken": broken, "removed": removed}}
	follower := Kustomization{Name: "Kustomization/team/model", Path: "./runs/a/overlays/lab", spec: kustomize.Spec{Path: "./runs/a/overlays/lab", TargetNamespace: "team"}}
	const folder, by = "runs/a/overlays/lab", "Kustomization/team/model"
	for name, tc := range map[string]struct {
		commit git.Commit
		by     []Kustomization
		want   string
	}{
		"a base, of a run that is over": {git.Commit{Hash: "red", Parent: "green", Files: []string{"runs/a/base/settings.yaml"}}, nil, folder + "  changed ConfigMap/settings data.color green->red"},
		"a base, of a run that goes on": {git.Commit{Hash: "red", Parent: "green", Files: []string{"runs/a/base/settings.yaml"}}, []Kustomization{follower}, folder + " " + by + " changed ConfigMap/team/settings data.color green->red"},
		"the first commit":              {git.Commit{Hash: "green", Files: []string{"runs/a/base/settings.yaml", "runs/a/overlays/lab/Kustomization"}}, []Kustomization{follower}, folder + " " + by + " created ConfigMap/team/settings"},
		"what breaks the build":         {git.Commit{Hash: "broken", Parent: "red", Files: []string{folder + "/Kustomization"}}, []Kustomization{follower}, folder + " " + by + " broken"},
		"what mends it":                 {git.Commit{Hash: "red", Parent: "broken", Files: []string{folder + "/Kustomization"}}, nil, folder + "  was broken"},
		"a folder that goes":            {git.Commit{Hash: "removed", Parent: "red", Files: []string{"runs/a/base/settings.yaml", folder + "/Kustomization"}}, []Kustomization{follower}, folder + " " + by + " removed ConfigMap/team/settings"},
		"a text":                        {git.Commit{Hash: "green", Parent: "green", Files: []string{"README.md"}}, []Kustomization{follower}, ""},
	} {
		list, err := b.changes(tc.commit, tc.by)
		if got := told(list); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
	}
}

func TestANoteIsAProofOrShownAsItIs(t *testing.T) {
	p, note := readProof([]byte(`{"scenario":"gitops","control":"","step":"90/10 by a commit","pass":true,"applied":"main@sha1:ab","secondsToTraffic":1.2,"evidence":{"says":"n=1000 v1 903","verdict":{"n":1000}},"reasons":null}`))
	if p == nil || note != "" || p.Says() != "n=1000 v1 903" || p.SecondsToTraffic != 1.2 || !p.Pass || p.Applied != "main@sha1:ab" {
		t.Errorf("%+v, %q", p, note)
	}
	if text, err := json.Marshal(p); err != nil || !strings.Contains(string(text), `"evidence":{"says":"n=1000 v1 903","verdict":{"n":1000}}`) {
		t.Errorf("%s, %v", text, err)
	}
	if p, _ := readProof([]byte(`{"scenario":"gitops","step":"x","pass":false,"reasons":["a","b"]}`)); p == nil || p.Says() != "a; b" {
		t.Errorf("%+v", p)
	}
	for _, other := range []string{"by hand\n", `{"scenario":`, `{"build":7}`, "[]", ""} {
		if p, note := readProof([]byte(other)); p != nil || note != strings.TrimSpace(other) {
			t.Errorf("%q: %+v, %q", other, p, note)
		}
	}
}

func TestWhenACommitWasAppliedIsWhatTheEventsSayOrElseTheStatus(t *testing.T) {
	objs, err := kube.Decode([]byte(`apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: model, namespace: team}
status:
  history:
    - {digest: "sha256:2", firstReconciled: "2026-01-01T10:00:00Z", lastReconciled: "2026-01-01T12:00:00Z", lastReconciledStatus: ReconciliationSucceeded, totalReconciliations: 2, metadata: {revision: "main@sha1:two"}}
    - {digest: "sha256:1", firstReconciled: "2026-01-01T09:00:00Z", lastReconciled: "2026-01-01T09:00:00Z", lastReconciledStatus: ReconciliationFailed, totalReconciliations: 1, metadata: {revision: "main@sha1:one"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	k := Kustomization{Name: kube.Name(objs[0])}
	if k.history, err = historyOf(objs[0]); err != nil {
		t.Fatal(err)
	}
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	said := []Applied{
		{By: k.Name, Time: at(11), Reason: "ReconciliationSucceeded", From: "event", revision: "two"},
		{By: k.Name, Time: at(10), Reason: "Progressing", From: "event", revision: "two"},
		{By: "Kustomization/gone/model", Time: at(8), Reason: "ReconciliationSucceeded", From: "event", revision: "one"},
	}
	tell := func(commit string) string {
		var words []string
		for _, a := range appliesOf(commit, []Kustomization{k}, said) {
			words = append(words, fmt.Sprintf("%d %s %s %s", a.Time.Hour(), a.From, a.By, a.Reason))
		}
		return strings.Join(words, "; ")
	}
	for commit, want := range map[string]string{
		"two":   "10 event Kustomization/team/model Progressing; 11 event Kustomization/team/model ReconciliationSucceeded",
		"one":   "8 event Kustomization/gone/model ReconciliationSucceeded; 9 status Kustomization/team/model ReconciliationFailed",
		"three": "",
	} {
		if got := tell(commit); got != want {
			t.Errorf("%s: %s\nwant %s", commit, got, want)
		}
	}
}

func TestOverlaysThatACommitCanConcern(t *testing.T) {
	files := settings("green")
	for changed, want := range map[string][]string{
		"runs/a/base/settings.yaml":    {"runs/a/overlays/lab"},
		"runs/a/overlays/other/x.yaml": {"runs/a/overlays/lab"},
		"runs/b/x":                     {"runs/b/overlays/lab"},
		"runs/ab/x":                    nil,
		"README.md":                    nil,
	} {
		if got := overlays([]string{changed}, nil, files); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", changed, got, want)
		}
	}
}

func TestEachCommitOfAPushCameByIt(t *testing.T) {
	log := []git.Commit{{Hash: "five"}, {Hash: "four"}, {Hash: "three"}, {Hash: "two"}, {Hash: "first"}}
	const main = "refs/heads/main"
	came := cameBy(log, []git.Push{
		{User: "ada", Ref: main, Old: "first", New: "two"}, {User: "eve", Ref: "refs/heads/side", Old: "two", New: "three"},
		{User: "eve", Ref: main, Old: "two", New: "never"}, {User: "bob", Ref: main, Old: "two", New: "five"},
	})
	got := ""
	for _, c := range log {
		if p := came[c.Hash]; p != nil {
			got += p.User + " "
		} else {
			got += "- "
		}
	}
	if got != "bob bob bob ada - " {
		t.Errorf("they came by %s", got)
	}
}
