package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/proxy"
	"mllab.local/internal/report"
)

type liveLab struct{ kube *kube.Client }

// ownContext returns kind's name of the context in a lab's own kubeconfig, whose folder has the lab's name.
func ownContext(kubeconfig string) string { return "kind-" + filepath.Base(filepath.Dir(kubeconfig)) }

func connect(kubeconfig string) (lab, error) {
	c, err := kube.Connect(kubeconfig, ownContext(kubeconfig))
	if err != nil {
		return nil, fault.Hinted(err, "`mllab up` writes it again")
	}
	return liveLab{c}, nil
}

func (l liveLab) await(ctx context.Context, since time.Time, reason func(string)) (string, error) {
	version, last := "", "not asked yet"
	dropped := since.IsZero() // only a cluster that was stopped has old leases and addresses
	repeated := repeated{began: time.Now()}
	var loop crashLoop
	err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		running, why, warning := "", "", corev1.Event{}
		if err := l.kube.Answers(ctx); err != nil {
			why = "API: " + kube.ErrorText(err)
		} else {
			if !dropped {
				// An error means that the API admits nobody yet; nodeReady reports that.
				dropped = errors.Join(l.kube.DropLeases(ctx, since), addons.Restarted(ctx, l.kube)) == nil
			}
			running, why, warning = l.nodeReady(ctx, since)
			if err := l.crashed(ctx, since, &loop); err != nil {
				return false, err
			}
		}
		if why == "" && !loop.recent {
			version = running
			return true, nil
		}
		if why == "" {
			why = fmt.Sprintf("kube-proxy crashed, and has not run for %s yet", proxySteady)
		}
		if ctx.Err() == nil { // else the error only says that ctx ended
			last = why
			reason(why)
		}
		if repeated.final(warning) {
			return false, errors.New(last)
		}
		return false, nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("waiting for Kubernetes: %w (last: %s)", err, last)
	}
	return version, err
}

// nodeReady returns the Kubernetes version of the node, or why it is not ready for pods. No pod is scheduled until kind
// removes kubeadm's taint. Before kube-proxy runs, a request to the API's Service could reach another host with that
// address. warning is the newest warning about kube-proxy's pod while it does not run.
func (l liveLab) nodeReady(ctx context.Context, since time.Time) (version, why string, warning corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var nodes corev1.NodeList
	if err := l.kube.List(ctx, &nodes); err != nil {
		return "", "API: " + kube.ErrorText(err), warning
	}
	if len(nodes.Items) == 0 {
		return "", "no node has registered yet", warning
	}
	n := nodes.Items[0] // a lab has no other
	node := "Node/" + n.Name + ": "
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	if i < 0 {
		return "", node + "the kubelet has not reported yet", warning
	}
	switch ready := n.Status.Conditions[i]; {
	case ready.Status != corev1.ConditionTrue:
		return "", node + "not ready, " + ready.Message, warning
	case ready.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)): // Kubernetes has whole seconds
		return "", node + "the kubelet has not reported since the start", warning
	case slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == controlPlane }):
		return "", node + "it still has the taint of the control plane", warning
	}
	var sets appsv1.DaemonSetList
	if err := l.kube.List(ctx, &sets); err != nil {
		return "", "API: " + kube.ErrorText(err), warning
	}
	if !slices.ContainsFunc(sets.Items, func(d appsv1.DaemonSet) bool { return d.Name == "kube-proxy" && d.Status.NumberReady > 0 }) {
		warning = l.lastWarning(ctx)
		return "", "kube-proxy does not run yet" + prefixed(": ", warning.Message), warning
	}
	if since.IsZero() {
		return n.Status.NodeInfo.KubeletVersion, "", warning
	}
	var pods corev1.PodList
	if err := l.kube.List(ctx, &pods); err != nil {
		return "", "API: " + kube.ErrorText(err), warning
	}
	if !proxySince(pods.Items, since) { // the DaemonSet still counts the old pod
		warning = l.lastWarning(ctx)
		return "", "kube-proxy has not started again yet" + prefixed(": ", warning.Message), warning
	}
	return n.Status.NodeInfo.KubeletVersion, "", warning
}

// proxySince reports whether a kube-proxy among the pods is ready and has started after since.
func proxySince(pods []corev1.Pod, since time.Time) bool {
	return slices.ContainsFunc(pods, func(p corev1.Pod) bool {
		return p.Namespace == "kube-system" && strings.HasPrefix(p.Name, "kube-proxy-") && slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
			return c.Ready && c.State.Running != nil && !c.State.Running.StartedAt.Time.Before(since.Truncate(time.Second)) // it has whole seconds
		})
	})
}

// lastWarning returns the newest warning about kube-proxy's pod, if any.
func (l liveLab) lastWarning(ctx context.Context) (newest corev1.Event) {
	var list corev1.EventList
	if err := l.kube.List(ctx, &list); err != nil {
		return newest
	}
	for _, e := range list.Items {
		if e.Type == corev1.EventTypeWarning && e.Namespace == "kube-system" && strings.HasPrefix(e.InvolvedObject.Name, "kube-proxy-") && !e.LastTimestamp.Before(&newest.LastTimestamp) {
			newest = e
		}
	}
	return newest
}

