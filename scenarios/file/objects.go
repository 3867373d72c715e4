package file

import (
	"regexp"
	"slices"
	"strings"
)

// outOfReach says why a field that Kubernetes, Istio or Knative know is not in
// the tables below.
var outOfReach = map[string]string{
	"hostNetwork": onNode, "hostPID": onNode, "hostIPC": onNode, "hostUsers": onNode, "hostPath": onNode, "hostPort": onNode, "hostAliases": onNode,
	"nodeName": onNode, "runtimeClassName": onNode, "sysctls": onNode, "privileged": onNode, "procMount": onNode,
	"nodePort": onlyGateway, "externalIPs": onlyGateway, "externalName": onlyGateway, "loadBalancerIP": onlyGateway, "loadBalancerClass": onlyGateway,
	"externalTrafficPolicy": onlyGateway, "loadBalancerSourceRanges": onlyGateway,
	"secret": noSecret, "secretRef": noSecret, "secretKeyRef": noSecret, "imagePullSecrets": noSecret, "projected": noSecret,
	"serviceAccountName": noRights, "serviceAccount": noRights, "automountServiceAccountToken": noRights,
	"exec":            "it runs no commands",
	"finalizers":      "the run's namespace must be able to go",
	"ownerReferences": "the run's namespace owns what is in it",
	"generateName":    "the next step must find the object again by its name",
	"delegate":        "its routes are its own",
	"tcp":             "requests are HTTP", "tls": "requests are HTTP",
	"bind": onlyGateway, "status": "it is the controllers'",
}

// The reasons.
const (
	onNode      = "its pods have nothing of the node"
	onlyGateway = "the lab's one gateway is the only way in"
	noSecret    = "it sees no Secrets"
	noRights    = "its pods have no rights on the cluster"
)

// kinds are the objects that a scenario may apply, by apiVersion and kind. All
// are of a namespace, and none gives rights or reaches beyond it.
var kinds = map[string]shape{
	"v1 ConfigMap": topLevel(fields{"data!": dict{"a key of letters, digits, dashes, dots", regexp.MustCompile(`^[-._a-zA-Z0-9]+$`).MatchString, anyText}}),
	"v1 Service": topLevel(fields{"spec!": fields{
		"selector": labels, "type": oneOf("ClusterIP"), "clusterIP": oneOf("None"), "publishNotReadyAddresses": anyBool,
		"ports!": each{fields{"name": label, "port!": portNumber, "targetPort": port, "protocol": oneOf("TCP"), "appProtocol": anyText}},
	}}),
	"apps/v1 Deployment": topLevel(fields{"spec!": fields{
		"replicas": wholeFrom(0, maxReplicas), "selector!": fields{"matchLabels!": labels}, "minReadySeconds": seconds,
		"progressDeadlineSeconds": seconds, "revisionHistoryLimit": wholeFrom(0, 10), "paused": anyBool,
		"strategy": fields{"type": oneOf("RollingUpdate", "Recreate"), "rollingUpdate": fields{"maxSurge": quantity, "maxUnavailable": quantity}},
		"template!": fields{"metadata!": fields{"labels!": labels, "annotations": annotations}, "spec!": pod(fields{
			"initContainers": each{container(anyText, oneOf("Never"))}, "containers!": each{container(anyText, oneOf("Never"))},
		})},
	}}),
	"serving.knative.dev/v1 Service": topLevel(fields{"spec!": fields{
		"template!": fields{"metadata": fields{"name": label, "labels": labels, "annotations": annotations}, "spec!": pod(fields{
			"containers!": each{container(oneOf("${image}"), oneOf("Never", "IfNotPresent"))}, "containerConcurrency": wholeFrom(0, 1000), "timeoutSeconds": seconds,
		})},
		"traffic": each{fields{"tag": label, "revisionName": label, "latestRevision": anyBool, "percent": wholeFrom(0, 100)}},
	}}),
	"networking.istio.io/v1 Gateway": topLevel(fields{"spec!": fields{
		"selector!": fields{"istio!": oneOf("ingressgateway")},
		"servers!":  each{fields{"name": label, "port!": fields{"number!": wholeFrom(80, 80), "name!": label, "protocol!": oneOf("HTTP")}, "hosts!": each{publicHost}}},
	}}),
	"networking.istio.io/v1 VirtualService": topLevel(fields{"spec!": fields{
		"hosts!": each{anyHost}, "gateways": each{gateway}, "exportTo": each{oneOf(exportTo...)},
		"http!": each{fields{
			"name": anyText, "match": each{match}, "route": each{fields{"destination!": destination, "weight": wholeFrom(0, 100), "headers": headers}},
			"redirect": fields{"uri": anyText, "redirectCode": wholeFrom(300, 308)}, "directResponse": fields{"status!": wholeFrom(200, 599), "body": fields{"string": anyText}},
			"rewrite": fields{"uri": anyText}, "timeout": anyText, "headers": headers,
			"retries": fields{"attempts!": wholeFrom(0, 10), "perTryTimeout": anyText, "retryOn": anyText},
			"fault": fields{
				"delay": fields{"percentage": percentage, "fixedDelay!": anyText},
				"abort": fields{"percentage": percentage, "httpStatus!": wholeFrom(200, 599)},
			},
			"mirror": destination, "mirrorPercentage": percentage, "mirrors": each{fields{"destination!": destination, "percentage": percentage}},
		}},
	}}),
	"networking.istio.io/v1 DestinationRule": topLevel(fields{"spec!": fields{
		"host!": serviceHost, "exportTo": each{oneOf(exportTo...)}, "trafficPolicy": policy,
		"subsets": each{fields{"name!": label, "labels!": labels, "trafficPolicy": policy}},
	}}),
}

