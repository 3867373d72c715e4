package addons

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
)

const (
	kserveNamespace = "kserve"
	kserveKinds     = "serving.kserve.io/v1beta1"
	kserveWebhook   = "kserve-webhook-server-service"
	kserveSecret    = "kserve-webhook-server-cert"
)

// kserve is KServe on Knative Serving. Its webhooks' certificate is the lab's
// own, so that no cert-manager is needed.
func kserve() Addon {
	return Addon{
		Name:       "kserve",
		Summary:    "KServe: InferenceServices on Knative",
		Optional:   true,
		StartAfter: []string{"knative"}, // its kinds and its namespace
		Images:     []string{"kserve-controller"},
		Render:     kserveObjects,
		PostApply:  certifyKServe,
		Verify:     verifyKServe,
	}
}

// kserveConfig is what the lab sets in KServe's ConfigMap. The reference is
// https://github.com/kserve/kserve/blob/master/config/configmap/inferenceservice.yaml
var kserveConfig = map[string]map[string]any{
	"deploy": {"defaultDeploymentMode": "Knative"},
	"ingress": {
		"ingressGateway": "istio-system/knative-gateway", "localGateway": "istio-system/knative-local-gateway",
		"localGatewayService": "knative-local-gateway.istio-system.svc.cluster.local",
		"ingressDomain":       Domain, "urlScheme": "http",
		"disableIstioVirtualHost": true, // Knative's own route is the only one
	},
	// A modelcar of KServe's own kind needs a shell in the model's image. The
	// lab's fetches the model: see modelStorage.
	"storageInitializer": {"enableModelcar": false},
	// Upstream's default is one CPU and 2 GiB for each container.
	"inferenceService": {"resource": map[string]any{"cpuRequest": "20m", "memoryRequest": "32Mi", "cpuLimit": "1", "memoryLimit": "512Mi"}},
}

