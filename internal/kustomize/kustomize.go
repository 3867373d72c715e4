// Package kustomize builds the objects of a folder with Flux's own library, so that it fails where Flux fails. It fetches
// nothing and runs no program. Folders builds upstream's folders when mllab is built. It is the only importer of the
// kustomize library.
package kustomize

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	flux "github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/kube"
)

// ErrNotBuilt means that a folder needs something that is not in it: a network, a key, values of the cluster. Flux may
// have built it.
var ErrNotBuilt = errors.New("mllab does not build this folder")

// Of returns a Flux Kustomization that has only a path.
func Of(folder string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"path": folder}}}
}

// Folder returns the folder that a Flux Kustomization names, with slashes but no leading one. "" is the whole
// repository.
func Folder(kustomization *unstructured.Unstructured) string {
	at, _, _ := unstructured.NestedString(kustomization.Object, "spec", "path")
	return strings.TrimPrefix(path.Clean("/"+at), "/")
}

// IsFile reports whether a path names a kustomization file.
func IsFile(name string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name))
}

// Build builds the objects of a Flux Kustomization, as kustomize-controller does. root is a local folder with the files of
// the repository (git.Repo.Export). Build leaves no file in it.
// https://github.com/fluxcd/kustomize-controller/blob/v1.9.6/internal/controller/kustomization_controller.go
//
// Errors: ErrNotBuilt; fs.ErrNotExist if the folder does not exist; the errors that Flux reports, with paths in the
// repository.
func Build(ctx context.Context, root string, kustomization *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	root, err := filepath.EvalSymlinks(root) // as kustomize writes it in its errors
	if err != nil {
		return nil, err
	}
	if err := checkBuildable(kustomization.Object); err != nil {
		return nil, err
	}
	folder := Folder(kustomization)
	dir := filepath.Join(root, filepath.FromSlash(folder))
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("folder %q: %w", folder, errors.Unwrap(err))
	}
	objs, err := build(ctx, root, dir, kustomization)
	if err != nil && !errors.Is(err, ErrNotBuilt) {
		err = errors.New(strings.NewReplacer(root+"/", "", root, "the repository").Replace(err.Error()))
	}
	return objs, err
}

// checkBuildable returns ErrNotBuilt if a Kustomization uses something that only Flux has.
func checkBuildable(kustomization map[string]any) error {
	if _, set, _ := unstructured.NestedMap(kustomization, "spec", "decryption"); set {
		return fmt.Errorf("%w: spec.decryption needs a key", ErrNotBuilt)
	}
	if from, _, _ := unstructured.NestedSlice(kustomization, "spec", "postBuild", "substituteFrom"); len(from) > 0 {
		return fmt.Errorf("%w: spec.postBuild.substituteFrom needs values of the cluster at that time", ErrNotBuilt)
	}
	return nil
}

func build(ctx context.Context, root, dir string, kustomization *unstructured.Unstructured) (objs []*unstructured.Unstructured, err error) {
	done, err := flux.NewGenerator(root, *kustomization).WriteFile(dir, flux.WithSaveOriginalKustomization())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, flux.CleanDirectory(dir, done)) }()
	disk, err := securefs.MakeFsOnDiskSecure(root)
	if err != nil {
		return nil, err
	}
	inside := &sealed{FileSystem: disk}
	built, err := flux.Build(inside, dir)
	if inside.refused != nil { // kustomize itself only says that it could not read a file
		return nil, inside.refused
	}
	if err != nil {
		return nil, err
	}
	if _, set, _ := unstructured.NestedMap(kustomization.Object, "spec", "postBuild"); set {
		for _, res := range built.Resources() {
			replaced, err := flux.SubstituteVariables(ctx, nil, *kustomization, res, flux.SubstituteWithDryRun(true))
			if err == nil && replaced != nil {
				_, err = built.Replace(res)
			}
			if err != nil {
				return nil, fmt.Errorf("post build failed for '%s': %w", res.GetName(), err)
			}
		}
	}
	text, err := built.AsYaml()
	if err != nil {
		return nil, err
	}
	if objs, err = kube.Decode(text); err != nil {
		return nil, err
	}
	labels, _, _ := unstructured.NestedStringMap(kustomization.Object, "spec", "commonMetadata", "labels")
	annotations, _, _ := unstructured.NestedStringMap(kustomization.Object, "spec", "commonMetadata", "annotations")
	for _, o := range objs {
		o.SetLabels(merged(o.GetLabels(), labels))
		o.SetAnnotations(merged(o.GetAnnotations(), annotations))
	}
	return objs, nil
}