// exportTo is where a route may be known: in its own namespace, and where the
// lab's gateway is. It is what a route gets that does not say.
var exportTo = []string{".", "istio-system"}

const maxReplicas = 10

func topLevel(f fields) fields {
	f["apiVersion!"], f["kind!"], f["metadata!"] = anyText, anyText, fields{
		"name!": label, "namespace": oneOf("${namespace}"), "labels": labels, "annotations": annotations,
	}
	return f
}

// Values.
var (
	seconds     = wholeFrom(0, 600)
	portNumber  = wholeFrom(1, 65535)
	percentage  = fields{"value!": between(0, 100, false)}
	labels      = dict{"a name that a scenario may use: it belongs to a controller", ownKey, anyText}
	annotations = dict{"a name that a scenario may use: it belongs to a controller", ownKey, anyText}

	port leaf = func(r *reader, v *value) {
		if v.kind == whole {
			portNumber(r, v)
		} else {
			label(r, v)
		}
	}
	quantity leaf = func(r *reader, v *value) {
		if v.kind != whole && v.kind != number {
			anyText(r, v)
		}
	}
)

// controllers are the domains whose labels and annotations command controllers
// of the lab; of them only ownKeys are an author's.
var (
	controllers = regexp.MustCompile(`(^|\.)(istio\.io|knative\.dev|kubernetes\.io|k8s\.io|mllab\.local)$`)
	ownKeys     = []string{"networking.knative.dev/visibility"}
	ownDomains  = []string{"autoscaling.knative.dev", "app.kubernetes.io"}
)

func ownKey(key string) bool {
	domain, _, _ := strings.Cut(key, "/")
	return !controllers.MatchString(domain) || slices.Contains(ownKeys, key) || slices.Contains(ownDomains, domain)
}

// Pods.

