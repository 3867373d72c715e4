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
	"strings"
	"text/template"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	kind "sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	"sigs.k8s.io/kind/pkg/log"

	"mllab.local/addons"
	"mllab.local/internal/folder"
	"mllab.local/internal/kube"
	"mllab.local/internal/run"
	"mllab.local/manifests"
)

// kindConfig is the template of kind's configuration. The node image has its own CNI. The empty search list keeps the
// host's domains out of every DNS lookup in the cluster.
var kindConfig = template.Must(template.New("kind").Parse(manifests.KindCluster))

// clusterConfig returns kind's configuration. If apiPort is 0, kind picks a port.
//
//   - The kubeadm patches are in the node image, from manifests/node. So is the database with which etcd starts, in a folder that
//     only a lab's etcd has: see images.WriteEtcd.
//   - etcd does not wait for the disk: a lab comes up in a tenth less time. What a killed process or node wrote is in the
//     kernel's cache and stays. A machine that loses its power may lose the cluster; see "etcd does not run" in docs/troubleshooting.md.
//   - etcd's only member waits for up to an election's time before it leads itself, and the API server waits for it: 0.1 s
//     instead of 1 s.
//   - kubeadm's own timeout of 4 minutes is raised: mllab's follows the progress of the node.
//   - The controller manager asks for the account and a token of each of its forty controllers before kube-proxy has a pod, so its
//     limit of 20 requests a second is raised. It keeps leader election: without it, it exits if the API does not answer
//     within 10 s. It tries every second or two, not every 2 to 4 s: nobody makes a pod before it leads. The only scheduler
//     needs no election.
//   - When a stopped node starts again, some controllers exit once or twice, until their dependencies run. The kubelet
//     would wait up to five minutes before it restarts them; its newer setting makes that 5 s.
//   - The kubelet keeps kubeadm's client certificate, which ends after a year, as the others of kubeadm's do: with a new one it would
//     drop all its connections while the lab's pods start. So kubeadm's last phase, which names the new one and starts the kubelet
//     again, is left out. kind itself skips the first phase.
//   - kube-proxy waits a second after each change of its rules, and changes that come meanwhile wait, too. For the few Services of a lab
//     0.1 s are enough.
//   - The keys of its certificates are elliptic: kubeadm makes sixteen, and an RSA key takes a tenth of a second.
//   - containerd's settings are in manifests/node, and so is the address of the lab's registry. containerd reads its folder by
//     default from 2.2 on, if it pulls images itself, as kind's discard_unpacked_layers has it do.
//   - A kubelet from 1.35 on refuses cgroup v1 by default, which the engine's machine may have. Older kubelets do not have this setting.
func clusterConfig(name string, port, apiPort int, kubeVersion string) (string, error) {
	var b bytes.Buffer
	err := kindConfig.Execute(&b, map[string]any{
		"Name": name, "Port": port, "APIPort": apiPort, "NodePort": addons.NodePortHTTP,
		"Timeout":      DefaultTimeout,
		"ShortBackOff": minor(kubeVersion) >= 32,
		"FailCgroupV1": minor(kubeVersion) >= 35,
	})
	if err != nil {
		return "", fmt.Errorf("writing kind's configuration: %w", err)
	}
	return b.String(), nil
}

// minor returns 36 for v1.36.5, and 0 for a text that is not a version.
func minor(text string) uint {
	v, err := version.ParseGeneric(text)
	if err != nil {
		return 0
	}
	return v.Minor()
}

type kindCluster struct {
	provider   *kind.Provider
	engine     *engine
	name       string
	kubeconfig string
}

func newKindCluster(e *engine, name, kubeconfig string, progress func(string)) cluster {
	with := map[string]kind.ProviderOption{
		"docker": kind.ProviderWithDocker(), "podman": kind.ProviderWithPodman(), "nerdctl": kind.ProviderWithNerdctl("nerdctl"),
	}
	p := kind.NewProvider(with[e.Name], kind.ProviderWithLogger(kindLog{progress: progress}))
	return &kindCluster{provider: p, engine: e, name: name, kubeconfig: kubeconfig}
}

