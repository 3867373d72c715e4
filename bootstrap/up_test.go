package bootstrap

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mllab.local/addons"
	"mllab.local/bootstrap/images"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

// mustUp calls up and expects it to work.
func mustUp(t *testing.T, w *world, o UpOptions) Summary {
	t.Helper()
	sum, err := up(t.Context(), o, w.deps())
	if err != nil {
		t.Fatalf("up: %v", err)
	}
	return sum
}

func record(t *testing.T, o UpOptions) *state {
	t.Helper()
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	st, err := o.store().load()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestUpMakesEverythingAndSaysHowToGoOn(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	sum := mustUp(t, w, o)
	if !sum.Created || sum.URL != "http://127.0.0.1:8080" || sum.Engine != "podman" || sum.Kubernetes != "v1.36.5" || sum.Next != "mllab scenario canary" {
		t.Errorf("summary: %+v", sum)
	}
	if st := record(t, o); st == nil || st.Phase != phaseReady || st.Port != 8080 || st.NodeImage != testRef || len(st.Addons) == 0 {
		t.Errorf("record: %+v", st)
	}
	if !slices.Equal(w.forgotten, []int{8080}) {
		t.Errorf("the connections to %v are forgotten, and not those to the node of before", w.forgotten)
	}
	info, err := os.Stat(sum.Kubeconfig)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v, %v", info, err)
	}
	if !slices.Equal(w.written, []string{"engine: image " + testRef}) {
		t.Errorf("loaded: %v", w.written)
	}
	if len(sum.Addons) == 0 || sum.Steps[len(sum.Steps)-1].Changed == "unchanged" {
		t.Errorf("steps: %+v", sum.Steps)
	}
}

func TestASecondUpChangesNothing(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.calls = nil
	sum := mustUp(t, w, o)
	if sum.Created || len(w.calls) > 0 || len(w.created) != 1 {
		t.Errorf("created %v, calls %v, creations %d", sum.Created, w.calls, len(w.created))
	}
	for _, s := range sum.Steps {
		if s.Name == "cluster" && s.Changed != "unchanged" || s.Name == "images on the node" && s.Changed != "unchanged" {
			t.Errorf("step %+v", s)
		}
	}
}

func TestUpRefusesWithEveryReasonBeforeAnythingIsMade(t *testing.T) {
	w := newWorld(t)
	w.machine.PortErr, w.machine.PortHolder = syscall.EADDRINUSE, "nginx (process 7)"
	w.machine.MemoryAvailable = gib
	o := w.options()
	_, err := up(t.Context(), o, w.deps())
	if fault.Code(err) != 2 || !strings.Contains(err.Error(), "in use by nginx (process 7)") || !strings.Contains(err.Error(), "1.0 GiB available") || !strings.Contains(err.Error(), "2 reasons") {
		t.Errorf("error: %v", err)
	}
	if len(w.calls)+len(w.created) > 0 {
		t.Errorf("it changed something: %v", w.calls)
	}
	if _, err := os.Stat(o.State); !os.IsNotExist(err) {
		t.Errorf("the state folder was left: %v", err)
	}
}

func TestAForeignClusterOfThatNameIsLeftAlone(t *testing.T) {
	for name, c := range map[string]container{
		"another image":   {ID: "1", Name: "mllab-control-plane", Image: "docker.io/kindest/node:v1.34.0", Status: "up", Port: 8080},
		"no gateway port": {ID: "1", Name: "mllab-control-plane", Image: testRef, Status: "up"},
		"stopped":         {ID: "1", Name: "mllab-control-plane", Image: "docker.io/kindest/node:v1.34.0", Status: "exited"},
	} {
		for verb, call := range map[string]func(*world, UpOptions) error{
			"up":   func(w *world, o UpOptions) error { _, err := up(t.Context(), o, w.deps()); return err },
			"down": func(w *world, o UpOptions) error { _, err := down(t.Context(), o.down(), w.deps()); return err },
		} {
			w := newWorld(t)
			w.add(c)
			err := call(w, w.options())
			if fault.Code(err) != 2 || !strings.Contains(err.Error(), "not mllab's") {
				t.Errorf("%s, %s: %v", name, verb, err)
			}
			if len(w.calls) > 0 || len(w.containers) != 1 {
				t.Errorf("%s: %s touched it: %v", name, verb, w.calls)
			}
		}
	}
}

