package scenarios

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"knative.dev/serving/pkg/apis/serving"
	autoscaler "knative.dev/serving/pkg/autoscaler/config"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/probe"
)

// idleService is a Knative Service that may go to zero. It has one revision.
type idleService struct {
	name        string
	annotations map[string]string // of its autoscaling, without Knative's prefix

	last   time.Time     // its last answer
	slept  time.Duration // from its last answer until it was seen at zero, or until that was given up
	first  int           // pods that it had before its first cold request
	starts int           // cold requests so far
}

func (s *idleService) revision() string { return s.name + "-v1" }

// zeroWindow is how long a Service must be quiet: the shortest that Knative takes.
const zeroWindow = 6 * time.Second

// object is the Service. A request may take as long as it is waited for; that
// is the grace period of its pods too, so longer would be a longer way to zero.
func (s *idleService) object(image string) (*unstructured.Unstructured, error) {
	objs, err := render("scale-to-zero/service.yaml", map[string]any{
		"Name": s.name, "Image": image, "Window": zeroWindow, "Seconds": requestBound.Seconds(), "Annotations": s.annotations,
	})
	if err != nil {
		return nil, err
	}
	return objs[0], nil
}

// answerOnce has each Service answer once, and sees its pod and its endpoint: what
// finds nothing at zero must find something now.
func (l *Session) answerOnce(ctx context.Context, all []*idleService) (Evidence, error) {
	var answers []probe.Answer
	for _, s := range all {
		a, err := s.ask(ctx, l)
		if err != nil {
			return Evidence{}, err
		}
		answers = append(answers, a)
	}
	e, err := l.evidenceOf(answers)
	e.Summary = fmt.Sprintf("%d of %d Services answered, with a pod and an endpoint each", len(all), len(all))
	if err != nil {
		return e, err
	}
	if err := e.answered(); err != nil {
		return e, err
	}
	for _, s := range all {
		pods, endpoints, err := l.podsAndEndpoints(ctx, s)
		if err != nil {
			return e, err
		}
		if len(pods) == 0 || len(endpoints) == 0 {
			return e, fmt.Errorf("%s answered, but %d pods and %d endpoints of it were found: zero would prove nothing", s.name, len(pods), len(endpoints))
		}
	}
	return e, nil
}

// ask sends one request over a new connection. The error is ctx's.
func (s *idleService) ask(ctx context.Context, l *Session) (probe.Answer, error) {
	r := l.to(s.name)
	r.Fresh = true
	a := l.Send(ctx, r)
	s.last = time.Now()
	return a, ctx.Err()
}

// podsAndEndpoints asks the API server what is there of a Service: its pods, Terminating
// ones too, and their endpoints, ready or not. Those are in the revision's
// private Service; the public one has the activator's while there is no pod.
func (l *Session) podsAndEndpoints(ctx context.Context, s *idleService) (pods, endpoints []string, err error) {
	found, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{serving.RevisionLabelKey: s.revision()})
	if err != nil {
		return nil, nil, err
	}
	for _, p := range found {
		name := p.Name
		if p.DeletionTimestamp != nil {
			name += " (Terminating)"
		}
		pods = append(pods, name)
	}
	all, err := l.endpoints(ctx, s.revision()+"-private")
	for _, e := range all {
		endpoints = append(endpoints, e.Addresses...)
	}
	return pods, endpoints, err
}

// idle is Services that nobody asks. It waits until they are at zero, wakes them,
// and watches the pods of the run.
type idle struct {
	pods  *podTimes
	grace time.Duration // Knative's, before it takes a last pod away
}

// watchIdle reads Knative's grace period, and begins to watch.
func (l *Session) watchIdle(ctx context.Context) (*idle, error) {
	var cm corev1.ConfigMap
	if err := l.Kube.Get(ctx, client.ObjectKey{Namespace: "knative-serving", Name: autoscaler.ConfigName}, &cm); err != nil {
		return nil, fmt.Errorf("reading the autoscaler's configuration: %w", err)
	}
	config, err := autoscaler.NewConfigFromMap(cm.Data)
	if err != nil {
		return nil, fmt.Errorf("reading the autoscaler's configuration: %w", err)
	}
	pods, err := l.watchPods(ctx)
	return &idle{pods, config.ScaleToZeroGracePeriod}, err
}

