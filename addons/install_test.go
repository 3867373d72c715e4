package addons

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/report"
)

// diary records what happened, in order.
type diary struct {
	mu   sync.Mutex
	said []string
}

func (d *diary) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, fmt.Sprintf(format, args...))
}

// index is when an entry was made, -1 for never.
func (d *diary) index(entry string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Index(d.said, entry)
}

// fake is an addon of one object that is called like it.
func (d *diary) fake(name string, needs, startAfter []string) Rendered {
	return Rendered{
		Addon: Addon{
			Name: name, Needs: needs, StartAfter: startAfter,
			Verify: func(context.Context, Env, func(string)) error {
				d.say("verify %s", name)
				return nil
			},
		},
		Objects: []*unstructured.Unstructured{object("v1", "ConfigMap", "default", name)},
	}
}

// actions write what they do into the diary; hook may hold them up or fail.
func (d *diary) actions(hook func(ctx context.Context, doing, name string) error) actions {
	return actions{
		apply: func(ctx context.Context, objs []*unstructured.Unstructured) ([]kube.Change, error) {
			name := objs[0].GetName()
			d.say("apply %s", name)
			return []kube.Change{{Object: kube.Name(objs[0]), Action: "created"}}, hook(ctx, "apply", name)
		},
		wait: func(ctx context.Context, objs []*unstructured.Unstructured, _ func(string)) error {
			name := objs[0].GetName()
			d.say("wait %s", name)
			err := hook(ctx, "wait", name)
			d.say("ready %s", name)
			return err
		},
		pods:     func(ctx context.Context, _ Env, _ func(string)) error { return hook(ctx, "pods", "") },
		progress: func(context.Context) (string, error) { return "", nil },
	}
}

