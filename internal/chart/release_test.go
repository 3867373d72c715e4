package chart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/fstest"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// inMemory is a release whose history is kept in memory and whose objects go nowhere; wait stands for their readiness.
func inMemory(wait func(context.Context) error) *Release {
	return &Release{
		Name: "rel", Namespace: "ns",
		wait: func(ctx context.Context, _ []*unstructured.Unstructured, _ func(string)) error { return wait(ctx) },
		config: action.Configuration{
			Releases:     storage.Init(driver.NewMemory()),
			KubeClient:   &fake.PrintingKubeClient{Out: io.Discard},
			Capabilities: chartutil.DefaultCapabilities,
			Log:          func(string, ...any) {},
		},
	}
}

var tiny = files("templates/cm.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"{{ .Release.Name }}\"}\ndata: {a: \"{{ .Values.a }}\"}\n")

func history(t *testing.T, r *Release) []string {
	t.Helper()
	revisions, err := r.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range revisions {
		a, _, _ := unstructured.NestedString(r.Objects[0].Object, "data", "a")
		if a != fmt.Sprint(r.Values["a"]) {
			t.Errorf("revision %d: its object says %q, its values %v", r.Number, a, r.Values["a"])
		}
		all = append(all, fmt.Sprintf("%d %s %s: %s", r.Number, a, r.Status, r.Description))
	}
	return all
}

func TestAReleaseIsUpgradedUndoneAndRolledBack(t *testing.T) {
	broken, waits := errors.New("no such image"), 0
	fail := false
	r := inMemory(func(context.Context) error {
		waits++
		if fail {
			fail = false // the rollback's own wait succeeds
			return broken
		}
		return nil
	})
	a := func(v string) map[string]any { return map[string]any{"a": v} }
	if err := r.Install(t.Context(), tiny, a("v1")); err != nil || waits != 1 {
		t.Fatalf("installing: %v, %d waits", err, waits)
	}
	if err := r.Upgrade(t.Context(), tiny, a("v2"), true); err != nil || waits != 2 {
		t.Fatalf("upgrading: %v, %d waits", err, waits)
	}
	fail = true
	if err := r.Upgrade(t.Context(), tiny, a("v3"), true); !errors.Is(err, ErrNotReady) || !errors.Is(err, broken) {
		t.Fatalf("upgrading to what does not start: %v", err)
	}
	if err := r.Rollback(t.Context(), 1); err != nil {
		t.Fatalf("rolling back: %v", err)
	}
	fail = true
	if err := r.Upgrade(t.Context(), tiny, a("v4"), false); err != nil || !fail {
		t.Fatalf("upgrading without a wait: %v, waited %v", err, !fail)
	}
	want := []string{
		"1 v1 superseded: Install complete",
		"2 v2 superseded: Upgrade complete",
		`3 v3 failed: Upgrade "rel" failed: not ready: no such image`,
		"4 v2 superseded: Rollback to 2",
		"5 v1 superseded: Rollback to 1",
		"6 v4 deployed: Upgrade complete",
	}
	if got := history(t, r); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	for range 2 { // a second time there is nothing to do
		if err := r.Uninstall(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.History(t.Context()); err == nil {
		t.Errorf("after it is uninstalled: %v", got)
	}
}

func TestAnOperationEndsWithItsContext(t *testing.T) {
	r := inMemory(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Install(ctx, tiny, nil); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotReady) {
		t.Errorf("got %v", err)
	}
}

func TestWhatCannotBeInstalledIsAnErrorThatNamesTheRelease(t *testing.T) {
	r := inMemory(func(context.Context) error { return nil })
	for name, c := range map[string]fstest.MapFS{"no chart": {}, "a template that fails": files("templates/cm.yaml\n{{ fail \"because\" }}")} {
		if err := r.Install(t.Context(), c, nil); err == nil {
			t.Errorf("%s was installed", name)
		} else if errors.Is(err, ErrNotReady) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.Upgrade(t.Context(), tiny, nil, true); err == nil {
		t.Error("what is not installed was upgraded")
	}
}
