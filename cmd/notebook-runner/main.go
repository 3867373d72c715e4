// Command runner turns a pushed notebook into a pushed model. It is the pod of a Job that Flux recreates when the
// notebook in Git changes. It compiles the notebook, runs it as an Argo Workflow, waits for its end, and commits
// the result: the overlay of a Knative Service, which Flux then applies.
//
//	--code DIR         the notebook (one file *.ipynb), and the files that it imports
//	--image IMAGE      with Python, for its steps
//	--store REPOSITORY where the steps leave their names for the next steps
//	--git URL          the repository
//	--token DIR        its files username and password are the repository's
//	--source FOLDER    where the files of --code are in the repository
//	--overlay FOLDER   where the runner commits; all that is in it is the runner's
//	--service NAME     the Service that the overlay is of (default model)
//	--percent N        a model's share of the traffic as long as another one serves (default 10)
//	--timeout D        how long all of it may take (default 10m)
//
// The notebook leaves its result under the name `result`: image, a model container by its digest; model and data, the
// digests of the model's file and of its data; accuracy, low, high and held_out, the share of held-out rows that it gets
// right, its interval and how many rows these are.
//
// The same notebook is the same run and is committed once, however often the pod restarts. One that is not the newest
// in Git any more is not committed. A Workflow that ended by no fault of the notebook is not taken up again: the next pod
// makes the run's next one.
//
// Each stage is one line of JSON on stdout. The pod's message is the result.
//
// Exit codes: 0, 1 for a failure that another try may fix (of the API, Argo, the registry or Git), 2 for wrong use, 4 for
// a notebook that cannot be compiled, of which a cell fails, or that leaves no result.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mllab.local/internal/delivery"
	"mllab.local/internal/git"
	"mllab.local/internal/incluster"
	"mllab.local/internal/notebook"
	"mllab.local/manifests"
)

// messageFile is what Kubernetes shows of a container that has ended.
// https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
const messageFile = "/dev/termination-log"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], incluster.Account, messageFile, os.Stdout))
}

// refused is an error of the notebook: another try would end the same.
type refused struct{ error }

// run is the whole life of the process; it returns the exit code.
func run(ctx context.Context, args []string, account, message string, stdout io.Writer) int {
	log := newLog(stdout)
	r, err := newRunner(args, account, log)
	code, word := 2, delivery.End{}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		word.Commit, err = r.loop(ctx)
		word.Run, code = r.pipeline.Run(), 1
		if r.pipeline.Attempt > 0 {
			word.Workflow = r.pipeline.Workflow()
		}
	}
	var notebooks refused
	switch {
	case err == nil:
		code = 0
	case errors.As(err, &notebooks):
		code = 4
	}
	if err != nil {
		word.Error = err.Error()
		log.Error("failed", "run", word.Run, "error", word.Error)
	}
	text, err := word.Message()
	if err == nil {
		err = os.WriteFile(message, text, 0o600)
	}
	if err != nil {
		log.Error("leaving the pod's message", "error", err)
	}
	return code
}

func newLog(to io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(to, nil)) }

// runner is one notebook on its way.
type runner struct {
	pipeline notebook.Pipeline
	code     map[string][]byte // by the names that they have in source, too
	remote   *url.URL
	source   string
	overlay  overlay
	timeout  time.Duration
	api      api
	log      *slog.Logger
}

// newRunner reads arguments and files; its errors are wrong use.
func newRunner(args []string, account string, log *slog.Logger) (*runner, error) {
	r := &runner{log: log, code: map[string][]byte{}}
	f := flag.NewFlagSet("runner", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	code, token, address := f.String("code", "", ""), f.String("token", "", ""), f.String("git", "", "")
	f.StringVar(&r.pipeline.Image, "image", "", "")
	f.StringVar(&r.pipeline.Store, "store", "", "")
	f.StringVar(&r.source, "source", "", "")
	f.StringVar(&r.overlay.folder, "overlay", "", "")
	f.StringVar(&r.overlay.service, "service", "model", "")
	f.Int64Var(&r.overlay.percent, "percent", 10, "")
	f.DurationVar(&r.timeout, "timeout", 10*time.Minute, "")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%q: there are only flags", f.Arg(0))
	}
	for _, name := range []string{"code", "image", "store", "git", "token", "source", "overlay", "service"} {
		if f.Lookup(name).Value.String() == "" {
			return nil, fmt.Errorf("--%s is missing", name)
		}
	}
	if r.overlay.percent < 0 || r.overlay.percent > 100 {
		return nil, fmt.Errorf("--percent must be 0 to 100, got %d", r.overlay.percent)
	}
	if r.timeout <= 0 {
		return nil, fmt.Errorf("--timeout must be positive, got %s", r.timeout)
	}
	var err error
	if r.remote, err = url.Parse(*address); err != nil {
		return nil, fmt.Errorf("--git: %w", err)
	}
	username, err := os.ReadFile(filepath.Join(*token, "username"))
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	password, err := os.ReadFile(filepath.Join(*token, "password"))
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	r.remote.User = url.UserPassword(string(username), string(password))
	if err := r.read(*code); err != nil {
		return nil, fmt.Errorf("--code: %w", err)
	}
	r.api, err = newAPI(account)
	r.pipeline.Space, r.pipeline.Runner = r.api.Namespace, manifests.NotebookRunner
	return r, err
}

