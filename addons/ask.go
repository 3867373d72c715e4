package addons

import (
	"context"
	"fmt"

	"mllab.local/internal/probe"
)

// Ask checks an addon once, cheaply and from outside of the cluster, as its users would. It returns the question and the
// answer. asked is "" if the addon has no such check. The cluster's API may have an old state; this is the current one.
func Ask(ctx context.Context, env Env, addon string) (asked, answer string, err error) {
	switch addon {
	case sampleName:
		asked = "GET " + env.Gateway + " with Host " + SampleHost
		a := env.Send.Send(ctx, probe.Request{URL: env.Gateway, Host: SampleHost, Fresh: true})
		if !a.OK() {
			return asked, "", fmt.Errorf("%s", a.Problem())
		}
		return asked, fmt.Sprintf("%d from %s, pod %s", a.Status, a.Target, a.Pod), nil
	case "git":
		remote, err := GitRemote(ctx, env.Kube, env.Gateway)
		if err != nil {
			return "the lab's Git", "", err
		}
		tip, err := gitTip(ctx, env.Send, remote)
		return "git ls-remote " + remote.Redacted(), tip, err
	case "registry":
		a := env.Send.Send(ctx, probe.Request{URL: env.Gateway + "/v2/", Fresh: true})
		asked = "GET " + env.Gateway + "/v2/"
		switch {
		case a.Status == 200:
			return asked, "200", nil
		case a.Err != "":
			return asked, "", fmt.Errorf("status %d: %s", a.Status, a.Err)
		}
		return asked, "", fmt.Errorf("status %d", a.Status)
	}
	return "", "", nil
}
