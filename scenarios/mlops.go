package scenarios

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/delivery"
	"mllab.local/internal/fault"
	"mllab.local/internal/git"
	"mllab.local/internal/notebook"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
	"mllab.local/manifests"
)

// mlopsStory is a notebook in Git whose pushes become models that serve.
type mlopsStory struct {
	Options
	followed
	state   mlopsState
	broken  []edit  // a control's, of every notebook
	trained trained // the newest notebook, and what became of it
	serving served  // has all of the traffic, or most of it
	canary  served
	given   pushed      // the commit that gave the canary its share
	verdict *ClaimError // on the canary
}

// mlopsState fills mlops/tree in, which is then the folder in Git.
type mlopsState struct {
	Namespace, Folder     string
	Image, Python, Runner string
	Store                 string
	Percent               int64 // of a new model's traffic
	Training              bool  // there is a notebook
}

// edit is a change of a file of the training.
type edit struct{ file, from, to string }

// What the training is called in Git.
const (
	notebookFile = "breast-cancer.ipynb"
	trainingFile = "mllab_train.py"
	trafficFile  = "overlays/lab/" + delivery.TrafficFile
)

// modelBound is how long after a commit was begun it may take to be active:
// a model's image has to be fetched, and its server to start.
const modelBound = 2 * time.Minute

// canaryPercent is a new model's share of the traffic.
const canaryPercent = 10

// The notebooks of the story, as changes of the first one.
var (
	anotherC     = edit{notebookFile, "c = 1.0", "c = 10.0"}
	wrongLabels  = edit{notebookFile, "label_noise = 0.0", fmt.Sprint("label_noise = ", noisyLabels)}
	withoutScale = afterWrite("model.json", "it['mean'], it['scale'] = [0.0] * len(it['mean']), [1.0] * len(it['scale'])", "; digest = trainer.sha256(file.read_bytes())")
)

