package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// render fills a manifest of the stories in, as a Go template, and reads its
// objects. What data does not have is an error.
func render(file string, data any) ([]*unstructured.Unstructured, error) {
	text, err := fill("scenarios/"+file, data)
	if err != nil {
		return nil, err
	}
	objs, err := kube.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return objs, nil
}

// applyFile is apply of a manifest that is filled in with data, and of more objects.
func (l *Session) applyFile(ctx context.Context, file string, data any, more ...*unstructured.Unstructured) error {
	objs, err := render(file, data)
	if err != nil {
		return err
	}
	return l.apply(ctx, append(objs, more...)...)
}

// writeFile is write of a manifest that is filled in with data. It returns the objects.
func (l *Session) writeFile(ctx context.Context, file string, data any) ([]*unstructured.Unstructured, error) {
	objs, err := render(file, data)
	if err != nil {
		return nil, err
	}
	return objs, l.write(ctx, objs...)
}

// fill fills a file of the stories in, as a Go template. What data does not have
// is an error.
func fill(file string, data any) ([]byte, error) {
	text, err := manifests.Scenarios.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t, err := template.New(file).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// fillAll fills in all files below a folder of the stories, and returns them by
// their paths in it. One that is then empty is left out.
func fillAll(folder string, data any) (map[string][]byte, error) {
	below, err := fs.Sub(manifests.Scenarios, "scenarios/"+folder)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	return files, fs.WalkDir(below, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fill("scenarios/"+folder+"/"+name, data)
		if len(bytes.TrimSpace(text)) > 0 {
			files[name] = text
		}
		return err
	})
}

// object is one of the run's, without its content.
func (l *Session) object(apiVersion, kind, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(l.Namespace)
	o.SetName(name)
	return o
}

func (l *Session) live(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return o, l.Kube.Get(ctx, client.ObjectKeyFromObject(o), o)
}

// conditionOf returns the status of a condition, and its reason and message in one
// line.
func conditionOf(o *unstructured.Unstructured, kind string) (status, why string) {
	if c, ok := kube.ConditionOf(o, kind); ok {
		return c.Status, oneLine(c.Reason + ": " + c.Message)
	}
	return "Unknown", "it has not said anything yet"
}

// oneLine returns a text with single spaces as its only white space, cut if it is
// too long to read.
func oneLine(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}

// neverBuilt is a tag of an image that nobody has built.
const neverBuilt = "never-built"

func splitImage(image string) (name, tag string) {
	at := strings.LastIndex(image, ":")
	return image[:at], image[at+1:]
}

// union adds to a list what it does not have yet.
func union[T comparable](list []T, more ...T) []T {
	for _, each := range more {
		if !slices.Contains(list, each) {
			list = append(list, each)
		}
	}
	return list
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
