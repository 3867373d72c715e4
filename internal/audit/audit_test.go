package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"mllab.local/internal/git"
	"mllab.local/internal/kube"
)

func settings(color string) map[string][]byte {
	return map[string][]byte{
		"README.md":                              []byte("text"),
		"runs/a/base/kustomization.yaml":         []byte("resources: [settings.yaml]\n"),
		"runs/a/base/settings.yaml":              []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: " + color + "}}\n"),
		"runs/a/overlays/lab/Kustomization":      []byte("resources: [../../base]\n"),
		"runs/b/overlays/lab/kustomization.yaml": []byte("resources: [one.yaml]\n"),
		"runs/b/overlays/lab/one.yaml":           []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n"),
	}
}

// told is a list of changes in few words.
func told(list []Change) string {
	var words []string
	for _, c := range list {
		for _, o := range c.Objects {
			word := c.Folder + " " + c.By + " " + o.Action + " " + o.Object
			for _, f := range o.Fields {
				if o.Action == "changed" {
					word += fmt.Sprintf(" %s %v->%v", f.Path, f.Before, f.After)
				}
			}
			words = append(words, word)
		}
		if c.Error != "" {
			words = append(words, c.Folder+" "+c.By+" broken")
		}
		if c.Before != "" {
			words = append(words, c.Folder+" "+c.By+" was broken")
		}
		if c.NotBuilt != "" {
			words = append(words, c.Folder+" "+c.By+" unknown")
		}
	}
	return strings.Join(words, "; ")
}

// repository is one of the real git, served as the lab's is, with the record of pushes that it is given.
type repository struct {
	*testing.T
	dir    string
	remote *url.URL
	pushes string
}

