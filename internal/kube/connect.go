// Package kube is the client of one cluster. It applies objects, waits for them and reports why, deletes them, and reads
// their pods.
// It is the only importer of controller-runtime and of Flux's server-side apply library.
package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/fluxcd/pkg/ssa"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
)

// owner is the field manager of everything mllab applies.
const owner = "mllab"

// fluxOwner is the field manager of what Flux applies from Git.
const fluxOwner = "kustomize-controller"

// Client reads and writes one cluster. It has no cache: it returns the current state of the API server.
type Client struct {
	client.Client
	watcher client.WithWatch
	core    typedcore.CoreV1Interface
	manager *ssa.ResourceManager
	config  *rest.Config
}

// Connect returns a Client of the cluster that a context of the kubeconfig names. It sends no request. The current context
// does not count: other programs change it, where KUBECONFIG names the file.
// A kubeconfig that does not exist is a fault with exit code 3: there is no lab.
func Connect(kubeconfig, context string) (*Client, error) {
	if _, err := os.Stat(kubeconfig); errors.Is(err, fs.ErrNotExist) {
		return nil, fault.CannotTest("mllab up", "no cluster yet: kubeconfig %q does not exist", kubeconfig)
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", kubeconfig, err)
	}
	return New(cfg)
}

// Parse is Connect for the text of a kubeconfig.
func Parse(kubeconfig []byte) (*Client, error) {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading a kubeconfig: %w", err)
	}
	return New(cfg)
}

// silenceKlog turns klog off. client-go logs errors with it that its calls also return. Istio's library redirects klog to
// stdout. Without a logger klog writes errors to stderr, whatever its output is.
var silenceKlog = sync.OnceFunc(func() { klog.SetLogger(klog.New(nil)) })

// New makes a Client from a REST configuration; Connect is New for a file.
func New(cfg *rest.Config) (*Client, error) {
	silenceKlog()
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = owner
	// The server limits requests by priority and fairness. The client's default of 5 requests a second would make an apply
	// take minutes.
	cfg.QPS = -1
	// Deprecation warnings are about upstream's manifests, which the user cannot change, and this package does not log.
	cfg.WarningHandler = rest.NoWarnings{}
	http, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", cfg.Host, err)
	}
	both, err := client.NewWithWatch(cfg, client.Options{HTTPClient: http})
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", cfg.Host, err)
	}
	core, err := typedcore.NewForConfigAndClient(cfg, http)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", cfg.Host, err)
	}
	manager := ssa.NewResourceManager(both, nil, ssa.Owner{Field: owner, Group: "mllab.local"})
	return &Client{Client: both, watcher: both, core: core, manager: manager, config: cfg}, nil
}

// As returns a Client of the same cluster with only the rights of a service account. The account need not exist.
// https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
func (c *Client) As(namespace, account string) (*Client, error) {
	cfg := rest.CopyConfig(c.config)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + namespace + ":" + account}
	return New(cfg)
}
