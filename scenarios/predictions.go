package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"mllab.local/internal/oci"
	"mllab.local/internal/probe"
)

// modelFiles are a model's two files, as its image in the lab's registry has
// them.
type modelFiles struct {
	image       string // REGISTRY/REPOSITORY@sha256:…, or with a tag
	Model, Rows string // digests of the files
	Data        string // that the model says it is of
	features    []string
	held        heldOut
	reference   heldOut // the training rows and their labels, if they are kept next to the model
}

// heldOut is rows that training never saw, with what the model predicted in the
// trainer's hands: class indices.
type heldOut struct {
	Instances   [][]float64 `json:"instances"`
	Predictions []int       `json:"predictions"`
	Labels      []int       `json:"labels"`
}

// pull reads a model's image.
func (l *Session) pull(ctx context.Context, image string) (modelFiles, error) {
	files, err := oci.Pull(ctx, l.Gateway, strings.TrimPrefix(image, l.Registry+"/"))
	if err != nil {
		return modelFiles{}, err
	}
	m := modelFiles{image: image, Model: digest.FromBytes(files["model.json"]).String(), Rows: digest.FromBytes(files["heldout.json"]).String()}
	var model struct {
		Data     string
		Features []string
	}
	for _, part := range []struct {
		name string
		into any
	}{{"heldout.json", &m.held}, {"model.json", &model}, {"reference.json", &m.reference}} {
		text, there := files[part.name]
		if !there && part.name == "reference.json" {
			continue
		}
		if err := json.Unmarshal(text, part.into); err != nil {
			return m, fmt.Errorf("%s: %s: %w", image, part.name, err)
		}
	}
	m.Data, m.features = model.Data, model.Features
	if len(m.held.Instances) == 0 || len(m.held.Instances) != len(m.held.Predictions) {
		return m, fmt.Errorf("%s: heldout.json has %d rows and %d predictions", image, len(m.held.Instances), len(m.held.Predictions))
	}
	return m, nil
}

func (l *Session) has(ctx context.Context, image string) (bool, error) {
	return oci.Has(ctx, l.Gateway, strings.TrimPrefix(image, l.Registry+"/"))
}

// asRecorded is an error unless the image has the files that the trainer said
// it wrote.
func (m modelFiles) asRecorded(t training) *ClaimError {
	var reasons []string
	w := t["write"]
	if m.Model != w.Model {
		reasons = append(reasons, fmt.Sprintf("the trainer wrote model %s, and the image has %s", w.Model, m.Model))
	}
	if m.Rows != w.Rows {
		reasons = append(reasons, fmt.Sprintf("the trainer wrote held-out rows %s, and the image has %s", w.Rows, m.Rows))
	}
	if len(reasons) > 0 {
		return &ClaimError{Model, reasons}
	}
	return nil
}

// askFor makes r ask for the prediction of one row.
func askFor(r *probe.Request, row []float64) {
	r.Method, r.Header = http.MethodPost, http.Header{"Content-Type": {"application/json"}}
	r.Body, _ = json.Marshal(map[string]any{"instances": [][]float64{row}}) // JSON has brought these numbers
}

// inRows sends one held-out row after the other.
func (l *Session) inRows(held heldOut) *turns {
	return l.inOrder(len(held.Instances), func(turn int, r *probe.Request) { askFor(r, held.Instances[turn]) })
}

// predicts sends every held-out row once. Each answer must be the trainer's
// prediction, from the model with that digest.
func (l *Session) predicts(ctx context.Context, to probe.Request, model string, held heldOut) (Evidence, error) {
	by := l.inRows(held)
	answers, e, err := l.served(ctx, by, to, len(held.Instances))
	if err != nil {
		return e, err
	}
	says, err := compare(answers, by.turn, model, held)
	took := e.Tally
	e.Summary = fmt.Sprintf("%s; latency p50 %.1f ms, p95 %.1f ms, p99 %.1f ms", says, millis(took.P50), millis(took.P95), millis(took.P99))
	e.Figures = append(e.Figures, Figure{"p50", took.P50.Seconds(), "s"}, Figure{"p95", took.P95.Seconds(), "s"}, Figure{"p99", took.P99.Seconds(), "s"})
	return e, err
}

