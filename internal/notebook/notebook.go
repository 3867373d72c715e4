// Package notebook compiles Jupyter notebooks whose cells are tagged as the steps
// of a pipeline, in the way of KALE (https://github.com/kubeflow/kale), and reads
// the status of a pipeline.
package notebook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	kjson "sigs.k8s.io/json"
)

// Notebook is the pipeline that a notebook describes.
type Notebook struct {
	Shared     []Cell      // every step runs them first: parameters, imports, functions
	Parameters []Parameter // names in Shared that a run may set
	Steps      []Step      // each after all that come before it, and else as they are in the notebook
	Unused     []int       // numbers of the cells with code that have no tag, before the first one that has
}

// Cell is the Python of a cell.
type Cell struct {
	Number int    `json:"cell"` // counted from 1, with the cells of text
	Code   string `json:"code"`
}

// Step is one step of a pipeline.
type Step struct {
	Name    string
	Prev    []string // steps that must have ended before it, in the order in which they run
	Cells   []Cell
	Metrics []string // names whose values are the pipeline's metrics
	Pod     Pod
	cell    int // the first with its tag
}

// Task is the step's name in Argo, which takes no underscores.
func (s Step) Task() string { return task(s.Name) }

func task(name string) string { return strings.Trim(strings.ReplaceAll(name, "_", "-"), "-") }

// Pod has the tags about the pod of a step.
type Pod struct {
	Annotations map[string]string `json:",omitempty"`
	Labels      map[string]string `json:",omitempty"`
	Limits      map[string]string `json:",omitempty"` // of its resources
	Secrets     map[string]Secret `json:",omitempty"` // by the variable of the environment that has it
	Image       string            `json:",omitempty"`
	imageCell   int               // that has its tag, or 0
}

// Secret is one value of a Secret.
type Secret struct{ Name, Key string }

// Parameter is a name with a value that a run may set.
type Parameter struct{ Name, Value string }

// file is the part of a notebook that is read: nothing else is code.
// https://nbformat.readthedocs.io/en/latest/format_description.html
type file struct {
	Format   any `json:"nbformat"`
	Metadata struct {
		Kale   kale `json:"kubeflow_notebook"`
		Kernel struct {
			Language string `json:"language"`
			Name     string `json:"name"`
		} `json:"kernelspec"`
		Info struct { // what is left where the kernel was stripped
			Name    string `json:"name"`
			Version any    `json:"version"`
		} `json:"language_info"`
	} `json:"metadata"`
	Cells []json.RawMessage `json:"cells"`
}

// fileCell is one of a file's cells.
type fileCell struct {
	Type     string  `json:"cell_type"`
	Source   *source `json:"source"`
	Metadata struct {
		Tags   []any `json:"tags"`
		VSCode struct {
			Language string `json:"languageId"` // of a cell that is not Python
		} `json:"vscode"`
	} `json:"metadata"`
}

// kale has KALE's metadata of a notebook that changes its pods.
type kale struct {
	StepsDefaults any    `json:"steps_defaults"` // tags of every step
	Image         string `json:"base_image"`
	Volumes       any    `json:"volumes"`
	Katib         any    `json:"katib_run"`
}

// source is a cell's text, which a notebook has as one string or as lines.
type source string

func (s *source) UnmarshalJSON(data []byte) error {
	var lines []string
	if json.Unmarshal(data, &lines) == nil {
		*s = source(strings.Join(lines, ""))
	} else if json.Unmarshal(data, (*string)(s)) != nil {
		return errors.New("source must be a string or an array of strings")
	}
	return nil
}

// parse reads JSON. Its errors speak of the fields in the file.
func parse(data []byte, into any) error {
	if kjson.UnmarshalCaseSensitivePreserveInts(data, into) == nil { // Go's own takes Tags for tags
		return nil
	}
	err := json.Unmarshal(data, into)
	if broken, is := errors.AsType[*json.SyntaxError](err); is {
		return brokenAt(data, int(broken.Offset), err)
	}
	other, is := errors.AsType[*json.UnmarshalTypeError](err)
	if !is {
		return err
	}
	want := map[reflect.Kind]string{reflect.Slice: "an array", reflect.String: "a string"}[other.Type.Kind()]
	return fmt.Errorf("%s must be %s, got %s", cmp.Or(strings.Trim(other.Field, "."), "it"), cmp.Or(want, "an object"), other.Value)
}

