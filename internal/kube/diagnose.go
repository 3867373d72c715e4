package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	finalRestarts   = 5                // restarts during a wait (without one: ever) after which CrashLoopBackOff is final
	commandRestarts = 2                // the same for a command that the image lacks: a sidecar may yet put it on a volume
	schedulingGrace = 20 * time.Second // a node that has just joined is tainted for some seconds
	logLines        = 10               // log lines of a failed container in the error

	// repairGrace is how long a reason must have been final until WhyNotReady says so: what it lacks may just have been made.
	// The kubelet tries again after 10 to 15 s (a crash loop has had its tries). Room for a pod comes within 40 s: another one
	// has 30 s to end, and the scheduler looks again after at most 10 s.
	repairGrace = 45 * time.Second
)

// notReadyReason is why a pod is not ready. Some reasons are final: waiting longer cannot fix them. These are an image that
// does not exist or may not be pulled, an invalid image name, a missing ConfigMap or Secret, a command that the image lacks, a
// crash loop, too little memory, and a pod that no node can take.
type notReadyReason struct {
	text      string // "" for a pod without a problem
	final     bool
	pod       string
	container string // whose log says more; "" if it never ran
	previous  bool   // whether to read the log of the previous run
}

// WhyNotReady returns why a pod is not ready, such as "container web: CrashLoopBackOff after 2 restarts, exit code 1"; ""
// if neither its status nor its newest event says so. final says that waiting longer cannot fix it, and could not repairGrace
// ago, whatever was in between: a pod without a readiness probe is ready between two crashes. Then the text ends with the pod's
// last log lines. before is empty when the wait begins.
func (c *Client) WhyNotReady(ctx context.Context, pod *corev1.Pod, before Before) (why string, final bool) {
	var events corev1.EventList
	var last *corev1.Event
	_ = c.List(ctx, &events, client.InNamespace(pod.Namespace)) // the status says something without them
	for i := range events.Items {
		if e := &events.Items[i]; e.InvolvedObject.UID == pod.UID && (last == nil || timeOf(last).Before(timeOf(e))) {
			last = e
		}
	}
	first := before.of(pod)
	t := diagnose(pod, last, time.Now(), first.restarts)
	if t.final {
		first.final = cmp.Or(first.final, time.Now())
		if t.final = time.Since(first.final) > repairGrace; t.final {
			t.text += c.logsOf(ctx, pod.Namespace, t)
		}
	}
	return t.text, t.final
}

// Before has what a wait saw first of each pod.
type Before map[types.UID]*firstSeen

type firstSeen struct {
	restarts map[string]int32 // of its containers
	final    time.Time        // when the reason was final; zero if it never was
}

func (b Before) of(pod *corev1.Pod) *firstSeen {
	if b[pod.UID] == nil {
		b[pod.UID] = &firstSeen{restarts: map[string]int32{}}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			b[pod.UID].restarts[c.Name] = c.RestartCount
		}
	}
	return b[pod.UID]
}

// diagnose reads a pod's status at the time now; last is the newest event about it (nil: none). before has the
// restarts of its containers when the wait began: each start of a stopped node adds some.
func diagnose(pod *corev1.Pod, last *corev1.Event, now time.Time, before map[string]int32) notReadyReason {
	var t notReadyReason
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return notReadyReason{text: "unschedulable: " + c.Message, final: now.Sub(c.LastTransitionTime.Time) > schedulingGrace}
		}
	}
	inits := len(pod.Status.InitContainerStatuses)
	for i, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		ended := c.State.Terminated
		if ended != nil && ended.ExitCode == 0 || i >= inits && c.Ready || i < inits && ended == nil && c.Started != nil && *c.Started {
			continue // it is ready, or a sidecar that lets the other containers start
		}
		restarts := c.RestartCount - before[c.Name]
		if pod.Status.Phase == corev1.PodFailed {
			restarts = finalRestarts // there are no more
		}
		found := inspect(c, last, restarts)
		if t.text == "" || found.final && !t.final {
			found.pod, found.text = pod.Name, "container "+c.Name+": "+found.text
			t = found
		}
	}
	if t.text == "" && pod.Status.Phase == corev1.PodFailed {
		t.text = strings.TrimSpace(pod.Status.Reason + " " + pod.Status.Message) // such as Evicted
	}
	return t
}

