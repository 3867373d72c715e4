// Package file reads a scenario that a user has written as YAML, and judges all
// of it before anything is touched: its form, what it refers to, and that its
// objects stay within the run's own namespace.
//
// It knows no cluster and makes nothing. Package scenarios tells the story.
package file

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/fault"
)

// APIVersion and Kind begin every file.
const (
	APIVersion = "mllab.local/v1alpha1"
	Kind       = "Scenario"
)

// MaxRequests bounds one sample: about ten minutes on two cores.
const MaxRequests = 500_000

// NamespacePrefix begins the name of every run's namespace.
const NamespacePrefix = "mllab-"

// MaxWithin bounds every wait that a file asks for.
const MaxWithin = 3 * time.Minute

// Rules are what a file is judged by, in addition to its own text.
type Rules struct {
	Domain   string   // suffix of the hosts behind the gateway
	Taken    []string // names of mllab's own scenarios
	Reserved []string // namespaces of addons
	Requests int      // of a sample for which the file has no number
	Alpha    float64  // the same
}

// File is a scenario that can be told.
type File struct {
	Name, Summary string
	Needs         []string // addons, also those that its steps imply
	Mesh          bool
	Steps         []Step
	Controls      []Control
}

// Step has a change, a wait, an expectation, or several of them, in this order.
type Step struct {
	Where            string // "my.yaml:12"
	Name, Idea, Look string
	Change           Change
	Wait             Wait
	Expect           Expect
}

// Change is one of Apply, Delete, Split, Mirror, Watch and, in a break, Env;
// nil is none.
type Change any

// Apply writes models and objects.
type Apply struct {
	Models  []Model
	Objects []Object
}

// Model is a version of the sample model: a Knative Service's revision, or a
// Deployment with a Service and, if Route, a share of a route from the gateway.
type Model struct {
	Where    string
	Name     string            `file:"name"`
	Version  string            `file:"version"`
	Env      map[string]string `file:"env"`
	Knative  bool
	Route    bool   `file:"route"`     // of a Deployment
	Replicas int    `file:"replicas"`  // of a Deployment
	MinScale int    `file:"min-scale"` // of a revision
	MaxScale int    `file:"max-scale"` // of a revision
	Window   string `file:"window"`    // of a revision: how long it must be quiet to lose a pod
}

// Object is written as it is, but for its placeholders.
type Object struct {
	Where  string
	fields map[string]any
}

// Ref names an object.
type Ref struct{ Group, Kind, Name string }

func (r Ref) String() string {
	if r.Group == "" {
		return r.Kind + "/" + r.Name
	}
	return r.Kind + "." + r.Group + "/" + r.Name
}

// Delete removes objects that were applied.
type Delete struct{ Refs []Ref }

// Split divides the traffic of a model among its versions.
type Split struct {
	Of     string  `file:"of"`
	Shares []Share `file:"percent"`
}

// Share is in percent.
type Share struct {
	Version string
	Percent float64
}

// Mirror copies requests to a version whose answers nobody gets.
type Mirror struct {
	Of      string  `file:"of"`
	To      string  `file:"to"`
	Percent float64 `file:"percent"`
}

// Watch begins to send requests at a constant rate.
type Watch struct {
	Of   string  `file:"of"`
	Rate float64 `file:"rate"`
}

// Env is what a version that is applied from now on gets, in addition to its own.
type Env struct {
	Of      string            `file:"of"`
	Version string            `file:"version"`
	Set     map[string]string `file:"set"`
}

// Wait is what a step waits for after its change.
type Wait struct {
	No     bool          // not even until what is applied is ready
	Ready  *Ref          // this object is ready
	Mark   string        // the route of Of answers with this mark
	Of     string        //
	Within time.Duration // 0: as long as a step may take
	Empty  []string      // destinations, SERVICE or SERVICE/SUBSET, that are meant to have no endpoint
}

// Some says whether there is anything to wait for.
func (w Wait) Some() bool { return w.No || w.Ready != nil || w.Mark != "" || len(w.Empty) > 0 }

// Expect is one of ExpectSplit, ExpectAll, ExpectMirror, ExpectZeroPods and
// ExpectNoLoss; nil is none.
type Expect interface{ Claims() []string }

// ExpectSplit claims that the versions answer in these shares.
type ExpectSplit struct {
	Of       string  `file:"of"`
	Shares   []Share `file:"percent"`
	Requests int     `file:"requests"`
	Alpha    float64 `file:"alpha"`
}

// ExpectAll claims that every answer is from one version.
type ExpectAll struct {
	Of       string            `file:"of"`
	Version  string            `file:"version"`
	Headers  map[string]string `file:"headers"`
	Cookies  map[string]string `file:"cookies"`
	Requests int               `file:"requests"`
}

