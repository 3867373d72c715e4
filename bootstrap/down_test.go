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

func mustDown(t *testing.T, w *world, o Options) DownReport {
	t.Helper()
	r, err := down(t.Context(), o, w.parts())
	if err != nil {
		t.Fatalf("down: %v", err)
	}
	return r
}

func TestDownRemovesEverythingButTheImages(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	if err := writeFile(filepath.Join(o.Cache, "images", "blob"), make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := mustDown(t, w, o)
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
	mustDown(t, w, o)
	if r := mustDown(t, w, o); len(r.Removed) > 0 {
		t.Errorf("removed %v", r.Removed)
	}
}

func TestDownWithPurgeRemovesTheImagesAndNothingElseInTheCacheFolder(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	for _, f := range []string{"images/blob", "work/x", "mine.txt"} {
		if err := writeFile(filepath.Join(o.Cache, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.Purge = true
	mustDown(t, w, o)
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
	mustDown(t, w, o)
	if !w.network {
		t.Error("the network was removed under another container")
	}
	w.users = nil
	if r := mustDown(t, w, o); w.network || !slices.Equal(r.Removed, []string{"network kind"}) {
		t.Errorf("later: network %v, removed %v", w.network, r.Removed)
	}

	w = newWorld(t)
	w.network = true
	o = w.options()
	mustUp(t, w, o)
	mustDown(t, w, o)
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
	mustDown(t, w, a)
	if len(w.containers) != 1 || w.containers[0].Name != "other-control-plane" || !w.network {
		t.Errorf("containers %v, network %v", w.containers, w.network)
	}
	mustDown(t, w, b)
	w.clean(b)
	if w.network {
		t.Error("the network stays")
	}
}

func TestDownWorksWithABrokenRecord(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	if err := os.WriteFile(filepath.Join(o.State, "mllab", "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := up(t.Context(), o, w.parts()); err == nil || !strings.Contains(fault.Hint(err), "mllab down") {
		t.Errorf("up: %v", err)
	}
	mustDown(t, w, o)
	w.clean(o)
}

func TestDownKeepsTheRecordWhenTheEngineCannotBeAsked(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.failing["info"] = errors.New("exit status 125: Cannot connect to Podman")
	if _, err := down(t.Context(), o, w.parts()); err == nil || record(t, o) == nil {
		t.Errorf("error %v, record %v", err, record(t, o))
	}
	w = newWorld(t)
	w.failing["info"] = errors.New("exit status 125: Cannot connect to Podman")
	mustDown(t, w, w.options()) // no record: nothing to be sorry for
}

func TestDownSaysWhichVolumeItCouldNotRemove(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.failing["volume rm"] = errors.New("volume is being used")
	if _, err := down(t.Context(), o, w.parts()); err == nil || !strings.Contains(err.Error(), "removing volume vol-mllab: volume is being used") {
		t.Errorf("error: %v", err)
	}
	if record(t, o) == nil {
		t.Error("the record is gone although something is left")
	}
}
