package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/scenarios/file"
)

func decode(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	objs, err := kube.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

func TestEveryDestinationThatARequestCanReachIsALeg(t *testing.T) {
	route := func(spec string) string {
		return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: shop}\nspec: " + spec
	}
	for _, tc := range []struct{ name, spec, legs string }{
		{"subsets", `{gateways: [g], hosts: [shop.ns.test], http: [{route: [{destination: {host: shop, subset: v1}, weight: 99}, {destination: {host: shop, subset: v2}, weight: 1}]}]}`, "shop/v1 shop/v2"},
		{"weight 0", `{gateways: [g], hosts: [shop.ns.test], http: [{route: [{destination: {host: a}, weight: 100}, {destination: {host: b}, weight: 0}]}]}`, "a"},
		{"no weight", `{gateways: [g], hosts: [shop.ns.test], http: [{route: [{destination: {host: a.ns.svc.cluster.local}}]}]}`, "a"},
		{"matches", `{gateways: [g], hosts: [shop.ns.test], http: [{match: [{headers: {x: {regex: ".+"}}}], route: [{destination: {host: a}}]}, {route: [{destination: {host: b}}]}]}`, "a b"},
		{"another host's rule", `{gateways: [g], hosts: [shop.ns.test, b.ns.test], http: [{match: [{authority: {exact: b.ns.test}}], route: [{destination: {host: b}}]}, {route: [{destination: {host: a}}]}]}`, "a"},
		{"copies", `{gateways: [g], hosts: [shop.ns.test], http: [{route: [{destination: {host: a}}], mirror: {host: b}, mirrors: [{destination: {host: c}, percentage: {value: 0}}, {destination: {host: d}, percentage: {value: 1}}]}]}`, "a d b"},
		{"no copies", `{gateways: [g], hosts: [shop.ns.test], http: [{route: [{destination: {host: a}}], mirror: {host: b}, mirrorPercentage: {value: 0}}]}`, "a"},
		{"all hosts", `{gateways: [g], hosts: ["*.ns.test"], http: [{route: [{destination: {host: a}}]}]}`, "a"},
		{"another's", `{gateways: [g], hosts: [b.ns.test], http: [{route: [{destination: {host: a}}]}]}`, ""},
		{"the sidecars'", `{gateways: [mesh], hosts: [shop.ns.test], http: [{route: [{destination: {host: a}}]}]}`, ""},
		{"an answer of the gateway", `{gateways: [g], hosts: [shop.ns.test], http: [{directResponse: {status: 200}}]}`, ""},
	} {
		legs, err := legsOf(decode(t, route(tc.spec)), "shop.ns.test")
		var names []string
		for _, each := range legs {
			names = append(names, each.Name)
		}
		if err != nil || strings.Join(names, " ") != tc.legs {
			t.Errorf("%s: got %v, %v, want %s", tc.name, names, err, tc.legs)
		}
	}
}

func TestTheRunsOwnRouteLeadsToEachLegAlone(t *testing.T) {
	objs := decode(t, `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  gateways: [g]
  hosts: [shop.ns.test]
  http:
    - headers: {request: {set: {Host: other}}, response: {set: {X-Mllab-Route: mine}}}
      route: [{destination: {host: a, port: {number: 81}}, weight: 30, headers: {response: {set: {X-Mllab-Route: mine}}, request: {remove: [x]}}}, {destination: {host: b, subset: v1}, weight: 70}]
`)
	legs, err := legsOf(objs, "shop.ns.test")
	if err != nil {
		t.Fatal(err)
	}
	made, err := render("userfile/legs.yaml", map[string]any{"Host": "legs.mllab.ns.test", "Legs": legs})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range made { // Istio's validator takes no dot
		if name := o.GetName(); len(validation.IsDNS1123Label(name)) > 0 || name[0] >= 'a' {
			t.Errorf("%s is called %s, which is no label or could be a file's", o.GetKind(), name)
		}
	}
	text := asYAML(made[1])
	contains(t, text, "exact: \"0\"", "number: 81", "remove:", "- x\n", "Host: other", "X-Mllab-Route: \"1\"", "subset: v1")
	if each, err := legOf(map[string]any{"host": "a"}, nil, nil); err != nil || each.Request != "{}" {
		t.Errorf("got %+v, %v", each, err) // Istio takes no null
	}
	if strings.Contains(text, "mine") || strings.Contains(text, "weight") {
		t.Errorf("got %s", text)
	}
}

