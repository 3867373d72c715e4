package addons

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// pythonRuntime is the training runtime that the lab brings: one or more
// workers with Python and scikit-learn.
const pythonRuntime = "python"

// parts are the addons that kubeflow needs, and itself.
func parts() []Addon {
	return []Addon{jobset(), trainer(), kserve(), argo(), labRegistry(), kubeflow()}
}

func TestKubeflowIsItsPartsAndWhatTheyStandOn(t *testing.T) {
	list, err := Select("kubeflow")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range list {
		got = append(got, a.Name)
	}
	slices.Sort(got)
	want := []string{"argo-workflows", "gateway-api", "istio", "jobset", "knative", "kserve", "kubeflow", "network", "registry", "trainer"}
	if !slices.Equal(got, want) {
		t.Errorf("kubeflow is %v, want %v", got, want)
	}
}

// containers are those of a Deployment.
func containers(o *unstructured.Unstructured) []map[string]any {
	var all []map[string]any
	list, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	for _, c := range list {
		all = append(all, c.(map[string]any))
	}
	return all
}

// docs/kubeflow.md and docs/progressive.md have these figures.
func TestTheControllersOfKubeflowAndFlaggerRequestLittle(t *testing.T) {
	for _, c := range []struct {
		addons      []Addon
		cpu, memory string
	}{
		{parts(), "95m", "304Mi"},
		{[]Addon{prometheus(), alertmanager(), flagger(), progressive()}, "50m", "192Mi"},
	} {
		var cpu, memory resource.Quantity
		for _, a := range c.addons {
			for _, o := range render(t, a) {
				if o.GetKind() != "Deployment" {
					continue
				}
				for _, c := range containers(o) {
					requests, _, _ := unstructured.NestedStringMap(c, "resources", "requests")
					limits, _, _ := unstructured.NestedStringMap(c, "resources", "limits")
					cpu.Add(resource.MustParse(requests["cpu"]))
					memory.Add(resource.MustParse(requests["memory"]))
					if limits["cpu"] != "" || limits["memory"] == "" {
						t.Errorf("%s: its limits are %v", kube.Name(o), limits)
					}
				}
			}
		}
		if cpu.String() != c.cpu || memory.String() != c.memory {
			t.Errorf("%s and others request %s CPU and %s together", c.addons[0].Name, cpu.String(), memory.String())
		}
	}
}

func TestAloneNoControllerWaitsForALease(t *testing.T) {
	for _, a := range parts() {
		for _, o := range render(t, a) {
			if o.GetKind() == "CustomResourceDefinition" {
				continue // schemas only
			}
			walk("", o.Object, func(_, s string) {
				if strings.Contains(s, "leaderElect: true") || strings.Contains(s, "--leader-elect") {
					t.Errorf("%s: %s", kube.Name(o), s)
				}
			})
			if strategy, _, _ := unstructured.NestedString(o.Object, "spec", "strategy", "type"); o.GetKind() == "Deployment" && strategy != "Recreate" {
				t.Errorf("%s may run twice for a moment", kube.Name(o))
			}
		}
	}
	for name, objs := range map[string][]*unstructured.Unstructured{
		"ConfigMap/jobset-system/jobset-manager-config":     render(t, jobset()),
		"ConfigMap/kubeflow-system/kubeflow-trainer-config": render(t, trainer()),
	} {
		text, _, _ := unstructured.NestedString(find(t, objs, name).Object, "data", "controller_manager_config.yaml")
		if !strings.Contains(text, "leaderElect: false") {
			t.Errorf("%s is\n%s", name, text)
		}
	}
	env := map[string]any{}
	for _, e := range containers(find(t, render(t, argo()), "Deployment/argo/workflow-controller"))[0]["env"].([]any) {
		e := e.(map[string]any)
		env[e["name"].(string)] = e["value"]
	}
	if env["LEADER_ELECTION_DISABLE"] != "true" || env["DEFAULT_REQUEUE_TIME"] != "1s" {
		t.Errorf("Argo's environment is %v", env)
	}
}

