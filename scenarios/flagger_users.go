package scenarios

import (
	"net/http"

	"mllab.local/internal/probe"
)

// audience is users whose requests are alike.
type audience struct {
	name     string
	header   http.Header
	first    int  // percent of them that v2 answers on its way, at first
	atCanary bool // they try v2 at an address of its own, and may lose requests
	prober   prober
}

// Flagger's strategies. https://docs.flagger.app/usage/deployment-strategies
const (
	strategyCanary    = "canary"     // v2 gets more and more of the requests
	strategyAB        = "ab"         // v2 gets those with a header or a cookie
	strategyBlueGreen = "blue-green" // v2 gets none until it is tried, and then all
	strategyMirror    = "mirror"     // the same, and until then it gets copies of all
)

// Strategies are the values of Options.Strategy.
var Strategies = []string{strategyCanary, strategyAB, strategyBlueGreen, strategyMirror}

func usersOf(strategy string) []*audience {
	switch strategy {
	case strategyAB:
		return []*audience{
			{name: "untagged"},
			{name: "by header", header: http.Header{http.CanonicalHeaderKey(armHeader): {"b"}}, first: 100},
			{name: "by cookie", header: http.Header{"Cookie": {"a=1; group=b"}}, first: 100},
		}
	case strategyBlueGreen:
		return []*audience{{name: "users"}, {name: "v2's own address", atCanary: true, first: 100}}
	case strategyMirror:
		return []*audience{{name: "users"}}
	}
	return []*audience{{name: "users", first: firstWeight}}
}

func (u *audience) request(l *Session, m *delivered) probe.Request {
	r := l.to(m.name)
	if u.atCanary {
		r = l.to(canaryHost + m.name)
	}
	r.Header = u.header
	return r
}
