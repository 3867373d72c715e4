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

// getterBound limits one request of a library, which cannot be canceled otherwise.
const getterBound = 30 * time.Second

// Getter gives a cluster to libraries that are built on kubectl's packages, such as Helm. It is a
// genericclioptions.RESTClientGetter. It caches the discovered API in memory; theirs would write to the user's home.
type Getter struct {
	config     *rest.Config
	mapper     meta.RESTMapper
	discovered discovery.CachedDiscoveryInterface
	namespace  string
}

// Getter returns a Getter whose default namespace is namespace.
func (c *Client) Getter(namespace string) (*Getter, error) {
	cfg := rest.CopyConfig(c.config)
	cfg.Timeout = getterBound
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", cfg.Host, err)
	}
	return &Getter{config: cfg, mapper: c.RESTMapper(), discovered: memory.NewMemCacheClient(d), namespace: namespace}, nil
}

// ToRESTConfig returns a copy of the configuration, because callers write into it.
func (g *Getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g *Getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovered, nil
}

func (g *Getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }

// ToRawKubeConfigLoader returns a kubeconfig that has only the namespace.
func (g *Getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(),
		&clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}
