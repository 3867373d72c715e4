package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mllab.local/internal/fault"
	"mllab.local/internal/folder"
)

// TestMain lets a test start this binary as a second mllab that holds a lock until it is killed.
func TestMain(m *testing.M) {
	if root := os.Getenv("HOLD_LOCK_IN"); root != "" {
		unlock, err := store{root: root, name: "x"}.lock("up")
		fmt.Println("held", err)
		_, _ = io.Copy(io.Discard, os.Stdin) // select {} would be a deadlock, which ends the process
		unlock()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestALockIsNamedAndDiesWithItsHolder(t *testing.T) {
	root := t.TempDir()
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), "HOLD_LOCK_IN="+root)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("held <nil>"))
	if _, err := out.Read(line); err != nil || string(line) != "held <nil>" {
		t.Fatalf("%q, %v", line, err)
	}
	s := store{root: root, name: "x"}
	_, err = s.lock("down")
	if want := fmt.Sprintf("cluster x is locked: mllab up, process %d, since ", holder.Process.Pid); err == nil || !strings.Contains(err.Error(), want) || fault.Hint(err) == "" {
		t.Errorf("while it is held: %v, want %s", err, want)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // it was killed
	unlock, err := s.lock("down")
	if err != nil {
		t.Fatalf("after its holder was killed: %v", err)
	}
	unlock()
	if _, err := os.Stat(s.lockFile()); !os.IsNotExist(err) {
		t.Errorf("the lock's file stays: %v", err)
	}
}

func TestALockIsTakenWhereItsTextCannotBeWritten(t *testing.T) {
	s := store{root: t.TempDir(), name: "x"}
	if err := folder.Own("--state-dir", s.root); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(s.lockFile(), 0o600); err != nil { // its text cannot be cut
		t.Fatal(err)
	}
	unlock, err := s.lock("down")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestARecordIsNeverHalfWritten(t *testing.T) {
	s := store{root: t.TempDir(), name: "x"}
	if err := s.save(state{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := s.save(state{Phase: phaseReady, NodeImage: strings.Repeat("x", i%5000)}); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 300 {
		if data, err := os.ReadFile(s.stateFile()); err != nil || !json.Valid(data) {
			t.Fatalf("half a record: %q, %v", data, err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(s.dir(), ".new-*"))
	info, err := os.Stat(s.stateFile())
	if err != nil || info.Mode().Perm() != 0o600 || len(left) > 0 {
		t.Errorf("%v, %v, left %v", info, err, left)
	}
}

func TestARecordThatCannotBeReplacedStays(t *testing.T) {
	s := store{root: t.TempDir(), name: "x"}
	if err := s.save(state{Phase: phaseCreated}); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(s.stateFile(), func() {}); err == nil {
		t.Error("a function was written as JSON")
	}
	if st, err := s.load(); err != nil || st.Phase != phaseCreated || st.Cluster != "x" {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestABrokenRecordSaysHowToMendIt(t *testing.T) {
	s := store{root: t.TempDir(), name: "x"}
	if st, err := s.load(); st != nil || err != nil {
		t.Errorf("no record: %v, %v", st, err)
	}
	if err := writeFile(s.stateFile(), []byte(`{"phase":`)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(); err == nil || !strings.Contains(fault.Hint(err), "mllab down --name x") {
		t.Errorf("%v, hint %q", err, fault.Hint(err))
	}
}

func TestAStateFolderThatIsNoneIsWrongUse(t *testing.T) {
	dir := t.TempDir()
	file, loop := filepath.Join(dir, "file"), filepath.Join(dir, "loop")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(loop, loop)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, loop} {
		_, err := store{root: path, name: "lab"}.load()
		if fault.Code(err) != 2 || !strings.Contains(err.Error(), "--state-dir must be a folder that mllab can write to, got "+path) || !strings.Contains(fault.Hint(err), "--state-dir") {
			t.Errorf("%s: %v, hint %q", path, err, fault.Hint(err))
		}
	}
}

func TestALinkInAStateFolderAndWhatItLeadsToStay(t *testing.T) {
	for name, write := range map[string]func(store) error{
		"x.lock":          func(s store) error { return errorOf(s.lock("up")) },
		"x.up.lock":       func(s store) error { return errorOf(s.lockBy(s.upLockFile(), "up")) },
		"x/state.json":    func(s store) error { return s.save(state{}) },
		"x/kubeconfig":    func(s store) error { return (&kindCluster{kubeconfig: s.kubeconfig()}).create(t.Context(), "", "") },
		"made.json":       func(s store) error { return s.saveHostRecord(hostRecord{LibModules: true}) },
		"containers.conf": func(s store) error { return writeFile(s.podmanConf(), nil) },
	} {
		s := store{root: t.TempDir(), name: "x"}
		mine, link := filepath.Join(t.TempDir(), "mine"), filepath.Join(s.root, name)
		if err := errors.Join(folder.Own("--state-dir", s.root), os.MkdirAll(s.dir(), 0o700), os.WriteFile(mine, []byte("mine"), 0o600), os.Symlink(mine, link)); err != nil {
			t.Fatal(err)
		}
		if err := write(s); fault.Code(err) != 2 || !strings.Contains(err.Error(), link+" must be mllab's own, got a symbolic link") {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.check(); fault.Code(err) != 2 && !strings.HasSuffix(name, ".lock") { // before anything is made
			t.Errorf("%s: %v", name, err)
		}
		if err := errors.Join(removeFile(link), s.removeShared()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text, err := os.ReadFile(link); string(text) != "mine" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}
