package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/kube"
	"mllab.local/internal/kustomize"
)

// pinned matches a module in an addon's file, ${github.com/fluxcd/source-controller}.
// Its version replaces it.
var pinned = regexp.MustCompile(`\$\{([a-z0-9./-]+)\}`)

func copyAddons(to string, folders fs.FS, mods map[string]module) error {
	versions := map[string]string{}
	for key, m := range mods {
		_, name, _ := strings.Cut(key, " ")
		versions[name] = m.version
	}
	return fs.WalkDir(folders, ".", func(name string, d fs.DirEntry, err error) error {
		at := filepath.Join(to, name)
		if err != nil || d.IsDir() {
			return errors.Join(err, os.MkdirAll(at, 0o755))
		}
		text, err := fs.ReadFile(folders, name)
		if err != nil {
			return err
		}
		var unknown error
		text = pinned.ReplaceAllFunc(text, func(found []byte) []byte {
			module := string(pinned.FindSubmatch(found)[1])
			if versions[module] == "" {
				unknown = fmt.Errorf("%s/%s: nothing is rendered from a module %q", addons, name, module)
			}
			return []byte(versions[module])
		})
		return errors.Join(unknown, os.WriteFile(at, text, 0o644))
	})
}

// addon returns the objects that one addon's folder builds, as YAML.
func addon(folders, name string) ([]byte, error) {
	built, err := kustomize.Folders(folders, "", name)
	if err != nil {
		return nil, err
	}
	objs, err := kube.Decode(built)
	if err != nil {
		return nil, err
	}
	settings, err := os.ReadFile(filepath.Join(folders, name, "settings.yaml"))
	if err == nil {
		err = configure(objs, settings)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return encode(objs)
}

// configure merges settings into documents that are texts in ConfigMaps, which
// kustomize cannot patch. settings has the name of the ConfigMap, the key, and a
// merge patch by RFC 7386. A document in JSON stays JSON.
func configure(objs []*unstructured.Unstructured, settings []byte) error {
	var wanted map[string]map[string]any
	if err := yaml.UnmarshalStrict(settings, &wanted); err != nil {
		return fmt.Errorf("settings.yaml: %w", err)
	}
	for _, o := range objs {
		if o.GetKind() != "ConfigMap" {
			continue
		}
		for key, values := range wanted[o.GetName()] {
			if err := set(o, key, values); err != nil {
				return fmt.Errorf("settings.yaml: %s, %s: %w", kube.Name(o), key, err)
			}
		}
		delete(wanted, o.GetName())
	}
	for name := range wanted {
		return fmt.Errorf("settings.yaml: there is no ConfigMap %s", name)
	}
	return nil
}

// set merges values into the document under one key of a ConfigMap.
func set(config *unstructured.Unstructured, key string, values any) error {
	was, found, err := unstructured.NestedString(config.Object, "data", key)
	if err != nil || !found {
		return errors.Join(err, errors.New("there is no such document"))
	}
	document, err := yaml.YAMLToJSON([]byte(was))
	if err != nil {
		return err
	}
	patch, err := yaml.Marshal(values)
	if err == nil {
		patch, err = yaml.YAMLToJSON(patch)
	}
	if err == nil {
		document, err = jsonpatch.MergePatch(document, patch)
	}
	if err == nil && !strings.HasPrefix(strings.TrimSpace(was), "{") {
		document, err = yaml.JSONToYAML(document)
	}
	if err != nil {
		return err
	}
	return unstructured.SetNestedField(config.Object, string(document), "data", key)
}
