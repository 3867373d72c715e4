// Package notebook reads Jupyter notebooks whose cells are tagged as the steps
// of a pipeline, in the way of KALE (https://github.com/kubeflow-kale/kale).
package notebook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Step is one step of a pipeline: the cells that have its name as a tag, and
// the untagged ones that follow them.
type Step struct {
	Name  string
	Prev  []string // steps that must have ended before it, in the order in which they run
	Cells []int    // numbers of its cells, counted from 1
}

// The tags of a code cell. A cell without any goes with the one before it.
const (
	tagStep  = "step:"  // step:NAME, the step it is part of
	tagBlock = "block:" // KALE's older word for it
	tagPrev  = "prev:"  // prev:NAME, a step that comes before this one
	// What every step runs first: imports, functions, and names with values.
	tagImports, tagFunctions, tagParameters = "imports", "functions", "pipeline-parameters"
	tagSkip                                 = "skip" // is run by nobody
)

// stepName is what Kubernetes takes as a part of a pod's name, and Argo as a
// name in an expression.
var stepName = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`)

// file is the part of a notebook that is read.
// https://nbformat.readthedocs.io/en/latest/format_description.html
type file struct {
	Format int `json:"nbformat"`
	Cells  []struct {
		Type     string `json:"cell_type"`
		Source   source `json:"source"`
		Metadata struct {
			Tags []string `json:"tags"`
		} `json:"metadata"`
	} `json:"cells"`
}

// source is a cell's text, which a notebook has as one string or as lines.
type source string

func (s *source) UnmarshalJSON(data []byte) error {
	var lines []string
	if json.Unmarshal(data, &lines) == nil {
		*s = source(strings.Join(lines, ""))
		return nil
	}
	return json.Unmarshal(data, (*string)(s))
}

// Steps returns the steps of a notebook in an order in which they can run: each
// after all that come before it, and else as they are in the notebook.
//
// Errors name the cell, what is wrong with it and what is wanted: no notebook,
// no tagged step, a name or a tag that is none, a step before that does not
// exist, a circle.
func Steps(data []byte) ([]Step, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("it is no notebook: %w", err)
	}
	if f.Format != 4 {
		return nil, fmt.Errorf("it is no notebook of format 4: nbformat is %d", f.Format)
	}
	var steps []Step
	type tag struct {
		cell int
		prev string
	}
	var prevs []tag
	at := -1 // the step that untagged cells go with
	for i, c := range f.Cells {
		number := i + 1
		if c.Type != "code" {
			continue
		}
		own, prev, shared, err := read(c.Metadata.Tags)
		if err != nil {
			return nil, fmt.Errorf("cell %d: %w", number, err)
		}
		if line := magic(string(c.Source)); line != "" && !slices.Contains(c.Metadata.Tags, tagSkip) {
			return nil, fmt.Errorf("cell %d: %q is for Jupyter and no Python: tag the cell %q, or take the line out", number, line, tagSkip)
		}
		switch {
		case shared:
			at = -1
			continue
		case own != "":
			if at = slices.IndexFunc(steps, func(s Step) bool { return s.Name == own }); at < 0 {
				at = len(steps)
				steps = append(steps, Step{Name: own})
			}
		case at < 0 && strings.TrimSpace(string(c.Source)) != "":
			return nil, fmt.Errorf("cell %d has no tag, and no step is before it: tag it %sNAME, %s, %s, %s or %s",
				number, tagStep, tagImports, tagFunctions, tagParameters, tagSkip)
		case at < 0:
			continue
		}
		steps[at].Cells = append(steps[at].Cells, number)
		for _, p := range prev {
			prevs = append(prevs, tag{number, p})
			if !slices.Contains(steps[at].Prev, p) {
				steps[at].Prev = append(steps[at].Prev, p)
			}
		}
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("no cell is tagged %sNAME: there is no step to run", tagStep)
	}
	for _, p := range prevs {
		if !slices.ContainsFunc(steps, func(s Step) bool { return s.Name == p.prev }) {
			return nil, fmt.Errorf("cell %d: tag %q names no step", p.cell, tagPrev+p.prev)
		}
	}
	return order(steps)
}

// read reads a cell's tags; what is no tag of a pipeline is somebody else's.
func read(tags []string) (step string, prev []string, shared bool, err error) {
	for _, tag := range tags {
		name, isStep := strings.CutPrefix(tag, tagStep)
		if !isStep {
			name, isStep = strings.CutPrefix(tag, tagBlock)
		}
		before, isPrev := strings.CutPrefix(tag, tagPrev)
		switch {
		case isStep && !stepName.MatchString(name):
			return "", nil, false, fmt.Errorf("tag %q: a step's name is at most 40 of a-z, 0-9 and -, begins with a letter, and ends with a letter or digit", tag)
		case isStep && step != "" && step != name:
			return "", nil, false, fmt.Errorf("it is tagged with two steps, %s and %s: split it", step, name)
		case isStep:
			step = name
		case isPrev:
			prev = append(prev, before)
		case slices.Contains([]string{tagImports, tagFunctions, tagParameters, tagSkip}, tag):
			shared = true
		}
	}
	switch {
	case shared && step != "":
		return "", nil, false, errors.New("it is tagged as a step, and as what no step or every step runs")
	case step == "" && len(prev) > 0:
		return "", nil, false, fmt.Errorf("it is tagged %s%s, and with no step", tagPrev, prev[0])
	}
	return step, prev, shared, nil
}

// magic returns the first line that only Jupyter understands: % or ! where a
// statement begins. In a string, in brackets and after a backslash a line goes on
// what is begun, and may begin with anything.
func magic(code string) string {
	open, quote := 0, "" // brackets, and what ends the string
	for begins := true; code != ""; {
		line, rest, _ := strings.Cut(code, "\n")
		if line = strings.TrimSpace(line); begins && (strings.HasPrefix(line, "%") || strings.HasPrefix(line, "!")) {
			return line
		}
		escaped := false
		for line := line; line != ""; {
			n := 1
			switch {
			case line[0] == '\\':
				n = min(2, len(line))
				escaped = n == 1
			case quote != "":
				if strings.HasPrefix(line, quote) {
					n, quote = len(quote), ""
				}
			case line[0] == '#':
				n = len(line)
			case strings.HasPrefix(line, `"""`), strings.HasPrefix(line, "'''"):
				n, quote = 3, line[:3]
			case line[0] == '"', line[0] == '\'':
				quote = line[:1]
			case strings.IndexByte("([{", line[0]) >= 0:
				open++
			case strings.IndexByte(")]}", line[0]) >= 0:
				open--
			}
			line = line[n:]
		}
		if len(quote) == 1 && !escaped { // it does not end, which is for Python to say
			quote = ""
		}
		begins, code = open <= 0 && quote == "" && !escaped, rest
	}
	return ""
}

// Strip is a notebook without what a run of it has left: the outputs of its
// cells, and their numbers. With them the same code would be another pipeline.
func Strip(data []byte) ([]byte, error) {
	if !json.Valid(data) {
		return nil, errors.New("it is no notebook")
	}
	var whole map[string]any
	numbers := json.NewDecoder(bytes.NewReader(data))
	numbers.UseNumber()
	if err := numbers.Decode(&whole); err != nil {
		return nil, fmt.Errorf("it is no notebook: %w", err)
	}
	cells, _ := whole["cells"].([]any)
	for _, each := range cells {
		if c, _ := each.(map[string]any); c["cell_type"] == "code" {
			c["outputs"], c["execution_count"] = []any{}, nil
		}
	}
	return json.Marshal(whole)
}

// order sorts steps, and the steps before each, so that each follows all that
// come before it: what a later one has changed is not to be overwritten by what
// it began with.
func order(steps []Step) ([]Step, error) {
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
			return fmt.Errorf("the steps go in a circle: %s", strings.Join(path[slices.Index(path, s.Name):], " -> "))
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
