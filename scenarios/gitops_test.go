package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/git"
	"mllab.local/internal/kube"
)

func TestWithoutGitNothingIsTested(t *testing.T) {
	for _, name := range []string{"gitops", "mlops"} {
		s, err := planned(name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Steps[0].Change(t.Context(), &Session{Env: &Env{Image: "kind.local/sampleapp:x"}}); fault.Code(err) != 3 || fault.Hint(err) == "" {
			t.Errorf("%s gave %v (exit %d)", name, err, fault.Code(err))
		}
	}
}

// What a story puts into Git is its own to get wrong.
func TestTheFilesInGitSayWhatTheStoryClaims(t *testing.T) {
	state := gitState{Namespace: "ns", Image: "kind.local/sampleapp", Tag: "x", Version: "v2", Traffic: versionShares{"v1": 90, "v2": 10}, Card: true}
	files := func(state gitState) map[string][]byte {
		t.Helper()
		all, err := fillAll("gitops/tree", state)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	const traffic, overlay = "overlays/lab/traffic.yaml", "overlays/lab/kustomization.yaml"
	all := files(state)
	want := []string{"README.md", "base/kustomization.yaml", "base/service.yaml", "overlays/lab/card.yaml", overlay, traffic, "overlays/lab/version.yaml"}
	if got := sortedKeys(all); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for name, text := range all {
		if err := yaml.Unmarshal(text, new(any)); err != nil && strings.HasSuffix(name, ".yaml") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	if sum := sumOfTraffic(t, all[traffic]); sum != 100 {
		t.Errorf("the percents sum to %d", sum)
	}

	gone := state
	gone.Card = false
	if changed := differ(all, files(gone)); !slices.Equal(changed, []string{"overlays/lab/card.yaml", overlay}) {
		t.Errorf("without the card these differ: %v", changed)
	}
	moved := state
	moved.Traffic = versionShares{"v1": 0, "v2": 100}
	if changed := differ(all, files(moved)); !slices.Equal(changed, []string{traffic}) {
		t.Errorf("with other traffic these differ: %v", changed)
	}
	noted := state
	noted.Remark = "a remark"
	if changed := differ(all, files(noted)); !slices.Equal(changed, []string{"README.md"}) {
		t.Errorf("with a remark these differ: %v", changed)
	}
	broken := state
	broken.Broken = true
	if err := yaml.Unmarshal(files(broken)[traffic], new(any)); err == nil {
		t.Error("what should be broken YAML is none")
	}
	greedy := state
	greedy.Rights = true
	if changed := differ(all, files(greedy)); !slices.Equal(changed, []string{overlay, "overlays/lab/rights.yaml"}) {
		t.Errorf("with rights these differ: %v", changed)
	}
}

func sumOfTraffic(t *testing.T, text []byte) (sum int64) {
	t.Helper()
	var service struct {
		Spec struct {
			Traffic []struct{ Percent int64 }
		}
	}
	if err := yaml.Unmarshal(text, &service); err != nil {
		t.Fatal(err)
	}
	for _, leg := range service.Spec.Traffic {
		sum += leg.Percent
	}
	return sum
}

// differ names the files that are not the same in both.
func differ(a, b map[string][]byte) (names []string) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, name := range sortedKeys(all) {
		if string(a[name]) != string(b[name]) {
			names = append(names, name)
		}
	}
	return names
}

func TestFluxFollowsTheLabsGitAndIsAskedOnlyWhereItMayBe(t *testing.T) {
	for _, asked := range []bool{true, false} {
		objs, err := render("gitops/flux.yaml", fluxSettings{Namespace: "ns", Path: "./scenarios/ns/overlays/lab", Poll: seldom, Every: "10s", Asked: asked})
		if err != nil {
			t.Fatal(err)
		}
		bound := slices.ContainsFunc(objs, func(o *unstructured.Unstructured) bool {
			return o.GetKind() == "RoleBinding" && o.GetName() == "git-ask"
		})
		if bound != asked {
			t.Errorf("asked %v: a RoleBinding is there: %v", asked, bound)
		}
		account, _, _ := unstructured.NestedString(objs[len(objs)-1].Object, "spec", "serviceAccountName")
		if objs[0].GetKind() != "ServiceAccount" || account == "" || account != objs[0].GetName() {
			t.Errorf("Flux applies with the rights of %q; the account that is made is %s", account, objs[0].GetName())
		}
		source := objs[len(objs)-2]
		// The Git server knows its followers by just this address.
		if at, _, _ := unstructured.NestedString(source.Object, "spec", "url"); at != addons.GitInside {
			t.Errorf("%s follows %q", kube.Name(source), at)
		}
	}
}

func TestTheChartIsBesideItsRelease(t *testing.T) {
	s := &gitopsHelmStory{state: gitHelmState{Chart: "./chart", Image: "img:x", Version: "v1", Memory: "32Mi", Remediate: true}}
	files, err := s.files()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"chart/Chart.yaml", "chart/templates/service.yaml", "release/release.yaml"} {
		if len(files[name]) == 0 {
			t.Errorf("%s is not among %v", name, sortedKeys(files))
		}
	}
	if !strings.Contains(string(files["chart/templates/service.yaml"]), "{{ .Values.target") {
		t.Error("the chart's own templates were filled in")
	}
	if !strings.Contains(string(files["release/release.yaml"]), "remediateLastFailure: true") {
		t.Errorf("got %s", files["release/release.yaml"])
	}
}

func TestTheFirstAnswerIsThatOfAStreak(t *testing.T) {
	// Two strays, of which each is followed by the old version, and then the
	// new one for good.
	targets := append([]string{"v1", "v2", "v1", "", "v2", "v2", "v1"}, slices.Repeat([]string{"v2"}, inForceStreak+1)...)
	l := gateway(t, append(targets, "v1")...)
	var sent []time.Time
	l.Sender = counted{l.Sender, func() { sent = append(sent, time.Now()) }}
	first, err := l.firstOf(t.Context(), l.to("model"), "v2", time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if len(sent) != len(targets) || first.Before(sent[6]) || first.After(sent[7]) {
		t.Errorf("after %d of %d requests, of which the first of the streak came at %s, it says %s", len(sent), len(targets), sent[7], first)
	}
	if _, err := gateway(t, "v1", "v2").firstOf(t.Context(), l.to("model"), "v3", time.Now().Add(100*time.Millisecond)); !timedOut(t.Context(), err) {
		t.Errorf("of a version that never answers: %v", err)
	}
}

func TestAMedianIsInTheMiddle(t *testing.T) {
	timed := func(all ...time.Duration) (pushes []pushed) {
		for _, d := range all {
			pushes = append(pushes, pushed{activeAfter: d})
		}
		return pushes
	}
	for _, tc := range []struct {
		all  []pushed
		want [3]float64
	}{
		{timed(3*time.Second, time.Second, 2*time.Second), [3]float64{1, 2, 3}},
		{timed(4*time.Second, time.Second, 2*time.Second, 30*time.Second), [3]float64{1, 3, 30}},
		{timed(time.Second), [3]float64{1, 1, 1}},
	} {
		least, median, most := spread(tc.all, func(p pushed) time.Duration { return p.activeAfter })
		if got := [3]float64{least, median, most}; got != tc.want {
			t.Errorf("got %v, want %v", got, tc.want)
		}
	}
}

func TestWhatFluxSaysIsReadFromItsConditions(t *testing.T) {
	o := objects(t, `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: model}
status:
  conditions:
    - {type: Reconciling, status: "True", reason: Progressing, message: other}
    - {type: Ready, status: "False", reason: BuildFailed, message: "kustomize build failed:\n  line 3"}
`)[0]
	if status, why := conditionOf(o, "Ready"); status != "False" || why != "BuildFailed: kustomize build failed: line 3" {
		t.Errorf("got %q, %q", status, why)
	}
	if status, why := conditionOf(o, "Healthy"); status != "Unknown" || why == "" {
		t.Errorf("of a condition that is not there: %q, %q", status, why)
	}
	if text := oneLine(strings.Repeat("ä ", 1000)); len([]rune(text)) > 301 {
		t.Errorf("%d characters", len([]rune(text)))
	}
	for _, tc := range []struct {
		fluxStatus fluxStatus
		want       string
	}{
		{fluxStatus{source: "stored", ready: "True", why: "Applied", applied: "main@sha1:a"}, "GitRepository/lab: stored; applied is main@sha1:a"},
		{fluxStatus{source: "stored", ready: "False", why: "BuildFailed: x", applied: "a"}, "Kustomization/model: BuildFailed: x"},
		{fluxStatus{source: "stored", ready: "True", suspended: true}, "Kustomization/model: suspended"},
	} {
		if got := tc.fluxStatus.String(); !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q", tc.fluxStatus, got)
		}
	}
}

// A claim that the change refutes is the check's to refute: it has the evidence.
func TestACommitThatIsLateIsRefutedByTheCheck(t *testing.T) {
	f := &followed{newest: pushed{commit: "0123456789", message: "10 % to v2"}}
	var noted []error
	checked := false
	s := f.step(Step{
		Change: func(context.Context, *Session) error { return f.late(deliveryBound, "suspended") },
		Check:  func(context.Context, *Session) (Evidence, error) { checked = true; return Evidence{}, nil },
	}, func(_ context.Context, _ *Session, p pushed, _ Evidence, err error) error {
		noted = append(noted, err)
		return err
	})
	if err := s.Change(t.Context(), nil); err != nil {
		t.Fatalf("the change: %v", err)
	}
	e, err := s.Check(t.Context(), nil)
	var refuted *ClaimError
	if !errors.As(err, &refuted) || refuted.Claim != Delivery || checked || len(noted) != 1 || noted[0] == nil {
		t.Errorf("got %v, checked %v, noted %v", err, checked, noted)
	}
	if want := `commit 0123456 (10 % to v2) is not active 1m0s after it was begun: suspended`; e.Summary != want {
		t.Errorf("it says %q", e.Summary)
	}
	// What is no refutation ends the step at once.
	broken := errors.New("no API")
	s = f.step(Step{Change: func(context.Context, *Session) error { return broken }}, nil)
	if err := s.Change(t.Context(), nil); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestAProofIsWhatTheAuditReads(t *testing.T) {
	p := pushed{commit: "c", activeAfter: 1500 * time.Millisecond, applied: "main@sha1:c"}
	e := Evidence{Summary: "n=1000"}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"it holds", nil, `{"scenario":"gitops","control":"off","step":"90/10","pass":true,"applied":"main@sha1:c","secondsToTraffic":1.5,"evidence":{"says":"n=1000"}}`},
		{"it does not", refute(Shares, "v2 has half"), `{"scenario":"gitops","control":"off","step":"90/10","pass":false,"applied":"main@sha1:c","secondsToTraffic":1.5,"evidence":{"says":"n=1000"},"reasons":["v2 has half"]}`},
		{"it was not tested", errors.New("no API"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			proof, judged := proofOf(&Session{job: Job{Scenario: Scenario{Name: "gitops"}, Control: "off"}, record: record{stepName: "90/10"}}, p, e, tc.err)
			text, err := json.Marshal(proof)
			if err != nil {
				t.Fatal(err)
			}
			if judged != (tc.want != "") || judged && string(text) != tc.want {
				t.Errorf("judged %v\n got %s\nwant %s", judged, text, tc.want)
			}
		})
	}
}