func newRepository(t *testing.T) *repository {
	r := &repository{T: t, dir: t.TempDir()}
	r.git("", "init", "-q", "--bare", "-b", git.Main, "lab.git")
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatalf("this test needs git: %v", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/lab.git/", &cgi.Handler{Path: program, Args: []string{"http-backend"}, Root: "/", Env: []string{"GIT_PROJECT_ROOT=" + r.dir, "GIT_HTTP_EXPORT_ALL=1"}})
	mux.HandleFunc("/pushes", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, r.pushes) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	if r.remote, err = url.Parse(server.URL + "/lab.git"); err != nil {
		t.Fatal(err)
	}
	return r
}

// git runs git on the repository with that on stdin.
func (r *repository) git(stdin string, args ...string) string {
	r.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "GIT_DIR=lab.git", "GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// entry is a file of a commit, with git's mode and name as they are; the zero mode is a file.
type entry struct{ mode, name, content string }

// commit moves main to a new commit of exactly these files, in any tree that git can hold.
func (r *repository) commit(message string, files map[string][]byte, more ...entry) string {
	r.Helper()
	for name, content := range files {
		more = append(more, entry{name: name, content: string(content)})
	}
	var b strings.Builder
	data := func(text string) { fmt.Fprintf(&b, "data %d\n%s\n", len(text), text) }
	fmt.Fprintf(&b, "commit refs/heads/%s\ncommitter Ada <ada@example.com> 1767225600 +0000\n", git.Main)
	data(message)
	if parent := r.tip(); parent != "" {
		fmt.Fprintf(&b, "from %s\n", parent)
	}
	b.WriteString("deleteall\n")
	for _, e := range more {
		name := ""
		for _, c := range []byte(e.name) {
			name += fmt.Sprintf("\\%03o", c)
		}
		if e.mode == "160000" {
			fmt.Fprintf(&b, "M %s %s \"%s\"\n", e.mode, e.content, name)
			continue
		}
		fmt.Fprintf(&b, "M %s inline \"%s\"\n", cmp.Or(e.mode, "100644"), name)
		data(e.content)
	}
	r.git(b.String(), "fast-import", "--quiet")
	return r.tip()
}

func (r *repository) tip() string {
	return r.git("", "for-each-ref", "--format=%(objectname)", "refs/heads/"+git.Main)
}

func (r *repository) builder() (builder, []git.Commit) {
	r.Helper()
	repo, err := git.Clone(r.Context(), r.remote, "test")
	if err != nil {
		r.Fatal(err)
	}
	log, err := repo.Log()
	if err != nil {
		r.Fatal(err)
	}
	return builder{repo: repo, dir: r.TempDir(), trees: map[string]*tree{}}, log
}

// followed is a Kustomization of Flux in namespace team, called model.
func followed(t *testing.T, spec string) Kustomization {
	t.Helper()
	objs, err := kube.Decode([]byte("{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: model, namespace: team}, spec: " + spec + "}"))
	if err != nil {
		t.Fatal(err)
	}
	return Kustomization{Name: kube.Name(objs[0]), object: objs[0]}
}

func TestACommitsChangesAreThoseOfWhatIsBuilt(t *testing.T) {
	green, red := settings("green"), settings("red")
	broken := settings("red")
	broken["runs/a/overlays/lab/Kustomization"] = []byte("resources: [../../bases]\n")
	removed := settings("red")
	for name := range removed {
		if strings.HasPrefix(name, "runs/a/") {
			delete(removed, name)
		}
	}
	text := settings("red")
	text["README.md"] = []byte("another text")
	follower := []Kustomization{followed(t, "{path: ./runs/a/overlays/lab, targetNamespace: team}")}
	const folder, by = "runs/a/overlays/lab", "Kustomization/team/model"
	for name, tc := range map[string]struct {
		before, after map[string][]byte
		by            []Kustomization
		want          string
	}{
		"a base, of a run that is over": {green, red, nil, folder + "  changed ConfigMap/settings data.color green->red"},
		"a base, of a run that goes on": {green, red, follower, folder + " " + by + " changed ConfigMap/team/settings data.color green->red"},
		"the first commit":              {nil, green, follower, folder + " " + by + " created ConfigMap/team/settings; runs/b/overlays/lab  created ConfigMap/one"},
		"what breaks the build":         {red, broken, follower, folder + " " + by + " broken"},
		"what fixes it":                 {broken, red, nil, folder + "  was broken"},
		"a folder that goes":            {red, removed, follower, folder + " " + by + " removed ConfigMap/team/settings"},
		"a text":                        {red, text, follower, ""},
	} {
		r := newRepository(t)
		if tc.before != nil {
			r.commit("before", tc.before)
		}
		r.commit("after", tc.after)
		b, log := r.builder()
		list, err := b.changes(t.Context(), log[0], tc.by)
		if got := told(list); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
	}
}

// Whatever git can hold beside what Flux applies changes nothing of what is applied.
func TestWhatLiesInTheRepositoryDoesNotBreakIt(t *testing.T) {
	long := strings.Repeat("l", 255)
	for name, e := range map[string]entry{
		"a space":                  {name: "Meeting notes.md"},
		"a space, in the folder":   {name: "runs/a/overlays/lab/Meeting notes.md"},
		"a folder with a space":    {name: "my notes/from Monday/a b.yaml"},
		"letters that are not A-Z": {name: "Prot\u00f6koll \u65e5\u672c\u8a9e \U0001f600.md"},
		"no letters":               {name: "$&'()*;<>?[]^`{|}~!#%+,= \"\\\t"},
		"a new line":               {name: "one\ntwo\r\nthree"},
		"not UTF-8":                {name: "caf\xe9.txt"},
		"a leading dash":           {name: "-rf"},
		"an address":               {name: "git@example.com:a"},
		"a long name":              {name: long},
		"a long way":               {name: strings.Repeat("d/", 100) + "deep"},
		"a control character":      {name: "\x1b[2J\x07"},
		"dots":                     {name: "...a"},
		"an empty file":            {name: "empty.yaml"},
		"bytes":                    {name: "model.bin", content: "\x00\xff\xfe"},
		"a large file":             {name: "large", content: strings.Repeat("0123456789abcdef", 1<<18)},
		"a program":                {mode: "100755", name: "runs/a/overlays/lab/train.sh", content: "#!/bin/sh\n"},
		"a link":                   {mode: "120000", name: "runs/a/overlays/lab/link.yaml", content: "one.yaml"},
		"a link to nowhere":        {mode: "120000", name: "gone", content: "nowhere"},
		"a link to the machine":    {mode: "120000", name: "passwd.yaml", content: "/etc/passwd"},
		"a link in a circle":       {mode: "120000", name: "runs/a/loop", content: "."},
		"a submodule":              {mode: "160000", name: "runs/a/vendor", content: strings.Repeat("ab", 20)},
		"a pointer of LFS":         {name: "weights.bin", content: "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("ab", 32) + "\nsize 12345\n"},
		"another kind of YAML":     {name: "runs/a/values.yaml", content: "a: {{ .Values.b }}\n"},
		"a rule of Flux":           {name: ".sourceignore", content: "*.bin\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t)
			r.commit("before", settings("green"))
			r.commit("after", settings("red"), e)
			b, log := r.builder()
			list, err := b.changes(t.Context(), log[0], []Kustomization{followed(t, "{path: runs/a/overlays/lab}")})
			const want = "runs/a/overlays/lab Kustomization/team/model changed ConfigMap/settings data.color green->red"
			if got := told(list); err != nil || got != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
			if !slices.Contains(log[0].Files, e.name) {
				t.Errorf("the commit has the files %q, without %q", log[0].Files, e.name)
			}
		})
	}
}

// What a folder is made of counts as Flux counts it.
func TestBrokenIsWhatIsBrokenForFlux(t *testing.T) {
	const config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {b: c}}\n"
	resource := func(name string) string { return fmt.Sprintf("resources: [%q]\n", name) }
	file := func(name string) string { return fmt.Sprintf("configMapGenerator: [{name: a, files: [%q]}]\n", name) }
	const made, broken, unknown = "created", "broken", "unknown"
	for name, tc := range map[string]struct {
		kustomization string // "" is none
		more          []entry
		spec          string
		want          string
	}{
		"a manifest with a space":         {resource("my model.yaml"), []entry{{name: "x/my model.yaml", content: config}}, "", made},
		"a manifest with an @":            {resource("me@home.yaml"), []entry{{name: "x/me@home.yaml", content: config}}, "", made},
		"a manifest with a colon":         {resource("a:b.yaml"), []entry{{name: "x/a:b.yaml", content: config}}, "", made},
		"a folder with a space":           {resource("my model"), []entry{{name: "x/my model/a.yaml", content: config}, {name: "x/my model/kustomization.yaml", content: resource("a.yaml")}}, "", made},
		"a manifest that is a program":    {resource("a.yaml"), []entry{{mode: "100755", name: "x/a.yaml", content: config}}, "", made},
		"files with odd names":            {file("b c=my notes.txt"), []entry{{name: "x/my notes.txt", content: "n"}}, "", made}, // which the API server refuses
		"a file with an odd name":         {file("bc=my notes: 1.txt"), []entry{{name: "x/my notes: 1.txt", content: "n"}}, "", made},
		"a manifest above the folder":     {resource("../y/a.yaml"), []entry{{name: "y/a.yaml", content: config}}, "", made},
		"an inline patch":                 {resource("a.yaml") + "patchesStrategicMerge: ['{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {b: d}}']\n", []entry{{name: "x/a.yaml", content: config}}, "", made},
		"no kustomization file":           {"", []entry{{name: "x/deep/my model.yaml", content: config}, {name: "x/notes.md", content: "n"}}, "", made},
		"other YAML, nothing names it":    {"", []entry{{name: "x/values.yaml", content: "a: b\n"}}, "", broken},
		"a link to a manifest":            {resource("a.yaml"), []entry{{mode: "120000", name: "x/a.yaml", content: "b.yaml"}, {name: "x/b.yaml", content: config}}, "", broken},
		"a link out of the repository":    {file("bc=passwd"), []entry{{mode: "120000", name: "x/passwd", content: "/etc/passwd"}}, "", broken},
		"a manifest in a submodule":       {resource("sub/a.yaml"), []entry{{mode: "160000", name: "x/sub", content: strings.Repeat("ab", 20)}}, "", broken},
		"a manifest in LFS":               {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n"}}, "", broken},
		"a picture, which Flux leaves":    {file("logo.png"), []entry{{name: "x/logo.png", content: "p"}}, "", broken},
		"a picture that a rule includes":  {file("logo.png"), []entry{{name: "x/logo.png", content: "p"}, {name: ".sourceignore", content: "*.bin\n"}}, "", made},
		"a manifest that a rule excludes": {resource("a.yaml"), []entry{{name: "x/a.yaml", content: config}, {name: "x/.sourceignore", content: "a.*\n"}}, "", broken},
		"a manifest that is not there":    {resource("absent.yaml"), nil, "", broken},
		"a manifest of the machine":       {resource("/etc/passwd"), nil, "", broken},
		"a way out of the repository":     {resource("../../../../../../../../etc/hostname"), nil, "", broken},
		"half a kustomization file":       {"resources: {", nil, "", broken},
		"variables":                       {resource("a.yaml"), []entry{{name: "x/a.yaml", content: strings.ReplaceAll(config, "b: c", "b: '${color}'")}}, "postBuild: {substitute: {color: red}}", made},
		"variables of the cluster":        {resource("a.yaml"), []entry{{name: "x/a.yaml", content: config}}, "postBuild: {substituteFrom: [{kind: Secret, name: s}]}", unknown},
		"a key":                           {resource("a.yaml"), []entry{{name: "x/a.yaml", content: config}}, "decryption: {provider: sops}", unknown},
		"a manifest elsewhere":            {resource("https://example.com/a.yaml"), nil, "", unknown},
		"a repository elsewhere":          {resource("github.com/fluxcd/flux2"), nil, "", unknown},
		"two kustomization files":         {resource("a.yaml"), []entry{{name: "x/a.yaml", content: config}, {name: "x/Kustomization", content: resource("a.yaml")}}, "", broken},
		"a list of objects":               {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "apiVersion: v1\nkind: List\nitems:\n  - " + config}}, "", made},
		"a ConfigMapList":                 {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "apiVersion: v1\nkind: ConfigMapList\nitems:\n  - " + config}}, "", made},
		"empty documents":                 {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "---\n# nothing\n---\n" + config + "---\n---\n# end\n"}}, "", made},
		"a manifest of comments only":     {"resources: [a.yaml, b.yaml]\n", []entry{{name: "x/a.yaml", content: config}, {name: "x/b.yaml", content: "# later\n"}}, "", made},
		"lines of Windows":                {"resources:\r\n- a.yaml\r\n", []entry{{name: "x/a.yaml", content: strings.ReplaceAll("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  b: c\n", "\n", "\r\n")}}, "", made},
		"a byte order mark":               {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "\ufeff" + config}}, "", made},
		"a key twice":                     {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {b: c, b: d}}\n"}}, "", broken},
		"an object twice":                 {"resources: [a.yaml, b.yaml]\n", []entry{{name: "x/a.yaml", content: config}, {name: "x/b.yaml", content: config}}, "", broken},
		"a secret of SOPS":                {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {b: 'ENC[AES256_GCM,data:a,iv:b,tag:c,type:str]'}\nsops: {version: 3.9.0}\n"}}, "", made},
		"composed and decomposed letters": {resource("\u00e9.yaml"), []entry{{name: "x/\u00e9.yaml", content: config}, {name: "x/e\u0301.yaml", content: "no: object\n"}}, "", made},
		"JSON":                            {resource("a.json"), []entry{{name: "x/a.json", content: `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}`}}, "", made},
		"anchors":                         {resource("a.yaml"), []entry{{name: "x/a.yaml", content: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: &n a}\ndata: {b: *n}\n"}}, "", made},
		"what Helm would make":            {"helmCharts: [{name: a, repo: 'https://example.com'}]\n", nil, "", broken},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t)
			files := tc.more
			if tc.kustomization != "" {
				files = append(files, entry{name: "x/kustomization.yaml", content: tc.kustomization})
			}
			r.commit("all", nil, files...)
			b, log := r.builder()
			spec := "{path: ./x}"
			if tc.spec != "" {
				spec = "{path: ./x, " + tc.spec + "}"
			}
			list, err := b.changes(t.Context(), log[0], []Kustomization{followed(t, spec)})
			got := ""
			for _, c := range list {
				switch {
				case c.NotBuilt != "":
					got = unknown
				case c.Error != "":
					got = broken
				case len(c.Objects) == 1:
					got = c.Objects[0].Action
				}
			}
			if err != nil || len(list) != 1 || got != tc.want {
				t.Errorf("%q, %v, %+v; want %q", got, err, list, tc.want)
			}
			if len(list) > 0 && strings.Contains(list[0].Error, b.dir) {
				t.Errorf("the error names a folder of this machine: %s", list[0].Error)
			}
		})
	}
}

