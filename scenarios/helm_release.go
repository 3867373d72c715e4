package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"mllab.local/internal/chart"
	"mllab.local/internal/fault"
	"mllab.local/manifests"
)

type helmStory struct {
	Options
	atomic  bool // the upgrade to v3 is: it is undone when it fails
	chart   fs.FS
	release *chart.Release
	prober  prober
}

// helmRelease: v1 is installed, v2 takes its place, v3 does not start and is
// undone by Helm, and a rollback brings v1 back. A watcher runs through all of
// it.
var helmRelease = Scenario{
	Name:    "helm-release",
	Summary: "a Helm release is upgraded, undone when it fails, and rolled back",
	Needs:   []string{"knative"},
	New:     newHelmRelease,
}

func newHelmRelease(o Options) (*Plan, error) {
	files, err := fs.Sub(manifests.FS, "charts/sample")
	if err != nil {
		return nil, err
	}
	if o.Requests < 1 {
		return nil, fault.Usage("such as --requests 1000", "helm-release: %d requests prove nothing", o.Requests)
	}
	s := &helmStory{Options: o, atomic: true, chart: files}
	return &Plan{
		Steps: []Step{
			{
				Name: "install v1", Change: s.install, Check: s.agrees("1 v1 deployed"),
				Why: "A release is a chart with values, under a name. " +
					"Helm keeps each revision of it in a Secret next to what it installed.",
				WatchFor: "The history says what should run; the answers say what does. Both must name v1.",
			},
			{
				Name: "upgrade to v2", Check: s.agrees("1 v1 superseded, 2 v2 deployed"),
				Change: func(ctx context.Context, l *Session) error { return s.upgrade(ctx, l, "v2", l.Image, true) },
				Why: "An upgrade writes the chart with new values. " +
					"Knative keeps the old version until the new one is ready.",
				WatchFor: "Revision 1 is superseded, not gone: it can be returned to.",
			},
			{
				Name: "v3 does not start and is undone", Change: s.upgradeToNothing,
				Check: s.agrees("1 v1 superseded, 2 v2 superseded, 3 v3 failed, 4 v2 deployed"),
				Why: "With --atomic Helm waits until what it wrote is ready, and else writes the last good revision again. " +
					"Helm itself takes a Knative Service for ready at once, so the lab brings the wait.",
				WatchFor: "Revision 3 failed, revision 4 is a copy of 2. No user has noticed.",
			},
			{
				Name:     "rollback to revision 1",
				Why:      "A rollback goes forward: it makes a new revision from an old one.",
				WatchFor: "Revision 5 says v1, and so does every answer.",
				Change: func(ctx context.Context, l *Session) error {
					return s.helm(ctx, l, "rollback "+releaseName+" 1", func() error { return s.release.Rollback(ctx, 1) })
				},
				Check: s.agrees("1 v1 superseded, 2 v2 superseded, 3 v3 failed, 4 v2 superseded, 5 v1 deployed"),
			},
			s.prober.lastStep("No revision, not even one that fails, may cost a request."),
		},
		Controls: []Control{
			{
				Name: "no-rollback", Summary: "v3 is upgraded to without --atomic: nobody waits, nobody undoes it",
				Break: set(&s.atomic, false), Catches: Release,
			},
			{
				Name: "by-hand", Summary: "somebody changes the live Service behind Helm's back",
				After: "upgrade to v2", Break: changeByHand, Catches: Release,
			},
		},
	}, nil
}

// helm does what the `helm` command would with the same words, and returns when
// the gateway follows.
func (s *helmStory) helm(ctx context.Context, l *Session, words string, do func() error) error {
	if err := l.teach(ctx, "helm --namespace "+l.Namespace+" "+words); err != nil {
		return err
	}
	s.prober.mark("helm " + words)
	if err := do(); err != nil {
		return err
	}
	return l.routed(ctx, releaseName)
}

