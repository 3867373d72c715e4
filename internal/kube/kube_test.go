package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"mllab.local/internal/fault"
)

func decode(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	objs, err := Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

func TestConnectToAClusterThatWasNeverMadeNamesTheCommandThatMakesIt(t *testing.T) {
	_, err := Connect(filepath.Join(t.TempDir(), "kubeconfig"), "kind-mllab")
	if fault.Code(err) != 3 || fault.Hint(err) != "mllab up" {
		t.Errorf("code %d, hint %q, error %v; want code 3 and the hint mllab up", fault.Code(err), fault.Hint(err), err)
	}
}

// Programs such as `kind create cluster` add another cluster to the file that KUBECONFIG names, and make it the current one.
func TestConnectIsToTheLabWhicheverContextIsCurrent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(`apiVersion: v1
kind: Config
current-context: prod
clusters:
- {name: kind-lab, cluster: {server: "https://127.0.0.1:1"}}
- {name: prod, cluster: {server: "https://prod.example.com"}}
contexts:
- {name: kind-lab, context: {cluster: kind-lab, user: kind-lab}}
- {name: prod, context: {cluster: prod, user: prod}}
users:
- {name: kind-lab, user: {token: a}}
- {name: prod, user: {token: b}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(file, "kind-lab")
	if err != nil || c.config.Host != "https://127.0.0.1:1" || c.config.BearerToken != "a" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Connect(file, "kind-other"); err == nil || !strings.Contains(err.Error(), "kind-other") {
		t.Errorf("a context that is not there: %v", err)
	}
}

func TestDecodeReadsEveryDocumentInOrder(t *testing.T) {
	objs := decode(t, `# only a comment
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: x}
data: {text: "--- not a separator"}
---
---
apiVersion: v1
kind: Namespace
metadata: {name: b}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: c, namespace: x}, spec: {replicas: 2}}
---
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"x"},"spec":{"replicas":2}}
`)
	var names []string
	for _, obj := range objs {
		names = append(names, Name(obj))
	}
	if got, want := strings.Join(names, " "), "ConfigMap/x/a Namespace/b Deployment/x/c Deployment/x/d"; got != want {
		t.Errorf("decoded %s, want %s", got, want)
	}
	for _, obj := range objs[2:] {
		if n, _, err := unstructured.NestedInt64(obj.Object, "spec", "replicas"); n != 2 || err != nil {
			t.Errorf("%s: replicas are %d (%v), want the integer 2", Name(obj), n, err)
		}
	}
}

func TestDecodeRefusesWhatIsNoObjectAndSaysWhere(t *testing.T) {
	good := "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n"
	for name, bad := range map[string]string{
		"no kind":                "apiVersion: v1\nmetadata: {name: a}",
		"no name":                "apiVersion: v1\nkind: Namespace",
		"a list":                 "apiVersion: v1\nkind: List\nitems: []",
		"no version":             "kind: Namespace\nmetadata: {name: a}",
		"a key that comes twice": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {}\ndata: {}",
		"not YAML":               "a: [",
		"the same in JSON":       `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{},"data":{}}`,
		"JSON without a kind":    `{"apiVersion":"v1","metadata":{"name":"a"}}`,
		"JSON cut short":         `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}`,
	} {
		if _, err := Decode([]byte(good + bad)); err == nil || !strings.Contains(err.Error(), "document 2") {
			t.Errorf("%s: error %v, want one about document 2", name, err)
		}
	}
}

func TestNameOfATypedObjectHasItsKind(t *testing.T) {
	if got := Name(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "a"}}); got != "Pod/x/a" {
		t.Errorf("got %s, want Pod/x/a", got)
	}
}

func TestHealthKnowsWhatEachKindPromises(t *testing.T) {
	const deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, generation: 2}\nspec: {replicas: 1}\n"
	const service = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a, generation: 2}\n"
	const gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a, generation: 2}\n"
	for _, c := range []struct {
		name, object string
		ready        bool
		failed       bool
		why          string
	}{
		{"a ConfigMap is ready when it exists", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", true, false, ""},
		{"a namespace that ends is not", "{apiVersion: v1, kind: Namespace, metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z'}}", false, false, "being deleted"},
		{"a Deployment nobody has seen is not", deployment, false, false, "0/1 ready"},
		{"a Deployment of an older generation is not", deployment + "status: {observedGeneration: 1, replicas: 1, readyReplicas: 1, availableReplicas: 1, updatedReplicas: 1, conditions: [{type: Available, status: 'True'}]}", false, false, "its controller has not seen the newest spec yet"},
		{"a Deployment with all replicas is", deployment + "status: {observedGeneration: 2, replicas: 1, readyReplicas: 1, availableReplicas: 1, updatedReplicas: 1, conditions: [{type: Available, status: 'True'}, {type: Progressing, status: 'True', reason: NewReplicaSetAvailable}]}", true, false, ""},
		{"a Deployment in a rollout says what is left", deployment + "status: {observedGeneration: 2, replicas: 2, readyReplicas: 1, availableReplicas: 1, updatedReplicas: 1}", false, false, "1/1 ready, Pending termination: 1"},
		{"a Deployment past its own deadline may still recover", deployment + "status: {observedGeneration: 2, conditions: [{type: Progressing, status: 'False', reason: ProgressDeadlineExceeded}]}", false, false, "0/1 ready"},
		{"a Deployment that may not make pods says why", deployment + "status: {observedGeneration: 2, conditions: [{type: ReplicaFailure, status: 'True', message: exceeded quota}]}", false, false, "0/1 ready, exceeded quota"},
		{"a DaemonSet counts nodes", "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 1}, status: {observedGeneration: 1, desiredNumberScheduled: 3, currentNumberScheduled: 3, updatedNumberScheduled: 3, numberReady: 2}}", false, false, "2/3 ready"},
		{"a Job that runs is not", "{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {startTime: '2026-01-01T00:00:00Z', active: 1}}", false, false, "not Complete yet"},
		{"a Job that is complete is", "{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {conditions: [{type: Complete, status: 'True'}]}}", true, false, ""},
		{"a Job that failed has failed", "{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {failed: 1, conditions: [{type: Failed, status: 'True'}]}}", false, true, "Job Failed. failed: 1/1"},
		{"a Pod that failed has failed", "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {phase: Failed}}", false, true, "failed"},
		{"a Knative Service nobody has seen is not", service, false, false, "not Ready yet"},
		{"a Knative Service of an older generation is not", service + "status: {observedGeneration: 1, conditions: [{type: Ready, status: 'True'}]}", false, false, "its controller has not seen the newest spec yet"},
		{"a Knative Service whose Configuration is of an older generation is not", service + "status: {observedGeneration: 2, conditions: [{type: ConfigurationsReady, status: Unknown, reason: OutOfDate, message: x}, {type: Ready, status: Unknown, reason: OutOfDate, message: x}]}", false, false, "its controller has not seen the newest spec yet"},
		{"a Knative Service that is Ready is", service + "status: {observedGeneration: 2, conditions: [{type: Ready, status: 'True'}]}", true, false, ""},
		{"a Knative Service that is not Ready says why", service + "status: {observedGeneration: 2, conditions: [{type: Ready, status: 'False', reason: RevisionFailed, message: no image}]}", false, false, "no image"},
		{"a Knative Service that is not Ready and does not say why is not", service + "status: {observedGeneration: 2, conditions: [{type: Ready, status: Unknown}]}", false, false, "not ready, and it does not say why"},
		{"a core Service is no Knative Service", "{apiVersion: v1, kind: Service, metadata: {name: a}}", true, false, ""},
		{"a Gateway that is only Accepted is not", gateway + "status: {conditions: [{type: Accepted, status: 'True', observedGeneration: 2}]}", false, false, "not Programmed yet"},
		{"a Gateway programmed before its last change is not", gateway + "status: {conditions: [{type: Programmed, status: 'True', observedGeneration: 1}]}", false, false, "Programmed is of an older generation"},
		{"a Gateway that is Programmed is", gateway + "status: {conditions: [{type: Programmed, status: 'True', observedGeneration: 2}]}", true, false, ""},
		{"a Gateway that cannot be programmed says why", gateway + "status: {conditions: [{type: Programmed, status: 'False', reason: AddressNotAssigned, message: no service, observedGeneration: 2}]}", false, false, "not Programmed: AddressNotAssigned: no service"},
		{"an APIService nobody serves is not", "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: a}, status: {conditions: [{type: Available, status: 'False', reason: MissingEndpoints}]}}", false, false, "not Available: MissingEndpoints"},
		{"a Flux Kustomization nobody has seen is not", "{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: a, generation: 1}}", false, false, "not Ready yet"},
		{"a Flux object that is stalled has failed", "{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: a}, status: {conditions: [{type: Stalled, status: 'True', message: bad URL}]}}", false, true, "bad URL"},
		{"a CRD whose names are taken has failed", "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, status: {conditions: [{type: NamesAccepted, status: 'False', message: taken}]}}", false, true, "taken"},
	} {
		if h := healthOf(decode(t, c.object)[0]); h.ready != c.ready || h.failed != c.failed || h.why != c.why {
			t.Errorf("%s: ready %t, failed %t, why %q; want %t, %t, %q", c.name, h.ready, h.failed, h.why, c.ready, c.failed, c.why)
		}
	}
}

func waiting(reason, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "app", Image: "ghcr.io/app:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

func ended(code int32, reason string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}
}

func TestDiagnosisTellsWhatTimeMendsFromWhatItDoesNot(t *testing.T) {
	crash := func(restarts int32) corev1.ContainerStatus {
		c := waiting("CrashLoopBackOff", "back-off 40s")
		c.RestartCount, c.LastTerminationState = restarts, ended(2, "Error")
		return c
	}
	running := corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	wellAgain, oomAgain := running, running
	wellAgain.Ready, wellAgain.LastTerminationState = true, ended(137, "OOMKilled")
	oomAgain.LastTerminationState = ended(137, "OOMKilled")
	pulling := &corev1.Event{Reason: "Pulling", Message: `Pulling image "kind.local/app:1"`, InvolvedObject: corev1.ObjectReference{FieldPath: "spec.containers{app}"}}
	local := waiting("ErrImagePull", "no such host")
	local.Image = "kind.local/app:1"
	const noProgram = `runc: exec: "serve": executable file not found in $PATH`
	lacking := func(c corev1.ContainerStatus, restarts int32, reason string) corev1.ContainerStatus {
		c.RestartCount, c.LastTerminationState = restarts, ended(128, reason)
		c.LastTerminationState.Terminated.Message = noProgram
		return c
	}
	lastSaid, ownWords, neverRan := crash(0), crash(2), crash(2)
	lastSaid.State, ownWords.State, neverRan.State = ended(3, "Error"), ended(1, "Error"), ended(128, "StartError")
	lastSaid.State.Terminated.Message, ownWords.State.Terminated.Message, neverRan.State.Terminated.Message = "no model at /models/1\nbye", noProgram, noProgram
	toRun := waiting("RunContainerError", noProgram)
	noVolume := &corev1.Event{Reason: "FailedMount", Type: corev1.EventTypeWarning, Message: "secret \"certs\" not found\nmore"}
	for _, c := range []struct {
		name      string
		container corev1.ContainerStatus
		last      *corev1.Event
		final     bool
		text      string
		log       string // "", "now" or "before"
	}{
		{"an image that does not exist", waiting("ImagePullBackOff", "manifest unknown"), nil, true, "container app: cannot pull ghcr.io/app:1: ImagePullBackOff: manifest unknown", ""},
		{"an image nobody may pull", waiting("ErrImagePull", "pull access denied, repository does not exist"), nil, true, "container app: cannot pull ghcr.io/app:1: ErrImagePull: pull access denied, repository does not exist", ""},
		{"a registry that times out", waiting("ErrImagePull", "i/o timeout"), nil, false, "container app: cannot pull ghcr.io/app:1: ErrImagePull: i/o timeout", ""},
		{"a back-off that does not say of what", waiting("ImagePullBackOff", `Back-off pulling image "a"`), nil, false, `container app: cannot pull ghcr.io/app:1: ImagePullBackOff: Back-off pulling image "a"`, ""},
		{"an image that only the node could have", local, nil, true, "container app: cannot pull kind.local/app:1: ErrImagePull: no such host", ""},
		{"an image that was never loaded", waiting("ErrImageNeverPull", "not present"), nil, true, "container app: ErrImageNeverPull: not present", ""},
		{"an invalid image name", waiting("InvalidImageName", "bad"), nil, true, "container app: InvalidImageName: bad", ""},
		{"a missing ConfigMap", waiting("CreateContainerConfigError", `configmap "a" not found`), nil, true, `container app: CreateContainerConfigError: configmap "a" not found`, ""},
		{"the fifth crash", crash(5), nil, true, "container app: CrashLoopBackOff after 5 restarts, exit code 2", "before"},
		{"the fourth crash", crash(4), nil, false, "container app: CrashLoopBackOff after 4 restarts, exit code 2", "before"},
		{"a command that the image lacks", lacking(crash(0), 2, "StartError"), nil, true, "container app: CrashLoopBackOff after 2 restarts, exit code 128: " + noProgram, "before"},
		{"one that a sidecar may yet bring", lacking(crash(0), 1, "StartError"), nil, false, "container app: CrashLoopBackOff after 1 restarts, exit code 128: " + noProgram, "before"},
		{"an application's own words of another program", lacking(crash(0), 2, "Error"), nil, false, "container app: CrashLoopBackOff after 2 restarts, exit code 128: " + noProgram, "before"},
		{"the third start", lacking(toRun, 2, "StartError"), nil, true, "container app: RunContainerError: " + noProgram, ""},
		{"the first start", toRun, nil, false, "container app: RunContainerError: " + noProgram, ""},
		{"the third start has just failed", neverRan, nil, true, "container app: ended with exit code 128: " + noProgram, "now"},
		{"an application's own last words of another program", ownWords, nil, false, "container app: ended with exit code 1: " + noProgram, "now"},
		{"a start that may do better", waiting("RunContainerError", "context deadline exceeded"), nil, false, "container app: RunContainerError: context deadline exceeded", ""},
		{"last words", lastSaid, nil, false, "container app: ended with exit code 3: no model at /models/1", "now"},
		{"out of memory just now", corev1.ContainerStatus{Name: "app", State: ended(137, "OOMKilled")}, nil, true, "container app: OOMKilled: it needs more memory than its limit", "now"},
		{"out of memory before this start", oomAgain, nil, true, "container app: OOMKilled: it needs more memory than its limit", "before"},
		{"out of memory once, well now", wellAgain, nil, false, "", ""},
		{"a container that ended badly once", corev1.ContainerStatus{Name: "app", State: ended(1, "Error")}, nil, false, "container app: ended with exit code 1", "now"},
		{"a container that ended well", corev1.ContainerStatus{Name: "app", State: ended(0, "Completed")}, nil, false, "", ""},
		{"a pull", waiting("ContainerCreating", ""), pulling, false, "container app: pulling kind.local/app:1", ""},
		{"a pull for another container", corev1.ContainerStatus{Name: "proxy", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}, pulling, false, "container proxy: starting", ""},
		{"a volume that cannot be mounted", waiting("ContainerCreating", ""), noVolume, false, `container app: starting: FailedMount: secret "certs" not found`, ""},
		{"a container that is not ready", running, nil, false, "container app: runs, not ready", "now"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{c.container}}}
		got := diagnose(pod, c.last, time.Now(), nil)
		log := ""
		if got.container != "" {
			log = map[bool]string{true: "before", false: "now"}[got.previous]
		}
		if got.final != c.final || got.text != c.text || log != c.log {
			t.Errorf("%s: final %t, %q, log %q; want %t, %q, %q", c.name, got.final, got.text, log, c.final, c.text, c.log)
		}
	}
}

func TestDiagnosisNamesTheContainerThatHoldsThePod(t *testing.T) {
	yes, no := true, false
	ready := corev1.ContainerStatus{Name: "ready", Ready: true, Started: &yes, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	sidecar := corev1.ContainerStatus{Name: "sidecar", Started: &yes, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	initial := corev1.ContainerStatus{Name: "initial", Started: &no, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	neverRan := corev1.ContainerStatus{Name: "app", State: ended(128, "StartError")}
	neverRan.State.Terminated.Message = `exec: "serve"`
	for _, c := range []struct {
		name   string
		status corev1.PodStatus
		want   string
	}{
		{"a ready one is passed over", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{ready, waiting("ContainerCreating", "")}}, "container app: starting"},
		{"a final one comes before a slow one", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "slow", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, waiting("ErrImageNeverPull", "")}}, "container app: ErrImageNeverPull"},
		{"an init container comes before what it holds up", corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{initial}, ContainerStatuses: []corev1.ContainerStatus{waiting("PodInitializing", "")}}, "container initial: runs, not ready"},
		{"a sidecar that has started holds nothing up", corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{sidecar}, ContainerStatuses: []corev1.ContainerStatus{waiting("ContainerCreating", "")}}, "container app: starting"},
		{"one that nobody starts again", corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{Name: "slow", State: ended(1, "Error")}, neverRan}}, "container app: ended with exit code 128: exec: \"serve\""},
		{"an evicted pod", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "node is low on memory"}, "Evicted node is low on memory"},
	} {
		if got := diagnose(&corev1.Pod{Status: c.status}, nil, time.Now(), nil); got.text != c.want {
			t.Errorf("%s: %q, want %q", c.name, got.text, c.want)
		}
	}
}

func TestAPodThatNoNodeTakesIsFinalOnlyAfterAWhile(t *testing.T) {
	now := time.Now()
	pod := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, LastTransitionTime: metav1.NewTime(now), Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "Insufficient cpu"}}}}
	for waited, want := range map[time.Duration]bool{19 * time.Second: false, 21 * time.Second: true} {
		if got := diagnose(pod, nil, now.Add(waited), nil); got.final != want || got.text != "unschedulable: Insufficient cpu" {
			t.Errorf("after %s: final %t, %q; want %t", waited, got.final, got.text, want)
		}
	}
}

func TestOnlyCrashesUnderOnesEyesAreFinal(t *testing.T) {
	pod := func(restarts int32) *corev1.Pod {
		c := waiting("CrashLoopBackOff", "back-off 1s")
		c.RestartCount = restarts
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{c}}}
	}
	seen := seenPods(t)
	for _, c := range []struct {
		restarts int32
		final    bool
	}{{7, false}, {11, false}, {12, true}} {
		if got := diagnose(pod(c.restarts), nil, time.Now(), seen.before.of(pod(c.restarts)).restarts); got.final != c.final {
			t.Errorf("after %d restarts: final %t", c.restarts, got.final)
		}
	}
}

// seenPods is a view of pods, given as "name label=value".
func seenPods(t *testing.T, names ...string) *snapshot {
	t.Helper()
	v := &snapshot{known: map[source]map[string]*unstructured.Unstructured{}, failed: map[source]error{}, before: Before{}}
	for i, name := range names {
		name, labels, _ := strings.Cut(name, " ")
		text := fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: x, creationTimestamp: '2026-01-01T00:00:0%dZ', labels: {%s}}}", name, i, strings.Replace(labels, "=", ": ", 1))
		n := watchUpdate{from: podsIn("x"), objects: decode(t, text), all: i == 0}
		v.take(n)
	}
	return v
}

func TestAWorkloadIsJudgedByThePodsOfItsNewestTemplate(t *testing.T) {
	const revision = "serving.knative.dev/revision="
	for _, c := range []struct {
		name, object string
		seen         *snapshot
		want         string
	}{
		{"a Deployment's by its selector, newest first", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: x}, spec: {selector: {matchLabels: {app: a}}}}", seenPods(t, "one app=a", "other app=b", "two app=a"), "two one"},
		{"a Pod's by its name", "{apiVersion: v1, kind: Pod, metadata: {name: one, namespace: x}}", seenPods(t, "one", "two"), "one"},
		{"a StatefulSet's of the new revision", "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a, namespace: x}, spec: {selector: {}}, status: {updateRevision: v2}}", seenPods(t, "old controller-revision-hash=v1", "new controller-revision-hash=v2"), "new"},
		{"a Knative Service's of the revision made last", "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a, namespace: x}, status: {latestCreatedRevisionName: a-2}}", seenPods(t, "old "+revision+"a-1", "new "+revision+"a-2"), "new"},
		{"a Knative Service's before its first revision", "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a, namespace: x}}", seenPods(t, "old "+revision+"a-1"), ""},
	} {
		live := decode(t, c.object)[0]
		var got []string
		for _, pod := range c.seen.podsOf(live) {
			if c.seen.current(live, pod) {
				got = append(got, pod.Name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestPodsThatAreAboutToGoDoNotFailTheirWorkload(t *testing.T) {
	for _, c := range []struct {
		name, seen, deleted string
		fails               bool
	}{
		{"a pod of the newest spec", "2", "", true},
		{"a pod of a spec that its controller has yet to replace", "1", "", false},
		{"a pod that is being deleted", "2", "deletionTimestamp: '2026-01-01T00:00:00Z'", false},
	} {
		live := decode(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: x, generation: 2}, spec: {selector: {}}, status: {observedGeneration: "+c.seen+"}}")[0]
		pod := decode(t, "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: x, "+c.deleted+"}, status: {containerStatuses: [{name: app, state: {waiting: {reason: ErrImageNeverPull}}}]}}")
		v := &snapshot{known: map[source]map[string]*unstructured.Unstructured{}, failed: map[source]error{}, before: Before{}}
		v.take(watchUpdate{from: podsIn("x"), all: true, objects: pod})
		if why, err := (&Client{}).pending(t.Context(), v, live, live); (err != nil) != c.fails || why == "" {
			t.Errorf("%s: %q, error %v; want one: %t", c.name, why, err, c.fails)
		}
	}
}

func TestOnlyRefusalsOfAStartingClusterAreRepeated(t *testing.T) {
	gr := schema.GroupResource{Group: "serving.knative.dev", Resource: "services"}
	noKind := &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "x", Kind: "Y"}}
	for _, c := range []struct {
		err   error
		fresh bool
		want  bool
	}{
		{apierrors.NewInternalError(errors.New(`failed calling webhook "webhook.serving.knative.dev": dial tcp: connect: connection refused`)), false, true},
		{apierrors.NewInternalError(errors.New(`failed calling webhook "a": no endpoints available for service "webhook"`)), false, true},
		{apierrors.NewInternalError(errors.New("conversion webhook for x/v1, Kind=Y failed")), false, true},
		{apierrors.NewInternalError(errors.New(`failed to allocate a serviceIP for Service "istiod": range is full`)), false, true},
		{apierrors.NewTooManyRequests("slow down", 1), false, true},
		{noKind, true, true},
		{noKind, false, false},
		{apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "absent"), true, false},
		{apierrors.NewForbidden(gr, "a", errors.New("no")), false, false},
		{apierrors.NewBadRequest(`admission webhook "validation" denied the request: bad image`), false, false},
		{apierrors.NewInvalid(schema.GroupKind{Kind: "Job"}, "a", nil), false, false},
	} {
		if got := isTransient(fmt.Errorf("Kind/x/y dry-run failed: %w", c.err), c.fresh); got != c.want {
			t.Errorf("%v (fresh %t): repeated %t, want %t", c.err, c.fresh, got, c.want)
		}
	}
}

func TestARefusalThatLastsIsStillThereWhenTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		obj := decode(t, "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a, namespace: x}}")[0]
		calls := 0
		err := retry(ctx, obj, false, func() error {
			if calls++; calls > 1 { // a call under way when time is up
				<-ctx.Done()
				return ctx.Err()
			}
			return apierrors.NewInternalError(errors.New("failed calling webhook: connection refused"))
		})
		const want = "Service/x/a: timeout after 2s (last: Internal error occurred: failed calling webhook: connection refused)"
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != want || calls < 2 {
			t.Errorf("after %d calls: %v, want %s", calls, err, want)
		}
		stop, cancelled := context.WithCancel(t.Context())
		cancelled()
		err = retry(stop, obj, false, func() error { return errors.New("failed calling webhook") })
		if fault.Code(err) != 130 {
			t.Errorf("interrupted: exit code %d of %v, want 130", fault.Code(err), err)
		}
	})
}

func TestFieldsOfAWebhookAreLeftToWhoWroteThemButNotToFlux(t *testing.T) {
	for manager, stays := range map[string]bool{"webhook": false, owner: true, fluxOwner: true} {
		hook := map[string]any{"name": "a.b.c", "rules": []any{"r"}, "failurePolicy": "Fail"}
		obj := &unstructured.Unstructured{Object: map[string]any{"webhooks": []any{hook}}}
		live := &unstructured.Unstructured{}
		live.SetManagedFields([]metav1.ManagedFieldsEntry{{
			Manager: manager, FieldsV1: metav1.NewFieldsV1(`{"f:webhooks":{"k:{\"name\":\"a.b.c\"}":{"f:rules":{}}}}`),
		}})
		if err := dropForeignFields(obj, live); err != nil {
			t.Fatal(err)
		}
		hooks, _, _ := unstructured.NestedSlice(obj.Object, "webhooks")
		left := hooks[0].(map[string]any)
		if _, rules := left["rules"]; rules != stays || left["failurePolicy"] != "Fail" || left["name"] != "a.b.c" {
			t.Errorf("rules written by %s: left are %v", manager, left)
		}
	}
}

func TestInventoryReadsWhatFluxWrites(t *testing.T) {
	entry := func(id, version string) any { return map[string]any{"id": id, "v": version} }
	k := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"inventory": map[string]any{"entries": []any{
		entry("istio-system_istiod_apps_Deployment", "v1"), entry("_git__Namespace", "v1"), entry("_a__b_rbac.authorization.k8s.io_ClusterRole", "v1"),
	}}}}}
	objs, err := Inventory(k)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objs {
		got = append(got, o.GetAPIVersion()+" "+Name(o))
	}
	if want := []string{"apps/v1 Deployment/istio-system/istiod", "v1 Namespace/git", "rbac.authorization.k8s.io/v1 ClusterRole/a:b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if objs, err := Inventory(&unstructured.Unstructured{Object: map[string]any{}}); err != nil || len(objs) > 0 {
		t.Errorf("a new one holds %v, %v", objs, err)
	}
	if _, err := Inventory(&unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"inventory": map[string]any{"entries": []any{entry("x", "v1")}}}}}); err == nil {
		t.Error("what cannot be read is nothing")
	}
}

func TestConditionsAreReadAsTheyAre(t *testing.T) {
	objs, err := Decode([]byte(`{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {conditions: [
		{type: A, status: "True", observedGeneration: 0}, odd, {type: B, status: "False", reason: R, message: M}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Condition{{Type: "A", Status: "True"}, {Of: -1}, {Type: "B", Status: "False", Reason: "R", Message: "M", Of: -1}}
	if got := Conditions(objs[0]); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if c, ok := ConditionOf(objs[0], "A"); !ok || !c.True() {
		t.Errorf("%+v, %v", c, ok)
	}
	if c, ok := ConditionOf(objs[0], "C"); ok {
		t.Errorf("there is no condition C: %+v", c)
	}
}
