package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"mllab.local/internal/run"
)

// TestMain lets a test start this binary as mllab.
func TestMain(m *testing.M) {
	if os.Getenv("MLLAB_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// recorder is a server that keeps what it was asked: a gateway, or a proxy that should not be asked.
type recorder struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func record(t *testing.T) *recorder {
	r := &recorder{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked = append(r.asked, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", q.Method, q.Host, q.RequestURI, body)))
		fmt.Fprintln(w, "the lab")
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.asked, "\n")
}

// stateOfLab writes the record of a lab whose gateway is at a URL, and returns the state folder.
func stateOfLab(t *testing.T, gateway string) string {
	t.Helper()
	at, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "it's a $HOME")
	if err := os.MkdirAll(filepath.Join(dir, "mllab"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"state.json": fmt.Sprintf(`{"cluster": "mllab", "phase": "ready", "port": %s}`, at.Port()),
		"kubeconfig": `{"clusters": [{"name": "kind-mllab", "cluster": {"server": "https://127.0.0.1:1"}}], "contexts": [{"name": "kind-mllab", "context": {}}], "users": [{"name": "kind-mllab"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "mllab", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// proxied is an environment in which everything goes through a proxy, in the spellings that programs read.
func proxied(proxy string) []string {
	env := []string{"no_proxy=", "NO_PROXY="}
	for _, key := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"} {
		env = append(env, key+"="+proxy)
	}
	return env
}

func TestCurlReachesTheGatewayAndNoProxyAndItsExitCodeIsMllabs(t *testing.T) {
	proxy := record(t)
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".curlrc"), []byte("proxy = "+proxy.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"sample":                              "GET sample.mllab-sample.mllab.test /",
		"sample/v1/models?a=b -s":             "GET sample.mllab-sample.mllab.test /v1/models?a=b",
		"model.mllab-canary -s -d {}":         "POST model.mllab-canary.mllab.test / {}",
		"http://a.b.example.com/x -X DELETE":  "DELETE a.b.example.com /x",
		"model.mllab-canary -H Host:other -s": "GET other /",
	} {
		gateway := record(t)
		c := exec.Command(os.Args[0], append([]string{"--state-dir", stateOfLab(t, gateway.URL), "curl"}, strings.Fields(args)...)...)
		c.Env = append(os.Environ(), append(proxied(proxy.URL), "MLLAB_TEST_MAIN=1", "HOME="+home, "CURL_HOME="+home)...)
		out, err := c.Output()
		if err != nil || string(out) != "the lab\n" || gateway.all() != want {
			t.Errorf("mllab curl %s: %v, %q, the gateway was asked %q, want %q", args, err, out, gateway.all(), want)
		}
	}
	if proxy.all() != "" {
		t.Errorf("the proxy was asked:\n%s", proxy.all())
	}
	c := exec.Command(os.Args[0], "--state-dir", stateOfLab(t, "http://127.0.0.1:1"), "curl", "sample", "-s")
	c.Env = append(os.Environ(), "MLLAB_TEST_MAIN=1")
	if err := c.Run(); c.ProcessState.ExitCode() != 7 { // curl's "failed to connect"
		t.Errorf("%v, code %d", err, c.ProcessState.ExitCode())
	}
	for args, want := range map[string]string{
		"curl":            "error: mllab curl must have a NAME, such as sample\n",
		"curl model":      "error: NAME must be sample or NAME.NAMESPACE, got \"model\"\nhint:  such as model.default\n",
		"curl -- -s":      "error: NAME must be a name in the lab, got \"-s\"\n",
		"curl a.b:80":     "error: NAME must be a name in the lab, got \"a.b:80\"\n",
		"curl https://ab": "error: NAME must be a name in the lab, got \"https://ab\"\n",
	} {
		if code, stdout, stderr := call(t, nil, strings.Fields(args)...); code != 2 || stdout != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("mllab %s: code %d, %s%s", args, code, stdout, stderr)
		}
	}
}

func TestAShellReadsWhatEnvPrints(t *testing.T) {
	dir := stateOfLab(t, "http://127.0.0.1:8080")
	env := map[string]string{"MLLAB_STATE_DIR": dir, "https_proxy": "http://proxy:3128", "no_proxy": ".corp"}
	code, stdout, stderr := call(t, env, "env")
	if code != 0 || stderr != "" {
		t.Fatalf("code %d, %s", code, stderr)
	}
	out, err := exec.Command("/bin/sh", "-c", stdout+`printf '%s\n' "$KUBECONFIG" "$MLLAB_URL" "$MLLAB_NAME" "$MLLAB_STATE_DIR" "$no_proxy" "$NO_PROXY"`).Output()
	want := fmt.Sprintf("%[1]s/mllab/kubeconfig\nhttp://127.0.0.1:8080\nmllab\n%[1]s\n%[2]s\n%[2]s\n", dir, ".corp,localhost,127.0.0.1,::1")
	if err != nil || string(out) != want {
		t.Errorf("%v, the shell sees\n%swant\n%s", err, out, want)
	}
	code, stdout, _ = call(t, map[string]string{"MLLAB_STATE_DIR": dir}, "env", "-o", "json")
	var got map[string]string
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 || len(got) != 4 || got["MLLAB_URL"] != "http://127.0.0.1:8080" {
		t.Errorf("code %d, %v: %s", code, err, stdout)
	}
}

func TestKubeconfigPrintsTheLabsOrMergesItIntoTheOneThatKubectlUses(t *testing.T) {
	env := map[string]string{"MLLAB_STATE_DIR": stateOfLab(t, "http://127.0.0.1:8080"), "KUBECONFIG": filepath.Join(t.TempDir(), "config")}
	code, stdout, stderr := call(t, env, "kubeconfig")
	if code != 0 || stderr != "" || !strings.Contains(stdout, "https://127.0.0.1:1") || strings.Contains(stdout, "kind-mllab") || !strings.Contains(stdout, "mllab-mllab") {
		t.Errorf("code %d, %s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(env["KUBECONFIG"]); !os.IsNotExist(err) {
		t.Errorf("printing wrote a file: %v", err)
	}
	for range 2 { // the second time nothing changes
		code, stdout, stderr = call(t, env, "kubeconfig", "--merge")
		if want := "context  mllab-mllab, now the current one\nfile     " + env["KUBECONFIG"] + "\n"; code != 0 || stderr != "" || stdout != want {
			t.Errorf("code %d, %s%s", code, stdout, stderr)
		}
	}
	if st, err := os.Stat(env["KUBECONFIG"]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	env["KUBECONFIG"] = "~/.kube/none"
	t.Chdir(t.TempDir())
	if code, _, stderr := call(t, env, "kubeconfig", "--merge"); code != 2 || !strings.HasPrefix(stderr, "error: KUBECONFIG must have paths, got \"~/.kube/none\", whose ~ no shell has replaced\n") {
		t.Errorf("code %d, %s", code, stderr)
	}
	if _, err := os.Stat("~"); !os.IsNotExist(err) {
		t.Errorf("it made a folder: %v", err)
	}
	for _, verb := range []string{"kubeconfig", "kubeconfig --merge", "env", "curl sample"} {
		code, stdout, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": t.TempDir(), "KUBECONFIG": "/nowhere/config"}, strings.Fields(verb)...)
		if code != 3 || stdout != "" || !strings.HasPrefix(stderr, "error: there is no lab \"mllab\"\nhint:  mllab up\nmore:  mllab diagnose ") {
			t.Errorf("mllab %s without a lab: code %d, %s%s", verb, code, stdout, stderr)
		}
	}
}

// A clone and the pushes that a person makes from it, with git's own server behind the gateway.
func TestACloneNeverAsksAProxyForTheLabsGit(t *testing.T) {
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal("git is not installed: scripts/install installs it")
	}
	root := t.TempDir()
	for _, args := range [][]string{{"init", "-q", "--bare", "-b", "main", root + "/lab.git"}, {"-C", root + "/lab.git", "config", "http.receivepack", "true"}} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v %s", args, err, out)
		}
	}
	lab := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}}
	var headers atomic.Int32 // requests with the other server's token
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Token") != "" {
			headers.Add(1)
		}
		lab.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL + "/lab.git")
	if err != nil {
		t.Fatal(err)
	}
	proxy := record(t)
	gitconfig := filepath.Join(t.TempDir(), "gitconfig")
	if err := os.WriteFile(gitconfig, []byte("[http]\n\tproxy = "+proxy.URL+"\n\textraHeader = X-Token: t\n[clone]\n\tdefaultRemoteName = upstream\n[url \"https://127\"]\n\tinsteadOf = http://127\n[url \"ssh://git@127\"]\n\tpushInsteadOf = http://127\n[user]\n\tname = me\n\temail = me@example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CONFIG_GLOBAL", gitconfig)
	for _, e := range proxied(proxy.URL) {
		key, value, _ := strings.Cut(e, "=")
		t.Setenv(key, value)
	}
	dir := filepath.Join(t.TempDir(), "clone")
	a := &app{stderr: io.Discard, global: global{name: "mllab", state: t.TempDir()}}
	if _, err := a.cloneFrom(t.Context(), run.Exec{}, at, dir); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"commit -q --allow-empty -m x", "push -q origin HEAD:main", "fetch -q", "ls-remote --exit-code origin main"} {
		if out, err := exec.Command("git", append([]string{"-C", dir}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
			t.Errorf("git %s: %v %s", args, err, out)
		}
	}
	if proxy.all() != "" || headers.Load() > 0 {
		t.Errorf("the proxy was asked:\n%s%d requests had another server's token", proxy.all(), headers.Load())
	}
	// The proxy is there for everything else.
	if _, err := run.Output(t.Context(), run.Exec{}, "git", "ls-remote", "http://git.example.com/x"); err == nil || !strings.Contains(proxy.all(), "http://git.example.com/x") {
		t.Errorf("%v, the proxy was asked %q", err, proxy.all())
	}
}