// serveIdle begins to watch, and applies the Services.
func (l *Session) serveIdle(ctx context.Context, all ...*idleService) (*idle, error) {
	i, err := l.watchIdle(ctx)
	if err != nil {
		return nil, err
	}
	var objs []*unstructured.Unstructured
	for _, s := range all {
		obj, err := s.object(l.Image)
		if err != nil {
			return nil, err
		}
		objs = append(objs, obj)
	}
	return i, l.apply(ctx, objs...)
}

// zeroSlack is what a way to zero may take beyond its settings: the autoscaler
// looks every 2 s, and again some seconds later, and a kubelet is busy.
const zeroSlack = 20 * time.Second

// bound is within which time after its last answer a Service must be at zero.
// https://knative.dev/docs/serving/autoscaling/scale-to-zero/ has the first two.
func (i *idle) bound() time.Duration { return zeroWindow + i.grace + requestBound + zeroSlack }

func (i *idle) String() string {
	return fmt.Sprintf("%s of window, %s of grace, %s for the pod's end, %s of slack", zeroWindow, i.grace, requestBound, zeroSlack)
}

// await sends nothing, and returns when each Service is at zero or its deadline
// has passed; the check decides which.
func (i *idle) await(ctx context.Context, l *Session, all []*idleService) error {
	for _, s := range all {
		bounded, cancel := context.WithDeadline(ctx, s.last.Add(i.bound()))
		err := l.until(bounded, "zero", func() string {
			// The watch costs nothing; what it says is then asked for.
			for name, life := range i.pods.of(s.revision()) {
				if !life.gone {
					return "Pod/" + name + " is there"
				}
			}
			pods, endpoints, err := l.podsAndEndpoints(bounded, s)
			switch {
			case err != nil:
				return err.Error()
			case len(pods)+len(endpoints) > 0:
				return fmt.Sprintf("pods %v, endpoints %v", pods, endpoints)
			}
			return ""
		})
		cancel()
		s.slept = time.Since(s.last)
		if ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// atZero looks once whether a Service has no pod and no endpoint.
func (i *idle) atZero(ctx context.Context, l *Session, s *idleService) error {
	pods, endpoints, err := l.podsAndEndpoints(ctx, s)
	if err != nil {
		return err
	}
	if len(pods)+len(endpoints) > 0 {
		return refute(Zero, "%s is quiet for %.1f s (bound: %s) and has %d pods (%s) and %d endpoints (%s)", s.name, s.slept.Seconds(), i,
			len(pods), strings.Join(pods, ", "), len(endpoints), strings.Join(endpoints, ", "))
	}
	return nil
}

// readyBound is how long the kubelet may take to call a pod ready that has
// answered already: Knative's activator finds that out by itself, sooner.
const readyBound = 10 * time.Second

// coldStart sends one request to a Service at zero, and returns the life of
// the pod that answered.
func (i *idle) coldStart(ctx context.Context, l *Session, s *idleService) (probe.Answer, podLife, error) {
	before := i.pods.of(s.revision())
	if s.starts == 0 {
		s.first = len(before)
	}
	s.starts++
	a, err := s.ask(ctx, l)
	if err != nil {
		return a, podLife{}, err
	}
	if refuted := lost(Answers, probe.Count([]probe.Answer{a})); refuted != nil {
		return a, podLife{}, refuted
	}
	bounded, cancel := context.WithTimeout(ctx, readyBound)
	defer cancel()
	var after map[string]podLife
	if err := l.until(bounded, "Pod/"+a.Pod, func() string {
		after = i.pods.of(s.revision())
		if after[a.Pod].at[stageReady].IsZero() {
			return "not seen ready"
		}
		return ""
	}); err != nil {
		return a, podLife{}, err
	}
	if err := i.pods.whole(); err != nil {
		return a, podLife{}, err
	}
	return a, after[a.Pod], judgeCold(a, before, after)
}

// judgeCold reports whether an answer is from the one pod that its request
// started, by the pods that there were before the request and after it.
func judgeCold(a probe.Answer, before, after map[string]podLife) error {
	started := slices.DeleteFunc(sortedKeys(after), func(name string) bool {
		_, old := before[name]
		return old
	})
	if !slices.Contains(started, a.Pod) {
		return refute(OnePod, "the answer is from Pod/%s, which was there before the request", a.Pod)
	}
	if len(started) > 1 {
		return refute(OnePod, "one request started %d pods: %s", len(started), strings.Join(started, ", "))
	}
	// Its own timestamps are whole seconds, cut off.
	pod, sent := after[a.Pod].pod, a.Sent.Truncate(time.Second)
	if pod.CreationTimestamp.Time.Before(sent) || pod.Status.StartTime == nil || pod.Status.StartTime.Time.Before(sent) {
		return refute(OnePod, "Pod/%s was created at %s and started at %s, and the request was sent at %s",
			a.Pod, pod.CreationTimestamp, pod.Status.StartTime, a.Sent)
	}
	return nil
}

// The stages of a pod's start.
const (
	stageCreated   = "pod created"
	stageScheduled = "scheduled"
	stageSandbox   = "sandbox"
	stageRunning   = "containers started"
	stageAddress   = "address known"
	stageReady     = "pod ready"
)

// podLife is the life of one pod, as a watch has seen it.
type podLife struct {
	pod  corev1.Pod           // at last
	gone bool                 // not only Terminating
	at   map[string]time.Time // when each stage was seen
}

// podTimes watches pods and what happens to them. The stages' times are when
// the API server sent them, by this machine's clock: the pods' own are whole
// seconds.
type podTimes struct {
	mu    sync.Mutex
	lives map[string]*podLife // by name
	ended bool
}

// watchPods watches the run's pods until the run ends.
func (l *Session) watchPods(ctx context.Context) (*podTimes, error) {
	p := &podTimes{lives: map[string]*podLife{}}
	lasting, end := l.lasting(ctx)
	defer context.AfterFunc(ctx, end)() // ^C while it begins
	for _, list := range []client.ObjectList{&corev1.PodList{}, &corev1.EventList{}} {
		w, err := l.Kube.Watch(lasting, l.Namespace, list)
		if err != nil {
			return nil, err
		}
		l.cleanup(w.Stop)
		go func() {
			for e := range w.ResultChan() {
				p.take(e, time.Now())
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.ended = true
		}()
	}
	return p, nil
}

// take notes what e says.
func (p *podTimes) take(e apiwatch.Event, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reached := func(name, stage string) *podLife {
		life := p.lives[name]
		if life == nil {
			life = &podLife{at: map[string]time.Time{}}
			p.lives[name] = life
		}
		if stage != "" && life.at[stage].IsZero() {
			life.at[stage] = now
		}
		return life
	}
	switch o := e.Object.(type) {
	case *corev1.Pod:
		life := reached(o.Name, stageCreated)
		life.pod, life.gone = *o, e.Type == apiwatch.Deleted
		if o.Status.PodIP != "" {
			reached(o.Name, stageAddress)
		}
		for _, c := range o.Status.Conditions {
			switch {
			case c.Status != corev1.ConditionTrue:
			case c.Type == corev1.PodScheduled:
				reached(o.Name, stageScheduled)
			case c.Type == corev1.PodReady:
				reached(o.Name, stageReady)
			}
		}
	case *corev1.Event:
		// The kubelet writes both into the pod's status, with its address, only
		// when it looks again, which is once a second: genericPlegRelistPeriod in
		// https://github.com/kubernetes/kubernetes/blob/v1.36.5/pkg/kubelet/kubelet.go
		// Each container has events of its own: the first is pulled for a sandbox
		// that is there, and all run when the last is started.
		switch {
		case o.InvolvedObject.Kind != "Pod" || e.Type != apiwatch.Added:
		case o.Reason == "Pulled":
			reached(o.InvolvedObject.Name, stageSandbox)
		case o.Reason == "Started":
			reached(o.InvolvedObject.Name, "").at[stageRunning] = now
		}
	}
}

// of are the pods of a revision that there ever were.
func (p *podTimes) of(revision string) map[string]podLife {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string]podLife{}
	for name, life := range p.lives {
		if life.pod.Labels[serving.RevisionLabelKey] == revision {
			all[name] = podLife{life.pod, life.gone, maps.Clone(life.at)}
		}
	}
	return all
}

// whole says that no change was missed: a pod that came and went unseen would
// not be counted.
func (p *podTimes) whole() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return fmt.Errorf("the API server ended the watch of the pods: nothing can be said about how many there were")
	}
	return nil
}

// noPod refutes Zero unless in time none of a model's pods is left. It returns how
// long that took.
func (l *Session) noPod(ctx context.Context, bound time.Duration, of string, pods func() ([]string, error)) (time.Duration, error) {
	began := time.Now()
	err := l.within(ctx, bound, Zero, "no pod of "+of+" left", func() (string, error) {
		left, err := pods()
		return strings.Join(left, ", "), err
	})
	return time.Since(began), err
}
