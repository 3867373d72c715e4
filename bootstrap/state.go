package bootstrap

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/folder"
)

// Phases of a cluster. If mllab finds one in phaseCreating, its creation was interrupted, and it must be replaced.
const (
	phaseCreating = "creating" // kind is creating it
	phaseCreated  = "created"  // a node with Kubernetes; addons may be missing
	phaseCore     = "core"     // the core's addons are verified; others may be missing
	phaseReady    = "ready"    // `up` completed
)

type state struct {
	Cluster     string            `json:"cluster"`
	Phase       string            `json:"phase"`
	Engine      string            `json:"engine"`
	Port        int               `json:"port"`
	NodeImage   string            `json:"nodeImage"`
	ImageSource string            `json:"imageSource"`
	Images      map[string]string `json:"images"`
	Addons      []string          `json:"addons"`
	GitOps      bool              `json:"gitops,omitempty"` // the addons come from the lab's own Git
	Changed     time.Time         `json:"changed"`
}

// hostRecord is what mllab created on this host for all its clusters.
type hostRecord struct {
	Networks   []string `json:"networks,omitempty"` // an engine, for its network "kind", or ENGINE/NETWORK
	LibModules bool     `json:"libModules,omitempty"`
}

// ErrLocked is the error of a lab that another mllab works on.
var ErrLocked = errors.New("is locked")

// store is the state folder of one cluster: ROOT/NAME/{state.json,kubeconfig,merged.json}, ROOT/NAME.lock, ROOT/NAME.up.lock, ROOT/made.json.
type store struct{ root, name string }

// stateSigns are patterns of files that only a state folder has.
var stateSigns = []string{"made.json", "*/state.json"}

func (o Options) store() store { return store{root: o.State, name: o.Name} }

// evidenceDir is the folder in a cluster's state folder that has the evidence of scenarios.
const evidenceDir = "evidence"

func (s store) dir() string            { return filepath.Join(s.root, s.name) }
func (s store) evidence() string       { return filepath.Join(s.dir(), evidenceDir) }
func (s store) kubeconfig() string     { return filepath.Join(s.dir(), "kubeconfig") }
func (s store) mergedFile() string     { return filepath.Join(s.dir(), "merged.json") }
func (s store) stateFile() string      { return filepath.Join(s.dir(), "state.json") }
func (s store) hostRecordFile() string { return filepath.Join(s.root, "made.json") }
func (s store) lockFile() string       { return filepath.Join(s.root, s.name+".lock") }
func (s store) upLockFile() string     { return filepath.Join(s.root, s.name+".up.lock") }

// podmanConf returns the path of the configuration that podman reads through its environment.
func (s store) podmanConf() string { return filepath.Join(s.root, "containers.conf") }

// check returns a fault.Usage if mllab must not fill the state folder. It changes nothing.
func (s store) check() error {
	err := folder.Check("--state-dir", s.root, stateSigns...)
	for _, file := range []string{s.stateFile(), s.kubeconfig(), s.mergedFile(), s.hostRecordFile(), s.podmanConf()} {
		err = cmp.Or(err, folder.NoLink(file))
	}
	return err
}

// isLabs reports whether path is the kubeconfig of a lab of this state folder, by whatever name.
func (s store) isLabs(path string) bool {
	given, err := os.Stat(path)
	if err != nil {
		return false
	}
	labs, _ := os.ReadDir(s.root) // no folder has no lab
	return slices.ContainsFunc(labs, func(lab fs.DirEntry) bool {
		own, err := os.Stat(store{root: s.root, name: lab.Name()}.kubeconfig())
		return err == nil && os.SameFile(own, given)
	})
}

func (s store) load() (*state, error) {
	var st state
	found, err := readJSON(s.stateFile(), &st)
	if err != nil {
		lab := Options{Name: s.name}
		if wrong := folder.Check("--state-dir", s.root, stateSigns...); wrong != nil { // then down fails as well
			return nil, wrong
		}
		return nil, fault.Hinted(err, "run `"+lab.Command("down")+"`, then `"+lab.Command("up")+"` again")
	}
	if !found {
		return nil, nil
	}
	if st.Cluster != s.name {
		return nil, fault.Usage("name another --state-dir, or another --name", "%s is not mllab's record of cluster %s", s.stateFile(), s.name)
	}
	return &st, nil
}

func (s store) save(st state) error {
	st.Cluster, st.Changed = s.name, time.Now().UTC().Truncate(time.Second)
	return writeJSON(s.stateFile(), st)
}

func (s store) loadHostRecord() (m hostRecord, err error) {
	_, err = readJSON(s.hostRecordFile(), &m)
	return m, err
}

// saveHostRecord removes the file if the record is empty.
func (s store) saveHostRecord(m hostRecord) error {
	if len(m.Networks) == 0 && !m.LibModules {
		return removeFile(s.hostRecordFile())
	}
	return writeJSON(s.hostRecordFile(), m)
}

