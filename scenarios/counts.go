package scenarios

import (
	"strings"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// evenly claims that each pod answers as many requests as any other.
func evenly(pods []string, n int, alpha float64) split.Claim {
	c := split.Claim{N: n, Alpha: alpha}
	for _, p := range pods {
		c.Legs = append(c.Legs, split.Leg{Name: short(p), Share: 1 / float64(len(pods))})
	}
	return c
}

// countBy counts answers by a name for each.
func countBy(answers []probe.Answer, name func(probe.Answer) string) map[string]int {
	counts := map[string]int{}
	for _, a := range answers {
		counts[name(a)]++
	}
	return counts
}

// short is the part of a pod's name that differs from its siblings'.
func short(pod string) string { return pod[strings.LastIndexByte(pod, '-')+1:] }

// What becomes of a request here.
const (
	isOK    = "ok"
	isError = "errors" // the model's own
)

// errorClaim claims which share of n requests the model fails.
func errorClaim(share float64, n int, alpha float64) split.Claim {
	return split.Claim{N: n, Alpha: alpha, Legs: []split.Leg{{Name: isOK, Share: 1 - share}, {Name: isError, Share: share}}}
}

// outcomes counts what became of requests. What is neither OK nor the model's
// own 500 counts under its problem, which is no leg of any claim.
func outcomes(answers []probe.Answer) map[string]int {
	return countBy(answers, func(a probe.Answer) string {
		switch {
		case a.OK():
			return isOK
		case a.Err == "" && !a.Router && a.Status == 500:
			return isError
		}
		return a.Problem()
	})
}

// triesOf is how often each request came to the pods.
func triesOf(answers []probe.Answer, pods []seen) []int {
	came := map[string]int{}
	for _, p := range pods {
		for _, id := range p.IDs {
			came[id]++
		}
	}
	tries := make([]int, len(answers))
	for i, a := range answers {
		tries[i] = came[a.ID]
	}
	return tries
}
