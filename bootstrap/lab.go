package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"mllab.local/addons"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/report"
)

// liveLab is a cluster behind its API.
type liveLab struct{ kube *kube.Client }

func connect(kubeconfig string) (lab, error) {
	c, err := kube.Connect(kubeconfig)
	if err != nil {
		return nil, err
	}
	return liveLab{c}, nil
}

func (l liveLab) await(ctx context.Context, since time.Time, reason func(string)) (string, error) {
	poll := time.NewTicker(200 * time.Millisecond)
	defer poll.Stop()
	last := "not asked yet"
	dropped := since.IsZero() // only a cluster that was stopped has leases of the dead
	for {
		if !dropped {
			dropped = l.kube.DropLeases(ctx, since) == nil // when it fails the API does not answer yet, which the next call says
		}
		version, why := l.nodeReady(ctx, since)
		if why == "" {
			return version, nil
		}
		if ctx.Err() == nil { // else it only says that the time is over
			last = why
			reason(why)
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return "", ctx.Err()
			}
			return "", fmt.Errorf("waiting for Kubernetes: %w (last: %s)", ctx.Err(), last)
		case <-poll.C:
		}
	}
}

// nodeReady returns the Kubernetes version of the node, or why it is not ready.
func (l liveLab) nodeReady(ctx context.Context, since time.Time) (version, why string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var nodes corev1.NodeList
	if err := l.kube.List(ctx, &nodes); err != nil {
		return "", "API: " + err.Error()
	}
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if c.Type != corev1.NodeReady {
				continue
			}
			switch {
			case c.Status != corev1.ConditionTrue:
				return "", fmt.Sprintf("Node/%s: not ready, %s", n.Name, c.Message)
			case c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)): // it has whole seconds
				return "", fmt.Sprintf("Node/%s: the kubelet has not reported since the start", n.Name)
			}
			return n.Status.NodeInfo.KubeletVersion, ""
		}
		return "", fmt.Sprintf("Node/%s: the kubelet has not reported yet", n.Name)
	}
	return "", "no node has registered yet"
}

func (l liveLab) install(ctx context.Context, gateway string, list []addons.Addon, im addons.Images, r report.Reporter) ([]addons.Result, error) {
	return addons.Install(ctx, addons.Env{Kube: l.kube, Gateway: gateway, Send: probe.NewHTTP(10 * time.Second)}, list, im, r)
}

func (l liveLab) ready(ctx context.Context, a addons.Addon, im addons.Images) error {
	objs, err := a.Objects(ctx, im)
	if err != nil {
		return err
	}
	return l.kube.Wait(ctx, objs, func(string) {})
}