// shop is a Service of two versions, each a subset, whose Deployments have these
// replicas.
func shop(t *testing.T, v1, v2 int) []*unstructured.Unstructured {
	text := `apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: model}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec: {host: shop.ns.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]}
`
	for version, replicas := range map[string]int{"v1": v1, "v2": v2} {
		text += fmt.Sprintf("---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: model-%[1]s}\nspec: {replicas: %d, template: {metadata: {labels: {app: model, version: %[1]s}}}}\n", version, replicas)
	}
	return decode(t, text)
}

func TestALegsPodsAreThoseOfItsServiceAndSubset(t *testing.T) {
	deleted := decode(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: model-v3}\nspec: {template: {metadata: {labels: {app: model, version: v3}}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: old}\n")
	for _, tc := range []struct {
		leg  string
		gone []*unstructured.Unstructured
		want string
	}{
		{"shop/v1", nil, "app=model,version=v1 pods"},
		{"shop", nil, "app=model pods"},
		{"shop/v2", nil, "app=model,version=v2 gone"}, // no replica
		{"shop/v3", nil, "app=model,version=v3"},
		{"shop/v3", deleted, "app=model,version=v3 gone"},
		{"shop/v1", deleted, "app=model,version=v1 pods"},
		{"other", nil, ""},
		{"old", deleted, " gone"},
	} {
		u := newUserStory(&file.File{}, 0)
		u.gone = tc.gone
		b := u.behind(&Session{Env: &Env{}, writes: writes{applied: shop(t, 1, 0)}}, tc.leg)
		got := b.labels.String()
		if b.pods {
			got += " pods"
		}
		if b.gone {
			got += " gone"
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.leg, got, tc.want)
		}
	}
}

// podOf is a pod of the shop that is ready; one that ends has a finalizer, or the
// fake cluster would not keep it.
func podOf(version, name string, ends bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "model", "version": version}}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if ends {
		now := metav1.Now()
		p.DeletionTimestamp, p.Finalizers = &now, []string{"mllab.local/test"}
	}
	return p
}

func TestALegIsInForceOnceItsOwnPodsThatStayAnswer(t *testing.T) {
	answer := func(pod string) probe.Answer { return probe.Answer{Status: 200, Target: "v2", Pod: pod, Route: "0"} }
	envoys := probe.Answer{Status: 503, Router: true, Route: "0"}
	refused := envoys
	refused.Body = "delayed connect error: Connection refused"
	nearly := slices.Repeat([]probe.Answer{refused}, int(refusedAfter/untilInterval)-1)
	for _, tc := range []struct {
		name    string
		replies []probe.Answer // the last one from then on
		empty   bool
		broken  bool
		pods    []client.Object
		sent    int // 0: never active
	}{
		{name: "it answers", replies: []probe.Answer{answer("new")}, sent: inForceStreak},
		{name: "first the gateway's own 503", replies: []probe.Answer{envoys, envoys, answer("new")}, sent: 2 + inForceStreak},
		{name: "the gateway's own 503 in the midst", replies: []probe.Answer{answer("new"), answer("new"), envoys, answer("new")}, sent: 3 + inForceStreak},
		{name: "an error of the application is its answer", replies: []probe.Answer{{Status: 500, Target: "v2", Pod: "new", Route: "0"}}, sent: inForceStreak},
		{name: "first a pod that ends", replies: []probe.Answer{answer("ends"), answer("new")}, sent: 1 + inForceStreak},
		{name: "first another version's pod", replies: []probe.Answer{answer("other"), answer("new")}, sent: 1 + inForceStreak},
		{name: "first no route", replies: []probe.Answer{{Status: 404, Router: true}, answer("new")}, sent: 1 + inForceStreak},
		{name: "first a former address refuses", replies: []probe.Answer{refused, refused, answer("new")}, sent: 2 + inForceStreak},
		{name: "two former addresses refuse in turn", replies: slices.Concat(nearly, []probe.Answer{envoys}, nearly, []probe.Answer{answer("new")}), sent: 2*len(nearly) + 1 + inForceStreak},
		{name: "no answer", replies: []probe.Answer{{Err: "timeout"}}},
		{name: "the 503 for ever", replies: []probe.Answer{envoys}},
		{name: "empty as it is meant to be", empty: true, replies: []probe.Answer{answer("new"), envoys}, sent: 1 + inForceStreak},
		{name: "empty, and no answer at all", empty: true, replies: []probe.Answer{{Err: "timeout"}}},
		{name: "a broken world has no pod there", broken: true, pods: []client.Object{podOf("v2", "ends", true)}, replies: []probe.Answer{answer("ends"), envoys}, sent: 1 + inForceStreak},
		{name: "a broken world has its pod", broken: true, replies: []probe.Answer{envoys, answer("new")}, sent: 1 + inForceStreak},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &senderFunc{answer: func(sent int) probe.Answer { return tc.replies[min(sent, len(tc.replies))-1] }}
				if tc.pods == nil {
					tc.pods = []client.Object{podOf("v2", "new", false), podOf("v2", "ends", true), podOf("v1", "other", false)}
				}
				l := &Session{Env: &Env{Gateway: "http://gateway/", Domain: "test", Kube: &kube.Client{Client: fake.NewClientBuilder().WithObjects(tc.pods...).Build()}}, Namespace: "ns", Sender: s, writes: writes{applied: shop(t, 1, 1)}}
				u := newUserStory(&file.File{}, 0)
				u.legs, u.broken = []leg{{Name: "shop/v2"}}, tc.broken
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := u.legAnswered(ctx, l, u.legs[0], tc.empty)
				if (err == nil) != (tc.sent > 0) || err == nil && s.sent != tc.sent {
					t.Errorf("active after %d requests, want %d: %v", s.sent, tc.sent, err)
				}
				if err != nil && (!errors.Is(err, context.DeadlineExceeded) || !tc.empty && fault.Hint(err) == "") {
					t.Errorf("got %v, hint %q", err, fault.Hint(err))
				}
				if r := s.last; !r.Fresh || r.Host != "legs.mllab.ns.test" || r.URL != "http://gateway/healthz" || r.Header.Get(legHeader) != "0" {
					t.Errorf("asked by %+v", r)
				}
			})
		})
	}
}

