package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/probe"
)

// The two colors, which are also what their pods answer.
const (
	blue  = "blue"
	green = "green"
)

// way is a way to run two colors behind one shared address. Each of its
// functions returns when what it does is active.
type way interface {
	shared(l *Session) probe.Request
	own(l *Session, color string) probe.Request
	begin(ctx context.Context, l *Session, color string) error  // has the shared address served by the first color
	deploy(ctx context.Context, l *Session, color string) error // next to the first one, at its own address
	point(ctx context.Context, l *Session, color string) error  // switches the shared address
}

// selectorWay switches by the selector of a plain Kubernetes Service, which the
// gateway reaches by a VirtualService. The colors are Deployments.
type selectorWay struct{ name string }

func (w selectorWay) shared(l *Session) probe.Request { return l.to(w.name) }

func (w selectorWay) own(l *Session, color string) probe.Request { return l.to(w.name + "-" + color) }

func (w selectorWay) model(color string) model {
	return model{Name: w.name, Version: color, Env: map[string]string{
		"ADMIN_PORT": fmt.Sprint(adminPort),
		// A color is removed when nobody asks it any more.
		"DRAIN": "1s",
	}}
}

func (w selectorWay) begin(ctx context.Context, l *Session, color string) error {
	if err := w.deploy(ctx, l, color); err != nil {
		return err
	}
	if err := w.point(ctx, l, color); err != nil {
		return err
	}
	return w.route(ctx, l, w.name, w.name)
}

func (w selectorWay) deploy(ctx context.Context, l *Session, color string) error {
	deployment, err := l.deployments(w.model(color))
	if err != nil {
		return err
	}
	own := w.name + "-" + color
	if err := w.service(ctx, l, own, color, deployment...); err != nil {
		return err
	}
	return w.route(ctx, l, own, own)
}

func (w selectorWay) point(ctx context.Context, l *Session, color string) error {
	return w.service(ctx, l, w.name, color)
}

func (w selectorWay) removeBlue(ctx context.Context, l *Session) error {
	deployment, err := l.deployments(w.model(blue))
	if err != nil {
		return err
	}
	return l.remove(ctx, deployment...)
}

// service has a Service select a color, applied with other objects, and returns when
// its endpoints are that color's pods and no others.
func (w selectorWay) service(ctx context.Context, l *Session, name, color string, with ...*unstructured.Unstructured) error {
	if err := l.applyFile(ctx, "blue-green/service.yaml", map[string]string{"Name": name, "Version": color}, with...); err != nil {
		return err
	}
	return l.until(ctx, "the endpoints of Service/"+name, func() string {
		all, err := l.endpoints(ctx, name)
		if err != nil {
			return err.Error()
		}
		why := "none is ready"
		for _, e := range all {
			if getsRequests(e) && e.TargetRef != nil {
				if why = ""; !strings.HasPrefix(e.TargetRef.Name, w.name+"-"+color+"-") {
					return "Pod/" + e.TargetRef.Name + " is one"
				}
			}
		}
		return why
	})
}

// route brings a name at the gateway to a Service.
func (w selectorWay) route(ctx context.Context, l *Session, name, service string) error {
	return l.route(ctx, "blue-green/route.yaml", l.to(name), &struct {
		routeState
		Name, Service string
	}{Name: name, Service: service})
}

// pin takes the shared address past its Service.
func (w selectorWay) pin(ctx context.Context, l *Session) error {
	return w.route(ctx, l, w.name, w.name+"-"+blue)
}

// removeBlueInUse does it while the shared address is blue's.
func (w selectorWay) removeBlueInUse(ctx context.Context, l *Session) error {
	if err := w.removeBlue(ctx, l); err != nil {
		return err
	}
	return l.untilFails(ctx, w.shared(l))
}

func (w selectorWay) makeGreenUnready(ctx context.Context, l *Session) error {
	pods, err := l.pods(ctx, w.model(green).labels())
	if err != nil {
		return err
	}
	if err := l.breakPods(ctx, pods, faults{Ready: new(false)}); err != nil {
		return err
	}
	return l.untilFails(ctx, w.own(l, green))
}

// untilFails returns when what a control has broken can be seen.
func (l *Session) untilFails(ctx context.Context, r probe.Request) error {
	return l.until(ctx, r.Host+" to fail", func() string {
		if l.Send(ctx, r).OK() {
			return "it is answered"
		}
		return ""
	})
}

// revisionWay switches by the traffic of a Knative Service. The colors are its
// revisions, each with a tag.
type revisionWay struct{ *revisions }

func (w *revisionWay) shared(l *Session) probe.Request { return l.to(w.name()) }

func (w *revisionWay) own(l *Session, color string) probe.Request {
	return l.to(color + "-" + w.name())
}

func (w *revisionWay) begin(ctx context.Context, l *Session, color string) error {
	w.add(color, nil)
	return w.traffic(ctx, l, 100)
}

func (w *revisionWay) deploy(ctx context.Context, l *Session, color string) error {
	w.add(color, nil)
	return w.traffic(ctx, l, 100, 0)
}

func (w *revisionWay) point(ctx context.Context, l *Session, color string) error {
	percents := make([]int64, len(w.order))
	percents[slices.Index(w.order, color)] = 100
	return w.traffic(ctx, l, percents...)
}
