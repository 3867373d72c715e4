package view

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"testing"
)

// Nothing else of npm's is in mllab: its own records name where a package came from.
func TestOnlyTheLibraryIsEmbedded(t *testing.T) {
	err := fs.WalkDir(library, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Base(name) != ".gitignore" && !slices.Contains([]string{libraryScript, libraryStyle, libraryLicense}, name) {
			t.Errorf("%s is embedded", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What tests need is made without the library, and what has it needs no npm.
func TestTheBuildFetchesTheLibraryOnce(t *testing.T) {
	script, err := os.ReadFile("../scripts/build")
	if err != nil {
		t.Fatal(err)
	}
	const (
		gets  = "#!/bin/sh\nmkdir -p node_modules/uplot/dist && cd node_modules/uplot && touch LICENSE dist/uPlot.iife.min.js dist/uPlot.min.css\n"
		fails = "#!/bin/sh\nexit 1\n"
	)
	for _, c := range []struct {
		name, npm string
		before    bool // the library was fetched before
		inputs    int  // the exit code of scripts/build inputs
		all       int  // and of scripts/build
	}{
		{"npm gets it", gets, false, 0, 0},
		{"npm fails", fails, false, 0, 2},
		{"no npm", "", false, 0, 2},
		{"npm fails, but it is there", fails, true, 0, 0},
		{"no npm, but it is there", "", true, 0, 0},
	} {
		for argument, want := range map[string]int{"inputs": c.inputs, "": c.all} {
			dir := t.TempDir()
			files := map[string]string{"scripts/build": string(script), "view/uplot/package-lock.json": "{}", "view/uplot/embedded/.gitignore": "", "bin/go": "#!/bin/sh\n"}
			if c.npm != "" {
				files["bin/npm"] = c.npm
			}
			for name, text := range files {
				name = filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, tool := range []string{"bash", "dirname", "awk", "date", "mkdir", "touch", "cp"} {
				at, err := exec.LookPath(tool)
				if err == nil {
					err = os.Symlink(at, filepath.Join(dir, "bin", tool))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chtimes(filepath.Join(dir, "view/uplot/package-lock.json"), began, began); err != nil { // before the library
				t.Fatal(err)
			}
			library := filepath.Join(dir, "view/uplot/embedded/LICENSE")
			if c.before {
				if err := os.WriteFile(library, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(filepath.Join(dir, "bin/bash"), filepath.Join(dir, "scripts/build"), argument)
			cmd.Env = []string{"PATH=" + filepath.Join(dir, "bin")}
			out, _ := cmd.CombinedOutput() // its exit code is looked at
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("%s: scripts/build %s ends with %d, want %d: %s", c.name, argument, got, want, out)
			}
			if _, err := os.Stat(library); (err == nil) != (c.before || c.npm == gets) {
				t.Errorf("%s: after scripts/build %s the library is there: %t: %s", c.name, argument, err == nil, out)
			}
		}
	}
}