// repeated finds a warning that the kubelet repeats: it cannot start the pod.
type repeated struct {
	began  time.Time
	reason string
	first  time.Time // first warning for this reason after began
}

// final reports whether the kubelet has repeated a warning for kubeletWindow. A call that took too long only shows that
// the machine is busy, and a crash loop is reported with the pod's log.
func (r *repeated) final(w corev1.Event) bool {
	if w.Reason == "" || w.Reason == "BackOff" || strings.Contains(strings.ToLower(w.Message), "deadline") {
		return false
	}
	if w.Reason != r.reason || r.first.IsZero() {
		r.reason, r.first = w.Reason, time.Time{}
		if at := w.LastTimestamp.Time; !at.Before(r.began.Truncate(time.Second)) { // Kubernetes has whole seconds
			r.first = at
		}
		return false
	}
	return w.LastTimestamp.Sub(r.first) >= kubeletWindow
}

// Limits of a crash loop.
const (
	proxyCrashes = 4                // after which kube-proxy does not run
	proxySteady  = 10 * time.Second // for which it must run after a crash: between two crashes it is ready, too
)

type crashLoop struct {
	pod     string
	first   int32 // restarts at the first look
	crashes int32 // since the first look
	recent  bool  // it crashed, and has not run for proxySteady
}

// see reads the newest state of kube-proxy's pod. The end of a stopped node is no crash: it is before since.
func (c *crashLoop) see(p corev1.Pod, since, now time.Time) {
	restarts, recent := int32(0), false
	for _, each := range p.Status.ContainerStatuses {
		restarts += each.RestartCount
		if end := each.LastTerminationState.Terminated; end != nil && end.FinishedAt.After(since) {
			running := each.State.Running
			recent = recent || running == nil || now.Sub(running.StartedAt.Time) < proxySteady
		}
	}
	if p.Name != c.pod {
		*c = crashLoop{pod: p.Name, first: restarts}
	}
	c.crashes, c.recent = restarts-c.first, recent
}

// crashed returns an error with kube-proxy's last log lines if it keeps crashing.
func (l liveLab) crashed(ctx context.Context, since time.Time, loop *crashLoop) error {
	pods, err := l.kube.Pods(ctx, "kube-system", map[string]string{"k8s-app": "kube-proxy"})
	if err != nil {
		return nil // nodeReady reports why the API does not answer
	}
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			loop.see(p, since, time.Now())
		}
	}
	if loop.crashes < proxyCrashes {
		return nil
	}
	text, err := l.kube.PodLogs(ctx, "kube-system", loop.pod, "", 10)
	if err != nil {
		text = err.Error()
	}
	return fmt.Errorf("kube-proxy does not run: Pod/kube-system/%s crashed %d times; its last log lines:\n  %s", loop.pod, loop.crashes, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  "))
}

const controlPlane = "node-role.kubernetes.io/control-plane"

func (l liveLab) install(ctx context.Context, gitops bool, gateway string, pods addons.Use, list []addons.Rendered, r report.Reporter) ([]addons.Result, error) {
	install := addons.Install
	if gitops {
		install = addons.InstallByGit
	}
	return install(ctx, l.env(gateway), pods, list, r)
}

func (l liveLab) env(gateway string) addons.Env {
	return addons.Env{Kube: l.kube, Gateway: gateway, Send: probe.NewHTTP(10 * time.Second)}
}

// coldStart limits one answer of a model at zero pods. On an idle machine it takes 2 s, on a busy one more than 10 s.
const coldStart = 30 * time.Second

func (l liveLab) ask(ctx context.Context, gateway, addon string) (asked, answer string, err error) {
	env := l.env(gateway)
	env.Send = probe.NewHTTP(coldStart)
	return addons.Ask(ctx, env, addon)
}

func (l liveLab) followed(ctx context.Context) (string, error) { return addons.Followed(ctx, l.kube) }

func (l liveLab) ready(ctx context.Context, gitops bool, a addons.Addon, im addons.Images) error {
	if gitops {
		return addons.ReadyByGit(ctx, l.kube, a.Name, func(string) {})
	}
	rendered, err := addons.Render([]addons.Addon{a}, im)
	if err != nil {
		return err
	}
	return l.kube.Wait(ctx, rendered[0].Objects, func(string) {})
}

func (l liveLab) requests(ctx context.Context) (kube.Requests, error) { return l.kube.Requests(ctx) }

func (l liveLab) trouble(ctx context.Context) (kube.Trouble, error) {
	return l.kube.Trouble(ctx, diagnosisLines)
}

func (l liveLab) rejections(ctx context.Context) ([]proxy.Rejection, error) {
	return proxy.Rejections(ctx, l.kube)
}

func (l liveLab) fluxUnready(ctx context.Context) ([]addons.Unready, error) {
	return addons.FluxUnready(ctx, l.kube)
}
