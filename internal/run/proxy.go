package run

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// environ returns a child's environment: this process's and add. Programs disagree about the spelling of proxy
// variables (curl, git and apt read http_proxy and not HTTP_PROXY), so a child gets the one that is missing. What is on
// this computer no child asks a proxy for. https://curl.se/docs/manpage.html#ENVIRONMENT
func environ(own, add []string) []string {
	env := slices.Concat(own, add)
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