func TestAMarkedClusterWithoutARecordIsForDownNotForUp(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	if err := os.RemoveAll(filepath.Join(o.State, DefaultName)); err != nil {
		t.Fatal(err)
	}
	_, err := up(t.Context(), o, w.deps())
	if fault.Code(err) != 2 || !strings.Contains(err.Error(), "no record") || !strings.Contains(err.Error(), "mllab down") {
		t.Errorf("up: %v", err)
	}
	if _, err := down(t.Context(), o.down(), w.deps()); err != nil {
		t.Errorf("down: %v", err)
	}
	w.clean(o)
}

func TestALabOfAnotherKubernetesIsNotTouched(t *testing.T) {
	for _, c := range []struct {
		name, kubernetes, status string
		taken                    bool
	}{
		{"an older one that runs", "v1.30.4", "up", false},
		{"an older one that is stopped", "v1.30.4", "exited", false},
		{"a newer one", "v1.99.0", "up", false},
		{"another patch", images.KubeVersion + "9", "up", true},
		{"a record without images", "", "up", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			mustUp(t, w, o)
			st := *record(t, o)
			st.Images = maps.Clone(st.Images)
			st.Images["kube-apiserver"] = "registry.k8s.io/kube-apiserver:" + c.kubernetes
			full, err := o.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			if err := full.store().save(st); err != nil {
				t.Fatal(err)
			}
			w.containers[0].Status = c.status
			w.calls = nil
			installs := w.installs
			_, err = up(t.Context(), o, w.deps())
			if c.taken {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if fault.Code(err) != 2 || !strings.Contains(err.Error(), "a lab of Kubernetes "+c.kubernetes) || !strings.Contains(err.Error(), "mllab down --name mllab") {
				t.Errorf("up: %v", err)
			}
			if len(w.calls) > 0 || w.installs != installs || record(t, o).Images["kube-apiserver"] != st.Images["kube-apiserver"] {
				t.Errorf("up touched it: %v", w.calls)
			}
			if _, err := down(t.Context(), DownOptions{Options: o.Options}, w.deps()); err != nil {
				t.Errorf("down: %v", err)
			}
			w.clean(o)
		})
	}
}

func TestWhatAnInterruptedUpLeftIsResumedOrReplaced(t *testing.T) {
	for _, c := range []struct {
		name    string
		leave   func(w *world, st *state)
		creates int
		starts  bool
	}{
		{"killed before kind made anything", func(w *world, st *state) {
			st.Phase = phaseCreating
			w.containers, w.volumes = nil, map[string]string{}
		}, 2, false},
		{"killed while kind made the volume", func(w *world, st *state) { st.Phase = phaseCreating; w.containers = nil }, 2, false},
		{"killed in kubeadm", func(w *world, st *state) { st.Phase = phaseCreating }, 2, false},
		{"killed while addons came", func(w *world, st *state) { st.Phase = phaseCreated }, 1, false},
		{"node stopped", func(w *world, _ *state) { w.containers[0].Status = "exited" }, 1, true},
		{"node never started after a reboot", func(w *world, _ *state) { w.containers[0].Status = "created" }, 1, true},
		{"node's processes ended behind the engine's back", func(w *world, _ *state) { w.dead[w.containers[0].Name] = true }, 2, false},
		{"node in a state of podman's own", func(w *world, _ *state) { w.containers[0].Status = "stopping" }, 2, false},
		{"node removed by hand", func(w *world, _ *state) { w.containers = nil }, 2, false},
		{"node stopped and not startable", func(w *world, _ *state) {
			w.containers[0].Status = "exited"
			w.failing["start"] = errors.New("container state improper")
		}, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			o.Port = 9000
			mustUp(t, w, o)
			st := *record(t, o)
			c.leave(w, &st)
			full, err := o.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			if err := full.store().save(st); err != nil {
				t.Fatal(err)
			}
			w.calls = nil
			again := o
			again.Port = DefaultPort // not given this time
			if w.duringKind = func() { w.dead = map[string]bool{} }; c.creates == 1 {
				w.duringKind = nil
			}
			sum := mustUp(t, w, again)
			if len(w.created) != c.creates {
				t.Errorf("created %d times, want %d", len(w.created), c.creates)
			}
			if started := slices.Contains(w.calls, "start mllab-control-plane"); started != c.starts {
				t.Errorf("started: %v", w.calls)
			}
			if len(w.containers) != 1 || len(w.volumes) != 1 {
				t.Errorf("containers %v, volumes %v", w.containers, w.volumes)
			}
			if sum.URL != "http://127.0.0.1:9000" {
				t.Errorf("the address moved to %s", sum.URL)
			}
			if st := record(t, o); st.Phase != phaseReady {
				t.Errorf("phase %s", st.Phase)
			}
			if _, err := down(t.Context(), o.down(), w.deps()); err != nil {
				t.Errorf("down: %v", err)
			}
			w.clean(o)
		})
	}
}

