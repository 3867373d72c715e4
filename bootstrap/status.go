package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/proxy"
	"mllab.local/internal/run"
)

// StatusReport is the state of a cluster, and whether it is ready.
type StatusReport struct {
	Cluster    string        `json:"cluster"`
	Ready      bool          `json:"ready"`
	Why        string        `json:"why,omitempty"` // it is not ready
	Engine     string        `json:"engine,omitempty"`
	Node       string        `json:"node,omitempty"` // state of its container
	Kubernetes string        `json:"kubernetes,omitempty"`
	Memory     uint64        `json:"memoryBytes,omitempty"`
	Requests   kube.Requests `json:"requests,omitzero"`
	URL        string        `json:"url,omitempty"`
	Kubeconfig string        `json:"kubeconfig,omitempty"`
	GitOps     string        `json:"gitops,omitempty"` // revision of the lab's Git that its addons come from, main@sha1:…
	Addons     []AddonStatus `json:"addons,omitempty"`
	// Flux are the users' Flux objects that are not ready. They do not make the lab unready.
	Flux []addons.Unready `json:"fluxNotReady,omitempty"`
	// Proxies are the proxies that reject their configuration. If the gateway does, no route can change: the lab is not ready.
	Proxies []proxy.Rejection `json:"proxiesRefusing,omitempty"`
	// Checks are direct checks of the lab. Its API may only have an old state.
	Checks []Check `json:"checks,omitempty"`
	Next   string  `json:"next"`
}

// Check is one question and its answer.
type Check struct {
	Asked  string `json:"asked"`
	OK     bool   `json:"ok"`
	Answer string `json:"answer"` // the error if it is not OK
}

func newCheck(asked, answer string, err error) Check {
	if err != nil {
		answer = err.Error()
	}
	return Check{asked, err == nil, answer}
}

// AddonStatus is whether an addon's objects are ready, and if not, which one and why.
type AddonStatus struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	Why   string `json:"why,omitempty"`
	Gone  bool   `json:"gone,omitempty"` // a commit removed it from the lab's Git, so its absence is correct
}

// Time limits of status. Ready objects answer at once, but rendering the addons takes a while on a busy machine.
const (
	statusBound = 20 * time.Second
	addonBound  = 60 * time.Second
)

// Status reads the state of the cluster and changes nothing. A cluster that is not ready is no error.
func Status(ctx context.Context, o Options) (StatusReport, error) { return status(ctx, o, realDeps()) }

func status(ctx context.Context, o Options, p deps) (StatusReport, error) {
	o, err := o.withDefaults()
	if err != nil {
		return StatusReport{}, err
	}
	st, err := o.store().load()
	if err != nil {
		return StatusReport{Cluster: o.Name, Next: o.Command("up")}, err
	}
	r := StatusReport{Cluster: o.Name, Next: o.upAgain(st)}
	e, err := findEngine(ctx, p, "", st)
	if err != nil {
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		r.Why, r.Next = err.Error(), o.Command("doctor")
		return r, nil
	}
	r.Engine = e.Name + " " + e.Version
	found, err := e.containers(ctx, o.Name)
	if err != nil {
		return r, err
	}
	alive := len(found) == 1 && e.alive(ctx, found[0].Name)
	act, why := decide(o.Name, found, alive, st)
	if len(found) == 1 {
		r.Node = fmt.Sprintf("%s %s", found[0].Name, found[0].Status)
	}
	if act != keep {
		r.Why = "cluster " + o.Name + ": " + why
		switch {
		case act == create:
			r.Why = "there is no cluster " + o.Name
		case act == refuse:
			r.Next = "mllab doctor --name " + o.Name
		}
		return r, nil
	}
	r.URL, r.Kubeconfig = url(found[0].Port), o.store().kubeconfig()
	r.Memory, _ = e.nodeMemory(ctx, found[0].Name) // optional
	l, err := p.lab(r.Kubeconfig)
	if err != nil {
		r.Why = err.Error()
		return r, nil
	}
	bounded, cancel := context.WithTimeout(ctx, statusBound)
	defer cancel()
	if r.Kubernetes, err = l.await(bounded, time.Time{}, func(string) {}); err != nil {
		r.Why = err.Error()
		return r, ctx.Err()
	}
	r.Requests, _ = l.requests(bounded) // optional
	if err := o.cordoned(r.Requests); err != nil {
		r.Why, r.Next = err.Error(), fault.Hint(err)
	}
	state, err := e.out(bounded, "exec", found[0].Name, "systemctl", "is-active", "kubelet")
	r.Checks = []Check{newCheck("systemctl is-active kubelet, in the node", state, err)}
	if err := r.askAddons(ctx, l, st); err != nil {
		return r, err
	}
	for _, c := range r.Checks {
		if !c.OK && r.Why == "" {
			r.Why = c.Asked + ": " + c.Answer
		}
	}
	if st.Phase != phaseReady && r.Why == "" {
		r.Why = "the last up did not complete"
	}
	unready := func(a AddonStatus) bool { return !a.Ready && slices.Contains(addons.Core(), a.Name) }
	if st.Phase == phaseCore && !slices.ContainsFunc(r.Addons, unready) {
		r.Why = "only the core is ready, which is enough for scenarios that need no more; " + r.Why
	}
	if r.Ready = r.Why == ""; r.Ready {
		r.Next = o.Command("scenario canary")
	}
	return r, nil
}

