package scenarios

import (
	"context"
	"io/fs"

	"mllab.local/internal/fault"
	"mllab.local/manifests"
)

type gitopsHelmStory struct {
	helmStory
	followed
	state gitHelmState
	bad   pushed
}

// noQuantity is no quantity of Kubernetes. The chart takes it, and the API refuses
// it.
const noQuantity = "64MB"

// gitHelmState fills gitops-helm/tree in, which is then the folder in Git,
// next to the chart.
type gitHelmState struct {
	Chart     string // its folder
	Image     string
	Version   string // what the model says it is
	Memory    string // that it asks for
	Remediate bool
}

// gitopsHelm: v1 is installed from the lab's Git, a commit makes it v2, a commit
// that cannot be installed is rolled back by Flux, and taken back. A watcher runs
// through all of it.
var gitopsHelm = Scenario{
	Name:             "gitops-helm",
	Summary:          "commits upgrade a Helm release, and Flux rolls back what fails",
	Needs:            []string{"knative", "flux", "git"},
	Baseline:         true,
	Serial:           true,
	ParallelControls: true,
	New:              newGitopsHelm,
}

func newGitopsHelm(o Options) (*Plan, error) {
	if o.Requests < 1 {
		return nil, fault.Usage("such as --requests 1000", "gitops-helm: %d requests prove nothing", o.Requests)
	}
	s := &gitopsHelmStory{helmStory: helmStory{Options: o}, followed: follow("1m"), state: gitHelmState{Remediate: true}}
	s.tree = s.files
	const rolledBack = "1 v1 superseded, 2 v2 superseded, 3 v3 failed, 4 v2 deployed"
	return &Plan{
		Steps: []Step{
			s.proven(Step{
				Name: "v1 is installed from Git", Change: s.start, Check: s.agrees("1 v1 deployed"),
				Why:      "In Git are a chart, and a HelmRelease with the values for it. Flux applies the HelmRelease, and its helm-controller does what `helm install` would.",
				WatchFor: "The history says what should run; the answers say what does. Both must name v1.",
			}),
			s.proven(Step{
				Name: "a commit upgrades to v2", Change: s.upgradeByCommit, Check: s.agrees("1 v1 superseded, 2 v2 deployed"),
				Why:      "A commit changes one value. Flux makes a new revision of the release, as `helm upgrade` would.",
				WatchFor: "Revision 1 is superseded, and every answer says v2.",
			}),
			s.proven(Step{
				Name: "v3 fails and Flux rolls back", Change: s.failByCommit, Check: s.says(s.agrees(rolledBack)),
				Why:      "The next commit asks for " + noQuantity + " of memory, which is no quantity of Kubernetes; the chart takes it, and the API refuses it. The HelmRelease says that an upgrade that fails is rolled back.",
				WatchFor: "Revision 3 failed, revision 4 is a copy of 2. No user has noticed, and the HelmRelease says why.",
			}),
			s.proven(Step{
				Name: "git revert agrees with what runs", Change: s.undeliver, Check: s.agrees(rolledBack),
				Why:      "Until now Git asks for what does not run. The revert asks for what the rollback has already brought, so there is nothing to do.",
				WatchFor: "The history has not grown, and the HelmRelease is ready.",
			}),
			s.followed.prober.lastStep("The watcher has sent through all of it."),
		},
		Controls: []Control{
			{
				Name: "no-remediation", Summary: "the HelmRelease does not say that an upgrade that fails is rolled back",
				Break: set(&s.state.Remediate, false), Catches: Release,
			},
			{
				Name: "by-hand", Summary: "somebody changes the live Service behind Helm's back",
				After: "a commit upgrades to v2", Break: changeByHand, Catches: Release,
			},
		},
	}, nil
}

func (s *gitopsHelmStory) files() (map[string][]byte, error) {
	files, err := fillAll("gitops-helm/tree", s.state)
	if err != nil {
		return nil, err
	}
	sample, err := fs.Sub(manifests.FS, "charts/sample")
	if err != nil {
		return nil, err
	}
	return files, fs.WalkDir(sample, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files["chart/"+name], err = fs.ReadFile(sample, name)
		return err
	})
}

func (s *gitopsHelmStory) start(ctx context.Context, l *Session) error {
	s.state.Chart, s.state.Image, s.state.Version, s.state.Memory = "./scenarios/"+l.Namespace+"/chart", l.Image, "v1", "32Mi"
	var err error
	if s.release, err = l.release(); err != nil {
		return err
	}
	if err := s.begin(ctx, l, "release", "v1 serves"); err != nil {
		return err
	}
	l.removeRelease()
	if err := s.ready(ctx, l, l.helmRelease()); err != nil {
		return err
	}
	s.followed.prober.start(ctx, l, l.to(serviceName), watchRate)
	return nil
}

func (s *gitopsHelmStory) upgradeByCommit(ctx context.Context, l *Session) error {
	s.state.Version = "v2"
	return s.change(ctx, l, "v2", l.helmRelease())
}

// failByCommit commits what cannot be installed, and returns when Flux has done
// what it does then, and stopped.
func (s *gitopsHelmStory) failByCommit(ctx context.Context, l *Session) error {
	s.state.Version, s.state.Memory = "v3", noQuantity
	if err := s.commitTree(ctx, l, "v3, with more memory"); err != nil {
		return err
	}
	s.bad = s.newest
	return s.releaseEnded(ctx, l)
}

// says puts what helm-controller says of the release before what a check saw.
func (s *gitopsHelmStory) says(check Check) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		o, err := l.live(ctx, l.helmRelease())
		if err != nil {
			return Evidence{}, err
		}
		_, why := conditionOf(o, "Released")
		e, err := check(ctx, l)
		return e.after("Flux: " + why), err
	}
}

func (s *gitopsHelmStory) undeliver(ctx context.Context, l *Session) error {
	return s.takeBack(ctx, l, s.bad, l.helmRelease())
}