// read reads the notebook and what it imports.
func (r *runner) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	r.pipeline.Files = map[string][]byte{}
	var notebooks []string
	for _, e := range entries {
		// Kubernetes' own names in a mounted ConfigMap begin with two dots.
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if r.code[e.Name()] = text; path.Ext(e.Name()) == ".ipynb" {
			notebooks = append(notebooks, e.Name())
			r.pipeline.Name, r.pipeline.Notebook = notebook.Name(e.Name()), text
		} else {
			r.pipeline.Files[e.Name()] = text
		}
	}
	if len(notebooks) != 1 {
		return fmt.Errorf("it must have one notebook, got %d: %s", len(notebooks), strings.Join(notebooks, ", "))
	}
	return nil
}

// loop brings the notebook from its text to a commit, which it returns.
func (r *runner) loop(ctx context.Context) (commit string, err error) {
	book, err := notebook.Read(r.pipeline.Notebook)
	if err != nil {
		return "", refused{err}
	}
	var tasks []string
	for _, s := range book.Steps {
		tasks = append(tasks, s.Task())
	}
	r.log.Info("compiled", "run", r.pipeline.Run(), "steps", tasks, "unused_cells", book.Unused)
	for r.pipeline.Attempt = 1; ; r.pipeline.Attempt++ {
		made, err := r.begin(ctx)
		if err != nil {
			return "", err
		}
		status, err := r.wait(ctx)
		if err != nil {
			return "", err
		}
		found, err := resultOf(status, tasks)
		var notebooks refused
		switch {
		case err == nil:
			r.log.Info("trained", "run", r.pipeline.Run(), "image", found.Image, "model", found.Model, "data", found.Data, "accuracy", found.Accuracy)
			return r.commit(ctx, found)
		case made, errors.As(err, &notebooks):
			return "", err
		}
		r.log.Info("not taken up", "kind", "Workflow", "name", r.pipeline.Workflow(), "error", err.Error())
	}
}

// begin creates this attempt's Workflow and its code. It reports whether it created them, or found them.
func (r *runner) begin(ctx context.Context) (made bool, err error) {
	objs, err := r.pipeline.Objects()
	if err != nil {
		return false, refused{err}
	}
	// The code goes with its Workflow, which therefore comes first: its pods wait for the code.
	slices.Reverse(objs)
	var owners []any
	for _, o := range objs {
		// The rights of the steps' pods are Git's to give.
		if kind := o.GetKind(); kind != "ConfigMap" && kind != "Workflow" {
			continue
		}
		if metadata, is := o.Object["metadata"].(map[string]any); is && owners != nil {
			metadata["ownerReferences"] = owners
		}
		text, err := o.MarshalJSON()
		if err != nil {
			return false, err
		}
		created, err := r.api.create(ctx, o.GetKind(), text)
		if err != nil {
			return false, err
		}
		word := "taken up"
		if created {
			word = "created"
		}
		r.log.Info(word, "kind", o.GetKind(), "name", o.GetName())
		if o.GetKind() == "Workflow" {
			made = created
			uid, _, err := r.api.workflow(ctx, o.GetName())
			if err != nil {
				return false, err
			}
			owners = []any{map[string]any{"apiVersion": o.GetAPIVersion(), "kind": o.GetKind(), "name": o.GetName(), "uid": uid}}
		}
	}
	return made, nil
}

// wait returns when the Workflow has ended, and logs each step that ends.
func (r *runner) wait(ctx context.Context) (notebook.Status, error) {
	logged := map[string]string{}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for last := error(nil); ; {
		_, status, err := r.api.workflow(ctx, r.pipeline.Workflow())
		switch {
		case err == nil:
			for _, n := range status.Nodes {
				if n.Pod && logged[n.Name] != n.Phase {
					logged[n.Name] = n.Phase
					r.log.Info("step", "workflow", r.pipeline.Workflow(), "step", n.Name, "phase", n.Phase)
				}
			}
			if status.Ended() {
				return status, nil
			}
			last = fmt.Errorf("it is %q", status.Phase)
		case final(err):
			return status, err
		case ctx.Err() == nil:
			last = err // the API server may be on its way back
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return status, fmt.Errorf("waiting for Workflow %s: %w (last: %w)", r.pipeline.Workflow(), ctx.Err(), last)
		}
	}
}

