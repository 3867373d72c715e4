package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/scenarios/file"
)

// Namespace is where a scenario runs; its controls run in namespaces of their
// own, whose names go on with "-" and the control's.
func Namespace(scenario string) string { return file.NamespacePrefix + scenario }

// Labels of every namespace that a run makes. A run removes only what its own
// scenario has made, and at its end only what it has made itself.
const (
	managedLabel  = "app.kubernetes.io/managed-by"
	managedBy     = "mllab"
	scenarioLabel = "mllab.local/scenario"
	runLabel      = "mllab.local/run"
	confinedLabel = "mllab.local/confined" // of a user's scenario: userfile/fence.yaml holds there
)

// keptFor is an annotation of a namespace that a run keeps: the user's file, or mllab.
const keptFor = "mllab.local/kept-for"

// keptByOthers returns an error if a run of another file, whose scenario has the
// same name, keeps its namespace. One of another scenario is removeNamespace's to refuse.
func (l *Session) keptByOthers(ctx context.Context) error {
	s := l.job.Scenario
	var ns corev1.Namespace
	err := l.Kube.Get(ctx, client.ObjectKey{Name: l.Namespace}, &ns) // the run's next request says what is wrong with the server
	if file := ns.Annotations[keptFor]; err == nil && ns.Labels[scenarioLabel] == s.Name && file != "" && file != cmp.Or(s.File, managedBy) {
		return fault.CannotTest(fmt.Sprintf("give the scenario another name, or remove what is kept: `mllab scenario reset %s`", s.Name),
			"a run of %s with --keep keeps namespace %s", file, l.Namespace)
	}
	return nil
}

// freshNamespace makes the run's namespace; one that an interrupted run left, or
// one of the same file kept, is removed first, one that the scenario has not made
// is left alone.
func (l *Session) freshNamespace(ctx context.Context) error {
	l.events.begin("namespace")
	s, id := l.job.Scenario, uuid.NewString()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.Namespace, Labels: map[string]string{
		managedLabel: managedBy, scenarioLabel: s.Name, runLabel: id,
	}}}
	if s.SidecarInjection {
		ns.Labels["istio-injection"] = "enabled"
	} else if s.Untrusted || s.Baseline {
		// Not in the mesh, where only confine judges: Istio's init container needs
		// NET_ADMIN, which no level but "privileged" allows.
		// https://kubernetes.io/docs/concepts/security/pod-security-standards/
		ns.Labels["pod-security.kubernetes.io/enforce"] = "baseline"
	}
	if s.Untrusted {
		ns.Labels[confinedLabel] = "true"
	}
	if l.keepNamespace {
		ns.Annotations = map[string]string{keptFor: cmp.Or(s.File, managedBy)}
	}
	replaced, err := removeNamespace(ctx, l.Kube, l.Namespace, scenarioLabel, s.Name, l.events.wait)
	if err == nil {
		if err = l.Kube.Create(ctx, ns); err != nil {
			err = fmt.Errorf("making namespace %s: %w", l.Namespace, err)
		} else {
			l.runID = id
		}
	}
	if err == nil && s.Untrusted {
		err = l.confine(ctx)
	}
	done := l.Namespace
	if replaced {
		done += ", in place of the one that was left"
	}
	return l.events.end(done, err)
}

// Reset removes what runs of a scenario and its controls left, with --keep or
// killed, and returns the namespaces it removed, in order and with an error
// too. A run does that by itself before it begins.
func Reset(ctx context.Context, c *kube.Client, scenario string, reason func(string)) ([]string, error) {
	var all corev1.NamespaceList
	if err := c.List(ctx, &all, client.MatchingLabels{scenarioLabel: scenario}); err != nil {
		return nil, fmt.Errorf("looking for namespaces of scenario %s: %w", scenario, err)
	}
	removed := make([]string, len(all.Items))
	var g errgroup.Group
	for i, ns := range all.Items {
		g.Go(func() error {
			there, err := removeNamespace(ctx, c, ns.Name, scenarioLabel, scenario, reason)
			if there {
				removed[i] = ns.Name
			}
			return err
		})
	}
	err := g.Wait()
	slices.Sort(removed)
	return slices.DeleteFunc(removed, func(name string) bool { return name == "" }), err
}

// removeNamespace removes a namespace whose label has this value, and says
// whether it was there. Any other is left alone, which is an error.
func removeNamespace(ctx context.Context, c *kube.Client, name, label, value string, reason func(string)) (bool, error) {
	var ns corev1.Namespace
	err := c.Get(ctx, client.ObjectKey{Name: name}, &ns)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err == nil && ns.Labels[label] != value:
		return false, fault.CannotTest("remove it, or give the scenario another name",
			"namespace %s must have label %s=%s to be removed, got %q: it was made by something else", name, label, value, ns.Labels[label])
	case err == nil:
		err = c.DeleteNamespace(ctx, name, reason)
	}
	if err != nil {
		return false, fmt.Errorf("removing namespace %s: %w", name, err)
	}
	return true, nil
}

// Undisturbed is an error when a container of the lab's own pods, and not of a run's, was evicted or has ended since a
// time: what was measured meanwhile was measured on a lab that was not whole. The lab's own namespaces are those of its
// addons and Kubernetes' own.
func Undisturbed(ctx context.Context, k *kube.Client, since time.Time) error {
	list, err := k.Restarts(ctx, isLabs, since)
	if err != nil {
		return fault.CannotTest("", "looking for restarts: %w", err)
	}
	if len(list) > 0 {
		return fault.CannotTest("see `mllab status`, or use a smaller --parallel", "the lab was not whole all the time: %s", strings.Join(list, "; "))
	}
	return nil
}

func isLabs(ns *corev1.Namespace) bool {
	return ns.Name == metav1.NamespaceSystem || ns.Labels[managedLabel] == managedBy && ns.Labels[scenarioLabel] == ""
}
