package bootstrap

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/fault"
)

func TestAMergedContextFollowsItsClusterAndGoesWithIt(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	mine := filepath.Join(t.TempDir(), "config")
	own := "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\ncurrent-context: \"\" # none\n"
	if err := writeFile(mine, []byte(own)); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(mine)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if _, err := MergeKubeconfig(o.Options, mine); err != nil || !strings.Contains(read(), "https://127.0.0.1:1\"") {
		t.Fatal(err, read())
	}
	// The same cluster: a person's choice of a context stays.
	chosen := strings.Replace(read(), "current-context: mllab-mllab", "current-context: other", 1)
	if err := writeFile(mine, []byte(chosen)); err != nil {
		t.Fatal(err)
	}
	mustUp(t, w, o)
	if read() != chosen {
		t.Errorf("up without a change made\n%s", read())
	}
	// Another cluster in its place.
	w.dead["mllab-control-plane"] = true
	mustUp(t, w, o)
	if want := strings.Replace(chosen, "https://127.0.0.1:1", "https://127.0.0.1:2", 1); read() != want {
		t.Errorf("up with a new cluster made\n%s\nwant\n%s", read(), want)
	}
	r := mustDown(t, w, o.down())
	if !slices.Contains(r.Removed, "context mllab-mllab in "+mine) || strings.Contains(read(), "mllab") || !strings.Contains(read(), "current-context: other # none") {
		t.Errorf("removed %v, left\n%s", r.Removed, read())
	}
	w.clean(o)
}

// kubectl config delete-cluster leaves the context and the user.
func TestWhatIsLeftOfAMergedContextIsRepairedAndGoesWithTheLab(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	mine := filepath.Join(t.TempDir(), "config")
	const left = "contexts:\n- name: mllab-mllab\n  context: {cluster: mllab-mllab, user: mllab-mllab}\nusers:\n- name: mllab-mllab\n  user: {}\n"
	leave := func() {
		t.Helper()
		if err := writeFile(mine, []byte(left)); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	if _, err := MergeKubeconfig(o.Options, mine); fault.Code(err) != 2 {
		t.Errorf("what no lab was merged into: %v", err)
	}
	if err := os.Remove(mine); err != nil {
		t.Fatal(err)
	}
	if _, err := MergeKubeconfig(o.Options, mine); err != nil {
		t.Fatal(err)
	}
	leave()
	w.dead["mllab-control-plane"] = true
	mustUp(t, w, o)
	if got, err := os.ReadFile(mine); err != nil || !strings.Contains(string(got), "https://127.0.0.1:2") {
		t.Errorf("up with a new cluster: %v, made\n%s", err, got)
	}
	leave()
	if _, err := MergeKubeconfig(o.Options, mine); err != nil {
		t.Error(err)
	}
	leave()
	if r := mustDown(t, w, o.down()); !slices.Contains(r.Removed, "context mllab-mllab in "+mine) {
		t.Errorf("removed %v, kept %v", r.Removed, r.Kept)
	}
	if got, err := os.ReadFile(mine); !os.IsNotExist(err) { // Merge made it
		t.Errorf("down left %v\n%s", err, got)
	}
	w.clean(o)
}

func TestALabIsNotMergedIntoItsOwnKubeconfig(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	at, err := FindAccess(o.Options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := MergeKubeconfig(o.Options, at.Kubeconfig); fault.Code(err) != 2 || !strings.Contains(err.Error(), "got a lab's own: "+at.Kubeconfig) {
		t.Errorf("merging into what `mllab env` names: %v", err)
	}
	link := filepath.Join(t.TempDir(), "config")
	if err := os.Symlink(at.Kubeconfig, link); err != nil {
		t.Fatal(err)
	}
	if _, err := MergeKubeconfig(o.Options, link); fault.Code(err) != 2 {
		t.Errorf("merging into a link to it: %v", err)
	}
	own, err := Kubeconfig(o.Options)
	if err != nil {
		t.Errorf("the lab's own kubeconfig is broken: %v", err)
	}
	// Somebody renames its context: up writes it again.
	file, err := os.ReadFile(at.Kubeconfig)
	if err == nil {
		err = os.WriteFile(at.Kubeconfig, bytes.ReplaceAll(file, []byte("kind-mllab"), []byte("lab")), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Kubeconfig(o.Options); !strings.Contains(fault.Hint(err), "mllab up") {
		t.Errorf("%v, hint: %s", err, fault.Hint(err))
	}
	mustUp(t, w, o)
	if got, err := Kubeconfig(o.Options); err != nil || !bytes.Equal(got, own) {
		t.Errorf("%v\n%s", err, got)
	}
	mustDown(t, w, o.down())
	w.clean(o)
}

func TestAFileNamedByARelativePathIsFoundFromEverywhere(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	mine, gone := filepath.Join(t.TempDir(), "mine"), filepath.Join(t.TempDir(), "gone")
	elsewhere, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(mine))
	for _, path := range []string{"mine", gone} {
		if _, err := MergeKubeconfig(o.Options, path); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(elsewhere)
	if err := os.Remove(gone); err != nil { // its owner's decision
		t.Fatal(err)
	}
	w.dead["mllab-control-plane"] = true
	mustUp(t, w, o)
	if text, err := os.ReadFile(mine); err != nil || !strings.Contains(string(text), "https://127.0.0.1:2") {
		t.Errorf("after a new cluster: %v\n%s", err, text)
	}
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("a file that was removed is there again: %v", err)
	}
	if r := mustDown(t, w, o.down()); !slices.Contains(r.Removed, "context mllab-mllab in "+mine) {
		t.Errorf("removed %v", r.Removed)
	}
	w.clean(o)
}

func TestDownSaysWhichContextItCouldNotRemove(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	mine := filepath.Join(t.TempDir(), "config")
	if _, err := MergeKubeconfig(o.Options, mine); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(mine, []byte("a: [")); err != nil {
		t.Fatal(err)
	}
	w.dead["mllab-control-plane"] = true
	mustUp(t, w, o) // a file that cannot be read is no reason to fail
	r := mustDown(t, w, o.down())
	if !slices.ContainsFunc(r.Kept, func(k string) bool {
		return strings.HasPrefix(k, "context mllab-mllab in "+mine+" ("+mine+" must be a kubeconfig")
	}) {
		t.Errorf("kept %q", r.Kept)
	}
	w.clean(o)
}
