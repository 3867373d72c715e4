package file

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mllab.local/internal/fault"
)

var rules = Rules{
	Domain: "mllab.test", Taken: []string{"canary", "ab-test"}, Reserved: []string{"mllab-sample", "mllab-a-sample"}, Requests: 1000, Alpha: 1e-6,
}

// first is the first problem's place, field and text.
var first = regexp.MustCompile(`^([^:]+):(\d+):(\d+): (\S.*?): (.*)`)

func TestEveryMistakeIsNamedByLineFieldAndReason(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// "# want LINE FIELD: TEXT" is the file's first line.
			line, _, _ := strings.Cut(string(data), "\n")
			want := regexp.MustCompile(`^# want (\d+) (\S+|\(the file\)): (.*)$`).FindStringSubmatch(line)
			if want == nil {
				t.Fatalf("%s does not begin with what it wants: %s", path, line)
			}
			f, err := Read(path, data, rules)
			if f != nil || fault.Code(err) != 2 || fault.Hint(err) == "" {
				t.Fatalf("file %v, exit code %d: %v", f, fault.Code(err), err)
			}
			got := first.FindStringSubmatch(err.Error())
			if got == nil || got[1] != filepath.Base(path) || got[2] != want[1] || got[4] != want[2] || !strings.Contains(got[5], want[3]) || !strings.Contains(got[5], "; ") {
				t.Errorf("got  %v\nwant %s", err, line)
			}
		})
	}
}

func TestWhatIsTooLargeIsRefusedQuickly(t *testing.T) {
	line := func(s string, n int) string { return strings.Repeat(s, n) }
	for name, data := range map[string]string{
		"a file of more than 1 MiB":    line("# x\n", MaxBytes/4+1),
		"many values":                  "a: [" + line("x,", maxNodes+1) + "]",
		"many keys":                    line("x: y\n", 100_000),
		"open brackets":                line("[", MaxBytes),
		"open braces":                  line("{x: ", MaxBytes/4),
		"many anchors":                 line("- &a x\n", 100_000),
		"aliases of aliases":           "a: &a [x]\n" + line("b: &a [*a,*a]\n", 1000),
		"a mistake at the end of much": line("# x\n", 100_000) + "a: [",
		"a mistake after much":         "a:\n" + line("  - x\n", 10_000) + " b: c\n" + line("#\n", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			began := cpuTime(t)
			if _, err := Read("big.yaml", []byte(data), rules); fault.Code(err) != 2 || !first.MatchString(err.Error()) {
				t.Errorf("got %.300v", err)
			}
			if took := cpuTime(t) - began; took > 20*time.Second {
				t.Errorf("it took %s of a CPU", took)
			}
		})
	}
}

// cpuTime is how long this process has computed: a busy machine does not count.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestWhatIsNoYAMLIsRefused(t *testing.T) {
	for _, data := range []string{"", "\n# only a comment\n", "text", "[]", "null", "\xff\xfe", "\ufeff", "a\x00b", "---\n---\n", "%TAG", "- !<x", "? [a]\n: b\n", "{? a, ? b}"} {
		if _, err := Read("no.yaml", []byte(data), rules); fault.Code(err) != 2 || !first.MatchString(err.Error()) {
			t.Errorf("%q gave %v", data, err)
		}
	}
}

const story = `apiVersion: mllab.local/v1alpha1
kind: Scenario
name: mine
summary: a story
steps:
  - apply:
      - model: {name: model, version: v1, replicas: 2}
      - {apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: own}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["${host:own}"]}]}}
      - apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: own, namespace: "${namespace}"}
        spec:
          hosts: ["own.${namespace}.mllab.test", model-v1]
          gateways: ["${namespace}/own"]
          http: [{route: [{destination: {host: "model-v1.${namespace}.svc.cluster.local"}}], headers: {response: {set: {X-Mllab-Route: x}}}}]
      - apiVersion: apps/v1
        kind: Deployment
        metadata: {name: web}
        spec:
          selector: {matchLabels: {app: web}}
          template:
            metadata: {labels: {app: web}}
            spec: {containers: [{name: web, image: "${image}", env: [{name: AT, value: "http://${host:own}/${namespace}"}]}]}
    wait: {mark: x, of: own}
  - name: watched
    watch: {of: model}
    expect-split: {of: model, percent: {v1: 100}}
  - expect-all: {of: own, version: v1, cookies: {who: me}, requests: 20}
controls:
  - name: c
    summary: s
    after: watched
    break: [{delete: [Deployment/model-v1]}]
    catches: no-loss
`

