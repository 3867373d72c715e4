//go:build e2e

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/probe"
)

// clients are the projects' own clients, as their users have them, against a
// lab with all addons.
type clients struct {
	dir   string // what scripts/tools/clients/install made
	lab   bootstrap.StatusReport
	image string // of the sample model, by its name on the node
}

// testClients has each client do what the first page of its documentation does.
// They share a lab that is up with all addons, and run side by side.
func testClients(t *testing.T, c cli) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cs := clients{dir: filepath.Join(root, ".test", "clients")}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(root, "scripts/tools/clients/install"), cs.dir).CombinedOutput(); err != nil {
		t.Fatalf("installing the clients: %v\n%s", err, out)
	}
	c.run("images", "extract", "--image-source", "source", "--to", filepath.Join(cs.dir, "bin"), "argo-executor").exits(t, 0) // kubectl is in it
	c.run("status", "-o", "json").decode(t, &cs.lab)
	cs.image = c.kubectl(t, "-n", "mllab-sample", "get", "services.serving.knative.dev", "sample", "-o", "jsonpath={.spec.template.spec.containers[0].image}")

	var each sync.WaitGroup // and not t.Parallel, which runs no more at a time than there are cores
	defer each.Wait()
	for name, judge := range map[string]func(*testing.T){
		"Kubeflow's SDK trains a function":                         cs.kubeflow,
		"a Workflow of Hera's is submitted and followed with argo": cs.hera,
		"KServe's SDK makes an InferenceService":                   cs.kserve,
		"kn makes a Service and another revision of it":            cs.kn,
		"flux finds Flux healthy":                                  cs.flux,
		"helm installs a chart":                                    cs.helm,
		"istioctl finds nothing wrong":                             cs.istioctl,
		"kubectl forwards a port, copies, runs a command and logs": cs.kubectl,
	} {
		each.Go(func() { t.Run(name, judge) })
	}
}

// run runs a client against the lab, and returns what it printed. A client that
// fails fails the test.
func (cs clients) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := cs.try(program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

func (cs clients) try(program string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute) // clean-ups call it, too
	defer stop()
	cmd := exec.CommandContext(ctx, filepath.Join(cs.dir, "bin", program), args...)
	if program == "python3" {
		cmd = exec.CommandContext(ctx, program, args...)
	}
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cs.lab.Kubeconfig, "PYTHONPATH="+filepath.Join(cs.dir, "python"), "PYTHONDONTWRITEBYTECODE=1")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// prints fails the test unless a client's output has each text.
func prints(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("it does not say %q:\n%s", text, out)
		}
	}
}

func (cs clients) kubeflow(t *testing.T) {
	out := cs.run(t, "python3", "testdata/clients/kubeflow_sdk.py")
	prints(t, out, "runtimes: ['python']", "runtime: scikit-learn cpu 1",
		"Complete Complete", "worker 0: accuracy=0.9", "worker 1: accuracy=0.9", "node-1 Succeeded cpu",
		"Failed Failed", "This lab has no package index", "Installed: ", "scikit-learn 1.",
		"jobs: 2 events: True", "torch-distributed: Failed to get Runtime")
	if strings.Contains(out, "version info is not available") {
		t.Errorf("it does not find the Trainer's version:\n%s", out)
	}
}

func (cs clients) hera(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hera.yaml")
	if err := os.WriteFile(file, []byte(cs.run(t, "python3", "testdata/clients/hera_workflow.py")), 0o600); err != nil {
		t.Fatal(err)
	}
	// Argo's own guide has its first Workflow in namespace argo.
	out := cs.run(t, "argo", "-n", "argo", "submit", "--wait", "-o", "name", file)
	name := strings.Fields(out)[0]
	t.Cleanup(func() { cs.run(t, "argo", "-n", "argo", "delete", name) })
	prints(t, cs.run(t, "argo", "-n", "argo", "get", name), "Succeeded", "produce", "consume")
	prints(t, cs.run(t, "argo", "-n", "argo", "logs", name), "the number is 42")
	prints(t, cs.run(t, "argo", "-n", "argo", "list"), name)
}

func (cs clients) kserve(t *testing.T) {
	out := cs.run(t, "python3", "testdata/clients/kserve_sdk.py", "create", cs.image)
	t.Cleanup(func() { cs.run(t, "python3", "testdata/clients/kserve_sdk.py", "delete") })
	found := regexp.MustCompile(`(?m)^url: (\S+)$`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("it has no URL:\n%s", out)
	}
	cs.answers(t, found[1], "sdk")
}