func TestAnInterruptDuringCreationLeavesNothing(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.duringKind = cancel
	o := w.options()
	_, err := up(ctx, o, w.deps())
	if fault.Code(err) != 130 {
		t.Errorf("error %v, code %d", err, fault.Code(err))
	}
	w.clean(o)
	// The network stays, noted as ours, until the next down.
	if _, err := down(t.Context(), o.down(), w.deps()); err != nil || w.network {
		t.Errorf("down: %v, network %v", err, w.network)
	}
	if _, err := os.Stat(o.State); !os.IsNotExist(err) {
		t.Errorf("the state folder was left: %v", err)
	}
}

func TestAFailedCreationLeavesNothingAndKeepsItsReason(t *testing.T) {
	w := newWorld(t)
	w.createErr = []error{errors.New("failed to init node with kubeadm")}
	o := w.options()
	_, err := up(t.Context(), o, w.deps())
	if fault.Code(err) != 1 || !strings.Contains(err.Error(), "creating cluster mllab: failed to init node with kubeadm") {
		t.Errorf("error: %v", err)
	}
	w.clean(o)
}

func TestACreationThatFailsAfterItsAPIAnsweredStopsTheAddons(t *testing.T) {
	w := newWorld(t)
	w.createErr = []error{errors.New("failed to init node with kubeadm")}
	w.serving = make(chan struct{})
	w.duringKind = func() { <-w.serving } // kind fails when the addons are on their way
	o := w.options()
	_, err := up(t.Context(), o, w.deps())
	if fault.Code(err) != 1 || err.Error() != "creating cluster mllab: failed to init node with kubeadm" {
		t.Errorf("error: %v", err)
	}
	w.clean(o)
}

func TestANodeThatAKilledUpWasStillMakingIsTakenAwayOnce(t *testing.T) {
	w := newWorld(t)
	w.createErr = []error{errors.New(`node(s) already exist for a cluster with the name "mllab"`), nil}
	mustUp(t, w, w.options())
	if len(w.created) != 2 {
		t.Errorf("created %d times", len(w.created))
	}
}

func TestAnInterruptDuringAddonsKeepsTheClusterForTheNextUp(t *testing.T) {
	w := newWorld(t)
	w.installErr = errors.New("istio: Deployment/istio-system/istiod: 0/1 ready")
	o := w.options()
	if _, err := up(t.Context(), o, w.deps()); fault.Code(err) != 1 {
		t.Errorf("error: %v", err)
	}
	if st := record(t, o); st.Phase == phaseReady || len(w.containers) != 1 {
		t.Errorf("phase %s, containers %v", st.Phase, w.containers)
	}
	w.installErr = nil
	if sum := mustUp(t, w, o); sum.Created {
		t.Error("the cluster was replaced")
	}
}

func TestAStoppedNodeWhosePortIsTakenIsLeftAsItIs(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.containers[0].Status = "exited"
	w.failing["start"] = errors.New("cannot listen on the TCP port: listen tcp4 127.0.0.1:20001: bind: address already in use")
	w.portErr = syscall.EADDRINUSE
	if _, err := up(t.Context(), o, w.deps()); fault.Code(err) != 2 || !strings.Contains(err.Error(), "20001") || !strings.Contains(fault.Hint(err), "that port") {
		t.Errorf("%v", err)
	}
	if len(w.created) != 1 || len(w.containers) != 1 {
		t.Errorf("created %d times, containers %v", len(w.created), w.containers)
	}
	delete(w.failing, "start")
	if sum := mustUp(t, w, o); sum.Created {
		t.Error("it was replaced")
	}
	w.containers[0].Status, w.portErr, w.failing["start"] = "exited", nil, errors.New("cannot start")
	if sum := mustUp(t, w, o); !sum.Created {
		t.Error("a node that cannot be started for another reason was not replaced")
	}
}