func pod(f fields) fields {
	f["volumes"] = each{fields{
		"name!":     label,
		"configMap": fields{"name!": label, "items": each{fields{"key!": anyText, "path!": anyText}}, "optional": anyBool}, "downwardAPI": fields{"items!": each{fields{"path!": anyText, "fieldRef!": fieldRef}}},
		"emptyDir": fields{"medium": oneOf("", "Memory"), "sizeLimit": quantity},
	}}
	f["securityContext"] = fields{
		"runAsNonRoot": anyBool, "runAsUser": wholeFrom(1, 1<<31), "runAsGroup": wholeFrom(1, 1<<31), "fsGroup": wholeFrom(1, 1<<31), "seccompProfile": seccomp,
	}
	f["terminationGracePeriodSeconds"], f["enableServiceLinks"] = seconds, anyBool
	return f
}

var (
	seccomp  = fields{"type!": oneOf("RuntimeDefault")}
	fieldRef = fields{"fieldPath!": anyText, "apiVersion": oneOf("v1")}
	httpGet  = fields{"path": anyText, "port": port, "scheme": oneOf("HTTP"), "httpHeaders": each{fields{"name!": anyText, "value!": anyText}}}
	probe    = fields{
		"httpGet": httpGet, "tcpSocket": fields{"port": port}, "grpc": fields{"port": portNumber, "service": anyText},
		"initialDelaySeconds": seconds, "periodSeconds": seconds, "timeoutSeconds": seconds, "successThreshold": seconds, "failureThreshold": seconds,
	}
	resources = dict{"a resource: cpu, memory or ephemeral-storage", func(k string) bool {
		return k == "cpu" || k == "memory" || k == "ephemeral-storage"
	}, quantity}
)

func container(image, pull shape) fields {
	return fields{
		"name!": label, "image!": image, "imagePullPolicy": pull, "command": each{anyText}, "args": each{anyText}, "workingDir": anyText,
		"env": each{fields{"name!": matching(envName, "an environment variable's name"), "value": anyText, "valueFrom": fields{
			"configMapKeyRef": fields{"name!": label, "key!": anyText, "optional": anyBool}, "fieldRef": fieldRef,
			"resourceFieldRef": fields{"resource!": anyText, "containerName": label, "divisor": quantity},
		}}},
		"envFrom":      each{fields{"prefix": anyText, "configMapRef!": fields{"name!": label, "optional": anyBool}}},
		"ports":        each{fields{"name": label, "containerPort!": portNumber, "protocol": oneOf("TCP")}},
		"resources":    fields{"requests": resources, "limits": resources},
		"volumeMounts": each{fields{"name!": label, "mountPath!": anyText, "subPath": anyText, "readOnly": anyBool}},
		"startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe,
		"lifecycle": fields{"preStop": fields{"httpGet": httpGet, "sleep": fields{"seconds!": seconds}}},
		"securityContext": fields{
			"allowPrivilegeEscalation": anyBool, "readOnlyRootFilesystem": anyBool, "runAsNonRoot": anyBool, "seccompProfile": seccomp,
			"runAsUser": wholeFrom(1, 1<<31), "runAsGroup": wholeFrom(1, 1<<31), "capabilities": fields{"drop!": each{anyText}},
		},
	}
}

// Routes. Hosts are matched before they are filled in: a namespace that is
// written out is another run's.
var (
	serviceHost = matching(ownService, "a service of the run's namespace, such as model-v1 or model-v1.${namespace}.svc.cluster.local")
	gateway     = matching(ownGateway, "mesh or a Gateway of the run's namespace, by its name")

	publicHost leaf = func(r *reader, v *value) {
		if r.is(v, text) && !r.public(v.text) {
			r.wrong(v, "%s is not a host of this run; write ${host:NAME}, or NAME.${namespace}.%s", short(v.text), r.rules.Domain)
		}
	}
	anyHost leaf = func(r *reader, v *value) {
		if r.is(v, text) && !r.public(v.text) && !ownService.MatchString(v.text) {
			r.wrong(v, "%s is neither a host nor a service of this run; write ${host:NAME}, or a service's name", short(v.text))
		}
	}
)