func TestArgosExecutorIsTheLabsOwn(t *testing.T) {
	c := containers(find(t, render(t, argo()), "Deployment/argo/workflow-controller"))[0]
	if got, want := fmt.Sprint(c["args"]), "[--executor-image "+images()["argo-executor"]+" --executor-image-pull-policy IfNotPresent]"; got != want {
		t.Errorf("its arguments are %s, want %s", got, want)
	}
}

// The stories name what these addons bring.
func TestTheStoriesNameWhatIsThere(t *testing.T) {
	for file, wants := range map[string][]string{
		"train/trainjob.yaml":    {"runtimeRef: {name: " + pythonRuntime + "}", "apiVersion: trainer.kubeflow.org/v1alpha1"},
		"pipeline/workflow.yaml": {"runtimeRef: {name: " + pythonRuntime + "}", "apiVersion: trainer.kubeflow.org/v1alpha1", "apiVersion: argoproj.io/v1alpha1"},
		"pipeline/rights.yaml":   {"kind: ClusterRole, name: " + WorkflowExecutor + "}"},

		"mlops/tree/training/rights.yaml": {"kind: ClusterRole, name: " + WorkflowExecutor + "}"},
		"mlops/tree/training/job.yaml":    {"--git=" + GitInside, "secretName: git-token"},
	} {
		text, err := manifests.Scenarios.ReadFile("scenarios/" + file)
		if err != nil {
			t.Error(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q", file, want)
			}
		}
	}
}

func TestKServeIsConfiguredForTheLabAndKeepsTheRest(t *testing.T) {
	config := find(t, render(t, kserve()), "ConfigMap/kserve/inferenceservice-config")
	text, _, err := unstructured.NestedStringMap(config.Object, "data")
	if err != nil || len(text) < 10 || text["_example"] != "" {
		t.Errorf("%d keys, among them perhaps the example: %v", len(text), err)
	}
	for _, c := range []struct{ key, k, want string }{
		{"deploy", "defaultDeploymentMode", "Knative"}, {"ingress", "disableIstioVirtualHost", "true"}, {"ingress", "ingressDomain", Domain},
		{"inferenceService", "resource", "map[cpuLimit:1 cpuRequest:20m memoryLimit:512Mi memoryRequest:32Mi]"},
		{"ingress", "domainTemplate", "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}"}, {"storageInitializer", "cpuModelcar", "10m"}, // upstream's
	} {
		var values map[string]any
		if err := json.Unmarshal([]byte(text[c.key]), &values); err != nil { // as KServe reads it
			t.Fatalf("%s: %v", c.key, err)
		}
		if got := fmt.Sprint(values[c.k]); got != c.want {
			t.Errorf("%s.%s is %s, want %s", c.key, c.k, got, c.want)
		}
	}
}

func TestEveryWebhookOfKServeIsServedByKServe(t *testing.T) {
	objs := render(t, kserve())
	for _, o := range objs {
		hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		for _, hook := range hooks {
			service, _, _ := unstructured.NestedStringMap(hook.(map[string]any)["clientConfig"].(map[string]any), "service")
			find(t, objs, "Service/"+service["namespace"]+"/"+service["name"])
			if service["name"] != kserveWebhook {
				t.Errorf("%s asks %v", kube.Name(o), service)
			}
		}
	}
}

// cluster is a cluster that only keeps objects.
func cluster(t *testing.T, objs ...client.Object) Env {
	t.Helper()
	return Env{Gateway: "http://127.0.0.1:8080", Kube: &kube.Client{Client: fake.NewClientBuilder().WithObjects(objs...).Build()}}
}

// webhooks are KServe's configurations on a cluster: how many of their webhooks
// have which CA, and their versions.
func webhooks(t *testing.T, env Env) (cas map[string]int, versions string) {
	t.Helper()
	cas = map[string]int{}
	for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("admissionregistration.k8s.io/v1")
		list.SetKind(kind + "List")
		if err := env.Kube.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			versions += kube.Name(&o) + "=" + o.GetResourceVersion() + " "
			hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
			for _, hook := range hooks {
				ca, _, _ := unstructured.NestedString(hook.(map[string]any), "clientConfig", "caBundle")
				var decoded []byte
				if err := json.Unmarshal([]byte(`"`+ca+`"`), &decoded); err != nil {
					t.Error(err)
				}
				cas[string(decoded)]++
			}
		}
	}
	return cas, versions
}