// eventually returns when it is so, or ctx has ended.
func eventually(ctx context.Context, so func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func nothing(context.Context, string, string) error { return nil }

func TestAnAddonIsAppliedAfterItsNeedsAreVerifiedAndBesideOthersThatAreApplied(t *testing.T) {
	d := &diary{}
	list := []Rendered{
		d.fake("crds", nil, nil),
		d.fake("mesh", nil, nil),
		d.fake("serving", nil, []string{"crds", "mesh"}),
		d.fake("model", []string{"serving"}, nil),
	}
	// mesh gets ready only once serving is: both must come up side by side,
	// and serving, though ready first, must be verified second.
	hook := func(ctx context.Context, doing, name string) error {
		if doing == "wait" && name == "mesh" {
			return eventually(ctx, func() bool { return d.index("ready serving") >= 0 })
		}
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	results, err := install(ctx, Env{}, list, report.Discard(), d.actions(hook))
	if err != nil {
		t.Fatalf("install: %v", err)
	}
	for _, pair := range [][2]string{
		{"apply crds", "apply serving"},
		{"apply mesh", "apply serving"},
		{"verify mesh", "verify serving"},
		{"verify serving", "apply model"},
		{"apply model", "verify model"},
	} {
		first, second := d.index(pair[0]), d.index(pair[1])
		if first < 0 || second < 0 || first > second {
			t.Errorf("%q must come before %q in %v", pair[0], pair[1], d.said)
		}
	}
	for i, r := range results {
		if r.Name != list[i].Name || len(r.Changes) != 1 || r.Err != nil {
			t.Errorf("result %d is %+v, want one change of %s", i, r, list[i].Name)
		}
	}
}

func TestWhatHasPodsWaitsForTheNode(t *testing.T) {
	d := &diary{}
	a := d.fake("mesh", nil, nil)
	a.Objects = []*unstructured.Unstructured{object("apps/v1", "Deployment", "x", "pilot"), object("v1", "ConfigMap", "x", "settings")}
	a.PostApply = func(context.Context, Env, func(string)) error {
		d.say("settle mesh")
		return nil
	}
	startAfter := d.fake("serving", nil, []string{"mesh"})
	hook := func(ctx context.Context, doing, _ string) error {
		if doing == "pods" { // the node comes when what needs none is there
			return eventually(ctx, func() bool { return d.index("apply serving") >= 0 })
		}
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	if _, err := install(ctx, Env{}, []Rendered{a, startAfter}, report.Discard(), d.actions(hook)); err != nil {
		t.Fatal(err)
	}
	if d.index("apply settings") > d.index("settle mesh") || d.index("settle mesh") > d.index("apply pilot") || d.index("apply serving") > d.index("apply pilot") {
		t.Errorf("the Deployment came before what needs no node: %v", d.said)
	}
}

func TestTheLastWorkloadStartsWhenTheOthersAreReady(t *testing.T) {
	d := &diary{}
	a := d.fake("mesh", nil, nil)
	a.Last = "gateway"
	a.Objects = []*unstructured.Unstructured{object("apps/v1", "Deployment", "x", "gateway"), object("apps/v1", "Deployment", "x", "pilot")}
	hook := func(ctx context.Context, doing, name string) error {
		if doing == "wait" && name == "pilot" {
			d.say("pilot without gateway: %t", d.index("apply gateway") < 0)
		}
		return nil
	}
	results, err := install(context.Background(), Env{}, []Rendered{a}, report.Discard(), d.actions(hook))
	if err != nil {
		t.Fatal(err)
	}
	order := []string{"apply pilot", "wait pilot", "pilot without gateway: true", "ready pilot", "apply gateway", "wait gateway", "ready gateway", "verify mesh"}
	for i, said := range order[1:] {
		if first, second := d.index(order[i]), d.index(said); first < 0 || second < first {
			t.Errorf("%q must come before %q in %v", order[i], said, d.said)
		}
	}
	if n := len(results[0].Changes); n != 2 {
		t.Errorf("%d changes, want the gateway's too", n)
	}
}

func TestWhoIsBesideWaitsUntilItServes(t *testing.T) {
	d := &diary{}
	a := d.fake("serving", nil, nil)
	a.Available = func(ctx context.Context, _ Env, _ func(string)) error {
		err := eventually(ctx, func() bool { return d.index("wait serving") >= 0 })
		d.say("serves")
		return err
	}
	hook := func(ctx context.Context, doing, name string) error {
		if doing == "wait" && name == "serving" { // it is not all ready yet
			return eventually(ctx, func() bool { return d.index("apply model") >= 0 })
		}
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	if _, err := install(ctx, Env{}, []Rendered{a, d.fake("model", nil, []string{"serving"})}, report.Discard(), d.actions(hook)); err != nil {
		t.Fatal(err)
	}
	if d.index("serves") > d.index("apply model") || d.index("verify serving") > d.index("verify model") {
		t.Errorf("got %v", d.said)
	}
}

func TestAddonsAreRenderedAtTheSameTime(t *testing.T) {
	both := make(chan struct{}, 2)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	fake := func(name string) Addon {
		return Addon{Name: name, Render: func(Images) ([]*unstructured.Unstructured, error) {
			both <- struct{}{} // each needs the other to be under way
			return []*unstructured.Unstructured{object("v1", "ConfigMap", "x", "of-"+name)}, eventually(ctx, func() bool { return len(both) == 2 })
		}}
	}
	list, err := Render([]Addon{fake("progressive"), fake("sample")}, nil)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d are rendered: %v", len(list), err)
	}
	for i, name := range []string{"progressive", "sample"} { // each after its folder's objects
		if objs := list[i].Objects; list[i].Name != name || len(objs) < 2 || objs[len(objs)-1].GetName() != "of-"+name {
			t.Errorf("%d is %s with %v", i, list[i].Name, objs)
		}
	}
}

func TestAnAddonThatCannotBeRenderedIsNamed(t *testing.T) {
	good := Addon{Name: "progressive", Render: func(Images) ([]*unstructured.Unstructured, error) { return nil, nil }}
	bad := Addon{Name: "sample", Render: func(Images) ([]*unstructured.Unstructured, error) { return nil, errors.New("no image") }}
	list, err := Render([]Addon{good, bad}, nil)
	if err == nil || err.Error() != "rendering sample: no image" || list != nil {
		t.Errorf("error is %v with %d addons, want the doing, the addon's name and the cause", err, len(list))
	}
}

func TestAFailureStopsTheOthersAndIsTheOneReported(t *testing.T) {
	for _, where := range []string{"apply", "wait", "verify", "settle", "serves"} {
		t.Run(where, func(t *testing.T) {
			d := &diary{}
			list := []Rendered{d.fake("slow", nil, nil), d.fake("broken", nil, nil), d.fake("after", []string{"broken"}, nil)}
			boom := errors.New("boom")
			fail := func(context.Context, Env, func(string)) error { return boom }
			switch where {
			case "verify":
				list[1].Verify = fail
			case "settle":
				list[1].PostApply = fail
			case "serves":
				list[1].Available = fail
			}
			slowWaits := make(chan struct{})
			hook := func(ctx context.Context, doing, name string) error {
				switch {
				case name == "slow" && doing == "wait":
					close(slowWaits)
					<-ctx.Done() // only the other's failure ends this
					return ctx.Err()
				case name == "broken" && doing == "apply":
					<-slowWaits
				}
				if name == "broken" && doing == where {
					return boom
				}
				return nil
			}
			ctx, stop := context.WithTimeout(context.Background(), time.Minute)
			defer stop()
			results, err := install(ctx, Env{}, list, report.Discard(), d.actions(hook))
			if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "broken: ") || fault.Code(err) != 1 {
				t.Errorf("error is %v with code %d, want broken's own with code 1", err, fault.Code(err))
			}
			if d.index("apply after") >= 0 {
				t.Error("an addon was applied though what it needs had failed")
			}
			for _, r := range results {
				if r.Err == nil || !errors.Is(r.Err, boom) {
					t.Errorf("%s: error is %v, want it to say what stopped it", r.Name, r.Err)
				}
			}
		})
	}
}

func TestAnInterruptionIsReportedAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		ctx, interrupt := context.WithCancel(t.Context())
		hook := func(ctx context.Context, doing, _ string) error {
			if doing == "wait" {
				interrupt()
				<-ctx.Done()
				synctest.Wait() // what waits for this one has ended
				return fmt.Errorf("Deployment/x: %w (last: 0/1 ready)", ctx.Err())
			}
			return nil
		}
		_, err := install(ctx, Env{}, []Rendered{d.fake("a", nil, nil), d.fake("b", []string{"a"}, nil)}, report.Discard(), d.actions(hook))
		if fault.Code(err) != 130 || !strings.Contains(err.Error(), "last: 0/1 ready") {
			t.Errorf("error is %v with code %d, want the last reason and code 130", err, fault.Code(err))
		}
	})
}

