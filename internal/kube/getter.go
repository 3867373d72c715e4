package kube

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// getterBound is how long one request of a library may take: it cannot be cancelled otherwise.
const getterBound = 30 * time.Second

// Getter is the cluster as libraries ask for it that are made of kubectl's parts, such as Helm's: it is a
// genericclioptions.RESTClientGetter. It keeps what it has learned of the cluster in memory, where theirs would write to
// the user's home.
type Getter struct {
	config     *rest.Config
	mapper     meta.RESTMapper
	discovered discovery.CachedDiscoveryInterface
	namespace  string
}

// Getter returns one whose objects are in a namespace unless they say otherwise.
func (c *Client) Getter(namespace string) (*Getter, error) {
	cfg := rest.CopyConfig(c.config)
	cfg.Timeout = getterBound
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", cfg.Host, err)
	}
	return &Getter{config: cfg, mapper: c.RESTMapper(), discovered: memory.NewMemCacheClient(d), namespace: namespace}, nil
}

// ToRESTConfig returns a copy: its users write into it.
func (g *Getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

// ToDiscoveryClient returns what the server serves.
func (g *Getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovered, nil
}

// ToRESTMapper returns what maps kinds to resources.
func (g *Getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }

// ToRawKubeConfigLoader returns a kubeconfig that knows nothing but the namespace.
func (g *Getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(),
		&clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}
