// Package file reads a user's scenario from YAML. It checks the whole file before
// anything changes: its fields, its references, and that its objects stay in the
// run's own namespace.
//
// It uses no cluster. Package scenarios runs the result.
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

// APIVersion and Kind are the first fields of every file.
const (
	APIVersion = "mllab.local/v1alpha1"
	Kind       = "Scenario"
)

// MaxRequests limits one sample, to about ten minutes on two cores.
const MaxRequests = 500_000

// NamespacePrefix is the prefix of every run's namespace.
const NamespacePrefix = "mllab-"

// maxWithin limits every wait of a file.
const maxWithin = 3 * time.Minute

// Rules are parameters of the checks.
type Rules struct {
	Domain   string   // suffix of the hosts behind the gateway
	Taken    []string // names of mllab's own scenarios
	Reserved []string // namespaces of addons
	Requests int      // default of a sample
	Alpha    float64  // default of a sample
}

// File is a valid scenario.
type File struct {
	Name, Summary string
	Needs         []string // addons, also those that its steps imply
	Mesh          bool
	Steps         []Step
	Controls      []Control
}

// Step has a change, a wait, an expectation, or several of them, in this order.
type Step struct {
	Where            string // "my.yaml:12:5"
	Name, Idea, Look string
	Change           Change
	Wait             Wait
	Expect           Expect
}

// Change is one of Apply, Delete, Split, Mirror, Watch and, in a break, Env; or
// nil.
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
	Window   string `file:"window"`    // of a revision: autoscaling window
}

// Object is an object with placeholders, which is applied without other changes.
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

// Watch starts to send requests at a constant rate.
type Watch struct {
	Of   string  `file:"of"`
	Rate float64 `file:"rate"`
}

// Env adds variables to a version that a later step applies.
type Env struct {
	Of      string            `file:"of"`
	Version string            `file:"version"`
	Set     map[string]string `file:"set"`
}

// Wait is what a step waits for after its change.
type Wait struct {
	No     bool          // do not wait until the applied objects are ready
	Ready  *Ref          // this object is ready
	Mark   string        // the route of Of answers with this mark
	Of     string        //
	Within time.Duration // 0: the time limit of a step
	Empty  []string      // destinations, SERVICE or SERVICE/SUBSET, that have no endpoint on purpose
}

// Some reports whether there is anything to wait for.
func (w Wait) Some() bool { return w.No || w.Ready != nil || w.Mark != "" || len(w.Empty) > 0 }

// Expect is one of ExpectSplit, ExpectAll, ExpectMirror, ExpectZeroPods and
// ExpectNoLoss; or nil.
type Expect interface{ Claims() []string }

// ExpectSplit claims that the versions answer with these shares.
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

// ExpectMirror claims that all requests to a model are answered, and that this
// part of them reaches the shadow exactly once.
type ExpectMirror struct {
	Of       string  `file:"of"`
	To       string  `file:"to"`
	Percent  float64 `file:"percent"`
	Requests int     `file:"requests"`
	Alpha    float64 `file:"alpha"`
}

// ExpectZeroPods claims that an idle Knative Service has no pod within a time.
type ExpectZeroPods struct {
	Of     string        `file:"of"`
	Within time.Duration `file:"within"`
}

// ExpectNoLoss ends a watch and claims that it lost nothing.
type ExpectNoLoss struct {
	Of string `file:"of"`
}

// Claims returns the claims of the expectation.
func (ExpectSplit) Claims() []string { return []string{"answers", "shares"} }

// Claims returns Routes if the request has headers or cookies, which select a
// route, and else Shares.
func (e ExpectAll) Claims() []string { return []string{"answers", e.Claim()} }

// Claim returns the claim besides Answers.
func (e ExpectAll) Claim() string {
	if len(e.Headers)+len(e.Cookies) > 0 {
		return "routes"
	}
	return "shares"
}

func (ExpectMirror) Claims() []string   { return []string{"answers", "mirror"} }
func (ExpectZeroPods) Claims() []string { return []string{"zero"} }
func (ExpectNoLoss) Claims() []string   { return []string{"no-loss"} }

// Control breaks the lab after a step; "" means before the first.
type Control struct {
	Where                         string
	Name, Summary, After, Catches string
	Break                         []Break
}

// Break is a change and its wait.
type Break struct {
	Change Change
	Wait   Wait
}

// Vars are the values of placeholders.
type Vars struct{ Image, Namespace, Domain string }

var placeholder = regexp.MustCompile(`\$\{[^}]*\}?`)

var goodPlaceholder = regexp.MustCompile(`^\$\{(image|namespace|host:[a-z]([-a-z0-9]{0,61}[a-z0-9])?)\}$`)

func badPlaceholder(s string) string {
	for _, p := range placeholder.FindAllString(s, -1) {
		if !goodPlaceholder.MatchString(p) {
			return p
		}
	}
	return ""
}

// Fill returns a copy of the object without placeholders.
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

// Ref returns the object's reference.
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

// CheckName checks the name of a scenario. The error is wrong use.
func CheckName(name string) error {
	form, err := scenarioForm()
	if err != nil {
		return err
	}
	if s := follow(form.Properties["name"]); !accepts(s, name) {
		return fault.Usage("such as my-canary", "the name of a scenario must be %s, got %q", s.Description, name)
	}
	return nil
}

// maxProblems is the number of reported problems. More are often consequences.
const maxProblems = 10

// Read reads a file. name is its name in problems. The error is wrong use, and has
// each problem with line, column and field.
func Read(name string, data []byte, rules Rules) (*File, error) {
	name = filepath.Base(name)
	form, err := scenarioForm()
	if err != nil {
		return nil, err
	}
	r := &reader{rules: rules, form: form}
	var f *File
	if len(data) > MaxBytes {
		r.say(place{1, 1}, wholeFile, "it has more than %d bytes; make it smaller", MaxBytes)
	} else if root := r.tree(data); root != nil && len(r.problems) == 0 {
		if kind := root.get("kind"); kind.str() != "" && !strings.EqualFold(kind.text, Kind) && root.get("metadata") != nil { // it was written for kubectl
			r.wrong(kind, "a %s is no scenario; make it an item of a step's `apply` in one, as the examples do", kind.text)
		} else if r.check(form.Schema, root); len(r.problems) == 0 {
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
		lines = append(lines, fmt.Sprintf("%s:%d:%d: %s: %s", name, p.line, p.column, p.path, p.text))
	}
	return nil, fault.Usage("correct the file; nothing was applied", "%s", strings.Join(lines, "\n"))
}
