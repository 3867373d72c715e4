package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// How much may come in at once.
const (
	maxPush = 50 << 20 // a push, and one file in it, in bytes
	maxOpen = 4        // times maxPush: all files of a push, unpacked
	// maxDrain is how much more is read and thrown away: Git tells its user why a push was refused only when it could
	// send all of it.
	maxDrain = 256 << 20
	maxRefs  = 1000
)

// packs is where a repository has its packs.
const packs = "objects/pack"

// command asks that a ref moves from old to new; the zero hash is none.
type command struct {
	name     plumbing.ReferenceName
	old, new plumbing.Hash
	refused  string // why; "" when it was done
}

// pushRecord is one line of the record of pushes, written just before the ref moves.
type pushRecord struct {
	Time time.Time              `json:"time"`
	User string                 `json:"user"`
	Ref  plumbing.ReferenceName `json:"ref"`
	Old  string                 `json:"old"`
	New  string                 `json:"new"`
}

// readCommands reads what a push begins with. No command at all is no error: Git asks that way whether it may push.
func readCommands(r io.Reader) (list []command, caps []string, err error) {
	lines := pktline.NewScanner(r)
	for lines.Scan() {
		line := string(lines.Bytes())
		if line == "" { // a flush
			return list, caps, nil
		}
		line, words, first := strings.Cut(line, "\x00")
		if first {
			caps = strings.Fields(words)
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "shallow ") {
			continue // if something is missing then, that is found out
		}
		f := strings.SplitN(line, " ", 3)
		if len(f) != 3 || !plumbing.IsHash(f[0]) || !plumbing.IsHash(f[1]) {
			return nil, nil, fmt.Errorf("%q is no command", line)
		}
		if len(list) == maxRefs {
			return nil, nil, fmt.Errorf("more than %d refs at once", maxRefs)
		}
		list = append(list, command{name: plumbing.ReferenceName(f[2]), old: plumbing.NewHash(f[0]), new: plumbing.NewHash(f[1])})
	}
	if lines.Err() != nil {
		return nil, nil, lines.Err()
	}
	return nil, nil, io.ErrUnexpectedEOF
}

// push is one push on its way: its objects lie in a folder beside the repository until they are accepted.
type push struct {
	repo *repo
	dir  string
	pack string // the objects, a file below dir without its extension; "" when there are none
}

func (r *repo) newPush() (*push, error) {
	dir, err := os.MkdirTemp(r.incoming, "push-")
	if err != nil {
		return nil, err
	}
	p := &push{repo: r, dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, packs), 0o750); err != nil {
		p.remove()
		return nil, err
	}
	return p, nil
}

func (p *push) remove() { _ = os.RemoveAll(p.dir) }

var errTooLarge = fmt.Errorf("the push is larger than %d MiB", maxPush>>20)

// receive takes the objects of a push and checks that they are whole and not too large.
func (p *push) receive(body io.Reader) error {
	f, err := os.Create(filepath.Join(p.dir, "pack"))
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(body, maxPush+1))
	if err != nil {
		return fmt.Errorf("reading the push: %w", err)
	}
	if n > maxPush {
		return errTooLarge
	}
	count, err := measure(f)
	if err != nil || count == 0 {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	index := new(idxfile.Writer)
	parser, err := packfile.NewParser(packfile.NewScanner(f), index)
	if err != nil {
		return err
	}
	sum, err := parser.Parse()
	if err != nil {
		return fmt.Errorf("reading the push: %w", err)
	}
	entries, err := index.Index()
	if err != nil {
		return err
	}
	p.pack = filepath.Join(packs, "pack-"+sum.String())
	idx, err := os.Create(filepath.Join(p.dir, p.pack+".idx"))
	if err != nil {
		return err
	}
	_, err = idxfile.NewEncoder(idx).Encode(entries)
	return errors.Join(err, idx.Sync(), idx.Close(), f.Sync(), os.Rename(f.Name(), filepath.Join(p.dir, p.pack+".pack")))
}

// measure counts the objects of a pack by their headers, before anything of it is held in memory.
func measure(f *os.File) (uint32, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	scan := packfile.NewScanner(bufio.NewReader(f))
	_, count, err := scan.Header()
	if err != nil {
		return 0, fmt.Errorf("reading the push: %w", err)
	}
	var all int64
	for range count {
		h, err := scan.NextObjectHeader()
		if err != nil {
			return 0, fmt.Errorf("reading the push: %w", err)
		}
		if h.Length > maxPush {
			return 0, fmt.Errorf("the push holds a file of %d MiB, and %d MiB is the most", h.Length>>20, maxPush>>20)
		}
		if all += h.Length; all > maxOpen*maxPush {
			return 0, fmt.Errorf("the push unpacks to more than %d MiB", maxOpen*maxPush>>20)
		}
	}
	return count, nil
}

// both finds an object among those that came in or those that were there.
type both struct {
	storer.EncodedObjectStorer // those that came in
	old                        storer.EncodedObjectStorer
}

func (b both) EncodedObject(t plumbing.ObjectType, h plumbing.Hash) (plumbing.EncodedObject, error) {
	o, err := b.EncodedObjectStorer.EncodedObject(t, h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return b.old.EncodedObject(t, h)
	}
	return o, err
}

