package file

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"mllab.local/internal/fault"
)

// valueFile has an object of each kind; values replaces texts in it.
const valueFile = `apiVersion: mllab.local/v1alpha1
kind: Scenario
name: mine
summary: a story
steps:
  - apply:
      - apiVersion: apps/v1
        kind: Deployment
        metadata: {name: web}
        spec:
          selector: {matchLabels: {app: web}}
          template:
            metadata: {labels: {app: web}}
            spec: {containers: [{name: web, image: "${image}", ports: [{name: http, containerPort: 8080}]}]}
      - apiVersion: v1
        kind: Service
        metadata: {name: web}
        spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
      - apiVersion: networking.istio.io/v1
        kind: Gateway
        metadata: {name: web}
        spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["${host:web}"]}]}
      - apiVersion: networking.istio.io/v1
        kind: DestinationRule
        metadata: {name: web}
        spec: {host: web, trafficPolicy: {POLICY}}
      - apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: web}
        spec:
          gateways: [web]
          hosts: ["${host:web}"]
          http:
            - {RULE}
            - {match: [{MATCH}], route: [{destination: {host: web}}]}
            - {route: [{destination: {host: web}, headers: {response: {set: {X-Mllab-Route: x}}}}], MORE}
    wait: {mark: x, of: web}
    expect-all: {of: web, version: v1}
`

