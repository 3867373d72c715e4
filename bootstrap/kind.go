package bootstrap

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode"

	kind "sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	"sigs.k8s.io/kind/pkg/log"

	"mllab.local/addons"
	"mllab.local/internal/kube"
	"mllab.local/internal/run"
)

// kindConfig is what kind is told. The node image brings its own CNI, and the empty search list keeps the host's
// domains out of every lookup in the cluster.
var kindConfig = template.Must(template.New("kind").Parse(`kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: {{.Name}}
networking:
  apiServerAddress: 127.0.0.1
{{- if .APIPort}}
  apiServerPort: {{.APIPort}}
{{- end}}
  podSubnet: 10.244.0.0/16
  serviceSubnet: 10.96.0.0/16
  disableDefaultCNI: true
  dnsSearch: []
nodes:
- role: control-plane
  extraPortMappings:
  - listenAddress: 127.0.0.1
    hostPort: {{.Port}}
    containerPort: {{.NodePort}}
kubeadmConfigPatches:
- |
  kind: InitConfiguration
  patches:
    directory: /kind/patches
- |
  kind: ClusterConfiguration
  controllerManager:
    extraArgs:
      kube-api-qps: "200"
      kube-api-burst: "400"
  scheduler:
    extraArgs:
      leader-elect: "false"
- |
  apiVersion: kubelet.config.k8s.io/v1beta1
  kind: KubeletConfiguration
  serializeImagePulls: false
{{- if .ShortBackOff}}
  featureGates:
    KubeletCrashLoopBackOffMax: true
  crashLoopBackOff:
    maxContainerRestartPeriod: 5s
{{- end}}
{{- if .FailCgroupV1}}
  failCgroupV1: false
{{- end}}
containerdConfigPatches:
- |
  version = 2
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
{{- if .RestrictOOM}}
  [plugins."io.containerd.grpc.v1.cri"]
    restrict_oom_score_adj = true
{{- end}}
`))

// clusterConfig returns kind's configuration; without an apiPort kind picks one. The patches are of the node image, below
// manifests/node. The controller
// manager makes an account for each of its forty controllers before kube-proxy has a pod, so it is not held to 20 calls a
// second. There is one scheduler, which need not be elected; the controller manager must be, because without an election it
// ends when the API is not there within 10 s. After a node was stopped, controllers that come before what they need end
// once or twice: the kubelet would make them wait up to five minutes, and with its newer setting 5 s. containerd learns
// from manifests/node/etc/containerd where the lab's registry is. What depends on the machine: without CAP_SYS_RESOURCE nothing in the
// node may lower its oom_score_adj, so containerd must not try; and a kubelet from 1.35 on refuses cgroup v1 unless
// told otherwise, with a setting that older ones do not all know.
func clusterConfig(name string, port, apiPort int, m machine, kubeVersion string) (string, error) {
	var b bytes.Buffer
	err := kindConfig.Execute(&b, map[string]any{
		"Name": name, "Port": port, "APIPort": apiPort, "NodePort": addons.NodePortHTTP,
		"RestrictOOM":  m.OS == "linux" && !m.EngineSysResource,
		"ShortBackOff": minor(kubeVersion) >= 32,
		"FailCgroupV1": m.OS == "linux" && m.Cgroup != "v2" && minor(kubeVersion) >= 35,
	})
	if err != nil {
		return "", fmt.Errorf("writing kind's configuration: %w", err)
	}
	return b.String(), nil
}

