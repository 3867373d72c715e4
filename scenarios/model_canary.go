package scenarios

import (
	"context"
	"fmt"
	"time"
)

type modelCanaryStory struct {
	Options
	followed
	models     deliveries
	containers map[string]modelFiles  // by version: v1's, and that of each model's v2, by the model's name
	inGit      map[string]string      // the version of each model in Git
	commits    map[string]pushed      // that brought each model's v2
	pods       map[string]podTemplate // each model's, before that
	right      string                 // which status codes Flagger takes for right
	also       bool                   // the commits change more than the model container
}

// judgedModel fills model-canary/canary.yaml in.
type judgedModel struct {
	Name, Host              string
	Percent, Threshold      int
	MinSuccess, MinRequests int
	Interval, Window        time.Duration
}

// modelCanaryPercent is the first share of the users that a new model gets, after
// the copies.
const modelCanaryPercent = 50

// modelCanary: two models serve from Git. A commit gives each another init
// container, which is the model. Flux applies it, and Flagger promotes the good one
// and takes the bad one back.
var modelCanary = Scenario{
	Name:     "model-canary",
	Summary:  "a commit changes the model container; Flagger promotes it or takes it back",
	Needs:    []string{"progressive", "kubeflow", "git"}, // and so flux, which git needs
	Baseline: true,
	New:      newModelCanary,
}

func newModelCanary(o Options) (*Plan, error) {
	s := &modelCanaryStory{
		Options: o, models: deliveries{{name: "good"}, {name: "bad"}}, right: "2..",
		containers: map[string]modelFiles{}, inGit: map[string]string{}, commits: map[string]pushed{}, pods: map[string]podTemplate{},
	}
	s.followed = follow(seldom)
	return &Plan{
		SeveralModels: true,
		Steps: []Step{
			s.proven(Step{
				Name: "v1 serves from Git", Change: s.start, Check: s.firstAnswers,
				Why:      "Two models are files in Git: a Deployment each, whose init container is the model and puts its file where the server looks for it. How Flagger judges a model is not in Git: whoever brings one does not say so.",
				WatchFor: "Every held-out row is answered by v1 as its trainer did. Watchers begin to send.",
			}),
			{
				Name: "a commit each changes the model container", Change: s.deliver, Check: s.onlyTheModel,
				Why:      "In the meantime two new models were trained: a good one, and one whose training left out the last column of what callers send. A commit changes one line, the digest of the init container's image. Flux applies both commits.",
				WatchFor: "Nothing else of the pods is another one: the server is the same.",
			},
			{
				Name: "the good model is promoted", Change: s.over("good"), Check: s.ofCommit("good", s.promoted, s.prove),
				Why:      fmt.Sprintf("Flagger sees that the pods are others, starts them, and has the gateway copy each request to them. What they answer is measured, and nobody sees it. Then they get %d %% of the users, and in the end all.", modelCanaryPercent),
				WatchFor: "Flagger's status, and that every row is answered by the new model as its own trainer did.",
			},
			{
				Name: "the bad model is taken back", Change: s.over("bad"),
				Check: s.ofCommit("bad", s.takenBack, s.proveRefuted(func(e Evidence) error {
					return refute(Promotion, "it was taken back: %s", e.Summary)
				})),
				Why:      "It refuses each row. It only got copies, so it is taken back before it had a user.",
				WatchFor: "Which metric failed, and that v1 answers. The commit's proof in Git says FAIL.",
			},
			s.proven(Step{
				Name: "git revert agrees with what serves", Change: s.undeliver, Check: s.agrees,
				Why:      "Until now Git asks for a model that does not serve. The revert asks for what Flagger has kept, so there is nothing to roll out.",
				WatchFor: "Git, the Deployment and the answers say v1.",
			}),
			{
				Name: "no request lost", Check: s.loss,
				Why:      "The watchers sent rows at their own pace through all of it.",
				WatchFor: "Which model answered how many of them. None was lost, and no user met the bad model.",
			},
		},
		Controls: []Control{
			{
				Name: "hidden", Summary: "Flagger takes a refusal (4xx) for an answer, and does not see what is wrong with the bad model",
				Break: s.models.only("bad", func(*delivered) { s.right = "[24].." }), Catches: Rollback,
			},
			{
				Name: "suspended", Summary: "Flux is suspended, and the commits are made all the same",
				After: "v1 serves from Git", Break: s.suspend, Catches: Delivery,
			},
			{Name: "server-too", Summary: "the commit changes the server, too", Break: s.models.only("good", func(*delivered) { s.also = true }), Catches: Delivery},
		},
	}, nil
}