func TestAListThatLacksWhatAnAddonNeedsIsRefused(t *testing.T) {
	d := &diary{}
	_, err := install(context.Background(), Env{}, []Rendered{d.fake("model", []string{"serving"}, nil)}, report.Discard(), d.actions(nothing))
	if err == nil || !strings.Contains(err.Error(), "model: needs serving") {
		t.Errorf("error is %v, want it to name both", err)
	}
}

func TestSelectAddsWhatIsNeededInAnOrderThatWorks(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range All() {
		for _, need := range slices.Concat(a.Needs, a.StartAfter, a.Brings) {
			if !seen[need] {
				t.Errorf("%s comes before %s, which it needs", a.Name, need)
			}
		}
		seen[a.Name] = true
	}
	list, err := Select("sample")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gateway-api", "istio", "knative", "sample"} {
		if !slices.ContainsFunc(list, func(a Addon) bool { return a.Name == name }) {
			t.Errorf("%s is missing", name)
		}
	}
	if list, err = Select("istio"); err != nil || len(list) != 1 {
		t.Errorf("istio alone brings %d addons and %v, want 1", len(list), err)
	}
	if list, err = Select(Core()...); err != nil || len(list) != len(Core()) {
		t.Errorf("the core brings %d addons and %v, want no more than it names", len(list), err)
	}
	if list, err = Select("all"); err != nil || len(list) != len(All()) {
		t.Errorf("all: %d addons of %d, %v", len(list), len(All()), err)
	}
	if list, err = Select("git"); err != nil || len(list) != 4 || list[3].Name != "git" {
		t.Errorf("git brings %d addons and %v, want istio, network, flux and git", len(list), err)
	}
	if list, err = Select("istio", "istio"); err != nil || len(list) != 1 {
		t.Errorf("a name given twice brings %d addons and %v, want 1", len(list), err)
	}
}

func TestSelectRefusesAnUnknownNameAsWrongUse(t *testing.T) {
	if _, err := Select("all", "typo"); err == nil {
		t.Error("an unknown name beside all is taken")
	}
	_, err := Select("knativ")
	if fault.Code(err) != 2 || !strings.Contains(fault.Hint(err), "knative") {
		t.Errorf("error is %v (code %d, hint %q), want code 2 and the known names", err, fault.Code(err), fault.Hint(err))
	}
}

func TestAnAddonIsGivenTimeWhileTheClusterComesFurther(t *testing.T) {
	late := fmt.Errorf("git: %w", &lateError{"reading the refs", verifyLimit, errors.New("status 503")})
	for name, c := range map[string]struct {
		states []string // what progress says, one for each time it is asked
		errs   []error  // of one try each
		want   error
		tries  int
	}{
		"it comes up in the third limit": {[]string{"a", "b", "b", "c", "c"}, []error{late, late, nil}, nil, 3},
		"nothing moves":                  {[]string{"a", "a"}, []error{late}, late, 1},
		"it moved once, and then stood":  {[]string{"a", "b", "b", "b"}, []error{late, late}, late, 2},
		"it failed, and was not late":    {[]string{"a", "b"}, []error{fs.ErrNotExist}, fs.ErrNotExist, 1},
	} {
		tries, asked := 0, 0
		err := patiently(t.Context(), func(context.Context) (string, error) { asked++; return c.states[asked-1], nil }, func(string) {},
			func() error { tries++; return c.errs[tries-1] })
		if !errors.Is(err, c.want) || tries != c.tries {
			t.Errorf("%s: %v after %d tries", name, err, tries)
		}
	}
	over, end := context.WithCancel(t.Context())
	end()
	tries := 0
	if err := patiently(over, func(context.Context) (string, error) { tries++; return fmt.Sprint(tries), nil }, func(string) {}, func() error { return late }); !errors.Is(err, late) {
		t.Errorf("after the bound of all: %v", err)
	}
}
