package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/delivery"
	"mllab.local/internal/git"
	"mllab.local/internal/notebook"
	"mllab.local/manifests"
)

// notebooks are pushed to Git one after the other, and become models on one address.
type notebooks struct {
	followed
	state   mlopsState
	broken  []edit  // a control's, of every notebook
	trained trained // the newest notebook, and its result
	given   pushed  // the commit that gave the newest model its traffic
}

// mlopsState fills mlops/tree in, which is then the folder in Git.
type mlopsState struct {
	Namespace, Folder     string
	Image, Python, Runner string
	Store                 string
	Percent               int64 // of a new model's traffic
	Training              bool  // there is a notebook
}

// What the training is called in Git.
const (
	notebookFile = "breast-cancer.ipynb"
	trafficFile  = "overlays/lab/" + delivery.TrafficFile
)

// afterWrite has a notebook change a file of the model that it has written, and
// then do more.
func afterWrite(file, change, more string) edit {
	const write = "digest, _ = trainer.write(folder, model, data, e)"
	return edit{notebookFile, write, write + `\nimport json, pathlib\nfile = pathlib.Path(folder, '` + file +
		`'); it = json.loads(file.read_text())\n` + change + `\nfile.write_text(json.dumps(it))` + more}
}

// trained is the result of a notebook's run.
type trained struct {
	run     string
	pushed  pushed   // the notebook
	steps   workflow // as far as it came
	commit  string   // of the runner; "" if it made none
	refusal string   // why it made none
	took    time.Duration
}

// served is a model that a commit of the runner has brought.
type served struct {
	revision string
	card     delivery.Card
	modelFiles
}

// giveToken has the namespace hold what its runner may push with.
func (l *Session) giveToken(ctx context.Context) error {
	password, _ := l.Git.User.Password()
	token := l.object("v1", "Secret", "git-token")
	token.Object["type"] = "kubernetes.io/basic-auth"
	token.Object["stringData"] = map[string]any{"username": l.Git.User.Username(), "password": password}
	_, err := l.Kube.Apply(ctx, []*unstructured.Unstructured{token}) // not by the story: nobody is to be shown it
	return err
}

// deliver pushes a notebook, and returns when the model that came of it is in
// the traffic.
func (n *notebooks) deliver(message string, as *served, edits ...edit) Change {
	return func(ctx context.Context, l *Session) (err error) {
		if err := n.train(ctx, l, message, edits...); err != nil {
			return err
		}
		if n.trained.commit == "" {
			return fmt.Errorf("the runner of notebook %s made no commit: %s", n.newest.short(), n.trained.refusal)
		}
		if err := n.take(ctx, l); err != nil {
			return err
		}
		if err := n.ready(ctx, l); err != nil {
			return err
		}
		n.given = n.newest
		*as, err = n.model(ctx, l)
		return err
	}
}

// train pushes a notebook, and returns when its runner has ended.
func (n *notebooks) train(ctx context.Context, l *Session, message string, edits ...edit) error {
	files, err := n.repo.Files(n.newest.commit, n.folder)
	if err != nil {
		return err
	}
	filled, err := fillAll("mlops/tree", n.state)
	if err != nil {
		return err
	}
	training := map[string][]byte{}
	for name, text := range filled {
		if file, in := strings.CutPrefix(name, "training/"); in {
			training[file] = text
		}
	}
	if training[trainingFile], err = manifests.Scenarios.ReadFile(trainerFile); err != nil {
		return err
	}
	for _, e := range slices.Concat(edits, n.broken) {
		if err := e.apply(training); err != nil {
			return err
		}
	}
	for file, text := range training {
		files["training/"+file] = text
	}
	p := notebook.Pipeline{
		Name: notebook.Name(notebookFile), Notebook: training[notebookFile], Runner: manifests.NotebookRunner,
		Files: map[string][]byte{trainingFile: training[trainingFile]},
	}
	if err := n.commit(ctx, l, message, files); err != nil {
		return err
	}
	n.trained = trained{run: p.Run(), pushed: n.newest}
	return n.ended(ctx, l)
}

// runnerEnd is the message of a runner's pod.
type runnerEnd struct {
	delivery.End
	final bool // no other pod of its Job will come
}