func TestAStoryIsReadAsItIsWritten(t *testing.T) {
	f, err := Read("dir/mine.yaml", []byte(story), rules)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s %v %v", f.Name, f.Needs, f.Mesh)
	for _, s := range f.Steps {
		got += fmt.Sprintf("\n%s %q %T %+v %+v", s.Where, s.Name, s.Change, s.Wait, s.Expect)
	}
	want := `mine [istio] false
mine.yaml:6:5 "1 apply, wait" file.Apply {No:false Ready:<nil> Mark:x Of:own Within:0s Empty:[]} <nil>
mine.yaml:25:5 "watched" file.Watch {No:false Ready:<nil> Mark: Of: Within:0s Empty:[]} {Of:model Shares:[{Version:v1 Percent:100}] Requests:1000 Alpha:1e-06}
mine.yaml:28:5 "3 expect-all" <nil> {No:false Ready:<nil> Mark: Of: Within:0s Empty:[]} {Of:own Version:v1 Headers:map[] Cookies:map[who:me] Requests:20}
mine.yaml "no request to model lost" <nil> {No:false Ready:<nil> Mark: Of: Within:0s Empty:[]} {Of:model}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if m := f.Steps[0].Change.(Apply).Models[0]; !m.Route || m.Replicas != 2 || m.Knative {
		t.Errorf("got %+v", m)
	}
	if c := f.Controls[0]; c.After != "watched" || c.Catches != "no-loss" || c.Break[0].Change.(Delete).Refs[0].String() != "Deployment.apps/model-v1" {
		t.Errorf("got %+v", c)
	}
}

func TestPlaceholdersAreFilledInAndTheRestIsAsWritten(t *testing.T) {
	f, err := Read("mine.yaml", []byte(story), rules)
	if err != nil {
		t.Fatal(err)
	}
	objs := f.Steps[0].Change.(Apply).Objects
	v := Vars{Image: "kind.local/app:1", Namespace: "ns", Domain: "mllab.test"}
	got := fmt.Sprint(objs[1].Fill(v), objs[2].Fill(v))
	for _, want := range []string{
		"namespace:ns", "hosts:[own.ns.mllab.test model-v1]", "gateways:[ns/own]", "host:model-v1.ns.svc.cluster.local", "exportTo:[. istio-system]",
		"image:kind.local/app:1", "value:http://own.ns.mllab.test/ns", "imagePullPolicy:Never",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if again := fmt.Sprint(objs[1].Fill(v), objs[2].Fill(v)); again != got || strings.Contains(got, "${") {
		t.Errorf("a second time it is %s", again)
	}
}

func TestWhatIsWrittenTwiceByAnAliasIsReadTwice(t *testing.T) {
	text := strings.Replace(story, "expect-all: {of: own, version: v1, cookies: {who: me}, requests: 20}", "expect-all: &all {of: own, version: v1}\n  - expect-all: *all", 1)
	f, err := Read("mine.yaml", []byte(text), rules)
	if err != nil || len(f.Steps) != 5 || fmt.Sprint(f.Steps[2].Expect) != fmt.Sprint(f.Steps[3].Expect) {
		t.Errorf("got %+v: %v", f, err)
	}
}

// numbered has a revision without a name, and one with, and the same again with other traffic.
const numbered = `  - apply: [{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: old}, spec: {template: &one {metadata: {name: old-v1}, spec: {containers: [{image: "${image}"}]}}}}]
  - apply: [{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: old}, spec: {template: *one, traffic: [{revisionName: old-v1, percent: 100}]}}]
  - apply: [{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: old}, spec: {template: {spec: {containers: [{image: "${image}"}]}}, traffic: [{revisionName: old-v1, percent: 50}, {revisionName: old-00002, percent: 50}]}}]
`

// shop has a Service whose versions are subsets, and a route to one of them.
const shop = `apiVersion: mllab.local/v1alpha1
kind: Scenario
name: mine
summary: one Service, its versions are subsets
mesh: true
steps:
  - name: all to v1
    apply:
      - model: {name: model, version: v1, route: false}
      - model: {name: model, version: v2, route: false}
      - {apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {selector: {app: model}, ports: [{port: 80, targetPort: http}]}}
      - ` + rule + `{name: v1, labels: {version: v1}}]}}
      - {apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: shop}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.${namespace}.mllab.test"]}]}}
      - ` + route + `headers: {response: {set: {X-Mllab-Route: one}}}}]}}
    wait: {mark: one, of: shop}
    expect-all: {of: shop, version: v1}
  # more
controls:
  - name: c
    summary: s
    after: all to v1
    break: [{delete: [Service/shop]}]
    catches: answers
