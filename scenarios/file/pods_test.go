package file

import (
	"regexp"
	"strings"
	"testing"

	"mllab.local/internal/fault"
)

// behindFile is a Service of two versions, which are subsets, and a shadow.
const behindFile = `apiVersion: mllab.local/v1alpha1
kind: Scenario
name: mine
summary: a story
steps:
  - apply:
      - model: {name: model, version: v1, route: false}
      - apiVersion: apps/v1
        kind: Deployment
        metadata: {name: web}
        spec:
          selector: {matchLabels: {app: model, version: v2}}
          template:
            metadata: {labels: {app: model, version: v2}}
            spec: {containers: [{name: web, image: "${image}", env: [{name: TARGET, value: v2}], ports: [{name: http, containerPort: 8080}]}]}
      - apiVersion: v1
        kind: Service
        metadata: {name: shop}
        spec: {selector: {app: model}, ports: [{port: 80, targetPort: http}]}
      - apiVersion: v1
        kind: Service
        metadata: {name: shadow}
        spec: {selector: {version: v2}, ports: [{port: 8080}]}
      - apiVersion: networking.istio.io/v1
        kind: DestinationRule
        metadata: {name: shop}
        spec: {host: shop, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
      - apiVersion: networking.istio.io/v1
        kind: Gateway
        metadata: {name: shop}
        spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["${host:shop}"]}]}
      - apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: shop}
        spec:
          gateways: [shop]
          hosts: ["${host:shop}"]
          http:
            - mirror: {host: shadow}
              route: [{destination: {host: shop, subset: v1}, weight: 100}, {destination: {host: shop, subset: v2}, weight: 0}]
              headers: {response: {set: {X-Mllab-Route: half}}}
    wait: {mark: half, of: shop}
    expect-all: {of: shop, version: v1}
`

func TestADestinationThatNoPodCanAnswerIsRefusedWithItsPlace(t *testing.T) {
	for _, tc := range []struct{ name, was, is, says string }{
		{"as it is", "", "", ""},
		{"a selector", "selector: {app: model}, ports", "selector: {app: modle}, ports", `19:\d+: steps\[0\]\.apply\[2\]\.spec\.selector: no Deployment of the steps has pods with the labels app=modle, so`},
		{"none", "spec: {selector: {version: v2}, ports", "spec: {ports", `23:\d+: steps\[0\]\.apply\[3\]\.spec: Service shadow selects no pod, so its share of requests would get no answer; add`},
		{"another", "selector: {version: v2}, ports", "selector: {version: v3}, ports", `23:\d+: steps\[0\]\.apply\[3\]\.spec\.selector: no Deployment of the steps has pods with the labels version=v3, so its share of requests would get no answer; there are: model-v1 \(app=model,version=v1\), web \(app=model,version=v2\)`},
		{"a subset's labels", "labels: {version: v1}}, {name", "labels: {version: v0}}, {name", `27:\d+: steps\[0\]\.apply\[4\]\.spec\.subsets\[0\]\.labels: no Deployment of the steps has pods with the labels app=model,version=v0`},
		{"a subset of weight 0", "{name: v2, labels: {version: v2}}", "{name: v2, labels: {version: v0}}", ""},
		{"a port's name", "targetPort: http", "targetPort: web", `19:\d+: steps\[0\]\.apply\[2\]\.spec\.ports\[0\]\.targetPort: no container of Deployment model-v1 has a port called web, so .*; there are: http$`},
		{"a port's number", "targetPort: http", "targetPort: 9999", `19:\d+: .*targetPort: no container of Deployment model-v1 listens on port 9999, so .*; there are: 8080$`},
		{"no target", "[{port: 8080}]", "[{port: 80}]", `23:\d+: steps\[0\]\.apply\[3\]\.spec\.ports\[0\]\.port: no container of Deployment web listens on port 80, so .*; there are: 8080$`},
		{"a port of its own", "env: [{name: TARGET", "env: [{name: PORT, value: \"81\"}, {name: TARGET", `23:\d+: .*port: no container of Deployment web listens on port 8080, .*; there are: 81$`},
		{"another protocol", "[{port: 80, targetPort: http}]", "[{name: grpc-model, port: 80, targetPort: http}]", `19:\d+: .*ports\[0\]\.name: the gateway speaks HTTP/2 to a port of that protocol, .*; call it http$`},
		{"another protocol of the application", "[{port: 8080}]", "[{name: http, appProtocol: kubernetes.io/h2c, port: 8080}]", `23:\d+: .*ports\[0\]\.appProtocol: the gateway speaks HTTP/2`},
		{"a protocol that is not spoken to it", "[{port: 8080}]", "[{name: tcp-model, port: 8080}]", ""},
		{"another image", "image: \"${image}\", env: [{name: TARGET", "image: other, env: [{name: TARGET", ""},
		{"another port of another image", "image: \"${image}\", env: [{name: TARGET, value: v2}], ports: [{name: http, containerPort: 8080}]}]}\n      - apiVersion: v1\n        kind: Service\n        metadata: {name: shop}", "image: other}]}\n      - apiVersion: v1\n        kind: Service\n        metadata: {name: shop}", ""},
		{"a second port of a model", "route: false}", "route: false, env: {ADMIN_PORT: \"9090\"}}\n      - {apiVersion: v1, kind: Service, metadata: {name: admin}, spec: {selector: {version: v1}, ports: [{port: 9090}]}}\n      - {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: admin}, spec: {gateways: [shop], hosts: [\"${host:shop}\"], http: [{route: [{destination: {host: admin}}]}]}}", ""},
		{"a port that another variable has", "env: [{name: TARGET", "env: [{name: PORT, value: $(WEB_PORT)}, {name: TARGET", ""},
		{"empty on purpose", "wait: {mark: half, of: shop}", "wait: {mark: half, of: shop, empty: [shadow]}", ""},
	} {
		text := strings.Replace(behindFile, tc.was, tc.is, 1)
		if tc.name == "empty on purpose" {
			text = strings.Replace(text, "selector: {version: v2}, ports", "selector: {version: v3}, ports", 1)
		}
		_, err := Read("a.yaml", []byte(text), rules)
		switch {
		case tc.says == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.says != "" && (fault.Code(err) != 2 || !regexp.MustCompile(`(?m)^a\.yaml:`+tc.says).MatchString(err.Error())):
			t.Errorf("%s: got %v, want %s", tc.name, err, tc.says)
		}
	}
}

