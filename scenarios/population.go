package scenarios

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

const (
	// shiftedBy is what the values of shiftedFeature are multiplied with, as by another unit.
	shiftedFeature = "mean smoothness"
	shiftedBy      = 1.5
	// A larger value of movedFeature is malignant by the other criterion.
	movedFeature = "worst area"
	movedLimit   = 450
	malignant    = 0
	// labelsLate is by how many requests a label comes later than its row.
	labelsLate = 2 * driftWindow
)

// population is a Sender whose requests each have a row drawn from all rows of a
// data set: the training's, and those that were held out. It knows the true labels.
type population struct {
	probe.Sender
	rows          [][]float64
	labels        []int
	shifts, moves int // places of the features

	mu             sync.Mutex
	shifted, moved bool
	answered       []asked // in the order of the answers
	place          map[string]int
}

// asked is one answered request.
type asked struct {
	id, model      string
	label          int
	right          bool
	shifted, moved bool // it was so when it was asked
	told           bool // the detector has its label
}

func newPopulation(send probe.Sender, m modelFiles) (*population, error) {
	p := &population{Sender: send, place: map[string]int{}, shifts: slices.Index(m.features, shiftedFeature), moves: slices.Index(m.features, movedFeature)}
	p.rows = slices.Concat(m.reference.Instances, m.held.Instances)
	p.labels = slices.Concat(m.reference.Labels, m.held.Labels)
	if p.shifts < 0 || p.moves < 0 || len(m.reference.Instances) == 0 || len(p.rows) != len(p.labels) {
		return nil, fmt.Errorf("the model has %d training rows with %d features: want some, with %q and %q", len(m.reference.Instances), len(m.features), shiftedFeature, movedFeature)
	}
	return p, nil
}

// Send is a request with a row as it is now.
func (p *population) Send(ctx context.Context, req probe.Request) probe.Answer {
	i := rand.IntN(len(p.rows))
	p.mu.Lock()
	a := asked{shifted: p.shifted, moved: p.moved, label: p.labels[i]}
	p.mu.Unlock()
	row := slices.Clone(p.rows[i])
	if a.moved && row[p.moves] > movedLimit {
		a.label = malignant
	}
	if a.shifted {
		row[p.shifts] *= shiftedBy
	}
	askFor(&req, row)
	answer := p.Sender.Send(ctx, req)
	got, err := predictionOf(answer.Body)
	if !answer.OK() || err != nil {
		return answer // the prober counts it
	}
	a.id, a.model, a.right = answer.ID, answer.Model, got == float64(a.label)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.place[a.id] = len(p.answered)
	p.answered = append(p.answered, a)
	return answer
}

// drift has rows or labels be others from now on.
func (p *population) drift(shifted, moved bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shifted, p.moved = shifted, moved
}

// after reports whether a request was answered after all of these.
func (p *population) after(id string, these func(asked) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, is := p.place[id]
	return is && !slices.ContainsFunc(p.answered[n:], these)
}

// due are the labels that are known by now, of a model's requests, and that the
// detector does not have. What a broken device measured gets none.
func (p *population) due(model string) map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	labels := map[string]int{}
	for _, a := range p.answered[:max(0, len(p.answered)-labelsLate)] {
		if a.model == model && !a.shifted && !a.told {
			labels[a.id] = a.label
		}
	}
	return labels
}

// taken notes that the detector has these labels.
func (p *population) taken(ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		p.answered[p.place[id]].told = true
	}
}

// accuracy counts how many of these requests were predicted right.
func (p *population) accuracy(of func(asked) bool) (a split.Arm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, each := range p.answered {
		if of(each) {
			a.Users++
			if each.right {
				a.Converted++
			}
		}
	}
	return a
}

// distance is how far the shifted feature's distribution among the users is from
// that of the training rows, at most: Kolmogorov's distance.
func (p *population) distance(m modelFiles) (most float64) {
	column := func(rows [][]float64, by float64) (c []float64) {
		for _, row := range rows {
			c = append(c, row[p.shifts]*by)
		}
		return c
	}
	upTo := func(c []float64, x float64) float64 {
		larger := slices.DeleteFunc(slices.Clone(c), func(value float64) bool { return value <= x })
		return float64(len(c)-len(larger)) / float64(len(c))
	}
	trained, asked := column(m.reference.Instances, 1), column(p.rows, shiftedBy)
	for _, x := range slices.Concat(trained, asked) {
		most = max(most, math.Abs(upTo(trained, x)-upTo(asked, x)))
	}
	return most
}

// missedShift bounds how likely a window of users' rows whose distribution is that
// far apart from the training rows' comes not as near to it as alarms: at the point
// where they are farthest apart, it is Hoeffding's inequality.
// https://doi.org/10.1080/01621459.1963.10500830
func missedShift(apart, critical float64) float64 {
	return math.Exp(-2 * driftWindow * math.Pow(max(0, apart-critical), 2))
}
