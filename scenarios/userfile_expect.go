package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"knative.dev/serving/pkg/apis/serving"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
	"mllab.local/scenarios/file"
)

// check observes what a step expects, once.
func (u *userStory) check(ctx context.Context, l *Session, s file.Step) (Evidence, error) {
	switch x := s.Expect.(type) {
	case file.ExpectSplit:
		c := split.Claim{N: x.Requests, Alpha: x.Alpha}
		for _, share := range x.Shares {
			c.Legs = append(c.Legs, split.Leg{Name: share.Version, Share: share.Percent / 100})
		}
		return l.sample(ctx, l.to(x.Of), c)
	case file.ExpectAll:
		return u.all(ctx, l, x)
	case file.ExpectMirror:
		return u.mirrored(ctx, l, x)
	case file.ExpectZeroPods:
		return u.zeroPods(ctx, l, x)
	case file.ExpectNoLoss:
		w := u.watchers[x.Of]
		delete(u.watchers, x.Of)
		return w.lostNone(ctx, l)
	}
	switch c := s.Change.(type) {
	case file.Watch:
		return Evidence{Summary: fmt.Sprintf("%s gets %g requests a second from here on", c.Of, c.Rate)}, nil
	case nil:
		return Evidence{Summary: "waited; nothing is claimed"}, nil
	}
	return Evidence{Summary: "changed; nothing is claimed"}, nil
}

// all claims that one version answers everything. Of a request that says who
// it is this is a claim about routes.
func (u *userStory) all(ctx context.Context, l *Session, x file.ExpectAll) (Evidence, error) {
	r := l.to(x.Of)
	r.Header = headerOf(x)
	e, err := l.sample(ctx, r, split.Claim{Legs: []split.Leg{{Name: x.Version, Share: 1}}, N: x.Requests, Alpha: u.alpha})
	if refuted, is := errors.AsType[*ClaimError](err); is && refuted.Claim == Shares {
		refuted.Claim = Claim(x.Claim())
	}
	return e, err
}

func headerOf(x file.ExpectAll) http.Header {
	h := http.Header{}
	for _, name := range sortedKeys(x.Headers) {
		h.Set(name, x.Headers[name])
	}
	// A browser sends one header with all of them, and a route matches that text:
	// https://www.rfc-editor.org/rfc/rfc6265#section-5.4
	var cookies []string
	for _, name := range sortedKeys(x.Cookies) {
		cookies = append(cookies, name+"="+x.Cookies[name])
	}
	if len(cookies) > 0 {
		h.Set("Cookie", strings.Join(cookies, "; "))
	}
	return h
}

// asks are the ways in which the file's requests ask for a name, the plain one
// first. A route's state may carry its mark in the rule for one of them only; a
// proxy's worker gets all rules of a host at once, so one is as good as all.
func (u *userStory) asks(l *Session, of string) []probe.Request {
	all := []probe.Request{l.to(of)}
	for _, h := range u.requests[of] {
		r := l.to(of)
		r.Header = h
		all = append(all, r)
	}
	return all
}

// copiesQuiet is how long no copy may have arrived until the last one has: the
// proxy sends it together with the request that was answered.
const copiesQuiet = 2 * time.Second

// mirrored sends requests that are all answered, and claims that this part of
// them reached the shadow, each once.
func (u *userStory) mirrored(ctx context.Context, l *Session, x file.ExpectMirror) (Evidence, error) {
	answers, e, err := l.served(ctx, l, l.to(x.Of), x.Requests)
	if err != nil {
		return e, err
	}
	came, err := l.copies(ctx, model{Name: x.Of, Version: x.To}.labels(), answers, copiesQuiet, float64(len(answers))*x.Percent/100)
	if err != nil {
		return e, err
	}
	return judgeCopies(e, came, x)
}

// judgeCopies compares what the shadow got with what was sent.
func judgeCopies(e Evidence, came arrivals, x file.ExpectMirror) (Evidence, error) {
	got := came.once + came.again
	const without = "not mirrored"
	c := split.Claim{N: x.Requests, Alpha: x.Alpha, Legs: []split.Leg{{Name: x.To, Share: x.Percent / 100}, {Name: without, Share: 1 - x.Percent/100}}}
	e, err := e.judge(c, map[string]int{x.To: got, without: x.Requests - got}, Mirror)
	if e.Verdict != nil && came.again > 0 {
		err = refute(Mirror, "%d of %d requests reached %s more than once", came.again, x.Requests, x.To)
	}
	return e, err
}

// zeroPods claims that a quiet Knative Service has no pod left in time, not
// even one that is about to end.
func (u *userStory) zeroPods(ctx context.Context, l *Session, x file.ExpectZeroPods) (Evidence, error) {
	took, err := l.noPod(ctx, x.Within, x.Of, func() (names []string, err error) {
		pods, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{serving.ServiceLabelKey: x.Of}) // those that are about to end, too
		for _, p := range pods {
			names = append(names, p.Name)
		}
		return names, err
	})
	if err != nil {
		return Evidence{}, err
	}
	return Evidence{Summary: fmt.Sprintf("no pod of %s is left after %.0f s", x.Of, took.Seconds()), Figures: []Figure{{"to zero", took.Seconds(), "s"}}}, nil
}
