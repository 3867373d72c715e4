// Render writes the files that mllab embeds into manifests/upstream: upstream's
// out of Go modules whose versions are pinned in go.mod files, and on them what
// each addon's folder in manifests/addons builds. Nothing of upstream's is
// committed, and no version is written down twice.
//
// Run it in the repository: go run ./manifests/render. It does nothing when
// the module versions, the addons' folders and its own source are those of the
// last time.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/kustomize"
)

// self is part of the stamp: another renderer renders again.
//
//go:embed *.go
var self embed.FS

const (
	upstream = "manifests/upstream"
	addons   = "manifests/addons"
	stamp    = "modules.txt"
	nested   = "bootstrap/images/modules"
	// serving and gateway are nested modules whose pins decide what the
	// images are built from, so the manifests of the same versions fit them.
	serving = nested + "/knative-serving"
	gateway = nested + "/knative-net-gateway-api"
	flux    = nested + "/flux"
	trainer = nested + "/trainer"
	kserve  = nested + "/kserve"
	argo    = nested + "/argo-workflows"
	flagger = nested + "/flagger"
)

// source is files of one module, as pinned by the go.mod in folder pin.
type source struct {
	pin, module string
	globs       []string
	// folders are kustomize's, built together; their objects go to namespace,
	// if it is set.
	folders   []string
	namespace string
}

// output is one file of upstream's: the YAML documents of its sources in order,
// on which the addon's folder of that name builds; or, with an extension, the
// one file as it is.
type output struct {
	name    string
	sources []source
}

var outputs = []output{
	{"gateway-api", []source{
		// The standard channel is what Istio's guide installs, and has every
		// kind that net-gateway-api watches. The experimental one has twice as
		// many, and the API server works for each.
		{pin: gateway, module: "sigs.k8s.io/gateway-api", globs: []string{"config/crd/standard/gateway.networking.*.yaml"}},
	}},
	{"knative", []source{
		{pin: serving, module: "knative.dev/serving", globs: []string{"config/core/*.yaml", "config/core/*/*.yaml"}},
		// Links in the serving repository, and a module's zip has no links.
		{pin: serving, module: "knative.dev/networking", globs: []string{
			"config/certificate.yaml", "config/config-network.yaml", "config/domain-claim.yaml",
			"config/ingress.yaml", "config/serverlessservice.yaml",
		}},
		{pin: serving, module: "knative.dev/caching", globs: []string{"config/image.yaml"}},
		{pin: gateway, module: "knative.dev/net-gateway-api", globs: []string{
			"config/200-clusterrole.yaml", "config/300-controller.yaml", "config/config-gateway.yaml",
			"third_party/istio/*.yaml",
		}},
	}},
	// One file each, because what they call manager-role is each one's own.
	{"flux/source-controller", []source{
		{pin: flux, module: "github.com/fluxcd/source-controller", globs: append([]string{"config/manager/service.yaml"}, fluxFiles...)},
	}},
	{"flux/kustomize-controller", []source{
		{pin: flux, module: "github.com/fluxcd/kustomize-controller", globs: fluxFiles},
	}},
	{"flux/helm-controller", []source{
		{pin: flux, module: "github.com/fluxcd/helm-controller", globs: fluxFiles},
	}},
	// As upstream's own test expects them of the API server, which writes them when it starts.
	{"roles.yaml", []source{
		{pin: nested + "/kubernetes", module: "k8s.io/kubernetes", globs: []string{
			rolePolicy + "cluster-roles.yaml", rolePolicy + "controller-roles.yaml", rolePolicy + "namespace-roles.yaml", rolePolicy + "*-bindings.yaml",
		}},
	}},
	{"envoy_bootstrap.json", []source{
		{pin: ".", module: "istio.io/istio", globs: []string{"tools/packaging/common/envoy_bootstrap.json"}},
	}},
	{"jobset", []source{
		{pin: trainer, module: "sigs.k8s.io/jobset", folders: []string{"config/default"}},
	}},
	{"trainer", []source{
		// overlays/manager would fetch JobSet from the network.
		{pin: trainer, module: "github.com/kubeflow/trainer/v2", namespace: "kubeflow-system", folders: []string{
			"manifests/base/crds", "manifests/base/manager", "manifests/base/rbac", "manifests/base/webhook",
		}},
	}},
	{"kserve", []source{
		// The minimal CRDs: the full ones hold a pod's whole schema several
		// times, 2 MB each. config/default would add cert-manager's objects.
		{pin: kserve, module: "github.com/kserve/kserve", namespace: "kserve", folders: []string{
			"config/crd/minimal", "config/rbac", "config/manager", "config/webhook", "config/configmap",
		}},
	}},
	{"argo-workflows", []source{
		{pin: argo, module: "github.com/argoproj/argo-workflows/v4", namespace: "argo", folders: []string{
			"manifests/base/crds/minimal", "manifests/base/workflow-controller", "manifests/cluster-install-no-crds/workflow-controller-rbac",
		}},
	}},
	{"flagger", []source{
		{pin: flagger, module: "github.com/fluxcd/flagger", globs: []string{
			"kustomize/base/flagger/account.yaml", "kustomize/base/flagger/crd.yaml",
			"kustomize/base/flagger/deployment.yaml", "kustomize/base/flagger/rbac.yaml",
		}},
	}},
}