func TestAMirrorThatCopiesNothingNeedsNoPod(t *testing.T) {
	for _, tc := range []struct {
		mirror string
		right  bool
	}{
		{"mirror: {host: shadow}", false},
		{"mirror: {host: shadow}\n              mirrorPercentage: {value: 0.1}", false},
		{"mirror: {host: shadow}\n              mirrorPercentage: {value: 0}", true},
		{"mirrors: [{destination: {host: shadow}}]", false},
		{"mirrors: [{destination: {host: shadow}, percentage: {value: 100}}]", false},
		{"mirrors: [{destination: {host: shadow}, percentage: {value: 0}}]", true},
	} {
		text := strings.NewReplacer("selector: {version: v2}, ports", "selector: {version: v3}, ports", "mirror: {host: shadow}", tc.mirror).Replace(behindFile)
		if _, err := Read("a.yaml", []byte(text), rules); (err == nil) != tc.right || err != nil && !strings.Contains(err.Error(), "version=v3, so its share") {
			t.Errorf("%s: got %v", tc.mirror, err)
		}
	}
}

// startFile applies a Deployment PART for a step that waits, one that does not, and a control.
const startFile = `apiVersion: mllab.local/v1alpha1
kind: Scenario
name: mine
summary: a story
steps:
  - apply:
      - model: {name: model, version: v1}
      WAITS
  - apply:
      - model: {name: model, version: v2}
      DOES NOT
    wait: false
  - expect-all: {of: model, version: v1}
controls:
  - name: broken
    summary: it breaks
    catches: shares
    break:
      - apply:
          - model: {name: model, version: v1}
          BREAKS
`

func TestOnlyAPodThatAStepWaitsForMustBeAbleToBecomeReady(t *testing.T) {
	const one = `{name: web, image: "${image}", ports: [{name: http, containerPort: 8080}], `
	for _, tc := range []struct{ name, containers, says string }{
		{"a probe's number", one + "livenessProbe: {tcpSocket: {port: 81}}}", "no container of the pod listens on port 81, so the probe could not pass; there are: 8080"},
		{"a probe's name", one + "startupProbe: {httpGet: {port: web}}}", "no port of the container is called web"},
		{"another container's number", one + `readinessProbe: {httpGet: {port: 81}}}, {name: more, image: "${image}", env: [{name: PORT, value: "81"}]}`, ""},
		{"no container's number", one + `readinessProbe: {httpGet: {port: 82}}}, {name: more, image: "${image}", env: [{name: PORT, value: "81"}]}`, "there are: 8080, 81"},
		{"another container's name", one + `readinessProbe: {httpGet: {port: web}}}, {name: more, image: other, ports: [{name: web, containerPort: 81}]}`, "no port of the container is called web"},
		{"another program beside it", one + "readinessProbe: {httpGet: {port: 81}}}, {name: more, image: other}", ""},
		{"a ConfigMap", one + "envFrom: [{configMapRef: {name: nope}}]}", "no step makes ConfigMap nope"},
	} {
		for _, at := range []string{"WAITS", "DOES NOT", "BREAKS"} {
			deployment := "- {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [" + tc.containers + "]}}}}"
			text := strings.NewReplacer(at, deployment, "WAITS", "", "DOES NOT", "", "BREAKS", "").Replace(startFile)
			_, err := Read("a.yaml", []byte(text), rules)
			if at != "WAITS" || tc.says == "" {
				if err != nil {
					t.Errorf("%s, %s: %v", tc.name, at, err)
				}
			} else if fault.Code(err) != 2 || !strings.HasPrefix(err.Error(), "a.yaml:8:") || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: got %v, want %s", tc.name, err, tc.says)
			}
		}
	}
}
