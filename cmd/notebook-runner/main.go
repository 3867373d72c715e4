// Command notebook-runner turns a pushed notebook into a pushed model. It runs in a Job that Flux recreates when the
// notebook in Git changes. It compiles the notebook, runs it as an Argo Workflow, waits for its end, and commits the
// result: the overlay of a Knative Service, which Flux then applies.
//
//	--code DIR         folder with the notebook (one file *.ipynb) and the files that it imports
//	--image IMAGE      image with Python for the steps
//	--store REPOSITORY registry repository in which the steps store variables for later steps
//	--git URL          the Git repository
//	--token DIR        folder with the files username and password for the Git repository
//	--source FOLDER    folder of the files of --code in the Git repository
//	--overlay FOLDER   folder that the runner commits to; the runner owns all files in it
//	--service NAME     the Service of the overlay (default model)
//	--percent N        a new model's share of the traffic while another one serves (default 10)
//	--timeout D        time limit for the whole run (default 10m)
//
// The notebook sets the variable `result`. Its fields are image, a model container by its digest; model and data, the
// digests of the model's file and of its data; accuracy, the share of held-out rows that the model gets right; low and
// high, the interval of accuracy; and held_out, the number of held-out rows.
//
// The same notebook is the same run. It is committed once, however often the pod restarts, and only if it is still the
// newest one in Git. If a Workflow failed for a reason other than the notebook, the next pod creates another Workflow of
// the run.
//
// The runner logs each stage as one line of JSON to stdout, and writes the result to the pod's termination message.
//
// Exit codes: 0; 1 for a failure of the API, Argo, the registry or Git, which a retry may fix; 2 for wrong use; 4 for a
// notebook that does not compile, has a failing cell, or sets no result.
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

// messageFile is the file that Kubernetes reads as a container's termination message.
// https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
const messageFile = "/dev/termination-log"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], incluster.Account, messageFile, os.Stdout))
}

// notebookError is an error of the notebook. A retry would fail again.
type notebookError struct{ error }

func run(ctx context.Context, args []string, account, message string, stdout io.Writer) int {
	log := newLog(stdout)
	r, err := newRunner(args, account, log)
	code, end := 2, delivery.End{}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		end.Commit, err = r.deliver(ctx)
		end.Run, code = r.pipeline.Run(), 1
		if r.pipeline.Attempt > 0 {
			end.Workflow = r.pipeline.Workflow()
		}
	}
	switch {
	case err == nil:
		code = 0
	case errors.As(err, new(notebookError)):
		code = 4
	}
	if err != nil {
		end.Error = err.Error()
		log.Error("failed", "run", end.Run, "error", end.Error)
	}
	text, err := end.Message()
	if err == nil {
		err = os.WriteFile(message, text, 0o600)
	}
	if err != nil {
		log.Error("writing the termination message", "error", err)
	}
	return code
}

func newLog(to io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(to, nil)) }

type runner struct {
	pipeline notebook.Pipeline
	code     map[string][]byte // by name, as in source
	remote   *url.URL
	source   string
	overlay  overlay
	timeout  time.Duration
	api      api
	log      *slog.Logger
}

// newRunner reads arguments and files. Its errors are wrong use.
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
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
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