const rolePolicy = "plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata/"

var fluxFiles = []string{"config/crd/bases/*.yaml", "config/rbac/role.yaml", "config/manager/deployment.yaml"}

// kindBase is the tree that kind lays over its node image.
var kindBase = source{pin: ".", module: "sigs.k8s.io/kind", globs: []string{"images/base/files"}}

// shown are modules that nothing is rendered from but whose version is shown.
var shown = []source{
	// Istio's own module has no release tags; its API's version carries the number.
	{pin: nested + "/istio", module: "istio.io/client-go"},
	// Their manifests are ours, or they have none.
	{pin: ".", module: "helm.sh/helm/v3"},
	{pin: nested + "/registry", module: "github.com/distribution/distribution/v3"},
	{pin: nested + "/prometheus", module: "github.com/prometheus/prometheus"},
	{pin: nested + "/alertmanager", module: "github.com/prometheus/alertmanager"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := render(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "manifests/render:", err)
		os.Exit(1)
	}
}

func render(ctx context.Context) error {
	root, err := goRun(ctx, ".", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	mods, err := resolve(ctx, strings.TrimSpace(root))
	if err != nil {
		return err
	}
	dir := filepath.Join(strings.TrimSpace(root), upstream)
	folders := os.DirFS(filepath.Join(strings.TrimSpace(root), addons))
	want, err := stampText(mods, folders, self)
	if err != nil {
		return err
	}
	names, err := fs.Glob(folders, "*")
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(filepath.Join(dir, stamp)); err == nil && string(have) == want && complete(dir, names) {
		return nil
	}
	if err := clear(dir); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "mllab-render-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := copyAddons(work, folders, mods); err != nil {
		return err
	}
	for _, o := range outputs {
		text, err := o.text(mods)
		if err != nil {
			return fmt.Errorf("rendering %s: %w", o.name, err)
		}
		to := filepath.Join(work, o.name, "upstream.yaml")
		if filepath.Ext(o.name) != "" {
			to = filepath.Join(dir, o.name)
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return err
		}
	}
	text, err := istio(work)
	if err == nil {
		err = os.WriteFile(filepath.Join(work, "istio", "upstream.yaml"), text, 0o644)
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := addon(work, name)
		if err != nil {
			return fmt.Errorf("rendering %s/%s: %w", addons, name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), text, 0o644); err != nil {
			return err
		}
	}
	files := os.DirFS(filepath.Join(mods[kindBase.key()].dir, kindBase.globs[0]))
	if err := os.CopyFS(filepath.Join(dir, "kind-base"), files); err != nil {
		return fmt.Errorf("copying kind's base files: %w", err)
	}
	// Last, so that an interrupted run is done again.
	return os.WriteFile(filepath.Join(dir, stamp), []byte(want), 0o644)
}

type module struct{ version, dir string }

func (s source) key() string { return s.pin + " " + s.module }