// merged returns m with the entries of more, or nil if both are empty.
func merged(m, more map[string]string) map[string]string {
	if m == nil && len(more) > 0 {
		m = map[string]string{}
	}
	maps.Copy(m, more)
	return m
}

// sealed is a file system that refuses kustomization files that name something outside of it.
type sealed struct {
	filesys.FileSystem
	refused error // why ReadFile refused a file
}

// ReadFile refuses a kustomization file that would make kustomize use the network.
func (s *sealed) ReadFile(name string) ([]byte, error) {
	text, err := s.FileSystem.ReadFile(name)
	if err != nil || !IsFile(name) {
		return text, err
	}
	if err := s.local(path.Dir(name), text); err != nil {
		s.refused = err
		return nil, err
	}
	return text, nil
}

type fileRefs struct {
	Resources, Bases, Components                []string // files or folders
	Crds, Configurations, PatchesStrategicMerge []string // files
	Generators, Transformers, Validators        []string
	OpenAPI                                     struct{ Path string }
	Patches, PatchesJson6902, Replacements      []struct{ Path string }
	ConfigMapGenerator, SecretGenerator         []struct {
		Files, Envs []string
		Env         string
	}
}

var (
	// Names that kustomize fetches by HTTP: api/internal/loader/fileloader.go of kustomize v0.20.1.
	address = regexp.MustCompile(`(?i)^https?:`)
	// Names that kustomize clones if there is no such file: api/internal/git/repospec.go.
	repository = regexp.MustCompile(`(?i)^(git::|gh:|ssh://|file://|github\.com[:/]|[a-z][a-z0-9-]*@)`)
	// What the configuration of a generator, transformer or validator needs to name an address: the address as it is, or
	// YAML's means to write it otherwise (an escape, a tag such as !!binary).
	fetches = regexp.MustCompile(`(?i)https?:\S|[\\!]`)
)

// local returns ErrNotBuilt if text, a kustomization file in folder dir, names something that kustomize would fetch.
func (s *sealed) local(dir string, text []byte) error {
	var n fileRefs
	if err := yaml.Unmarshal(text, &n); err != nil {
		return nil // kustomize itself reports this error
	}
	either := slices.Concat(n.Resources, n.Bases, n.Components)
	for _, entry := range slices.Concat(n.Generators, n.Transformers, n.Validators) {
		if strings.Contains(entry, "\n") { // the configuration itself, and no name
			if fetches.MatchString(entry) {
				return mayFetch("")
			}
			continue
		}
		either = append(either, entry)
		at := path.Join(dir, entry)
		if s.IsDir(at) {
			return mayFetch(entry)
		}
		if text, err := s.FileSystem.ReadFile(at); err == nil && fetches.Match(text) { // kustomize itself reports the error
			return mayFetch(entry)
		}
	}
	files := slices.Concat(n.Crds, n.Configurations, n.PatchesStrategicMerge, []string{n.OpenAPI.Path})
	for _, p := range slices.Concat(n.Patches, n.PatchesJson6902, n.Replacements) {
		files = append(files, p.Path)
	}
	for _, g := range slices.Concat(n.ConfigMapGenerator, n.SecretGenerator) {
		for _, f := range slices.Concat(g.Files, g.Envs, []string{g.Env}) {
			if _, file, keyed := strings.Cut(f, "="); keyed {
				f = file
			}
			files = append(files, f)
		}
	}
	for _, name := range slices.Concat(files, either) {
		if address.MatchString(name) {
			return notFetched(name)
		}
	}
	for _, name := range either {
		at := path.Join(dir, name)
		if repository.MatchString(name) && (!s.Exists(at) || s.IsDir(at)) {
			return notFetched(name)
		}
	}
	return nil
}

// mayFetch returns ErrNotBuilt for a generator, transformer or validator; its name is "" if it has none.
func mayFetch(name string) error {
	return fmt.Errorf("%w: the generator, transformer or validator %q may name an address, which mllab does not fetch", ErrNotBuilt, name)
}

func notFetched(name string) error {
	return fmt.Errorf("%w: it names %q, which mllab does not fetch", ErrNotBuilt, name)
}