// ended returns when the runner of the newest notebook has.
func (n *notebooks) ended(ctx context.Context, l *Session) error {
	var word runnerEnd
	err := l.untilError(ctx, untilInterval, "the runner of "+n.newest.short(), func() (string, error) {
		pods, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{"batch.kubernetes.io/job-name": "training"})
		if err != nil {
			return "", err
		}
		if word = wordOf(pods, n.trained.run); word.final {
			return "", nil
		}
		reason := ""
		if word.Error != "" {
			reason = "an attempt failed: " + word.Error + "; "
		}
		w, err := l.workflow(ctx, n.trained.run)
		if err != nil {
			return reason + "no Workflow yet", nil
		}
		return reason + cmp.Or(w.progress(), "no step yet"), nil
	})
	if err != nil {
		return err
	}
	n.trained.commit, n.trained.refusal, n.trained.took = word.Commit, word.Error, time.Since(n.trained.pushed.began)
	n.trained.steps, err = l.workflow(ctx, cmp.Or(word.Workflow, n.trained.run))
	return err
}

// wordOf is what the runner of a run has left in these pods: that of the one that
// has ended as it should, and else the newest.
func wordOf(pods []corev1.Pod, run string) (newest runnerEnd) {
	var when time.Time
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			t := c.State.Terminated
			if t == nil {
				continue
			}
			end, err := delivery.ReadEnd(t.Message)
			if err != nil || end.Run != run {
				continue
			}
			word := runnerEnd{End: end}
			if t.ExitCode != 1 { // which another pod of the Job will repair
				word.final = true
				return word
			}
			if !t.FinishedAt.Time.Before(when) {
				newest, when = word, t.FinishedAt.Time
			}
		}
	}
	return newest
}

// take has the runner's commit be the run's newest one.
func (n *notebooks) take(ctx context.Context, l *Session) error {
	if err := n.repo.Pull(ctx); err != nil {
		return err
	}
	log, err := n.repo.Log()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(log, func(c git.Commit) bool { return c.Hash == n.trained.commit })
	if i < 0 {
		return fmt.Errorf("the runner said that it made commit %s, and Git has none", n.trained.commit)
	}
	pushes, err := n.repo.Pushes(ctx)
	if err != nil {
		return err
	}
	p := pushed{commit: n.trained.commit, message: log[i].Subject()}
	for _, each := range pushes {
		if each.New == p.commit {
			p.began = each.Time
		}
	}
	n.trained.took = p.began.Sub(n.trained.pushed.began)
	n.newest, n.staleRevision = p, ""
	return n.ours(l)
}

// model is the one that the newest commit of the runner has brought, by its card
// on the cluster.
func (n *notebooks) model(ctx context.Context, l *Session) (m served, err error) {
	card, err := l.live(ctx, l.object("v1", "ConfigMap", delivery.CardName))
	if err != nil {
		return m, err
	}
	fields, _, err := unstructured.NestedStringMap(card.Object, "data")
	if err == nil {
		m.card, err = delivery.ReadCard(fields)
	}
	if err != nil {
		return m, err
	}
	m.revision = m.card.Revision
	m.modelFiles, err = l.pull(ctx, m.card.Image)
	return m, err
}

// asOnCard returns an error unless the model matches its card.
func (m served) asOnCard() error {
	if m.Model != m.card.Model {
		return refute(Model, "the training said model %s, and the image has %s", m.card.Model, m.Model)
	}
	if m.Data != m.card.Data {
		return refute(Model, "the training said data %s, and the model says %s", m.card.Data, m.Data)
	}
	return nil
}

func (m served) says() string {
	return fmt.Sprintf("%s of notebook %.7s and data %s: accuracy %s (%s)", m.revision, m.card.NotebookCommit, shortDigest(m.card.Data), m.card.Accuracy, m.card.Interval)
}

// timed says how long the newest notebook took on its way.
func (n *notebooks) timed(e *Evidence) {
	t := n.trained
	if t.run == "" { // the newest commit is no notebook's
		return
	}
	e.Figures = append(e.Figures, Figure{"notebook to the runner's end", t.took.Seconds(), "s"})
	for _, step := range pipelineSteps {
		if took := t.steps.seconds[step]; took > 0 {
			e.Figures = append(e.Figures, Figure{"step " + step, took, "s"})
		}
	}
	says := fmt.Sprintf("no commit: %s, %.1f s after the push", t.refusal, t.took.Seconds())
	if t.commit != "" {
		total := n.given.activeAfter + n.given.began.Sub(t.pushed.began)
		e.Figures = append(e.Figures, Figure{"commit to ready", n.given.activeAfter.Seconds(), "s"}, Figure{"in all", total.Seconds(), "s"})
		says = fmt.Sprintf("committed %.1f s after the push, active %.1f s later", t.took.Seconds(), n.given.activeAfter.Seconds())
	}
	e.Summary = says + "; " + e.Summary
	n.trained = trained{}
}