// Flux takes over the fields of managers whose names begin with mllab, and
// removes those that Git does not have.
func TestTheCAIsNotFluxsToTakeAway(t *testing.T) {
	if strings.HasPrefix(string(certificateOwner), mllab) {
		t.Errorf("%s begins with %s", certificateOwner, mllab)
	}
}

// Flux makes the namespace at some time, so the first try may come too early.
func TestACertificateIsMadeAlsoWhenItsNamespaceComesLater(t *testing.T) {
	early := true
	env := Env{Kube: &kube.Client{Client: fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if early {
				early = false
				return apierrors.NewNotFound(corev1.Resource("namespaces"), o.GetNamespace())
			}
			return c.Create(ctx, o, opts...)
		},
	}).Build()}}
	cert, err := certify(t.Context(), env, func(string) {}, "x", "cert", "x.test")
	if err != nil {
		t.Fatal(err)
	}
	var secret corev1.Secret
	if err := env.Kube.Get(t.Context(), client.ObjectKey{Namespace: "x", Name: "cert"}, &secret); err != nil || !bytes.Equal(secret.Data[corev1.TLSCertKey], cert) {
		t.Errorf("the Secret has %d bytes of a certificate, %v", len(secret.Data[corev1.TLSCertKey]), err)
	}
}

func TestKServesWebhooksTrustTheLabsCertificate(t *testing.T) {
	var configurations []client.Object
	hooks := 0
	for _, o := range render(t, kserve()) {
		if strings.HasSuffix(o.GetKind(), "WebhookConfiguration") {
			list, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
			hooks += len(list)
			configurations = append(configurations, o)
		}
	}
	if hooks < 7 {
		t.Fatalf("KServe has %d webhooks", hooks)
	}
	env := cluster(t, configurations...)
	certify := func() (secret corev1.Secret) {
		t.Helper()
		if err := certifyKServe(t.Context(), env, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if err := env.Kube.Get(t.Context(), client.ObjectKey{Namespace: kserveNamespace, Name: kserveSecret}, &secret); err != nil {
			t.Fatal(err)
		}
		return secret
	}

	first := certify()
	cas, versions := webhooks(t, env)
	if ca := string(first.Data[corev1.TLSCertKey]); ca == "" || cas[ca] != hooks {
		t.Errorf("%d of %d webhooks have the CA: %v", cas[ca], hooks, cas)
	}
	again := certify()
	if _, now := webhooks(t, env); now != versions || again.ResourceVersion != first.ResourceVersion {
		t.Errorf("a second time changes\n%s\nto\n%s", versions, now)
	}

	// Somebody makes a new certificate, and one webhook loses its CA.
	cert, key, err := newCA("kserve", "x")
	if err != nil {
		t.Fatal(err)
	}
	again.Data = map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}
	if err := env.Kube.Update(t.Context(), &again); err != nil {
		t.Fatal(err)
	}
	certify()
	if cas, _ := webhooks(t, env); cas[string(cert)] != hooks {
		t.Errorf("%d of %d webhooks have the new CA", cas[string(cert)], hooks)
	}

	if err := env.Kube.Client.Delete(t.Context(), configurations[0]); err != nil {
		t.Fatal(err)
	}
	if err := trust(t.Context(), env, configurations[0].(*unstructured.Unstructured), cert); err == nil || !strings.Contains(err.Error(), configurations[0].GetName()) {
		t.Errorf("a configuration that is gone: %v", err)
	}
}

