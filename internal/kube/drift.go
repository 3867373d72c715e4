package kube

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Drifted is an object that differs from its desired state: it is missing, some fields differ, or it could not be compared.
type Drifted struct {
	Object  string         `json:"object"`
	Missing bool           `json:"missing,omitempty"`
	Fields  []DriftedField `json:"fields,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// DriftedField is a field that differs from its desired state. Manager is its field manager, if Kubernetes knows it: a
// removed field has none. Undone says that the next apply by the desired state's own manager restores it.
type DriftedField struct {
	Path    string     `json:"path"`
	Wished  any        `json:"git,omitempty"`
	Live    any        `json:"live,omitempty"`
	Manager string     `json:"manager,omitempty"`
	When    *time.Time `json:"when,omitempty"` // the manager's last write to the object
	Undone  bool       `json:"undone"`
}

// DriftOf compares objs, which Flux applies, with the live ones and returns those that differ. It makes a server-side dry run
// of Flux's apply, so that defaults do not count. Fields that others have added count too, except labels and annotations of the
// object's own controller: the manager that writes its status. DriftOf writes nothing.
func (c *Client) DriftOf(ctx context.Context, objs []*unstructured.Unstructured) ([]Drifted, error) {
	by := ssa.NewResourceManager(c.Client, nil, ssa.Owner{Field: fluxOwner})
	all := make([]Drifted, len(objs))
	err := inParallel(ctx, objs, func(ctx context.Context, i int, obj *unstructured.Unstructured) (err error) {
		if all[i], err = c.driftOf(ctx, by, obj); err != nil { // the others can be compared
			all[i] = Drifted{Object: Name(obj), Error: serverError(err).Error()}
		}
		return ctx.Err()
	})
	return slices.DeleteFunc(all, func(d Drifted) bool { return !d.Missing && len(d.Fields) == 0 && d.Error == "" }), err
}

func (c *Client) driftOf(ctx context.Context, by *ssa.ResourceManager, obj *unstructured.Unstructured) (Drifted, error) {
	d := Drifted{Object: Name(obj)}
	obj = obj.DeepCopy()
	if err := normalize.Unstructured(obj); err != nil { // as Flux does: stringData becomes data
		return d, err
	}
	live, err := c.live(ctx, obj)
	if err != nil {
		return d, err
	}
	if live == nil {
		d.Missing = true
		return d, nil
	}
	holders, err := managers(live)
	if err != nil {
		return d, err
	}
	var desired *unstructured.Unstructured // nil if an apply would change nothing
	if !hasApplied(fluxOwner, obj, live) {
		if _, _, desired, err = by.Diff(ctx, obj, ssa.DefaultDiffOptions()); err != nil {
			return d, err
		}
	}
	if desired != nil {
		compare(nil, content(desired), content(live), func(at []any, git, is any) {
			f := DriftedField{Path: formatPath(at), Wished: git, Live: is, Undone: true}
			for _, m := range holders {
				if m.Manager != fluxOwner && is != nil && owns(m.fields, live.Object, at) {
					f.Manager, f.When = m.Manager, m.lastWrite()
				}
			}
			d.Fields = append(d.Fields, f)
		})
	}
	for _, m := range holders {
		own := slices.ContainsFunc(holders, func(h holder) bool { return h.Manager == m.Manager && h.Subresource == "status" })
		if m.Manager != fluxOwner && m.Subresource != "status" {
			d.Fields = append(d.Fields, m.added(obj, live, own)...)
		}
	}
	for i := range d.Fields {
		if f := &d.Fields[i]; secret(obj, f.Path) {
			f.Wished, f.Live = hidden(f.Wished), hidden(f.Live)
		}
	}
	slices.SortStableFunc(d.Fields, func(a, b DriftedField) int { return cmp.Compare(a.Path, b.Path) })
	return d, nil
}

// added returns the fields of live that h owns and obj does not have. own means that h is the object's own controller.
func (h holder) added(obj, live *unstructured.Unstructured, own bool) (list []DriftedField) {
	// Flux takes over the fields that kubectl owns, and so removes those that are not in Git:
	// https://github.com/fluxcd/kustomize-controller/blob/v1.9.6/internal/controller/kustomization_controller.go
	byHand := strings.HasPrefix(h.Manager, "kubectl") || strings.HasPrefix(h.Manager, "before-first-apply")
	git := obj.DeepCopy().Object
	for _, key := range []string{"labels", "annotations"} { // so that each of them counts, not all as one
		if meta, ok := git["metadata"].(map[string]any); ok && meta[key] == nil {
			meta[key] = map[string]any{}
		}
	}
	eachExtraField(h.fields, live.Object, git, nil, func(at []any, is any) {
		switch at[0] {
		case "apiVersion", "kind", "status":
			return
		case "metadata":
			if own || len(at) < 3 || at[1] != "labels" && at[1] != "annotations" {
				return
			}
		}
		list = append(list, DriftedField{Path: formatPath(at), Live: is, Manager: h.Manager, When: h.lastWrite(), Undone: byHand && h.Subresource == ""})
	})
	return list
}