const cluster = `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: lab, namespace: team}
spec: {url: INSIDE, ref: {branch: main}, ignore: "# none\n*.bin\n"}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: other, namespace: team}
spec: {url: "https://example.com/other"}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: model, namespace: team}
spec: {path: ./runs/a/overlays/lab, targetNamespace: team, sourceRef: {kind: GitRepository, name: lab}}
status:
  lastAppliedRevision: main@sha1:APPLIED
  history: [{lastReconciled: "2026-01-01T12:00:00Z", lastReconciledStatus: ReconciliationSucceeded, metadata: {revision: "main@sha1:APPLIED"}}]
  conditions: [{type: Ready, status: "True", reason: ReconciliationSucceeded, message: ok}]
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: new, namespace: team}
spec: {path: ./runs/b, suspend: true, sourceRef: {kind: GitRepository, name: lab}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: others, namespace: team}
spec: {path: ./, sourceRef: {kind: GitRepository, name: other}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: lost, namespace: team}
spec: {path: ./absent, sourceRef: {kind: GitRepository, name: lab}}
status: {lastAppliedRevision: "main@sha1:APPLIED"}
---
apiVersion: v1
kind: Event
metadata: {name: e, namespace: team, annotations: {kustomize.toolkit.fluxcd.io/revision: "main@sha1:FIRST"}}
involvedObject: {kind: Kustomization, namespace: team, name: model}
reason: Progressing
message: applied
lastTimestamp: "2026-01-01T11:00:00Z"
`

