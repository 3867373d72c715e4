package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/sampleapp/api"
	"mllab.local/scenarios/file"
)

const examples = "../manifests/scenarios/examples/"

var onTest = file.Rules{Domain: "mllab.test", Reserved: []string{"mllab-sample"}}

// readMine reads a user's scenario.
func readMine(t *testing.T, text string) (Scenario, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadFile(path, onTest, Options{})
}

// mine is a user's scenario of these steps.
func mine(steps string) string {
	return "apiVersion: mllab.local/v1alpha1\nkind: Scenario\nname: mine\nsummary: a story\nsteps:\n" + steps
}

func TestEveryExampleIsATellableStory(t *testing.T) {
	files, err := filepath.Glob(examples + "*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d examples: %v", len(files), err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s, err := ReadFile(path, onTest, Options{})
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.Plan(Options{})
			if err != nil {
				t.Fatal(err)
			}
			if s.Name != strings.TrimSuffix(filepath.Base(path), ".yaml") || len(p.Controls) == 0 || len(s.Needs) == 0 || !s.Untrusted {
				t.Errorf("got %+v", s)
			}
			for _, step := range p.Steps {
				if step.Check == nil {
					t.Errorf("step %s checks nothing", step.Name)
				}
			}
		})
	}
}

func TestAFileIsTheSameByEachOfItsPaths(t *testing.T) {
	path, link := filepath.Join(t.TempDir(), "mine.yaml"), filepath.Join(t.TempDir(), "link")
	text := mine("- {name: a, idea: b, look: c, apply: [{model: {name: model, version: v1}}], expect-all: {of: model, version: v1}}\n")
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Symlink(filepath.Dir(path), link)); err != nil {
		t.Fatal(err)
	}
	mine, err := ReadFile(path, onTest, Options{})
	linked, err2 := ReadFile(filepath.Join(link, "mine.yaml"), onTest, Options{})
	if err := errors.Join(err, err2); err != nil || mine.File != linked.File || filepath.Base(mine.File) != "mine.yaml" {
		t.Errorf("got %q and %q, %v", mine.File, linked.File, err)
	}
}

func TestAFilesClaimsAreOurs(t *testing.T) {
	ours := []string{string(Answers), string(Shares), string(Routes), string(Mirror), string(Zero), string(NoLoss)}
	for _, e := range []file.Expect{
		file.ExpectSplit{}, file.ExpectAll{}, file.ExpectAll{Headers: map[string]string{"a": "b"}}, file.ExpectMirror{}, file.ExpectZeroPods{}, file.ExpectNoLoss{},
	} {
		for _, claim := range e.Claims() {
			if !slices.Contains(ours, claim) {
				t.Errorf("%T claims %q", e, claim)
			}
		}
	}
}

func TestAFileThatCannotBeReadIsWrongUse(t *testing.T) {
	for _, path := range []string{"nowhere.yaml", t.TempDir()} {
		if _, err := ReadFile(path, onTest, Options{}); fault.Code(err) != 2 || fault.Hint(err) == "" {
			t.Errorf("%s gave %v", path, err)
		}
	}
}

func TestWhatKnativeOnlyWarnsOfIsTaken(t *testing.T) {
	const plain = `  - apply:
      - apiVersion: serving.knative.dev/v1
        kind: Service
        metadata: {name: model}
        spec: {template: {spec: {containers: [{image: "${image}"}]}}}
    expect-all: {of: model, version: v1}
`
	if _, err := readMine(t, mine(plain)); err != nil {
		t.Error(err)
	}
}

