package scenarios

import (
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/scenarios/file"
)

// author is the account that writes the objects of a user's scenario.
const author = "author"

// confineBound is how long the API server may take to know a policy.
const confineBound = 30 * time.Second

// confine has the run write with the rights of its author, and the cluster judge
// its pods. It returns once both hold: it asks for a pod that must be refused, and
// makes none.
func (l *Session) confine(ctx context.Context) error {
	fence, err := render("userfile/fence.yaml", nil)
	if err != nil {
		return err
	}
	rights, err := render("userfile/rights.yaml", map[string]string{"Account": author, "Namespace": l.Namespace})
	if err != nil {
		return err
	}
	if _, err := l.Kube.Apply(ctx, append(rights, fence...)); err != nil {
		return err
	}
	if l.writer, err = l.Kube.As(l.Namespace, author); err != nil {
		return err
	}
	objs, err := l.deployments(model{Name: "fence", Version: "v1"})
	if err != nil {
		return err
	}
	bad := objs[0]
	bad.SetNamespace(l.Namespace)
	if err := unstructured.SetNestedField(bad.Object, true, "spec", "template", "spec", "hostNetwork"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, confineBound)
	defer cancel()
	return l.until(ctx, "policy "+fence[0].GetName(), func() string {
		switch err := l.writer.Create(ctx, bad.DeepCopy(), client.DryRunAll); {
		case err == nil:
			return "it refuses nothing yet"
		case !kube.Refused(err, fence[0].GetName()):
			return err.Error()
		}
		return ""
	})
}

// refusedFile makes wrong use of an object that the cluster does not take: the error has the reason of who judges it,
// such as istiod.
func refusedFile(err error) error {
	if kube.Refused(err, "") {
		return fault.Usage("correct the file", "%w", err)
	}
	return err
}

// rehearsed makes every object of f, in every run that there can be and in the state
// of each step, as if on a lab: what Kubernetes' and Knative's own types refuse is
// refused before anything is touched. It gives each to each. Its error has the line
// of the file.
func rehearsed(f *file.File, l *Session, each func(*unstructured.Unstructured) error) error {
	for _, control := range append([]file.Control{{}}, f.Controls...) {
		type made struct {
			where  string
			change file.Change
		}
		var all []made
		broken := func(after string) {
			for _, b := range control.Break {
				if control.After == after {
					all = append(all, made{control.Where, b.Change})
				}
			}
		}
		broken("")
		for _, s := range f.Steps {
			all = append(all, made{s.Where, s.Change})
			broken(s.Name)
		}
		u, l := newUserStory(f, DefaultAlpha), &Session{Env: l.Env, Namespace: l.Namespace}
		for _, m := range all {
			objs, err := u.objects(l, m.change)
			for _, o := range objs {
				if err == nil {
					err = inFile(whereOf(m.change, o), each(o))
				}
			}
			if err != nil {
				return inFile(m.where, err)
			}
		}
	}
	return nil
}

// whereOf is the line of the file that has an object itself; "" if none has.
func whereOf(c file.Change, o *unstructured.Unstructured) string {
	a, _ := c.(file.Apply)
	for _, each := range a.Objects {
		if ref := each.Ref(); ref.Group == o.GroupVersionKind().Group && ref.Kind == o.GetKind() && ref.Name == o.GetName() {
			return each.Where
		}
	}
	return ""
}

// admitBound is how long the cluster may take to judge a file.
const admitBound = time.Minute

// judgeNamespace is where a file's objects are tried, and none is made: it is in
// every cluster, and a run's own does not exist yet.
const judgeNamespace = "default"

// admitted has the cluster judge all objects of f, those of its controls too:
// what Kubernetes or a webhook such as istiod's refuses is wrong use, and nothing
// was touched.
func admitted(ctx context.Context, l *Session, f *file.File) error {
	ctx, cancel := context.WithTimeout(ctx, admitBound)
	defer cancel()
	var tried []string
	return refusedFile(rehearsed(f, l, func(o *unstructured.Unstructured) error {
		o.SetNamespace(l.Namespace)
		text := asYAML(o)
		if slices.Contains(tried, text) {
			return nil
		}
		tried = append(tried, text)
		return l.Kube.Accepts(ctx, o, judgeNamespace)
	}))
}

// completeObject checks an author's own object by its Go type, and gives a Knative Service's containers their defaults.
// Istio's are the cluster's to judge.
func completeObject(o *unstructured.Unstructured) error {
	var into any
	switch o.GetAPIVersion() + " " + o.GetKind() {
	case "apps/v1 Deployment":
		into = &appsv1.Deployment{}
	case "v1 Service":
		into = &corev1.Service{}
	case "v1 ConfigMap":
		into = &corev1.ConfigMap{}
	case "serving.knative.dev/v1 Service":
		into = &servingv1.Service{}
	default:
		return nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, into, true); err != nil {
		return err
	}
	s, ok := into.(*servingv1.Service)
	if !ok {
		return nil
	}
	if err := validService(s); err != nil {
		return err
	}
	// Knative takes a missing default for a change of the revision: the list of containers is applied as a whole.
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s.Spec.Template.Spec.PodSpec)
	if err != nil {
		return err
	}
	return unstructured.SetNestedField(o.Object, fields["containers"], "spec", "template", "spec", "containers")
}