// clusterOf returns a cluster with these objects.
func clusterOf(t *testing.T, text string) *kube.Client {
	t.Helper()
	objs, err := kube.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	// The fake's answer to a dry run has no version, as if the object were absent.
	b := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
		err := c.Patch(ctx, o, p, opts...)
		o.SetResourceVersion("999")
		return err
	}})
	for _, o := range objs {
		b = b.WithRuntimeObjects(o)
	}
	return &kube.Client{Client: b.Build()}
}

func TestReadTiesCommitsToTheClusterAndFindsDrift(t *testing.T) {
	r := newRepository(t)
	first := r.commit("first", settings("green"), entry{name: "Meeting notes.md"})
	second := r.commit("second", settings("red"), entry{name: "Meeting notes.md"})
	third := r.commit("third", settings("red"))
	r.git("", "notes", "--ref="+git.Notes, "add", "-m", `{"scenario":"gitops","step":"x","pass":true}`, second)
	r.pushes = fmt.Sprintf(`{"time":"2026-01-01T10:00:00Z","user":"ada","ref":"refs/heads/main","old":%q,"new":%q}`+"\n", first, third)
	t.Setenv("TMPDIR", t.TempDir()) // the audits of others are on this machine too
	const inside = "http://git.example/lab.git"
	text := strings.NewReplacer("INSIDE", inside, "APPLIED", second, "FIRST", first).Replace(cluster)
	const live = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: team}, data: {color: blue}}"

	report, err := Read(t.Context(), clusterOf(t, text+"---\n"+live), r.remote, inside, 2)
	if err != nil {
		t.Fatal(err)
	}
	if report.Head != third || report.Older != 1 || len(report.Commits) != 2 {
		t.Fatalf("head %s, %d older, %d commits", report.Head, report.Older, len(report.Commits))
	}
	var names []string
	for _, k := range report.Kustomizations {
		names = append(names, fmt.Sprint(k.Name, " ", k.Applied == second, " ", k.Suspended))
	}
	slices.Sort(names)
	if want := []string{"Kustomization/team/lost true false", "Kustomization/team/model true false", "Kustomization/team/new false true"}; !slices.Equal(names, want) {
		t.Errorf("Kustomizations are %q, want %q", names, want)
	}
	newest, older := report.Commits[0], report.Commits[1]
	if newest.Pushed == nil || newest.Pushed.User != "ada" || len(newest.Applied) != 0 || len(newest.Changes) != 0 || newest.Proof != nil {
		t.Errorf("the newest commit: %+v", newest)
	}
	if got, want := told(older.Changes), "runs/a/overlays/lab Kustomization/team/model changed ConfigMap/team/settings data.color green->red"; got != want {
		t.Errorf("changes are %q, want %q", got, want)
	}
	if older.Pushed == nil || older.Proof == nil || !older.Proof.Pass || len(older.Applied) != 1 || older.Applied[0].From != "status" {
		t.Errorf("the second commit: %+v", older)
	}

	drift := map[string]Drift{}
	for _, d := range report.Drift {
		drift[d.By] = d
	}
	if d := drift["Kustomization/team/model"]; report.Compared != 1 || len(d.Objects) != 1 || len(d.Objects[0].Fields) != 3 || d.Objects[0].Fields[0].Wished != "red" || d.Commit != second {
		t.Errorf("of %d objects the drift is %+v", report.Compared, d)
	}
	for name, want := range map[string]string{"lost": `folder "absent"`, "new": "nothing was applied yet"} {
		if d := drift["Kustomization/team/"+name]; !strings.Contains(d.Error, want) {
			t.Errorf("%s: %+v, want an error that says %q", name, d, want)
		}
	}

	const spec = `ignore: "# none\n*.bin\n"}`
	refused := strings.Replace(text, spec, spec+"\nstatus: {conditions: [{type: Ready, status: \"False\", reason: GitOperationFailed, message: invalid path}]}", 1)
	report, err = Read(t.Context(), clusterOf(t, refused), r.remote, inside, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range report.Kustomizations { // also those that are Ready with what they had before
		if want := "GitRepository/team/lab is not Ready: GitOperationFailed: invalid path"; k.NotReady != want {
			t.Errorf("%s is not ready because of %q, want %q", k.Name, k.NotReady, want)
		}
	}
	if oldest := report.Commits[len(report.Commits)-1]; len(report.Commits) != 3 || oldest.Pushed != nil || len(oldest.Applied) != 1 || oldest.Applied[0].From != "event" {
		t.Errorf("%d commits, the first %+v", len(report.Commits), oldest)
	}
	for _, d := range report.Drift {
		if d.By == "Kustomization/team/model" && !d.Objects[0].Missing {
			t.Errorf("the object is gone, and the drift is %+v", d)
		}
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "mllab-audit-*")); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}

	gone := *r.remote
	gone.Path = "/absent.git"
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Read(ctx, clusterOf(t, text), &gone, inside, 0); err == nil {
		t.Error("a repository that is not there was read")
	}
}