func TestACommitIsShownBeforeItIsMade(t *testing.T) {
	stop := errors.New("stop")
	var shown string
	l := &Session{Env: &Env{Teach: func(_ context.Context, lesson Lesson) error {
		shown = lesson.Change
		return stop
	}}, Namespace: "ns"}
	f := &followed{repo: &git.Repo{}} // which cannot push
	if err := f.commit(t.Context(), l, "10 % to v2", map[string][]byte{"traffic.yaml": []byte("percent: 90\n")}); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if want := "git commit -m \"10 % to v2\"\n--- a/traffic.yaml\n+++ b/traffic.yaml\n@@ -0,0 +1 @@\n+percent: 90\n"; shown != want {
		t.Errorf("got\n%swant\n%s", shown, want)
	}
	if err := f.revert(t.Context(), l, pushed{commit: "0123456789", message: "10 % to v2"}); !errors.Is(err, stop) || shown != "git revert 0123456  # 10 % to v2\n" {
		t.Errorf("got %v, %q", err, shown)
	}
}

// With a pod that has the node, an account that is admin of one namespace would have the cluster.
func TestPodsThatACommitBringsAreHeldToABaseline(t *testing.T) {
	byGit := 0
	for _, s := range All() {
		if slices.Contains(s.Needs, "git") {
			byGit++
			if !s.Baseline || s.Untrusted || s.SidecarInjection {
				t.Errorf("%s: baseline %v, untrusted %v, sidecars %v", s.Name, s.Baseline, s.Untrusted, s.SidecarInjection)
			}
		}
	}
	if byGit < 3 {
		t.Errorf("only %d scenarios deliver by Git", byGit)
	}
}
