package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
)

const modelFile = "model.json"

// trained is a linear softmax classifier behind a standard scaler, and what is known of its training. It is MODEL_DIR's
// model.json, with f features and c classes:
//
//	name           what the serving protocols call it, unless MODEL_NAME is set
//	kind           "linear-softmax"
//	features       f names
//	classes        c names, at least two; an answer names a class by its index here
//	mean, scale    f numbers each: what a feature has taken from it, and is then divided by (above 0)
//	coefficients   c lists of f numbers
//	intercepts     c numbers
//	data           the SHA-256 of the data that it was trained on and tested with
//	seed           the trainer's
//	accuracy       the share of held_out instances, which training never saw, that it got right;
//	               accuracy_low and accuracy_high are that share's confidence interval
//	held_out       how many there were
//
// The score of a class is its intercept and the sum of its coefficients times the scaled features. A binary classifier
// with one weight for each feature has two classes here, the first with coefficients and intercept 0.
//
// https://scikit-learn.org/stable/modules/linear_model.html#multinomial-case
type trained struct {
	Name         string    `json:"name"`
	Kind         string    `json:"kind"`
	Features     []string  `json:"features"`
	Classes      []string  `json:"classes"`
	Mean         numbers   `json:"mean"`
	Scale        numbers   `json:"scale"`
	Coefficients []numbers `json:"coefficients"`
	Intercepts   numbers   `json:"intercepts"`
	Data         string    `json:"data"`
	Seed         int64     `json:"seed"`
	Accuracy     float64   `json:"accuracy"`
	AccuracyLow  float64   `json:"accuracy_low"`
	AccuracyHigh float64   `json:"accuracy_high"`
	HeldOut      int       `json:"held_out"`

	digest string // "sha256:" and the hex of the file's hash
}

const (
	trainedKind    = "linear-softmax"
	trainedExample = `{"name": "iris", "kind": "linear-softmax", "features": ["petal width"], "classes": ["a", "b"], "mean": [1.2], "scale": [0.8], …}`
	wantName       = "1 to 63 of the characters A-Z a-z 0-9 . _ -, the first a letter or a digit" // it is a part of paths
)

var (
	isName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`).MatchString
	isDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString
)

// readTrained reads the model in dir; the error names the file and what is wrong in it.
func readTrained(dir string) (*trained, error) {
	file, err := os.ReadFile(filepath.Join(dir, modelFile))
	if err != nil {
		return nil, fmt.Errorf("%w; want the model's folder", err)
	}
	m := &trained{digest: fmt.Sprintf("sha256:%x", sha256.Sum256(file))}
	d := json.NewDecoder(bytes.NewReader(file))
	d.DisallowUnknownFields()
	if err := decode(d, m, trainedExample); err != nil {
		return nil, fmt.Errorf("%s: %w", modelFile, err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", modelFile, err)
	}
	return m, nil
}

// check refuses a model that does not fit together. That all numbers are finite is JSON's doing.
func (m *trained) check() error {
	f, c := len(m.Features), len(m.Classes)
	switch {
	case !isName(m.Name):
		return fmt.Errorf("name %q: want %s", m.Name, wantName)
	case m.Kind != trainedKind:
		return fmt.Errorf("kind %q: want %q", m.Kind, trainedKind)
	case f < 1 || c < 2:
		return fmt.Errorf("%d features and %d classes: want at least 1 and 2", f, c)
	case len(m.Coefficients) != c:
		return fmt.Errorf("coefficients has %d lists: want %d, as there are classes", len(m.Coefficients), c)
	case !isDigest(m.Data):
		return fmt.Errorf("data %q: want sha256: and 64 digits", m.Data)
	case m.HeldOut < 1:
		return fmt.Errorf("held_out is %d: want 1 or more", m.HeldOut)
	case m.AccuracyLow < 0 || m.AccuracyLow > m.Accuracy || m.Accuracy > m.AccuracyHigh || m.AccuracyHigh > 1 || m.AccuracyHigh == 0:
		return fmt.Errorf("accuracy %v in %v..%v: want 0 <= accuracy_low <= accuracy <= accuracy_high <= 1", m.Accuracy, m.AccuracyLow, m.AccuracyHigh)
	}
	long := func(name string, list numbers, want int) error {
		if len(list) != want {
			return fmt.Errorf("%s has %d numbers: want %d", name, len(list), want)
		}
		return nil
	}
	errs := []error{long("mean", m.Mean, f), long("scale", m.Scale, f), long("intercepts", m.Intercepts, c)}
	for k, list := range m.Coefficients {
		errs = append(errs, long(fmt.Sprintf("coefficients[%d]", k), list, f))
	}
	for i, s := range m.Scale {
		if s <= 0 {
			errs = append(errs, fmt.Errorf("scale[%d] is %v: want more than 0", i, s))
		}
	}
	return errors.Join(errs...)
}

// predict returns for each instance the index of its class, the first of those with the highest score, and the
// probabilities of all classes. Where this version drifts, each class is taken for the next one.
func (m *trained) predict(instances []instance, driftPercent float64) (classes []float64, probabilities [][]float64, err error) {
	classes, probabilities = make([]float64, len(instances)), make([][]float64, len(instances))
	c := len(m.Classes)
	for i, in := range instances {
		if len(in) != len(m.Features) {
			return nil, nil, fmt.Errorf("instance %d has %d numbers: the model %s wants %d", i, len(in), m.Name, len(m.Features))
		}
		next := 0
		if drifts(in, driftPercent) {
			next = 1
		}
		scores := make([]float64, c)
		best := 0
		for k := range c {
			s := m.Intercepts[k]
			for j, x := range in {
				s += m.Coefficients[k][j] * ((x - m.Mean[j]) / m.Scale[j])
			}
			if math.IsInf(s, 0) || math.IsNaN(s) {
				return nil, nil, fmt.Errorf("instance %d is too large", i)
			}
			scores[k] = s
			if s > scores[best] {
				best = k
			}
		}
		classes[i] = float64((best + next) % c)
		// Less the highest score, no exponential is too large for a number.
		p := make([]float64, c)
		sum := 0.0
		for k, s := range scores {
			e := math.Exp(s - scores[best])
			p[(k+next)%c] = e
			sum += e
		}
		for k := range p {
			p[k] /= sum
		}
		probabilities[i] = p
	}
	return classes, probabilities, nil
}