func inspect(c corev1.ContainerStatus, last *corev1.Event, restarts int32) notReadyReason {
	before := c.LastTerminationState.Terminated
	for _, t := range []*corev1.ContainerStateTerminated{before, c.State.Terminated} {
		if t != nil && t.Reason == "OOMKilled" {
			return notReadyReason{text: "OOMKilled: it needs more memory than its limit", final: true, container: c.Name, previous: c.State.Terminated == nil}
		}
	}
	switch now := c.State; {
	case now.Terminated != nil:
		return notReadyReason{text: "ended with " + lastWords(now.Terminated), final: noCommand(now.Terminated) && restarts >= commandRestarts, container: c.Name}
	case now.Waiting == nil:
		if last != nil && last.Reason == "Unhealthy" && concerns(last, c.Name) {
			return notReadyReason{text: "runs, not ready: " + firstLine(last.Message), container: c.Name}
		}
		return notReadyReason{text: "runs, not ready", container: c.Name}
	}
	waiting := *c.State.Waiting
	text := join(": ", waiting.Reason, firstLine(waiting.Message))
	switch waiting.Reason {
	case "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError":
		return notReadyReason{text: text, final: true}
	case "ErrImagePull", "ImagePullBackOff":
		return notReadyReason{text: fmt.Sprintf("cannot pull %s: %s", c.Image, text), final: imageMissing(c.Image, waiting.Message)}
	case "CrashLoopBackOff":
		t := notReadyReason{text: fmt.Sprintf("CrashLoopBackOff after %d restarts", c.RestartCount), final: restarts >= finalRestarts, container: c.Name, previous: true}
		if before != nil {
			t.text += ", " + lastWords(before)
			t.final = t.final || noCommand(before) && restarts >= commandRestarts
		}
		return t
	case "RunContainerError":
		return notReadyReason{text: text, final: lacksCommand(waiting.Message) && restarts >= commandRestarts}
	case "ContainerCreating", "PodInitializing", "":
		switch known := last != nil && concerns(last, c.Name); {
		case known && last.Reason == "Pulling":
			return notReadyReason{text: "pulling " + strings.Trim(strings.TrimPrefix(last.Message, "Pulling image "), `"`)}
		case known && last.Type == corev1.EventTypeWarning: // a volume that cannot be mounted says so only in an event
			return notReadyReason{text: "starting: " + last.Reason + ": " + firstLine(last.Message)}
		}
		return notReadyReason{text: "starting"}
	}
	return notReadyReason{text: text}
}

// lastWords returns how a container ended, such as "exit code 1", and its message or the runtime's.
func lastWords(t *corev1.ContainerStateTerminated) string {
	return join(": ", fmt.Sprintf("exit code %d", t.ExitCode), firstLine(t.Message))
}

// lacksCommand reports whether a runtime says that it cannot run the container's command, such as `exec: "serve": executable
// file not found in $PATH`. Its other errors may pass.
func lacksCommand(message string) bool { return strings.Contains(message, `exec: "`) }

// noCommand reports whether a container never ran for lack of its command. With another reason the words are an application's.
func noCommand(t *corev1.ContainerStateTerminated) bool {
	return (t.Reason == "StartError" || t.Reason == "ContainerCannotRun") && lacksCommand(t.Message)
}

// concerns reports whether an event is about a container or about its whole pod.
func concerns(e *corev1.Event, container string) bool {
	return e.InvolvedObject.FieldPath == "" || strings.Contains(e.InvolvedObject.FieldPath, "{"+container+"}")
}

// imageMissing reports whether an image does not exist, as opposed to a registry that may answer later. No registry serves
// kind.local: its images are loaded into the node, so one that must be pulled was not loaded.
func imageMissing(image, message string) bool {
	signs := []string{"not found", "manifest unknown", "does not exist", "pull access denied", "name unknown"}
	says := func(sign string) bool { return strings.Contains(strings.ToLower(message), sign) }
	return slices.ContainsFunc(signs, says) || strings.HasPrefix(image, "kind.local/")
}

// firstLine returns the first line of a text, at most 300 bytes of it.
func firstLine(text string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if len(first) > 300 {
		return strings.ToValidUTF8(first[:300], "") + "…"
	}
	return first
}

// logsOf returns the last log lines of the container that is not ready, for the end of an error. It returns "" if
// the container has no log.
func (c *Client) logsOf(ctx context.Context, ns string, t notReadyReason) string {
	if t.container == "" {
		return ""
	}
	text, err := c.podLogs(ctx, ns, t.pod, t.container, logLines, t.previous)
	if text = strings.TrimSpace(text); err != nil || text == "" {
		return ""
	}
	return fmt.Sprintf("\nlast log lines of %s container %s:\n  %s", t.pod, t.container, strings.ReplaceAll(text, "\n", "\n  "))
}
