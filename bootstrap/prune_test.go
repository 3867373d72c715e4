package bootstrap

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"mllab.local/bootstrap/images"
)

func TestPruneRemovesTheNodeImagesThatNothingUses(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o) // its container is of testRef
	var current []string
	for _, flags := range []UpOptions{{Core: true}, {Core: true, Addons: []string{"git"}}, {}, {Addons: []string{"all"}}} {
		names, err := Components(flags.Core, flags.Addons)
		if err != nil {
			t.Fatal(err)
		}
		refs, err := images.NodeRefs(names)
		if err != nil || len(refs) != 2 || refs[0] == refs[1] {
			t.Fatalf("node images %q, %v", refs, err)
		}
		current = append(current, refs...)
	}
	const old = "localhost/mllab-node:0123456789ab"
	w.images = append(append(w.images, old, "docker.io/kindest/node:v1", "localhost/mllab-node-of-others:1"), current...)
	r, err := prune(t.Context(), o.Options, w.deps())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Nodes, []string{old}) || slices.Contains(w.images, old) || len(w.images) != 3+len(current) {
		t.Errorf("removed %q, left %q", r.Nodes, w.images)
	}
	if len(r.Kept) != 1+len(current) || r.Kept[0] != testRef+", which a lab uses" || r.Kept[1] != current[0]+", which the next up uses" {
		t.Errorf("kept %q", r.Kept)
	}
	mustDown(t, w, o.down())
	if r, err = prune(t.Context(), o.Options, w.deps()); err != nil || !slices.Equal(r.Nodes, []string{testRef}) {
		t.Errorf("without a container: removed %q, %v", r.Nodes, err)
	}
}

func TestPruneSaysWhichNodeImageCannotBeRemoved(t *testing.T) {
	w := newWorld(t)
	const first, second = "localhost/mllab-node:1", "localhost/mllab-node:2"
	w.images = []string{first, second}
	w.failing["rmi "+first] = errors.New("image is in use by a container")
	r, err := prune(t.Context(), w.options().Options, w.deps())
	if err == nil || !strings.Contains(err.Error(), "removing "+first+": ") || !slices.Equal(r.Nodes, []string{second}) {
		t.Errorf("removed %q, %v", r.Nodes, err)
	}
}