func TestWhatTheClusterWouldRefuseIsWrongUseWithItsLine(t *testing.T) {
	const service = `  - apply:
      - apiVersion: serving.knative.dev/v1
        kind: Service
        metadata: {name: model}
        spec:
          template: {spec: {containers: [{name: model, image: "${image}"}]}}
          traffic: [{latestRevision: true, percent: 90}]
`
	const claim = "  - apply: [{knative: {name: m, version: v1}}]\n    expect-all: {of: m, version: v1}\n"
	for _, tc := range []struct{ steps, says string }{
		{service + claim, "mine.yaml:7:9: Service.serving.knative.dev/model is not valid: Traffic targets sum to 90, want 100"},
		{claim + "controls:\n  - name: c\n    summary: s\n    break:\n      - " + strings.ReplaceAll(strings.TrimPrefix(service, "  - "), "\n", "\n    ") + "\n    catches: shares\n", "mine.yaml:13:13: Service"},
	} {
		if _, err := readMine(t, mine(tc.steps)); fault.Code(err) != 2 || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("got %v, want %q", err, tc.says)
		}
	}
}

// userObjects are those of the n-th step, after those before it.
func userObjects(t *testing.T, text string, n int) string {
	t.Helper()
	f, err := file.Read("mine.yaml", []byte(text), file.Rules{Domain: "mllab.test", Requests: 1000, Alpha: 1e-6})
	if err != nil {
		t.Fatal(err)
	}
	u, l := newUserStory(&file.File{}, 1e-6), &Session{Env: &Env{Image: "kind.local/app:1", Domain: "mllab.test"}, Namespace: "ns"}
	for i, s := range f.Steps {
		objs, err := u.objects(l, s.Change)
		if err != nil {
			t.Fatal(err)
		}
		if i == n {
			var b strings.Builder
			for _, o := range objs {
				b.WriteString(asYAML(o))
			}
			return b.String()
		}
	}
	t.Fatalf("there is no step %d", n)
	return ""
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestARouteIsMadeAndChangedForAModel(t *testing.T) {
	text := mine(`  - apply: [{model: {name: m, version: v1, env: {DELAY: 1s}}}]
  - apply: [{model: {name: m, version: v2, replicas: 2}}]
  - split: {of: m, percent: {v2: 25, v1: 75}}
  - mirror: {of: m, to: v2, percent: 12.5}
  - expect-all: {of: v2-m, version: v2}
`)
	contains(t, userObjects(t, text, 0), "name: m-v1", "value: 1s", "kind: Gateway", "- m.ns.mllab.test", "- v1-m.ns.mllab.test", "weight: 100", `X-Mllab-Route: "1"`)
	contains(t, userObjects(t, text, 1), "name: m-v2", "replicas: 2", "exact: v2-m.ns.mllab.test", "host: m-v2\n      weight: 0", `X-Mllab-Route: "2"`)
	contains(t, userObjects(t, text, 2), "host: m-v1\n      weight: 75", "host: m-v2\n      weight: 25", `X-Mllab-Route: "3"`)
	contains(t, userObjects(t, text, 3), "host: m-v2\n    mirrorPercentage:\n      value: 12.5", "weight: 75", `X-Mllab-Route: "4"`)
}

func TestAModelWithoutARouteIsLeftToTheAuthor(t *testing.T) {
	text := userObjects(t, mine("  - apply: [{model: {name: m, version: v1, route: false}}, {knative: {name: k, version: v1}}]\n  - expect-all: {of: k, version: v1}\n"), 0)
	contains(t, text, "kind: Deployment", "name: m-v1")
	if strings.Contains(text, "VirtualService") {
		t.Errorf("it has a route:\n%s", text)
	}
}

func TestARevisionIsAddedWithoutTraffic(t *testing.T) {
	text := mine(`  - apply: [{knative: {name: m, version: v1}}]
  - apply: [{knative: {name: m, version: v2, min-scale: 0, window: 6s, env: {FAIL_PERCENT: "5"}}}]
  - split: {of: m, percent: {v2: 40, v1: 60}}
  - expect-all: {of: v2-m, version: v2}
`)
	contains(t, userObjects(t, text, 0), "name: m-v1", `autoscaling.knative.dev/min-scale: "1"`, "percent: 100\n    revisionName: m-v1")
	contains(t, userObjects(t, text, 1), "name: m-v2", `autoscaling.knative.dev/min-scale: "0"`, "autoscaling.knative.dev/window: 6s", "FAIL_PERCENT", "percent: 0\n    revisionName: m-v2\n    tag: v2")
	contains(t, userObjects(t, text, 2), "percent: 60\n    revisionName: m-v1", "percent: 40\n    revisionName: m-v2")
}

func TestABreakChangesWhatIsAppliedLater(t *testing.T) {
	u, l := newUserStory(&file.File{}, 1e-6), &Session{Env: &Env{Image: "kind.local/app:1", Domain: "mllab.test"}, Namespace: "ns"}
	if _, err := u.objects(l, file.Env{Of: "m", Version: "v2", Set: map[string]string{"FAIL_PERCENT": "50"}}); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]bool{"v1": false, "v2": true} {
		objs, err := u.objects(l, file.Apply{Models: []file.Model{{Name: "m", Version: version, Replicas: 1, Env: map[string]string{"DELAY": "0s"}}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(asYAML(objs[0]), "FAIL_PERCENT"); got != want {
			t.Errorf("%s fails: %v", version, got)
		}
	}
}

// expected runs the check of one step against a gateway.
func expected(t *testing.T, l *Session, e file.Expect) (Evidence, *ClaimError, error) {
	t.Helper()
	evidence, err := newUserStory(&file.File{}, 1e-6).check(t.Context(), l, file.Step{Expect: e})
	var refuted *ClaimError
	if errors.As(err, &refuted) {
		err = nil
	}
	return evidence, refuted, err
}

func TestAnExpectationIsRefutedByItsOwnClaim(t *testing.T) {
	header := map[string]string{"x-user": "me"}
	for _, tc := range []struct {
		name    string
		answers []string
		expect  file.Expect
		refutes Claim
	}{
		{"all", []string{"v1"}, file.ExpectAll{Of: "m", Version: "v1", Requests: 50}, ""},
		{"one stray", append(slices.Repeat([]string{"v1"}, 49), "v2"), file.ExpectAll{Of: "m", Version: "v1", Requests: 50}, Shares},
		{"another", []string{"v2"}, file.ExpectAll{Of: "m", Version: "v1", Headers: header, Requests: 50}, Routes},
		{"a proxy's error", []string{""}, file.ExpectAll{Of: "m", Version: "v1", Headers: header, Requests: 50}, Answers},
		{"the split", mix(1), file.ExpectSplit{Of: "m", Shares: []file.Share{{Version: "v1", Percent: 90}, {Version: "v2", Percent: 10}}, Requests: 1000, Alpha: 1e-6}, ""},
		{"another split", mix(5), file.ExpectSplit{Of: "m", Shares: []file.Share{{Version: "v1", Percent: 90}, {Version: "v2", Percent: 10}}, Requests: 1000, Alpha: 1e-6}, Shares},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, refuted, err := expected(t, gateway(t, tc.answers...), tc.expect)
			if err != nil || (refuted == nil) != (tc.refutes == "") || refuted != nil && refuted.Claim != tc.refutes {
				t.Errorf("got %v, %v, want %q refuted", refuted, err, tc.refutes)
			}
		})
	}
}

func TestARequestCarriesItsHeadersAndCookies(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// One header, as a browser sends it: a route matches its whole text.
		if sent := r.Header.Values("Cookie"); len(sent) == 1 && sent[0] == "group=b; lang=de" && r.Header.Get("X-User") == "me" && r.Host == "m.ns.mllab.test" {
			w.Header().Set(api.HeaderTarget, "v2")
		}
		w.Header().Set(api.HeaderPod, "pod")
	}))
	t.Cleanup(srv.Close)
	l := &Session{Env: &Env{Gateway: srv.URL, Domain: "mllab.test"}, Sender: probe.NewHTTP(0), Namespace: "ns"}
	_, refuted, err := expected(t, l, file.ExpectAll{Of: "m", Version: "v2", Requests: 5, Headers: map[string]string{"x-user": "me"}, Cookies: map[string]string{"lang": "de", "group": "b"}})
	if err != nil || refuted != nil {
		t.Errorf("got %v, %v", refuted, err)
	}
}

