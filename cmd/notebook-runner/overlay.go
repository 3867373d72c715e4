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

	"mllab.local/internal/delivery"
	"mllab.local/internal/git"
	"mllab.local/manifests"
)

// overlay is the folder in Git that names the model that serves, and the traffic share of each revision.
type overlay struct {
	folder  string
	service string // the Knative Service's name
	percent int64  // a new model's share of the traffic while another one serves
}

// model is a model to serve.
type model struct {
	run      string // that trained it
	notebook string // digest
	commit   string // of the notebook
	result
}

// Paths of the patches.
const (
	namePath  = "/spec/template/metadata/name"
	envPath   = "/spec/template/spec/containers/0/env/-"
	imagePath = "/spec/template/spec/initContainers/0/image"
)

// runTrailer is the line of a commit's message that names its run.
const runTrailer = "Run: "

// committed returns the commit of a run since the overlay last had no model, or "". A reverted commit counts, too.
func (o overlay) committed(repo *git.Repo, log []git.Commit, run string) (string, error) {
	for _, c := range log {
		if !slices.ContainsFunc(c.Files, func(name string) bool { return path.Dir(name) == path.Clean(o.folder) }) {
			continue
		}
		if slices.Contains(strings.Split(c.Message, "\n"), runTrailer+run) {
			return c.Hash, nil
		}
		files, err := repo.Files(c.Hash, o.folder)
		if err != nil || files[delivery.TrafficFile] == nil {
			return "", err
		}
	}
	return "", nil
}

// change returns the change that makes a model serve. It gets all traffic if no other model serves, else percent.
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
	legs := []delivery.Leg{{LatestRevision: true, Percent: 100}}
	share := int64(100)
	if stable != "" && stable != revision {
		share = o.percent
		legs = []delivery.Leg{{RevisionName: stable, Percent: 100 - share}, {LatestRevision: true, Percent: share}}
	}
	interval := fmt.Sprintf("%.3f..%.3f", m.Low, m.High)
	accuracy := fmt.Sprintf("%.3f", m.Accuracy)
	card, err := delivery.Card{
		Run: m.run, Revision: revision, Image: m.Image, Model: m.Model, Data: m.Data, Notebook: m.notebook, NotebookCommit: m.commit,
		Accuracy: accuracy, Interval: interval, HeldOut: strconv.Itoa(m.HeldOut),
	}.Fields()
	if err != nil {
		return git.Change{}, err
	}
	files := map[string][]byte{delivery.KustomizationFile: slices.Clone(manifests.NotebookOverlay)}
	for name, content := range map[string]any{
		delivery.CardFile:    map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": delivery.CardName}, "data": card},
		delivery.TrafficFile: delivery.Traffic(legs...),
		delivery.ModelFile: []delivery.Patch{
			{Op: "add", Path: namePath, Value: revision},
			{Op: "add", Path: envPath, Value: map[string]string{"name": "TARGET", "value": revision}},
			{Op: "add", Path: imagePath, Value: m.Image},
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

// stable returns the revision that has most of the traffic in an overlay's files, or "" if they have no model.
func stable(files map[string][]byte) (string, error) {
	if files[delivery.TrafficFile] == nil {
		return "", nil
	}
	var legs []struct {
		Path  string
		Value []delivery.Leg
	}
	if err := yaml.Unmarshal(files[delivery.TrafficFile], &legs); err != nil {
		return "", fmt.Errorf("%s: %w", delivery.TrafficFile, err)
	}
	if len(legs) != 1 || legs[0].Path != delivery.TrafficPath || len(legs[0].Value) == 0 {
		return "", fmt.Errorf("%s must have one patch of %s", delivery.TrafficFile, delivery.TrafficPath)
	}
	most := slices.MaxFunc(legs[0].Value, func(a, b delivery.Leg) int { return int(a.Percent - b.Percent) })
	if most.RevisionName != "" {
		return most.RevisionName, nil
	}
	var model []delivery.Patch
	if err := yaml.Unmarshal(files[delivery.ModelFile], &model); err != nil {
		return "", fmt.Errorf("%s: %w", delivery.ModelFile, err)
	}
	for _, p := range model {
		if name, is := p.Value.(string); is && p.Path == namePath {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s: no patch of %s", delivery.ModelFile, namePath)
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}