// valueCases are values that Istio's webhook, Kubernetes or a proxy judges late, or drops without a word.
var valueCases = []struct{ at, right, wrong, says string }{
	{"RULE", "redirect: {uri: /new, redirectCode: 301}", "redirect: {uri: /new, redirectCode: 300}", "300 is not one of: 301, 302, 303, 307, 308"},
	{"RULE", "redirect: {uri: /new, redirectCode: 308}", "redirect: {uri: /new, redirectCode: 304}", "304 is not one of"},
	{"RULE", "redirect: {uri: /new, redirectCode: 307}", "redirect: {uri: /new, redirectCode: 306}", "306 is not one of"},
	{"RULE", "redirect: {uri: \"/new?a=b\"}", "redirect: {uri: \"https://new.test/\"}", "is not a path"},
	{"RULE", "redirect: {uri: /}", "redirect: {redirectCode: 301}", "it is missing; add `uri: …`"},
	{"RULE", "directResponse: {status: 204}", "directResponse: {status: 600}", "600 is not between 200 and 599"},
	{"MORE", "rewrite: {uri: /}", "rewrite: {uri: new}", "is not a path"},
	{"MORE", "timeout: 1m", "timeout: 0s", "is not a time of at least 1ms"},
	{"MORE", "timeout: 1.5s", "timeout: 5", "\"5\" is not a time of at least 1ms"},
	{"MORE", "headers: {response: {set: {x-load: \"50%%\"}}}", "headers: {response: {set: {x-load: 50%}}}", "is not a header's value"},
	{"MORE", "headers: {response: {set: {x-peer: \"%DOWNSTREAM_REMOTE_ADDRESS%\"}}}", "headers: {response: {set: {x-peer: \"100% of it\"}}}", "is not a header's value"},
	{"MORE", "headers: {request: {set: {x-was: \"%REQ(x-user):8% %START_TIME(%s)% %TRACE_ID%\"}}}", "headers: {request: {set: {x-was: \"%REQ(x-user%\"}}}", "is not a header's value"},
	{"MORE", "headers: {response: {set: {x-size: \"%CEL(request.headers['a'].size())%\"}}}", "headers: {response: {set: {x-size: \"%CEL(request.headers['a'].size()%\"}}}", "is not a header's value"},
	{"MORE", "headers: {response: {set: {x-a: " + strings.Repeat("a", 16384) + "}}}", "headers: {response: {set: {x-a: " + strings.Repeat("a", 16385) + "}}}", "is not a header's value of up to 16384 bytes"},
	{"number: 80", "number: 80", "number: 8080", "8080 is not one of: 80"},
	{"\"${host:web}\"]}]}", "\"${host:web}\"]}]}", "${host:web}]}]}", "in brackets a text with ${…} must be in quotes"},
	{"containerPort: 8080}]", "containerPort: 8080}], readinessProbe: {httpGet: {path: /readyz, port: http}}", "containerPort: 8080}], readinessProbe: {httpGet: {path: /readyz, port: web}}", "no port of the container is called web, so the probe could not pass; there are: http"},
	{"containerPort: 8080}]", "containerPort: 8080}], livenessProbe: {tcpSocket: {port: 8080}}", "containerPort: 8080}], startupProbe: {tcpSocket: {port: 81}}", "no container of the pod listens on port 81, so the probe could not pass; there are: 8080"},
	{"containerPort: 8080}]", "containerPort: 8080}], envFrom: [{configMapRef: {name: nope, optional: true}}]", "containerPort: 8080}], envFrom: [{configMapRef: {name: nope}}]", "no step makes ConfigMap nope, so the pod would wait for it"},
	{"containerPort: 8080}]", "containerPort: 8080}], env: [{name: A, valueFrom: {configMapKeyRef: {name: istio-ca-root-cert, key: root-cert.pem}}}]", "containerPort: 8080}], env: [{name: A, valueFrom: {configMapKeyRef: {name: nope, key: a}}}]", "no step makes ConfigMap nope"},
	{"MORE", "timeout: 500ms", "timeout: 5 s", "is not a time"},
	{"MORE", "timeout: 1h", "timeout: 1d", "is not a time"},
	{"MORE", "timeout: 1ms", "timeout: 1.5ms", "is not a time"},
	{"MORE", "retries: {attempts: 2, perTryTimeout: 2s}", "retries: {attempts: 2, perTryTimeout: -1s}", "is not a time"},
	{"MORE", "retries: {attempts: 2, retryOn: \"5xx,reset,503\"}", "retries: {attempts: 2, retryOn: \"5xx, reset\"}", "without spaces"},
	{"MORE", "retries: {attempts: 2, retryOn: \"connect-failure,refused-stream,unavailable,cancelled\"}", "retries: {attempts: 2, retryOn: 5XX}", "is not conditions of Envoy"},
	{"MORE", "retries: {attempts: 0}", "retries: {attempts: -1}", "-1 is not between 0 and 10"},
	{"MORE", "fault: {delay: {fixedDelay: 2s, percentage: {value: 0.1}}}", "fault: {delay: {fixedDelay: 0s}}", "is not a time"},
	{"MORE", "fault: {abort: {httpStatus: 503, percentage: {value: 100}}}", "fault: {abort: {httpStatus: 503, percentage: {value: 101}}}", "101 is not between 0 and 100"},
	{"MORE", "corsPolicy: {allowOrigins: [{exact: \"https://a.test\"}, {regex: \".*\"}], allowMethods: [GET, POST], allowHeaders: [x-user, \"*\"], maxAge: 24h, allowCredentials: false}", "corsPolicy: {allowMethods: [\"GET, POST\"]}", "is not a name of letters"},
	{"MORE", "headers: {response: {remove: [server]}}", "headers: {response: {remove: [X-Mllab-Pod]}}", "of X-Mllab-… none"},
	{"MORE", "headers: {request: {remove: [x-user]}}", "headers: {request: {remove: [\"x user\"]}}", "is not a header that a route may remove"},
	{"MATCH", "uri: {exact: /v1}", "uri: {exact: v1}", "is not a path"},
	{"MATCH", "uri: {prefix: \"\"}", "uri: {prefix: v1}", "is not the beginning of a path"},
	{"MATCH", "uri: {prefix: /v1/}", "uri: {prefix: \"/v1?a=b\"}", "is not the beginning of a path"},
	{"MATCH", "uri: {regex: \"/v[12](/.*)?\"}", "uri: {regex: \"/(?!v1).*\"}", "is not a regular expression of RE2"},
	{"MATCH", "headers: {user-agent: {regex: \".*Safari.*\"}}", "headers: {user-agent: {regex: \"^(?!.*Chrome).*Safari.*\"}}", "withoutHeaders excludes a text"},
	{"MATCH", "headers: {x-user: {regex: \"(?i)(?:me|you)\"}}", "headers: {x-user: {regex: \"*\"}}", "is not a regular expression"},
	{"MATCH", "queryParams: {v: {regex: \"[0-9]+\"}}", "queryParams: {v: {regex: \"\"}}", "is not a regular expression"},
	{"MATCH", "method: {regex: GET|POST}", "method: {regex: \"(GET\"}", "is not a regular expression"},
	{"MATCH", "authority: {prefix: web.}", "authority: {prefix: \"\"}", "is not the beginning of a text"},
	{"MATCH", "scheme: {regex: " + strings.Repeat("a", 1024) + "}", "scheme: {regex: " + strings.Repeat("a", 1025) + "}", "of up to 1024 bytes"},
	{"MORE", "corsPolicy: {allowOrigins: [{regex: \".*\"}]}", "corsPolicy: {allowOrigins: [{regex: \"*\"}]}", "is not a regular expression"},
	{"MATCH", "withoutHeaders: {x-user: {prefix: a}}", "withoutHeaders: {x-user: {regex: \"**\"}}", "is not a regular expression"},
	{"MATCH", "method: {exact: GET}", "method: {exact: get}", "is not a method in capitals"},
	{"MATCH", "headers: {\":method\": {exact: GET}}", "headers: {\":port\": {exact: \"80\"}}", "is not a header's name"},
	{"MATCH", "headers: {x-user: {}}", "headers: {\"x user\": {exact: a}}", "is not a header's name"},
	{"MATCH", "withoutHeaders: {x-user: {regex: \"*\"}}", "withoutHeaders: {\"x:user\": {}}", "is not a header's name"},
	{"POLICY", "loadBalancer: {consistentHash: {httpCookie: {name: group, ttl: 0s}}}", "loadBalancer: {consistentHash: {httpCookie: {name: \"group=a\", ttl: 0s}}}", "is not a name of letters"},
	{"POLICY", "loadBalancer: {consistentHash: {httpCookie: {name: group, path: /, ttl: 1h}}}", "loadBalancer: {consistentHash: {httpCookie: {name: group, path: \"/; Secure\"}}}", "is not a path in printable ASCII"},
	{"POLICY", "loadBalancer: {consistentHash: {httpCookie: {name: group, ttl: 30s}}}", "loadBalancer: {consistentHash: {httpCookie: {name: group, ttl: 30}}}", "is not 0s, or a time"},
	{"POLICY", "loadBalancer: {consistentHash: {httpHeaderName: x-user}}", "loadBalancer: {consistentHash: {httpHeaderName: \"\"}}", "is not a name of letters"},
	{"POLICY", "loadBalancer: {consistentHash: {httpQueryParameterName: user}}", "loadBalancer: {consistentHash: {httpQueryParameterName: \"\"}}", "is not a parameter"},
	{"POLICY", "loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 30s}", "loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 30x}", "is not a time"},
	{"POLICY", "connectionPool: {tcp: {connectTimeout: 30ms}, http: {idleTimeout: 1h}}", "connectionPool: {tcp: {connectTimeout: 30}}", "is not a time"},
	{"POLICY", "outlierDetection: {interval: 1s, baseEjectionTime: 30s}", "outlierDetection: {interval: 0s}", "is not a time"},
	{"POLICY", "outlierDetection: {maxEjectionPercent: 100}", "outlierDetection: {maxEjectionPercent: 101}", "101 is not between 0 and 100"},
	{"{name: http, containerPort: 8080}", "{name: http, containerPort: 8081}", "{name: a-name-of-16-let, containerPort: 8080}", "up to 15 small letters"},
	{"containerPort: 8080}]", "containerPort: 8080}]}, {name: b, image: \"${image}\", env: [{name: PORT, value: \"8081\"}]", "containerPort: 8080}]}, {name: b, image: \"${image}\"", "it listens on port 8080 as container web of its pod does"},
	{"spec: {containers: [{name: web", "spec: {initContainers: [{name: first, image: busybox}], containers: [{name: web", "spec: {initContainers: [{name: first, image: \"${image}\"}], containers: [{name: web", "${image} serves until it is stopped"},
	{"targetPort: http}", "targetPort: 8080}", "targetPort: a-name-of-16-let}", "up to 15 small letters"},
}

func TestAValueThatWouldBeRefusedLateIsRefusedWithItsPlace(t *testing.T) {
	text := func(at, value string) string {
		s := strings.Replace(valueFile, at, value, 1)
		return strings.NewReplacer("{POLICY}", "{loadBalancer: {simple: RANDOM}}", "{RULE}", "{directResponse: {status: 200}}", "MATCH", "ignoreUriCase: true", "MORE", "name: rest").Replace(s)
	}
	for _, tc := range valueCases {
		if _, err := Read("a.yaml", []byte(text(tc.at, tc.right)), rules); err != nil {
			t.Errorf("%s is right, got %v", tc.right, err)
		}
		line := 1 + strings.Count(valueFile[:strings.Index(valueFile, tc.at)], "\n")
		_, err := Read("a.yaml", []byte(text(tc.at, tc.wrong)), rules)
		if place := regexp.MustCompile(fmt.Sprintf(`^a\.yaml:%d:\d+: (\(the file\)|steps\[0\]\.apply\[\d\])`, line)); fault.Code(err) != 2 || !place.MatchString(err.Error()) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want line %d and %q", tc.wrong, err, line, tc.says)
		}
	}
}
