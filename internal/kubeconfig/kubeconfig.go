// Package kubeconfig adds one cluster to a person's kubeconfig and takes it out again. Everything else in the file
// stays as it is, comments and unknown fields too.
//
// https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
package kubeconfig

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"mllab.local/internal/fault"
)

// Default returns the file that kubectl would write to: the first file of $KUBECONFIG that exists, else its last, else
// ~/.kube/config.
func Default(env, home string) string {
	last := ""
	for _, f := range filepath.SplitList(env) {
		if f == "" {
			continue
		}
		if _, err := os.Stat(f); err == nil {
			return f
		}
		last = f
	}
	return cmp.Or(last, filepath.Join(home, ".kube", "config"))
}

// lists are the three lists whose entries have names.
var lists = []string{"clusters", "contexts", "users"}

// Rename returns a kubeconfig of the cluster, the context and the user that are called from, which are called name in it.
func Rename(config []byte, from, name string) ([]byte, error) {
	doc, err := parse(config)
	if err != nil {
		return nil, fmt.Errorf("renaming a kubeconfig: %w", err)
	}
	for _, list := range lists {
		entry := find(doc, list, from)
		if entry == nil {
			return nil, fmt.Errorf("renaming a kubeconfig: its %s must have %s", list, from)
		}
		set(entry, "name", name)
		child(doc, list).Content = []*yaml.Node{entry}
	}
	context := child(child(doc, "contexts").Content[0], "context")
	if context == nil {
		return nil, errors.New("renaming a kubeconfig: its context must name a cluster and a user")
	}
	set(context, "cluster", name)
	set(context, "user", name)
	set(doc, "current-context", name)
	return format(doc)
}

// Merged says what Merge did, for Remove.
type Merged struct {
	Path   string `json:"path"`
	Name   string `json:"name"`
	Before string `json:"before,omitempty"` // the current context before
	Made   bool   `json:"made,omitempty"`   // the file did not exist
}

// Merge puts the entries of a renamed config into the file at path and, if use is true, makes its context the current
// one. again says that Merge did so before. Entries of the same name are replaced. The file is replaced as a whole or not at all and keeps its mode and owner; a new one has mode 0600.
//
// Errors: fault.Usage when the file is not a kubeconfig, is read-only or cannot be written, or has a cluster of that name
// that is not on this computer, or, the first time, a context or a user of that name without a cluster.
func Merge(path string, config []byte, use, again bool) (Merged, error) {
	add, err := parse(config)
	if err != nil {
		return Merged{}, fmt.Errorf("merging a kubeconfig: %w", err)
	}
	m := Merged{Path: path, Name: text(child(add, "current-context"))}
	err = edit(path, func(doc *yaml.Node, isNew bool) error {
		m.Made = isNew
		if old := find(doc, "clusters", m.Name); old != nil && !local(old) {
			return fault.Usage("rename that cluster in the file, or set KUBECONFIG to another file",
				"%s must have no other cluster %s, got one at %s", path, m.Name, text(child(child(old, "cluster"), "server")))
		} else if old == nil && !again {
			for _, list := range lists[1:] {
				if find(doc, list, m.Name) != nil { // it may have a person's own key
					return fault.Usage("rename it in the file, or set KUBECONFIG to another file", "%s must have no entry %s of its own, got one in its %s", path, m.Name, list)
				}
			}
		}
		for _, list := range lists {
			put(doc, list, m.Name, find(add, list, m.Name))
		}
		if current := text(child(doc, "current-context")); current != m.Name {
			m.Before = current
		}
		if use {
			set(doc, "current-context", m.Name)
		}
		return nil
	})
	return m, err
}

