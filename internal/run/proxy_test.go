package run

import (
	"slices"
	"strings"
	"testing"
)

func TestAChildKnowsTheProxyAndAsksItForNothingOnThisComputer(t *testing.T) {
	for _, tc := range []struct {
		name, env, want string // the variables that are added
	}{
		{"no proxy", "HOME=/h no_proxy=a", "NO_PROXY=a"},
		{"none at all", "HOME=/h", ""},
		{"lower case", "http_proxy=http://p:1", "HTTP_PROXY=http://p:1 no_proxy=localhost,127.0.0.1,::1 NO_PROXY=localhost,127.0.0.1,::1"},
		{"upper case", "HTTPS_PROXY=http://p:1 NO_PROXY=.corp,127.0.0.1", "https_proxy=http://p:1 no_proxy=.corp,127.0.0.1 no_proxy=.corp,127.0.0.1,localhost,::1 NO_PROXY=.corp,127.0.0.1,localhost,::1"},
		{"both, different", "http_proxy=http://p:1 HTTP_PROXY=http://q:2 no_proxy=*", "NO_PROXY=*"},
		{"switched off for one", "http_proxy= HTTP_PROXY=http://p:1 no_proxy=localhost,127.0.0.1,::1", "NO_PROXY=localhost,127.0.0.1,::1"},
	} {
		own := strings.Fields(tc.env)
		if got := strings.Join(environ(own, nil)[len(own):], " "); got != tc.want {
			t.Errorf("%s: added %q, want %q", tc.name, got, tc.want)
		}
	}
	hook := []string{"GIT_DIR=.git", "GIT_INDEX_FILE=.git/index.lock", "GIT_WORK_TREE=.", "GIT_CONFIG_COUNT=0", "GIT_SSH=ssh"}
	if got := environ(hook, nil); !slices.Equal(got, hook[3:]) {
		t.Errorf("a hook's child has %q", got)
	}
	if got := environ([]string{"A=1"}, []string{"A=2"}); !slices.Equal(got, []string{"A=1", "A=2"}) {
		t.Errorf("got %q", got)
	}
}
