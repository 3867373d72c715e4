package scenarios

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
)

func TestOnlyTheEvidenceOfARunIsRemoved(t *testing.T) {
	dir := t.TempDir()
	path := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	write := func(names ...string) error {
		return errors.Join(os.MkdirAll(filepath.Dir(path(names...)), 0o700), os.WriteFile(path(names...), nil, 0o600))
	}
	if err := errors.Join(write("a run's", EventsFile), write("a run's", "01-x.jsonl"), write("a person's", "thesis.tex"), write("target", EventsFile),
		os.Mkdir(path("killed early"), 0o700), os.Symlink("target", path("link"))); err != nil {
		t.Fatal(err)
	}
	for name, code := range map[string]int{"a run's": 0, "killed early": 0, "not there": 0, "a person's": 2, "link": 2} {
		if err := removeEvidence(path(name)); fault.Code(err) != code {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(path(name)); (err == nil) != (code == 2) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(path("target", EventsFile)); err != nil {
		t.Error(err)
	}
	if err := removeEvidence(""); err != nil {
		t.Error(err)
	}
}

func TestARunWritesNothingIntoAPersonsFolder(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "canary")
	if err := errors.Join(os.Mkdir(mine, 0o700), os.WriteFile(filepath.Join(mine, "thesis.tex"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	env := &Env{Evidence: dir, Kube: &kube.Client{Client: fake.NewClientBuilder().Build()}}
	for range 2 { // a second run must not take what the first left for a run's
		if _, err := (Job{Scenario: Scenario{Name: "canary"}}).run(t.Context(), env, nil, false, func() {}); fault.Code(err) != 2 {
			t.Errorf("got %v", err)
		}
		if entries, err := os.ReadDir(mine); err != nil || len(entries) != 1 {
			t.Errorf("the folder has %v, %v", entries, err)
		}
	}
}
