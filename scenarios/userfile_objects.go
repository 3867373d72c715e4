package scenarios

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"knative.dev/serving/pkg/apis/autoscaling"

	"mllab.local/scenarios/file"
)

// userService is a Knative Service and the percents of its versions, in order.
type userService struct {
	*revisions
	percents []int64
}

// userRoute has the parameters of userfile/route.yaml.
type userRoute struct {
	Name, Host    string
	Versions      []userLeg
	Mark          string
	Mirror        string // Service
	MirrorPercent float64
}

type userLeg struct {
	Version, Host, Service string
	Percent                int64
}

// objects notes what a change does to the story's models, and returns what must
// be applied for it.
func (u *userStory) objects(l *Session, c file.Change) (objs []*unstructured.Unstructured, err error) {
	switch c := c.(type) {
	case file.Apply:
		return u.applied(l, c)
	case file.Split:
		if s := u.services[c.Of]; s != nil {
			s.percents = percentsOf(c.Shares, s.order)
			o, err := s.object(s.percents)
			return []*unstructured.Unstructured{o}, err
		}
		route := u.routes[c.Of]
		for i, percent := range percentsOf(c.Shares, route.order()) {
			route.Versions[i].Percent = percent
		}
		return route.objects(l)
	case file.Mirror:
		route := u.routes[c.Of]
		route.Mirror, route.MirrorPercent = c.Of+"-"+c.To, c.Percent
		return route.objects(l)
	case file.Env:
		if u.env[c.Of+"-"+c.Version] == nil {
			u.env[c.Of+"-"+c.Version] = map[string]string{}
		}
		maps.Copy(u.env[c.Of+"-"+c.Version], c.Set)
	}
	return nil, nil
}

// percentsOf are the percents of versions; one that is not named has none.
func percentsOf(shares []file.Share, versions []string) []int64 {
	out := make([]int64, len(versions))
	for _, s := range shares {
		out[slices.Index(versions, s.Version)] = int64(s.Percent)
	}
	return out
}

func (r *userRoute) order() (versions []string) {
	for _, leg := range r.Versions {
		versions = append(versions, leg.Version)
	}
	return versions
}

// objects are the route with a new mark.
func (r *userRoute) objects(l *Session) ([]*unstructured.Unstructured, error) {
	r.Mark = l.mark()
	return render("userfile/route.yaml", r)
}

// applied are the objects of an apply. The first version of a model has all of
// its traffic, further ones have none until a split.
func (u *userStory) applied(l *Session, a file.Apply) (objs []*unstructured.Unstructured, err error) {
	var routes []*userRoute
	for _, m := range a.Models {
		env := map[string]string{}
		maps.Copy(env, m.Env)
		maps.Copy(env, u.env[m.Name+"-"+m.Version])
		if m.Knative {
			o, err := u.revision(l, m, env)
			if err != nil {
				return nil, inFile(m.Where, err)
			}
			objs = append(objs, o)
			continue
		}
		deployment, err := l.deployments(model{Name: m.Name, Version: m.Version, Env: env, Replicas: m.Replicas})
		if err != nil {
			return nil, inFile(m.Where, err)
		}
		service, err := render("userfile/service.yaml", m)
		if err != nil {
			return nil, inFile(m.Where, err)
		}
		objs = slices.Concat(objs, deployment, service)
		if !m.Route {
			continue
		}
		route := u.routes[m.Name]
		if route == nil {
			route = &userRoute{Name: m.Name, Host: l.host(m.Name)}
			u.routes[m.Name] = route
		}
		if !slices.Contains(route.order(), m.Version) {
			leg := userLeg{m.Version, l.host(m.Version + "-" + m.Name), m.Name + "-" + m.Version, 0}
			if len(route.Versions) == 0 {
				leg.Percent = 100
			}
			route.Versions = append(route.Versions, leg)
		}
		routes = union(routes, route)
	}
	for _, route := range routes {
		more, err := route.objects(l)
		if err != nil {
			return nil, err
		}
		objs = append(objs, more...)
	}
	for _, o := range a.Objects {
		obj := &unstructured.Unstructured{Object: o.Fill(file.Vars{Image: l.Image, Namespace: l.Namespace, Domain: l.Domain})}
		if err := completeObject(obj); err != nil {
			return nil, inFile(o.Where, fmt.Errorf("%s is not valid: %w", o.Ref(), err))
		}
		objs = append(objs, obj)
	}
	return objs, nil
}

// revision is the Knative Service of a model with a new version.
func (u *userStory) revision(l *Session, m file.Model, env map[string]string) (*unstructured.Unstructured, error) {
	s := u.services[m.Name]
	if s == nil {
		base, err := loadRevisions("scenarios/canary/service.yaml")
		if err != nil {
			return nil, err
		}
		base.base.Name = m.Name
		s = &userService{revisions: base}
		u.services[m.Name] = s
	}
	s.image, s.version, s.env = l.Image, m.Version, env
	s.order, s.percents = append(s.order, m.Version), append(s.percents, 0)
	if len(s.percents) == 1 {
		s.percents[0] = 100
	}
	s.base.Spec.Template.Annotations = map[string]string{
		autoscaling.MinScaleAnnotationKey: strconv.Itoa(m.MinScale), autoscaling.MaxScaleAnnotationKey: strconv.Itoa(m.MaxScale),
	}
	if m.Window != "" {
		s.base.Spec.Template.Annotations[autoscaling.WindowAnnotationKey] = m.Window
	}
	return s.object(s.percents)
}
