package addons

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// managedBy labels every namespace of ours.
const managedBy, mllab = "app.kubernetes.io/managed-by", "mllab"

// upstream decodes a rendered manifest.
func upstream(name string) ([]*unstructured.Unstructured, error) {
	data, err := manifests.Upstream(name)
	if err != nil {
		return nil, err
	}
	objs, err := kube.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("reading manifests/upstream/%s: %w", name, err)
	}
	return objs, nil
}

// namespace is a namespace of ours.
func namespace(name string) *unstructured.Unstructured {
	o := object("v1", "Namespace", "", name, nil)
	o.SetLabels(map[string]string{managedBy: mllab})
	return o
}

// object makes an object; fields are its top-level fields, such as "spec".
func object(apiVersion, kind, ns, name string, fields map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	for k, v := range fields {
		o.Object[k] = v
	}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(ns)
	o.SetName(name)
	return o
}

func label(o *unstructured.Unstructured, key, value string) {
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	o.SetLabels(labels)
}

// get returns the reference of a component.
func (im Images) get(component string) (string, error) {
	if ref := im[component]; ref != "" {
		return ref, nil
	}
	return "", fmt.Errorf("no image is given for component %s", component)
}

// replaceStrings calls replace with every string in value, however deep, and
// puts its answer there.
func replaceStrings(value any, replace func(string) (string, error)) (any, error) {
	var err error
	switch v := value.(type) {
	case string:
		return replace(v)
	case map[string]any:
		for k := range v {
			if v[k], err = replaceStrings(v[k], replace); err != nil {
				return nil, err
			}
		}
	case []any:
		for i := range v {
			if v[i], err = replaceStrings(v[i], replace); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

// eachContainer changes the containers of a Deployment in place.
func eachContainer(o *unstructured.Unstructured, change func(c map[string]any)) error {
	path := []string{"spec", "template", "spec", "containers"}
	containers, found, err := unstructured.NestedSlice(o.Object, path...)
	if err != nil {
		return fmt.Errorf("%s: %w", kube.Name(o), err)
	}
	if !found {
		return fmt.Errorf("%s has no containers", kube.Name(o))
	}
	for _, c := range containers {
		if c, ok := c.(map[string]any); ok {
			change(c)
		}
	}
	return unstructured.SetNestedSlice(o.Object, containers, path...)
}

// quickProbe lets a container be found ready within a second and, as it was,
// unready after the same time of failures.
func quickProbe(c map[string]any) {
	probe, ok := c["readinessProbe"].(map[string]any)
	if !ok {
		return
	}
	number := func(key string, otherwise int64) int64 {
		if n, ok := probe[key].(int64); ok {
			return n
		}
		return otherwise // https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
	}
	probe["failureThreshold"] = number("periodSeconds", 10) * number("failureThreshold", 3)
	probe["periodSeconds"] = int64(1)
	delete(probe, "initialDelaySeconds")
}

const (
	pollEvery = 100 * time.Millisecond
	// verifyLimit bounds one use of a ready addon while no pod comes further (see
	// patiently). Right after a start webhooks and proxies follow their Deployments
	// by seconds.
	verifyLimit = 90 * time.Second
)

// poll calls try until it returns nil, at most verifyLimit long. Its error is
// try's last, which also goes to reason.
func poll(ctx context.Context, reason func(string), what string, try func(ctx context.Context) error) error {
	return pollFor(ctx, verifyLimit, reason, what, try)
}

// pollFor is poll with a limit of its own.
func pollFor(ctx context.Context, limit time.Duration, reason func(string), what string, try func(ctx context.Context) error) error {
	pctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := try(pctx)
		if err == nil {
			return nil
		}
		if pctx.Err() == nil || last == nil { // else it only says that the time is over
			last = err
		}
		reason(what + ": " + oneLine(last))
		select {
		case <-tick.C:
		case <-pctx.Done():
			if ctx.Err() != nil {
				return fmt.Errorf("%s: %w (last: %s)", what, ctx.Err(), oneLine(last))
			}
			return &lateError{what, limit, last}
		}
	}
}

// lateError says that something was not so within its limit.
type lateError struct {
	what  string
	limit time.Duration
	last  error
}

func (e *lateError) Error() string {
	return fmt.Sprintf("%s: timeout after %s (last: %v)", e.what, e.limit, e.last)
}
func (e *lateError) Unwrap() error { return e.last }

// patiently calls do again when it was late and the cluster came further meanwhile: a busy machine needs longer for all,
// and verifyLimit is for one on which nothing moves. ctx is the bound of all calls together.
func patiently(ctx context.Context, progress func(context.Context) (string, error), say func(string), do func() error) error {
	for {
		before, unknown := progress(ctx)
		err := do()
		if late := (*lateError)(nil); !errors.As(err, &late) || unknown != nil || ctx.Err() != nil {
			return err
		}
		if after, unknown := progress(ctx); unknown != nil || after == before {
			return err
		}
		say("the cluster still comes up: " + oneLine(err))
	}
}

func oneLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