func TestAShadowIsJudgedByTheRequestsThatReachedIt(t *testing.T) {
	const n = 1000
	var answers []probe.Answer
	for i := range n {
		answers = append(answers, probe.Answer{ID: fmt.Sprint(i)})
	}
	for _, tc := range []struct {
		name    string
		percent float64
		got     int
		twice   int
		pass    bool
	}{
		{"all", 100, n, 0, true}, {"one is missing", 100, n - 1, 0, false}, {"one came twice", 100, n, 1, false}, {"none", 100, 0, 0, false},
		{"a tenth", 10, 100, 0, true}, {"half of it", 10, 500, 0, false}, {"none of a tenth", 10, 0, 0, false}, {"off", 0, 0, 0, true}, {"not off", 0, 1, 0, false},
	} {
		came := []string{"of another", "of another"}
		for i := range tc.got {
			came = append(came, fmt.Sprint(i))
		}
		if tc.twice > 0 {
			came = append(came, "0")
		}
		e, err := judgeCopies(Evidence{}, received(answers, came), file.ExpectMirror{Of: "m", To: "v2", Percent: tc.percent, Requests: n, Alpha: 1e-6})
		var refuted *ClaimError
		if tc.pass != (err == nil) || err != nil && (!errors.As(err, &refuted) || refuted.Claim != Mirror) || e.Verdict == nil {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestAnObjectOfAFileThatTheClusterDoesNotTakeIsWrongUse(t *testing.T) {
	denied := &apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonBadRequest, Message: "admission webhook \"validation.istio.io\" denied the request: no weights"}}
	err := refusedFile(inFile("a.yaml:7:5", inFile("a.yaml:9:9", fmt.Errorf("VirtualService/ns/shop: %w", denied)))) // one place: the precise one
	if fault.Code(err) != 2 || fault.Hint(err) == "" || !strings.HasPrefix(err.Error(), "a.yaml:9:9: VirtualService/ns/shop: admission webhook") {
		t.Errorf("%v, exit code %d", err, fault.Code(err))
	}
	for _, other := range []error{nil, errors.New("timeout"), apierrors.NewServiceUnavailable("later"), context.Canceled} {
		if got := refusedFile(other); got != other {
			t.Errorf("%v became %v", other, got)
		}
	}
}

func TestAFileThatTheClusterRefusesChangesNothing(t *testing.T) {
	text := mine(`  - apply: [{model: {name: m, version: v1}}]
  - split: {of: m, percent: {v1: 100}}
    expect-all: {of: m, version: v1}
`) + `controls:
  - name: worse
    summary: a route that no proxy takes
    break:
      - apply:
          - apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {name: bad}
            spec: {hosts: ["${host:bad}"], gateways: [m], http: [{redirect: {uri: /x}, route: [{destination: {host: m-v1}}]}]}
    catches: shares
`
	refusal := &apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonBadRequest, Message: `admission webhook "validation.istio.io" denied the request: both route and redirect`}}
	var tried []string
	cluster := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if len((&client.CreateOptions{}).ApplyOptions(opts).DryRun) == 0 || o.GetNamespace() != "default" {
				t.Errorf("%s is no dry run", kube.Name(o))
			}
			if tried = append(tried, kube.Name(o)); o.GetName() == "bad" {
				return refusal
			}
			return apierrors.NewAlreadyExists(schema.GroupResource{}, o.GetName())
		},
		Delete: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.DeleteOption) error {
			t.Errorf("%s is deleted", kube.Name(o))
			return nil
		},
	}).Build()
	s, err := readMine(t, text)
	if err != nil {
		t.Fatal(err)
	}
	env := &Env{Kube: &kube.Client{Client: cluster}, Image: "kind.local/app:1", Domain: "mllab.test"}
	r, err := Job{Scenario: s}.run(t.Context(), env, nil, false, func() {})
	if fault.Code(err) != 2 || !strings.HasPrefix(err.Error(), "mine.yaml:14:13: VirtualService/mllab-mine/bad: admission webhook") || r.Pass || len(r.Steps) > 0 {
		t.Errorf("got %v, %+v", err, r)
	}
	want := []string{"Deployment/default/m-v1", "Service/default/m-v1", "Gateway/default/m", "VirtualService/default/m", "VirtualService/default/m", "VirtualService/default/bad"}
	if !slices.Equal(tried, want) {
		t.Errorf("tried %q, want %q", tried, want)
	}
}