func TestALegThatIsNotAnsweredSaysWhyAndWhatToDo(t *testing.T) {
	refused := "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: delayed connect error: Connection refused"
	container := corev1.Container{Name: "web", Image: "kind.local/app:1"}
	probed := container
	probed.ReadinessProbe = &corev1.Probe{}
	other := container
	other.Image = "nginx"
	for _, tc := range []struct {
		name, body string
		container  corev1.Container
		status     corev1.PodStatus // instead of one that is ready
		none       bool
		says, hint string
		early      bool
	}{
		{name: "no pod", none: true, body: "no healthy upstream", says: "there is no pod", hint: "empty: [shop/v2]"},
		{name: "a crash", container: container, body: "no healthy upstream", says: "pod new is not ready: container web: CrashLoopBackOff after 2 restarts, exit code 7", hint: "--keep",
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "web", RestartCount: 2, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 7}}}}}},
		{name: "a missing ConfigMap", container: container, body: "no healthy upstream", says: `pod new is not ready: container web: CreateContainerConfigError`, hint: "--keep", early: true,
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError"}}}}}},
		{name: "a probe that does not pass", container: probed, body: "no healthy upstream", says: "pod new is not ready: container web: runs, not ready: Readiness probe failed: HTTP probe failed with statuscode: 404", hint: "kubectl -n ns describe pod",
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}},
		{name: "a port that nobody serves, yet", container: container, body: refused, says: "pod new is ready, and refuses connections to the port that Service shop sends to", hint: "targetPort of Service shop"},
		{name: "a port that nobody serves", container: probed, body: refused, says: "refuses connections to the port", hint: "targetPort of Service shop", early: true},
		{name: "another program", container: other, body: "<h1>Welcome</h1>", says: "without the headers of the sample model", hint: "run ${image}"},
		{name: "no endpoint", container: container, body: "no healthy upstream", says: "pod new is ready, and the gateway answers itself: status 503, no healthy upstream", hint: "compare the selector, targetPort"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := podOf("v2", "new", false)
				pod.Spec.Containers = []corev1.Container{tc.container}
				if tc.status.ContainerStatuses != nil {
					pod.Status = tc.status
				}
				cluster := fake.NewClientBuilder()
				if !tc.none {
					about := corev1.ObjectReference{UID: pod.UID, FieldPath: "spec.containers{web}"}
					cluster = cluster.WithObjects(pod, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "new.1"}, InvolvedObject: about, Reason: "Started"},
						&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "new.2"}, InvolvedObject: about, LastTimestamp: metav1.Now(), Reason: "Unhealthy", Message: "Readiness probe failed: HTTP probe failed with statuscode: 404"})
				}
				s := &senderFunc{answer: func(int) probe.Answer { return probe.Answer{Status: 503, Router: true, Route: "0", Body: tc.body} }}
				l := &Session{Env: &Env{Image: "kind.local/app:1", Kube: &kube.Client{Client: cluster.Build()}}, Namespace: "ns", Sender: s, writes: writes{applied: shop(t, 1, 1)}}
				u := newUserStory(&file.File{}, 0)
				u.legs = []leg{{Name: "shop/v2"}}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := u.legAnswered(ctx, l, u.legs[0], false)
				if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(fault.Hint(err), tc.hint) {
					t.Errorf("got %v, hint %q", err, fault.Hint(err))
				}
				if early := ctx.Err() == nil; early != tc.early || early && fault.Code(err) != 3 {
					t.Errorf("early: %v, %v", early, err)
				}
			})
		})
	}
}

