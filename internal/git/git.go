// Package git is a Git client: it clones a repository into memory, reads it, commits and pushes. It is the only importer
// of go-git.
//
// It never forces a push. If somebody else has pushed first, it commits the change again on top of theirs, unless both
// touch the same folder.
package git

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/fluxcd/pkg/sourceignore"
	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Main is the branch that a Repo reads and writes. Notes is the ref of the notes on its commits, which
// `git log --notes=mllab` shows. https://git-scm.com/docs/git-notes
const (
	Main  = "main"
	Notes = "mllab"
)

const (
	mainRef  = plumbing.ReferenceName("refs/heads/" + Main)
	notesRef = plumbing.ReferenceName("refs/notes/" + Notes)
)

// ErrConflict means that somebody else has changed the same files.
var ErrConflict = errors.New("somebody else has pushed a change of the same files")

// Repo is a clone. It is not safe for concurrent use.
type Repo struct {
	store  *memory.Storage
	at     *url.URL // without name and password: no error may show them
	remote *gogit.Remote
	auth   transport.AuthMethod
	author object.Signature
}

// Commit is a commit of main.
type Commit struct {
	Hash    string    `json:"commit"`
	Parent  string    `json:"parent,omitempty"` // the first one
	Author  string    `json:"author"`           // "Name <address>"
	When    time.Time `json:"when"`
	Message string    `json:"message"`
	Files   []string  `json:"files,omitempty"` // files that differ from Parent
}

// Subject returns the first line of the message.
func (c Commit) Subject() string {
	line, _, _ := strings.Cut(c.Message, "\n")
	return line
}

// Clone clones the repository at remote, with the name and password of its URL. author is the author of its commits.
func Clone(ctx context.Context, remote *url.URL, author string) (*Repo, error) {
	plain := *remote
	plain.User = nil
	r := &Repo{store: memory.NewStorage(), at: &plain, author: object.Signature{Name: author, Email: author + "@mllab.test"}}
	if password, ok := remote.User.Password(); ok {
		r.auth = &githttp.BasicAuth{Username: remote.User.Username(), Password: password}
	}
	r.remote = gogit.NewRemote(r.store, &config.RemoteConfig{Name: "origin", URLs: []string{plain.String()}})
	return r, r.Pull(ctx)
}

// Pull updates the clone from the remote. It retries while the remote does not answer, until ctx ends.
func (r *Repo) Pull(ctx context.Context) error {
	return r.retry(ctx, func() error {
		err := r.remote.FetchContext(ctx, &gogit.FetchOptions{
			RefSpecs: []config.RefSpec{config.RefSpec("+" + mainRef + ":" + mainRef), config.RefSpec("+refs/notes/*:refs/notes/*")},
			Auth:     r.auth, Tags: gogit.NoTags,
		})
		if errors.Is(err, gogit.NoErrAlreadyUpToDate) {
			return nil
		}
		return err
	})
}

// retry repeats try while the remote cannot be reached, until ctx ends: its pod may be restarting.
func (r *Repo) retry(ctx context.Context, try func() error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := error(nil)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // else err only says that ctx ended
			last = err
		}
		if ctx.Err() == nil && !isTransient(err) {
			return fmt.Errorf("%s: %w", r.at, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last: %w)", r.at, ctx.Err(), last)
		}
	}
}

