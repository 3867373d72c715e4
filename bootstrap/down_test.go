package bootstrap

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/fault"
)

func mustDown(t *testing.T, w *world, o DownOptions) DownReport {
	t.Helper()
	r, err := down(t.Context(), o, w.deps())
	if err != nil {
		t.Fatalf("down: %v", err)
	}
	return r
}

func TestDownRemovesEverythingButTheImages(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	if err := errors.Join(
		writeFile(filepath.Join(o.Cache, "images", "blob"), make([]byte, 3<<20)),
		writeFile(filepath.Join(o.Cache, "work.lock"), nil)); err != nil {
		t.Fatal(err)
	}
	r := mustDown(t, w, o.down())
	want := []string{"container mllab-control-plane", "volume vol-mllab", "kubeconfig and record " + filepath.Join(o.State, "mllab"), "network kind"}
	if !slices.Equal(r.Removed, want) {
		t.Errorf("removed %v", r.Removed)
	}
	if !slices.Equal(r.Kept, []string{"node image " + testRef, "image cache " + o.Cache + " (3 MiB)"}) {
		t.Errorf("kept %v", r.Kept)
	}
	w.clean(o)
	if w.network {
		t.Error("the network stays")
	}
	if _, err := os.Stat(o.State); !os.IsNotExist(err) {
		t.Errorf("the state folder stays: %v", err)
	}
}

func TestDownTwiceRemovesNothingTheSecondTime(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	mustDown(t, w, o.down())
	if r := mustDown(t, w, o.down()); len(r.Removed) > 0 {
		t.Errorf("removed %v", r.Removed)
	}
}

