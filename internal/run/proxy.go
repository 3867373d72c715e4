package run

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// environ returns a child's environment: this process's without ofRepository, and add. Programs disagree about the spelling of proxy
// variables (curl, git and apt read http_proxy and not HTTP_PROXY), so a child gets the one that is missing. What is on
// this computer no child asks a proxy for. https://curl.se/docs/manpage.html#ENVIRONMENT
func environ(own, add []string) []string {
	env := slices.DeleteFunc(slices.Clone(own), func(e string) bool {
		key, _, _ := strings.Cut(e, "=")
		return slices.Contains(ofRepository, key)
	})
	env = append(env, add...)
	get := func(key string) (value string, ok bool) {
		for _, e := range env { // the last one counts
			if k, v, _ := strings.Cut(e, "="); k == key {
				value, ok = v, true
			}
		}
		return value, ok
	}
	for _, lower := range proxyVariables {
		upper := strings.ToUpper(lower)
		l, hasLower := get(lower)
		u, hasUpper := get(upper)
		if hasLower && !hasUpper {
			env = append(env, upper+"="+l)
		}
		if hasUpper && !hasLower {
			env = append(env, lower+"="+u)
		}
	}
	for _, e := range NoProxy(func(key string) string { v, _ := get(key); return v }) {
		env = append(env, e[0]+"="+e[1])
	}
	return env
}

// ofRepository has the variables by which git binds its hooks and aliases to their repository. With GIT_INDEX_FILE a clone would
// write over that repository's index. Settings (GIT_CONFIG_COUNT and GIT_CONFIG_PARAMETERS) stay, as git keeps them for a submodule.
// https://git-scm.com/docs/git-rev-parse#Documentation/git-rev-parse.txt---local-env-vars
var ofRepository = []string{
	"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_ATTR_SOURCE", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE",
	"GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS",
	"GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
}

var proxyVariables = []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy"}

// BadProxies returns the proxy variables whose values are no URLs of a proxy: Go then asks none, without a word.
func BadProxies(getenv func(string) string) (bad []string) {
	for _, lower := range proxyVariables[:2] { // Go does not read all_proxy
		for _, key := range []string{lower, strings.ToUpper(lower)} {
			value := getenv(key)
			if value == "" {
				continue
			}
			if !strings.Contains(value, "://") {
				value = "http://" + value
			}
			u, err := url.Parse(value)
			if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
				bad = append(bad, key)
			}
		}
	}
	return bad
}

// NoProxy returns the variables, with their values, that keep requests to this computer away from the proxy that the
// environment names; none when it names no proxy, or they are set already.
func NoProxy(getenv func(string) string) (variables [][2]string) {
	proxied := slices.ContainsFunc(proxyVariables[:3], func(lower string) bool {
		return getenv(lower) != "" || getenv(strings.ToUpper(lower)) != ""
	})
	if !proxied {
		return nil
	}
	for _, key := range []string{"no_proxy", "NO_PROXY"} {
		value := cmp.Or(getenv(key), getenv("no_proxy"), getenv("NO_PROXY"))
		if value == "*" {
			continue
		}
		hosts := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		before := len(hosts)
		for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
			if !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
		if len(hosts) > before || getenv(key) == "" {
			variables = append(variables, [2]string{key, strings.Join(hosts, ",")})
		}
	}
	return variables
}
