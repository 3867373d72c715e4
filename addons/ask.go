package addons

import (
	"context"
	"fmt"

	"mllab.local/internal/probe"
)

// Ask asks an addon one cheap question from outside, as its users would, and says what it asked and what came back. asked
// is "" for an addon that has no such question. It asks once: the cluster's API remembers what was so before a node was
// stopped, and this is what is so now.
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
		if a.Status != 200 {
			return asked, "", fmt.Errorf("status %d%s", a.Status, prefixed(": ", a.Err))
		}
		return asked, "200", nil
	}
	return "", "", nil
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}
