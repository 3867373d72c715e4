package scenarios

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
	"mllab.local/sampleapp/api"
)

type meshSecurityStory struct {
	Options
	each    int    // requests of each caller in a sample
	mode    string // of the PeerAuthentication that claims strict mTLS
	account string // that the AuthorizationPolicy names
	pod     string // of the model
}

// meshCaller is a pod that passes requests on to the model.
type meshCaller struct {
	Name    string
	Account string
	Outside bool // it has no sidecar, and so no certificate of the mesh
}

// request is one that c passes on to the model.
func (c meshCaller) request(l *Session) probe.Request {
	r := l.to("model")
	r.Header = http.Header{callerHeader: {c.Name}}
	return r
}

const (
	allowedAccount = "shop"
	otherAccount   = "shop-test" // begins as the allowed one does
)

// meshCallers are all who call. The one outside the mesh has the account that is
// allowed: an identity is what a certificate says.
var meshCallers = []meshCaller{
	{Name: allowedAccount, Account: allowedAccount},
	{Name: otherAccount, Account: otherAccount},
	{Name: "outsider", Account: allowedAccount, Outside: true},
}

// callerHeader names the caller by which the gateway sends a request on.
const callerHeader = "X-Mllab-Caller"

// What becomes of a caller's request here.
const (
	wasServed = "served"     // 200, by the model
	wasDenied = "denied"     // 403, by the model's sidecar: it knows the caller, and the policy does not
	wasCut    = "broken off" // the caller had no answer, which it says by a 502: the sidecar takes no plain text
)

// policyBound is how long a new policy may take to be active. After it, the
// sample shows what was not.
const policyBound = 10 * time.Second

// meshSecurity: the model's sidecar first takes everything, then no plain text,
// then one identity's requests only.
var meshSecurity = Scenario{
	Name:             "mesh-security",
	Summary:          "strict mTLS refuses plain text, and a policy admits one identity",
	Needs:            []string{"istio"},
	SidecarInjection: true,
	New:              newMeshSecurity,
}

func newMeshSecurity(o Options) (*Plan, error) {
	s := &meshSecurityStory{
		Options: o, each: (o.Requests + len(meshCallers) - 1) / len(meshCallers), mode: "STRICT", account: allowedAccount,
	}
	if err := s.fate(wasServed).Check(); err != nil {
		return nil, fault.Usage("see `mllab scenario mesh-security --help`", "mesh-security: %w", err)
	}
	all := map[string]string{allowedAccount: wasServed, otherAccount: wasServed, "outsider": wasServed}
	meshed := map[string]string{allowedAccount: wasServed, otherAccount: wasServed, "outsider": wasCut}
	one := map[string]string{allowedAccount: wasServed, otherAccount: wasDenied, "outsider": wasCut}
	return &Plan{
		Steps: []Step{
			{
				Name: "no policy", Change: s.deploy, Check: s.check(all, Answers),
				Why: "Istio gives each pod with a sidecar a certificate that names its service account. " +
					"By default a sidecar takes plain text, too, so that a mesh can grow pod by pod: anybody in the cluster reaches the model.",
				WatchFor: "The outsider has no sidecar. It is served like the others.",
			},
			{
				Name: "strict mTLS", Check: s.check(meshed, Encryption),
				Change: func(ctx context.Context, l *Session) error { return s.secure(ctx, l, meshed, "") },
				Why: "A PeerAuthentication has the model's sidecar require mTLS. The callers' sidecars used it before, so nobody in the mesh changes anything. " +
					"The outsider's service account is one that is served, but an account without its certificate proves nothing.",
				WatchFor: "The outsider gets no answer at all: its connections are closed. The model has received none of its requests.",
			},
			{
				Name: "one identity", Check: s.check(one, Identity),
				Change: func(ctx context.Context, l *Session) error { return s.secure(ctx, l, one, s.account) },
				Why: fmt.Sprintf("An AuthorizationPolicy admits one identity, that of service account %s. All others are refused, though they have a certificate. "+
					"Account %s is a near miss.", allowedAccount, otherAccount),
				WatchFor: fmt.Sprintf("%s gets 403 from the model's sidecar. The model has not received its requests either.", otherAccount),
			},
		},
		Controls: []Control{
			{
				Name: "permissive", Summary: "the PeerAuthentication says PERMISSIVE where strict mTLS is claimed",
				Break: set(&s.mode, "PERMISSIVE"), Catches: Encryption,
			},
			{
				Name: "prefix", Summary: fmt.Sprintf("the policy admits every account that begins with %s", allowedAccount),
				Break: set(&s.account, allowedAccount+"*"), Catches: Identity,
			},
			{
				Name: "misnamed", Summary: "the policy names the caller's Deployment where the service account is called otherwise",
				Break: set(&s.account, allowedAccount+"-relay"), Catches: Identity,
			},
		},
	}, nil
}

// fate claims what becomes of every request of one caller.
func (s *meshSecurityStory) fate(want string) split.Claim {
	c := split.Claim{N: s.each, Alpha: s.Alpha}
	for _, fate := range []string{wasServed, wasDenied, wasCut} {
		leg := split.Leg{Name: fate}
		if fate == want {
			leg.Share = 1
		}
		c.Legs = append(c.Legs, leg)
	}
	return c
}