func (b both) HasEncodedObject(h plumbing.Hash) error {
	if b.EncodedObjectStorer.HasEncodedObject(h) == nil {
		return nil
	}
	return b.old.HasEncodedObject(h)
}

// update carries out the commands that may be, and says of the others why not. record is called before a ref moves.
func (p *push) update(list []command, record func(command) error) error {
	p.repo.writing.Lock()
	defer p.repo.writing.Unlock()
	old := storage(p.repo.dir) // opened now that nobody else writes: it reads the list of packs once
	now, err := refs(old)
	if err != nil {
		return err
	}
	there := &walk{st: both{storage(p.dir), old}, seen: map[plumbing.Hash]bool{}}
	var tips []plumbing.Hash
	for _, h := range now {
		tips = append(tips, h)
	}
	if err := there.know(tips, nil); err != nil {
		return err
	}
	for i := range list {
		c := &list[i]
		switch c.refused = refusal(*c, now, there); {
		case c.refused != "":
		case c.new.IsZero():
			delete(now, c.name)
		default:
			now[c.name] = c.new
		}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(c command) bool { return c.refused != "" })
	if len(list) == 0 {
		return nil
	}
	if err := p.accept(); err != nil {
		return err
	}
	for _, c := range list {
		if err := record(c); err != nil {
			return fmt.Errorf("recording the push: %w", err)
		}
		move := func() error { return p.repo.setRef(c.name, c.new) }
		if c.new.IsZero() {
			move = func() error { return p.repo.removeRef(c.name) }
		}
		if err := move(); err != nil {
			return fmt.Errorf("moving %s: %w", c.name, err)
		}
	}
	return nil
}

// accept moves the objects into the repository. The index goes first: a pack without one would not be found.
func (p *push) accept() error {
	if p.pack == "" {
		return nil
	}
	for _, ext := range []string{".idx", ".pack"} {
		if err := os.Rename(filepath.Join(p.dir, p.pack+ext), filepath.Join(p.repo.dir, p.pack+ext)); err != nil {
			return err
		}
	}
	return nil
}

// refusal says why a command must not be carried out, while the refs are now and there knows what they reach.
func refusal(c command, now map[plumbing.ReferenceName]plumbing.Hash, there *walk) string {
	branch := c.name.IsBranch() || c.name.IsNote()
	forward := c.name == mainBranch || c.name.IsNote() // what is told of the past
	switch have := now[c.name]; {
	case c.name.Validate() != nil || !branch && !c.name.IsTag():
		return "not a valid name of a branch, a tag or notes"
	case c.old != have && !have.IsZero():
		return "somebody else has pushed meanwhile: fetch, merge and push again"
	case have.IsZero() && (c.new.IsZero() || !c.old.IsZero()):
		return "it does not exist"
	case c.new.IsZero() && forward:
		return c.name.Short() + " cannot be removed"
	case c.new.IsZero():
		return ""
	}
	for other := range now {
		if strings.HasPrefix(string(other), string(c.name)+"/") || strings.HasPrefix(string(c.name), string(other)+"/") {
			return string(other) + " is in the way"
		}
	}
	if err := there.whole(c.new); errors.Is(err, plumbing.ErrObjectNotFound) {
		return "objects are missing: " + err.Error()
	} else if err != nil {
		return err.Error()
	}
	if !branch {
		return ""
	}
	tip, err := object.GetCommit(there.st, c.new)
	if err != nil {
		return "a branch must be a commit"
	}
	if forward && !c.old.IsZero() {
		before, err := object.GetCommit(there.st, c.old)
		if err != nil {
			return err.Error()
		}
		if is, err := before.IsAncestor(tip); err != nil {
			return err.Error()
		} else if !is {
			return "not a fast-forward, and " + c.name.Short() + " only goes forward"
		}
	}
	return ""
}

// record appends one line to the record of pushes.
func (r *repo) record(rec pushRecord) error {
	line, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(r.pushes, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// report tells the client what became of its push.
func report(w io.Writer, caps []string, list []command, unpacked error) error {
	if !slices.Contains(caps, "report-status") {
		return nil
	}
	banded := slices.Contains(caps, "side-band-64k")
	to := w
	if banded {
		to = sideband.NewMuxer(sideband.Sideband64k, w)
	}
	// A band carries whole lines of the report: they are put together first.
	var text strings.Builder
	lines := pktline.NewEncoder(&text)
	status := "ok"
	if unpacked != nil {
		status = oneLine(unpacked.Error())
	}
	err := lines.Encodef("unpack %s\n", status)
	for _, c := range list {
		switch {
		case unpacked != nil:
			err = errors.Join(err, lines.Encodef("ng %s %s\n", c.name, status))
		case c.refused != "":
			err = errors.Join(err, lines.Encodef("ng %s %s\n", c.name, oneLine(c.refused)))
		default:
			err = errors.Join(err, lines.Encodef("ok %s\n", c.name))
		}
	}
	err = errors.Join(err, lines.Flush())
	if err == nil {
		_, err = io.WriteString(to, text.String())
	}
	if err == nil && banded {
		err = pktline.NewEncoder(w).Flush()
	}
	return err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