// Remove takes out of the file what Merge put in. The context that was current before is current again, if it is still
// there; a file that Merge made and nothing else is in is removed. It reports whether there was something to remove.
func Remove(m Merged) (removed bool, err error) {
	if _, err := os.Stat(m.Path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	empty := false
	err = edit(m.Path, func(doc *yaml.Node, _ bool) error {
		if cluster := find(doc, "clusters", m.Name); cluster != nil && !local(cluster) { // a person's
			return errUnchanged
		}
		for _, list := range lists {
			if find(doc, list, m.Name) != nil { // a person may have deleted the others
				removed = true
				put(doc, list, m.Name, nil)
			}
		}
		if !removed {
			return errUnchanged
		}
		if text(child(doc, "current-context")) == m.Name {
			before := m.Before
			if find(doc, "contexts", before) == nil {
				before = ""
			}
			set(doc, "current-context", before)
		}
		empty = m.Made && !slices.ContainsFunc(lists, func(list string) bool {
			entries := child(doc, list)
			return entries != nil && len(entries.Content) > 0
		})
		return nil
	})
	if err == nil && empty && !isLink(m.Path) { // a link is a person's
		err = os.Remove(m.Path)
	}
	return removed, err
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// errUnchanged ends an edit that found nothing to do.
var errUnchanged = errors.New("unchanged")

// edit replaces a kubeconfig by what change makes of it, under the lock that kubectl takes. A symbolic link is
// followed: its target is replaced.
func edit(path string, change func(doc *yaml.Node, isNew bool) error) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if isLink(path) { // a new file would take its place
		return fault.Usage("repair the link, or set KUBECONFIG to another file", "%s must be a file, got a symbolic link that leads nowhere", path)
	}
	const otherFolder = "set KUBECONFIG to a file in a folder that you can write to"
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fault.Usage(otherFolder, "writing %s: %w", path, err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_EXCL, 0)
	if errors.Is(err, fs.ErrExist) {
		return fault.Hinted(fmt.Errorf("writing %s: another program holds %s.lock", path, path), "run it again; if no other program writes that file, remove the lock")
	}
	if err != nil {
		return fault.Usage(otherFolder, "writing %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, lock.Close(), os.Remove(lock.Name())) }()

	var old []byte
	before, err := os.Stat(path)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err == nil && !before.Mode().IsRegular() { // a new file would take the place of /dev/null
		return fault.Usage("set KUBECONFIG to a file", "%s must be a regular file", path)
	}
	if err == nil && before.Mode().Perm()&0o200 == 0 { // a new file in its place would ask nobody
		return fault.Usage("make it writable, or set KUBECONFIG to another file", "%s must not be read-only, got mode %s", path, before.Mode())
	}
	if !isNew {
		if old, err = os.ReadFile(path); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
	doc, err := parse(old)
	if err != nil {
		return fault.Usage("repair the file, or set KUBECONFIG to another one", "%s must be a kubeconfig: %w", path, err)
	}
	if err := change(doc, isNew); err != nil {
		if errors.Is(err, errUnchanged) {
			return nil
		}
		return err
	}
	data, err := format(doc)
	if err == nil {
		err = replace(path, data, before)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// replace writes a file next to path and renames it. It keeps the mode and the owner of the file before, if there was one.
func replace(path string, data []byte, before fs.FileInfo) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".mllab-kubeconfig-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	mode := fs.FileMode(0o600)
	if before != nil {
		mode = before.Mode().Perm()
		// sudo's root must not take a person's file. Not every file system lets root give its own file to itself.
		if owner, ok := before.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && (owner.Uid != 0 || owner.Gid != 0) {
			err = errors.Join(err, f.Chown(int(owner.Uid), int(owner.Gid)))
		}
	}
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// parse returns the mapping of a kubeconfig, with the comments before and after it; an empty file is an empty kubeconfig.
func parse(data []byte) (*yaml.Node, error) {
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")) // yaml.v3 takes them in comments for two line breaks each
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		empty := &yaml.Node{Kind: yaml.MappingNode, HeadComment: strings.TrimSpace(string(data))} // there can be comments only
		set(empty, "apiVersion", "v1")
		set(empty, "kind", "Config")
		return empty, nil
	case err != nil:
		return nil, err
	case doc.Content[0].Kind != yaml.MappingNode:
		return nil, errors.New("its top level is not a mapping")
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	root := doc.Content[0]
	root.HeadComment, root.FootComment = doc.HeadComment, doc.FootComment
	if err := root.Decode(&map[string]any{}); err != nil { // such as a key that is there twice: kubectl reads the last one
		return nil, err
	}
	for _, list := range lists {
		if entries := child(root, list); entries != nil && entries.Kind != yaml.SequenceNode && entries.Tag != "!!null" {
			return nil, fmt.Errorf("its %s are not a list", list)
		}
	}
	return root, nil
}

// format writes a kubeconfig in kubectl's own style.
func format(doc *yaml.Node) ([]byte, error) {
	plainMerges(doc)
	file := &yaml.Node{Kind: yaml.DocumentNode, HeadComment: doc.HeadComment, FootComment: doc.FootComment, Content: []*yaml.Node{doc}}
	doc.HeadComment, doc.FootComment = "", "" // the document keeps their blank lines
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	if err := errors.Join(enc.Encode(file), enc.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// plainMerges takes off the tags that yaml.v3 writes for keys <<: https://github.com/go-yaml/yaml/issues/642
func plainMerges(n *yaml.Node) {
	if n.Tag == "!!merge" {
		n.Tag = ""
	}
	for _, each := range n.Content {
		plainMerges(each)
	}
}

// child returns the value of a key in a mapping, nil when there is none.
func child(mapping *yaml.Node, key string) *yaml.Node {
	_, value := pair(mapping, key)
	return value
}

// pair returns a key of a mapping and its value, or two times nil.
func pair(mapping *yaml.Node, key string) (k, value *yaml.Node) {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

func text(n *yaml.Node) string {
	if n == nil || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

// set gives a key of a mapping a string as its value.
func set(mapping *yaml.Node, key, value string) {
	var v yaml.Node
	v.SetString(value)
	if value == "" {
		v.Style = yaml.DoubleQuotedStyle
	}
	if old := child(mapping, key); old != nil {
		v.LineComment, v.HeadComment, v.FootComment = old.LineComment, old.HeadComment, old.FootComment
		*old = v
		return
	}
	var k yaml.Node
	k.SetString(key)
	mapping.Content = append(mapping.Content, &k, &v)
}

// find returns the entry of a list that has the name, nil when there is none.
func find(doc *yaml.Node, list, name string) *yaml.Node {
	entries := child(doc, list)
	if entries == nil {
		return nil
	}
	for _, e := range entries.Content {
		if text(child(e, "name")) == name {
			return e
		}
	}
	return nil
}

// put replaces the entry of a list that has the name, or adds it; a nil entry removes it. The comments above
// it stay.
func put(doc *yaml.Node, list, name string, entry *yaml.Node) {
	key, entries := pair(doc, list)
	if entries == nil {
		key, entries = new(yaml.Node), &yaml.Node{Kind: yaml.SequenceNode}
		key.SetString(list)
		doc.Content = append(doc.Content, key, entries)
	}
	if entries.Kind != yaml.SequenceNode || len(entries.Content) == 0 { // null, or []
		*entries = yaml.Node{Kind: yaml.SequenceNode, LineComment: entries.LineComment}
	}
	kept := entries.Content[:0:0]
	above := "" // comments above removed entries
	for _, e := range entries.Content {
		if text(child(e, "name")) != name {
			e.HeadComment = paragraphs(above, e.HeadComment)
			above = ""
			kept = append(kept, e)
			continue
		}
		above = paragraphs(above, e.Content[0].FootComment, e.HeadComment) // yaml.v3 has the first of two at the first key
		if entry != nil {
			entry.HeadComment, above = above, ""
			kept = append(kept, entry)
			entry = nil
		}
	}
	key.FootComment = paragraphs(above, key.FootComment)
	if entry != nil {
		kept = append(kept, entry)
	}
	entries.Content = kept
	at, other := key, entries // the comment of the line with the key
	if len(kept) == 0 {
		at, other = entries, key
	}
	at.LineComment, other.LineComment = cmp.Or(at.LineComment, other.LineComment), ""
}

// paragraphs joins comments by blank lines.
func paragraphs(comments ...string) string {
	comments = slices.DeleteFunc(comments, func(c string) bool { return c == "" })
	return strings.Join(comments, "\n\n")
}

// local reports whether a cluster's server is on this computer's loopback, as every lab's is.
func local(cluster *yaml.Node) bool {
	return strings.HasPrefix(text(child(child(cluster, "cluster"), "server")), "https://127.0.0.1:")
}