// What a step lacks it may have made just now.
func TestAPodThatIsRepairedDuringTheWaitEndsItWell(t *testing.T) {
	const often = 5 * time.Second // the lab's kubelet restarts no less often
	for _, tc := range []struct {
		name, reason string
		crashes      bool // it has before, and does each time that it is restarted
		repaired     time.Duration
		ends         time.Duration // at the earliest, of a pod that is not repaired
	}{
		{name: "a ConfigMap that the step makes", reason: "CreateContainerConfigError", repaired: 30 * time.Second},
		{name: "a ConfigMap that never comes", reason: "CreateContainerConfigError", ends: 40 * time.Second},
		{name: "a dependency that the step makes", reason: "CrashLoopBackOff", repaired: 60 * time.Second},
		{name: "a crash loop that goes on", reason: "CrashLoopBackOff", crashes: true, ends: 60 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, err := kube.New(&rest.Config{Host: "http://127.0.0.1:1"}) // its pods have no log
				if err != nil {
					t.Fatal(err)
				}
				pod := podOf("v2", "new", false)
				ready := pod.Status.Conditions
				waits := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: tc.reason}}
				pod.Status = corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "web", RestartCount: 7, State: waits}}}
				k.Client = fake.NewClientBuilder().WithObjects(pod).Build()
				began := time.Now()
				s := &senderFunc{answer: func(int) probe.Answer {
					passed := time.Since(began)
					repaired := tc.repaired > 0 && passed > tc.repaired
					was := pod.Status.DeepCopy()
					pod.Status.Conditions = nil
					if repaired || tc.crashes && passed%often < time.Second { // without a readiness probe it is ready between two crashes
						pod.Status.Conditions = ready
					}
					if tc.crashes {
						pod.Status.ContainerStatuses[0].RestartCount = 7 + int32(passed/often)
					}
					if !reflect.DeepEqual(*was, pod.Status) {
						if err := k.Status().Update(t.Context(), pod); err != nil {
							t.Error(err)
						}
					}
					if repaired {
						return probe.Answer{Status: 200, Target: "v2", Pod: "new", Route: "0"}
					}
					return probe.Answer{Status: 503, Router: true, Route: "0", Body: "no healthy upstream"}
				}}
				l := &Session{Env: &Env{Image: "kind.local/app:1", Kube: k}, Namespace: "ns", Sender: s, writes: writes{applied: shop(t, 1, 1)}}
				u := newUserStory(&file.File{}, 0)
				u.legs = []leg{{Name: "shop/v2"}}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				err = u.legAnswered(ctx, l, u.legs[0], false)
				if passed := time.Since(began); tc.ends == 0 && err != nil || tc.ends > 0 && (fault.Code(err) != 3 || ctx.Err() != nil || passed < tc.ends) {
					t.Errorf("after %s: %v", passed, err)
				}
			})
		})
	}
}

func TestALegWithoutAnyDeploymentMustBeSaidToBeEmpty(t *testing.T) {
	u, g := newUserStory(&file.File{}, 0), leg{Name: "shop/v3"}
	u.legs = []leg{g}
	err := u.legAnswered(t.Context(), &Session{Env: &Env{}, writes: writes{applied: shop(t, 1, 1)}}, g, false)
	if fault.Code(err) != 3 || !strings.Contains(err.Error(), "app=model,version=v3") || !strings.Contains(fault.Hint(err), "empty: [shop/v3]") {
		t.Errorf("got %v, hint %q", err, fault.Hint(err))
	}
}