var (
	ownService = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?(\.\$\{namespace\}(\.svc(\.cluster\.local)?)?)?$`)
	ownGateway = regexp.MustCompile(`^(\$\{namespace\}/)?[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	hostOf     = regexp.MustCompile(`^\$\{host:([a-z]([-a-z0-9]{0,61}[a-z0-9])?)\}$`)
)

func (r *reader) public(host string) bool { return r.hostName(host) != "" }

// hostName is NAME of a host of the run, "*" for all; "" for another's host.
func (r *reader) hostName(host string) string {
	if m := hostOf.FindStringSubmatch(host); m != nil {
		return m[1]
	}
	name, ok := strings.CutSuffix(host, ".${namespace}."+r.rules.Domain)
	if ok && (name == "*" || dnsLabel.MatchString(name)) {
		return name
	}
	return ""
}

var (
	destination = fields{"host!": serviceHost, "subset": label, "port": fields{"number!": portNumber}}
	headerOps   = fields{"set": anyWords, "add": anyWords, "remove": each{anyText}}
	headers     = fields{"request": headerOps, "response": headerOps}
	anyWords    = dict{"a header that a route may set (of X-Mllab-… only X-Mllab-Route: the model itself says who it is)", routeHeader, anyText}
	stringMatch = fields{"exact": anyText, "prefix": anyText, "regex": anyText}
	headerMatch = dict{"a header or parameter", func(k string) bool { return k != "" }, stringMatch}
	match       = fields{
		"name": anyText, "uri": stringMatch, "method": stringMatch, "authority": stringMatch, "scheme": stringMatch, "headers": headerMatch, "withoutHeaders": headerMatch,
		"queryParams": headerMatch, "ignoreUriCase": anyBool, "port": portNumber, "gateways": each{gateway}, "sourceLabels": labels,
	}
	policy = fields{
		"loadBalancer": fields{
			"simple": oneOf("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"), "warmupDurationSecs": anyText,
			"consistentHash": fields{"httpHeaderName": anyText, "httpQueryParameterName": anyText, "useSourceIp": anyBool, "httpCookie": fields{"name!": anyText, "path": anyText, "ttl": anyText}},
		},
		"connectionPool": fields{
			"tcp":  fields{"maxConnections": anyCount, "connectTimeout": anyText},
			"http": fields{"http1MaxPendingRequests": anyCount, "http2MaxRequests": anyCount, "maxRequestsPerConnection": anyCount, "maxRetries": anyCount, "idleTimeout": anyText},
		},
		"outlierDetection": fields{
			"consecutive5xxErrors": anyCount, "consecutiveGatewayErrors": anyCount, "interval": anyText, "baseEjectionTime": anyText,
			"maxEjectionPercent": wholeFrom(0, 100), "minHealthPercent": wholeFrom(0, 100),
		},
	}
	anyCount = wholeFrom(0, 1<<20)
)

func routeHeader(name string) bool {
	lower := strings.ToLower(name)
	return headerName.MatchString(name) && (lower == "x-mllab-route" || !strings.HasPrefix(lower, "x-mllab-"))
}

// applied is one item of an apply.
func applied(r *reader, v *value) {
	if !r.is(v, mapping) {
		return
	}
	for _, short := range []string{"model", "knative"} {
		if v.get(short) != nil {
			shorthand.check(r, v)
			return
		}
	}
	api, kind := v.get("apiVersion"), v.get("kind")
	if api == nil || kind == nil {
		r.wrong(v, "this is no object and no shorthand; begin it with apiVersion and kind, or with `model:` or `knative:`")
		return
	}
	s, ok := kinds[api.str()+" "+kind.str()]
	if !ok {
		r.say(kind.place, kind.path, "a scenario may not apply %s of %s; use %s", short(kind.str()), short(api.str()), strings.Join(sorted(kinds), ", "))
		return
	}
	s.check(r, v)
}
