package scenarios

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/oci"
	"mllab.local/internal/probe"
	"mllab.local/manifests"
)

// trainerFile is the code that the stories train with.
const trainerFile = "scenarios/train/mllab_train.py"

// gateThreshold is the least accuracy of a model that the stories let pass.
const gateThreshold = 0.9

// noisyLabels is the share of the training labels that are wrong where the gate
// has to stop the model.
const noisyLabels = 0.4

// stage is one line that the training code prints: what came of one stage.
type stage struct {
	Stage     string  `json:"stage"`
	Seconds   float64 `json:"seconds"`
	Data      string  `json:"data"` // prepare: the data's digest
	Fits      int     `json:"fits"` // shard: how many models a worker cross-validated, and how they scored
	Scores    scores  `json:"scores"`
	Accuracy  float64 `json:"accuracy"` // evaluate, with its 95 % interval
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	HeldOut   int     `json:"held_out"`
	Passed    bool    `json:"passed"` // gate
	Threshold float64 `json:"threshold"`
	Model     string  `json:"model"` // write: the digests of the two files; evaluate, in a pipeline: of the judged model
	Rows      string  `json:"heldout"`
	Image     string  `json:"image"` // push: REPOSITORY@sha256:…
}

// scores are, for each setting, how many rows a cross-validation got right, of
// how many.
type scores map[string][2]int

// scoresOf adds up what several workers have scored.
func scoresOf(workers []training) scores {
	all := scores{}
	for _, w := range workers {
		for setting, s := range w["shard"].Scores {
			all[setting] = [2]int{all[setting][0] + s[0], all[setting][1] + s[1]}
		}
	}
	return all
}

// training is the output of the training code: its stages by name.
type training map[string]stage

// readTraining reads the lines that are stages, and leaves out all others.
func readTraining(log string) training {
	t := training{}
	for line := range strings.Lines(log) {
		var s stage
		if json.Unmarshal([]byte(line), &s) == nil && s.Stage != "" {
			t[s.Stage] = s
		}
	}
	return t
}

// says is the accuracy in words.
func (t training) says() string {
	e := t["evaluate"]
	return fmt.Sprintf("accuracy %.3f (%.3f..%.3f) of %d held-out rows", e.Accuracy, e.Low, e.High, e.HeldOut)
}

// figures are the accuracy as numbers.
func (t training) figures() []Figure {
	e := t["evaluate"]
	return []Figure{{Name: "accuracy", Value: e.Accuracy}, {Name: "accuracy low", Value: e.Low}, {Name: "accuracy high", Value: e.High}}
}

// code is files of code on the cluster, by their names there; changed, if any,
// makes one of them another.
func (l *Session) code(files map[string]string, changed map[string]func(string) string) (*unstructured.Unstructured, error) {
	data := map[string]any{}
	for name, from := range files {
		text, err := manifests.Scenarios.ReadFile(from)
		if err != nil {
			return nil, err
		}
		data[name] = string(text)
		if change := changed[name]; change != nil {
			if data[name] = change(string(text)); data[name] == string(text) {
				return nil, fmt.Errorf("%s is not what the control changes", from)
			}
		}
	}
	o := l.object("v1", "ConfigMap", "code")
	o.Object["data"] = data
	return o, nil
}

// trainJob is a TrainJob that runs the training code.
type trainJob struct {
	Name    string
	Workers int
	Args    []string
}

// trainArgs are the training code's, with a share of wrong labels.
func trainArgs(noise float64, more ...string) []string {
	return append([]string{
		"--dataset", "breast-cancer", "--seed", "1", "--label-noise", fmt.Sprint(noise),
		"--threshold", fmt.Sprint(gateThreshold), "--out", "/tmp/model",
	}, more...)
}