`

const (
	rule  = `{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: shop}, spec: {host: shop, subsets: [`
	route = `{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: {gateways: [shop], hosts: ["${host:shop}"], http: [{route: [{destination: {host: shop, subset: v1}}], `
	all   = "\n    expect-all: {of: shop, version: v1}\n"
	again = `model: {name: model, version: v1, route: false, env: {FAIL_PERCENT: "100"}}`
)

// more returns shop with more steps.
func more(steps string) string { return strings.Replace(shop, "  # more\n", steps, 1) }

// broken returns shop whose control breaks it so.
func broken(items string) string { return strings.Replace(shop, "{delete: [Service/shop]}", items, 1) }

// What people write, and Istio, a browser and kubectl take.
func TestWhatIsRightIsTaken(t *testing.T) {
	for name, text := range map[string]string{
		"documents with nothing": "---\n# nothing\n---\n" + story + "---\n",
		"names of cookies":       strings.Replace(story, "cookies: {who: me}", `cookies: {_ga: GA1.2.3, __Host-id: a=b==, a.b: '"x y"', empty: ""}`, 1),
		"a header's underscore":  strings.Replace(story, "cookies: {who: me}", `headers: {x_user: me, cookie: "a=1; b=2"}`, 1),
		"Istio's older versions": strings.Replace(strings.Replace(story, "networking.istio.io/v1\n", "networking.istio.io/v1beta1\n", 1), "networking.istio.io/v1,", "networking.istio.io/v1alpha3,", 1),
		"weights that are parts": strings.Replace(story, "svc.cluster.local\"}", "svc.cluster.local\"}, weight: 900", 1),
		"a second version":       strings.Replace(story, "  - name: watched", "  - apply: [{model: {name: model, version: v2, env: {DELAY: 1ms}}}]\n    expect-all: {of: own, version: v1}\n  - name: watched", 1),
		"a folded title":         strings.NewReplacer("name: watched", "name: >\n      watched", "after: watched", "after: |\n      watched").Replace(story),
		"a number of a revision": strings.Replace(story, "steps:\n", "steps:\n"+numbered, 1),
		"names with dots":        strings.NewReplacer("{name: own, namespace", "{name: 2.own.routes, namespace", "{name: web}", "{name: web.v1}").Replace(story),
		"the version of YAML":    "%YAML 1.2\n---\n" + story,
		"a model that ends":      strings.Replace(story, "steps:\n", "steps:\n  - apply: [{model: {name: late, version: v1, env: {FAIL_PERCENT: abc}}}]\n    wait: false\n", 1),
		"an absent revision":     strings.Replace(story, "steps:\n", "steps:\n  - apply: [{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: typo}, spec: {template: {spec: {containers: [{image: \"${image}\"}]}}, traffic: [{revisionName: typo-v2, percent: 100}]}}]\n    wait: false\n", 1),
		"a variable of another":  strings.Replace(story, "{name: AT,", "{name: DELAY, value: $(AT)}, {name: AT,", 1),
		"amounts":                strings.Replace(story, `image: "${image}"`, `resources: {requests: {cpu: .5, memory: 1e6}, limits: {cpu: 1, memory: 64Mi}}, image: "${image}"`, 1),
		"parts of pods":          strings.Replace(story, "selector: {matchLabels", "strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}\n          selector: {matchLabels", 1),
		"a Service's own port":   strings.Replace(story, `svc.cluster.local"`, `svc.cluster.local", port: {number: 80}`, 1),
		"subsets":                shop,
		"a second state":         more("  - apply: [" + route + "headers: {response: {set: {X-Mllab-Route: two}}}}]}}]\n    wait: {mark: two, of: shop}" + all),
		"the first state again": more("  - apply: [" + route + "headers: {response: {set: {X-Mllab-Route: two}}}}]}}]\n    wait: {mark: two, of: shop}" + all +
			"  - apply: [" + route + "headers: {response: {set: {X-Mllab-Route: one}}}}]}}]\n    wait: {mark: one, of: shop}" + all),
		"a break that never is ready":    broken("{apply: [{" + again + "}], wait: false}"),
		"v2 next to it":                  more("  - apply: [" + rule + "{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}]" + all),
		"a rollout of what has no share": more("  - apply: [{" + strings.Replace(again, "v1", "v2", 1) + "}]" + all),
		"a port that gets a name":        more(`  - apply: [{apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {selector: {app: model}, ports: [{name: http, port: 80, targetPort: http}]}}]` + all),
		"several ports in the mesh": more(`  - apply:
      - {apiVersion: v1, kind: Service, metadata: {name: two}, spec: {selector: {app: model}, ports: [{name: a, port: 8000, targetPort: http}, {name: b, port: 9000, targetPort: http}]}}
      - {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: two}, spec: {gateways: [mesh], hosts: [two], http: [{route: [{destination: {host: two}}]}]}}
`),
		"another port later": more("  - apply: [{apiVersion: v1, kind: Service, metadata: {name: two}, spec: {selector: {app: model}, ports: [{port: 8000, targetPort: http}]}}, " +
			strings.ReplaceAll(strings.Replace(route, "host: shop, subset: v1", "host: two", 1), "shop}", "two}") + "headers: {response: {set: {X-Mllab-Route: of-two}}}}]}}]\n" +
			"  - apply: [{apiVersion: v1, kind: Service, metadata: {name: two}, spec: {selector: {app: model}, ports: [{port: 9000, targetPort: http}]}}]\n"),
		"a rule for the sidecars": more(`  - apply:
      - {apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: sidecars}, spec: {host: shop, exportTo: ["."], trafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 1}}}}}
`),
		"a route of all other hosts": more("  - apply: [{model: {name: m, version: v1}}, " + strings.ReplaceAll(strings.Replace(route, "${host:shop}", "*.${namespace}.mllab.test", 1), "{name: shop}", "{name: rest}") +
			"headers: {response: {set: {X-Mllab-Route: rest}}}}]}}]\n    expect-all: {of: m, version: v1}\n"),
		"a model behind an own route of its host": more("  - apply: [" + strings.NewReplacer("{name: shop}", "{name: beta}", "[shop]", "[m]", "host:shop", "host:m").Replace(route) + "match: [{headers: {x-beta: {exact: a}}}]}]}}, {model: {name: m, version: v1}}]\n" +
			"  - apply: [" + strings.NewReplacer("{name: shop}", "{name: late}", "host:shop", "host:m").Replace(route) + "match: [{headers: {x-late: {exact: a}}}]}]}}]\n"),
		"a break that delays": broken("{apply: [" + route + "fault: {delay: {percentage: {value: 100}, fixedDelay: 10s}}}]}}]}"),
		"a check after the one that catches": strings.NewReplacer(
			"  # more\n", "  - name: watched\n    watch: {of: shop}\n  - expect-no-loss: {of: shop}\n  - expect-all: {of: shop, version: v1}\n",
			"after: all to v1", "after: watched", "{delete: [Service/shop]}", "{apply: ["+route+"fault: {abort: {percentage: {value: 100}, httpStatus: 500}}}]}}]}", "catches: answers", "catches: no-loss").Replace(shop),
	} {
		if _, err := Read("mine.yaml", []byte(text), rules); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAllProblemsAreToldUpToTen(t *testing.T) {
	text := strings.Replace(story, "watch: {of: model}", "watch: {of: model, rate: 0}", 1)
	text = strings.Replace(text, "catches: no-loss", "catch: no-loss", 1)
	_, err := Read("mine.yaml", []byte(text), rules)
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[0], "mine.yaml:26:") || !strings.HasPrefix(lines[1], "mine.yaml:30:") {
		t.Errorf("got\n%v", err)
	}
	text = strings.Replace(story, "percent: {v1: 100}", "percent: {v1: 90}", 1)
	if _, err = Read("mine.yaml", []byte(text), rules); strings.Contains(err.Error(), "\n") {
		t.Errorf("got one problem twice\n%v", err)
	}
	text = strings.Replace(broken("{apply: ["+route+"headers: {response: {set: {X-Mllab-Route: two}}}}]}}]}"), "  # more\n", "  - name: again\n"+all[1:]+"  - expect-all: {of: shop, version: v1}\n", 1)
	if _, err = Read("mine.yaml", []byte(text), rules); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("got one break more than once\n%v", err)
	}
	_, err = Read("mine.yaml", append([]byte(story), bytes.Repeat([]byte("\"\": x\n"), 20)...), rules)
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 11 || !strings.HasPrefix(lines[10], "and ") {
		t.Errorf("got\n%v", err)
	}
}

// FuzzRead: whatever is read, the reader ends, and says where a problem is.
func FuzzRead(f *testing.F) {
	f.Add([]byte(story))
	for _, pattern := range []string{"testdata/bad/*.yaml", "../../manifests/scenarios/examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	v := Vars{Image: "i", Namespace: "n", Domain: "d"}
	f.Fuzz(func(t *testing.T, data []byte) {
		read, err := Read("x.yaml", data, rules)
		if err != nil {
			if fault.Code(err) != 2 || read != nil || !first.MatchString(err.Error()) {
				t.Fatalf("%d %v", fault.Code(err), err)
			}
			return
		}
		for _, s := range read.Steps {
			if a, ok := s.Change.(Apply); ok {
				for _, o := range a.Objects {
					if got := fmt.Sprint(o.Fill(v)); strings.Contains(got, "${") {
						t.Fatalf("not filled in: %s", got)
					}
				}
			}
		}
	})
}
