package folder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mllab.local/internal/fault"
)

func TestOnlyAFolderThatMllabMadeIsRemoved(t *testing.T) {
	root := filepath.Join(t.TempDir(), "with [brackets]")
	made, there, link := filepath.Join(root, "made"), filepath.Join(root, "there"), filepath.Join(root, "link")
	if err := errors.Join(os.MkdirAll(there, 0o755), os.Mkdir(filepath.Join(root, "target"), 0o755), os.Symlink("target", link)); err != nil {
		t.Fatal(err)
	}
	for dir, stays := range map[string]bool{made: false, there: true, link: true} {
		for range 2 { // a second time changes nothing
			if err := Own("--state-dir", dir); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(dir, "x")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Leave(dir); err != nil || !Owned(dir) {
			t.Errorf("%s, with a file in it: %v", dir, err)
		}
		if err := errors.Join(os.Remove(file), Leave(dir), Leave(dir)); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		if _, err := os.Lstat(dir); (err == nil) != stays || Owned(dir) {
			t.Errorf("%s: %v, owned %t", dir, err, Owned(dir))
		}
	}
}

func TestTheFoldersAboveGoWithTheOneThatMllabMade(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct{ dir, other, stays string }{
		{"a/b/c", "", ""},
		{"a/b/c", "a/x", "a"}, // somebody else has put something there
		{"there/c", "", "there"},
		{"there/link/b/c", "", "there/link"},
	} {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, "there"), 0o755), os.MkdirAll(filepath.Join(root, "target"), 0o755), os.Symlink("../target", filepath.Join(root, "there", "link"))); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		dir := filepath.Join(root, c.dir)
		if err := Own("--state-dir", dir); err != nil {
			t.Fatal(err)
		}
		if c.other != "" {
			if err := os.WriteFile(filepath.Join(root, c.other), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := Leave(dir); err != nil {
			t.Error(err)
		}
		for path := dir; path != root; path = filepath.Dir(path) {
			_, err := os.Lstat(path)
			if stays := path == filepath.Join(root, c.stays) || strings.HasPrefix(filepath.Join(root, c.stays), path+"/"); stays != (err == nil) {
				t.Errorf("%s: %s: stays %t, %v", c.dir, path, stays, err)
			}
		}
		if entries, err := os.ReadDir(filepath.Join(root, "target")); err != nil || len(entries) > 0 {
			t.Errorf("%v, %v", entries, err)
		}
	}
}

func TestAFolderOfOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Own("--state-dir", dir); fault.Code(err) != 2 || !strings.Contains(err.Error(), "--state-dir must be an empty folder or one that mllab fills, got "+dir+", which holds thesis.tex") {
		t.Errorf("%v", err)
	}
	if err := Own("--state-dir", dir, "*.tex"); err != nil || !Owned(dir) {
		t.Errorf("with a sign: %v", err)
	}
	for _, bad := range []string{filepath.Join(dir, "thesis.tex"), filepath.Join(dir, "thesis.tex", "below")} {
		if err := Own("--cache-dir", bad); fault.Code(err) != 2 || !strings.Contains(err.Error(), "--cache-dir must be a folder that mllab can write to, got "+bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestALinkIsKept(t *testing.T) {
	dir := t.TempDir()
	link, target := filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := errors.Join(os.Mkdir(target, 0o755), os.WriteFile(filepath.Join(target, "x"), nil, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{link: link, target: "", filepath.Join(dir, "absent"): ""} {
		if kept, err := Remove(path); kept != want || err != nil {
			t.Errorf("%s: kept %q, %v", path, kept, err)
		}
	}
	if _, err := os.Lstat(link); err != nil {
		t.Error(err)
	}
}