func TestThePort(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Port = 0
	if sum := mustUp(t, w, o); sum.URL != "http://127.0.0.1:40123" {
		t.Errorf("auto: %s", sum.URL)
	}
	o.Port = DefaultPort
	if sum := mustUp(t, w, o); sum.URL != "http://127.0.0.1:40123" {
		t.Errorf("a cluster moved because no port was named: %s", sum.URL)
	}
	o.Port, o.PortGiven = 9999, true
	_, err := up(t.Context(), o, w.deps())
	if fault.Code(err) != 2 || !strings.Contains(err.Error(), "gateway on port 40123") || !strings.Contains(err.Error(), "mllab down --name mllab && mllab up --port 9999") {
		t.Errorf("another port: %v", err)
	}
	o.Port = 0
	if sum := mustUp(t, w, o); sum.URL != "http://127.0.0.1:40123" {
		t.Errorf("auto again: %s", sum.URL)
	}
}

func TestImagesThatTheNodeLacksAreLoadedIntoIt(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	newer := map[string]string{}
	maps.Copy(newer, w.node.Images)
	newer["sampleapp"] = "kind.local/sampleapp:2"
	w.node.Images, w.node.Ref, w.written = newer, "localhost/mllab-node:def", nil
	mustUp(t, w, o)
	if !slices.Equal(w.written, []string{"node: sampleapp"}) {
		t.Errorf("loaded %v", w.written)
	}
	if st := record(t, o); st.Images["sampleapp"] != "kind.local/sampleapp:2" {
		t.Errorf("record: %v", st.Images)
	}
}