// Training is the same whenever it is done: what was killed is tried again, and
// what its code says is final.
func TestTrainingThatWasKilledIsTriedAgain(t *testing.T) {
	jobs, _, _ := unstructured.NestedSlice(find(t, render(t, kubeflow()), "ClusterTrainingRuntime/"+pythonRuntime).Object, "spec", "template", "spec", "replicatedJobs")
	var job struct {
		Template struct{ Spec batchv1.JobSpec }
	}
	text, err := json.Marshal(jobs[0])
	if err == nil {
		err = json.Unmarshal(text, &job)
	}
	if err != nil {
		t.Fatal(err)
	}
	spec := job.Template.Spec
	if spec.BackoffLimit == nil || *spec.BackoffLimit < 1 || spec.Template.Spec.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("it is not tried again: %+v", spec)
	}
	final := spec.PodFailurePolicy.Rules[0]
	for code, want := range map[int32]bool{1: true, 2: true, 4: true, 75: false, 128: false, 137: false, 143: false} {
		if got := final.Action == batchv1.PodFailurePolicyActionFailJob && slices.Contains(final.OnExitCodes.Values, code); got != want {
			t.Errorf("exit code %d is final: %t", code, got)
		}
	}
}

func TestTheRegistryIsReachedByLoopbackAndGatewayOnly(t *testing.T) {
	ports := 0
	for _, a := range All() {
		for name, spec := range podSpecs(render(t, a)) {
			for _, list := range []string{"initContainers", "containers"} {
				containers, _, _ := unstructured.NestedSlice(spec, list)
				for _, c := range containers {
					all, _, _ := unstructured.NestedSlice(c.(map[string]any), "ports")
					for _, each := range all {
						port := each.(map[string]any)
						if port["hostPort"] == nil {
							continue
						}
						ports++
						if port["hostIP"] != "127.0.0.1" || port["hostPort"] != int64(5000) || name != "Deployment/registry/registry" {
							t.Errorf("%s listens on the node: %v", name, port)
						}
					}
				}
			}
			if spec["hostNetwork"] == true {
				t.Errorf("%s is in the node's network", name)
			}
		}
	}
	if ports != 1 {
		t.Errorf("%d ports of the node are taken", ports)
	}
	for _, o := range render(t, labRegistry()) {
		if o.GetKind() == "VirtualService" {
			routes, _, _ := unstructured.NestedSlice(o.Object, "spec", "http")
			matches, _, _ := unstructured.NestedSlice(routes[0].(map[string]any), "match")
			text, _, _ := unstructured.NestedString(matches[0].(map[string]any), "authority", "regex")
			its := regexp.MustCompile("^(?:" + text + ")$") // Envoy's match is of the whole
			for host, want := range map[string]bool{
				"127.0.0.1:8080": true, "127.0.0.1": true, "localhost:41234": true, Registry: true,
				"model.ns.mllab.test": false, "127.0.0.1.evil.test": false, "127a0.0.1": false,
			} {
				if its.MatchString(host) != want {
					t.Errorf("%s is the registry's: %t", host, !want)
				}
			}
		}
		if kind, _, _ := unstructured.NestedString(o.Object, "spec", "type"); o.GetKind() == "Service" && kind != "" && kind != "ClusterIP" {
			t.Errorf("%s is a %s", kube.Name(o), kind)
		}
	}

	// The node maps the name that pods use to that port. A colon is written so:
	// https://github.com/containerd/containerd/blob/main/docs/hosts.md#registry-host-namespace
	host, port, _ := strings.Cut(Registry, ":")
	text, err := manifests.Node.ReadFile("node/etc/containerd/certs.d/" + host + "_" + port + "_/hosts.toml")
	if err != nil || !strings.Contains(string(text), `server = "http://127.0.0.1:5000"`) {
		t.Errorf("the node asks\n%s%v", text, err)
	}
	service := strings.Split(host, ".") // NAME.NAMESPACE.svc.…
	find(t, render(t, labRegistry()), "Service/"+service[1]+"/"+service[0])
}

