package scenarios

import (
	"bytes"
	"fmt"
	"io/fs"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

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
