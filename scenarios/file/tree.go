package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of a file: far above any real scenario, and low enough that no file takes
// noticeable time or memory.
const (
	MaxBytes = 1 << 20
	maxDepth = 40
	maxNodes = 20_000 // with aliases expanded
)

type kind int

const (
	mapping kind = iota
	list
	text
	whole
	number
	boolean
	null
)

func (k kind) String() string {
	return [...]string{"a mapping", "a list", "text", "a whole number", "a number", "true or false", "nothing"}[k]
}

// value is a part of the file with its position. Aliases are expanded.
type value struct {
	kind
	place
	path   string
	text   string // source text of a scalar
	truth  bool
	float  float64
	int    int64
	fields []field // of a mapping, in the file's order
	items  []*value
}

type field struct {
	name string
	place
	*value
}

type place struct{ line, column int }

// get returns the field of that name, or nil.
func (v *value) get(name string) *value {
	if v == nil {
		return nil
	}
	for _, f := range v.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// list returns the items of a list, or none.
func (v *value) list() []*value {
	if v == nil {
		return nil
	}
	return v.items
}

// all returns the fields of a mapping, or none.
func (v *value) all() []field {
	if v == nil {
		return nil
	}
	return v.fields
}

// str returns the text of a scalar, or "".
func (v *value) str() string {
	if v == nil {
		return ""
	}
	return v.text
}

// any returns v in the form of decoded JSON.
func (v *value) any() any {
	switch v.kind {
	case mapping:
		m := map[string]any{}
		for _, f := range v.fields {
			m[f.name] = f.any()
		}
		return m
	case list:
		l := []any{}
		for _, i := range v.items {
			l = append(l, i.any())
		}
		return l
	case whole:
		return v.int
	case number:
		return v.float
	case boolean:
		return v.truth
	case null:
		return nil
	}
	return v.text
}

// problem is one mistake in the file.
type problem struct {
	place
	path string
	text string // the mistake and its fix
}

// reader collects the problems of one file.
type reader struct {
	rules    Rules
	form     *form
	nodes    int
	problems []problem
	full     bool // the file exceeds a limit, which is reported already
}

func (r *reader) say(at place, path, format string, args ...any) {
	r.problems = append(r.problems, problem{at, path, fmt.Sprintf(format, args...)})
}

func (r *reader) wrong(v *value, format string, args ...any) {
	r.say(v.place, v.path, format, args...)
}

// below returns the path of a field.
func below(path, name string) string {
	if !plain.MatchString(name) {
		name = quote(name)
	}
	if path == wholeFile {
		return name
	}
	return path + "." + name
}

var plain = regexp.MustCompile(`^[-_./A-Za-z0-9]{1,80}$`)

// wholeFile is the path of the file itself.
const wholeFile = "(the file)"

// tree reads the one document of data.
func (r *reader) tree(data []byte) *value {
	if at, what := unreadable(data); what != "" {
		r.say(at, wholeFile, "%s", what)
		return nil
	}
	data = version.ReplaceAll(data, []byte("${1}1.1")) // all that the parser knows by that name; it reads both
	doc, second, err := parse(data)
	switch {
	case err == nil && doc == nil:
		r.say(place{1, 1}, wholeFile, "it is empty; begin with `apiVersion: %s`", APIVersion)
		return nil
	case err == nil && second != nil:
		r.say(place{second.Line, second.Column}, wholeFile, "a second document begins here; a file holds one scenario, and objects are items of a step's apply; make it a file of its own, or such an item")
		return nil
	case err == nil:
		return r.build(doc.Content[0], "", 0, map[*yaml.Node]bool{})
	}
	at, near := locate(data, err)
	says := regexp.MustCompile(`^yaml: (line \d+: )?`).ReplaceAllString(err.Error(), "")
	fix := "look at the indentation, quotes and brackets here and above"
	if line := bytes.Split(data, []byte("\n"))[at.line-1]; bytes.Contains(line, []byte("${")) {
		fix += "; in brackets a text with ${…} must be in quotes"
	}
	r.say(at, wholeFile, "this is not YAML near %q: %s; %s", near, says, fix)
	return nil
}

// version matches the version of YAML with which a file may begin.
var version = regexp.MustCompile(`^(\x{feff}?(?:#.*\n|\s)*%YAML[ \t]+)1\.[0-9]`)

// parse reads up to two documents, and none of those that are empty. A missing one
// is nil.
func parse(data []byte) (first, second *yaml.Node, err error) {
	docs := yaml.NewDecoder(bytes.NewReader(data))
	var nodes [2]*yaml.Node
	for i := 0; i < len(nodes); {
		var n yaml.Node
		if err := docs.Decode(&n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, nil, err
		}
		if only := n.Content[0]; only.ShortTag() != "!!null" || only.Value != "" {
			nodes[i] = &n
			i++
		}
	}
	return nodes[0], nodes[1], nil
}

// unreadable returns the position of the first character that YAML does not allow.
func unreadable(data []byte) (place, string) {
	at := place{1, 1}
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			return at, "this byte is not UTF-8; save the file as UTF-8"
		case c < ' ' && !strings.ContainsRune("\t\n\r", c) || c == 0x7f || c == 0xfeff && i > 0 || c >= 0x80 && c < 0xa0 && c != 0x85 || c == 0xfffe || c == 0xffff:
			return at, fmt.Sprintf("control character %U is not allowed; take it out, or write it as an escape in double quotes", c)
		}
		if at.column++; c == '\n' {
			at = place{at.line + 1, 1}
		}
		i += size
	}
	return at, ""
}