// ExpectMirror claims that of the requests to a model, each answered, this
// part reached the shadow, each once.
type ExpectMirror struct {
	Of       string  `file:"of"`
	To       string  `file:"to"`
	Percent  float64 `file:"percent"`
	Requests int     `file:"requests"`
	Alpha    float64 `file:"alpha"`
}

// ExpectZeroPods claims that a quiet Knative Service has no pod left by then.
type ExpectZeroPods struct {
	Of     string        `file:"of"`
	Within time.Duration `file:"within"`
}

// ExpectNoLoss ends a watch and claims that it lost nothing.
type ExpectNoLoss struct {
	Of string `file:"of"`
}

// Claims are those that can be refuted.
func (ExpectSplit) Claims() []string { return []string{"answers", "shares"} }

// Claims of all answers are about routes when the request says who it is.
func (e ExpectAll) Claims() []string { return []string{"answers", e.Claim()} }

// Claim is the other one.
func (e ExpectAll) Claim() string {
	if len(e.Headers)+len(e.Cookies) > 0 {
		return "routes"
	}
	return "shares"
}

func (ExpectMirror) Claims() []string   { return []string{"answers", "mirror"} }
func (ExpectZeroPods) Claims() []string { return []string{"zero"} }
func (ExpectNoLoss) Claims() []string   { return []string{"no-loss"} }

// Control breaks the world after a step; "" is before the first.
type Control struct {
	Where                         string
	Name, Summary, After, Catches string
	Break                         []Break
}

// Break is a change, and what it waits for.
type Break struct {
	Change Change
	Wait   Wait
}

// Vars fill placeholders in.
type Vars struct{ Image, Namespace, Domain string }

var placeholder = regexp.MustCompile(`\$\{[^}]*\}?`)

var goodPlaceholder = regexp.MustCompile(`^\$\{(image|namespace|host:[a-z]([-a-z0-9]{0,61}[a-z0-9])?)\}$`)

// badPlaceholder is the first one that does not exist.
func badPlaceholder(s string) string {
	for _, p := range placeholder.FindAllString(s, -1) {
		if !goodPlaceholder.MatchString(p) {
			return p
		}
	}
	return ""
}

// Fill is the object with its placeholders filled in; a copy.
func (o Object) Fill(v Vars) map[string]any { return v.fill(o.fields).(map[string]any) }

func (v Vars) fill(x any) any {
	switch x := x.(type) {
	case string:
		return placeholder.ReplaceAllStringFunc(x, func(p string) string {
			switch name, isHost := strings.CutPrefix(p, "${host:"); {
			case isHost:
				return strings.TrimSuffix(name, "}") + "." + v.Namespace + "." + v.Domain
			case p == "${image}":
				return v.Image
			}
			return v.Namespace
		})
	case map[string]any:
		m := map[string]any{}
		for k, each := range x {
			m[k] = v.fill(each)
		}
		return m
	case []any:
		l := make([]any, len(x))
		for i, each := range x {
			l[i] = v.fill(each)
		}
		return l
	}
	return x
}

// Ref is the object's.
func (o Object) Ref() Ref {
	api, _ := o.fields["apiVersion"].(string)
	kind, _ := o.fields["kind"].(string)
	meta, _ := o.fields["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	group, _, grouped := strings.Cut(api, "/")
	if !grouped {
		group = ""
	}
	return Ref{group, kind, name}
}

// CheckName judges the name of a scenario. The error is wrong use.
func CheckName(name string) error {
	form, err := scenarioSchema()
	if s := form.Properties["name"]; err == nil && !s.accepts(name) {
		err = fault.Usage("such as my-canary", "the name of a scenario must be %s, got %q", s.Description, name)
	}
	return err
}

// maxProblems are told at once; the rest is often their consequence.
const maxProblems = 10

// Read reads a file, whose name is for its problems. The error is wrong use
// and names each problem with line, column and field.
func Read(name string, data []byte, rules Rules) (*File, error) {
	name = filepath.Base(name)
	form, err := scenarioSchema()
	if err != nil {
		return nil, err
	}
	r := &reader{rules: rules, schema: form}
	var f *File
	if len(data) > MaxBytes {
		r.say(place{1, 1}, wholeFile, "it has more than %d bytes; make it smaller", MaxBytes)
	} else if root := r.tree(data); root != nil && len(r.problems) == 0 {
		if r.check(form, root); len(r.problems) == 0 {
			f = r.story(name, root)
		}
	}
	if len(r.problems) == 0 {
		return f, nil
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int { return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column)) })
	var lines []string
	for i, p := range r.problems {
		if i == maxProblems {
			lines = append(lines, fmt.Sprintf("and %d more", len(r.problems)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("%s:%d:%d: %s: %s", name, p.line, p.column, p.path, p.says))
	}
	return nil, fault.Usage("correct the file; nothing was applied", "%s", strings.Join(lines, "\n"))
}