// minor is 34 for v1.34.4, and 0 for what is no version.
func minor(version string) int {
	parts := strings.Split(version, ".")
	if len(parts) < 2 {
		return 0
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return n
}

// kindCluster is a cluster that kind makes.
type kindCluster struct {
	provider   *kind.Provider
	engine     *engine
	name       string
	kubeconfig string
}

func newKindCluster(e *engine, name, kubeconfig string, said func(string)) cluster {
	with := map[string]kind.ProviderOption{
		"docker": kind.ProviderWithDocker(), "podman": kind.ProviderWithPodman(), "nerdctl": kind.ProviderWithNerdctl("nerdctl"),
	}
	p := kind.NewProvider(with[e.Name], kind.ProviderWithLogger(kindLog{said: said}))
	return &kindCluster{provider: p, engine: e, name: name, kubeconfig: kubeconfig}
}

// create makes the cluster. kind takes no context: when ours ends, the node container is taken away from under it, so
// that its next step fails, and again until it has come back.
func (k *kindCluster) create(ctx context.Context, config, image string) error {
	done := make(chan error, 1)
	go func() {
		done <- k.provider.Create(k.name,
			kind.CreateWithRawConfig([]byte(config)),
			kind.CreateWithNodeImage(image),
			kind.CreateWithRetain(false),
			kind.CreateWithKubeconfigPath(k.kubeconfig))
	}()
	select {
	case err := <-done:
		switch {
		case err == nil:
			return os.Chmod(k.kubeconfig, 0o600)
		case ctx.Err() != nil: // ^C reached kind's processes first
			return ctx.Err()
		}
		return kindError(err)
	case <-ctx.Done():
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	poll := time.NewTicker(500 * time.Millisecond)
	defer poll.Stop()
	for {
		_ = k.engine.remove(cleanup, nodeName(k.name)) // the caller removes what is left, and says so when it cannot
		select {
		case <-done:
			return ctx.Err()
		case <-cleanup.Done():
			return fmt.Errorf("%w; kind has not come back within a minute", ctx.Err())
		case <-poll.C:
		}
	}
}

// superAdmin is kubeadm's own kubeconfig on the node. It has its rights from the beginning; admin.conf, which is for
// people, gets them seconds later.
// https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/#generate-kubeconfig-files-for-control-plane-components
const superAdmin = "/etc/kubernetes/super-admin.conf"

var serverLine = regexp.MustCompile(`(?m)^( *server:).*$`)

func (k *kindCluster) serving(ctx context.Context, port int) (lab, error) {
	server := fmt.Sprintf("https://127.0.0.1:%d", port)
	var client *kube.Client
	// It only looks whether there is an answer, and sends nothing: there is no certificate to check with yet.
	asks := &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer asks.CloseIdleConnections()
	steps := []func() error{
		func() error {
			r, err := asks.Get(server)
			if err == nil {
				err = r.Body.Close()
			}
			return err
		},
		func() error {
			text, err := run.Output(ctx, k.engine.run, k.engine.Name, "exec", nodeName(k.name), "cat", superAdmin)
			if err == nil {
				client, err = kube.Parse(serverLine.ReplaceAll([]byte(text), []byte("$1 "+server)))
			}
			return err
		},
		func() error { return client.Admits(ctx) },
	}
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for len(steps) > 0 {
		if steps[0]() == nil {
			steps = steps[1:]
			continue
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return liveLab{client}, nil
}

func (k *kindCluster) writeKubeconfig() error {
	text, err := k.provider.KubeConfig(k.name, false)
	if err != nil {
		return kindError(err)
	}
	return writeFile(k.kubeconfig, []byte(text), 0o600)
}

func (k *kindCluster) load(ctx context.Context, write func(io.Writer) error) error {
	nodes, err := k.provider.ListNodes(k.name)
	if err != nil {
		return kindError(err)
	}
	if len(nodes) != 1 {
		return fmt.Errorf("expected one node, found %d", len(nodes))
	}
	// kind cannot be cancelled, but it ends with its input, and that with ctx.
	return pipe(write, func(r io.Reader) error {
		if err := nodeutils.LoadImageArchive(nodes[0], r); err != nil {
			return kindError(err)
		}
		return nil
	})
}

// goFrame is a line of a Go stack trace and the next: kubeadm, which kind has say everything, ends with thirty.
var goFrame = regexp.MustCompile(`(?m)^\S+\n\t\S+\.go:\d+(\n|\z)`)

// kindError adds the last words of the command that failed, which kind keeps to itself.
func kindError(err error) error {
	failed := kindexec.RunErrorForError(err)
	if failed == nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(goFrame.ReplaceAllString(string(failed.Output), "")), "\n")
	last := strings.Join(lines[max(0, len(lines)-12):], "\n  ")
	what, _, _ := strings.Cut(err.Error(), ": command \"") // the command itself is long and tells little
	if last == "" {
		last = failed.Inner.Error()
	}
	return errors.New(what + ":\n  " + last)
}

// kindLog turns kind's talk into a step's newest reason.
type kindLog struct{ said func(string) }

func (kindLog) Warn(string)          {} // kind warns of what doctor has judged already
func (kindLog) Warnf(string, ...any) {}
func (l kindLog) Error(s string)     { l.Info(s) }
func (l kindLog) Errorf(format string, args ...any) {
	l.Infof(format, args...)
}

func (l kindLog) V(v log.Level) log.InfoLogger {
	if v > 0 {
		return log.NoopInfoLogger{}
	}
	return l
}

func (l kindLog) Info(s string) {
	// Its lines are " • Preparing nodes 📦  ...": keep the words.
	s = strings.Map(func(r rune) rune {
		if r > unicode.MaxLatin1 {
			return -1
		}
		return r
	}, s)
	if s = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(s), "...")); s != "" && !strings.HasPrefix(s, "Creating cluster") {
		l.said(strings.ToLower(s[:1]) + s[1:])
	}
}
func (l kindLog) Infof(format string, args ...any) { l.Info(fmt.Sprintf(format, args...)) }
func (kindLog) Enabled() bool                      { return true }