// resolve finds every module, downloading what the module cache lacks.
func resolve(ctx context.Context, root string) (map[string]module, error) {
	pins := map[string][]string{}
	for _, s := range allSources() {
		if !slices.Contains(pins[s.pin], s.module) {
			pins[s.pin] = append(pins[s.pin], s.module)
		}
	}
	out := map[string]module{}
	for pin, names := range pins {
		list, err := goRun(ctx, filepath.Join(root, pin), append([]string{"mod", "download", "-json"}, names...)...)
		for found := json.NewDecoder(strings.NewReader(list)); err == nil && found.More(); {
			var m struct{ Path, Version, Dir string }
			err = found.Decode(&m)
			out[source{pin: pin, module: m.Path}.key()] = module{m.Version, m.Dir}
		}
		if err != nil {
			return nil, fmt.Errorf("finding modules of %s: %w", filepath.Join(pin, "go.mod"), err)
		}
	}
	return out, nil
}

func allSources() []source {
	all := append([]source{kindBase}, shown...)
	for _, o := range outputs {
		all = append(all, o.sources...)
	}
	return all
}

// stampText is one line per module, and one for what is in these folders.
func stampText(mods map[string]module, folders ...fs.FS) (string, error) {
	lines := []string{}
	for _, s := range allSources() {
		line := s.module + " " + mods[s.key()].version
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	sum := sha256.New()
	for _, folder := range folders {
		err := fs.WalkDir(folder, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(folder, name)
			fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("# what the files here are rendered from\n%s\nrenderer %x\n", strings.Join(lines, "\n"), sum.Sum(nil)), nil
}

// complete reports whether every output is there: a stamp alone proves nothing.
func complete(dir string, addons []string) bool {
	names := []string{"kind-base"}
	for _, name := range addons {
		names = append(names, name+".yaml")
	}
	for _, o := range outputs {
		if filepath.Ext(o.name) != "" {
			names = append(names, o.name)
		}
	}
	return !slices.ContainsFunc(names, func(n string) bool {
		_, err := os.Stat(filepath.Join(dir, n))
		return err != nil
	})
}

// clear removes what an earlier renderer left, the committed .gitignore kept.
func clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	// The stamp goes first, or an interruption here could leave it with half of the files.
	if err := os.RemoveAll(filepath.Join(dir, stamp)); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == ".gitignore" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (o output) text(mods map[string]module) ([]byte, error) {
	var head, body bytes.Buffer
	for _, s := range o.sources {
		m := mods[s.key()]
		fmt.Fprintf(&head, "# rendered from %s@%s\n", s.module, m.version)
		if len(s.folders) > 0 {
			built, err := kustomize.Folders(m.dir, s.namespace, s.folders...)
			if err != nil {
				return nil, fmt.Errorf("%s@%s: %w", s.module, m.version, err)
			}
			if err := normal(&body, built); err != nil {
				return nil, err
			}
		}
		for _, g := range s.globs {
			files, err := fs.Glob(os.DirFS(m.dir), g)
			if err != nil {
				return nil, err
			}
			if len(files) == 0 {
				return nil, fmt.Errorf("%s@%s has no %s", s.module, m.version, g)
			}
			for _, f := range files { // Glob sorts
				b, err := os.ReadFile(filepath.Join(m.dir, f))
				if err != nil {
					return nil, err
				}
				if filepath.Ext(f) != ".yaml" {
					return b, nil
				}
				if err := normal(&body, b); err != nil {
					return nil, fmt.Errorf("%s@%s/%s: %w", s.module, m.version, f, err)
				}
			}
		}
	}
	return append(head.Bytes(), body.Bytes()...), nil
}

// encode returns objects with sorted keys, each as a line of JSON. That is YAML, too, and kube.Decode reads it many times
// faster: each `mllab up` reads 5 MB of it.
func encode(objs []*unstructured.Unstructured) ([]byte, error) {
	var out bytes.Buffer
	for _, o := range objs {
		line, err := json.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "---\n%s\n", line)
	}
	return out.Bytes(), nil
}

// normal appends the documents in data as encode writes objects, without comments.
func normal(out *bytes.Buffer, data []byte) error {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		j, err := yaml.YAMLToJSON(doc)
		if err != nil {
			return err
		}
		if string(j) == "null" {
			continue // only comments
		}
		fmt.Fprintf(out, "---\n%s\n", j)
	}
}

func goRun(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// A workspace would overrule the pins of the nested modules.
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if exit, is := errors.AsType[*exec.ExitError](err); is {
		err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(exit.Stderr))
	}
	return string(out), err
}
