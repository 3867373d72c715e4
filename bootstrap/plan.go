package bootstrap

import (
	"cmp"

	"mllab.local/addons"
	"mllab.local/bootstrap/images"
)

// PlanDoc is what `up` would do on this machine if there were no cluster. It needs no engine.
type PlanDoc struct {
	Cluster    string      `json:"cluster"`
	Engine     string      `json:"engine"`
	URL        string      `json:"url"`
	Images     string      `json:"images"`
	Cache      string      `json:"cache"`
	Kubeconfig string      `json:"kubeconfig"`
	Steps      []string    `json:"steps"`
	Addons     []PlanAddon `json:"addons"`
	KindConfig string      `json:"kindConfig"`
}

// PlanAddon is an addon in the plan. It starts as soon as its needs are ready and the addons in StartAfter are applied.
type PlanAddon struct {
	Name       string   `json:"name"`
	Summary    string   `json:"summary"`
	Needs      []string `json:"needs,omitempty"`
	StartAfter []string `json:"startAfter,omitempty"`
}

// Plan reads the options, and changes nothing.
func Plan(o UpOptions) (PlanDoc, error) {
	o, err := o.withDefaults()
	if err != nil {
		return PlanDoc{}, err
	}
	list, err := addons.Select(o.addons()...)
	if err != nil {
		return PlanDoc{}, err
	}
	doc := PlanDoc{
		Cluster: o.Name, Engine: cmp.Or(o.Engine, "the first of docker, podman, nerdctl that works"), URL: url(o.Port),
		Images: map[string]string{
			"auto":     "from registries if they can be reached, else built from source",
			"source":   "built from source: Go modules, Debian packages, one Python wheel",
			"registry": "pulled from registries",
		}[o.Mode],
		Cache: o.Cache, Kubeconfig: o.store().kubeconfig(),
		Steps: []string{
			"check this machine, and stop if it cannot run a lab",
			"get the images into the cache, and build the node image from them",
			"create a kind cluster of one node, with the gateway on 127.0.0.1 only",
			"wait until Kubernetes is ready",
			"install the addons, and use each of them once",
		},
	}
	if o.GitOps {
		doc.Steps = append(doc.Steps, "push the addons to the lab's Git, and use each of them again when Flux has applied it from there")
	}
	if o.Port == 0 {
		doc.URL = "http://127.0.0.1 on a free port"
	}
	for _, a := range list {
		doc.Addons = append(doc.Addons, PlanAddon{a.Name, a.Summary, a.Needs, a.StartAfter})
	}
	doc.KindConfig, err = clusterConfig(o.Name, o.Port, 0, images.KubeVersion)
	return doc, err
}
