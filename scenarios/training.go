package scenarios

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/manifests"
)

// trainerFile is the code that the stories train with, and trainingFile its name there.
const (
	trainerFile  = "scenarios/train/mllab_train.py"
	trainingFile = "mllab_train.py"
)

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

func (t training) figures() []Figure {
	e := t["evaluate"]
	return []Figure{{Name: "accuracy", Value: e.Accuracy}, {Name: "accuracy low", Value: e.Low}, {Name: "accuracy high", Value: e.High}}
}

// edit puts another text into a file of the training, in one place.
type edit struct{ file, from, to string }

func (e edit) apply(files map[string][]byte) error {
	if !bytes.Contains(files[e.file], []byte(e.from)) {
		return fmt.Errorf("%s is not what is to be changed: it lacks %q", e.file, e.from)
	}
	files[e.file] = bytes.Replace(files[e.file], []byte(e.from), []byte(e.to), 1)
	return nil
}

// code is the trainer's code and more files on the cluster, with these edits.
func (l *Session) code(edits []edit, more ...string) (*unstructured.Unstructured, error) {
	files := map[string][]byte{}
	for _, from := range append(more, trainerFile) {
		var err error
		if files[path.Base(from)], err = manifests.Scenarios.ReadFile(from); err != nil {
			return nil, err
		}
	}
	for _, e := range edits {
		if err := e.apply(files); err != nil {
			return nil, err
		}
	}
	data := map[string]any{}
	for name, text := range files {
		data[name] = string(text)
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
	objs, err := l.writeFile(ctx, "train/trainjob.yaml", j)
	if err != nil {
		return nil, false, err
	}
	state := ""
	err = l.untilError(ctx, untilInterval, "TrainJob "+j.Name, func() (_ string, err error) {
		if state, err = l.condition(ctx, objs[0], "Complete", "Failed"); err != nil || state != "" {
			return "", err
		}
		return l.lastWord(ctx, j.Name), nil
	})
	if err != nil {
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

// train has a TrainJob of this name train a model and push it.
func (l *Session) train(ctx context.Context, name string, args ...string) (m modelFiles, err error) {
	workers, completed, err := l.run(ctx, trainJob{name, 1, trainArgs(0, append(args, "--push", repository(l))...)})
	if err != nil {
		return m, err
	}
	if !completed {
		return m, l.failedJob(name, "has not completed")
	}
	return l.pull(ctx, workers[0]["push"].Image)
}

// failedJob says what is wrong with a TrainJob, and where its log is.
func (l *Session) failedJob(name, what string) error {
	return fmt.Errorf("TrainJob %s %s; its log is in %s", name, what, l.evidence)
}

// repository is where a story's models are, in the lab's registry.
func repository(l *Session) string { return l.Registry + "/" + l.Namespace + "/breast-cancer" }

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

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// shortDigest is a digest as people distinguish them.
func shortDigest(digest string) string {
	if len(digest) < len("sha256:")+12 {
		return digest
	}
	return digest[:len("sha256:")+12]
}
