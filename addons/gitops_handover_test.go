package addons

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	labgit "mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/report"
)

func TestAFirstHandOverInstallsCommitsAndThenHasFluxFollow(t *testing.T) {
	lab, d, used := newGitLab(t), &diary{}, atomic.Int32{}
	results, err := installByGit(t.Context(), lab.env, two(&used), report.Discard(), d.actions(func(_ context.Context, doing, name string) error {
		inGit := lab.git("", "ls-tree", "-r", "--name-only", labgit.Main, "lab")
		switch {
		case doing != "apply":
		case name != gitopsRoot && inGit != "":
			t.Errorf("%s was applied when Git had %q already", name, inGit)
		case name == gitopsRoot && inGit != "lab/lab.yaml\nlab/one.yaml\nlab/two.yaml":
			t.Errorf("Flux was to follow when Git had %q: it would remove what is not there", inGit)
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := became(results); !slices.Equal(got, []string{"one: 2 created", "two: 2 created"}) { // by mllab, and by Flux
		t.Errorf("got %q", got)
	}
	if used.Load() != 4 {
		t.Errorf("two addons were used %d times, not once without Git and once with it", used.Load())
	}
	if root := d.index("apply " + gitopsRoot); root < d.index("ready two") || root != len(d.said)-1 {
		t.Errorf("what Flux follows was not applied last: %q", d.said)
	}
}

func TestAHandOverThatFailsLeavesFluxOut(t *testing.T) {
	for name, c := range map[string]struct{ fails, inGit string }{
		"an addon cannot be applied":              {"apply two", ""},
		"an addon does not become ready":          {"wait one", ""},
		"what Flux follows cannot be applied":     {"apply " + gitopsRoot, "lab/lab.yaml\nlab/one.yaml\nlab/two.yaml"},
		"the node does not come to run any pod":   {"pods ", ""},
		"nothing fails, which the others rely on": {"", "lab/lab.yaml\nlab/one.yaml\nlab/two.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			lab, broken := newGitLab(t), errors.New("broken")
			_, err := installByGit(t.Context(), lab.env, two(new(atomic.Int32)), report.Discard(), (&diary{}).actions(func(_ context.Context, doing, name string) error {
				if doing+" "+name == c.fails {
					return broken
				}
				return nil
			}))
			if errors.Is(err, broken) != (c.fails != "") {
				t.Errorf("got %v", err)
			}
			if inGit := lab.git("", "ls-tree", "-r", "--name-only", labgit.Main, "lab"); inGit != c.inGit {
				t.Errorf("Git has %q, want %q", inGit, c.inGit)
			}
		})
	}
}

// notInGit is an addon that Git needs and does not have: somebody took it out.
const notInGit = "network"

// repaired is what repair does in a lab whose Flux says this of its Kustomizations: of "git" and "istio", which Git needs,
// and of "one", which it does not.
func repaired(t *testing.T, suspended ...string) (d *diary, asked []string, notes string, err error) {
	t.Helper()
	d = &diary{}
	absent := apierrors.NewNotFound(schema.GroupResource{Resource: "kustomizations"}, notInGit)
	synctest.Test(t, func(t *testing.T) { // which passes repairAfter at once
		flux := interceptor.Funcs{
			Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
				if key.Name == notInGit {
					return absent
				}
				into.(*unstructured.Unstructured).Object["spec"] = map[string]any{"suspend": slices.Contains(suspended, key.Name)}
				into.(*unstructured.Unstructured).Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True", "observedGeneration": int64(0)}}}
				return nil
			},
			Patch: func(_ context.Context, _ client.WithWatch, o client.Object, p client.Patch, _ ...client.PatchOption) error {
				if text, err := p.Data(o); err != nil || !strings.Contains(string(text), "reconcile.fluxcd.io/requestedAt") {
					t.Errorf("%s is patched with %s (%v)", o.GetName(), text, err)
				}
				if o.GetName() == notInGit {
					return absent
				}
				asked = append(asked, o.GetName())
				return nil
			},
		}
		env := Env{Kube: &kube.Client{Client: fake.NewClientBuilder().WithInterceptorFuncs(flux).Build()}}
		var seen bytes.Buffer
		list := []Rendered{d.fake("istio", nil, nil), d.fake("git", []string{"istio"}, nil), d.fake("one", nil, nil)}
		_, err = repair(t.Context(), env, list, report.New(&seen, report.Options{}), d.actions(func(context.Context, string, string) error { return nil }), func(string) {})
		notes = seen.String()
	})
	return d, asked, notes, err
}

func TestAReadyLabIsNotRepaired(t *testing.T) {
	for name, suspended := range map[string][]string{"all is ready": nil, "an addon is broken that Git does not need": {"one"}} {
		if d, asked, notes, err := repaired(t, suspended...); err != nil || len(d.said)+len(asked)+len(notes) > 0 {
			t.Errorf("%s: it did %q, asked for %q, and says %q (%v)", name, d.said, asked, notes, err)
		}
	}
}

func TestWhatGitNeedsIsRepairedWithoutGit(t *testing.T) {
	d, asked, notes, err := repaired(t, "istio")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(notes, "mllab applies them itself: istio: ") || !strings.Contains(notes, "it is suspended") {
		t.Errorf("it says %q", notes)
	}
	if d.index("apply istio") < 0 || d.index("apply git") < d.index("verify istio") || d.index("apply one") >= 0 {
		t.Errorf("it did %q", d.said)
	}
	need := gitNeeds()
	if need = filter(need, func(name string) bool { return name != notInGit }); len(need) < 2 || !slices.Equal(asked, need) {
		t.Errorf("Flux was asked to apply %q of %q", asked, need) // it goes on from what is there now
	}
}