// start trains v1, has Flux bring it from Git to both models, and Flagger take them
// over. Their v2 are trained meanwhile.
func (s *modelCanaryStory) start(ctx context.Context, l *Session) error {
	if err := s.train(ctx, l, "v1"); err != nil {
		return err
	}
	for _, m := range s.models {
		s.inGit[m.name] = "v1"
	}
	s.tree = func() (map[string][]byte, error) { return s.files(l.Image) }
	if err := s.begin(ctx, l, "", "v1 serves"); err != nil {
		return err
	}
	if err := s.applied(ctx, l, deliveryBound); err != nil {
		return err
	}
	if err := s.judge(ctx, l); err != nil {
		return err
	}
	for _, m := range s.models {
		if err := s.train(ctx, l, m.name); err != nil {
			return err
		}
	}
	if err := s.models.initialized(ctx, l); err != nil {
		return err
	}
	for _, m := range s.models {
		var err error
		if s.pods[m.name], _, err = l.podTemplate(ctx, m.name); err != nil {
			return err
		}
		if err := l.answers(ctx, s.row(l, m)); err != nil {
			return err
		}
		m.users = []*audience{{name: "users"}}
		m.users[0].prober.start(ctx, l, s.row(l, m), progressiveRate)
	}
	s.newest.activeAfter = time.Since(s.newest.began)
	s.prober = s.models[0].users[0].prober
	return nil
}

// judge has Flagger take the models over.
func (s *modelCanaryStory) judge(ctx context.Context, l *Session) error {
	objs, err := s.models.gateway(l, "")
	if err != nil {
		return err
	}
	metrics, err := render("model-canary/metrics.yaml", map[string]any{"Right": s.right})
	if err != nil {
		return err
	}
	objs = append(objs, metrics...)
	for _, m := range s.models {
		canary, err := render("model-canary/canary.yaml", judgedModel{
			Name: m.name, Host: l.host(m.name), Percent: modelCanaryPercent, Threshold: flaggerThreshold,
			MinSuccess: minSuccess, MinRequests: minRequests, Interval: flaggerInterval, Window: flaggerWindow,
		})
		if err != nil {
			return err
		}
		objs = append(objs, canary...)
	}
	return l.write(ctx, objs...)
}

func (s *modelCanaryStory) files(server string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, version := range s.inGit {
		text, err := fill("scenarios/model-canary/deployment.yaml", map[string]any{
			"Name": name, "Model": s.containers[version].image, "Server": server, "Scrape": scrapeEvery, "Also": s.also && version != "v1",
		})
		if err != nil {
			return nil, err
		}
		files[name+".yaml"] = text
	}
	return files, nil
}

// deliver makes the commit of each model's v2, and returns when Flux has applied
// them.
func (s *modelCanaryStory) deliver(ctx context.Context, l *Session) error {
	for _, m := range s.models {
		s.inGit[m.name] = m.name
		m.changed = time.Now()
		if err := s.commitTree(ctx, l, m.name+": another model container"); err != nil {
			return err
		}
		s.commits[m.name] = s.newest
	}
	return s.applied(ctx, l, deliveryBound)
}

// over returns when Flagger has ended with a model's v2.
func (s *modelCanaryStory) over(name string) Change {
	return func(ctx context.Context, l *Session) error { return s.models.end(ctx, l, name) }
}

func (s *modelCanaryStory) undeliver(ctx context.Context, l *Session) error {
	if err := s.revert(ctx, l, s.commits["bad"]); err != nil {
		return err
	}
	return s.applied(ctx, l, deliveryBound)
}
