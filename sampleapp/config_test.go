package main

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestWithoutVariablesTheDefaultsHold(t *testing.T) {
	for _, vars := range []map[string]string{nil, {"TARGET": "", "PORT": "", "FAIL_PERCENT": "", "DELAY": "", "POD_NAME": "",
		"ADMIN_PORT": "", "CONVERT_PERCENT": "", "DRIFT_PERCENT": "", "CAPTURE_PERCENT": "", "RELAY": ""}} {
		c, err := readConfig(env(vars), host)
		want := config{target: "world", pod: "host-1", port: 8080, drain: 5 * time.Second, seenKeep: 20000, maxBody: 2 << 20, adminPort: unset, convertPercent: unset}
		if err != nil || c != want {
			t.Errorf("%+v, %v; want %+v", c, err, want)
		}
	}
}

func TestEachVariableIsRead(t *testing.T) {
	c, err := readConfig(env(map[string]string{
		"TARGET": "v2 blue", "PORT": "9000", "FAIL_PERCENT": "12.5", "DELAY": "250ms", "DRAIN": "0s", "SEEN_KEEP": "7", "MAX_BODY": "100",
		"K_REVISION": "model-00001", "POD_NAME": "pod-a", "ADMIN_PORT": "9001", "CONVERT_PERCENT": "5.5", "DRIFT_PERCENT": "0.1",
		"CAPTURE_PERCENT": "0.5",
		"RELAY":           "http://model.demo:81/v1",
	}), host)
	want := config{
		target: "v2 blue", revision: "model-00001", pod: "pod-a", port: 9000, adminPort: 9001,
		failPercent: 12.5, convertPercent: 5.5, driftPercent: 0.1, capturePercent: 0.5, delay: 250 * time.Millisecond, drain: 0, seenKeep: 7, maxBody: 100,
		relay: url.URL{Scheme: "http", Host: "model.demo:81", Path: "/v1"},
	}
	if err != nil || c != want {
		t.Errorf("%+v, %v; want %+v", c, err, want)
	}
}

func TestABadValueIsNamedWithItsVariable(t *testing.T) {
	for name, values := range map[string][]string{
		"TARGET":          {"a\nb", "wörld", " v1", strings.Repeat("x", 254)},
		"K_REVISION":      {"a\r\nX-Other: 1"},
		"POD_NAME":        {"pod "},
		"PORT":            {"http", "-1", "65536", "80.5"},
		"FAIL_PERCENT":    {"-0.1", "100.1", "NaN", "Inf", "10%", "many"},
		"DELAY":           {"5", "-1s", "soon"},
		"DRAIN":           {"-1s", "1"},
		"SEEN_KEEP":       {"0", "1000001"},
		"MAX_BODY":        {"0", "1GB"},
		"ADMIN_PORT":      {"admin", "-1", "65536", "8080"}, // the last is PORT
		"CONVERT_PERCENT": {"-1", "101", "NaN", "half"},
		"DRIFT_PERCENT":   {"-1", "100.5", "NaN", "some"},
		"CAPTURE_PERCENT": {"-1", "100.5", "NaN", "all"},
		"VOLUME":          {"/nowhere"},
		"RELAY":           {"model.demo:80", "model.demo", "https://model.demo", "http://", "http://:80", "http:///x", "http://a b"},
	} {
		for _, v := range values {
			_, err := readConfig(env(map[string]string{name: v}), host)
			if err == nil || !strings.HasPrefix(err.Error(), name+"=") || !strings.Contains(err.Error(), "want ") {
				t.Errorf("%s=%q: %v", name, v, err)
			}
		}
	}
	if _, err := readConfig(env(map[string]string{"PORT": "0", "ADMIN_PORT": "0"}), host); err != nil {
		t.Errorf("two free ports: %v", err)
	}
	_, err := readConfig(env(map[string]string{"PORT": "x", "DELAY": "y"}), host)
	if err == nil || !strings.Contains(err.Error(), `PORT="x"`) || !strings.Contains(err.Error(), `DELAY="y"`) {
		t.Errorf("not all at once: %v", err)
	}
	if _, err := readConfig(env(map[string]string{"PORT": "x"}), host); err == nil || strings.Contains(err.Error(), "ADMIN_PORT") {
		t.Errorf("only PORT is bad: %v", err)
	}
	_, err = readConfig(env(nil), func() (string, error) { return "", errors.New("no host name") })
	if err == nil || !strings.Contains(err.Error(), "POD_NAME") {
		t.Errorf("no pod name at all: %v", err)
	}
}