func TestTheRegistryIsAdvertisedWhereItIs(t *testing.T) {
	env := cluster(t)
	advertised := func() *corev1.ConfigMap {
		t.Helper()
		if err := advertiseRegistry(t.Context(), env, func(string) {}); err != nil {
			t.Fatal(err)
		}
		advert := &corev1.ConfigMap{}
		if err := env.Kube.Get(t.Context(), client.ObjectKey{Namespace: "kube-public", Name: "local-registry-hosting"}, advert); err != nil {
			t.Fatal(err)
		}
		return advert
	}
	// https://github.com/kubernetes/enhancements/tree/master/keps/sig-cluster-lifecycle/generic/1755-communicating-a-local-registry#specification-for-localregistryhosting-v1
	text := func(host string) string {
		return fmt.Sprintf("host: %q\nhostFromContainerRuntime: %q\nhostFromClusterNetwork: %q\n", host, Registry, Registry)
	}
	first := advertised()
	if got := first.Data["localRegistryHosting.v1"]; got != text("127.0.0.1:8080") || first.Labels[managedBy] != mllab {
		t.Errorf("it says\n%s", got)
	}
	if again := advertised(); again.ResourceVersion != first.ResourceVersion {
		t.Error("a second time changes it")
	}
	env.Gateway = "http://127.0.0.1:9000"
	if moved := advertised(); moved.Data["localRegistryHosting.v1"] != text("127.0.0.1:9000") {
		t.Errorf("after a move it says\n%s", moved.Data)
	}
	env.Gateway = "http://a b"
	if err := advertiseRegistry(t.Context(), env, func(string) {}); err == nil {
		t.Error("an address that is none is advertised")
	}
}

// Kubeflow's SDK (github.com/kubeflow/sdk, kubeflow/trainer/backends/kubernetes)
// reads these of a lab.
func TestKubeflowsSDKFindsWhatItReads(t *testing.T) {
	runtime := find(t, render(t, kubeflow()), "ClusterTrainingRuntime/"+pythonRuntime)
	jobs, _, _ := unstructured.NestedSlice(runtime.Object, "spec", "template", "spec", "replicatedJobs")
	containers, _, _ := unstructured.NestedSlice(jobs[0].(map[string]any), "template", "spec", "template", "spec", "containers")
	limits, _, _ := unstructured.NestedStringMap(containers[0].(map[string]any), "resources", "limits")
	if limits["cpu"] == "" {
		t.Errorf("the limits name no device: %v", limits)
	}
	version := find(t, render(t, trainer()), "ConfigMap/"+trainerNamespace+"/kubeflow-trainer-public")
	if got, _, _ := unstructured.NestedString(version.Object, "data", "kubeflow_trainer_version"); !regexp.MustCompile(`^v2\.\d+\.\d+$`).MatchString(got) {
		t.Errorf("the Trainer's version is %q", got)
	}
}

// A Workflow that names no service account can report its results in the
// namespaces that clients use by themselves, and the right goes no further.
func TestTheDefaultAccountMayReportAWorkflowsResults(t *testing.T) {
	objs := render(t, argo())
	for _, ns := range []string{"default", "argo"} {
		binding := find(t, objs, "RoleBinding/"+ns+"/"+WorkflowExecutor)
		role, _, _ := unstructured.NestedString(binding.Object, "roleRef", "name")
		subjects, _, _ := unstructured.NestedSlice(binding.Object, "subjects")
		if want := (map[string]any{"kind": "ServiceAccount", "name": "default", "namespace": ns}); role != WorkflowExecutor || len(subjects) != 1 || !maps.Equal(subjects[0].(map[string]any), want) {
			t.Errorf("in %s role %s is bound to %v", ns, role, subjects)
		}
	}
	for _, o := range objs {
		if role, _, _ := unstructured.NestedString(o.Object, "roleRef", "name"); o.GetKind() == "ClusterRoleBinding" && role == WorkflowExecutor {
			t.Errorf("%s gives the right in every namespace", kube.Name(o))
		}
	}
}

func TestATrainingRuntimeIsWhatTheTrainerLooksFor(t *testing.T) {
	o := find(t, render(t, kubeflow()), "ClusterTrainingRuntime/"+pythonRuntime)
	jobs, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "replicatedJobs")
	job := jobs[0].(map[string]any)
	step, _, _ := unstructured.NestedString(job, "template", "metadata", "labels", "trainer.kubeflow.org/trainjob-ancestor-step")
	containers, _, _ := unstructured.NestedSlice(job, "template", "spec", "template", "spec", "containers")
	if len(jobs) != 1 || job["name"] != "node" || step != "trainer" || len(containers) != 1 || containers[0].(map[string]any)["name"] != "node" {
		t.Errorf("jobs are %v", jobs)
	}
	if o.GetLabels()["trainer.kubeflow.org/framework"] == "" {
		t.Error("it names no framework")
	}
}