func TestUpBringsTheWholeLabAndCoreTheSmallOne(t *testing.T) {
	core := addons.Core()
	whole := append(addons.Core(), "flux", "git", "jobset", "trainer", "kserve", "argo-workflows", "registry", "kubeflow")
	progressive := []string{"prometheus", "alertmanager", "flagger", "progressive"}
	for _, c := range []struct {
		o          UpOptions
		have, want []string
	}{
		{UpOptions{}, nil, whole},
		{UpOptions{Core: true}, nil, core},
		{UpOptions{Core: true, Addons: []string{"git"}}, nil, append(addons.Core(), "flux", "git")},
		{UpOptions{Core: true, GitOps: true}, nil, append(addons.Core(), "flux", "git")},
		{UpOptions{Addons: []string{"progressive"}}, nil, slices.Concat(whole, progressive)},
		// What is there stays: what another up asked for, and what --core leaves out.
		{UpOptions{}, progressive, slices.Concat(whole, progressive)},
		{UpOptions{Core: true}, whole, whole},
		{UpOptions{}, core, whole},
	} {
		list, err := addons.Select(append(c.o.addons(), c.have...)...)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range list {
			got = append(got, a.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v, there %v: %v, want %v", c.o, c.have, got, c.want)
		}
	}
	small, err := Components(true, nil)
	if err != nil || slices.Contains(small, "gitserver") || !slices.Contains(small, "sampleapp") {
		t.Errorf("the core's images are %v, %v", small, err)
	}
	if with, err := Components(true, []string{"git"}); err != nil || len(with) != len(small)+4 {
		t.Errorf("with git they are %v, %v", with, err)
	}
	if all, err := Components(false, nil); err != nil || !slices.Contains(all, "runner") || slices.Contains(all, "prometheus") {
		t.Errorf("the whole lab's images are %v, %v", all, err)
	}
}

func TestACoreLabGrowsOnlyWhenAskedAndAWholeOneNeverShrinks(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	var notes bytes.Buffer
	o.Report = report.New(&notes, report.Options{})
	has := func(want []string) {
		t.Helper()
		if got := record(t, o).Addons; !slices.Equal(got, want) {
			t.Errorf("the lab has %v, want %v", got, want)
		}
	}
	said := func(text string, want bool) {
		t.Helper()
		if strings.Contains(notes.String(), text) != want {
			t.Errorf("said %q: %v, want %v in %s", text, !want, want, notes.String())
		}
		notes.Reset()
	}
	o.Core = true
	mustUp(t, w, o)
	has(addons.Core())
	said("--core removes nothing", false)
	w.containers[0].Status = "exited"
	if r, err := status(t.Context(), o.Options, w.deps()); err != nil || r.Next != "mllab up --core" {
		t.Errorf("a stopped core lab: next is %q, %v", r.Next, err)
	}
	if list, err := doctor(t.Context(), o, w.deps()); err != nil || find(list, "cluster").Fix != "`mllab up --core` does it" {
		t.Errorf("a stopped core lab: %+v, %v", find(list, "cluster"), err)
	}
	o.Core = false
	mustUp(t, w, o)
	whole := record(t, o).Addons
	if !isWhole(whole) {
		t.Errorf("up adds %v", whole)
	}
	w.containers[0].Status = "exited"
	if r, err := status(t.Context(), o.Options, w.deps()); err != nil || r.Next != "mllab up" {
		t.Errorf("a stopped lab: next is %q, %v", r.Next, err)
	}
	o.Core = true
	mustUp(t, w, o)
	has(whole)
	said("the lab keeps flux, git, jobset, trainer, kserve, argo-workflows, registry, kubeflow: --core removes nothing", true)
}

func TestTheCoreIsUsedWhileTheRestIsInTheMaking(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	said := &lines{}
	o.Report = report.New(said, report.Options{})
	w.afterCore = func() {
		w.afterCore = nil
		if err := said.wait("the core is ready after "); err != nil {
			t.Fatal(err)
		}
		st := record(t, o)
		if st.Phase != phaseCore || !isWhole(st.Addons) {
			t.Errorf("record: %+v", st)
		}
		if _, err := FindAccess(o.Options); err != nil {
			t.Errorf("who asks for the gateway: %v", err)
		}
		unlock, err := store{root: o.State, name: DefaultName}.lock("scenario canary")
		if err != nil {
			t.Errorf("a scenario: %v", err)
			return
		}
		t.Cleanup(unlock) // it goes on when up has ended
		if _, err := down(t.Context(), DownOptions{Options: o.Options}, w.deps()); err == nil || !strings.Contains(err.Error(), "is locked: mllab up, ") {
			t.Errorf("down: %v", err)
		}
		if _, err := up(t.Context(), o, w.deps()); err == nil || !strings.Contains(err.Error(), "is locked: mllab up, ") {
			t.Errorf("another up: %v", err)
		}
		w.addonErr["kubeflow"] = errors.New("the Trainer is missing")
		r, err := status(t.Context(), o.Options, w.deps())
		delete(w.addonErr, "kubeflow")
		if err != nil || r.Ready || r.Why != "only the core is ready, which is enough for scenarios that need no more; kubeflow: the Trainer is missing" {
			t.Errorf("status: %+v, %v", r, err)
		}
	}
	sum := mustUp(t, w, o)
	if st := record(t, o); st.Phase != phaseReady || sum.CoreSeconds == 0 {
		t.Errorf("in the end: %+v, core after %g s", st, sum.CoreSeconds)
	}
	if _, err := up(t.Context(), o, w.deps()); err == nil || !strings.Contains(err.Error(), "is locked: mllab scenario canary, ") {
		t.Errorf("another up during the scenario: %v", err)
	}
}

func TestAnUpThatFailsAfterTheCoreLeavesTheCoreUsable(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	said := &lines{}
	o.Report = report.New(said, report.Options{})
	w.afterCore = func() { _ = said.wait("the core is ready after ") }
	w.verifyErr["argo-workflows"] = errors.New("no Workflow ran")
	if _, err := up(t.Context(), o, w.deps()); err == nil {
		t.Fatal("it did not fail")
	}
	if st := record(t, o); st.Phase != phaseCore {
		t.Errorf("record: %+v", st)
	}
	// The core itself: nobody may use the lab.
	w.verifyErr["knative"] = errors.New("no Service answers")
	w.afterCore = nil
	if _, err := up(t.Context(), o, w.deps()); err == nil {
		t.Fatal("it did not fail")
	}
	if st := record(t, o); st.Phase != phaseCreated {
		t.Errorf("record: %+v", st)
	}
	if _, err := FindAccess(o.Options); fault.Hint(err) != "mllab up completes it" {
		t.Errorf("who asks for the gateway: %v", err)
	}
}

func TestTheCoreComesUpWhileOtherImagesAreMade(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Addons = []string{"progressive"}
	said := &lines{}
	o.Report = report.New(said, report.Options{})
	w.node.Ref = "localhost/mllab-node:whole"
	w.building = func() error {
		if err := said.wait("the core is ready after "); err != nil {
			return err
		}
		if st := record(t, o); st.Phase != phaseCore || !slices.Contains(st.Addons, "progressive") || st.NodeImage != testRef {
			t.Errorf("record: %+v", st)
		}
		w.onNode = slices.DeleteFunc(w.onNode, func(ref string) bool { return ref == w.node.Images["python"] }) // the node has the core's only
		return nil
	}
	w.afterCore = func() { // in the second installation
		if st := record(t, o); st.Phase != phaseCore {
			t.Errorf("a scenario cannot start any more: %+v", st)
		}
	}
	sum := mustUp(t, w, o)
	if st := record(t, o); st.Phase != phaseReady || !isWhole(st.Addons) || !slices.Contains(st.Addons, "progressive") {
		t.Errorf("record: %+v", st)
	}
	if want := []string{"engine: image " + testRef, "node: python"}; !slices.Equal(w.written, want) {
		t.Errorf("loaded %v, want %v", w.written, want)
	}
	var steps []string
	for _, s := range sum.Steps {
		steps = append(steps, s.Name)
	}
	if want := []string{"check this machine", "images", "node image", "cluster", "kubernetes", "core", "all images", "images on the node", "addons"}; !slices.Equal(steps, want) {
		t.Errorf("steps: %v, want %v", steps, want)
	}
	for _, r := range sum.Addons {
		if r.Changes[0].Action == "created" != slices.Contains(addons.Core(), r.Name) { // the fake creates at the first install
			t.Errorf("%s: %+v", r.Name, r.Changes)
		}
	}
	// What fails then leaves the core.
	mustDown(t, w, DownOptions{Options: o.Options})
	again := &lines{}
	o.Report = report.New(again, report.Options{})
	w.building = func() error { return cmp.Or(again.wait("the core is ready after "), errors.New("no space left")) }
	if _, err := up(t.Context(), o, w.deps()); err == nil || !strings.Contains(err.Error(), "getting the images: no space left") {
		t.Errorf("an image that cannot be made: %v", err)
	}
	if st := record(t, o); st.Phase != phaseCore {
		t.Errorf("record: %+v", st)
	}
}

// lines are what a reporter writes.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// wait returns when it has written text.
func (l *lines) wait(text string) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(time.Minute); ; {
		l.mu.Lock()
		all := l.b.String()
		l.mu.Unlock()
		if strings.Contains(all, text) {
			return nil
		}
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("it never said %q: %s", text, all)
		}
	}
}