// run applies a TrainJob, shows what its workers print, and returns that, by
// worker, when it has ended, and whether it has completed.
func (l *Session) run(ctx context.Context, j trainJob) (workers []training, completed bool, err error) {
	objs, err := render("train/trainjob.yaml", j)
	if err != nil {
		return nil, false, err
	}
	if err := l.write(ctx, objs...); err != nil {
		return nil, false, err
	}
	state := ""
	var asked error
	err = l.until(ctx, "TrainJob "+j.Name, func() string {
		if state, asked = l.condition(ctx, objs[0], "Complete", "Failed"); asked != nil || state != "" {
			return ""
		}
		return l.lastWord(ctx, j.Name)
	})
	if err := errors.Join(err, asked); err != nil {
		return nil, false, err
	}
	workers, err = l.workers(ctx, j)
	return workers, state == "Complete", err
}

// workers is what the workers of a TrainJob that has ended printed.
func (l *Session) workers(ctx context.Context, j trainJob) (workers []training, err error) {
	pods, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{"jobset.sigs.k8s.io/jobset-name": j.Name})
	if err != nil {
		return nil, err
	}
	for _, p := range newestPods(pods) {
		log, err := l.Kube.PodLogs(ctx, l.Namespace, p.Name, "node", 0)
		if err != nil {
			return nil, err
		}
		if _, err := l.keepText("-"+p.Name+".log", []byte(log)); err != nil {
			return nil, err
		}
		workers = append(workers, readTraining(log))
	}
	if len(workers) != j.Workers {
		return nil, fmt.Errorf("TrainJob %s has %d pods where %d are asked for", j.Name, len(workers), j.Workers)
	}
	return workers, nil
}

// train has a TrainJob of this name train a model and push it, and returns its image
// and its files.
func (l *Session) train(ctx context.Context, name string, args ...string) (image string, m modelFiles, err error) {
	workers, completed, err := l.run(ctx, trainJob{name, 1, trainArgs(0, append(args, "--push", repository(l))...)})
	if err != nil {
		return "", m, err
	}
	if !completed {
		return "", m, fmt.Errorf("TrainJob %s has not completed; its log is in %s", name, l.evidence)
	}
	image = workers[0]["push"].Image
	m, err = l.pull(ctx, image)
	return image, m, err
}

// newestPods are the newest pod of each worker of a TrainJob, by the workers'
// numbers: a pod that ended by no fault of its code has others before it.
func newestPods(pods []corev1.Pod) (newest []corev1.Pod) {
	number := func(p corev1.Pod) int {
		n, _ := strconv.Atoi(p.Annotations["batch.kubernetes.io/job-completion-index"])
		return n
	}
	pods = slices.SortedFunc(slices.Values(pods), func(a, b corev1.Pod) int {
		return cmp.Or(number(a)-number(b), b.CreationTimestamp.Compare(a.CreationTimestamp.Time))
	})
	return slices.CompactFunc(pods, func(a, b corev1.Pod) bool { return number(a) == number(b) })
}

// condition returns the first of these conditions that is True of an object.
func (l *Session) condition(ctx context.Context, o *unstructured.Unstructured, kinds ...string) (string, error) {
	live, err := l.live(ctx, l.object(o.GetAPIVersion(), o.GetKind(), o.GetName()))
	if err != nil {
		return "", err
	}
	for _, kind := range kinds {
		if status, _ := conditionOf(live, kind); status == "True" {
			return kind, nil
		}
	}
	return "", nil
}

// absent is the state of a TrainJob that nobody has created yet.
const absent = "absent"

// stateOf is Complete or Failed for a TrainJob that has ended, "" for one that
// runs, and absent.
func (l *Session) stateOf(ctx context.Context, job string) (string, error) {
	state, err := l.condition(ctx, l.object("trainer.kubeflow.org/v1alpha1", "TrainJob", job), "Complete", "Failed")
	if apierrors.IsNotFound(err) {
		return absent, nil
	}
	return state, err
}

