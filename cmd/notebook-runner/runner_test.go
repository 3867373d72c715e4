package main

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"mllab.local/internal/delivery"
	"mllab.local/internal/git"
)

// program is the lab's own Git server, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gitserver-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "gitserver")
	out, err := exec.Command("go", "build", "-o", file, "mllab.local/cmd/gitserver").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("building the Git server: %w\n%s", err, out)
	}
	return file, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

// cluster is the little of Kubernetes that a runner sees: an API that keeps what is created, Argo that gives each
// Workflow a status, and the lab's Git.
type cluster struct {
	*testing.T
	dir string // of what is mounted into the pod
	git *url.URL
	// pushing, if any, is called before a push goes on.
	pushing func()
	// looked, if any, is called when a Workflow is asked for.
	looked func()

	mu     sync.Mutex
	made   map[string]string // objects by path
	status []string          // of the Workflows, one for each time that it is asked; the last one stays
	refuse int               // status of the next answers, so many
	with   int
}

const token = "a-token-of-tests"

func newCluster(t *testing.T) *cluster {
	c := &cluster{T: t, dir: t.TempDir(), made: map[string]string{}}
	api := httptest.NewTLSServer(c)
	t.Cleanup(api.Close)
	at, err := url.Parse(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", at.Hostname())
	t.Setenv("KUBERNETES_SERVICE_PORT", at.Port())
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	for name, text := range map[string]string{
		"account/token": "of-the-pod\n", "account/namespace": "ns", "account/ca.crt": string(ca), "token/username": "mllab", "token/password": token,
	} {
		c.write(name, text)
	}
	c.serveGit()
	return c
}

func (c *cluster) write(name, text string) {
	c.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) serveGit() {
	file, err := program()
	if err != nil {
		c.Fatal(err)
	}
	var addresses [2]string
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.Fatal(err)
		}
		addresses[i] = l.Addr().String()
		l.Close()
	}
	server := exec.Command(file, "--data", c.TempDir(), "--token", filepath.Join(c.dir, "token"), "--inside", addresses[0], "--outside", addresses[1])
	out, err := server.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := server.Start(); err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _, _ = server.Process.Kill(), server.Wait() })
	lines := bufio.NewScanner(out)
	for listening := 0; listening < 2 && lines.Scan(); {
		if strings.Contains(lines.Text(), `"listening"`) {
			listening++
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addresses[0]})
	way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if push := c.pushing; push != nil && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "git-receive-pack") {
			c.pushing = nil
			push()
		}
		to.ServeHTTP(w, r)
	}))
	c.Cleanup(way.Close)
	if c.git, err = url.Parse(way.URL + "/lab.git"); err != nil {
		c.Fatal(err)
	}
	c.git.User = url.UserPassword("mllab", token)
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	var o struct{ Metadata struct{ Name string } }
	switch {
	case r.Header.Get("Authorization") != "Bearer of-the-pod":
		http.Error(w, "who?", http.StatusUnauthorized)
	case c.refuse > 0:
		c.refuse--
		http.Error(w, "not now", c.with)
	case r.Method == http.MethodGet && c.made[r.URL.Path] == "":
		http.Error(w, "there is none", http.StatusNotFound)
	case r.Method == http.MethodGet:
		if c.looked != nil {
			c.looked()
		}
		fmt.Fprintf(w, `{"metadata":{"uid":"u-%s"},"status":%s}`, path.Base(r.URL.Path), c.status[0])
		c.status = c.status[min(1, len(c.status)-1):]
	case err != nil || json.Unmarshal(body, &o) != nil || o.Metadata.Name == "":
		http.Error(w, "no object", http.StatusBadRequest)
	case c.made[r.URL.Path+"/"+o.Metadata.Name] != "":
		http.Error(w, "it is there", http.StatusConflict)
	default:
		c.made[r.URL.Path+"/"+o.Metadata.Name] = string(body)
		w.WriteHeader(http.StatusCreated)
	}
}

func (c *cluster) clone() *git.Repo {
	c.Helper()
	repo, err := git.Clone(c.Context(), c.git, "ada")
	if err != nil {
		c.Fatal(err)
	}
	return repo
}