// What controls change in every notebook.
var (
	swappedModel = edit{notebookFile, `image = trainer.push(`, `trainer.write(folder, trainer.train(data.held_x, data.held_y), data, e)\nimage = trainer.push(`}
	movedRows    = afterWrite("heldout.json", "it['predictions'] = it['predictions'][-1:] + it['predictions'][:-1]", "")
	noGate       = edit{notebookFile, "assert trainer.gate(e, threshold)", "assert True"}
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

// mlops: a pushed notebook is trained and deployed; a changed one gets a tenth,
// and then all; a worse one ends at its gate; one that is wrong online is noticed
// at a tenth, and taken back.
func mlops() Scenario {
	return Scenario{
		Name:     "mlops",
		Summary:  "a pushed notebook becomes a model in traffic; a bad one is taken back",
		Needs:    []string{"kubeflow", "git"}, // and so knative and flux, which these need
		Baseline: true,
		Serial:   true,
		New:      newMlops,
	}
}

// newMlops plans one run.
func newMlops(o Options) (*Plan, error) {
	s := &mlopsStory{Options: o, state: mlopsState{Percent: canaryPercent}}
	s.followed = followed{scenario: "mlops", flux: fluxSettings{Poll: seldom, Every: seldom, Asked: true}, bound: modelBound}
	if err := enough("mlops", s.claimFor("model-old", "model-new")); err != nil {
		return nil, err
	}
	return &Plan{
		Steps: []Step{
			s.proven(Step{
				Name: "a pushed notebook becomes a model that serves", Change: s.first, Check: s.serves,
				Why:      "The notebook is in Git, and so is a Job that Flux recreates when the notebook is another one. Its runner compiles the notebook, has Argo run it, and commits what came of it; Flux deploys that commit.",
				WatchFor: "Every held-out row is sent through the gateway: the answers must be the trainer's own, from the model whose digest is on the card in Git. From here on a watcher sends " + fmt.Sprint(watchRate) + " requests a second.",
			}),
			s.proven(Step{
				Name: "a changed notebook gets a tenth", Change: s.second, Check: s.tenth,
				Why:      fmt.Sprintf("The notebook's regularization is changed. The same way brings the new model next to the old one, and the runner's commit gives it %d %%.", canaryPercent),
				WatchFor: "Both counts lie in the interval that a right split leaves only once in " + o.oneIn() + " samples, and each model answers as its own trainer said.",
			}),
			s.proven(Step{
				Name: "the new model is promoted", Change: s.promote, Check: s.serves,
				Why:      "It has proven itself, so one more commit gives it everything.",
				WatchFor: "Every answer is the new model's.",
			}),
			s.proven(Step{
				Name: "a worse model ends at its gate", Change: s.worse, Check: s.serves,
				Why:      fmt.Sprintf("%.0f %% of the training labels are wrong. The notebook's own gate fails, so the Workflow does, and the Job with the gate's words.", 100*noisyLabels),
				WatchFor: "There is no commit of the runner, and the promoted model serves as before.",
			}),
			s.step(Step{
				Name: "a model that is wrong online is noticed at a tenth", Change: s.wrong, Check: s.noticed,
				Why:      "The notebook forgets the scaler when it packs the model. It was judged with it, so it passes the gate; only its answers show what is wrong.",
				WatchFor: "The verdict on this tenth must fail, because of its predictions. The commit's proof says FAIL.",
			}, s.proveVerdict),
			s.proven(Step{
				Name: "git revert takes it back", Change: s.takeBack, Check: s.serves,
				Why:      "The runner's commit is taken back by one more, and with it the model, its card and its share.",
				WatchFor: "Every answer is the old model's again.",
			}),
			s.prober.lastStep("All of this went by while the watcher sent."),
		},
		Controls: []Control{
			{Name: "swapped", Summary: "between its training and its packing the model's file becomes another one", Break: s.edited(swappedModel), Catches: Model},
			{Name: "off-by-one", Summary: "the notebook moves the predictions that it hands on by one row", Break: s.edited(movedRows), Catches: Predictions},
			{
				Name: "wrong-share", Summary: fmt.Sprintf("the runner gives a new model %d %% where %d %% is claimed", 5*canaryPercent, canaryPercent),
				Break: func(context.Context, *Session) error { s.state.Percent = 5 * canaryPercent; return nil }, Catches: Shares,
			},
			{Name: "no-gate", Summary: "the notebook lets every model pass", Break: s.edited(noGate), Catches: Gate},
		},
	}, nil
}

func (s *mlopsStory) edited(e edit) func(context.Context, *Session) error {
	return func(context.Context, *Session) error { s.broken = append(s.broken, e); return nil }
}

// claimFor is that the first revision gets what the canary leaves.
func (s *mlopsStory) claimFor(serving, canary string) split.Claim {
	const share = canaryPercent / 100.0
	return split.Claim{N: s.Requests, Alpha: s.Alpha, Legs: []split.Leg{{Name: serving, Share: 1 - share}, {Name: canary, Share: share}}}
}

// first begins with a folder that has no notebook, and pushes one.
func (s *mlopsStory) first(ctx context.Context, l *Session) error {
	s.state.Namespace, s.state.Folder = l.Namespace, "scenarios/"+l.Namespace
	s.state.Image, s.state.Python, s.state.Runner, s.state.Store = l.Image, l.Python, l.Runner, repository(l)
	if l.Git == nil {
		return fault.CannotTest("mllab up --with git", "the lab has no Git")
	}
	files, err := fillAll("mlops/tree", s.state)
	if err != nil {
		return err
	}
	delete(files, "training/"+notebookFile)
	if err := l.giveToken(ctx); err != nil {
		return err
	}
	if err := s.begin(ctx, l, "overlays/lab", "an empty place for a model", files); err != nil {
		return err
	}
	objs, err := render("mlops/training.yaml", s.state)
	if err != nil {
		return err
	}
	if err := l.apply(ctx, objs...); err != nil {
		return err
	}
	s.state.Training = true
	if err := s.deliver(ctx, l, "the notebook", &s.serving); err != nil {
		return err
	}
	s.prober.start(ctx, l, l.to(serviceName), watchRate)
	return nil
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

func (s *mlopsStory) second(ctx context.Context, l *Session) error {
	return s.deliver(ctx, l, "c = 10", &s.canary, anotherC)
}

// deliver pushes a notebook, and returns when the model that came of it is in
// the traffic.
func (s *mlopsStory) deliver(ctx context.Context, l *Session, message string, as *served, edits ...edit) error {
	if err := s.train(ctx, l, message, edits...); err != nil {
		return err
	}
	if s.trained.commit == "" {
		return fmt.Errorf("the runner of notebook %s made no commit: %s", s.newest.short(), s.trained.refusal)
	}
	if err := s.take(ctx, l); err != nil {
		return err
	}
	if err := s.ready(ctx, l); err != nil {
		return err
	}
	s.given = s.newest
	var err error
	*as, err = s.model(ctx, l)
	return err
}

// train pushes a notebook, and returns when its runner has ended.
func (s *mlopsStory) train(ctx context.Context, l *Session, message string, edits ...edit) error {
	files, err := s.repo.Files(s.newest.commit, s.folder)
	if err != nil {
		return err
	}
	filled, err := fillAll("mlops/tree", s.state)
	if err != nil {
		return err
	}
	for name, text := range filled {
		if strings.HasPrefix(name, "training/") {
			files[name] = text
		}
	}
	if files["training/"+trainingFile], err = manifests.Scenarios.ReadFile(trainerFile); err != nil {
		return err
	}
	for _, e := range slices.Concat(edits, s.broken) {
		name := "training/" + e.file
		if !bytes.Contains(files[name], []byte(e.from)) {
			return fmt.Errorf("%s is not what is to be changed: it lacks %q", name, e.from)
		}
		files[name] = bytes.Replace(files[name], []byte(e.from), []byte(e.to), 1)
	}
	p := notebook.Pipeline{
		Name: notebook.Name(notebookFile), Notebook: files["training/"+notebookFile], Runner: manifests.NotebookRunner,
		Files: map[string][]byte{trainingFile: files["training/"+trainingFile]},
	}
	if err := s.commit(ctx, l, message, files); err != nil {
		return err
	}
	s.trained = trained{run: p.Run(), pushed: s.newest}
	return s.ended(ctx, l)
}

// runnerEnd is the message of a runner's pod.
type runnerEnd struct {
	delivery.End
	final bool // no other pod of its Job will come
}

// ended returns when the runner of the newest notebook has.
func (s *mlopsStory) ended(ctx context.Context, l *Session) error {
	var asked error
	var word runnerEnd
	err := l.until(ctx, "the runner of "+s.newest.short(), func() string {
		var pods []corev1.Pod
		if pods, asked = l.Kube.Pods(ctx, l.Namespace, map[string]string{"batch.kubernetes.io/job-name": "training"}); asked != nil {
			return ""
		}
		if word = wordOf(pods, s.trained.run); word.final {
			return ""
		}
		reason := ""
		if word.Error != "" {
			reason = "an attempt failed: " + word.Error + "; "
		}
		w, err := l.workflow(ctx, l.object("argoproj.io/v1alpha1", "Workflow", s.trained.run))
		if err != nil {
			return reason + "no Workflow yet"
		}
		return reason + cmp.Or(w.progress(), "no step yet")
	})
	if err := errors.Join(err, asked); err != nil {
		return err
	}
	s.trained.commit, s.trained.refusal, s.trained.took = word.Commit, word.Error, time.Since(s.trained.pushed.began)
	s.trained.steps, err = l.workflow(ctx, l.object("argoproj.io/v1alpha1", "Workflow", cmp.Or(word.Workflow, s.trained.run)))
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
func (s *mlopsStory) take(ctx context.Context, l *Session) error {
	if err := s.repo.Pull(ctx); err != nil {
		return err
	}
	log, err := s.repo.Log()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(log, func(c git.Commit) bool { return c.Hash == s.trained.commit })
	if i < 0 {
		return fmt.Errorf("the runner said that it made commit %s, and Git has none", s.trained.commit)
	}
	pushes, err := s.repo.Pushes(ctx)
	if err != nil {
		return err
	}
	p := pushed{commit: s.trained.commit, message: log[i].Subject()}
	for _, each := range pushes {
		if each.New == p.commit {
			p.began = each.Time
		}
	}
	s.trained.took = p.began.Sub(s.trained.pushed.began)
	s.newest, s.staleRevision = p, ""
	return s.ours(l)
}

// model is the one that the newest commit of the runner has brought, by its card
// on the cluster.
func (s *mlopsStory) model(ctx context.Context, l *Session) (m served, err error) {
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
func (s *mlopsStory) timed(e *Evidence) {
	t := s.trained
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
		total := s.given.activeAfter + s.given.began.Sub(t.pushed.began)
		e.Figures = append(e.Figures, Figure{"commit to ready", s.given.activeAfter.Seconds(), "s"}, Figure{"in all", total.Seconds(), "s"})
		says = fmt.Sprintf("committed %.1f s after the push, active %.1f s later", t.took.Seconds(), s.given.activeAfter.Seconds())
	}
	e.Summary = says + "; " + e.Summary
	s.trained = trained{}
}

// serves sends every held-out row: each must be answered by the model that
// serves, as its trainer said.
func (s *mlopsStory) serves(ctx context.Context, l *Session) (Evidence, error) {
	if err := s.serving.asOnCard(); err != nil {
		return Evidence{}, err
	}
	e, err := l.predicts(ctx, l.to(serviceName), s.serving.Model, s.serving.held)
	e.Summary = s.serving.says() + "; " + e.Summary
	s.timed(&e)
	return e, err
}

// tenth sends held-out rows again and again: a tenth must be answered by the
// canary, and each by its own trainer's word.
func (s *mlopsStory) tenth(ctx context.Context, l *Session) (Evidence, error) {
	if err := s.canary.asOnCard(); err != nil {
		return Evidence{}, err
	}
	if s.canary.Rows != s.serving.Rows && !slices.EqualFunc(s.canary.held.Instances, s.serving.held.Instances, slices.Equal) {
		return Evidence{}, errors.New("the two models were not evaluated with the same rows")
	}
	by := &rows{Sender: l.send, held: s.canary.held, row: map[string]int{}}
	claim := s.claimFor(s.serving.revision, s.canary.revision)
	l.events.claims("target", claim)
	answers, e, err := l.burstBy(ctx, by, l.to(serviceName), s.Requests)
	if err != nil {
		return e, err
	}
	if err := e.answered(); err != nil {
		return e, err
	}
	verdict, err := claim.Judge(e.Tally.Counts)
	if err != nil {
		return e, err
	}
	e.Verdict = &verdict
	e.Summary = fmt.Sprintf("%s next to %s; %s", s.canary.says(), s.serving.revision, describe(verdict))
	s.timed(&e)
	if !verdict.Pass {
		return e, &ClaimError{Shares, verdict.Reasons}
	}
	for _, m := range []served{s.serving, s.canary} {
		own := slices.Collect(func(yield func(probe.Answer) bool) {
			for _, a := range answers {
				if a.Target == m.revision && !yield(a) {
					return
				}
			}
		})
		says, err := compare(own, by.row, m.Model, m.held)
		e.Summary += "; " + says
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// promote gives the canary everything.
func (s *mlopsStory) promote(ctx context.Context, l *Session) error {
	files, err := s.repo.Files(s.newest.commit, s.folder)
	if err != nil {
		return err
	}
	files = maps.Clone(files)
	if files[trafficFile], err = yaml.Marshal(delivery.Traffic(delivery.Leg{RevisionName: s.canary.revision, Percent: 100})); err != nil {
		return err
	}
	if err := s.commit(ctx, l, "all to "+s.canary.revision, files); err != nil {
		return err
	}
	s.serving = s.canary
	return s.ready(ctx, l)
}

// worse pushes a notebook whose model is worse than its gate asks for.
func (s *mlopsStory) worse(ctx context.Context, l *Session) error {
	if err := s.train(ctx, l, "c = 10, with wrong labels", anotherC, wrongLabels); err != nil {
		return err
	}
	switch steps := s.trained.steps; {
	case s.trained.commit != "":
		return refute(Gate, "a model with wrong labels passed, and the runner made commit %.7s of it", s.trained.commit)
	case steps.phases["evaluate"] != "Failed" || steps.phases["train"] != "Succeeded":
		return fmt.Errorf("the notebook did not come to its gate: %s (%s)", s.trained.refusal, steps.says())
	}
	if err := s.applied(ctx, l, stepBound); err != nil {
		return err
	}
	return s.settled(ctx, l, time.Now())
}

// wrong pushes a notebook whose model is not what it has evaluated.
func (s *mlopsStory) wrong(ctx context.Context, l *Session) error {
	return s.deliver(ctx, l, "c = 10, and a smaller file", &s.canary, anotherC, withoutScale)
}

// noticed holds if the verdict on the canary fails for what is wrong with it.
func (s *mlopsStory) noticed(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.tenth(ctx, l)
	switch {
	case err == nil:
		return e, refute(Predictions, "a model without its scaler was not noticed at %d %%: %s", canaryPercent, e.Summary)
	case !errors.As(err, &s.verdict) || s.verdict.Claim != Predictions:
		return e, err
	}
	e.Summary = "noticed: " + s.verdict.Reasons[0] + "; " + e.Summary
	return e, nil
}

// proveVerdict notes the verdict on the canary: the step passes when that fails.
func (s *mlopsStory) proveVerdict(ctx context.Context, l *Session, p pushed, e Evidence, err error) error {
	if err != nil {
		return s.prove(ctx, l, p, e, err)
	}
	return s.note(ctx, l, p, e, s.verdict)
}

// takeBack reverts the commit that brought the canary.
func (s *mlopsStory) takeBack(ctx context.Context, l *Session) error {
	if err := s.revert(ctx, l, s.given); err != nil {
		return err
	}
	return s.ready(ctx, l)
}