// forget removes mllab's files of the cluster, the record last. It returns what it keeps: files of others, and symbolic
// links, which a person made.
func (s store) forget() (kept []string, err error) {
	ours := append(folder.Glob(s.dir(), ".new-*"), filepath.Join(s.dir(), evidenceDir), s.kubeconfig(), s.mergedFile(), s.stateFile())
	for _, path := range ours {
		link, err := folder.Remove(path)
		if err != nil {
			return kept, err
		}
		if link != "" {
			kept = append(kept, link)
		}
	}
	if len(kept) == 0 && (syscall.Rmdir(s.dir()) == nil || !exists(s.dir())) { // os.Remove would remove a link
		return nil, nil
	}
	return []string{s.dir()}, nil
}

// starting reports whether an `up` of another cluster of the state folder has not ended. It may have no record yet.
func (s store) starting() bool {
	return slices.ContainsFunc(folder.Glob(s.root, "*.up.lock"), func(lock string) bool {
		verb, _ := os.ReadFile(lock)
		return lock != s.upLockFile() && strings.HasPrefix(string(verb), "mllab up")
	})
}

// last reports whether the state folder has no record of another cluster, and nobody is making one.
func (s store) last() bool {
	return !s.starting() && !slices.ContainsFunc(folder.Glob(s.root, "*/state.json"), func(r string) bool { return r != s.stateFile() })
}

// removeShared removes the files for all clusters, if this is the only one. Podman's configuration must stay while there is
// a container: podman started the container's monitor process with it.
func (s store) removeShared() error {
	if !s.last() {
		return nil
	}
	var errs []error
	for _, f := range append(folder.Glob(s.root, ".new-*"), s.podmanConf()) {
		errs = append(errs, removeFile(f))
	}
	return errors.Join(errs...)
}

// lock locks the cluster, so that only one mllab works on it. unlock removes the lock file. The kernel releases the lock
// when the process ends, however it ends.
func (s store) lock(verb string) (unlock func(), err error) { return s.lockBy(s.lockFile(), verb) }

// lockAll is lock for who creates or removes the cluster. done releases both locks; unlock only that of the others, who may
// then work on the cluster while it is completed.
func (s store) lockAll(verb string) (unlock, done func(), err error) {
	last, err := s.lockBy(s.upLockFile(), verb)
	if err != nil {
		return nil, nil, err
	}
	first, err := s.lock(verb)
	if err != nil {
		last()
		return nil, nil, err
	}
	unlock = sync.OnceFunc(first)
	return unlock, func() { unlock(); last() }, nil
}

func (s store) lockBy(file, verb string) (unlock func(), err error) {
	for {
		if err := folder.Own("--state-dir", s.root, stateSigns...); err != nil {
			return nil, err
		}
		if err := folder.NoLink(file); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another mllab has just removed the folder
		}
		if err != nil {
			return nil, fmt.Errorf("locking cluster %s: %w", s.name, err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil {
			holder, _ := os.ReadFile(file) // only for the message
			_ = f.Close()
			if !errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("locking cluster %s: %w", s.name, err)
			}
			hint := "wait until it ends, or stop it, then try again"
			if file == s.lockFile() && strings.HasPrefix(string(holder), "mllab up") {
				hint = "wait until it says that the core is ready, then try again"
			}
			return nil, fault.Hinted(fmt.Errorf("cluster %s %w: %s", s.name, ErrLocked, cmp.Or(strings.TrimSpace(string(holder)), "by another mllab")), hint)
		}
		// The previous holder may have removed its file meanwhile. A lock on a removed file is useless.
		held, herr := f.Stat()
		there, terr := os.Stat(file)
		if herr != nil || terr != nil || !os.SameFile(held, there) {
			_ = f.Close()
			continue
		}
		text := fmt.Sprintf("mllab %s, process %d, since %s\n", verb, os.Getpid(), time.Now().Format(time.DateTime))
		if f.Truncate(0) == nil {
			_, _ = f.WriteString(text) // only for the message: on a full disk `mllab down` must lock, too
		}
		return func() {
			_ = os.Remove(file)
			_ = f.Close()
			_ = folder.Leave(s.root) // an empty folder may stay
		}, nil
	}
}

func errorOf[T any](_ T, err error) error { return err }

// readJSON reports whether the file exists.
func readJSON(path string, into any) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	return true, nil
}

// writeJSON replaces a file atomically, even if the machine crashes.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := writeFile(path, append(data, '\n')); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// writeFile replaces a file, which only this user may read.
func writeFile(path string, data []byte) (err error) {
	if err := folder.NoLink(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(errorOf(f.Write(data)), f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // the file is in place; only its durability is unknown
	}
	defer d.Close()
	_ = d.Sync() // some file systems cannot sync a folder
	return nil
}

// removeFile keeps a symbolic link, which a person made.
func removeFile(path string) error {
	_, err := folder.Remove(path)
	return err
}
