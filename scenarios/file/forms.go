package file

import "time"

// The fields of a file, as in schema.yaml. At is the position of each part.
type document struct {
	At         *value        `file:""`
	APIVersion string        `file:"apiVersion"`
	Kind       string        `file:"kind"`
	Name       string        `file:"name"`
	Summary    string        `file:"summary"`
	Needs      []string      `file:"needs"`
	Mesh       bool          `file:"mesh"`
	Steps      []stepForm    `file:"steps"`
	Controls   []controlForm `file:"controls"`
}

type changeForm struct {
	At     *value     `file:""`
	Apply  []itemForm `file:"apply"`
	Delete []string   `file:"delete"`
	Split  *Split     `file:"split"`
	Mirror *Mirror    `file:"mirror"`
	Wait   *waitForm  `file:"wait"`
}

type stepForm struct {
	changeForm
	Name           string          `file:"name"`
	Idea           string          `file:"idea"`
	Look           string          `file:"look"`
	Watch          *Watch          `file:"watch"`
	ExpectSplit    *ExpectSplit    `file:"expect-split"`
	ExpectAll      *ExpectAll      `file:"expect-all"`
	ExpectMirror   *ExpectMirror   `file:"expect-mirror"`
	ExpectZeroPods *ExpectZeroPods `file:"expect-zero-pods"`
	ExpectNoLoss   *ExpectNoLoss   `file:"expect-no-loss"`
}

type breakForm struct {
	changeForm
	Env *Env `file:"env"`
}

type controlForm struct {
	At      *value      `file:""`
	Name    string      `file:"name"`
	Summary string      `file:"summary"`
	After   string      `file:"after"`
	Catches string      `file:"catches"`
	Break   []breakForm `file:"break"`
}

// itemForm is one item of an apply: a knative, a model, or else an object.
type itemForm struct {
	At      *value `file:""`
	Model   *Model `file:"model"`
	Knative *Model `file:"knative"`
}

type waitForm struct {
	At     *value        `file:""`
	Mark   string        `file:"mark"`
	Of     string        `file:"of"`
	Empty  []string      `file:"empty"`
	Ready  string        `file:"ready"`
	Within time.Duration `file:"within"`
}

// Defaults of a file.
func (m *Model) defaults()          { m.Replicas, m.Route, m.MinScale, m.MaxScale = 1, true, 1, 1 }
func (m *Mirror) defaults()         { m.Percent = 100 }
func (w *Watch) defaults()          { w.Rate = 50 }
func (e *ExpectMirror) defaults()   { e.Percent = 100 }
func (e *ExpectZeroPods) defaults() { e.Within = 2 * time.Minute }