// compare refutes that answers, each to the row that its request's ID names, are
// of the model with that digest, and the predictions that the trainer had.
func compare(answers []probe.Answer, row map[string]int, model string, held heldOut) (says string, err error) {
	models, wrong, first := map[string]int{}, 0, ""
	for _, a := range answers {
		models[a.Model]++
		got, err := predictionOf(a.Body)
		if err != nil {
			return "", fmt.Errorf("request %s: %w", a.ID, err)
		}
		if want := held.Predictions[row[a.ID]]; got != float64(want) {
			if wrong++; first == "" {
				first = fmt.Sprintf("row %d: class %v where the trainer had %d (request %s)", row[a.ID], got, want, a.ID)
			}
		}
	}
	says = fmt.Sprintf("%d of %d predictions are the trainer's, from model %s", len(answers)-wrong, len(answers), shortDigest(model))
	if models[model] != len(answers) {
		return says, refute(Model, "%d of %d answers are of model %s: %s", models[model], len(answers), model, countsText(models))
	}
	if wrong > 0 {
		return says, refute(Predictions, "%d of %d predictions are not the trainer's, the first: %s", wrong, len(answers), first)
	}
	return says, nil
}

// predictionOf reads the one class of an answer. It is a whole number, unless
// what answers is no classifier.
func predictionOf(body string) (float64, error) {
	var out struct {
		Prediction []float64 `json:"prediction"`
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		return 0, fmt.Errorf("the answer %q: %w", body, err)
	}
	if len(out.Prediction) != 1 {
		return 0, fmt.Errorf("the answer %q has %d predictions where one row was sent", body, len(out.Prediction))
	}
	return out.Prediction[0], nil
}

// byProtocols asks for the predictions of all rows at once. Each answer must be
// the trainer's, from the model with that digest.
// https://kserve.github.io/website/docs/concepts/architecture/data-plane
func (l *Session) byProtocols(ctx context.Context, model string, held heldOut) (string, error) {
	ask := func(path string, body, answer any) error {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r := l.to(kserveHost)
		r.URL, r.Method, r.Body, r.Header = r.URL+path, http.MethodPost, text, http.Header{"Content-Type": {"application/json"}}
		a := l.Send(ctx, r)
		if !a.OK() {
			return refute(Answers, "%s: %s", path, a.Problem())
		}
		if a.Model != model {
			return refute(Model, "%s: the answer is of model %q, not of %s", path, a.Model, model)
		}
		return json.Unmarshal([]byte(a.Body), answer)
	}
	var v1 struct{ Predictions []float64 }
	if err := ask("/v1/models/model:predict", map[string]any{"instances": held.Instances}, &v1); err != nil {
		return "", err
	}
	var v2 struct {
		Outputs []struct {
			Name string
			Data []float64
		}
	}
	tensor := map[string]any{"name": "rows", "datatype": "FP64", "shape": []int{len(held.Instances), len(held.Instances[0])}, "data": slices.Concat(held.Instances...)}
	if err := ask("/v2/models/model/infer", map[string]any{"inputs": []any{tensor}}, &v2); err != nil {
		return "", err
	}
	var classes []float64
	for _, o := range v2.Outputs {
		if o.Name == "predictions" {
			classes = append(classes, o.Data...)
		}
	}
	same := func(got float64, want int) bool { return got == float64(want) }
	for protocol, got := range map[string][]float64{"v1 :predict": v1.Predictions, "v2 infer": classes} {
		if !slices.EqualFunc(got, held.Predictions, same) {
			return "", refute(Predictions, "%s: %d answers for %d rows, and not the trainer's", protocol, len(got), len(held.Predictions))
		}
	}
	return "the same by v1 :predict and by v2 infer", nil
}