func kserveObjects(im Images) ([]*unstructured.Unstructured, error) {
	objs, err := controller(im, "kserve", map[string]string{"manager": "kserve-controller"}, "300Mi")
	if err != nil {
		return nil, err
	}
	out := []*unstructured.Unstructured{namespace(kserveNamespace)}
	for _, o := range objs {
		switch o.GetKind() {
		case "Namespace", "Secret": // both are the lab's
			continue
		case "ConfigMap":
			if err := configureKServe(o); err != nil {
				return nil, fmt.Errorf("%s: %w", kube.Name(o), err)
			}
		case "Deployment":
			if err := eachContainer(o, func(c map[string]any) { c["args"] = []any{} }); err != nil { // no election
				return nil, err
			}
		case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
			if err := eachWebhook(o, func(service map[string]any) {
				service["name"], service["namespace"] = kserveWebhook, kserveNamespace
			}); err != nil {
				return nil, err
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// configureKServe sets what the lab wants otherwise, and leaves out the
// commented example.
func configureKServe(o *unstructured.Unstructured) error {
	data, _, err := unstructured.NestedStringMap(o.Object, "data")
	if err != nil {
		return err
	}
	delete(data, "_example")
	for key, ours := range kserveConfig {
		all := map[string]any{}
		if text, given := data[key]; given {
			if err := json.Unmarshal([]byte(text), &all); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
		maps.Copy(all, ours)
		text, err := json.Marshal(all)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		data[key] = string(text)
	}
	return unstructured.SetNestedStringMap(o.Object, data, "data")
}

// eachWebhook changes the service of each of a configuration's webhooks, and
// leaves its CA to be set later.
func eachWebhook(o *unstructured.Unstructured, change func(service map[string]any)) error {
	hooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
	if err != nil {
		return fmt.Errorf("%s: %w", kube.Name(o), err)
	}
	for _, each := range hooks {
		hook, _ := each.(map[string]any)
		service, found, err := unstructured.NestedMap(hook, "clientConfig", "service")
		if err != nil {
			return fmt.Errorf("%s: %w", kube.Name(o), err)
		}
		if !found {
			return fmt.Errorf("%s: webhook %v has no service", kube.Name(o), hook["name"])
		}
		change(service)
		hook["clientConfig"] = map[string]any{"service": service}
	}
	return unstructured.SetNestedSlice(o.Object, hooks, "webhooks")
}

// certifyKServe makes the certificate of KServe's webhooks, and has the API
// server trust it.
func certifyKServe(ctx context.Context, env Env, reason func(string)) error {
	cert, err := certify(ctx, env, reason, kserveNamespace, kserveSecret, kserveWebhook+"."+kserveNamespace+".svc")
	if err != nil {
		return err
	}
	configurations, err := upstream("kserve.yaml")
	if err != nil {
		return err
	}
	return poll(ctx, reason, "having KServe's webhooks trusted", func(ctx context.Context) error {
		for _, o := range configurations {
			if kind := o.GetKind(); kind != "MutatingWebhookConfiguration" && kind != "ValidatingWebhookConfiguration" {
				continue
			}
			if err := trust(ctx, env, o, cert); err != nil {
				return err
			}
		}
		return nil
	})
}

// certify fills in the Secret with the certificate of a server of these names,
// once in the life of a cluster, and returns the certificate, which is its own
// CA. The keys of the Secret are those of cert-controller, which JobSet and
// Trainer have in them: it keeps what it finds valid. What it makes itself comes
// to their pods only with the kubelet's next look at the Secret, a minute later.
// (github.com/open-policy-agent/cert-controller, pkg/rotator/rotator.go.)
func certify(ctx context.Context, env Env, reason func(string), ns, name string, hosts ...string) ([]byte, error) {
	cert, key, err := newCA(name, hosts...)
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	return cert, poll(ctx, reason, "making the certificate of "+hosts[0], func(ctx context.Context) error {
		err := env.Kube.Get(ctx, client.ObjectKeyFromObject(secret), secret)
		there := err == nil
		switch {
		case client.IgnoreNotFound(err) != nil:
			return err
		case len(secret.Data[corev1.TLSCertKey]) > 0:
			cert = secret.Data[corev1.TLSCertKey]
			return nil
		}
		secret.Data = map[string][]byte{"ca.crt": cert, "ca.key": key, corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}
		if there {
			return env.Kube.Update(ctx, secret, certificateOwner)
		}
		secret.Labels = map[string]string{managedBy: mllab}
		return env.Kube.Create(ctx, secret, certificateOwner)
	})
}

// certificateOwner is another manager than the one of what is applied, which
// would drop these fields with the next apply.
// Nor may its name begin with that one's: Flux makes Git's what it takes for
// mllab's (--override-manager), goes by the beginning, and drops what Git lacks.
const certificateOwner = client.FieldOwner("certificates.mllab")

// trust sets the CA of a configuration's webhooks where it is another one.
func trust(ctx context.Context, env Env, configuration *unstructured.Unstructured, ca []byte) error {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(configuration.GroupVersionKind())
	if err := env.Kube.Get(ctx, client.ObjectKeyFromObject(configuration), live); err != nil {
		return err
	}
	hooks, _, err := unstructured.NestedSlice(live.Object, "webhooks")
	if err != nil {
		return fmt.Errorf("%s: %w", kube.Name(live), err)
	}
	var patch []map[string]any
	text, err := json.Marshal(ca) // as the API writes bytes
	if err != nil {
		return err
	}
	for i, each := range hooks {
		hook, _ := each.(map[string]any)
		have, _, _ := unstructured.NestedString(hook, "clientConfig", "caBundle")
		if fmt.Sprintf("%q", have) != string(text) {
			patch = append(patch, map[string]any{"op": "add", "path": fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), "value": ca})
		}
	}
	if len(patch) == 0 {
		return nil
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return env.Kube.Patch(ctx, live, client.RawPatch(types.JSONPatchType, body), certificateOwner)
}

// modelStorage has KServe fetch models from the lab's registry: for storageUri
// oci://…, modelcar is called with the URI and the folder.
// https://kserve.github.io/website/docs/model-serving/storage/storage-containers/storage-container
func modelStorage(image string) *unstructured.Unstructured {
	return object("serving.kserve.io/v1alpha1", "ClusterStorageContainer", "", "modelcar", map[string]any{"spec": map[string]any{
		"container": map[string]any{
			"name": "storage-initializer", "image": image, "command": []any{"/usr/local/bin/modelcar", "pull"},
			"resources": map[string]any{
				"requests": map[string]any{"cpu": "10m", "memory": "16Mi"},
				"limits":   map[string]any{"memory": "256Mi"},
			},
		},
		"supportedUriFormats": []any{map[string]any{"prefix": "oci://"}},
		"workloadType":        "initContainer", // the minimal CRD has no default
	}})
}

// verifyKServe has the controller make a Knative Service of an
// InferenceService, whose pods nobody waits for.
func verifyKServe(ctx context.Context, env Env, reason func(string)) error {
	isvc := object(kserveKinds, "InferenceService", verifyNamespace, verifyName+"-kserve", map[string]any{"spec": map[string]any{
		"predictor": map[string]any{"containers": []any{map[string]any{"name": "kserve-container", "image": "kind.local/none"}}},
	}})
	made := object("serving.knative.dev/v1", "Service", verifyNamespace, verifyName+"-kserve"+"-predictor", nil)
	return use(ctx, env, reason, "having an InferenceService made a Knative Service", []*unstructured.Unstructured{isvc}, func(ctx context.Context) error {
		return env.Kube.Get(ctx, client.ObjectKeyFromObject(made), made)
	})
}
