package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	mainRef    = "refs/heads/main"
	pushesFile = "pushes.jsonl" // next to the repository
)

// Limits of one push, in bytes.
const (
	maxPush  = 50 << 20 // of a push and of one file in it; also in receive.maxInputSize
	maxFiles = 4 * maxPush
)

// config is the repository's configuration, written at each start. https://git-scm.com/docs/git-config
const config = `[core]
	repositoryformatversion = 0
	bare = true
	fsync = all
	deltaBaseCacheLimit = 16m
[http]
	receivepack = true
[uploadpack]
	allowFilter = true
	allowAnySHA1InWant = true
[receive]
	maxInputSize = 50m
	unpackLimit = 1
	denyDeleteCurrent = ignore
[gc]
	autoDetach = false
[pack]
	threads = 1
	windowMemory = 32m
	deltaCacheSize = 16m
`

const readme = `# The lab's repository

Flux fetches it after every push, and applies the folders that Kustomizations name.
`

// repo is a bare repository in a folder. If this process or git is killed, a push is stored completely or not at all.
// openRepo removes the files that a killed push left.
type repo struct {
	dir      string // the repository
	incoming string // folder with the bodies of requests in progress
	pushes   string // the record of pushes
	lock     int    // file descriptor that this process and each git that it starts hold locked
	writing  sync.Mutex
}

// lockBound is how long openRepo waits for another server to end.
const lockBound = 10 * time.Second

// openRepo opens the repository below data, and creates it if there is none. It fails if another process keeps the
// repository open.
func openRepo(ctx context.Context, data string) (*repo, error) {
	r := &repo{dir: filepath.Join(data, "lab.git"), incoming: filepath.Join(data, "incoming"), pushes: filepath.Join(data, pushesFile)}
	var err error
	// os.OpenFile would close it on exec. But a push of a killed server may still be in progress, and must hold the lock.
	if r.lock, err = syscall.Open(filepath.Join(data, "lock"), syscall.O_CREAT|syscall.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("opening the repository: %w", err)
	}
	if err = r.lockRepo(ctx); err == nil {
		err = r.prepare(ctx)
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("opening the repository: %w", err)
	}
	return r, nil
}

// lockRepo returns when no other process has the repository open, or an error after lockBound.
func (r *repo) lockRepo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lockBound)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(r.lock, syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("another server has it open: %w", err)
		}
	}
}

func (r *repo) close() { _ = syscall.Close(r.lock) }

func (r *repo) prepare(ctx context.Context) error {
	if err := errors.Join(os.RemoveAll(r.incoming), os.Mkdir(r.incoming, 0o750)); err != nil {
		return err
	}
	if _, err := os.Stat(r.dir); errors.Is(err, fs.ErrNotExist) {
		if err := r.create(ctx); err != nil {
			return err
		}
	}
	return errors.Join(r.clean(), r.configure())
}

// create creates a repository with one commit on main, so that a clone has the branch main and Flux has something to apply.
func (r *repo) create(ctx context.Context) error {
	temporary := filepath.Join(r.incoming, "new")
	git := func(stdin string, args ...string) (string, error) { return gitIn(ctx, r.incoming, stdin, args...) }
	if _, err := git("", "init", "-q", "--bare", "--template=", "--initial-branch=main", temporary); err != nil {
		return err
	}
	const who = "mllab <mllab@mllab.test>"
	_, err := git(fmt.Sprintf("commit %s\ncommitter %s %d +0000\ndata <<EOF\nThe lab's repository\nEOF\nM 100644 inline README.md\ndata %d\n%s\n",
		mainRef, who, time.Now().Unix(), len(readme), readme), "--git-dir="+temporary, "fast-import", "--quiet")
	if err != nil {
		return err
	}
	return os.Rename(temporary, r.dir)
}

// clean removes the files that a killed git left. A lock would refuse every later push, and a partial pack would stay.
func (r *repo) clean() error {
	objects := filepath.Join(r.dir, "objects")
	return filepath.WalkDir(r.dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		temporary := strings.HasPrefix(at, objects) && (strings.HasPrefix(name, "tmp_") || strings.HasSuffix(name, ".keep"))
		if !temporary && !strings.HasSuffix(name, ".lock") && name != "gc.pid" {
			return nil
		}
		if err := os.RemoveAll(at); err != nil || !d.IsDir() {
			return err
		}
		return fs.SkipDir
	})
}

// configure writes git's configuration, and links its hooks to this program.
func (r *repo) configure() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.dir, "config"), []byte(config), 0o640); err != nil {
		return err
	}
	at := filepath.Join(r.dir, "hooks")
	if err := errors.Join(os.RemoveAll(at), os.Mkdir(at, 0o750)); err != nil {
		return err
	}
	for name := range hooks {
		if err := os.Symlink(self, filepath.Join(at, name)); err != nil {
			return err
		}
	}
	return nil
}

// gitEnv returns an environment in which git reads no other configuration.
func gitEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "LC_ALL=C"}
}

// gitIn runs git in a folder and returns its output. The error has its stderr.
func gitIn(ctx context.Context, dir, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, gitEnv(), strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), err
}