func (cs clients) kn(t *testing.T) {
	cs.run(t, "kn", "service", "create", "kn-client", "--image", cs.image, "--port", "8080", "--env", "TARGET=first")
	t.Cleanup(func() { prints(t, cs.run(t, "kn", "service", "delete", "kn-client"), "deleted") })
	cs.run(t, "kn", "service", "update", "kn-client", "--env", "TARGET=second")
	prints(t, cs.run(t, "kn", "service", "list"), "kn-client", "True")
	prints(t, cs.run(t, "kn", "revision", "list"), "kn-client-00001", "kn-client-00002")
	cs.answers(t, strings.TrimSpace(cs.run(t, "kn", "service", "describe", "kn-client", "-o", "url")), "second")
	cs.run(t, "kn", "domain", "create", "client.example.test", "--ref", "ksvc:kn-client")
	t.Cleanup(func() { cs.run(t, "kn", "domain", "delete", "client.example.test") })
	cs.answers(t, "http://client.example.test", "second")
}

// answers checks that the gateway has the model at a URL that a client has
// named, and that its TARGET is the given one. What a client calls ready has
// been answered by one worker of the gateway: the others may follow later.
func (cs clients) answers(t *testing.T, url, target string) {
	t.Helper()
	host := strings.TrimPrefix(url, "http://")
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	for {
		a := probe.NewHTTP(10*time.Second).Send(ctx, probe.Request{URL: cs.lab.URL, Host: host, Fresh: true})
		if a.OK() && a.Target == target {
			return
		}
		t.Logf("%s answers as %q: %s", host, a.Target, a.Problem())
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			t.Fatalf("%s does not answer as %q after 3 min", host, target)
		}
	}
}

func (cs clients) flux(t *testing.T) {
	prints(t, cs.run(t, "flux", "check"), "all checks passed", "source-controller: deployment ready", "kustomize-controller: deployment ready", "helm-controller: deployment ready")
	cs.run(t, "flux", "get", "all", "-A")
}

func (cs clients) helm(t *testing.T) {
	chart := filepath.Join(t.TempDir(), "tiny")
	cs.run(t, "helm", "create", chart)
	repository, tag, _ := strings.Cut(cs.image, ":")
	prints(t, cs.run(t, "helm", "install", "tiny", chart, "--wait", "--timeout", "5m", "--set", "image.repository="+repository, "--set", "image.tag="+tag, "--set", "service.port=8080", "--set", "ingress.enabled=true"),
		"STATUS: deployed")
	cs.answers(t, "http://chart-example.local", "world") // the chart's Ingress, which names no class
	prints(t, cs.run(t, "helm", "list"), "tiny", "deployed")
	prints(t, cs.run(t, "helm", "uninstall", "tiny", "--wait"), "uninstalled")
}

func (cs clients) istioctl(t *testing.T) {
	prints(t, cs.run(t, "istioctl", "version"), "data plane version")
	prints(t, cs.run(t, "istioctl", "proxy-status"), "istio-ingressgateway")
	// Exit code 79 is analyze's for a finding; errors are those that it calls so.
	out, err := cs.try("istioctl", "analyze", "-A")
	if err != nil || strings.Contains(out, "Error [") {
		t.Errorf("istioctl analyze: %v\n%s", err, out)
	}
}

// kubectl is Kubernetes' own.
func (cs clients) kubectl(t *testing.T) {
	cs.run(t, "kubectl", "run", "client", "--image=python:3.11", "--", "python", "-c", `print("started", flush=True); import time; time.sleep(600)`)
	t.Cleanup(func() { cs.run(t, "kubectl", "delete", "pod", "client", "--now", "--wait=false") })
	cs.run(t, "kubectl", "wait", "pod/client", "--for=condition=Ready", "--timeout=300s")
	prints(t, cs.run(t, "kubectl", "logs", "client"), "started")
	prints(t, cs.run(t, "kubectl", "exec", "client", "--", "bash", "-c", "python -c 'import sklearn' && id -un && pip --version && pwd"), "python\n", "pip ", "/home/python")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte("copied"), 0o600); err != nil {
		t.Fatal(err)
	}
	cs.run(t, "kubectl", "cp", filepath.Join(dir, "data"), "client:/tmp/data")
	cs.run(t, "kubectl", "cp", "client:/tmp/data", filepath.Join(dir, "back"))
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(back) != "copied" {
		t.Errorf("what was copied there and back is %q, %v", back, err)
	}
	cs.forwards(t)
}

// forwards checks that a port of this machine is one of a Service's.
func (cs clients) forwards(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, filepath.Join(cs.dir, "bin", "kubectl"), "-n", "istio-system", "port-forward", "service/istio-ingressgateway", ":80")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cs.lab.Kubeconfig)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		stop()
		if err := cmd.Wait(); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			t.Error(err)
		}
	}()
	var port int
	if _, err := fmt.Fscanf(stdout, "Forwarding from 127.0.0.1:%d", &port); err != nil {
		t.Fatalf("kubectl port-forward: %v\n%s", err, stderr.String())
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = addons.SampleHost
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("through the forwarded port: %s %s %v", resp.Status, body, err)
	}
}
