package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// What the conversation is made of: https://git-scm.com/docs/gitprotocol-pack and https://git-scm.com/docs/gitprotocol-http
const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// capabilities of each service; version 2 of the protocol is not spoken, and clients that ask for it understand that.
var capabilities = map[string]string{
	uploadPack:  "multi_ack_detailed side-band-64k ofs-delta shallow no-progress agent=mllab",
	receivePack: "report-status delete-refs side-band-64k ofs-delta no-thin agent=mllab",
}

// advertise writes the repository's refs, as a conversation about service begins.
func advertise(w io.Writer, st *filesystem.Storage, service string) error {
	list, err := refs(st)
	if err != nil {
		return err
	}
	out := pktline.NewEncoder(w)
	if err := errors.Join(out.Encodef("# service=%s\n", service), out.Flush()); err != nil {
		return err
	}
	caps := "\x00" + capabilities[service]
	line := func(h plumbing.Hash, name string) error {
		defer func() { caps = "" }() // the first line has them
		return out.Encodef("%s %s%s\n", h, name, caps)
	}
	if h, ok := list[mainBranch]; ok && service == uploadPack {
		caps += " symref=HEAD:" + string(mainBranch)
		if err := line(h, "HEAD"); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if err := line(list[name], string(name)); err != nil {
			return err
		}
		tag, err := object.GetTag(st, list[name])
		if err != nil {
			continue // not an annotated one
		}
		if err := line(tag.Target, string(name)+"^{}"); err != nil {
			return err
		}
	}
	if caps != "" {
		if err := line(plumbing.ZeroHash, "capabilities^{}"); err != nil {
			return err
		}
	}
	return out.Flush()
}

// fetchRequest is one round of what a client asks for.
type fetchRequest struct {
	wants, shallow, haves []plumbing.Hash
	depth                 int
	caps                  []string
	asksOnlyDepth, done   bool
}

func readFetch(r io.Reader) (fetchRequest, error) {
	var q fetchRequest
	q.asksOnlyDepth = true
	lines := pktline.NewScanner(r)
	for wanting := true; lines.Scan(); {
		if len(lines.Bytes()) == 0 { // a flush
			wanting = false
			continue
		}
		line := strings.TrimSuffix(string(lines.Bytes()), "\n")
		word, rest, _ := strings.Cut(line, " ")
		hash, rest, _ := strings.Cut(rest, " ")
		h, isHash := parseHash(hash)
		switch {
		case wanting && word == "want" && isHash:
			if len(q.wants) == 0 {
				q.caps = strings.Fields(rest)
			}
			q.wants = append(q.wants, h)
		case wanting && word == "shallow" && isHash:
			q.shallow = append(q.shallow, h)
		case wanting && word == "deepen":
			n, err := strconv.Atoi(hash)
			if err != nil || n < 1 {
				return q, fmt.Errorf("%q is no depth", hash)
			}
			q.depth = n
		case !wanting && word == "have" && isHash:
			q.haves = append(q.haves, h)
			q.asksOnlyDepth = false
		case !wanting && word == "done":
			q.done, q.asksOnlyDepth = true, false
		default:
			return q, fmt.Errorf("%q is not understood", line)
		}
	}
	if lines.Err() == nil && len(q.wants) == 0 {
		return q, errors.New("nothing is wanted")
	}
	return q, lines.Err()
}

func parseHash(s string) (plumbing.Hash, bool) {
	return plumbing.NewHash(s), plumbing.IsHash(s)
}

// answer writes what the client shall know of its depth and of what both have, and, when it is done, the objects that it
// lacks. Over HTTP each round is a request of its own that repeats what was said before.
func (q fetchRequest) answer(w io.Writer, st *filesystem.Storage) error {
	out := pktline.NewEncoder(w)
	var tags []plumbing.Hash
	list, edge, err := (&walk{st: st}).commits(q.wants, q.depth, &tags)
	if err != nil {
		return fmt.Errorf("what is wanted: %w", err)
	}
	if q.depth > 0 {
		if err := q.answerDepth(out, list, edge); err != nil || q.asksOnlyDepth {
			return err
		}
	}
	common := slices.DeleteFunc(slices.Clone(q.haves), func(h plumbing.Hash) bool { return st.HasEncodedObject(h) != nil })
	detailed := slices.Contains(q.caps, "multi_ack_detailed")
	for _, h := range common {
		if detailed {
			err = errors.Join(err, out.Encodef("ACK %s common\n", h))
		}
	}
	switch {
	case len(common) > 0 && (q.done || !detailed):
		err = errors.Join(err, out.Encodef("ACK %s\n", common[len(common)-1]))
	default:
		err = errors.Join(err, out.Encodef("NAK\n"))
	}
	if err != nil || !q.done {
		return err
	}
	known := &walk{st: st, seen: map[plumbing.Hash]bool{}}
	if err := known.know(common, q.shallow); err != nil {
		return fmt.Errorf("what the client has: %w", err)
	}
	objects := tags
	for _, c := range list {
		if known.seen[c.Hash] {
			continue
		}
		objects = append(objects, c.Hash)
		if err := known.tree(c.TreeHash, &objects); err != nil {
			return err
		}
	}
	return q.sendPack(w, st, objects)
}

// answerDepth tells the client which commits now have no parents for it, and which have them again.
func (q fetchRequest) answerDepth(out *pktline.Encoder, list []*object.Commit, edge []plumbing.Hash) error {
	for _, h := range edge {
		if !slices.Contains(q.shallow, h) {
			if err := out.Encodef("shallow %s\n", h); err != nil {
				return err
			}
		}
	}
	for _, c := range list {
		if slices.Contains(q.shallow, c.Hash) && !slices.Contains(edge, c.Hash) {
			if err := out.Encodef("unshallow %s\n", c.Hash); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

// deltaWindow is how many objects are tried as another one's base, as many as Git does.
const deltaWindow = 10

func (q fetchRequest) sendPack(w io.Writer, st *filesystem.Storage, objects []plumbing.Hash) error {
	to := w
	banded := slices.Contains(q.caps, "side-band-64k")
	if banded {
		to = sideband.NewMuxer(sideband.Sideband64k, w)
	}
	if _, err := packfile.NewEncoder(to, st, !slices.Contains(q.caps, "ofs-delta")).Encode(objects, deltaWindow); err != nil {
		return fmt.Errorf("sending a pack: %w", err)
	}
	if banded {
		return pktline.NewEncoder(w).Flush()
	}
	return nil
}