// conflict matches the marks that Git leaves in a file when a merge needs a person.
var conflict = regexp.MustCompile(`(?m)^(<{7}|={7}|>{7})( |\r?$)`)

// brokenAt adds to the error of a JSON parser where it is: after so many bytes.
func brokenAt(data []byte, after int, err error) error {
	if at := conflict.FindIndex(data); at != nil {
		return fmt.Errorf("line %d: a merge of Git's has left its marks (<<<<<<<): resolve it, such as with nbdime", 1+bytes.Count(data[:at[0]], []byte("\n")))
	}
	before := data[:min(max(after-1, 0), len(data))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return fmt.Errorf("line %d, column %d: %w", 1+bytes.Count(before, []byte("\n")), 1+utf8.RuneCount(before[start:]), err)
}

// unwritable are the numbers that JSON has not. Jupyter, in Python, writes them in outputs.
var unwritable = [][]byte{[]byte("NaN"), []byte("Infinity"), []byte("-Infinity")}

// clean returns a notebook's text as JSON.
func clean(data []byte) ([]byte, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // which some editors on Windows write
	switch {
	case bytes.HasPrefix(data, []byte("version https://git-lfs.github.com/spec/")):
		return nil, errors.New("it is a pointer of Git LFS to the notebook: run `git lfs pull`")
	case !utf8.Valid(data):
		return nil, errors.New("it is no notebook: it must be text in UTF-8")
	case json.Valid(data):
		return data, nil
	}
	var made []byte
	for inString := false; len(data) > 0; {
		n := 1
		switch c := data[0]; {
		case inString && c == '\\':
			n = min(2, len(data))
		case c == '"':
			inString = !inString
		case !inString:
			if i := slices.IndexFunc(unwritable, func(word []byte) bool { return bytes.HasPrefix(data, word) }); i >= 0 {
				made, data = append(made, "null"...), data[len(unwritable[i]):]
				continue
			}
		}
		made, data = append(made, data[:n]...), data[n:]
	}
	return made, nil
}

// otherKernels matches the names of kernels that are not Python's and may have no
// language of their own.
var otherKernels = regexp.MustCompile(`^(ir|julia.*|bash|deno|gonb|gophernotes|java(script)?|kotlin|matlab|octave|ruby|rust|sagemath|scala.*|spylon-kernel|spark(r)?kernel|sql|stata|xcpp.*|\.net-.*)$`)

// Read reads a notebook.
//
// Errors name the cell and the line, if they have one: not a notebook, no tagged
// step, a tag that KALE or the lab refuses, a previous step that does not exist, a
// circle.
func Read(data []byte) (*Notebook, error) {
	var f file
	data, err := clean(data)
	if err != nil {
		return nil, err
	}
	if err := parse(data, &f); err != nil {
		return nil, fmt.Errorf("it is no notebook: %w", err)
	}
	if f.Format != int64(4) && f.Format != 4. {
		return nil, fmt.Errorf("nbformat must be 4, got %s: save the notebook with a Jupyter of today", cmp.Or(strings.TrimPrefix(fmt.Sprintf("%#v", f.Format), "<nil>"), "none"))
	}
	language := cmp.Or(f.Metadata.Kernel.Language, f.Metadata.Info.Name, otherKernels.FindString(f.Metadata.Kernel.Name))
	if language != "" && !slices.Contains([]string{"python", "python3", "ipython"}, strings.ToLower(language)) {
		return nil, fmt.Errorf("the language of the notebook's kernel must be python, got %s", language)
	}
	if version := fmt.Sprint(cmp.Or(f.Metadata.Info.Version, any(strings.TrimPrefix(f.Metadata.Kernel.Name, "python")))); strings.HasPrefix(version+".", "2.") {
		return nil, fmt.Errorf("the notebook's kernel must be Python 3, got Python %s: run the notebook with Python 3, see that it does the same, and save it", version)
	}
	r := reader{steps: map[string]int{}, cells: map[string][]Cell{}, mentioned: map[string]bool{}}
	cells := make([]fileCell, len(f.Cells))
	for i, raw := range f.Cells {
		if err := parse(raw, &cells[i]); err != nil {
			return nil, fmt.Errorf("cell %d: %w", i+1, err)
		}
		switch c := cells[i]; {
		case c.Type == "code" && c.Source == nil:
			return nil, fmt.Errorf("cell %d: source must be a string or an array of strings, got none", i+1)
		case c.Type == "code":
			r.mention(string(*c.Source))
		case c.Type != "markdown" && c.Type != "raw":
			return nil, fmt.Errorf("cell %d: cell_type must be code, markdown or raw, got %q", i+1, c.Type)
		}
	}
	for i, c := range cells {
		if c.Type != "code" {
			continue
		}
		if err := r.cell(i+1, string(*c.Source), c.Metadata.VSCode.Language, c.Metadata.Tags); err != nil {
			return nil, fmt.Errorf("cell %d: %w", i+1, err)
		}
	}
	if err := r.whole(f.Metadata.Kale); err != nil {
		return nil, err
	}
	r.book.Parameters = parameters(r.cells[tagParameters])
	r.book.Shared = slices.Concat(r.cells[tagParameters], r.cells[tagImports], r.cells[tagFunctions])
	if r.book.Parameters == nil { // code, which KALE refuses: it may need imports
		r.book.Shared = slices.Concat(r.cells[tagImports], r.cells[tagParameters], r.cells[tagFunctions])
	}
	if r.book.Steps, err = sortSteps(r.book.Steps, r.prevs); err != nil {
		return nil, err
	}
	if err := r.metrics(); err != nil {
		return nil, err
	}
	return &r.book, nil
}

// reader is a notebook that is being read.
type reader struct {
	book      Notebook
	steps     map[string]int    // places of the steps, by name
	cells     map[string][]Cell // those of no step, by tag
	last      string            // tag or step that untagged cells go with
	prevs     []prev
	mentioned map[string]bool // the names in cells
	stars     bool            // a cell may set names that no cell mentions: by import *, %run, or a magic that is not IPython's
}

// prev is a tag prev: of a cell.
type prev struct {
	cell     int
	of, name string // the cell's step, and the one before
}

// mention notes the names of a cell, less those of a magic without its %: it mentions none.
func (r *reader) mention(code string) {
	code, _ = toPython(code, func(string) bool { return false }) // cell returns the error
	for _, m := range magicCalls.FindAllStringSubmatch(code, -1) {
		r.stars = r.stars || m[1] == "run" || m[2] != "" && !slices.Contains(cellMagics, m[2])
	}
	for _, line := range logical(code) {
		for i, t := range line {
			if t.named(line[:i]) {
				r.mentioned[t.text] = true
			}
			r.stars = r.stars || t.is("*") && i > 0 && line[i-1].is("import")
		}
	}
}

// cell reads a code cell.
func (r *reader) cell(number int, code, language string, raw []any) error {
	t, err := readTags(raw)
	if err != nil {
		return err
	}
	if t.special == tagSkip || slices.Contains(raw, any("skip-execution")) { // nbclient's
		return nil // the cell after it goes with the cell before it
	}
	if inStep := t.step != "" || t.stepped && strings.HasPrefix(r.last, tagStep); t.needs != "" && !inStep {
		return fmt.Errorf("tag %q must be with a tag %sNAME", t.needs, tagStep)
	}
	if t.special == "" && t.step == "" && r.last == "" {
		for _, tag := range raw {
			if tag == "parameters" || tag == "injected-parameters" {
				return fmt.Errorf("tag %q is papermill's, and no step would run the cell: tag it %q, or %q", tag, tagParameters, tagSkip)
			}
		}
		if strings.TrimSpace(code) != "" {
			r.book.Unused = append(r.book.Unused, number)
		}
		return nil
	}
	if language != "" && language != "python" {
		return fmt.Errorf("its language must be python, got %s: tag it %q", language, tagSkip)
	}
	if code, err = toPython(code, func(name string) bool { return r.stars || r.mentioned[name] }); err != nil {
		return err
	}
	made := Cell{number, code}
	switch {
	case t.special != "":
		r.last = t.special
	case t.step != "":
		if r.last == tagMetrics {
			return fmt.Errorf("tag %q must come before the cells tagged %s: they are of the whole pipeline", tagStep+t.step, tagMetrics)
		}
		if _, is := r.steps[t.step]; !is {
			r.steps[t.step] = len(r.book.Steps)
			r.book.Steps = append(r.book.Steps, Step{Name: t.step, cell: number})
		}
		r.last = tagStep + t.step
	}
	at, isStep := strings.CutPrefix(r.last, tagStep)
	if !isStep {
		if code != "" {
			r.cells[r.last] = append(r.cells[r.last], made)
		}
		return nil
	}
	s := &r.book.Steps[r.steps[at]]
	if code != "" {
		s.Cells = append(s.Cells, made)
	}
	t.pod.imageCell = number
	s.Pod = s.Pod.or(t.pod)
	for _, p := range t.prev {
		r.prevs = append(r.prevs, prev{number, at, p})
		if !slices.Contains(s.Prev, p) {
			s.Prev = append(s.Prev, p)
		}
	}
	return nil
}

// whole reads the notebook's own metadata, and checks the steps together.
func (r *reader) whole(k kale) error {
	const where = "metadata kubeflow_notebook"
	steps := r.book.Steps
	if volumes, is := k.Volumes.([]any); k.Volumes != nil && (!is || len(volumes) > 0) {
		return fmt.Errorf("%s: volumes must be empty: the lab mounts none in a step; hand values on by their names", where)
	}
	if k.Katib == true {
		return fmt.Errorf("%s: katib_run must be false: the lab has no Katib", where)
	}
	raw, is := k.StepsDefaults.([]any)
	if k.StepsDefaults != nil && !is {
		return fmt.Errorf("%s: steps_defaults must be a list of tags", where)
	}
	defaults, err := readTags(raw)
	if err == nil && (defaults.special != "" || defaults.step != "" || defaults.prev != nil) {
		err = errors.New("it must have tags of a pod only, such as label:KEY:VALUE")
	}
	if err != nil {
		return fmt.Errorf("%s: steps_defaults: %w", where, err)
	}
	if defaults.pod.Image == "" {
		defaults.pod.Image = k.Image
	}
	for i := range steps {
		steps[i].Pod = steps[i].Pod.or(defaults.pod)
	}
	if len(steps) == 0 && r.book.Unused != nil {
		return fmt.Errorf("cell %d has no tag, and no cell is tagged %sNAME: there is no step to run", r.book.Unused[0], tagStep)
	}
	if len(steps) == 0 {
		return fmt.Errorf("no cell is tagged %sNAME: there is no step to run", tagStep)
	}
	tasks := map[string]string{}
	for _, s := range steps {
		if other, is := tasks[s.Task()]; is {
			return fmt.Errorf("cell %d: steps %q and %q would have one name in Argo, which takes no underscores: %q", s.cell, other, s.Name, s.Task())
		}
		tasks[s.Task()] = s.Name
	}
	for _, p := range r.prevs {
		if _, is := r.steps[p.name]; !is {
			return fmt.Errorf("cell %d: tag %q names no step: there are %s", p.cell, tagPrev+p.name, strings.Join(slices.Sorted(maps.Keys(r.steps)), ", "))
		}
	}
	return nil
}

// metric matches a line of a cell with metrics, as in KALE.
var metric = regexp.MustCompile(`^print\(([a-z](?:[_a-z0-9]{0,62}[a-z0-9])?)\)$`)

// metrics gives each metric to the last step that has its name.
func (r *reader) metrics() error {
	for _, c := range r.cells[tagMetrics] {
		for i, line := range strings.Split(c.Code, "\n") {
			if line = strings.TrimRight(line, " \t"); line == "" {
				continue
			}
			m := metric.FindStringSubmatch(line)
			if m == nil {
				return fmt.Errorf("cell %d, line %d: a cell tagged %s must have lines print(NAME) only, got %q", c.Number, i+1, tagMetrics, shown(line))
			}
			if !r.measured(m[1]) {
				return fmt.Errorf("cell %d, line %d: no step has the name %s", c.Number, i+1, m[1])
			}
		}
	}
	return nil
}

func (r *reader) measured(metric string) bool {
	for i := len(r.book.Steps) - 1; i >= 0; i-- {
		s := &r.book.Steps[i]
		if slices.ContainsFunc(slices.Concat(r.book.Shared, s.Cells), func(c Cell) bool { return hasName(c.Code, metric) }) {
			if !slices.Contains(s.Metrics, metric) {
				s.Metrics = append(s.Metrics, metric)
			}
			return true
		}
	}
	return false
}

// hasName reports whether a cell has a name. A string that nothing closes may hide it:
// Python says that.
func hasName(code, name string) bool {
	for _, line := range logical(code) {
		for i, t := range line {
			if t.kind == unclosed || t.text == name && t.named(line[:i]) {
				return true
			}
		}
	}
	return false
}

// named reports whether the token is a name, and none of an attribute. before are the tokens of its line before it.
func (t token) named(before []token) bool {
	return t.kind == aName && (len(before) == 0 || !before[len(before)-1].is("."))
}

// logical returns the lines of a cell that is translated, and of the Python that its magics run.
func logical(code string) [][]token {
	lines := tokens(code + "\n")
	for _, line := range lines {
		for i, t := range line {
			if !t.is("get_ipython") || len(line) < i+9 || !slices.Contains([]string{`"time"`, `"capture"`}, line[i+6].text) {
				continue
			}
			last := line[i+8] // a line's code, or a cell's after its options
			if len(line) > i+10 && line[i+10].kind == aString {
				last = line[i+10]
			}
			if inside, err := strconv.Unquote(last.text); err == nil {
				lines = append(lines, logical(inside)...)
			}
		}
	}
	return lines
}

// parameters returns the names to which the cells assign a number, a string, True
// or False: KALE's parameters. If the cells do anything else, it returns none,
// because a value may depend on another one.
func parameters(cells []Cell) (all []Parameter) {
	for _, c := range cells {
		for _, line := range tokens(c.Code + "\n") {
			line = slices.DeleteFunc(line, func(t token) bool { return t.kind == aComment || t.kind == anEnd })
			if len(line) == 0 {
				continue
			}
			if len(line) < 3 || !parameterName.MatchString(line[0].text) || !line[1].is("=") {
				return nil
			}
			value, is := literal(line[2:])
			if !is {
				return nil
			}
			all = slices.DeleteFunc(all, func(each Parameter) bool { return each.Name == line[0].text })
			all = append(all, Parameter{line[0].text, value})
		}
	}
	return all
}

// parameterName matches the names that both Python and Argo accept.
var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// foreign matches what a string of Python's and a value in a Workflow do not share.
var foreign = regexp.MustCompile(`\\|\{\{|\$[$(]`)

// literal returns the value of a number, a string, True or False. It refuses strings
// with escapes, and strings in which Argo ({{) or Kubernetes ($$, $( in a variable of
// the environment) would look for its own variables.
func literal(t []token) (string, bool) {
	sign := ""
	if len(t) == 2 && (t[0].is("-") || t[0].is("+")) && t[1].kind == aNumber {
		sign, t = t[0].text, t[1:]
	}
	switch {
	case len(t) != 1:
		return "", false
	case t[0].kind == aNumber:
		return sign + t[0].text, !strings.ContainsAny(t[0].text[len(t[0].text)-1:], "jJ")
	case t[0].is("True"), t[0].is("False"):
		return t[0].text, true
	case t[0].kind != aString || foreign.MatchString(t[0].text):
		return "", false
	}
	s := t[0].text
	quote := s[:1]
	if quote != `"` && quote != "'" {
		return "", false
	}
	if len(s) >= 6 && strings.HasPrefix(s, strings.Repeat(quote, 3)) {
		return s[3 : len(s)-3], true
	}
	return s[1 : len(s)-1], true
}

// sortSteps sorts steps, and the previous steps of each, so that each follows all its
// previous steps. A value that a later step has changed is thus read last.
func sortSteps(steps []Step, prevs []prev) ([]Step, error) {
	var sorted []Step
	const (
		open = iota + 1
		done
	)
	state := map[string]int{}
	var visit func(s Step, path []string) error
	visit = func(s Step, path []string) error {
		path = append(path, s.Name)
		switch state[s.Name] {
		case open:
			last := slices.IndexFunc(prevs, func(p prev) bool { return p.of == path[len(path)-2] && p.name == s.Name })
			return fmt.Errorf("cell %d: the steps go in a circle: %s", prevs[last].cell, strings.Join(path[slices.Index(path, s.Name):], " -> "))
		case done:
			return nil
		}
		state[s.Name] = open
		for _, p := range s.Prev {
			i := slices.IndexFunc(steps, func(each Step) bool { return each.Name == p })
			if err := visit(steps[i], path); err != nil {
				return err
			}
		}
		state[s.Name] = done
		sorted = append(sorted, s)
		return nil
	}
	for _, s := range steps {
		if err := visit(s, nil); err != nil {
			return nil, err
		}
	}
	for _, s := range sorted {
		place := func(name string) int {
			return slices.IndexFunc(sorted, func(each Step) bool { return each.Name == name })
		}
		slices.SortFunc(s.Prev, func(a, b string) int { return place(a) - place(b) })
	}
	return sorted, nil
}