// values are the chart's for one version of the model, and the same in words.
func (s *helmStory) values(version, image string) (values map[string]any, words string) {
	// No version may be cold or grow in the middle of a sample.
	values = map[string]any{"image": image, "target": version, "minScale": 1, "maxScale": 1}
	words = releaseName + " manifests/charts/sample"
	for _, name := range sortedKeys(values) {
		words += fmt.Sprintf(" --set %s=%v", name, values[name])
	}
	return values, words
}

func (s *helmStory) install(ctx context.Context, l *Session) (err error) {
	if s.release, err = l.release(); err != nil {
		return err
	}
	l.removal(s.release.Uninstall)
	values, words := s.values("v1", l.Image)
	err = s.helm(ctx, l, "install "+words+" --wait", func() error { return s.release.Install(ctx, s.chart, values) })
	if err == nil {
		s.prober.start(ctx, l, l.to(releaseName), watchRate)
	}
	return err
}

func (s *helmStory) upgrade(ctx context.Context, l *Session, version, image string, atomic bool) error {
	values, words := s.values(version, image)
	if atomic {
		words += " --atomic"
	}
	return s.helm(ctx, l, "upgrade "+words, func() error { return s.release.Upgrade(ctx, s.chart, values, atomic) })
}

// upgradeToNothing upgrades to an image that nobody has built. That this fails
// is part of the story, and the history's to say; that it takes too long is not.
func (s *helmStory) upgradeToNothing(ctx context.Context, l *Session) error {
	image, _ := splitImage(l.Image)
	err := s.upgrade(ctx, l, "v3", image+":"+neverBuilt, s.atomic)
	if errors.Is(err, chart.ErrNotReady) && !errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// agrees checks that the release's history is as claimed, and that what is
// live and what answers is what its deployed revision says.
func (s *helmStory) agrees(history string) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		revisions, err := s.release.History(ctx)
		if err != nil {
			return Evidence{}, err
		}
		_, e, err := l.served(ctx, l, l.to(releaseName), s.Requests)
		if err != nil {
			return e, err
		}
		e.Summary = "history " + historyText(revisions)
		drifted, err := l.drifted(ctx, newest(revisions))
		if err != nil {
			return e, err
		}
		if reasons := disagree(revisions, history, e.Tally.Counts, drifted); len(reasons) > 0 {
			return e, &ClaimError{Release, reasons}
		}
		e.Summary += fmt.Sprintf("; n=%d %s, exact: one stray answer fails", e.Tally.Sent, countsText(e.Tally.Counts))
		e.Figures = []Figure{{Name: "revisions", Value: float64(len(revisions))}}
		return e, nil
	}
}

// newest is the revision that Helm says is deployed.
func newest(revisions []chart.Revision) (deployed chart.Revision) {
	for _, r := range revisions {
		if r.Status == "deployed" {
			deployed = r
		}
	}
	return deployed
}

// historyText is a history in words, such as "1 v1 superseded, 2 v2 deployed".
func historyText(revisions []chart.Revision) string {
	var parts []string
	for _, r := range revisions {
		parts = append(parts, fmt.Sprintf("%d %v %s", r.Number, r.Values["target"], r.Status))
	}
	return strings.Join(parts, ", ")
}

// disagree returns why a history is not as claimed, or not what answers and
// what is live: drifted names the objects that are not as the deployed revision
// says.
func disagree(revisions []chart.Revision, claimed string, counts map[string]int, drifted []string) (reasons []string) {
	say := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	if found := historyText(revisions); found != claimed {
		say("the history is %s where %s is claimed", found, claimed)
	}
	deployed := newest(revisions)
	if target := fmt.Sprint(deployed.Values["target"]); len(counts) != 1 || counts[target] == 0 {
		say("revision %d says %s, and the answers are %s", deployed.Number, target, countsText(counts))
	}
	if len(drifted) > 0 {
		say("%s is not as revision %d says", strings.Join(drifted, ", "), deployed.Number)
	}
	return reasons
}
