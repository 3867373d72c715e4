package file

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"mllab.local/internal/split"
	"mllab.local/sampleapp/api"
)

// shares checks the field percent of v, and reports whether it adds up. Its field of names the model.
func (t *validator) shares(v *value) bool {
	m, ok := t.state.models[v.get("of").text]
	sum := 0.0
	for _, f := range v.get("percent").fields {
		if ok && !slices.Contains(m.versions, f.name) {
			t.say(f.place, f.path, "%s has no version %s at this point of the story; there are: %s", v.get("of").text, f.name, strings.Join(m.versions, ", "))
		}
		sum += f.float
	}
	if math.Abs(sum-100) > 1e-9 {
		t.wrong(v.get("percent"), "the percentages add up to %g, not 100; change one of them", sum)
		return false
	}
	return true
}

func (t *validator) expect(f stepForm) Expect {
	place := "the step"
	if f.Wait != nil && f.Wait.At.kind == boolean {
		place = "a step after it, and expect this there"
	}
	switch {
	case f.ExpectSplit != nil:
		x, v := *f.ExpectSplit, f.At.get("expect-split")
		x.Requests, x.Alpha = cmp.Or(x.Requests, t.rules.Requests), cmp.Or(x.Alpha, t.rules.Alpha)
		t.host(v.get("of"))
		t.checkSeen(v.get("of"), x.Of, place)
		if !t.shares(v) {
			return x
		}
		legs := make([]split.Leg, len(x.Shares))
		for i, s := range x.Shares {
			legs[i] = split.Leg{Name: s.Version, Share: s.Percent / 100}
		}
		t.checkPower(v, split.Claim{Legs: legs, N: x.Requests, Alpha: x.Alpha})
		return x
	case f.ExpectAll != nil:
		x, v := *f.ExpectAll, f.At.get("expect-all")
		x.Requests = cmp.Or(x.Requests, t.rules.Requests)
		t.host(v.get("of"))
		t.checkSeen(v.get("of"), x.Of, place)
		t.checkVersion(x.Of, v.get("version"))
		t.checkHeaders(v)
		return x
	case f.ExpectMirror != nil:
		x, v := *f.ExpectMirror, f.At.get("expect-mirror")
		x.Requests, x.Alpha = cmp.Or(x.Requests, t.rules.Requests), cmp.Or(x.Alpha, t.rules.Alpha)
		t.checkMirror(v)
		if x.Requests > api.SeenKeep {
			t.wrong(v, "%d requests are more than the %d that the shadow remembers; use fewer", x.Requests, api.SeenKeep)
		}
		t.checkPower(v, split.Claim{Legs: []split.Leg{{Name: x.To, Share: x.Percent / 100}, {Name: "not mirrored", Share: 1 - x.Percent/100}}, N: x.Requests, Alpha: x.Alpha})
		return x
	case f.ExpectZeroPods != nil:
		of := f.At.get("expect-zero-pods").get("of")
		if _, there := t.state.objects[Ref{serving, "Service", of.text}]; !there {
			t.wrong(of, "%s is no Knative Service at this point of the story, and only those go down to no pod", of.text)
		}
		if t.state.watching[of.text] {
			t.wrong(of, "the watch of %s keeps it awake; end that with expect-no-loss first", of.text)
		}
		return *f.ExpectZeroPods
	case f.ExpectNoLoss != nil:
		of := f.At.get("expect-no-loss").get("of")
		if !t.state.watching[of.text] {
			t.wrong(of, "nobody watches %s at this point of the story; begin with watch", of.text)
		}
		delete(t.state.watching, of.text)
		return *f.ExpectNoLoss
	}
	return nil
}

// ownHeaders are those that a request has whatever a file says: who it is for and
// which one it is, and those of its connection.
var ownHeaders = []string{
	"host", "x-request-id", "connection", "keep-alive", "proxy-connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade",
}

// checkHeaders checks that a request can have all headers and cookies of an
// expectation.
func (t *validator) checkHeaders(v *value) {
	seen := map[string]bool{}
	for _, f := range v.get("headers").all() {
		name := strings.ToLower(f.name)
		switch {
		case slices.Contains(ownHeaders, name) || strings.HasPrefix(name, "x-mllab-"):
			t.say(f.place, f.path, "mllab or HTTP itself sets this header of a request; remove it")
		case seen[name]:
			t.say(f.place, f.path, "it is here a second time: capitals do not count; remove one of them")
		case name == "cookie" && v.get("cookies") != nil:
			t.say(f.place, f.path, "there are `cookies` too, and a browser sends one header with all of them; write it as one of these")
		}
		seen[name] = true
	}
}

// checkPower checks that the claim would refuse a version without traffic.
func (t *validator) checkPower(v *value, c split.Claim) {
	if err := c.Check(); err != nil {
		t.wrong(v, "%v; change the numbers", err)
	} else if need := c.Needed(); c.N < need {
		t.wrong(v, "%d requests are too few: a version that gets nothing would pass; use requests: %d or more", c.N, need)
	}
}

func (t *validator) wait(f changeForm) Wait {
	w := f.Wait
	switch {
	case w == nil:
		return Wait{}
	case w.At.kind == boolean:
		if f.Apply == nil {
			t.wrong(w.At, "there is nothing to wait for in this step; `wait: false` goes with apply")
		}
		return Wait{No: true}
	case w.Mark != "":
		mark := w.At.get("mark")
		if t.host(w.At.get("of")) && !t.marks[w.Mark] {
			t.wrong(mark, "no VirtualService up to here sets the response header X-Mllab-Route: %s, so the wait could not end%s", w.Mark, thereAre(sorted(t.marks)))
		} else if ref, is := t.state.stale[w.Mark]; is && t.routesFor(ref, w.Of) {
			t.wrong(mark, "%s sets this mark before the change, too, so the wait would not see it; give X-Mllab-Route another value here and there", ref)
		}
		// Of what is behind a route the gateway learns with any.
		maps.DeleteFunc(t.state.unseen, func(_ string, because Ref) bool {
			return because.Kind != "VirtualService" || t.routesFor(because, w.Of)
		})
		maps.DeleteFunc(t.state.stale, func(_ string, ref Ref) bool { return t.routesFor(ref, w.Of) })
	case w.Ready == "" && f.Apply == nil && f.Delete == nil && f.Split == nil && f.Mirror == nil:
		t.wrong(w.At, "nothing changes in this step; `empty` goes with apply, split, mirror, delete, or with mark")
	}
	wait := Wait{Within: w.Within, Mark: w.Mark, Of: w.Of, Empty: w.Empty}
	if w.Ready != "" {
		if ref, ok := t.ref(w.At.get("ready")); ok {
			wait.Ready = &ref
		}
	}
	return wait
}