var (
	lineOf   = regexp.MustCompile(`line (\d+)`)
	anchorOf = regexp.MustCompile(`unknown anchor '(.*)' referenced`)
)

// locate returns the line of a syntax error, and its text. The parser reports where
// the surrounding part begins. The mistake comes after the last line up to which
// the file is valid.
func locate(data []byte, err error) (place, string) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	line := 1
	if m := lineOf.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	line = min(max(line, 1), len(lines))
	if m := anchorOf.FindStringSubmatch(err.Error()); m != nil {
		alias := []byte("*" + m[1])
		for i, text := range lines {
			if column := bytes.Index(text, alias); column >= 0 {
				return place{i + 1, column + 1}, string(bytes.TrimSpace(text))
			}
		}
	}
	for end, budget := line, 4*MaxBytes; end < len(lines) && budget > 0; end++ {
		part := bytes.Join(lines[:end], nil)
		budget -= len(part) + 1000
		if _, _, err := parse(part); err == nil {
			line = end + 1
		}
	}
	said := string(bytes.TrimSpace(lines[line-1]))
	if len(said) > 60 {
		said = strings.ToValidUTF8(said[:60], "") + "…"
	}
	return place{line, 1}, said
}

// build converts n to a value. If it cannot, it reports a problem and returns nil.
// open has the anchors that contain n.
func (r *reader) build(n *yaml.Node, path string, depth int, open map[*yaml.Node]bool) *value {
	at := place{n.Line, n.Column}
	if path == "" {
		path = wholeFile
	}
	if r.nodes++; r.nodes > maxNodes || depth > maxDepth {
		if !r.full {
			r.full = true
			r.say(at, path, "the file is too large here: more than %d values with every alias written out, or more than %d levels; make it smaller", maxNodes, maxDepth)
		}
		return nil
	}
	if n.Kind == yaml.AliasNode {
		if open[n.Alias] {
			r.say(at, path, "alias %s is inside of what it stands for; write it out", quote("*"+n.Value))
			return nil
		}
		return r.build(n.Alias, path, depth, open)
	}
	if n.Anchor != "" {
		open[n] = true
		defer delete(open, n)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		r.say(at, path, "tag %s is not read; quote what is text, and write everything else as it is", quote(n.Tag))
		return nil
	}
	v := &value{place: at, path: path}
	switch n.Kind {
	case yaml.MappingNode:
		v.kind = mapping
		seen := map[string]int{}
		for i := 0; i+1 < len(n.Content) && !r.full; i += 2 {
			key := n.Content[i]
			name, keyAt := key.Value, place{key.Line, key.Column}
			switch first, twice := seen[name]; {
			case key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0:
				r.say(keyAt, path, "a key must be plain text; write NAME: VALUE")
				continue
			case key.ShortTag() == "!!merge":
				r.say(keyAt, below(path, name), "merge keys are not read; write the fields out")
				continue
			case !isText(key):
				r.say(keyAt, below(path, name), "key %s is not text; put it in quotes", quote(name))
				continue
			case twice:
				r.say(keyAt, below(path, name), "it is here a second time, after line %d; remove one of them", first)
				continue
			case strings.Contains(name, "${"):
				r.say(keyAt, below(path, name), "a key is not filled in; placeholders stand in values only")
				continue
			}
			seen[name] = key.Line
			if part := r.build(n.Content[i+1], below(path, name), depth+1, open); part != nil {
				v.fields = append(v.fields, field{name, keyAt, part})
			}
		}
	case yaml.SequenceNode:
		v.kind = list
		for i, each := range n.Content {
			if r.full {
				break
			}
			if part := r.build(each, fmt.Sprintf("%s[%d]", path, i), depth+1, open); part != nil {
				v.items = append(v.items, part)
			}
		}
	default:
		return r.scalar(n, v)
	}
	return v
}

// isText reports whether a scalar is text. A date is text, as in Kubernetes.
func isText(n *yaml.Node) bool {
	tag := n.ShortTag()
	return tag == "!!str" || tag == "!!timestamp"
}

func (r *reader) scalar(n *yaml.Node, v *value) *value {
	v.text = n.Value
	var err error
	switch n.ShortTag() {
	case "!!int":
		v.kind = whole
		err = n.Decode(&v.int)
		v.float = float64(v.int)
	case "!!float":
		v.kind = number
		if err = n.Decode(&v.float); err == nil && (math.IsNaN(v.float) || math.IsInf(v.float, 0)) {
			err = errors.New("not finite")
		}
	case "!!bool":
		v.kind = boolean
		err = n.Decode(&v.truth)
	case "!!null":
		v.kind = null
	default:
		v.kind = text
		if bad := badPlaceholder(v.text); bad != "" {
			r.wrong(v, "%s is no placeholder; there are ${image}, ${namespace} and ${host:NAME}", quote(bad))
		}
	}
	if err != nil {
		r.wrong(v, "%s is not a number that can be used; write a smaller one", quote(n.Value))
		return nil
	}
	return v
}