func TestTwoUpsAtOnceDoNotMeet(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	w.duringKind = func() {
		_, err := up(t.Context(), o, w.deps())
		if err == nil || !strings.Contains(err.Error(), "cluster mllab is locked: mllab up, process ") {
			t.Errorf("the second up: %v", err)
		}
	}
	mustUp(t, w, o)
}

func TestPodmanGetsItsSettingsWithoutTouchingTheUsers(t *testing.T) {
	w := newWorld(t)
	w.machine.SysResource, w.machine.Nofile, w.machine.Nproc = false, 20000, 96365
	o := w.options()
	mustUp(t, w, o)
	conf := w.env["CONTAINERS_CONF"]
	data, err := os.ReadFile(conf)
	if err != nil || !strings.Contains(string(data), `"nofile=20000:20000", "nproc=32768:32768"`) {
		t.Errorf("%s: %s, %v", conf, data, err)
	}
	if _, err := down(t.Context(), o.down(), w.deps()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(o.State); !os.IsNotExist(err) {
		t.Errorf("the state folder was left: %v", err)
	}

	w = newWorld(t)
	w.machine.SysResource, w.machine.Nofile = false, 20000
	w.env["CONTAINERS_CONF"] = "/home/someone/containers.conf"
	mustUp(t, w, w.options())
	if w.env["CONTAINERS_CONF"] != "/home/someone/containers.conf" {
		t.Error("the user's setting was replaced")
	}
}

func TestWrongOptionsAreNamed(t *testing.T) {
	for want, o := range map[string]UpOptions{
		`--name must be at most 48 lower-case letters, digits and dashes, got "Lab_1"`:        {Options: Options{Name: "Lab_1"}},
		`--name must be at most 48 lower-case letters, digits and dashes, got "../x"`:         {Options: Options{Name: "../x"}},
		"--state-dir must not contain ':', which separates the files of KUBECONFIG, got /a:b": {Options: Options{State: "/a:b"}},
		`no addon is called "nope"`: {Addons: []string{"nope"}},
	} {
		w := newWorld(t)
		o.State, o.Cache = cmp.Or(o.State, t.TempDir()), t.TempDir()
		_, err := up(t.Context(), o, w.deps())
		if fault.Code(err) != 2 || fault.Hint(err) == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v (hint %q), want %s", err, fault.Hint(err), want)
		}
		if _, err := Plan(o); fault.Code(err) != 2 {
			t.Errorf("plan: %v", err)
		}
	}
}