// What follows the repository, but not its main or not it alone, is not said to have applied main's commits.
func TestWhatDoesNotFollowMainIsNotAttributed(t *testing.T) {
	r := newRepository(t)
	first := r.commit("first", settings("green"))
	second := r.commit("second", settings("red"))
	const inside = "http://git.example/lab.git"
	for spec, want := range map[string]struct{ changes, drift string }{
		"ref: {branch: main}":                          {"runs/a/overlays/lab Kustomization/team/model changed ConfigMap/team/settings data.color green->red", ""},
		"ref: {name: refs/heads/main}":                 {"runs/a/overlays/lab Kustomization/team/model changed ConfigMap/team/settings data.color green->red", ""},
		"interval: 1m":                                 {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows branch master, and mllab reads branch main: commit "},
		"ref: {}":                                      {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows branch master, and"},
		"ref: {tag: main}":                             {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows tag main, and"},
		"ref: {name: main}":                            {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows name main, and"},
		"ref: {branch: refs/heads/main}":               {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows branch refs/heads/main, and"},
		"ref: {branch: dev}":                           {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows branch dev, and mllab reads branch main: commit "},
		"ref: {branch: main, tag: v1}":                 {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows tag v1, and"},
		"ref: {branch: main, commit: ab}":              {"runs/a/overlays/lab  changed ConfigMap/settings data.color green->red", "its source follows commit ab, and"},
		"ref: {branch: main}, recurseSubmodules: true": {"", "mllab does not build this folder: its source has spec.recurseSubmodules, and so other files than the commit"},
		"ref: {branch: main}, include: [{repository: {name: other}}]": {"", "mllab does not build this folder: its source has spec.include"},
		"ref: {branch: main}, sparseCheckout: [base]":                 {"", "mllab does not build this folder: its source has spec.sparseCheckout"},
		"ref: {branch: main}, recurseSubmodules: false":               {"runs/a/overlays/lab Kustomization/team/model changed ConfigMap/team/settings data.color green->red", ""},
	} {
		applied := second
		if strings.HasPrefix(want.drift, "its source follows") {
			applied = strings.Repeat("ab", 20)
		}
		text := strings.NewReplacer("ref: {branch: main}", spec, "APPLIED", applied, "FIRST", first).Replace(cluster)
		report, err := Read(t.Context(), clusterOf(t, strings.ReplaceAll(text, "INSIDE", inside)), r.remote, inside, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := told(report.Commits[0].Changes); got != want.changes {
			t.Errorf("%s: changes are %q, want %q", spec, got, want.changes)
		}
		i := slices.IndexFunc(report.Drift, func(d Drift) bool { return d.By == "Kustomization/team/model" })
		if i < 0 || !strings.HasPrefix(report.Drift[i].Error, want.drift) || want.drift == "" && report.Drift[i].Error != "" {
			t.Errorf("%s: drift is %+v, want %q", spec, report.Drift, want.drift)
		}
	}
}

func TestANoteIsAProofOrShownAsItIs(t *testing.T) {
	p, note := readProof([]byte(`{"scenario":"gitops","control":"","step":"90/10 by a commit","pass":true,"applied":"main@sha1:ab","secondsToTraffic":1.2,"evidence":{"says":"n=1000 v1 903","verdict":{"n":1000}},"reasons":null}`))
	if p == nil || note != "" || Summary(*p) != "n=1000 v1 903" || p.SecondsToTraffic != 1.2 || !p.Pass || p.Applied != "main@sha1:ab" {
		t.Errorf("%+v, %q", p, note)
	}
	if text, err := json.Marshal(p); err != nil || !strings.Contains(string(text), `"evidence":{"says":"n=1000 v1 903","verdict":{"n":1000}}`) {
		t.Errorf("%s, %v", text, err)
	}
	if p, _ := readProof([]byte(`{"scenario":"gitops","step":"x","pass":false,"reasons":["a","b"]}`)); p == nil || Summary(*p) != "a; b" {
		t.Errorf("%+v", p)
	}
	for _, other := range []string{"by hand\n", `{"scenario":`, `{"build":7}`, "[]", ""} {
		if p, note := readProof([]byte(other)); p != nil || note != strings.TrimSpace(other) {
			t.Errorf("%q: %+v, %q", other, p, note)
		}
	}
}

func TestWhenACommitWasAppliedIsWhatTheEventsSayOrElseTheStatus(t *testing.T) {
	objs, err := kube.Decode([]byte(`apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: model, namespace: team}
status:
  history:
    - {digest: "sha256:2", firstReconciled: "2026-01-01T10:00:00Z", lastReconciled: "2026-01-01T12:00:00Z", lastReconciledStatus: ReconciliationSucceeded, totalReconciliations: 2, metadata: {revision: "main@sha1:two"}}
    - {digest: "sha256:1", firstReconciled: "2026-01-01T09:00:00Z", lastReconciled: "2026-01-01T09:00:00Z", lastReconciledStatus: ReconciliationFailed, totalReconciliations: 1, metadata: {revision: "main@sha1:one"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	k := Kustomization{Name: kube.Name(objs[0])}
	if k.history, err = historyOf(objs[0]); err != nil {
		t.Fatal(err)
	}
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	events := []Applied{
		{By: k.Name, Time: at(11), Reason: "ReconciliationSucceeded", From: "event", revision: "two"},
		{By: k.Name, Time: at(10), Reason: "Progressing", From: "event", revision: "two"},
		{By: "Kustomization/gone/model", Time: at(8), Reason: "ReconciliationSucceeded", From: "event", revision: "one"},
	}
	tell := func(commit string) string {
		var words []string
		for _, a := range appliesOf(commit, []Kustomization{k}, events) {
			words = append(words, fmt.Sprintf("%d %s %s %s", a.Time.Hour(), a.From, a.By, a.Reason))
		}
		return strings.Join(words, "; ")
	}
	for commit, want := range map[string]string{
		"two":   "10 event Kustomization/team/model Progressing; 11 event Kustomization/team/model ReconciliationSucceeded",
		"one":   "8 event Kustomization/gone/model ReconciliationSucceeded; 9 status Kustomization/team/model ReconciliationFailed",
		"three": "",
	} {
		if got := tell(commit); got != want {
			t.Errorf("%s: %s\nwant %s", commit, got, want)
		}
	}
}

func TestOverlaysThatACommitCanConcern(t *testing.T) {
	files := settings("green")
	for changed, want := range map[string][]string{
		"runs/a/base/settings.yaml":    {"runs/a/overlays/lab"},
		"runs/a/overlays/other/x.yaml": {"runs/a/overlays/lab"},
		"runs/b/x":                     {"runs/b/overlays/lab"},
		"runs/ab/x":                    nil,
		"README.md":                    nil,
	} {
		if got := overlays([]string{changed}, nil, slices.Collect(maps.Keys(files))); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", changed, got, want)
		}
	}
}

func TestEachCommitOfAPushCameByIt(t *testing.T) {
	log := []git.Commit{{Hash: "five"}, {Hash: "four"}, {Hash: "three"}, {Hash: "two"}, {Hash: "first"}}
	const main = "refs/heads/main"
	pushOf := pushesByCommit(log, []git.Push{
		{User: "ada", Ref: main, Old: "first", New: "two"}, {User: "eve", Ref: "refs/heads/side", Old: "two", New: "three"},
		{User: "eve", Ref: main, Old: "two", New: "never"}, {User: "bob", Ref: main, Old: "two", New: "five"},
	})
	got := ""
	for _, c := range log {
		if p := pushOf[c.Hash]; p != nil {
			got += p.User + " "
		} else {
			got += "- "
		}
	}
	if got != "bob bob bob ada - " {
		t.Errorf("they came by %s", got)
	}
}
