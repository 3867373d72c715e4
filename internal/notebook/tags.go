package notebook

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The tags of a code cell. A cell without any goes with the one before it.
// https://github.com/kubeflow/kale/blob/v2.3.0/kale/processors/constants.py
const (
	tagStep  = "step:"  // step:NAME, the step it is part of; without a NAME it has no tag
	tagBlock = "block:" // KALE's older word for it
	tagPrev  = "prev:"  // prev:NAME, a step that comes before this one
	// What every step runs first.
	tagImports, tagFunctions, tagParameters = "imports", "functions", "pipeline-parameters"
	tagMetrics                              = "pipeline-metrics" // prints names whose values are kept
	tagSkip                                 = "skip"             // nobody runs it
)

var specials = []string{tagSkip, tagParameters, tagMetrics, tagImports, tagFunctions}

// words are the first words of KALE's tags.
var words = []string{"step", "block", "prev", "notebook", "annotation", "label", "limit", "secret", "image", "cache", "report"}

// stepName is KALE's, with hyphens.
var stepName = regexp.MustCompile(`^[_a-z][-_a-z0-9]{0,62}$`)

// tags are a cell's tags, parsed.
type tags struct {
	special string // one of specials: then the other fields are empty
	step    string
	prev    []string
	pod     Pod
	stepped bool   // it has a tag step:, with or without a name
	needs   string // a tag that only a step's cell can have
}

// readTags parses tags. It leaves those of other tools out.
func readTags(raw []any) (t tags, err error) {
	for _, each := range raw {
		tag, is := each.(string)
		if !is {
			return t, fmt.Errorf("a tag must be a string, got %v", each)
		}
		if slices.Contains(specials, tag) {
			return tags{special: tag}, nil // KALE, too, leaves the other tags out
		}
		word, value, colon := strings.Cut(tag, ":")
		if plain := strings.ToLower(strings.TrimSpace(word)); !colon && slices.Contains(specials, strings.ToLower(strings.TrimSpace(tag))) {
			return t, fmt.Errorf("tag %q must be written %q", tag, strings.ToLower(strings.TrimSpace(tag)))
		} else if colon && plain != word && slices.Contains(words, plain) {
			return t, fmt.Errorf("tag %q must begin with %q", tag, plain+":")
		}
		if !colon || !slices.Contains(words, word) {
			continue
		}
		if err := t.add(word, value); err != nil {
			return t, fmt.Errorf("tag %q %w", tag, err)
		}
		if !slices.Contains([]string{"step", "block"}, word) {
			t.needs = cmp.Or(t.needs, tag)
		}
	}
	return t, nil
}

// add parses one of KALE's tags. The caller puts the tag in front of its error.
func (t *tags) add(word, value string) error {
	parts := strings.SplitN(value, ":", 3)
	switch word {
	case "step", "block":
		switch {
		case value == "":
		case !stepName.MatchString(value) || task(value) == "":
			return errors.New("must name a step with at most 63 of a-z, 0-9, _ and -, with a letter or _ first")
		case t.step != "" && t.step != value:
			return fmt.Errorf("must not be with another step's, %q: split the cell", t.step)
		}
		t.step, t.stepped = cmp.Or(t.step, value), true
	case "prev":
		t.prev = append(t.prev, value)
	case "annotation", "label":
		key, value, is := strings.Cut(value, ":")
		if why := validation.IsQualifiedName(key); !is || why != nil || strings.Contains(value, "{{") {
			return fmt.Errorf("must be %s:KEY:VALUE with a key as Kubernetes takes it, and no {{", word)
		}
		if why := validation.IsValidLabelValue(value); word == "label" && why != nil {
			return fmt.Errorf("must have a value as Kubernetes takes it: %s", why[0])
		}
		if word == "label" {
			set(&t.pod.Labels, key, value)
		} else {
			set(&t.pod.Annotations, key, value)
		}
	case "limit":
		amount, err := resource.ParseQuantity(strings.Join(parts[1:], ":"))
		switch {
		case err != nil || amount.Sign() <= 0:
			return errors.New("must be limit:RESOURCE:AMOUNT, such as limit:memory:512Mi")
		case !slices.Contains([]string{"cpu", "memory", "ephemeral-storage"}, parts[0]):
			return fmt.Errorf("must limit cpu, memory or ephemeral-storage: the lab's node has no %s, and the step would wait for one", parts[0])
		}
		if least := resource.MustParse("32Mi"); parts[0] != "cpu" && amount.Cmp(least) < 0 {
			return fmt.Errorf("must be at least %s, or no pod with Python begins: got %s bytes; M and Mi are megabytes, and m is a thousandth", least.String(), amount.AsDec())
		}
		set(&t.pod.Limits, parts[0], parts[1])
	case "secret":
		if len(parts) != 3 || validation.IsDNS1123Subdomain(parts[0]) != nil || validation.IsConfigMapKey(parts[1]) != nil || !parameterName.MatchString(parts[2]) {
			return errors.New("must be secret:NAME:KEY:VARIABLE")
		}
		if slices.Contains(ownEnv, parts[2]) {
			return fmt.Errorf("must name another variable: %s is the pipeline's own", parts[2])
		}
		set(&t.pod.Secrets, parts[2], Secret{parts[0], parts[1]})
	case "image":
		if _, err := reference.ParseNormalizedNamed(value); err != nil { // as the kubelet does
			return errors.New("must name an image, such as team/python:3.11, with capital letters in its tag only")
		}
		t.pod.Image = value
	case "cache": // no step is cached, which both allow
		if value != "enabled" && value != "disabled" {
			return errors.New("must be cache:enabled or cache:disabled")
		}
	case "report":
		switch value {
		case "disabled":
		case "enabled":
			return errors.New("must be report:disabled: a step has no Jupyter kernel to report on")
		default:
			return errors.New("must be report:disabled")
		}
	case "notebook":
		return errors.New("names another notebook, and a pipeline has one: copy its cells into this one")
	}
	return nil
}

// set adds to a map that may not be there.
func set[V any](m *map[string]V, key string, value V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = value
}

// or adds what others say of what p does not.
func (p Pod) or(others Pod) Pod {
	p.Annotations, p.Labels, p.Limits = both(others.Annotations, p.Annotations), both(others.Labels, p.Labels), both(others.Limits, p.Limits)
	p.Secrets = both(others.Secrets, p.Secrets)
	if p.Image == "" {
		p.Image, p.imageCell = others.Image, others.imageCell
	}
	return p
}

// both has the entries of two maps; the second's win.
func both[V any](first, second map[string]V) map[string]V {
	if len(first) == 0 {
		return second
	}
	all := maps.Clone(first)
	maps.Copy(all, second)
	return all
}
