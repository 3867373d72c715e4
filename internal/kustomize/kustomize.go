// Package kustomize builds the objects of a folder as Flux does, from files in memory: without a network, without
// programs, without the disk. Folders alone reads the disk, when upstream's manifests are rendered. It is the only
// importer of the kustomize library.
package kustomize

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/kube"
)

// Spec is what a Flux Kustomization says of its build.
// https://fluxcd.io/flux/components/kustomize/kustomizations/#writing-a-kustomization-spec
type Spec struct {
	Path            string          `json:"path"`
	TargetNamespace string          `json:"targetNamespace"`
	NamePrefix      string          `json:"namePrefix"`
	NameSuffix      string          `json:"nameSuffix"`
	Patches         []types.Patch   `json:"patches"`
	Images          []types.Image   `json:"images"`
	Components      []string        `json:"components"`
	CommonMetadata  *commonMetadata `json:"commonMetadata"`
	PostBuild       any             `json:"postBuild"`
	Decryption      any             `json:"decryption"`
}

type commonMetadata struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// SpecOf reads a Kustomization of Flux.
func SpecOf(kustomization *unstructured.Unstructured) (Spec, error) {
	var s Spec
	text, err := json.Marshal(kustomization.Object["spec"])
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("reading the spec of %s: %w", kube.Name(kustomization), err)
	}
	return s, nil
}

// IsFile tells whether a path is that of a kustomization file.
func IsFile(name string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name))
}

// Has tells whether a build of files has something to begin with: a folder that is there.
func (s Spec) Has(files map[string][]byte) bool {
	for name := range files {
		if below(s.folder(), name) {
			return true
		}
	}
	return false
}

// folder is where the build begins: "" is the whole repository.
func (s Spec) folder() string { return strings.TrimPrefix(path.Clean("/"+s.Path), "/") }

func below(folder, name string) bool { return folder == "" || strings.HasPrefix(name, folder+"/") }

// Build builds the objects of the folder s.Path of files, by path in the repository.
//
// Errors: kustomize's own; that the folder needs what is not in the repository (remote bases), a program (generators,
// transformers, validators), or the cluster (variables, decryption), none of which is used here.
func Build(files map[string][]byte, s Spec) ([]*unstructured.Unstructured, error) {
	if s.PostBuild != nil {
		return nil, errors.New("spec.postBuild puts variables in, which is not done here")
	}
	if s.Decryption != nil {
		return nil, errors.New("spec.decryption takes a key, which is not here")
	}
	if !s.Has(files) {
		return nil, fmt.Errorf("there is no folder %q", s.folder())
	}
	disk := filesys.MakeFsInMemory()
	for name, content := range files {
		if err := disk.WriteFile("/"+name, content); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := s.complete(disk, files); err != nil {
		return nil, err
	}
	inside := &sealed{FileSystem: disk}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(inside, "/"+s.folder())
	if inside.refused != nil { // of which kustomize only says that it could not read something
		return nil, inside.refused
	}
	if err != nil {
		return nil, err
	}
	text, err := built.AsYaml()
	if err != nil {
		return nil, err
	}
	objs, err := kube.Decode(text)
	if err != nil {
		return nil, err
	}
	for _, o := range objs {
		if s.CommonMetadata != nil {
			o.SetLabels(merged(o.GetLabels(), s.CommonMetadata.Labels))
			o.SetAnnotations(merged(o.GetAnnotations(), s.CommonMetadata.Annotations))
		}
	}
	return objs, nil
}

// merged is m with more in it, nil when there is nothing.
func merged(m, more map[string]string) map[string]string {
	if m == nil && len(more) > 0 {
		m = map[string]string{}
	}
	maps.Copy(m, more)
	return m
}

// complete writes the kustomization file that Flux would: one that is there, with what the spec adds, or one of all
// manifests where there is none.
func (s Spec) complete(disk filesys.FileSystem, files map[string][]byte) error {
	var k types.Kustomization
	file := ""
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if at := path.Join(s.folder(), name); files[at] != nil {
			file = at
		}
	}
	if file == "" {
		file = path.Join(s.folder(), konfig.DefaultKustomizationFileName())
		k.Resources = manifests(files, s.folder())
	} else if err := yaml.Unmarshal(files[file], &k); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(k.Resources) == 0 { // or kustomize calls it empty
		k.BuildMetadata = []string{types.OriginAnnotations}
	}
	if s.TargetNamespace != "" {
		k.Namespace = s.TargetNamespace
	}
	if s.NamePrefix != "" {
		k.NamePrefix = s.NamePrefix
	}
	if s.NameSuffix != "" {
		k.NameSuffix = s.NameSuffix
	}
	k.Patches = append(k.Patches, s.Patches...)
	k.Components = append(k.Components, s.Components...)
	for _, image := range s.Images {
		k.Images = append(slices.DeleteFunc(k.Images, func(i types.Image) bool { return i.Name == image.Name }), image)
	}
	text, err := yaml.Marshal(k)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return disk.WriteFile("/"+file, text)
}