func TestALabUnderGitOpsStaysSo(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Core = true
	mustUp(t, w, o)
	if st := record(t, o); st.GitOps || w.gitops || slices.Contains(st.Addons, "git") {
		t.Errorf("plain up: %+v", st)
	}
	o.GitOps = true
	w.installErr = errors.New("the gateway does not answer")
	if _, err := up(t.Context(), o, w.deps()); err == nil || !w.gitops {
		t.Errorf("%v, by Git: %v", err, w.gitops)
	}
	if st := record(t, o); !st.GitOps || st.Phase == phaseReady {
		t.Errorf("an up that was interrupted is not gone on with: %+v", st)
	}
	o.GitOps, w.gitops, w.installErr = false, false, nil
	w.outOfGit = []string{"sample"}
	sum := mustUp(t, w, o)
	st := record(t, o)
	if !w.gitops || !st.GitOps || st.Phase != phaseReady || !slices.Contains(st.Addons, "git") || !slices.Contains(st.Addons, "flux") {
		t.Errorf("by Git: %v, record %+v", w.gitops, st)
	}
	if slices.Contains(st.Addons, "sample") || len(sum.Addons) != len(st.Addons) {
		t.Errorf("what a commit took away is on record: %v", st.Addons)
	}
	w.outOfGit = nil
	mustUp(t, w, o)
	if st := record(t, o); !slices.Contains(st.Addons, "sample") {
		t.Errorf("what a commit brought back is not on record: %v", st.Addons)
	}
}

func TestThePlanSaysWhatGitOpsAdds(t *testing.T) {
	o := newWorld(t).options()
	o.Core = true
	plain, err := Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	o.GitOps = true
	doc, err := Plan(o)
	if err != nil || len(doc.Steps) != len(plain.Steps)+1 || !strings.Contains(doc.Steps[len(doc.Steps)-1], "the lab's Git") {
		t.Errorf("%v, %v", doc.Steps, err)
	}
	if len(doc.Addons) != len(plain.Addons)+2 || doc.Addons[len(doc.Addons)-1].Name != "git" {
		t.Errorf("addons: %+v", doc.Addons)
	}
}

func TestANodeThatWasStartedByHandIsNotBelievedForWhatItWasBefore(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	w.startedAt = time.Now()
	mustUp(t, w, o)
	if mustUp(t, w, o); !w.awaitSince.IsZero() {
		t.Errorf("a node that ran all the time is asked for reports since %s", w.awaitSince)
	}
	w.startedAt = time.Now().Add(time.Minute)
	if mustUp(t, w, o); !w.awaitSince.Equal(w.startedAt) {
		t.Errorf("a node that was started again is asked for reports since %s, not %s", w.awaitSince, w.startedAt)
	}
}