// deploy brings the model and its callers, and returns when each caller is
// answered.
func (s *meshSecurityStory) deploy(ctx context.Context, l *Session) error {
	v1 := model{Name: "model", Version: "v1", Env: map[string]string{"SEEN_KEEP": strconv.Itoa(max(api.SeenKeep, 2*s.Requests))}}
	models := []model{v1}
	var asked []probe.Request
	for _, c := range meshCallers {
		models = append(models, model{
			Name: c.Name, Version: "relay", Account: c.Account, NoSidecar: c.Outside, Env: map[string]string{"RELAY": "http://model", "DRAIN": "0s"},
		})
		asked = append(asked, c.request(l))
	}
	objs, err := l.deployments(models...)
	if err != nil {
		return err
	}
	if err := l.routes(ctx, "mesh-security/callers.yaml", asked, &struct {
		routeState
		Header   string
		Callers  []meshCaller
		Accounts []string
	}{routeState{}, strings.ToLower(callerHeader), meshCallers, []string{allowedAccount, otherAccount}}, objs...); err != nil {
		return err
	}
	s.pod, err = l.podOf(ctx, v1.labels())
	return err
}

// secure applies the policies and returns when each caller's requests end as they
// should, inForceStreak times in a row, or after policyBound: no status says when
// a sidecar knows a policy, and only the sample is a verdict.
func (s *meshSecurityStory) secure(ctx context.Context, l *Session, want map[string]string, account string) error {
	if err := l.applyFile(ctx, "mesh-security/policy.yaml", struct{ Namespace, Mode, Account string }{l.Namespace, s.mode, account}); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, policyBound)
	defer cancel()
	err := l.until(bounded, "the policies", func() string {
		for _, c := range meshCallers {
			for range inForceStreak {
				if got := c.fate(l.Send(bounded, c.request(l))); got != want[c.Name] {
					return fmt.Sprintf("a request of %s was %s", c.Name, got)
				}
			}
		}
		return ""
	})
	if timedOut(ctx, err) {
		return nil
	}
	return err
}

// fate is what became of a request of c. An answer that did not come by c's pod
// has no such fate, and is named by what is wrong with it.
func (c meshCaller) fate(a probe.Answer) string {
	switch {
	case !strings.HasPrefix(a.Relay, c.Name+"-relay-"):
		return fmt.Sprintf("not sent by %s (%s, by %q)", c.Name, a.Problem(), a.Relay)
	case a.OK():
		return wasServed
	case a.Router && a.Status == http.StatusForbidden:
		return wasDenied
	case a.Router && a.Status == http.StatusBadGateway:
		return wasCut
	}
	return a.Problem()
}

// check sends requests of all callers in turn, and judges what became of them: by
// their answers, and by which of them the model has received.
func (s *meshSecurityStory) check(want map[string]string, claim Claim) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		var headers []http.Header
		for _, c := range meshCallers {
			headers = append(headers, c.request(l).Header)
		}
		before, err := l.seenInside(ctx, s.pod, math.MaxInt)
		if err != nil {
			return Evidence{}, err
		}
		answers, e, err := l.inTurn(ctx, headers, s.each)
		if err != nil {
			return e, err
		}
		after, err := l.seenInside(ctx, s.pod, before.Count)
		if err != nil {
			return e, err
		}
		if after.From != before.Count {
			return e, fault.CannotTest("", "Pod/%s does not remember every request of the sample", s.pod)
		}
		return s.judge(e, want, answers, after.IDs, claim)
	}
}

// judge refutes claim for each caller whose requests ended otherwise than wanted,
// or reached the model when they should not have.
func (s *meshSecurityStory) judge(e Evidence, want map[string]string, answers [][]probe.Answer, ids []string, claim Claim) (Evidence, error) {
	refuted := &ClaimError{Claim: claim}
	var says []string
	for i, c := range meshCallers {
		counts := countBy(answers[i], c.fate)
		verdict, err := s.fate(want[c.Name]).Judge(counts)
		if err != nil {
			return e, err
		}
		for _, reason := range verdict.Reasons {
			refuted.Reasons = append(refuted.Reasons, c.Name+": "+reason)
		}
		reached, expected := received(answers[i], ids), arrivals{missing: s.each}
		if reached.strange = 0; want[c.Name] == wasServed { // the other callers' are strange here
			expected = arrivals{once: s.each}
		}
		if verdict.Pass && reached != expected {
			refuted.Reasons = append(refuted.Reasons, fmt.Sprintf("%s: the model received %d of %d requests, %d of them more than once", c.Name, reached.once+reached.again, s.each, reached.again))
		}
		says = append(says, fmt.Sprintf("%s: %d of %d %s", c.Name, counts[want[c.Name]], s.each, want[c.Name]))
	}
	e.Summary = fmt.Sprintf("%s; the model received the served ones only, each once; exact: one stray answer fails; otherwise below %.2f %% with %.0f %% confidence",
		strings.Join(says, ", "), 100*split.UpperBound(0, s.each, confidence), 100*confidence)
	if len(refuted.Reasons) > 0 {
		e.Summary = refuted.Reasons[0]
		return e, refuted
	}
	return e, nil
}
