package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"mllab.local/internal/git"
)

// overlay is the folder in Git that says which model serves, and who gets how much of the traffic.
type overlay struct {
	folder  string
	service string // the Knative Service's name
	percent int64  // of a new model's traffic, as long as another one serves
}

// The files of an overlay. The Service itself is in ../../base.
const (
	kustomizationFile = "kustomization.yaml"
	modelFile         = "model.yaml"
	trafficFile       = "traffic.yaml"
	cardFile          = "card.yaml"
)

const kustomization = `# Written by the runner.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../base
  - card.yaml
patches:
  - {path: model.yaml, target: {group: serving.knative.dev, kind: Service}}
  - {path: traffic.yaml, target: {group: serving.knative.dev, kind: Service}}
`

// model is one that is to serve.
type model struct {
	run      string // that made it
	notebook string // digest
	commit   string // of the notebook
	result
}

// patch is one of RFC 6902.
type patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// leg is an entry of a Knative Service's traffic. One without a name is the newest revision that is ready: so a commit
// that brings a revision moves no traffic before it can serve.
type leg struct {
	RevisionName   string `json:"revisionName,omitempty"`
	LatestRevision bool   `json:"latestRevision"`
	Percent        int64  `json:"percent"`
}

// Where the patches go.
const (
	namePath    = "/spec/template/metadata/name"
	envPath     = "/spec/template/spec/containers/0/env/-"
	imagePath   = "/spec/template/spec/initContainers/0/image"
	trafficPath = "/spec/traffic"
)

// runTrailer is the line of a commit's message that names its run.
const runTrailer = "Run: "

// committed is the commit of a run, if there is one since there was no model. One that was taken back counts, too.
func (o overlay) committed(repo *git.Repo, log []git.Commit, run string) (string, error) {
	for _, c := range log {
		if !slices.ContainsFunc(c.Files, func(name string) bool { return path.Dir(name) == path.Clean(o.folder) }) {
			continue
		}
		if slices.Contains(strings.Split(c.Message, "\n"), runTrailer+run) {
			return c.Hash, nil
		}
		files, err := repo.Files(c.Hash, o.folder)
		if err != nil || files[trafficFile] == nil {
			return "", err
		}
	}
	return "", nil
}

// change is the commit that has a model served: all traffic is its own if none was, and else its percent.
func (o overlay) change(repo *git.Repo, m model) (git.Change, error) {
	now, err := repo.Files(repo.Head(), o.folder)
	if err != nil {
		return git.Change{}, err
	}
	stable, err := stable(now)
	if err != nil {
		return git.Change{}, fmt.Errorf("folder %s: %w", o.folder, err)
	}
	revision := o.service + m.run[strings.LastIndex(m.run, "-"):]
	legs := []leg{{LatestRevision: true, Percent: 100}}
	share := int64(100)
	if stable != "" && stable != revision {
		share = o.percent
		legs = []leg{{RevisionName: stable, Percent: 100 - share}, {LatestRevision: true, Percent: share}}
	}
	interval := fmt.Sprintf("%.3f..%.3f", m.Low, m.High)
	accuracy := fmt.Sprintf("%.3f", m.Accuracy)
	card := map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "model-card"},
		"data": map[string]string{
			"run": m.run, "revision": revision, "image": m.Image, "model": m.Model, "data": m.Data, "notebook": m.notebook, "notebookCommit": m.commit,
			"accuracy": accuracy, "interval95": interval, "heldOut": strconv.Itoa(m.HeldOut),
		},
	}
	files := map[string][]byte{kustomizationFile: []byte(kustomization)}
	for name, content := range map[string]any{
		cardFile:    card,
		trafficFile: []patch{{"add", trafficPath, legs}},
		modelFile: []patch{
			{"add", namePath, revision},
			{"add", envPath, map[string]string{"name": "TARGET", "value": revision}},
			{"add", imagePath, m.Image},
		},
	} {
		text, err := yaml.Marshal(content)
		if err != nil {
			return git.Change{}, err
		}
		files[name] = append([]byte("# Written by the runner.\n"), text...)
	}
	message := fmt.Sprintf("%s: %d %% to %s, accuracy %s (%s)\n\nNotebook: %s\nNotebook-Commit: %s\nData: %s\nModel: %s\nImage: %s\n"+runTrailer+"%s",
		m.run, share, revision, accuracy, interval, m.notebook, m.commit, m.Data, m.Model, m.Image, m.run)
	return git.Change{Folder: o.folder, Files: files, All: true, Message: message}, nil
}

// stable is the revision that has most of the traffic by an overlay's files, or "" when no model is in them.
func stable(files map[string][]byte) (string, error) {
	if files[trafficFile] == nil {
		return "", nil
	}
	var legs []struct {
		Path  string
		Value []leg
	}
	if err := yaml.Unmarshal(files[trafficFile], &legs); err != nil {
		return "", fmt.Errorf("%s: %w", trafficFile, err)
	}
	if len(legs) != 1 || legs[0].Path != trafficPath || len(legs[0].Value) == 0 {
		return "", fmt.Errorf("%s: want one patch of %s", trafficFile, trafficPath)
	}
	most := slices.MaxFunc(legs[0].Value, func(a, b leg) int { return int(a.Percent - b.Percent) })
	if most.RevisionName != "" {
		return most.RevisionName, nil
	}
	var model []patch
	if err := yaml.Unmarshal(files[modelFile], &model); err != nil {
		return "", fmt.Errorf("%s: %w", modelFile, err)
	}
	for _, p := range model {
		if name, is := p.Value.(string); is && p.Path == namePath {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s: no patch of %s", modelFile, namePath)
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}