// create creates the cluster. kind accepts no context: when ctx ends, create removes the node container again and again,
// so that kind's next step fails, until kind returns.
func (k *kindCluster) create(ctx context.Context, config, image string) error {
	if err := folder.NoLink(k.kubeconfig); err != nil { // kind writes to what it leads to
		return err
	}
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
		case ctx.Err() != nil: // Ctrl-C reached kind's processes first
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
		_ = k.engine.remove(cleanup, nodeName(k.name)) // the caller removes the rest, and reports errors
		select {
		case <-done:
			return ctx.Err()
		case <-cleanup.Done():
			return fmt.Errorf("%w; kind has not returned within a minute", ctx.Err())
		case <-poll.C:
		}
	}
}

// superAdmin is kubeadm's own kubeconfig on the node. It has all rights at once; admin.conf gets its rights seconds later.
// https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/#generate-kubeconfig-files-for-control-plane-components
const superAdmin = "/etc/kubernetes/super-admin.conf"

var serverLine = regexp.MustCompile(`(?m)^( *server:).*$`)

func (k *kindCluster) serving(ctx context.Context, port int) (lab, error) {
	server := fmt.Sprintf("https://127.0.0.1:%d", port)
	var client *kube.Client
	// This client only checks for an answer and sends no data. There is no certificate to verify with yet.
	probe := &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer probe.CloseIdleConnections()
	steps := []func() error{
		func() error {
			r, err := probe.Get(server)
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
		func() error { return client.Serves(ctx) },
	}
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(context.Context) (bool, error) {
		for len(steps) > 0 && steps[0]() == nil {
			steps = steps[1:]
		}
		return len(steps) == 0, nil
	})
	return liveLab{client}, err
}

func (k *kindCluster) writeKubeconfig() error {
	text, err := k.provider.KubeConfig(k.name, false)
	if err != nil {
		return kindError(err)
	}
	return writeFile(k.kubeconfig, []byte(text))
}

func (k *kindCluster) load(ctx context.Context, write func(io.Writer) error) error {
	nodes, err := k.provider.ListNodes(k.name)
	if err != nil {
		return kindError(err)
	}
	if len(nodes) != 1 {
		return fmt.Errorf("expected one node, found %d", len(nodes))
	}
	// kind cannot be canceled. But it ends when its input ends, which ends with ctx.
	return pipe(write, func(r io.Reader) error {
		if err := nodeutils.LoadImageArchive(nodes[0], r); err != nil {
			return kindError(err)
		}
		return nil
	})
}

// goFrame matches a frame of a Go stack trace. kind runs kubeadm with full verbosity, which prints thirty of them last.
var goFrame = regexp.MustCompile(`(?m)^\S+\n\t\S+\.go:\d+(\n|\z)`)

// kindError adds the last output lines of the command that failed, which kind's error does not have.
func kindError(err error) error {
	failed := kindexec.RunErrorForError(err)
	if failed == nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(goFrame.ReplaceAllString(string(failed.Output), "")), "\n")
	last := strings.Join(lines[max(0, len(lines)-12):], "\n  ")
	what, _, _ := strings.Cut(err.Error(), ": command \"") // leave out the command, which is long
	if last == "" {
		last = failed.Inner.Error()
	}
	return errors.New(what + ":\n  " + last)
}

type kindLog struct{ progress func(string) }

func (kindLog) Warn(string)          {} // doctor has checked what kind warns of
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
	// A message is like " • Preparing nodes 📦  ...": keep only the words.
	s = strings.Map(func(r rune) rune {
		if r > unicode.MaxLatin1 {
			return -1
		}
		return r
	}, s)
	if s = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(s), "...")); s != "" && !strings.HasPrefix(s, "Creating cluster") {
		l.progress(strings.ToLower(s[:1]) + s[1:])
	}
}
func (l kindLog) Infof(format string, args ...any) { l.Info(fmt.Sprintf(format, args...)) }
func (kindLog) Enabled() bool                      { return true }
