package chart

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helm "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

// ErrNotReady is in the error of an operation whose objects did not become ready.
var ErrNotReady = errors.New("not ready")

// Release is a release of a chart on a cluster. Helm keeps its history in Secrets of its namespace, as the `helm` command
// does: either sees what the other did.
type Release struct {
	Name, Namespace string
	// Reason, if any, gets why an operation still waits, each time that changes.
	Reason func(string)

	wait   func(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error
	config action.Configuration
}

// waitBound is how long the objects of one revision may take to be ready. An upgrade that is undone waits twice.
const waitBound = time.Minute

// NewRelease returns the release of that name, which need not exist yet.
func NewRelease(c *kube.Client, namespace, name string) (*Release, error) {
	getter, err := c.Getter(namespace)
	if err != nil {
		return nil, err
	}
	r := &Release{Name: name, Namespace: namespace, wait: c.Wait}
	if err := r.config.Init(getter, namespace, "secret", func(string, ...any) {}); err != nil {
		return nil, fmt.Errorf("preparing Helm for release %s/%s: %w", namespace, name, err)
	}
	return r, nil
}

// Install makes the release's first revision from the chart in the folder files, with values as Render takes them, and
// returns when its objects are ready.
func (r *Release) Install(ctx context.Context, files fs.FS, values map[string]any) error {
	c, err := load(files)
	if err != nil {
		return fmt.Errorf("loading the chart of %s: %w", r.Name, err)
	}
	install := action.NewInstall(r.until(ctx))
	install.ReleaseName, install.Namespace, install.Wait, install.Timeout = r.Name, r.Namespace, true, waitBound
	_, err = install.Run(c, values)
	return r.failed(ctx, "installing", err)
}

// Upgrade makes the next revision. An atomic one waits until its objects are ready, and is rolled back by Helm if they are
// not: the error is then ErrNotReady. Another one is `helm upgrade` without flags: the objects are written, and that is all.
func (r *Release) Upgrade(ctx context.Context, files fs.FS, values map[string]any, atomic bool) error {
	c, err := load(files)
	if err != nil {
		return fmt.Errorf("loading the chart of %s: %w", r.Name, err)
	}
	upgrade := action.NewUpgrade(r.until(ctx))
	upgrade.Namespace, upgrade.Atomic, upgrade.Timeout = r.Namespace, atomic, waitBound
	_, err = upgrade.Run(r.Name, c, values)
	return r.failed(ctx, "upgrading", err)
}

// Rollback makes the next revision a copy of an earlier one, and returns when its objects are ready.
func (r *Release) Rollback(ctx context.Context, revision int) error {
	rollback := action.NewRollback(r.until(ctx))
	rollback.Version, rollback.Wait, rollback.Timeout = revision, true, waitBound
	return r.failed(ctx, "rolling back", rollback.Run(r.Name))
}

// Uninstall removes the release with its history; one that is not there is no error.
func (r *Release) Uninstall(ctx context.Context) error {
	uninstall := action.NewUninstall(r.until(ctx))
	uninstall.IgnoreNotFound = true
	_, err := uninstall.Run(r.Name)
	return r.failed(ctx, "uninstalling", err)
}

// Revision is one entry of a release's history.
type Revision struct {
	Number      int
	Status      string // Helm's: "deployed", "superseded", "failed", …
	Description string
	Values      map[string]any // that went over the chart's own
	Objects     []*unstructured.Unstructured
}

// History returns all revisions, the oldest first.
func (r *Release) History(ctx context.Context) ([]Revision, error) {
	found, err := action.NewHistory(r.until(ctx)).Run(r.Name)
	if err != nil {
		return nil, r.failed(ctx, "reading the history of", err)
	}
	releaseutil.SortByRevision(found)
	var all []Revision
	for _, f := range found {
		objs, err := kube.Decode([]byte(f.Manifest))
		if err != nil {
			return nil, r.failed(ctx, fmt.Sprintf("reading revision %d of", f.Version), err)
		}
		all = append(all, Revision{Number: f.Version, Status: string(f.Info.Status), Description: f.Info.Description, Values: f.Config, Objects: objs})
	}
	return all, nil
}

func (r *Release) failed(ctx context.Context, doing string, err error) error {
	if err == nil || ctx.Err() != nil {
		return ctx.Err() // what Helm says is then the echo of that
	}
	return fmt.Errorf("%s release %s/%s: %w", doing, r.Namespace, r.Name, err)
}

// until is Helm's configuration for one operation. Helm's own way to end with a context would leave the operation running
// in the background; what takes long are its waits, and ours end with ctx.
func (r *Release) until(ctx context.Context) *action.Configuration {
	c := r.config
	c.KubeClient = waiting{r.config.KubeClient, func(objs []*unstructured.Unstructured, timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return r.wait(ctx, objs, r.Reason)
	}}
	return &c
}

// waiting is Helm's hand on the cluster, with our wait: Helm's takes every object of a CRD for ready at once.
// https://github.com/helm/helm/blob/v3.21.4/pkg/kube/ready.go
type waiting struct {
	helm.Interface
	ready func(objs []*unstructured.Unstructured, timeout time.Duration) error
}

func (w waiting) Wait(resources helm.ResourceList, timeout time.Duration) error {
	var objs []*unstructured.Unstructured
	for _, info := range resources {
		obj := &unstructured.Unstructured{}
		obj.SetGroupVersionKind(info.Mapping.GroupVersionKind)
		obj.SetNamespace(info.Namespace)
		obj.SetName(info.Name)
		objs = append(objs, obj)
	}
	if err := w.ready(objs, timeout); err != nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return nil
}

func (w waiting) WaitWithJobs(resources helm.ResourceList, timeout time.Duration) error {
	return w.Wait(resources, timeout)
}