// lastWord is the newest line of a TrainJob's pods, or how far they are.
func (l *Session) lastWord(ctx context.Context, job string) string {
	pods, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{"jobset.sigs.k8s.io/jobset-name": job})
	if err != nil || len(pods) == 0 {
		return "no pod yet"
	}
	for _, p := range pods {
		if line, err := l.Kube.PodLogs(ctx, l.Namespace, p.Name, "node", 1); err == nil && line != "" {
			return strings.TrimSpace(line)
		}
	}
	return "pod " + string(pods[0].Status.Phase)
}

// modelFiles are a model's two files, as its image in the lab's registry has
// them.
type modelFiles struct {
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

// pull reads a model's image, REGISTRY/REPOSITORY:TAG or with @sha256:…
func (l *Session) pull(ctx context.Context, image string) (modelFiles, error) {
	files, err := oci.Pull(ctx, l.Gateway, strings.TrimPrefix(image, l.Registry+"/"))
	if err != nil {
		return modelFiles{}, err
	}
	m := modelFiles{Model: sha256Of(files["model.json"]), Rows: sha256Of(files["heldout.json"])}
	if err := json.Unmarshal(files["heldout.json"], &m.held); err != nil {
		return m, fmt.Errorf("%s: heldout.json: %w", image, err)
	}
	if rows := files["reference.json"]; rows != nil {
		if err := json.Unmarshal(rows, &m.reference); err != nil {
			return m, fmt.Errorf("%s: reference.json: %w", image, err)
		}
	}
	var model struct {
		Data     string
		Features []string
	}
	if err := json.Unmarshal(files["model.json"], &model); err != nil {
		return m, fmt.Errorf("%s: model.json: %w", image, err)
	}
	m.Data, m.features = model.Data, model.Features
	if len(m.held.Instances) == 0 || len(m.held.Instances) != len(m.held.Predictions) {
		return m, fmt.Errorf("%s: heldout.json has %d rows and %d predictions", image, len(m.held.Instances), len(m.held.Predictions))
	}
	return m, nil
}

// has reports whether the registry has an image.
func (l *Session) has(ctx context.Context, image string) (bool, error) {
	return oci.Has(ctx, l.Gateway, strings.TrimPrefix(image, l.Registry+"/"))
}

func sha256Of(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
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

// rows is a Sender that gives each request the next held-out row, and begins
// again after the last.
type rows struct {
	probe.Sender
	held heldOut

	mu   sync.Mutex
	next int
	row  map[string]int // by the request's ID
}

func (r *rows) Send(ctx context.Context, req probe.Request) probe.Answer {
	r.mu.Lock()
	i := r.next % len(r.held.Instances)
	r.next++
	r.mu.Unlock()
	body, err := json.Marshal(map[string]any{"instances": [][]float64{r.held.Instances[i]}})
	if err != nil {
		return probe.Answer{Err: err.Error()}
	}
	req.Method, req.Body, req.Header = http.MethodPost, body, http.Header{"Content-Type": {"application/json"}}
	a := r.Sender.Send(ctx, req)
	r.mu.Lock()
	r.row[a.ID] = i
	r.mu.Unlock()
	return a
}

// predicts sends every held-out row once. Each answer must be the trainer's
// prediction, from the model with that digest.
func (l *Session) predicts(ctx context.Context, to probe.Request, model string, held heldOut) (Evidence, error) {
	by := &rows{Sender: l.send, held: held, row: map[string]int{}}
	answers, e, err := l.burstBy(ctx, by, to, len(held.Instances))
	if err != nil {
		return e, err
	}
	if err := e.answered(); err != nil {
		return e, err
	}
	says, err := compare(answers, by.row, model, held)
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

// into reads a part of an object.
func into(part any, to any) error {
	text, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// shortDigest is a digest as people distinguish them.
func shortDigest(digest string) string {
	if len(digest) < len("sha256:")+12 {
		return digest
	}
	return digest[:len("sha256:")+12]
}