func (c *cluster) push(folder string, files map[string]string) string {
	c.Helper()
	change := git.Change{Folder: folder, Files: map[string][]byte{}, Message: "by a person"}
	for name, text := range files {
		change.Files[name] = []byte(text)
	}
	commit, err := c.clone().Commit(c.Context(), change)
	if err != nil {
		c.Fatal(err)
	}
	return commit
}

// overlay is what is in Git of it.
func (c *cluster) overlay() map[string]string {
	c.Helper()
	repo := c.clone()
	files, err := repo.Files(repo.Head(), "team/overlays/lab")
	if err != nil {
		c.Fatal(err)
	}
	texts := map[string]string{}
	for name, text := range files {
		texts[name] = string(text)
	}
	return texts
}

const (
	trainCell = `{"cell_type": "code", "source": "x = %d", "metadata": {"tags": ["step:train"]}}`
	image     = "registry:5000/ns/model@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
	model1    = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	data1     = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// notebookOf is a notebook with these cells.
func notebookOf(cells ...string) string {
	return `{"nbformat": 4, "cells": [` + strings.Join(cells, ",") + `]}`
}

// statusOf is a Workflow's, whose one step hands this out. A message names the
// exit code of its last pod as Argo does.
func statusOf(phase, step, message, result string) string {
	code := regexp.MustCompile(`\(exit code (\d+)\)`).FindStringSubmatch(message + "(exit code 0)")[1]
	text, err := json.Marshal(map[string]any{"phase": phase, "message": "child failed", "nodes": map[string]any{
		"a": map[string]any{"displayName": "run", "type": "DAG", "phase": phase, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": nil},
		"b": map[string]any{"displayName": "train", "type": "Retry", "phase": step, "message": "no more tries", "outputs": map[string]any{
			"parameters": []any{map[string]any{"name": "result", "value": result}},
		}},
		"c": map[string]any{"displayName": "train(0)", "type": "Pod", "phase": "Failed", "message": "the first try", "startedAt": "2026-01-01T00:00:01Z"},
		"d": map[string]any{"displayName": "train(1)", "type": "Pod", "phase": step, "message": message, "startedAt": "2026-01-01T00:00:02Z", "outputs": map[string]any{"exitCode": code}},
	}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

var good = statusOf("Succeeded", "Succeeded", "", `{"image": "`+image+`", "model": "`+model1+`", "data": "`+data1+`", "accuracy": 0.9651, "low": 0.92, "high": 0.989, "held_out": 143}`)

// notebook has Git and the pod have this one, and Argo these statuses; it returns the commit.
func (c *cluster) notebook(text string, status ...string) string {
	c.Helper()
	c.write("code/breast cancer.ipynb", text)
	c.write("code/helper.py", "y = 1\n")
	c.status = status
	return c.push("team/training", map[string]string{"breast cancer.ipynb": text, "helper.py": "y = 1\n"})
}

// run runs a runner and returns its exit code, its message, and what it prints.
func (c *cluster) run(args ...string) (code int, word delivery.End, out string) {
	c.Helper()
	return c.runUntil(c.Context(), args...)
}

func (c *cluster) runUntil(ctx context.Context, args ...string) (code int, word delivery.End, out string) {
	c.Helper()
	message := filepath.Join(c.dir, "message")
	bare := *c.git
	bare.User = nil
	args = append([]string{
		"--code", filepath.Join(c.dir, "code"), "--image", "python:1", "--store", "registry:5000/ns/store", "--git", bare.String(),
		"--token", filepath.Join(c.dir, "token"), "--source", "team/training", "--overlay", "team/overlays/lab",
	}, args...)
	var b strings.Builder
	code = run(ctx, args, filepath.Join(c.dir, "account"), message, &b)
	text, err := os.ReadFile(message)
	if err == nil {
		err = json.Unmarshal(text, &word)
	}
	if err != nil {
		c.Errorf("the message %q: %v", text, err)
	}
	for line := range strings.Lines(b.String()) {
		if !json.Valid([]byte(line)) {
			c.Errorf("it printed %q", line)
		}
	}
	return code, word, b.String()
}

func (c *cluster) commits() int {
	c.Helper()
	log, err := c.clone().Log()
	if err != nil {
		c.Fatal(err)
	}
	return len(log)
}

func TestANotebookBecomesACommitAndTheSameOneNoSecond(t *testing.T) {
	c := newCluster(t)
	pushed := c.notebook(notebookOf(fmt.Sprintf(trainCell, 1)), `null`, statusOf("Running", "Pending", "", ""), good)
	before := c.commits()
	code, word, out := c.run()
	if code != 0 || word.Commit == "" || word.Error != "" || c.commits() != before+1 {
		t.Fatalf("%d %+v\n%s", code, word, out)
	}
	suffix := word.Run[strings.LastIndex(word.Run, "-"):]
	if word.Run != "breast-cancer"+suffix {
		t.Errorf("the run is %s", word.Run)
	}
	want := []string{"/api/v1/namespaces/ns/configmaps/" + word.Run, "/apis/argoproj.io/v1alpha1/namespaces/ns/workflows/" + word.Run}
	if got := slices.Sorted(maps.Keys(c.made)); !slices.Equal(got, want) {
		t.Errorf("it made %v", got)
	}
	if text := c.made[want[0]]; !strings.Contains(text, "helper.py") || !strings.Contains(text, "run.py") || !strings.Contains(text, `"uid":"u-`+word.Run+`"`) {
		t.Errorf("the code is %s", text)
	}
	files := c.overlay()
	for file, wants := range map[string][]string{
		"card.yaml":          {"run: " + word.Run, "notebookCommit: " + pushed, "model: " + model1, "data: " + data1, "accuracy: \"0.965\"", "interval95: 0.920..0.989", `heldOut: "143"`},
		"model.yaml":         {"value: " + image, "value: model" + suffix},
		"traffic.yaml":       {"latestRevision: true\n    percent: 100"},
		"kustomization.yaml": {"../../base"},
	} {
		for _, want := range wants {
			if !strings.Contains(files[file], want) {
				t.Errorf("%s lacks %q:\n%s", file, want, files[file])
			}
		}
	}
	log, err := c.clone().Log()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"100 % to model" + suffix, "\nNotebook-Commit: " + pushed, "\nModel: " + model1, "\nData: " + data1, "\nImage: " + image, "\nRun: " + word.Run} {
		if !strings.Contains(log[0].Message, want) {
			t.Errorf("the message lacks %q:\n%s", want, log[0].Message)
		}
	}

	// A pod that begins anew takes up what is there.
	code, again, out := c.run()
	if code != 0 || again != word || c.commits() != before+1 || !strings.Contains(out, `"found"`) {
		t.Errorf("again: %d %+v\n%s", code, again, out)
	}
	// But not when there is no model any more.
	if _, err := c.clone().Commit(t.Context(), git.Change{Folder: "team/overlays", All: true, Message: "the run is over"}); err != nil {
		t.Fatal(err)
	}
	if code, again, _ := c.run(); code != 0 || again.Commit == word.Commit || again.Commit == "" {
		t.Errorf("begun anew: %d %+v", code, again)
	}
}

func TestANewModelGetsItsShareBesideTheOneThatServes(t *testing.T) {
	c := newCluster(t)
	traffic := func(n int, args ...string) (string, string) {
		t.Helper()
		c.notebook(notebookOf(fmt.Sprintf(trainCell, n)), good)
		code, word, out := c.run(args...)
		if code != 0 {
			t.Fatalf("%d %+v\n%s", code, word, out)
		}
		_, legs, _ := strings.Cut(c.overlay()["traffic.yaml"], "value:\n")
		return "model" + word.Run[strings.LastIndex(word.Run, "-"):], legs
	}
	const newest = "  - latestRevision: true\n    percent: %d\n"
	legs := func(stable string, percent int) string {
		return fmt.Sprintf(newest[:0]+"  - latestRevision: false\n    percent: %d\n    revisionName: %s\n"+newest, 100-percent, stable, percent)
	}
	first, got := traffic(1)
	if want := fmt.Sprintf(newest, 100); got != want {
		t.Errorf("the first: %s", got)
	}
	if _, got := traffic(2); got != legs(first, 10) {
		t.Errorf("the second: %s", got)
	}
	// A run whose commit was taken back is not committed again.
	taken, err := c.clone().Log()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.clone().Revert(t.Context(), taken[0].Hash); err != nil {
		t.Fatal(err)
	}
	before := c.commits()
	if code, word, _ := c.run(); code != 0 || word.Commit != taken[0].Hash || c.commits() != before {
		t.Errorf("taken back: %d %+v", code, word)
	}
	// A canary that nobody has promoted makes room for the next one.
	if _, got := traffic(3, "--percent", "25"); got != legs(first, 25) {
		t.Errorf("the third: %s", got)
	}
	// A person's promotion is what serves.
	c.push("team/overlays/lab", map[string]string{"traffic.yaml": "- op: add\n  path: /spec/traffic\n  value:\n    - {revisionName: model-x, latestRevision: false, percent: 100}\n"})
	if _, got := traffic(4); got != legs("model-x", 10) {
		t.Errorf("after a promotion: %s", got)
	}
	c.push("team/overlays/lab", map[string]string{"traffic.yaml": "who knows"})
	c.notebook(notebookOf(fmt.Sprintf(trainCell, 5)), good)
	if code, word, _ := c.run(); code != 1 || !strings.Contains(word.Error, "traffic.yaml") {
		t.Errorf("unreadable traffic: %d %+v", code, word)
	}
}

func TestABadNotebookIsTheJobsFailureAndNoCommit(t *testing.T) {
	train := notebookOf(fmt.Sprintf(trainCell, 1))
	for name, tc := range map[string]struct{ notebook, status, want string }{
		"a cell fails":       {train, statusOf("Failed", "Failed", "Error (exit code 1): cell 1: ZeroDivisionError: division by zero", "null"), "step train: Error (exit code 1): cell 1: ZeroDivisionError"},
		"no result":          {train, statusOf("Succeeded", "Succeeded", "", "null"), `no step sets the variable "result"`},
		"an odd result":      {train, statusOf("Succeeded", "Succeeded", "", `[1]`), "the notebook's result must be an object"},
		"an image by no tag": {train, strings.ReplaceAll(good, "@sha256:", ":v1-"), "image must have a digest"},
		"no tags":            {notebookOf(`{"cell_type": "code", "source": "x = 1", "metadata": {}}`), "", "cell 1 has no tag"},
		"a circle":           {notebookOf(`{"cell_type": "code", "source": "x = 1", "metadata": {"tags": ["step:a", "prev:a"]}}`), "", "in a circle: a -> a"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.notebook(tc.notebook, tc.status)
			before := c.commits()
			code, word, _ := c.run()
			if code != 4 || !strings.Contains(word.Error, tc.want) || word.Commit != "" || word.Run == "" || c.commits() != before {
				t.Errorf("%d %+v, want %q", code, word, tc.want)
			}
			if tc.status == "" && len(c.made) > 0 {
				t.Errorf("it made %v", slices.Collect(maps.Keys(c.made)))
			}
		})
	}
}

func TestWhatIsNotTheNewestInGitIsNotCommitted(t *testing.T) {
	c := newCluster(t)
	c.notebook(notebookOf(fmt.Sprintf(trainCell, 1)), good)
	c.push("team/training", map[string]string{"breast cancer.ipynb": notebookOf(fmt.Sprintf(trainCell, 2))})
	before := c.commits()
	if code, word, out := c.run(); code != 0 || word.Commit != "" || c.commits() != before || !strings.Contains(out, "Git has a newer notebook") {
		t.Errorf("%d %+v\n%s", code, word, out)
	}
}

func TestAPushThatMeetsAnotherIsMadeOnTopOfIt(t *testing.T) {
	c := newCluster(t)
	c.notebook(notebookOf(fmt.Sprintf(trainCell, 1)), good)
	c.pushing = func() {
		c.push("team/overlays/lab", map[string]string{"traffic.yaml": "- op: add\n  path: /spec/traffic\n  value: [{revisionName: model-x, latestRevision: false, percent: 100}]\n"})
	}
	code, word, out := c.run()
	if traffic := c.overlay()["traffic.yaml"]; code != 0 || !strings.Contains(traffic, "revisionName: model-x") || !strings.Contains(traffic, "percent: 10\n") {
		t.Errorf("%d %+v\n%s\n%s", code, word, traffic, out)
	}
}

func TestTroubleOfTheClusterIsNoVerdictOnTheNotebook(t *testing.T) {
	c := newCluster(t)
	c.notebook(notebookOf(fmt.Sprintf(trainCell, 1)), good)
	c.refuse, c.with = 1, http.StatusForbidden
	if code, word, _ := c.run(); code != 1 || !strings.Contains(word.Error, "creating the Workflow: POST ") {
		t.Errorf("without rights: %d %+v", code, word)
	}
	if code, word, _ := c.run("--timeout", "1ns"); code != 1 || !strings.Contains(word.Error, "deadline exceeded") {
		t.Errorf("out of time: %d %+v", code, word)
	}
	c.status = []string{statusOf("Running", "Running", "", "")}
	ctx, end := context.WithCancel(t.Context())
	looks := 0
	c.looked = func() {
		if looks++; looks == 3 { // the first one is for its UID
			end()
		}
	}
	if code, word, _ := c.runUntil(ctx); code != 1 || !strings.Contains(word.Error, `it is "Running"`) {
		t.Errorf("ended while it waits: %d %+v", code, word)
	}
	c.looked = nil
	c.status = []string{good}
	if code, word, out := c.run(); code != 0 || word.Commit == "" {
		t.Errorf("another try: %d %+v\n%s", code, word, out)
	}
}

// What ended by no fault of the notebook is tried again, by a Workflow of its own.
func TestAWorkflowThatTheClusterEndedIsNoVerdict(t *testing.T) {
	registry := statusOf("Failed", "Failed", "main: Error (exit code 75): the registry: connection refused", "null")
	for name, tc := range map[string]struct{ status, want string }{
		"a registry that is away": {registry, "step train: main: Error (exit code 75): the registry: connection refused"},
		"a pod that was killed":   {statusOf("Failed", "Failed", "main: Error (exit code 137)", "null"), "exit code 137"},
		"an executor that failed": {statusOf("Error", "Error", "wait: Error (exit code 1)", "null"), "wait: Error"},
		"Argo gives up":           {`{"phase": "Error", "message": "no such template"}`, "the Workflow is Error: no such template"},
		"it took too long":        {`{"phase": "Failed", "message": "Step exceeded its deadline"}`, "the Workflow is Failed: Step exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.notebook(notebookOf(fmt.Sprintf(trainCell, 1)), tc.status)
			before := c.commits()
			code, word, _ := c.run()
			if code != 1 || !strings.Contains(word.Error, tc.want) || word.Workflow != word.Run || c.commits() != before {
				t.Fatalf("%d %+v, want %q", code, word, tc.want)
			}
			// The next pod: what is asked first is the Workflow that failed, and then the new one.
			c.status = []string{tc.status, tc.status, good}
			code, again, out := c.run()
			if code != 0 || again.Workflow != word.Run+"-2" || again.Run != word.Run || c.commits() != before+1 {
				t.Errorf("the next pod: %d %+v\n%s", code, again, out)
			}
			if made := slices.Sorted(maps.Keys(c.made)); len(made) != 4 || !strings.HasSuffix(made[3], "/workflows/"+word.Run+"-2") {
				t.Errorf("it made %v", made)
			}
		})
	}
}

func TestTheAPIMayBeAwayForAWhile(t *testing.T) {
	c := newCluster(t)
	c.notebook(notebookOf(fmt.Sprintf(trainCell, 1)), good)
	if code, _, _ := c.run(); code != 0 {
		t.Fatal(code)
	}
	api, err := newAPI(filepath.Join(c.dir, "account"))
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{api: api, log: newLog(io.Discard)}
	r.pipeline.Name, r.pipeline.Notebook = "x", nil
	c.made["/apis/argoproj.io/v1alpha1/namespaces/ns/workflows/"+r.pipeline.Run()] = "{}"
	c.refuse, c.with = 2, http.StatusServiceUnavailable
	if status, err := r.wait(t.Context()); err != nil || status.Phase != "Succeeded" {
		t.Errorf("%+v %v", status, err)
	}
}

func TestWrongUseIsExplained(t *testing.T) {
	c := newCluster(t)
	c.notebook(notebookOf(fmt.Sprintf(trainCell, 1)), good)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--image", ""}, "--image is missing"},
		{[]string{"--percent", "101"}, "--percent must be 0 to 100, got 101"},
		{[]string{"--timeout", "-1s"}, "--timeout must be positive, got -1s"},
		{[]string{"--token", c.dir}, "--token: "},
		{[]string{"--code", filepath.Join(c.dir, "token")}, "--code: it must have one notebook, got 0"},
		{[]string{"--nonsense"}, "nonsense"},
		{[]string{"word"}, `unexpected argument "word"`},
	} {
		if code, word, _ := c.run(tc.args...); code != 2 || !strings.Contains(word.Error, tc.want) {
			t.Errorf("%v: %d %+v", tc.args, code, word)
		}
	}
}