// cordoned returns an error if a node takes no new pods.
func (o Options) cordoned(q kube.Requests) error {
	if q.Cordoned == "" {
		return nil
	}
	return fault.Hinted(fmt.Errorf("%s is cordoned, so no pod can start", "Node/"+q.Cordoned), "`kubectl --kubeconfig "+run.ShellWord(o.store().kubeconfig())+" uncordon "+q.Cordoned+"`")
}

// askAddons checks all addons of the cluster in parallel.
func (r *StatusReport) askAddons(ctx context.Context, l lab, st *state) error {
	if len(st.Addons) == 0 {
		return nil
	}
	list, err := addons.Select(st.Addons...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, addonBound)
	defer cancel()
	r.Addons = make([]AddonStatus, len(list))
	var wg sync.WaitGroup
	gitops := st.GitOps && st.Phase == phaseReady // before that, they may not be in Git yet
	if gitops {
		wg.Go(func() {
			var err error
			if r.GitOps, err = l.followed(ctx); err != nil {
				r.Why = "the lab's Git is not followed: " + err.Error()
			}
		})
	}
	checks := make([]Check, len(list))
	for i, a := range list {
		wg.Go(func() {
			asked, answer, err := l.ask(ctx, r.URL, a.Name)
			checks[i] = newCheck(asked, answer, err)
		})
		wg.Go(func() {
			r.Addons[i] = AddonStatus{Name: a.Name, Ready: true}
			if err := l.ready(ctx, gitops, a, addons.Images(st.Images)); err != nil {
				r.Addons[i] = AddonStatus{Name: a.Name, Why: err.Error(), Gone: errors.Is(err, addons.ErrNotInGit)}
			}
		})
	}
	var unasked error
	if slices.Contains(addons.Names(list), "flux") {
		wg.Go(func() { r.Flux, unasked = l.fluxUnready(ctx) })
	}
	var unknown error
	if slices.Contains(addons.Names(list), "istio") {
		wg.Go(func() { r.Proxies, unknown = l.rejections(ctx) })
	}
	wg.Wait()
	for i, c := range checks {
		if c.Asked != "" && !r.Addons[i].Gone {
			r.Checks = append(r.Checks, c)
		}
	}
	for _, a := range r.Addons {
		if !a.Ready && !a.Gone && r.Why == "" {
			first, _, _ := strings.Cut(a.Why, "\n")
			r.Why = a.Name + ": " + first
		}
	}
	if err := cmp.Or(unasked, unknown); err != nil && r.Why == "" {
		r.Why = err.Error()
	}
	if len(r.Proxies) > 0 && r.Proxies[0].OfGateway() && r.Why == "" {
		r.Why, r.Next = r.Proxies[0].Error(), r.Proxies[0].Hint()
	}
	return nil
}