func TestOnlyWhatARunHasMadeIsRemovedByIt(t *testing.T) {
	addons := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mllab-sample", Labels: map[string]string{managedLabel: managedBy}}}
	others := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mllab-a-b", Labels: map[string]string{managedLabel: managedBy, scenarioLabel: "a", runLabel: "1"}}}
	c := &kube.Client{Client: fake.NewClientBuilder().WithObjects(addons, others).Build()}
	for _, tc := range []struct{ scenario, says string }{
		{"sample", "namespace mllab-sample must have label mllab.local/scenario=sample"},
		{"a-b", `namespace mllab-a-b must have label mllab.local/scenario=a-b to be removed, got "a"`},
	} {
		l := &Session{Env: &Env{Kube: c}, Namespace: Namespace(tc.scenario), job: Job{Scenario: Scenario{Name: tc.scenario}}}
		if err := l.freshNamespace(t.Context()); fault.Code(err) != 3 || !strings.Contains(err.Error(), tc.says) || l.runID != "" {
			t.Errorf("%s: got %v", tc.scenario, err)
		}
		if removed, err := Reset(t.Context(), c, tc.scenario, nil); err != nil || len(removed) > 0 {
			t.Errorf("%s: reset removed %q, %v", tc.scenario, removed, err)
		}
	}
	// What another scenario keeps is no more this one's.
	others.Annotations = map[string]string{keptFor: managedBy}
	if err := c.Update(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	l := &Session{Env: &Env{Kube: c}, Namespace: "mllab-a-b", job: Job{Scenario: Scenario{Name: "a-b", File: "/a-b.yaml"}}}
	if err := errors.Join(l.keptByOthers(t.Context()), l.freshNamespace(t.Context())); fault.Code(err) != 3 || strings.Contains(err.Error(), "--keep") || !strings.Contains(fault.Hint(err), "remove it, or") {
		t.Errorf("got %v, hint %q", err, fault.Hint(err))
	}
	// Somebody else has made the namespace again while the run was there.
	l = &Session{Env: &Env{Kube: c}, Namespace: "mllab-a-b", leftovers: leftovers{runID: "2"}}
	if err := l.cleanUp(t.Context()); fault.Code(err) != 3 {
		t.Errorf("got %v", err)
	}
	for _, o := range []client.Object{addons, others} {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Errorf("it is gone: %v", err)
		}
	}
}

func TestAKeptNamespaceSaysForWhomAndStays(t *testing.T) {
	mapper := meta.NewDefaultRESTMapper(nil) // what no API has need not be deleted
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	for file, want := range map[string]string{"/a/shop.yaml": "/a/shop.yaml", "": managedBy} {
		l := &Session{Env: &Env{Kube: &kube.Client{Client: fake.NewClientBuilder().WithRESTMapper(mapper).Build()}}, Namespace: "mllab-shop", leftovers: leftovers{keepNamespace: true}, job: Job{Scenario: Scenario{Name: "shop", File: file}}}
		err := errors.Join(l.freshNamespace(t.Context()), l.cleanUp(t.Context()))
		var ns corev1.Namespace
		if err := errors.Join(err, l.Kube.Get(t.Context(), client.ObjectKey{Name: "mllab-shop"}, &ns)); err != nil || ns.Annotations[keptFor] != want {
			t.Errorf("%q: kept for %q, %v", file, ns.Annotations[keptFor], err)
		}
	}
}

// What --keep has kept, only its own file replaces: also its evidence stays.
func TestAnotherFileOfTheSameNameDoesNotReplaceWhatIsKept(t *testing.T) {
	for _, tc := range []struct {
		kept, file string
		refused    bool
	}{
		{"/a/shop.yaml", "/b/shop.yaml", true},
		{"/a/shop.yaml", "/a/shop.yaml", false},
		{"", "/b/shop.yaml", false}, // a killed run left it
		{managedBy, "", false},
	} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mllab-shop", Labels: map[string]string{scenarioLabel: "shop"}, Annotations: map[string]string{keptFor: tc.kept}}}
		env := &Env{Kube: &kube.Client{Client: fake.NewClientBuilder().WithObjects(ns).Build()}, Evidence: t.TempDir()}
		events := filepath.Join(env.Evidence, "shop", EventsFile)
		if err := errors.Join(os.Mkdir(filepath.Dir(events), 0o700), os.WriteFile(events, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		failed := errors.New("it goes on")
		s := Scenario{Name: "shop", File: tc.file, New: func(Options) (*Plan, error) { return nil, failed }}
		_, err := Job{Scenario: s}.run(t.Context(), env, newCPUMeter(nil), false, func() {})
		if tc.refused != (fault.Code(err) == 3) || tc.refused && (!strings.Contains(err.Error(), "a run of /a/shop.yaml with --keep keeps namespace mllab-shop") || !strings.Contains(fault.Hint(err), "mllab scenario reset shop")) {
			t.Errorf("%+v: got %v, hint %q", tc, err, fault.Hint(err))
		}
		if text, err := os.ReadFile(events); tc.refused && (err != nil || len(text) > 0) || !tc.refused && len(text) == 0 {
			t.Errorf("%+v: evidence is %q, %v", tc, text, err)
		}
	}
}