// result is the name result of a notebook, as JSON.
type result struct {
	Image    string  `json:"image"`
	Model    string  `json:"model"`
	Data     string  `json:"data"`
	Accuracy float64 `json:"accuracy"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	HeldOut  int     `json:"held_out"`
}

// resultOf returns the result of the last step that has one. Its error says why there is no result; it is of type refused
// if the notebook is at fault, and not a machine, the registry or Argo.
func resultOf(status notebook.Status, steps []string) (found result, err error) {
	text := ""
	for _, step := range steps {
		i := slices.IndexFunc(status.Nodes, func(n notebook.Node) bool { return n.Name == step })
		if i < 0 {
			continue
		}
		n := status.Nodes[i]
		if n.Phase == "Failed" || n.Phase == "Error" {
			last := lastTry(status, step)
			err := fmt.Errorf("step %s: %s", step, cmp.Or(last.Message, n.Message))
			if last.Phase == "Failed" && last.ExitCode == notebook.CellFailed {
				err = refused{err}
			}
			return found, err
		}
		if value := n.Outputs[notebook.Result]; value != "" && value != "null" {
			text = value
		}
	}
	if status.Phase != "Succeeded" {
		return found, fmt.Errorf("the Workflow is %s: %s", status.Phase, status.Message)
	}
	if text == "" {
		return found, refused{fmt.Errorf("no step has left a name %q: it is how a notebook hands its model out", notebook.Result)}
	}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return found, refused{fmt.Errorf("the notebook's %s: it must be an object with image, model, data, accuracy, low, high and held_out: %w", notebook.Result, err)}
	}
	for name, digest := range map[string]string{"image": found.Image, "model": found.Model, "data": found.Data} {
		if _, hex, _ := strings.Cut(digest, "sha256:"); len(hex) != 64 {
			return found, refused{fmt.Errorf("the notebook's %s: %s is %q, and has no digest", notebook.Result, name, digest)}
		}
	}
	return found, nil
}

// lastTry is the last pod of a step: each try is a node of its own, STEP(N),
// below the step's.
func lastTry(status notebook.Status, step string) (last notebook.Node) {
	for _, n := range status.Nodes {
		if name, _, _ := strings.Cut(n.Name, "("); n.Pod && name == step && !n.Started.Before(last.Started) {
			last = n
		}
	}
	return last
}

// commit commits the model, unless that is done. It returns the commit that has
// it, or "" when a newer notebook is in Git.
func (r *runner) commit(ctx context.Context, found result) (string, error) {
	repo, err := git.Clone(ctx, r.remote, "runner")
	for err == nil {
		var commit string
		if commit, err = r.commitOnce(ctx, repo, found); err == nil {
			return commit, nil
		}
		if errors.Is(err, git.ErrConflict) { // somebody pushed to the overlay meanwhile
			err = repo.Pull(ctx)
		}
	}
	return "", err
}

func (r *runner) commitOnce(ctx context.Context, repo *git.Repo, found result) (string, error) {
	log, err := repo.Log()
	if err != nil {
		return "", err
	}
	run := r.pipeline.Run()
	done, err := r.overlay.committed(repo, log, run)
	if err != nil {
		return "", err
	}
	if done != "" {
		r.log.Info("committed before", "run", run, "commit", done)
		return done, nil
	}
	now, err := repo.Files(repo.Head(), r.source)
	if err != nil {
		return "", err
	}
	for name, text := range r.code {
		if !slices.Equal(now[name], text) {
			r.log.Info("a newer one is in Git: nothing is committed", "run", run, "file", name)
			return "", nil
		}
	}
	m := model{run: run, result: found, notebook: digest(r.pipeline.Notebook), commit: newest(log, r.source, r.code)}
	change, err := r.overlay.change(repo, m)
	if err != nil {
		return "", err
	}
	commit, err := repo.Commit(ctx, change)
	if err == nil {
		r.log.Info("committed", "run", run, "commit", commit)
	}
	return commit, err
}

// newest is the newest commit that changed one of the files.
func newest(log []git.Commit, folder string, files map[string][]byte) string {
	for _, c := range log {
		if slices.ContainsFunc(c.Files, func(name string) bool {
			return path.Dir(name) == path.Clean(folder) && files[path.Base(name)] != nil
		}) {
			return c.Hash
		}
	}
	return ""
}
