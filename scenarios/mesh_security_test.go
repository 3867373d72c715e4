package scenarios

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/sampleapp/api"
)

// callers is a gateway behind which each caller's requests end as fates says.
func callers(t *testing.T, fates map[string]string) *Session {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := r.Header.Get(callerHeader)
		w.Header().Set(api.HeaderRelay, caller+"-relay-7d9-x2x")
		switch fates[caller] {
		case wasServed:
			w.Header().Set(api.HeaderTarget, "v1")
		case wasDenied:
			w.WriteHeader(http.StatusForbidden)
		case wasCut:
			w.WriteHeader(http.StatusBadGateway)
		default: // the gateway's own answer
			w.Header().Del(api.HeaderRelay)
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(srv.Close)
	return &Session{Env: &Env{Gateway: srv.URL}, Sender: probe.NewHTTP(0), record: record{evidence: t.TempDir(), stepName: "callers"}}
}

func TestEachCallersRequestsEndAsClaimed(t *testing.T) {
	const n = 20
	want := map[string]string{allowedAccount: wasServed, otherAccount: wasDenied, "outsider": wasCut}
	with := func(caller, fate string) map[string]string {
		fates := map[string]string{}
		maps.Copy(fates, want)
		fates[caller] = fate
		return fates
	}
	for _, tc := range []struct {
		name    string
		fates   map[string]string
		model   func(served []string) []string // what it says that it received
		refutes Claim
		says    string
	}{
		{"all as claimed", want, nil, "", "shop: 20 of 20 served, shop-test: 20 of 20 denied, outsider: 20 of 20 broken off"},
		{"plain text is served", with("outsider", wasServed), nil, Identity, "outsider: leg served (0 %): 20 of 20 answers, accepted exactly 0"},
		{"the other identity is served", with(otherAccount, wasServed), nil, Identity, "shop-test: leg served (0 %): 20 of 20"},
		{"the allowed one is denied", with(allowedAccount, wasDenied), nil, Identity, "shop: leg served (100 %): 0 of 20"},
		{"the gateway denies and not the sidecar", with(otherAccount, ""), nil, Identity, "shop-test: stray not sent by shop-test (status 403"},
		{"a served request did not reach the model", want, func(served []string) []string { return served[1:] }, Identity, "shop: the model received 19 of 20 requests, 0 of them more than once"},
		{"one reached it twice", want, func(served []string) []string { return append(served, served[0]) }, Identity, "shop: the model received 20 of 20 requests, 1 of them more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := callers(t, tc.fates)
			s := &meshSecurityStory{each: n, Options: Options{Alpha: 1e-6}}
			var headers []http.Header
			for _, c := range meshCallers {
				headers = append(headers, c.request(l).Header)
			}
			answers, e, err := l.inTurn(t.Context(), headers, n)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, a := range answers[0] {
				ids = append(ids, a.ID)
			}
			if tc.model != nil {
				ids = tc.model(ids)
			}
			e, err = s.judge(e, want, answers, ids, Identity)
			claim, why := refutes(t, err)
			if claim != tc.refutes || !strings.Contains(e.Summary+why, tc.says) {
				t.Errorf("refuted %q, says %q %q", claim, e.Summary, why)
			}
		})
	}
}

func TestARefusedRequestThatReachedTheModelRefutes(t *testing.T) {
	want := map[string]string{allowedAccount: wasDenied, otherAccount: wasDenied, "outsider": wasCut}
	l := callers(t, want)
	var answers [][]probe.Answer
	for _, c := range meshCallers {
		answers = append(answers, []probe.Answer{l.Send(t.Context(), c.request(l))})
	}
	s := &meshSecurityStory{each: 1, Options: Options{Alpha: 1e-6}}
	_, err := s.judge(Evidence{}, want, answers, []string{answers[2][0].ID}, Encryption)
	if claim, why := refutes(t, err); claim != Encryption || !strings.Contains(why, "outsider: the model received 1 of 1 requests") {
		t.Errorf("refuted %q: %s", claim, why)
	}
}

func TestThePoliciesSayOnlyWhatTheyAreGiven(t *testing.T) {
	for _, tc := range []struct{ mode, account, says string }{
		{"STRICT", "", "PeerAuthentication STRICT "},
		{"PERMISSIVE", "shop*", "PeerAuthentication PERMISSIVE AuthorizationPolicy cluster.local/ns/n/sa/shop*"},
	} {
		objs, err := render("mesh-security/policy.yaml", struct{ Namespace, Mode, Account string }{"n", tc.mode, tc.account})
		if err != nil {
			t.Fatal(err)
		}
		var says strings.Builder
		for _, o := range objs {
			text := asYAML(o)
			if !strings.Contains(text, "app: model") {
				t.Errorf("%s does not select the model", kube.Name(o))
			}
			for _, word := range []string{o.GetKind(), tc.mode, "cluster.local/ns/n/sa/" + tc.account} {
				if strings.Contains(text, word) && word != "cluster.local/ns/n/sa/" {
					fmt.Fprint(&says, word, " ")
				}
			}
		}
		if strings.TrimSpace(says.String()) != strings.TrimSpace(tc.says) {
			t.Errorf("got %q, want %q", says.String(), tc.says)
		}
	}
}

func TestTheOutsiderHasAnAllowedAccountAndNoSidecar(t *testing.T) {
	l := &Session{Env: &Env{Image: "kind.local/sampleapp:x"}}
	for _, c := range meshCallers {
		objs, err := l.deployments(model{Name: c.Name, Version: "relay", Account: c.Account, NoSidecar: c.Outside})
		if err != nil {
			t.Fatal(err)
		}
		text := asYAML(objs[0])
		if strings.Contains(text, `sidecar.istio.io/inject: "false"`) != c.Outside || !strings.Contains(text, "serviceAccountName: "+c.Account+"\n") {
			t.Errorf("%+v:\n%s", c, text)
		}
	}
}
