package bootstrap

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
)

// unpackDiagnosis returns an archive's files, and the name of the first.
func unpackDiagnosis(t *testing.T, file string) (files map[string]string, first string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, first
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, "mllab-diagnosis/")
		if first == "" {
			first = name
		}
		files[name] = string(text)
	}
}

func TestADiagnosisHasNoSecret(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Name = DefaultName
	mustUp(t, w, o)
	const gitPassword, key, token, data = "gitpassword-1", "the-client-key-of-the-lab", "eyJhbGciOiJSUzI1NiIsImtpZCI6.eyJpc3MiOiJr.c2lnbmF0dXJl", "planted in a Secret"
	encoded := base64.StdEncoding.EncodeToString([]byte(key))
	for file, text := range map[string]string{
		o.store().kubeconfig(): "users:\n- user:\n    client-key-data: " + encoded + "\n",
		filepath.Join(o.store().dir(), evidenceDir, "canary", "01.jsonl"): `{"answer":"` + key + `"}` + "\n",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.journal = []string{"kubelet says " + encoded, "and goes on"}
	w.troubles = kube.Trouble{
		Secrets: []string{gitPassword, data},
		Events:  []string{"event with " + gitPassword},
		Pods: []kube.TroubledPod{{
			Namespace: "ns", Name: "pod", Why: "crashes over " + data, Age: time.Minute,
			Logs: map[string]string{"app": "token " + token + "\nurl http://mllab:" + gitPassword + "@127.0.0.1/\nPASSWORD=short\nlast line " + base64.StdEncoding.EncodeToString([]byte(data))},
		}},
	}
	to := filepath.Join(t.TempDir(), "d.tar.gz")
	d, err := diagnoseLab(t.Context(), o.Options, to, "mllab v1 with "+token, w.deps())
	if err != nil {
		t.Fatal(err)
	}
	files, first := unpackDiagnosis(t, to)
	if first != "causes.txt" {
		t.Errorf("the first file is %s", first)
	}
	secrets := []string{gitPassword, key, encoded, token, data, base64.StdEncoding.EncodeToString([]byte(data)), "PASSWORD=short"}
	for name, text := range files {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s has the secret %q", name, s)
			}
		}
	}
	for name, want := range map[string]string{
		"logs/ns/pod/app.log": "last line [masked]", "events.txt": "event with [masked]", "node/kubelet.log": "and goes on", "pods.txt": "ns/pod: crashes over",
		"doctor.json": `"engine"`, "status.json": `"cluster": "mllab"`, "records/state.json": `"phase"`, "version.txt": "mllab v1", "evidence/canary/01.jsonl": `{"answer":"[masked]"}`,
		"causes.txt": "1. Pod/ns/pod: crashes over [masked]\n   fix: ",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s is %q, want %q in it", name, files[name], want)
		}
	}
	if len(d.Causes) != 1 || d.File != to {
		t.Errorf("%+v", d)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := diagnoseLab(t.Context(), o.Options, to, "", w.deps()); fault.Code(err) != 2 {
		t.Errorf("a file that is there: %v", err)
	}
}

// endsLater is a context that is canceled after its first look.
type endsLater struct {
	context.Context
	looks int
}

func (c *endsLater) Err() error {
	if c.looks++; c.looks > 1 {
		return context.Canceled
	}
	return nil
}

func TestACancellationEndsTheMaskingBetweenFiles(t *testing.T) {
	d := &collection{files: map[string]string{"a": "x", "b": "x", "c": "x"}}
	ctx := &endsLater{Context: t.Context()}
	if files, err := d.masked(ctx); !errors.Is(err, context.Canceled) || files != nil || ctx.looks != 2 {
		t.Errorf("%v, %v after %d looks", files, err, ctx.looks)
	}
	over, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if files, err := d.masked(over); err != nil || len(files) != 4 {
		t.Errorf("out of time: %v, %v", files, err)
	}
}

func TestTheMostLikelyCauseComesFirst(t *testing.T) {
	pods := []kube.TroubledPod{
		{Namespace: "a", Name: "slow", Why: "runs, not ready", Age: time.Minute},
		{Namespace: "b", Name: "broken", Why: "OOMKilled", Final: true},
	}
	for name, c := range map[string]struct {
		spoil func(w *world)
		up    bool
		want  []string
	}{
		"nothing is wrong":      {func(*world) {}, true, nil},
		"no lab":                {func(*world) {}, false, []string{"there is no cluster mllab"}},
		"a machine that cannot": {func(w *world) { w.machine.MemoryAvailable = gib }, false, []string{"1.0 GiB available", "there is no cluster mllab"}},
		"a pod that starts": {func(w *world) {
			w.troubles.Pods = []kube.TroubledPod{{Namespace: "a", Name: "new", Why: "runs, not ready", Age: time.Second}}
		}, true, nil},
		"a stopped node, once": {func(w *world) { w.containers[0].Status = "exited" }, true, []string{"cluster mllab: its node is stopped"}},
		"a pod of a verification, which goes": {func(w *world) {
			w.troubles.Pods = []kube.TroubledPod{{Namespace: "default", Name: "mllab-verify-7bgmd-kserve-predictor-7d9f", Why: "cannot pull kind.local/none", Final: true}}
		}, true, nil},
		"a pod of a verification, which has no room": {func(w *world) {
			w.troubles.Pods = []kube.TroubledPod{{Namespace: "default", Name: "mllab-verify-7bgmd-argo-workflows", Why: "Insufficient memory", Final: true}}
		}, true, []string{"Pod/default/mllab-verify-7bgmd-argo-workflows"}},
		"what waiting cannot fix first": {func(w *world) { w.troubles.Pods = pods }, true, []string{"Pod/b/broken: OOMKilled", "Pod/a/slow"}},
		"a pod, and the addon it is of": {func(w *world) {
			w.troubles.Pods = pods[1:]
			w.addonErr["knative"] = errors.New("activator is not ready")
		}, true, []string{"Pod/b/broken", "knative: activator"}},
		"no more than three, the first": {func(w *world) {
			w.troubles.Pods = append(pods, pods...)
			w.addonErr["istio"], w.addonErr["knative"] = errors.New("x"), errors.New("y")
		}, true, []string{"Pod/b/broken", "istio: x", "knative: y"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			o.Core = true
			if c.up {
				mustUp(t, w, o)
			}
			c.spoil(w)
			d, err := diagnoseLab(t.Context(), o.Options, filepath.Join(t.TempDir(), "d.tar.gz"), "", w.deps())
			if err != nil || len(d.Causes) != len(c.want) {
				t.Fatalf("%+v, %v", d, err)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(d.Causes[i].What, want) || d.Causes[i].Fix == "" {
					t.Errorf("cause %d is %+v, want %q", i+1, d.Causes[i], want)
				}
				if strings.HasPrefix(want, "knative") && d.Causes[i].Fix != "mllab up --core" {
					t.Errorf("the fix of an addon of a core lab is %q", d.Causes[i].Fix)
				}
			}
		})
	}
}

func TestADiagnosisNamesARecordThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Name = DefaultName
	mustUp(t, w, o)
	if err := os.WriteFile(o.store().stateFile(), []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := diagnoseLab(t.Context(), o.Options, filepath.Join(t.TempDir(), "d.tar.gz"), "", w.deps())
	if err != nil || len(d.Causes) != 1 || !strings.Contains(d.Causes[0].What, "state.json") || !strings.Contains(d.Causes[0].Fix, "`mllab down") {
		t.Errorf("%+v, %v", d, err)
	}
}