// isTransient reports whether an error comes from the network and not from the repository.
func isTransient(err error) bool {
	// The first two types of go-git hide the error that they wrap.
	if unexpected, is := errors.AsType[*plumbing.UnexpectedError](err); is {
		return isTransient(unexpected.Err)
	}
	if permanent, is := errors.AsType[*plumbing.PermanentError](err); is {
		return isTransient(permanent.Err)
	}
	if answer, is := errors.AsType[*githttp.Err](err); is {
		return answer.StatusCode() >= http.StatusInternalServerError || answer.StatusCode() == http.StatusNotFound
	}
	if errors.Is(err, transport.ErrRepositoryNotFound) { // a gateway that has just started has no routes yet
		return true
	}
	_, ofNetwork := errors.AsType[net.Error](err)
	return ofNetwork || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Head returns the newest commit of main in the clone.
func (r *Repo) Head() string { return r.tip(mainRef).String() }

func (r *Repo) tip(ref plumbing.ReferenceName) plumbing.Hash {
	if found, err := r.store.Reference(ref); err == nil {
		return found.Hash()
	}
	return plumbing.ZeroHash
}

// Change is a commit's change of the files of one folder.
type Change struct {
	Folder  string            // "" is the whole repository
	Files   map[string][]byte // by path in the folder; nil removes the file
	All     bool              // remove the folder's files that are not in Files
	Message string
}

// Commit commits a change to main, pushes it, and returns the commit. If the change has no effect, it returns the newest
// commit. It retries while the remote does not answer, until ctx ends. If the answer to a push was lost, it does not push
// twice.
//
// Errors: ErrConflict if the folder differs from the clone's; the server's reason if it refuses the push.
func (r *Repo) Commit(ctx context.Context, c Change) (string, error) {
	before, err := r.folder(r.tip(mainRef), c.Folder)
	if err != nil {
		return "", err
	}
	hash, err := r.push(ctx, mainRef, c.Message, func(base plumbing.Hash) (map[string][]byte, error) {
		now, err := r.folder(base, c.Folder)
		if err != nil {
			return nil, err
		}
		if !maps.EqualFunc(before, now, slices.Equal) {
			return nil, fmt.Errorf("folder %q: %w", c.Folder, ErrConflict)
		}
		files := map[string][]byte{}
		for name, content := range c.Files {
			files[path.Join(c.Folder, name)] = content
		}
		for name := range now {
			if _, keep := c.Files[name]; c.All && !keep {
				files[path.Join(c.Folder, name)] = nil
			}
		}
		return files, nil
	})
	return hash.String(), err
}

// Revert reverts a commit, as `git revert` does, and pushes that.
//
// Errors: those of Commit; ErrConflict also if a later commit changed the same files.
func (r *Repo) Revert(ctx context.Context, commit string) (string, error) {
	c, err := r.object(plumbing.NewHash(commit))
	if err != nil {
		return "", err
	}
	names, err := r.changed(c)
	if err != nil {
		return "", err
	}
	after, err := r.folder(c.Hash, "")
	if err != nil {
		return "", err
	}
	before, err := r.folder(parent(c), "")
	if err != nil {
		return "", err
	}
	subject, _, _ := strings.Cut(c.Message, "\n")
	hash, err := r.push(ctx, mainRef, fmt.Sprintf("Revert %q\n\nThis reverts commit %s.", subject, commit), func(base plumbing.Hash) (map[string][]byte, error) {
		now, err := r.folder(base, "")
		if err != nil {
			return nil, err
		}
		files := map[string][]byte{}
		for _, name := range names {
			if !slices.Equal(now[name], after[name]) {
				return nil, fmt.Errorf("%s: %w", name, ErrConflict)
			}
			files[name] = before[name]
		}
		return files, nil
	})
	return hash.String(), err
}

// Note writes a note on a commit. It replaces an existing note.
func (r *Repo) Note(ctx context.Context, commit string, note []byte) error {
	_, err := r.push(ctx, notesRef, "Notes added by 'git notes add'", func(plumbing.Hash) (map[string][]byte, error) {
		return map[string][]byte{commit: note}, nil
	})
	return err
}

// Notes returns the notes by commit.
func (r *Repo) Notes() (map[string][]byte, error) {
	all, err := r.folder(r.tip(notesRef), "")
	if err != nil {
		return nil, err
	}
	notes := map[string][]byte{}
	for name, note := range all {
		notes[strings.ReplaceAll(name, "/", "")] = note // Git puts many notes into folders
	}
	return notes, nil
}

// Holds reports whether commit is tip or one of its ancestors. It pulls if the clone does not have tip.
func (r *Repo) Holds(ctx context.Context, tip, commit string) (bool, error) {
	if _, err := object.GetCommit(r.store, plumbing.NewHash(tip)); errors.Is(err, plumbing.ErrObjectNotFound) {
		if err := r.Pull(ctx); err != nil {
			return false, err
		}
	}
	return r.contains(plumbing.NewHash(tip), plumbing.NewHash(commit))
}

// Files returns the files below a folder in a commit, by path in the folder. It returns none if there is no such folder.
func (r *Repo) Files(commit, folder string) (map[string][]byte, error) {
	return r.folder(plumbing.NewHash(commit), folder)
}

// Export writes the files of a commit into dir, an empty folder, as Flux's source-controller packs them. It skips symbolic
// links, and the files that .sourceignore files or ignore (spec.ignore of a GitRepository) exclude. If there are no such
// rules, Flux's default rules apply. Submodules become empty folders. Export returns the paths of the files, with slashes,
// in the order of the tree.
// https://fluxcd.io/flux/components/source/gitrepositories/#excluding-files
func (r *Repo) Export(commit, dir, ignore string) (kept []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("commit %s: %w", commit, err)
		}
	}()
	c, err := object.GetCommit(r.store, plumbing.NewHash(commit))
	if err != nil {
		return nil, err
	}
	tree, err := c.Tree()
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir) // so that no name in a tree can leave it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var names []string
	err = walk(tree, func(name string, entry object.TreeEntry) error {
		switch entry.Mode {
		case filemode.Dir, filemode.Submodule:
			return root.MkdirAll(name, 0o755)
		case filemode.Regular, filemode.Executable, filemode.Deprecated:
			names = append(names, name)
			return r.export(root, name, entry.Hash)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	excluded, err := excluder(dir, ignore)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !excluded(name) {
			kept = append(kept, name)
		} else if err := root.Remove(name); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// walk calls each for every entry below a tree, also for those that go-git would not check out, such as a name with a control
// character.
func walk(tree *object.Tree, each func(name string, entry object.TreeEntry) error) error {
	w := object.NewTreeWalker(tree, true, nil)
	defer w.Close()
	w.SkipPathValidation()
	for {
		name, entry, err := w.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(name, entry)
		}
		if err != nil {
			return err
		}
	}
}

func (r *Repo) export(root *os.Root, name string, hash plumbing.Hash) error {
	blob, err := object.GetBlob(r.store, hash)
	if err != nil {
		return fmt.Errorf("file %q: %w", name, err)
	}
	from, err := blob.Reader()
	if err != nil {
		return fmt.Errorf("file %q: %w", name, err)
	}
	defer from.Close()
	to, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// excluder returns a function that reports whether Flux ignores a file of dir.
func excluder(dir, ignore string) (func(name string) bool, error) {
	rules, err := sourceignore.LoadIgnorePatterns(dir, nil)
	if err != nil {
		return nil, err
	}
	rules = append(rules, sourceignore.ReadPatterns(strings.NewReader(ignore), nil)...)
	match := sourceignore.NewDefaultMatcher(nil, nil)
	if len(rules) > 0 {
		match = sourceignore.NewMatcher(append(sourceignore.VCSPatterns(nil), rules...))
	}
	return func(name string) bool { return match.Match(strings.Split(name, "/"), false) }, nil
}

// Log returns the commits of main in the clone, newest first.
func (r *Repo) Log() ([]Commit, error) {
	var log []Commit
	for at := r.tip(mainRef); !at.IsZero(); {
		c, err := r.object(at)
		if err != nil {
			return nil, err
		}
		files, err := r.changed(c)
		if err != nil {
			return nil, err
		}
		each := Commit{Hash: at.String(), Author: fmt.Sprintf("%s <%s>", c.Author.Name, c.Author.Email), When: c.Author.When, Message: strings.TrimRight(c.Message, "\n"), Files: files}
		if at = parent(c); !at.IsZero() {
			each.Parent = at.String()
		}
		log = append(log, each)
	}
	return log, nil
}

func (r *Repo) object(commit plumbing.Hash) (*object.Commit, error) {
	c, err := object.GetCommit(r.store, commit)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", commit, err)
	}
	return c, nil
}

// parent returns a commit's first parent, and the zero hash if it has none.
func parent(c *object.Commit) plumbing.Hash {
	if len(c.ParentHashes) == 0 {
		return plumbing.ZeroHash
	}
	return c.ParentHashes[0]
}

// root returns the tree of a commit. The zero commit has an empty one.
func (r *Repo) root(commit plumbing.Hash) (*object.Tree, error) {
	if commit.IsZero() {
		return &object.Tree{}, nil
	}
	c, err := r.object(commit)
	if err != nil {
		return nil, err
	}
	tree, err := c.Tree()
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", commit, err)
	}
	return tree, nil
}

// changed returns the files in which a commit differs from its first parent.
func (r *Repo) changed(c *object.Commit) ([]string, error) {
	before, err := r.root(parent(c))
	if err != nil {
		return nil, err
	}
	after, err := c.Tree()
	if err != nil {
		return nil, err
	}
	changes, err := object.DiffTree(before, after)
	if err != nil {
		return nil, err
	}
	set := map[string]bool{}
	for _, change := range changes {
		for _, name := range []string{change.From.Name, change.To.Name} {
			if name != "" {
				set[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// folder returns the files below a folder of a commit. The zero commit has none.
func (r *Repo) folder(commit plumbing.Hash, folder string) (map[string][]byte, error) {
	files := map[string][]byte{}
	tree, err := r.root(commit)
	if err != nil {
		return nil, err
	}
	if folder != "" {
		tree, err = tree.Tree(folder)
		if errors.Is(err, object.ErrDirectoryNotFound) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("commit %s: %w", commit, err)
		}
	}
	return files, walk(tree, func(name string, entry object.TreeEntry) error {
		if entry.Mode == filemode.Dir || entry.Mode == filemode.Submodule {
			return nil
		}
		blob, err := object.GetBlob(r.store, entry.Hash)
		if err != nil {
			return fmt.Errorf("file %q: %w", name, err)
		}
		text, err := object.NewFile(name, entry.Mode, blob).Contents()
		files[name] = []byte(text)
		return err
	})
}

// push commits the files that edit returns for the newest tip of ref, and pushes the commit. It starts again if somebody
// else's push came first.
func (r *Repo) push(ctx context.Context, ref plumbing.ReferenceName, message string, edit func(base plumbing.Hash) (map[string][]byte, error)) (plumbing.Hash, error) {
	for pushed := plumbing.ZeroHash; ; {
		if err := r.Pull(ctx); err != nil {
			return plumbing.ZeroHash, err
		}
		base := r.tip(ref)
		if isAncestor, err := r.contains(base, pushed); err != nil || isAncestor {
			return pushed, err // the push succeeded, only its answer was lost
		}
		files, err := edit(base)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		if pushed, err = r.commit(base, files, message); err != nil || pushed == base {
			return pushed, err
		}
		err = r.retry(ctx, func() error {
			// Push by hash, so that the clone's own ref stays the last known state of the remote.
			spec := config.RefSpec(pushed.String() + ":" + ref.String())
			var progress strings.Builder // has the server's reasons
			err := r.remote.PushContext(ctx, &gogit.PushOptions{RefSpecs: []config.RefSpec{spec}, Auth: r.auth, Progress: &progress})
			if errors.Is(err, gogit.NoErrAlreadyUpToDate) {
				return nil
			}
			if err != nil && progress.Len() > 0 {
				err = fmt.Errorf("%w: %s", err, strings.Join(strings.Fields(progress.String()), " "))
			}
			return err
		})
		if err == nil {
			return pushed, r.store.SetReference(plumbing.NewHashReference(ref, pushed))
		}
		if ctx.Err() != nil || errors.Is(err, transport.ErrAuthorizationFailed) || errors.Is(err, transport.ErrAuthenticationRequired) {
			return plumbing.ZeroHash, err
		}
		if pullErr := r.Pull(ctx); pullErr != nil || r.tip(ref) == base {
			return plumbing.ZeroHash, errors.Join(err, pullErr) // nobody else pushed, so the server refused this push
		}
	}
}

// Push is one line of the server's record of pushes: a ref and its new value.
type Push struct {
	Time time.Time `json:"time"`
	User string    `json:"user"`
	Ref  string    `json:"ref"`
	Old  string    `json:"old"`
	New  string    `json:"new"`
}

// Pushes reads the record of pushes from the lab's server, oldest first. It retries like Pull.
func (r *Repo) Pushes(ctx context.Context) ([]Push, error) {
	var list []Push
	return list, r.retry(ctx, func() error {
		list = nil
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.at.JoinPath("../pushes").String(), nil)
		if err != nil {
			return err
		}
		if auth, ok := r.auth.(githttp.AuthMethod); ok {
			auth.SetAuth(req)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return &githttp.Err{Response: resp}
		}
		lines := bufio.NewScanner(resp.Body)
		for n := 1; lines.Scan(); n++ {
			var p Push
			if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
				return fmt.Errorf("the record of pushes, line %d: %w", n, err)
			}
			list = append(list, p)
		}
		return lines.Err()
	})
}

// contains reports whether commit is tip or one of its first-parent ancestors.
func (r *Repo) contains(tip, commit plumbing.Hash) (bool, error) {
	if commit.IsZero() {
		return false, nil
	}
	for !tip.IsZero() && tip != commit {
		c, err := r.object(tip)
		if err != nil {
			return false, err
		}
		tip = parent(c)
	}
	return tip == commit, nil
}

// commit stores a commit with these files on top of base (nil removes a file). It returns base if nothing changes.
func (r *Repo) commit(base plumbing.Hash, files map[string][]byte, message string) (plumbing.Hash, error) {
	before, err := r.root(base)
	if err != nil {
		return base, err
	}
	var parents []plumbing.Hash
	if !base.IsZero() {
		parents = []plumbing.Hash{base}
	}
	tree, err := r.tree(before.Hash, files)
	if err != nil {
		return base, err
	}
	if tree.IsZero() { // nothing is left
		if tree, err = r.put(&object.Tree{}); err != nil {
			return base, err
		}
	}
	if tree == before.Hash {
		return base, nil
	}
	author := r.author
	author.When = time.Now()
	return r.put(&object.Commit{Author: author, Committer: author, Message: message + "\n", TreeHash: tree, ParentHashes: parents})
}

// tree stores the tree before with these files in it. It returns the zero hash if the tree is empty.
func (r *Repo) tree(before plumbing.Hash, files map[string][]byte) (plumbing.Hash, error) {
	entries := map[string]object.TreeEntry{}
	if !before.IsZero() {
		t, err := object.GetTree(r.store, before)
		if err != nil {
			return before, fmt.Errorf("tree %s: %w", before, err)
		}
		for _, e := range t.Entries {
			entries[e.Name] = e
		}
	}
	below := map[string]map[string][]byte{}
	for name, content := range files {
		first, rest, deeper := strings.Cut(name, "/")
		switch {
		case deeper && below[first] == nil:
			below[first] = map[string][]byte{rest: content}
		case deeper:
			below[first][rest] = content
		case content == nil:
			delete(entries, name)
		default:
			o := &plumbing.MemoryObject{}
			o.SetType(plumbing.BlobObject)
			_, _ = o.Write(content) // into memory
			hash, err := r.store.SetEncodedObject(o)
			if err != nil {
				return before, err
			}
			entries[name] = object.TreeEntry{Name: name, Mode: filemode.Regular, Hash: hash}
		}
	}
	for name, files := range below {
		was := entries[name]
		if was.Mode != filemode.Dir {
			was.Hash = plumbing.ZeroHash
		}
		hash, err := r.tree(was.Hash, files)
		if err != nil {
			return before, err
		}
		if delete(entries, name); !hash.IsZero() {
			entries[name] = object.TreeEntry{Name: name, Mode: filemode.Dir, Hash: hash}
		}
	}
	if len(entries) == 0 {
		return plumbing.ZeroHash, nil
	}
	t := &object.Tree{Entries: slices.Collect(maps.Values(entries))}
	sort.Sort(object.TreeEntrySorter(t.Entries))
	return r.put(t)
}

func (r *Repo) put(o interface {
	Encode(plumbing.EncodedObject) error
}) (plumbing.Hash, error) {
	encoded := r.store.NewEncodedObject()
	if err := o.Encode(encoded); err != nil {
		return plumbing.ZeroHash, err
	}
	return r.store.SetEncodedObject(encoded)
}
