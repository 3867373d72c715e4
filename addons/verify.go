package addons

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// Addons are verified with objects of this namespace whose names begin so. Several
// are verified at a time.
const verifyNamespace, verifyName = "default", "mllab-verify"

// IsBroken reports whether a pod is broken on purpose: that of KServe's verification has no image. It may stay half a minute
// after that (see verification).
func IsBroken(namespace, pod string) bool {
	return namespace == verifyNamespace && strings.HasPrefix(pod, verifyName+"-") && strings.Contains(pod, "-kserve-predictor")
}

// verifyLabel is a label of the objects that an addon is verified with: the addon.
const verifyLabel = "mllab.local/verify"

// manifest decodes a file of manifests/addons that is not installed, such as
// "flux/verify.yaml". values are pairs of an old text and a new one.
func manifest(file string, values ...string) ([]*unstructured.Unstructured, error) {
	text, err := manifests.Addons.ReadFile("addons/" + file)
	if err != nil {
		return nil, err
	}
	objs, err := kube.Decode([]byte(strings.NewReplacer(values...).Replace(string(text))))
	if err != nil {
		return nil, fmt.Errorf("reading manifests/addons/%s: %w", file, err)
	}
	return objs, nil
}

// verification decodes the objects of an addon's verify.yaml. Each call gives them names of their own: what an
// earlier verification's objects owned may still be there, and would be taken for this one's. In the first half
// minute of a cluster the garbage collector does not know the addons' kinds.
func verification(addon string, values ...string) ([]*unstructured.Unstructured, error) {
	objs, err := manifest(addon+"/verify.yaml", append(values, verifyName, verifyName+"-"+rand.String(5))...)
	for _, o := range objs {
		o.SetLabels(labels.Merge(o.GetLabels(), labels.Set{verifyLabel: addon}))
	}
	return objs, err
}

// accepted returns nil if the API server accepts the objects of an addon's
// verify.yaml. It does not store them.
func accepted(ctx context.Context, env Env, addon string) error {
	objs, err := manifest(addon + "/verify.yaml")
	for _, o := range objs {
		err = errors.Join(err, client.IgnoreAlreadyExists(env.Kube.Create(ctx, o, client.DryRunAll)))
	}
	return err
}

// refused returns nil if the API server refuses each object of an addon's
// refused.yaml with these words. It does not store them.
func refused(ctx context.Context, env Env, addon, words string) error {
	objs, err := manifest(addon + "/refused.yaml")
	if err != nil {
		return err
	}
	for _, o := range objs {
		err := env.Kube.Create(ctx, o, client.DryRunAll)
		if err == nil {
			return fmt.Errorf("%s of addons/%s/refused.yaml was accepted", kube.Name(o), addon)
		}
		if !kube.Refused(err, words) {
			return err
		}
	}
	return nil
}

// judged returns a Use that has webhooks judge by dry run what refused and accepted send.
func judged(addon, what, words string) Use {
	return func(ctx context.Context, env Env, reason func(string)) error {
		return poll(ctx, reason, what, func(ctx context.Context) error {
			if err := refused(ctx, env, addon, words); err != nil { // first: while no webhook judges, anything is accepted
				return err
			}
			return accepted(ctx, env, addon)
		})
	}
}

// reaches returns a Use that applies an addon's verify.yaml, and waits until its first object has a condition.
func reaches(addon, what, condition string) Use {
	return func(ctx context.Context, env Env, reason func(string)) error {
		return use(ctx, env, reason, what, addon, func(_ context.Context, live *unstructured.Unstructured) error { return wantCondition(live, condition) })
	}
}

// use is useAll of an addon's verification. It gives done the first object, as the cluster has it.
func use(ctx context.Context, env Env, reason func(string), what, addon string, done func(ctx context.Context, live *unstructured.Unstructured) error, values ...string) error {
	objs, err := verification(addon, values...)
	if err != nil {
		return err
	}
	return useAll(ctx, env, reason, what, objs, func(ctx context.Context) error {
		live, err := read(ctx, env.Kube, objs[0])
		if err != nil {
			return err
		}
		return done(ctx, live)
	})
}

// useAll applies objects of verification, polls done, and removes the objects. It first removes those of a verification that
// was killed.
func useAll(ctx context.Context, env Env, reason func(string), what string, objs []*unstructured.Unstructured, done func(context.Context) error) (err error) {
	defer func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second) // also after ^C
		defer stop()
		if gone := env.Kube.Delete(ctx, objs); gone != nil {
			err = errors.Join(err, fmt.Errorf("removing the objects of the verification: %w", gone))
		}
	}()
	err = poll(ctx, reason, what, func(ctx context.Context) error { return removeKilled(ctx, env, objs) })
	if err != nil {
		return err
	}
	err = poll(ctx, reason, what, func(ctx context.Context) error {
		_, err := env.Kube.Apply(ctx, objs) // a webhook may come a moment after its pod
		return err
	})
	if err != nil {
		return err
	}
	return poll(ctx, reason, what, done)
}

// removeKilled removes what has the kinds and namespaces of objs, and is of a verification of their addon.
func removeKilled(ctx context.Context, env Env, objs []*unstructured.Unstructured) error {
	for _, o := range objs {
		err := env.Kube.DeleteAllOf(ctx, o, client.InNamespace(o.GetNamespace()), client.MatchingLabels{verifyLabel: o.GetLabels()[verifyLabel]},
			client.PropagationPolicy(metav1.DeletePropagationBackground))
		if err != nil {
			return fmt.Errorf("removing what an earlier verification left: %w", err)
		}
	}
	return nil
}

// wantCondition returns an error with the last condition that is known, until an
// object has this condition and it is True.
func wantCondition(live *unstructured.Unstructured, kind string) error {
	known := "it says nothing yet"
	for _, c := range kube.Conditions(live) {
		if c.Type == kind && c.True() {
			return nil
		}
		known = fmt.Sprintf("%s=%s: %s", c.Type, c.Status, c.Message)
	}
	return fmt.Errorf("%s: not yet %s (%s)", kube.Name(live), kind, known)
}
