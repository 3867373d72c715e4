package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

const mainBranch = plumbing.ReferenceName("refs/heads/main")

// repo is a bare repository in a folder. Whatever ends this process leaves it as it was before a push, or as it is after:
// a pack comes in beside the repository and is moved into it when it was checked, and a ref is a file that is renamed.
type repo struct {
	dir      string // the repository
	incoming string // what comes in; empty when nothing does
	pushes   string // the record of what was pushed
	lock     *os.File
	writing  sync.Mutex // one push at a time
}

// openRepo opens the repository below data, and makes it if there is none. Another process that has it open is an error.
func openRepo(data string) (*repo, error) {
	r := &repo{
		dir:      filepath.Join(data, "lab.git"),
		incoming: filepath.Join(data, "incoming"),
		pushes:   filepath.Join(data, "pushes.jsonl"),
	}
	var err error
	if r.lock, err = os.OpenFile(filepath.Join(data, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("opening the repository: %w", err)
	}
	if err := r.prepare(); err != nil {
		r.close()
		return nil, fmt.Errorf("opening the repository: %w", err)
	}
	return r, nil
}

func (r *repo) prepare() error {
	if err := syscall.Flock(int(r.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another server has it open: %w", err)
	}
	// What a push that was cut off has left.
	if err := errors.Join(os.RemoveAll(r.incoming), os.Mkdir(r.incoming, 0o750)); err != nil {
		return err
	}
	if _, err := os.Stat(r.dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.make()
}

func (r *repo) close() { _ = r.lock.Close() }

const readme = `# The lab's repository

Flux looks at it as soon as something is pushed. It applies what a Kustomization names.
`

// make makes a repository of one commit on main, so that a clone is on main and Flux finds something from the beginning.
func (r *repo) make() error {
	half := filepath.Join(r.incoming, "new")
	st := storage(half)
	if err := st.Init(); err != nil {
		return err
	}
	put := func(o interface {
		Encode(plumbing.EncodedObject) error
	}) (plumbing.Hash, error) {
		encoded := st.NewEncodedObject()
		if err := o.Encode(encoded); err != nil {
			return plumbing.ZeroHash, err
		}
		return st.SetEncodedObject(encoded)
	}
	blob, err := put(text(readme))
	if err != nil {
		return err
	}
	tree, err := put(&object.Tree{Entries: []object.TreeEntry{{Name: "README.md", Mode: filemode.Regular, Hash: blob}}})
	if err != nil {
		return err
	}
	who := object.Signature{Name: "mllab", Email: "mllab@mllab.test", When: time.Now().UTC()}
	commit, err := put(&object.Commit{Author: who, Committer: who, Message: "The lab's repository\n", TreeHash: tree})
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		string(mainBranch): commit.String(),
		"HEAD":             "ref: " + string(mainBranch),
		"config":           "[core]\n\trepositoryformatversion = 0\n\tbare = true",
	} {
		if err := os.WriteFile(filepath.Join(half, name), []byte(content+"\n"), 0o640); err != nil {
			return err
		}
	}
	return os.Rename(half, r.dir)
}

// text is a blob's content.
type text string

func (t text) Encode(o plumbing.EncodedObject) error {
	o.SetType(plumbing.BlobObject)
	w, err := o.Writer()
	if err != nil {
		return err
	}
	_, err = w.Write([]byte(t))
	return errors.Join(err, w.Close())
}

// storage opens the repository in dir for one request: go-git's storage is not safe for several.
func storage(dir string) *filesystem.Storage {
	return filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRUDefault())
}

// refs returns all branches and tags.
func refs(st storer.ReferenceStorer) (map[plumbing.ReferenceName]plumbing.Hash, error) {
	all, err := st.IterReferences()
	if err != nil {
		return nil, fmt.Errorf("reading the refs: %w", err)
	}
	list := map[plumbing.ReferenceName]plumbing.Hash{}
	err = all.ForEach(func(ref *plumbing.Reference) error {
		if ref.Type() == plumbing.HashReference {
			list[ref.Name()] = ref.Hash()
		}
		return nil
	})
	return list, err
}

// setRef lets name, which must be a valid one, point to hash.
func (r *repo) setRef(name plumbing.ReferenceName, hash plumbing.Hash) error {
	path := filepath.Join(r.dir, filepath.FromSlash(string(name)))
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	next := filepath.Join(r.incoming, "ref")
	if err := os.WriteFile(next, []byte(hash.String()+"\n"), 0o640); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// removeRef removes name, and the folders that it leaves empty: refs/heads/a may then be a branch again.
func (r *repo) removeRef(name plumbing.ReferenceName) error {
	path := filepath.Join(r.dir, filepath.FromSlash(string(name)))
	if err := os.Remove(path); err != nil {
		return err
	}
	for n := strings.Count(string(name), "/") - 2; n > 0; n-- {
		path = filepath.Dir(path)
		if os.Remove(path) != nil {
			break // not empty
		}
	}
	return nil
}

// walk finds the objects that commits need. What is in seen is not looked at again, nor what is only reached through it.
type walk struct {
	st   storer.EncodedObjectStorer
	seen map[plumbing.Hash]bool
}

// commits returns the commits that tips reach, nearest first, up to depth of them in a line (0: all), and those where
// depth cut off the parents. Tips that are tags are replaced by what they name, and are added to found.
func (w *walk) commits(tips []plumbing.Hash, depth int, found *[]plumbing.Hash) (list []*object.Commit, edge []plumbing.Hash, err error) {
	visited := map[plumbing.Hash]bool{}
	for level := 1; len(tips) > 0; level++ {
		var parents []plumbing.Hash
		for _, h := range tips {
			if w.seen[h] || visited[h] {
				continue
			}
			visited[h] = true
			o, err := object.GetObject(w.st, h)
			if err != nil {
				return nil, nil, fmt.Errorf("object %s: %w", h, err)
			}
			for {
				tag, isTag := o.(*object.Tag)
				if !isTag {
					break
				}
				*found = append(*found, tag.Hash)
				if o, err = tag.Object(); err != nil {
					return nil, nil, fmt.Errorf("tag %s: %w", tag.Name, err)
				}
			}
			c, isCommit := o.(*object.Commit)
			if !isCommit {
				return nil, nil, fmt.Errorf("object %s is a %s, not a commit", h, o.Type())
			}
			if w.seen[c.Hash] || c.Hash != h && visited[c.Hash] {
				continue
			}
			visited[c.Hash] = true
			list = append(list, c)
			if depth > 0 && level >= depth && len(c.ParentHashes) > 0 {
				edge = append(edge, c.Hash)
				continue
			}
			parents = append(parents, c.ParentHashes...)
		}
		tips = parents
	}
	return list, edge, nil
}

// tree adds the tree h and everything below it to found, and marks it as seen. All of it must be there.
func (w *walk) tree(h plumbing.Hash, found *[]plumbing.Hash) error {
	if w.seen[h] {
		return nil
	}
	t, err := object.GetTree(w.st, h)
	if err != nil {
		return fmt.Errorf("tree %s: %w", h, err)
	}
	*found = append(*found, h)
	for _, e := range t.Entries {
		switch {
		case e.Mode == filemode.Submodule: // a commit of another repository
		case e.Mode == filemode.Dir:
			if err := w.tree(e.Hash, found); err != nil {
				return err
			}
		case !w.seen[e.Hash]:
			if err := w.st.HasEncodedObject(e.Hash); err != nil {
				return fmt.Errorf("file %s, %s: %w", e.Name, e.Hash, err)
			}
			w.seen[e.Hash] = true
			*found = append(*found, e.Hash)
		}
	}
	w.seen[h] = true // not before: a tree of which something is missing stays unseen
	return nil
}

// whole checks that everything which h needs is there, and marks it as seen.
func (w *walk) whole(h plumbing.Hash) error {
	var ignored []plumbing.Hash
	list, _, err := w.commits([]plumbing.Hash{h}, 0, &ignored)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := w.tree(c.TreeHash, &ignored); err != nil {
			return err
		}
	}
	for _, c := range list {
		w.seen[c.Hash] = true
	}
	return nil
}

// know marks what somebody has who has tips: their commits (not beyond those of shallow, whose parents he lacks), and
// the files of the tips.
func (w *walk) know(tips, shallow []plumbing.Hash) error {
	var ignored []plumbing.Hash
	known := &walk{st: w.st, seen: map[plumbing.Hash]bool{}}
	for _, h := range shallow {
		if err := w.st.HasEncodedObject(h); err != nil {
			continue // of another repository
		}
		c, err := object.GetCommit(w.st, h)
		if err != nil {
			return err
		}
		w.seen[h] = true
		for _, p := range c.ParentHashes {
			known.seen[p] = true
		}
	}
	list, _, err := known.commits(tips, 0, &ignored)
	if err != nil {
		return err
	}
	for _, c := range list {
		w.seen[c.Hash] = true
	}
	for _, c := range list[:min(len(list), len(tips))] {
		if err := w.tree(c.TreeHash, &ignored); err != nil {
			return err
		}
	}
	return nil
}
