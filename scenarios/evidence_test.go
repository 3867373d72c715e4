package scenarios

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"mllab.local/internal/fault"
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