// manifests are the YAML files below a folder that has no kustomization file; a folder that has one is named instead.
func manifests(files map[string][]byte, folder string) []string {
	var built, list []string
	for name := range files {
		if below(folder, name) && IsFile(name) {
			built = append(built, path.Dir(name))
		}
	}
	for name := range files {
		ext := path.Ext(name)
		inside := slices.ContainsFunc(built, func(dir string) bool { return below(dir, name) })
		if below(folder, name) && (ext == ".yaml" || ext == ".yml") && !inside {
			list = append(list, name)
		}
	}
	for _, dir := range built {
		if !slices.ContainsFunc(built, func(other string) bool { return other != dir && below(other, dir) }) {
			list = append(list, dir)
		}
	}
	slices.Sort(list)
	for i, name := range list {
		if folder != "" {
			list[i] = strings.TrimPrefix(name, folder+"/")
		}
	}
	return list
}

// sealed is a file system whose kustomization files name nothing outside of it.
type sealed struct {
	filesys.FileSystem
	refused error // why a file was not handed out
}

// ReadFile refuses a kustomization file that would make kustomize use a network or a program.
func (s *sealed) ReadFile(name string) ([]byte, error) {
	text, err := s.FileSystem.ReadFile(name)
	if err != nil || !IsFile(name) {
		return text, err
	}
	if err := local(text); err != nil {
		s.refused = fmt.Errorf("%s: %w", strings.TrimPrefix(name, "/"), err)
		return nil, s.refused
	}
	return text, nil
}

// naming is what of a kustomization file names files, or programs.
type naming struct {
	Resources, Bases, Components, Crds, Configurations, PatchesStrategicMerge []string
	Generators, Transformers, Validators                                      []string
	HelmCharts, HelmChartInflationGenerator                                   []any
	OpenAPI                                                                   struct{ Path string }
	Patches, PatchesJson6902, Replacements                                    []struct{ Path string }
	ConfigMapGenerator, SecretGenerator                                       []struct {
		Files, Envs []string
		Env         string
	}
}

func local(text []byte) error {
	var n naming
	if err := yaml.Unmarshal(text, &n); err != nil {
		return err
	}
	if len(n.Generators)+len(n.Transformers)+len(n.Validators)+len(n.HelmCharts)+len(n.HelmChartInflationGenerator) > 0 {
		return errors.New("generators, transformers, validators and Helm charts are not run here")
	}
	named := slices.Concat(n.Resources, n.Bases, n.Components, n.Crds, n.Configurations, []string{n.OpenAPI.Path})
	for _, p := range n.PatchesStrategicMerge {
		if !strings.Contains(p, "\n") { // else it is the patch itself
			named = append(named, p)
		}
	}
	for _, p := range slices.Concat(n.Patches, n.PatchesJson6902, n.Replacements) {
		named = append(named, p.Path)
	}
	for _, g := range slices.Concat(n.ConfigMapGenerator, n.SecretGenerator) {
		for _, f := range slices.Concat(g.Files, g.Envs, []string{g.Env}) {
			if _, file, keyed := strings.Cut(f, "="); keyed {
				f = file
			}
			named = append(named, f)
		}
	}
	for _, name := range named {
		// What kustomize takes for an address has one of these.
		if strings.ContainsAny(name, ":@") || strings.HasPrefix(strings.ToLower(name), "github.com/") {
			return fmt.Errorf("%q is not in the repository, and nothing is fetched here", name)
		}
	}
	return nil
}
