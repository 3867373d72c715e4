package addons

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
)

const (
	kserveNamespace = "kserve"
	kserveWebhook   = "kserve-webhook-server-service"
	kserveSecret    = "kserve-webhook-server-cert"
)

// kserve is KServe on Knative Serving. Its webhooks' certificate is the lab's
// own, so that no cert-manager is needed.
func kserve() Addon {
	return Addon{
		Name:       "kserve",
		Summary:    "KServe: InferenceServices on Knative",
		StartAfter: []string{"knative"}, // its kinds and its namespace
		Images:     []string{"kserve-controller"},
		PostApply:  certifyKServe,
		Verify:     verifyKServe,
	}
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
	var cert []byte
	err := poll(ctx, reason, "making the certificate of "+hosts[0], func(ctx context.Context) error {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}} // a try that failed leaves none behind
		err := env.Kube.Get(ctx, client.ObjectKeyFromObject(secret), secret)
		there := err == nil
		switch {
		case client.IgnoreNotFound(err) != nil:
			return err
		case len(secret.Data[corev1.TLSCertKey]) > 0:
			cert = secret.Data[corev1.TLSCertKey]
			return nil
		}
		var key []byte
		if cert, key, err = newCA(name, hosts...); err != nil {
			return err
		}
		secret.Data = map[string][]byte{"ca.crt": cert, "ca.key": key, corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}
		if there {
			return env.Kube.Update(ctx, secret, certificateOwner)
		}
		secret.Labels = map[string]string{managedBy: mllab}
		return env.Kube.Create(ctx, secret, certificateOwner)
	})
	return cert, err
}

// certificateOwner is another manager than the one of what is applied, which
// would drop these fields with the next apply.
// Nor may its name begin with that one's: Flux makes Git's what it takes for
// mllab's (--override-manager), goes by the beginning, and drops what Git lacks.
const certificateOwner = client.FieldOwner("certificates.mllab")

// trust sets the CA of a configuration's webhooks where it is another one.
func trust(ctx context.Context, env Env, configuration *unstructured.Unstructured, ca []byte) error {
	live, err := read(ctx, env.Kube, configuration)
	if err != nil {
		return err
	}
	hooks, _, err := unstructured.NestedSlice(live.Object, "webhooks")
	if err != nil {
		return fmt.Errorf("%s: %w", kube.Name(live), err)
	}
	want := base64.StdEncoding.EncodeToString(ca)
	var patch []map[string]any
	for i, each := range hooks {
		hook, _ := each.(map[string]any)
		have, _, _ := unstructured.NestedString(hook, "clientConfig", "caBundle")
		if have != want {
			patch = append(patch, map[string]any{"op": "add", "path": fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), "value": want})
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

// verifyKServe has the controller make a Knative Service of an
// InferenceService, whose pods nobody waits for.
func verifyKServe(ctx context.Context, env Env, reason func(string)) error {
	return use(ctx, env, reason, "having an InferenceService made a Knative Service", "kserve", func(ctx context.Context, live *unstructured.Unstructured) error {
		_, err := read(ctx, env.Kube, object("serving.knative.dev/v1", "Service", verifyNamespace, live.GetName()+"-predictor"))
		return err
	})
}