func TestDownWithPurgeRemovesTheImagesAndNothingElseInTheCacheFolder(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	for _, f := range []string{"images/blob", "work/x", "work.lock", "mine.txt"} {
		if err := writeFile(filepath.Join(o.Cache, f), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	mustDown(t, w, o.purge())
	left, err := os.ReadDir(o.Cache)
	if err != nil || len(left) != 1 || left[0].Name() != "mine.txt" || len(w.images) > 0 {
		t.Errorf("left %v, images %v, %v", left, w.images, err)
	}
}

func TestTheNetworkStaysWhenOthersUseItOrItWasThere(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.users = []string{"another-cluster"}
	mustDown(t, w, o.down())
	if !w.network {
		t.Error("the network was removed under another container")
	}
	w.users = nil
	if r := mustDown(t, w, o.down()); w.network || !slices.Equal(r.Removed, []string{"network kind"}) {
		t.Errorf("later: network %v, removed %v", w.network, r.Removed)
	}

	w = newWorld(t)
	w.network = true
	o = w.options()
	mustUp(t, w, o)
	mustDown(t, w, o.down())
	if !w.network {
		t.Error("a network that was there before was removed")
	}
}

func TestDownOfOneClusterLeavesTheOther(t *testing.T) {
	w := newWorld(t)
	a := w.options()
	b := a
	b.Name, b.Port = "other", 9001
	mustUp(t, w, a)
	mustUp(t, w, b)
	mustDown(t, w, a.down())
	if len(w.containers) != 1 || w.containers[0].Name != "other-control-plane" || !w.network {
		t.Errorf("containers %v, network %v", w.containers, w.network)
	}
	mustDown(t, w, b.down())
	w.clean(b)
	if w.network {
		t.Error("the network stays")
	}
}

// An `up` that has neither a record nor a container yet may be about to start its node with them.
func TestDownLeavesWhatAStartingUpOfAnotherClusterNeeds(t *testing.T) {
	for verb, stays := range map[string]bool{"up": true, "down": false} {
		w := newWorld(t)
		a := w.options()
		mustUp(t, w, a)
		other := a
		other.Name = "other"
		if err := writeFile(a.store().podmanConf(), nil); err != nil {
			t.Fatal(err)
		}
		_, done, err := other.store().lockAll(verb)
		if err != nil {
			t.Fatal(err)
		}
		mustDown(t, w, a.down())
		if w.network != stays || exists(a.store().podmanConf()) != stays {
			t.Errorf("beside %s: network %v, podman's configuration %v", verb, w.network, exists(a.store().podmanConf()))
		}
		done()
		mustDown(t, w, a.down())
		if w.network || exists(a.store().podmanConf()) {
			t.Errorf("after %s: network %v, podman's configuration %v", verb, w.network, exists(a.store().podmanConf()))
		}
	}
}

func TestDownWorksWithABrokenRecord(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	if err := os.WriteFile(filepath.Join(o.State, "mllab", "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := up(t.Context(), o, w.deps()); err == nil || !strings.Contains(fault.Hint(err), "mllab down") {
		t.Errorf("up: %v", err)
	}
	mustDown(t, w, o.down())
	w.clean(o)
}

func TestDownKeepsTheRecordWhenTheEngineCannotBeAsked(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.failing["info"] = errors.New("exit status 125: Cannot connect to Podman")
	if _, err := down(t.Context(), o.down(), w.deps()); err == nil || record(t, o) == nil {
		t.Errorf("error %v, record %v", err, record(t, o))
	}
	w = newWorld(t)
	w.failing["info"] = errors.New("exit status 125: Cannot connect to Podman")
	none := w.options().down()
	mustDown(t, w, none) // no record: nothing to be sorry for
	if none.Engine = "podman"; fault.Code(errorOf(down(t.Context(), none, w.deps()))) != 2 {
		t.Error("the engine that was named does not work, and down says that there is no cluster")
	}
}

func TestPurgeNeedsNoEngineForTheCache(t *testing.T) {
	w := newWorld(t)
	w.failing["info"] = errors.New("exit status 125: Cannot connect to Podman")
	o := w.options().purge()
	o.Engine = "podman"
	blob := filepath.Join(o.Cache, "images", "blob")
	if err := errors.Join(writeFile(blob, nil), writeFile(filepath.Join(o.Cache, "work.lock"), nil)); err != nil {
		t.Fatal(err)
	}
	r, err := down(t.Context(), o, w.deps())
	if fault.Code(err) != 2 || !strings.Contains(err.Error(), "did not look for a cluster or node images in podman: ") || !strings.Contains(err.Error(), "Cannot connect") {
		t.Errorf("code %d, %v", fault.Code(err), err)
	}
	if exists(blob) || len(r.Removed) != 1 {
		t.Errorf("removed %v", r.Removed)
	}
}

func TestLibModulesStaysWhileAnotherStateFoldersClusterMountsIt(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	if err := (store{root: o.State, name: DefaultName}).saveHostRecord(hostRecord{LibModules: true}); err != nil {
		t.Fatal(err)
	}
	w.otherNodes = []string{"91a7"}
	if r := mustDown(t, w, o.down()); !slices.Contains(r.Kept, "/lib/modules, which other clusters use") {
		t.Errorf("removed %v, kept %v", r.Removed, r.Kept)
	}
	if m, err := (store{root: o.State, name: DefaultName}).loadHostRecord(); err != nil || !m.LibModules {
		t.Errorf("it is forgotten that mllab made it: %+v, %v", m, err)
	}
}

func TestPurgeKeepsTheNodeImageOfAnotherLab(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	other := o
	other.Name, other.Port = "other", 9001
	mustUp(t, w, other)
	if r := mustDown(t, w, o.purge()); !slices.Contains(r.Kept, "node image "+testRef+", which another lab uses") || len(w.images) != 1 {
		t.Errorf("kept %v, images %v", r.Kept, w.images)
	}
	if r := mustDown(t, w, other.purge()); !slices.Contains(r.Removed, "node image "+testRef) || len(w.images) != 0 {
		t.Errorf("the last one removed %v, images %v", r.Removed, w.images)
	}
}

func TestDownSaysWhichVolumeItCouldNotRemove(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.failing["volume rm"] = errors.New("volume is being used")
	if _, err := down(t.Context(), o.down(), w.deps()); err == nil || !strings.Contains(err.Error(), "removing volume vol-mllab: volume is being used") {
		t.Errorf("error: %v", err)
	}
	if record(t, o) == nil {
		t.Error("the record is gone although something is left")
	}
}

func TestDownRemovesNoFolderAndNoLinkThatAPersonMade(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(dir string, o *UpOptions) error // dir is a folder of the person
		kept    []string                             // below dir
		up      bool
	}{
		"a state folder that is a link, without a cluster": {func(dir string, o *UpOptions) error {
			o.State = filepath.Join(dir, "link")
			return errors.Join(os.Mkdir(filepath.Join(dir, "target"), 0o755), os.Symlink("target", o.State))
		}, []string{"link", "target"}, false},
		"a state folder that is a link, after a cluster": {func(dir string, o *UpOptions) error {
			o.State = filepath.Join(dir, "link")
			return errors.Join(os.Mkdir(filepath.Join(dir, "target"), 0o755), os.Symlink("target", o.State))
		}, []string{"link", "target"}, true},
		"a state folder that was there": {func(dir string, o *UpOptions) error {
			o.State = filepath.Join(dir, "mine")
			return os.Mkdir(o.State, 0o755)
		}, []string{"mine"}, true},
		"evidence that is a link to another disk": {func(dir string, o *UpOptions) error {
			o.State = filepath.Join(dir, "state")
			return errors.Join(os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.MkdirAll(filepath.Join(o.State, DefaultName), 0o700),
				os.WriteFile(filepath.Join(o.State, "made.json"), []byte("{}"), 0o600), os.WriteFile(filepath.Join(dir, "disk", "answers.jsonl"), nil, 0o600),
				os.Symlink(filepath.Join(dir, "disk"), filepath.Join(o.State, DefaultName, evidenceDir)))
		}, []string{"state/mllab/evidence", "disk/answers.jsonl"}, true},
		"a file beside the record": {func(dir string, o *UpOptions) error {
			o.State = filepath.Join(dir, "state")
			return errors.Join(os.MkdirAll(filepath.Join(o.State, DefaultName), 0o700), os.WriteFile(filepath.Join(o.State, "made.json"), []byte("{}"), 0o600),
				os.WriteFile(filepath.Join(o.State, DefaultName, "notes.txt"), nil, 0o600))
		}, []string{"state/mllab/notes.txt"}, true},
		"a cache that is a link": {func(dir string, o *UpOptions) error {
			o.Cache = filepath.Join(dir, "link")
			return errors.Join(os.Mkdir(filepath.Join(dir, "target"), 0o755), os.Symlink("target", o.Cache), os.WriteFile(filepath.Join(dir, "target", "work.lock"), nil, 0o600))
		}, []string{"link", "target"}, true},
		"images in the cache that are a link": {func(dir string, o *UpOptions) error {
			o.Cache = filepath.Join(dir, "cache")
			return errors.Join(os.MkdirAll(filepath.Join(dir, "disk"), 0o755), os.Mkdir(o.Cache, 0o755), os.WriteFile(filepath.Join(o.Cache, "work.lock"), nil, 0o600),
				os.WriteFile(filepath.Join(dir, "disk", "blob"), nil, 0o600), os.Symlink(filepath.Join(dir, "disk"), filepath.Join(o.Cache, "images")))
		}, []string{"cache/images", "disk/blob"}, true},
		"a cache that is a home": {func(dir string, o *UpOptions) error {
			o.Cache = dir
			return errors.Join(os.Mkdir(filepath.Join(dir, "images"), 0o755), os.Mkdir(filepath.Join(dir, "work"), 0o755), os.WriteFile(filepath.Join(dir, "work", "thesis.tex"), nil, 0o600))
		}, []string{"images", "work/thesis.tex"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			dir := t.TempDir()
			if err := c.prepare(dir, &o); err != nil {
				t.Fatal(err)
			}
			if c.up {
				mustUp(t, w, o)
			}
			r := mustDown(t, w, o.purge())
			for _, k := range c.kept {
				if _, err := os.Lstat(filepath.Join(dir, k)); err != nil {
					t.Errorf("%s is gone: removed %v, kept %v", k, r.Removed, r.Kept)
				}
			}
			if st := record(t, o); st != nil || len(w.containers) > 0 {
				t.Errorf("left: %+v, %v", st, w.containers)
			}
			mustDown(t, w, o.purge()) // and once more
		})
	}
}

func TestAFolderOfOtherThingsIsNoStateFolder(t *testing.T) {
	home := t.TempDir()
	if err := writeFile(filepath.Join(home, "documents", "thesis.tex"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	for verb, call := range map[string]func(*world, UpOptions) error{
		"up":   func(w *world, o UpOptions) error { _, err := up(t.Context(), o, w.deps()); return err },
		"down": func(w *world, o UpOptions) error { _, err := down(t.Context(), o.down(), w.deps()); return err },
	} {
		w := newWorld(t)
		o := w.options()
		o.State, o.Name = home, "documents"
		if err := call(w, o); fault.Code(err) != 2 || !strings.Contains(err.Error(), "which holds documents: nothing was changed") {
			t.Errorf("%s: %v", verb, err)
		}
		if len(w.calls)+len(w.created) > 0 {
			t.Errorf("%s changed something: %v", verb, w.calls)
		}
	}
	if files, err := filepath.Glob(filepath.Join(home, "*", "*")); err != nil || len(files) != 1 {
		t.Errorf("left: %v, %v", files, err)
	}
}

func TestARecordOfAnotherProgramStays(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	file := filepath.Join(o.State, "game", "state.json")
	if err := errors.Join(writeFile(file, []byte(`{"level":7}`)), writeFile(filepath.Join(o.State, "made.json"), []byte("{}"))); err != nil {
		t.Fatal(err)
	}
	o.Name = "game"
	if _, err := down(t.Context(), o.down(), w.deps()); fault.Code(err) != 2 || !exists(file) {
		t.Errorf("down: %v", err)
	}
}