// Knative's webhook refuses a named revision that is applied again without what it has added.
func TestAKnativeServiceOfAFileIsAppliedWithItsContainersDefaults(t *testing.T) {
	f, err := file.Read("mine.yaml", []byte(mine(`  - apply:
      - apiVersion: serving.knative.dev/v1
        kind: Service
        metadata: {name: own}
        spec: {template: {metadata: {name: own-v1}, spec: {containers: [{image: "${image}", readinessProbe: {httpGet: {path: /readyz}}}]}}}
    expect-all: {of: own, version: v1}
`)), file.Rules{Domain: "mllab.test", Requests: 1000, Alpha: 1e-6})
	if err != nil {
		t.Fatal(err)
	}
	objs, err := newUserStory(f, 1e-6).objects(&Session{Env: &Env{Image: "kind.local/sampleapp:1"}, Namespace: "ns"}, f.Steps[0].Change)
	if err != nil || len(objs) != 1 {
		t.Fatal(objs, err)
	}
	want := map[string]any{"template": map[string]any{"metadata": map[string]any{"name": "own-v1"}, "spec": map[string]any{"containers": []any{map[string]any{
		"name": "user-container", "image": "kind.local/sampleapp:1", "resources": map[string]any{},
		"readinessProbe": map[string]any{"httpGet": map[string]any{"path": "/readyz", "port": int64(0)}, "successThreshold": int64(1)},
	}}}}}
	if got := objs[0].Object["spec"]; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// sendBy is a Sender that knows who asks.
type sendBy func(context.Context, probe.Request) probe.Answer

func (f sendBy) Send(ctx context.Context, r probe.Request) probe.Answer { return f(ctx, r) }

func TestAMarkIsSeenByARequestOfTheFilesOwn(t *testing.T) {
	f, err := file.Read("mine.yaml", []byte(mine(`  - apply: [{model: {name: m, version: v1}}]
    expect-all: {of: m, version: v1}
  - expect-all: {of: m, version: v1, headers: {x-user: me}, cookies: {b: "2", a: "1"}}
`)), file.Rules{Domain: "mllab.test", Requests: 1000, Alpha: 1e-6})
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []string{"m", "v1-m"} {
		synctest.Test(t, func(t *testing.T) {
			others := 0
			send := func(ctx context.Context, r probe.Request) probe.Answer {
				if strings.HasPrefix(r.Host, "v1-m.") {
					if others++; others > 1 {
						<-ctx.Done() // when the wait ends
						return probe.Answer{Err: ctx.Err().Error()}
					}
				}
				if r.Header.Get("Cookie") == "a=1; b=2" && r.Header.Get("X-User") == "me" { // the only rule that has the mark
					return probe.Answer{Status: http.StatusOK, Router: true, Route: "mine"}
				}
				return probe.Answer{Status: http.StatusOK, Router: true}
			}
			l := &Session{Env: &Env{Domain: "mllab.test"}, Sender: sendBy(send), Namespace: "ns"}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := newUserStory(f, 1e-6).wait(ctx, l, file.Wait{Mark: "mine", Of: of})
			if want := of == "m"; want && err != nil || !want && (!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `(last: answered by state "" instead of "mine" (status 200 from a proxy`) || !strings.Contains(fault.Hint(err), "X-Mllab-Route: mine")) {
				t.Errorf("%s: got %v, hint %q", of, err, fault.Hint(err))
			}
		})
	}
}