// read reads the notebook and the files that it imports.
func (r *runner) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	r.pipeline.Files = map[string][]byte{}
	var notebooks []string
	for _, e := range entries {
		// In a mounted ConfigMap the names of Kubernetes' own files begin with two dots.
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

// deliver compiles, runs and commits the notebook, and returns the commit.
func (r *runner) deliver(ctx context.Context) (commit string, err error) {
	book, err := notebook.Read(r.pipeline.Notebook)
	if err != nil {
		return "", notebookError{err}
	}
	var tasks []string
	for _, s := range book.Steps {
		tasks = append(tasks, s.Task())
	}
	r.log.Info("compiled", "run", r.pipeline.Run(), "steps", tasks, "unused_cells", book.Unused)
	for r.pipeline.Attempt = 1; ; r.pipeline.Attempt++ {
		made, err := r.createWorkflow(ctx)
		if err != nil {
			return "", err
		}
		status, err := r.wait(ctx)
		if err != nil {
			return "", err
		}
		found, err := resultOf(status, tasks)
		switch {
		case err == nil:
			r.log.Info("trained", "run", r.pipeline.Run(), "image", found.Image, "model", found.Model, "data", found.Data, "accuracy", found.Accuracy)
			return r.commit(ctx, found)
		case made, errors.As(err, new(notebookError)):
			return "", err
		}
		r.log.Info("failed before", "kind", "Workflow", "name", r.pipeline.Workflow(), "error", err.Error())
	}
}

// createWorkflow creates this attempt's Workflow and its code. made is false if they existed.
func (r *runner) createWorkflow(ctx context.Context) (made bool, err error) {
	objs, err := r.pipeline.Objects()
	if err != nil {
		return false, notebookError{err}
	}
	// The Workflow owns its code, so create it first. Its pods wait for the code.
	slices.Reverse(objs)
	var owners []any
	for _, o := range objs {
		// The objects that grant rights to the steps' pods come from Git.
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
		end := "found"
		if created {
			end = "created"
		}
		r.log.Info(end, "kind", o.GetKind(), "name", o.GetName())
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

// wait returns when the Workflow has ended. It logs each change of a step's phase.
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
			last = err // the API server may be restarting
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return status, fmt.Errorf("waiting for Workflow %s: %w (last: %w)", r.pipeline.Workflow(), ctx.Err(), last)
		}
	}
}

// result is the JSON form of a notebook's variable result.
type result struct {
	Image    string  `json:"image"`
	Model    string  `json:"model"`
	Data     string  `json:"data"`
	Accuracy float64 `json:"accuracy"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	HeldOut  int     `json:"held_out"`
}

// resultOf returns the result of the last step that has one. Its error is a notebookError if the notebook caused it, and
// not a machine, the registry or Argo.
func resultOf(status notebook.Status, steps []string) (found result, err error) {
	text := ""
	for _, step := range steps {
		i := slices.IndexFunc(status.Nodes, func(n notebook.Node) bool { return n.Name == step })
		if i < 0 {
			continue
		}
		n := status.Nodes[i]
		if n.Phase == "Failed" || n.Phase == "Error" {
			last := lastAttempt(status, step)
			err := fmt.Errorf("step %s: %s", step, cmp.Or(last.Message, n.Message))
			if last.Phase == "Failed" && last.ExitCode == notebook.CellFailed {
				err = notebookError{err}
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
		return found, notebookError{fmt.Errorf("no step sets the variable %q, which must describe the model", notebook.Result)}
	}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return found, notebookError{fmt.Errorf("the notebook's %s must be an object with image, model, data, accuracy, low, high and held_out: %w", notebook.Result, err)}
	}
	for name, digest := range map[string]string{"image": found.Image, "model": found.Model, "data": found.Data} {
		if _, hex, _ := strings.Cut(digest, "sha256:"); len(hex) != 64 {
			return found, notebookError{fmt.Errorf("the notebook's %s: %s must have a digest, got %q", notebook.Result, name, digest)}
		}
	}
	return found, nil
}

// lastAttempt returns the last pod of a step. Each attempt is a node of its own,
// STEP(N), below the step's.
func lastAttempt(status notebook.Status, step string) (last notebook.Node) {
	for _, n := range status.Nodes {
		if name, _, _ := strings.Cut(n.Name, "("); n.Pod && name == step && !n.Started.Before(last.Started) {
			last = n
		}
	}
	return last
}

// commit commits the model, unless it is committed already. It returns the
// commit, or "" if a newer notebook is in Git.
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
			r.log.Info("not committed: Git has a newer notebook", "run", run, "file", name)
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

// newest returns the newest commit that changed one of the files.
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
