package file

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/fault"
)

// shape is what a part of the file may be. Everything that an author may write
// is in these tables; what is not in them is refused.
type shape interface {
	check(r *reader, v *value)
}

// leaf is a shape of its own making.
type leaf func(r *reader, v *value)

func (l leaf) check(r *reader, v *value) { l(r, v) }

// fields are a mapping's. A name that ends in "!" must be there.
type fields map[string]shape

func (f fields) check(r *reader, v *value) {
	if !r.is(v, mapping) {
		return
	}
	var names []string
	for name := range f {
		names = append(names, strings.TrimSuffix(name, "!"))
	}
	slices.Sort(names)
	for _, got := range v.fields {
		s, ok := f[got.name]
		if !ok {
			s, ok = f[got.name+"!"]
		}
		if ok {
			s.check(r, got.value)
			continue
		}
		r.say(got.place, got.path, "%s", unknown(got.name, names))
	}
	for _, name := range names {
		if _, must := f[name+"!"]; must && v.get(name) == nil {
			r.say(v.place, below(v.path, name), "it is missing; add `%s: …`", name)
		}
	}
}

// below is the path of a field.
func below(path, name string) string {
	if !plain.MatchString(name) {
		name = short(name)
	}
	if path == wholeFile {
		return name
	}
	return path + "." + name
}

var plain = regexp.MustCompile(`^[-_./A-Za-z0-9]{1,80}$`)

// unknown says why there is no field of that name.
func unknown(name string, names []string) string {
	if why := outOfReach[name]; why != "" {
		return "a scenario may not set this: " + why + "; remove it"
	}
	return "there is no such field here; use " + strings.Join(names, ", ")
}

// each is a list of at least one of a shape.
type each struct{ of shape }

func (e each) check(r *reader, v *value) {
	if !r.is(v, list) {
		return
	}
	if len(v.items) == 0 {
		r.wrong(v, "the list is empty; give it an item, or remove it")
	}
	for _, i := range v.items {
		e.of.check(r, i)
	}
}

// dict is a mapping whose keys the author names.
type dict struct {
	key string // what a key is, for a person
	ok  func(key string) bool
	of  shape
}

func (d dict) check(r *reader, v *value) {
	if !r.is(v, mapping) {
		return
	}
	if len(v.fields) == 0 {
		r.wrong(v, "it is empty; give it a field, or remove it")
	}
	for _, f := range v.fields {
		if !d.ok(f.name) {
			r.say(f.place, f.path, "%s is not %s; use another name", short(f.name), d.key)
		}
		d.of.check(r, f.value)
	}
}

// is says whether v is of that kind; a whole number is a number, too.
func (r *reader) is(v *value, want kind) bool {
	if v.kind == want || want == number && v.kind == whole {
		return true
	}
	got := v.kind.String()
	if v.kind == text || v.kind == whole || v.kind == number || v.kind == boolean {
		got = fmt.Sprintf("%s (%s)", got, short(v.text))
	}
	fix := "write " + want.String()
	if want == text && (v.kind == whole || v.kind == number || v.kind == boolean) {
		fix = "put it in quotes: " + short(v.text)
	}
	r.wrong(v, "want %s, and this is %s; %s", want, got, fix)
	return false
}

func short(s string) string {
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// Leaves.
var (
	anyText  leaf = func(r *reader, v *value) { r.is(v, text) }
	anyBool  leaf = func(r *reader, v *value) { r.is(v, boolean) }
	label         = matching(dnsLabel, "a name of small letters, digits and dashes, such as model-2")
	sentence      = matching(regexp.MustCompile(`^[^\x00-\x1f]{1,400}\n?$`), "one line of up to 400 characters")
	title         = matching(regexp.MustCompile(`^[^\x00-\x1f]{1,50}$`), "one line of up to 50 characters")

	// shortName becomes a part of other names, and a label in a manifest.
	shortName leaf = func(r *reader, v *value) {
		matching(short20, "a name of up to 20 small letters, digits and dashes that begins with a letter, such as v2")(r, v)
		if slices.Contains(notText, v.text) {
			r.wrong(v, "%q is not text everywhere in YAML; use another name", v.text)
		}
	}
	object  = matching(objectRef, "Kind/name, such as Deployment/model-v1")
	legName = matching(legRef, "a destination of a route: SERVICE or SERVICE/SUBSET, such as model-v1 or shop/v1")
)

var (
	dnsLabel   = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	short20    = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,18}[a-z0-9])?$`)
	objectRef  = regexp.MustCompile(`^([A-Z][A-Za-z]+)(?:\.([a-z0-9.]+))?/([a-z0-9]([-a-z0-9.]*[a-z0-9])?)$`)
	legRef     = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?(/[a-z]([-a-z0-9]{0,61}[a-z0-9])?)?$`)
	envName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	headerName = regexp.MustCompile(`^[A-Za-z0-9-]+$`)
	printable  = regexp.MustCompile(`^[ -~]*$`)
)

// CheckName judges the name of a scenario. The error is wrong use.
func CheckName(name string) error {
	if short20.MatchString(name) {
		return nil
	}
	return fault.Usage("such as my-canary", "a scenario's name must be up to 20 small letters, digits and dashes, got %q", name)
}

// notText are words that some readers of YAML take for something else.
var notText = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

func matching(re *regexp.Regexp, want string) leaf {
	return func(r *reader, v *value) {
		if r.is(v, text) && !re.MatchString(v.text) {
			r.wrong(v, "%s is not %s; write one", short(v.text), want)
		}
	}
}

func oneOf(of ...string) leaf {
	return func(r *reader, v *value) {
		if r.is(v, text) && !slices.Contains(of, v.text) {
			r.wrong(v, "%s is none of: %s; use one of them", short(v.text), strings.Join(of, ", "))
		}
	}
}

func wholeFrom(low, high int64) leaf {
	return func(r *reader, v *value) {
		if r.is(v, whole) && (v.int < low || v.int > high) {
			r.wrong(v, "%d is not between %d and %d; use a number in between", v.int, low, high)
		}
	}
}

// between is a number in low..high, low itself only if it is not 0 <.
func between(low, high float64, open bool) leaf {
	return func(r *reader, v *value) {
		if r.is(v, number) && !(v.float >= low && v.float <= high && !(open && (v.float == low || v.float == high))) {
			r.wrong(v, "%s is not between %g and %g; use a number in between", v.text, low, high)
		}
	}
}

// within is how long something may take: no longer than a step's own bound.
func within(r *reader, v *value) {
	if !r.is(v, text) {
		return
	}
	d, err := time.ParseDuration(v.text)
	if err != nil || d < time.Second || d > MaxWithin {
		r.wrong(v, "%s is not a time from 1s to %s; write one such as 90s", short(v.text), MaxWithin)
	}
}

// percents are versions' shares of the traffic.
func percents(of shape) leaf {
	return func(r *reader, v *value) {
		before := len(r.problems)
		dict{"a version", short20.MatchString, of}.check(r, v)
		sum := 0.0
		for _, f := range v.fields {
			sum += f.float
		}
		if len(r.problems) == before && math.Abs(sum-100) > 1e-9 {
			r.wrong(v, "the percentages add up to %g, not 100; change one of them", sum)
		}
	}
}
