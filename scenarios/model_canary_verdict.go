package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"strings"

	"mllab.local/internal/probe"
)

// withoutLastColumn is what the training of the bad model does by mistake.
var withoutLastColumn = []edit{
	{trainingFile, "np.asarray(bunch.data, float)", "np.asarray(bunch.data, float)[:, :-1]"},
	{trainingFile, "bunch.feature_names))", "bunch.feature_names[:-1]))"},
}

// train makes the model container of a version.
func (s *modelCanaryStory) train(ctx context.Context, l *Session, version string) (err error) {
	var edits []edit
	strength := "1"
	switch version {
	case "good":
		strength = "0.05"
	case "bad":
		edits = withoutLastColumn
	}
	code, err := l.code(edits)
	if err != nil {
		return err
	}
	if err := l.apply(ctx, code); err != nil {
		return err
	}
	c, err := l.train(ctx, version, "--c", strength)
	if err != nil {
		return err
	}
	s.containers[version] = c
	if columns, less := len(s.containers["v1"].held.Instances[0]), len(c.held.Instances[0]); (less < columns) != (edits != nil) {
		return fmt.Errorf("the training of %s used %d columns, and that of v1 %d", version, less, columns)
	}
	return nil
}

// row is a request that callers of v1 send: one held-out row.
func (s *modelCanaryStory) row(l *Session, m *delivered) probe.Request {
	r := l.to(m.name)
	askFor(&r, s.containers["v1"].held.Instances[0])
	return r
}

// rowsBy has every held-out row answered by a version's model, as its trainer did.
func (s *modelCanaryStory) rowsBy(ctx context.Context, l *Session, m *delivered, version string) (Evidence, error) {
	c := s.containers[version]
	e, err := l.predicts(ctx, l.to(m.name), c.Model, c.held)
	e.Summary = m.name + ": " + e.Summary
	return e, err
}

func (s *modelCanaryStory) firstAnswers(ctx context.Context, l *Session) (all Evidence, err error) {
	for _, m := range s.models {
		e, err := s.rowsBy(ctx, l, m, "v1")
		all = e.after(all.Summary)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// onlyTheModel refutes that the commits have changed the model containers, and
// nothing else of the pods.
func (s *modelCanaryStory) onlyTheModel(ctx context.Context, l *Session) (e Evidence, err error) {
	var says []string
	for _, m := range s.models {
		pods, model, err := l.podTemplate(ctx, m.name)
		if err != nil {
			return e, err
		}
		if want := s.containers[m.name].image; model != want {
			return e, refute(Delivery, "%s: the model container is %s, and the commit says %s", m.name, model, want)
		}
		if !reflect.DeepEqual(pods, s.pods[m.name]) {
			return e, refute(Delivery, "%s: the commit has changed more of the pods than the model container", m.name)
		}
		says = append(says, fmt.Sprintf("%s: commit %s changed the model container to %s, and nothing else of the pods", m.name, s.commits[m.name].short(), shortDigest(model[strings.LastIndex(model, "@")+1:])))
	}
	e.Summary = strings.Join(says, "; ")
	return e, nil
}

// ofCommit is the check of a model's v2, with the proof on the commit that brought it.
func (s *modelCanaryStory) ofCommit(name string, check func(context.Context, *Session, *delivered) (Evidence, error), prove prover) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		for _, m := range s.models.those(name) {
			e, err := check(ctx, l, m)
			return e, prove(ctx, l, s.commits[name], e, err)
		}
		return Evidence{Summary: leftOut}, nil
	}
}

// promoted refutes that a model's v2 was promoted, and answers as its trainer did.
func (s *modelCanaryStory) promoted(ctx context.Context, l *Session, m *delivered) (Evidence, error) {
	words, err := m.ended(ctx, l, flaggerSucceeded, "", Promotion)
	if err != nil {
		return Evidence{}, err
	}
	p := s.commits[m.name]
	p.activeAfter = m.end.Sub(p.began)
	s.commits[m.name] = p
	e, err := s.rowsBy(ctx, l, m, m.name)
	return e.after(fmt.Sprintf("Flagger: %s, %.0f s after the commit", words, p.activeAfter.Seconds()), Figure{"promoted", p.activeAfter.Seconds(), "s"}), err
}

// takenBack refutes that a model's v2 was taken back for what is wrong with it, and
// v1 answers.
func (s *modelCanaryStory) takenBack(ctx context.Context, l *Session, m *delivered) (Evidence, error) {
	words, err := m.ended(ctx, l, flaggerFailed, "advancement answered-percent", Rollback)
	if err != nil {
		return Evidence{}, err
	}
	took := m.end.Sub(s.commits[m.name].began).Seconds()
	e, err := s.rowsBy(ctx, l, m, "v1")
	return e.after(fmt.Sprintf("Flagger: %s, %.0f s after the commit", words, took), Figure{"taken back", took, "s"}), err
}

// agrees refutes that Git and the Deployment name the model that answers again.
func (s *modelCanaryStory) agrees(ctx context.Context, l *Session) (Evidence, error) {
	_, model, err := l.podTemplate(ctx, "bad")
	if err != nil {
		return Evidence{}, err
	}
	if want := s.containers["v1"].image; model != want {
		return Evidence{}, refute(Delivery, "the Deployment names %s after the revert, and v1 is %s", model, want)
	}
	for _, m := range s.models.those("bad") {
		return s.rowsBy(ctx, l, m, "v1")
	}
	return Evidence{Summary: leftOut}, nil
}

// loss stops the watchers, and refutes that nothing was lost, and that the bad model
// has answered no user.
func (s *modelCanaryStory) loss(ctx context.Context, l *Session) (all Evidence, err error) {
	for _, m := range s.models {
		watcher := &m.users[0].prober
		e, lost := watcher.lostNone(ctx, l)
		by, met := s.byModel(m, watcher.Stop().Answers)
		e.Summary = fmt.Sprintf("%s, answered by %s: %s", m.name, countsText(by), e.Summary)
		all = e.after(all.Summary)
		err = cmp.Or(err, met, lost)
	}
	return all, err
}

// byModel counts answers by the version whose model gave them. It refutes that the
// bad one gave none.
func (s *modelCanaryStory) byModel(m *delivered, sent []probe.Answer) (by map[string]int, err error) {
	by = map[string]int{}
	for _, a := range sent {
		version := "no model"
		for _, v := range []string{"v1", m.name} {
			if a.Model == s.containers[v].Model {
				version = v
			}
		}
		if by[version]++; version == "bad" && err == nil {
			err = refute(Answers, "the bad model has answered a user (request %s)", a.ID)
		}
	}
	return by, err
}
