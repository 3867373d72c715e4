package addons

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/internal/oci"
)

// Registry is the lab's registry as pods and the node know it. The node maps
// the name to a port of its own loopback: manifests/node/etc/containerd.
const Registry = "registry.registry.svc.cluster.local:5000"

// labRegistry keeps images that are made on the lab. On this machine it answers
// on the lab's one port.
func labRegistry() Addon {
	return Addon{
		Name:       "registry",
		Summary:    "the lab's own registry: images that are made on the lab",
		StartAfter: []string{"network"}, // verified by the way that it makes
		Images:     []string{"registry", "agent", "gitserver"},
		PostApply:  advertiseRegistry,
		Verify:     verifyRegistry,
	}
}

// advertiseRegistry publishes the registry's address for tools.
// https://github.com/kubernetes/enhancements/tree/master/keps/sig-cluster-lifecycle/generic/1755-communicating-a-local-registry
func advertiseRegistry(ctx context.Context, env Env, reason func(string)) error {
	host, err := url.Parse(env.Gateway)
	if err != nil {
		return fmt.Errorf("the gateway's address: %w", err)
	}
	advert := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: "local-registry-hosting"}}
	text := fmt.Sprintf("host: %q\nhostFromContainerRuntime: %q\nhostFromClusterNetwork: %q\n", host.Host, Registry, Registry)
	return poll(ctx, reason, "advertising the registry", func(ctx context.Context) error {
		err := env.Kube.Get(ctx, client.ObjectKeyFromObject(advert), advert)
		const key = "localRegistryHosting.v1"
		switch {
		case client.IgnoreNotFound(err) != nil:
			return err
		case err == nil && advert.Data[key] == text:
			return nil
		case err == nil:
			advert.Data = map[string]string{key: text}
			return env.Kube.Update(ctx, advert)
		}
		advert.Labels, advert.Data = map[string]string{managedBy: mllab}, map[string]string{key: text}
		return env.Kube.Create(ctx, advert)
	})
}

// verifyRegistry pushes an image from outside, and has the node pull it: its
// container cannot start, for there is nothing in it.
func verifyRegistry(ctx context.Context, env Env, reason func(string)) error {
	// Of its own each time: the node keeps what it has pulled, and would not ask.
	content := make([]byte, 16)
	_, _ = rand.Read(content) // it never fails
	var digest string
	err := poll(ctx, reason, "pushing an image through the gateway", func(ctx context.Context) (err error) {
		digest, err = oci.Push(ctx, env.Gateway, verifyName+"-registry", map[string][]byte{"verify": content})
		return err
	})
	if err != nil {
		return err
	}
	return use(ctx, env, reason, "having the node pull it", "registry", func(_ context.Context, live *unstructured.Unstructured) error {
		var pod corev1.Pod
		if err := kube.Into(live.Object, &pod); err != nil {
			return err
		}
		for _, s := range pod.Status.ContainerStatuses {
			switch {
			case s.ImageID != "", s.State.Terminated != nil:
				return nil
			case s.State.Waiting != nil && (s.State.Waiting.Reason == "CreateContainerError" || s.State.Waiting.Reason == "RunContainerError"):
				return nil // it was pulled
			case s.State.Waiting != nil:
				return fmt.Errorf("%s: %s", s.State.Waiting.Reason, s.State.Waiting.Message)
			}
		}
		return errors.New("the pod is not scheduled")
	}, "$(image)", Registry+"/"+verifyName+"-registry@"+digest)
}
