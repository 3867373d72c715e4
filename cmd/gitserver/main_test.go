package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const secret = "a-token-of-tests"

// TestMain lets git call the test's program as its hooks.
func TestMain(m *testing.M) {
	if _, called := hooks[filepath.Base(os.Args[0])]; called {
		main()
		return
	}
	if args := os.Getenv("GITSERVER_TEST_ARGS"); args != "" { // a server that can be killed
		os.Args = append(os.Args[:1], strings.Fields(args)...)
		main()
		return
	}
	os.Exit(m.Run())
}

// lab is a server in a temporary folder, and the real git client beside it.
type lab struct {
	*testing.T
	data            string
	repo            *repo
	log             *buffer
	inside, outside string // URLs of the repository
	pushed          chan struct{}
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newLab(t *testing.T) *lab {
	if _, err := exec.LookPath("git"); err != nil {
		t.Fatalf("this test needs git: %v", err)
	}
	l := &lab{T: t, data: t.TempDir(), log: &buffer{}, pushed: make(chan struct{}, 100)}
	l.start()
	return l
}

func (l *lab) start() {
	l.Helper()
	repo, err := openRepo(l.Context(), l.data)
	if err != nil {
		l.Fatal(err)
	}
	l.repo = repo
	token := l.TempDir()
	for name, content := range map[string]string{"username": "mllab", "password": secret} {
		if err := os.WriteFile(filepath.Join(token, name), []byte(content), 0o600); err != nil {
			l.Fatal(err)
		}
	}
	s := &server{repo: repo, token: token, pushed: func() { l.pushed <- struct{}{} }, log: slog.New(slog.NewJSONHandler(l.log, nil))}
	for url, outside := range map[*string]bool{&l.inside: false, &l.outside: true} {
		srv := httptest.NewServer(s.handler(outside))
		l.Cleanup(srv.Close)
		*url = srv.URL + repoPath
	}
	l.Cleanup(repo.close)
}

// with puts user and token into an address, as people have it.
func with(url, user, token string) string {
	return strings.Replace(url, "http://", "http://"+user+":"+token+"@", 1)
}

func (l *lab) mine() string { return with(l.outside, "mllab", secret) }

// try runs git and returns all it says.
func (l *lab) try(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+l.data, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (l *lab) git(dir string, args ...string) string {
	l.Helper()
	out, err := l.try(dir, args...)
	if err != nil {
		l.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// refusedGit runs git, which must fail and say want.
func (l *lab) refusedGit(want, dir string, args ...string) {
	l.Helper()
	out, err := l.try(dir, args...)
	if err == nil || !strings.Contains(out, want) {
		l.Errorf("git %s: %v\n%s\nwant a refusal that says %q", strings.Join(args, " "), err, out, want)
	}
}

func (l *lab) clone(args ...string) string {
	l.Helper()
	dir := filepath.Join(l.TempDir(), "clone")
	l.git(l.data, append(append([]string{"clone", "-q"}, args...), l.mine(), dir)...)
	return dir
}

// commit writes a file and commits it; it returns the commit's hash.
func (l *lab) commit(dir, file, content string) string {
	l.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
		l.Fatal(err)
	}
	l.git(dir, "add", file)
	l.git(dir, "commit", "-q", "-m", "change "+file)
	return l.git(dir, "rev-parse", "HEAD")
}

// tip is where main is on the server, seen by somebody in the cluster.
func (l *lab) tip() string {
	l.Helper()
	hash, _, _ := strings.Cut(l.git(l.data, "ls-remote", l.inside, "refs/heads/main"), "\t")
	return hash
}

// clean fails when a push left something behind.
func (l *lab) clean() {
	l.Helper()
	left, err := os.ReadDir(l.repo.incoming)
	if err != nil || len(left) > 0 {
		l.Errorf("incoming holds %v, %v", left, err)
	}
	if half := l.half(); len(half) > 0 {
		l.Errorf("the repository holds %v", half)
	}
}

// half lists what only a git that was killed leaves.
func (l *lab) half() (list []string) {
	l.Helper()
	err := filepath.WalkDir(l.repo.dir, func(at string, d os.DirEntry, err error) error {
		if n := d.Name(); strings.HasPrefix(n, "tmp_") || strings.HasSuffix(n, ".lock") || strings.HasSuffix(n, ".keep") || n == "gc.pid" {
			list = append(list, at)
		}
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
	return list
}

func TestACloneIsOnMainAndAPushReachesTheNextClone(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	if branch := l.git(dir, "branch", "--show-current"); branch != "main" {
		t.Errorf("a fresh clone is on %q", branch)
	}
	before := l.tip()
	commit := l.commit(dir, "apps/a.yaml", "kind: A\n")
	l.git(dir, "tag", "-a", "v1", "-m", "first")
	l.git(dir, "push", "-q", "origin", "main", "v1")

	other := filepath.Join(t.TempDir(), "other")
	l.git(l.data, "clone", "-q", l.inside, other) // in the cluster nobody needs a token to read
	if got := l.git(other, "rev-parse", "HEAD", "v1^{commit}"); got != commit+"\n"+commit {
		t.Errorf("another clone has main and v1 at %s, want %s", got, commit)
	}
	l.git(other, "fsck", "--strict")
	if len(l.pushed) != 1 {
		t.Errorf("%d times told of one push", len(l.pushed))
	}

	resp, err := http.Get(strings.TrimSuffix(l.inside, repoPath) + "/pushes")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var first pushRecord
	if err := json.NewDecoder(resp.Body).Decode(&first); err != nil {
		t.Fatal(err)
	}
	want := pushRecord{Time: first.Time, User: "mllab", Ref: mainRef, Old: before, New: commit}
	if first != want || time.Since(first.Time) > time.Minute {
		t.Errorf("recorded is %+v, want %+v", first, want)
	}
	for _, word := range []string{`"user":"mllab"`, `"ref":"refs/heads/main"`, commit, before, "Ada", "change apps/a.yaml"} {
		if !strings.Contains(l.log.String(), word) {
			t.Errorf("the log lacks %s:\n%s", word, l.log)
		}
	}
	l.clean()
}

func TestWithoutTheTokenNothingIsReadFromOutsideAndNothingPushed(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	before := l.tip()
	l.commit(dir, "a", "a")
	for name, url := range map[string]string{
		"outside, no token": l.outside, "outside, wrong token": with(l.outside, "mllab", "wrong"), "outside, wrong user": with(l.outside, "root", secret),
		"outside, half a token": with(l.outside, "mllab", secret[:8]), "outside, empty token": with(l.outside, "mllab", ""),
	} {
		if out, err := l.try(l.data, "ls-remote", url); err == nil {
			t.Errorf("%s: could read: %s", name, out)
		}
		if out, err := l.try(dir, "push", url, "main"); err == nil {
			t.Errorf("%s: could push: %s", name, out)
		}
	}
	for name, url := range map[string]string{"inside, no token": l.inside, "inside, wrong token": with(l.inside, "mllab", "wrong")} {
		if out, err := l.try(dir, "push", url, "main"); err == nil {
			t.Errorf("%s: could push: %s", name, out)
		}
	}
	if l.tip() != before {
		t.Error("main moved")
	}
	l.refusedGit("Authentication failed", dir, "push", with(l.outside, "mllab", "wrong"), "main")

	base := strings.TrimSuffix(l.outside, repoPath)
	for path, want := range map[string]int{
		"/healthz": 200, "/pushes": 401, repoPath + "/info/refs?service=" + uploadPack: 401, repoPath + "/info/refs?service=" + receivePack: 401,
		repoPath + "/info/refs": 403, "/": 404, "/other.git/info/refs": 404, "/lab.git/../incoming/": 404, "/lab.git/objects/info/packs": 404, "/lab.git/HEAD": 404,
	} {
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, resp.StatusCode, want)
		}
		if challenge := resp.Header.Get("WWW-Authenticate"); want == 401 && !strings.HasPrefix(challenge, "Basic ") {
			t.Errorf("GET %s: the challenge is %q", path, challenge)
		}
	}
	for _, service := range []string{uploadPack, receivePack} {
		resp, err := http.Post(l.outside+"/"+service, "application/x-"+service+"-request", strings.NewReader("0000"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 401 {
			t.Errorf("POST %s: %d, want 401", service, resp.StatusCode)
		}
	}
}

func TestMainOnlyGoesForwardAndOtherBranchesMayMove(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	l.commit(dir, "a", "1")
	l.git(dir, "push", "-q", "origin", "main", "main:side")
	want := l.tip()
	l.git(dir, "reset", "-q", "--hard", "HEAD~1")
	l.commit(dir, "b", "2")
	l.refusedGit("main accepts only a fast-forward", dir, "push", "--force", "origin", "main")
	l.refusedGit("main cannot be removed", dir, "push", "origin", ":main")
	if got := l.tip(); got != want {
		t.Errorf("main is at %s, want %s", got, want)
	}
	if n := l.git(l.repo.dir, "count-objects", "-v"); !strings.Contains(n, "in-pack: 3\n") {
		t.Errorf("what was refused has left objects: %s", n)
	}
	l.git(dir, "push", "-q", "--force", "origin", "main:side")
	l.git(dir, "push", "-q", "origin", ":side")
	// One refusal does not keep the others from going through.
	l.refusedGit("main accepts only a fast-forward", dir, "push", "--force", "origin", "main", "main:second")
	if out := l.git(dir, "ls-remote", "origin", "second", "side"); !strings.Contains(out, "refs/heads/second") || strings.Contains(out, "side") {
		t.Errorf("the server has %s", out)
	}
	l.git(dir, "push", "-q", "origin", "main:deep/er/branch")
	l.refusedGit("'refs/heads/deep/er/branch' exists", dir, "push", "origin", "main:deep/er")
	l.refusedGit("'refs/heads/second' exists", dir, "push", "origin", "main:second/one")
	l.git(dir, "push", "-q", "origin", ":deep/er/branch")
	l.git(dir, "push", "-q", "origin", "main:deep")
	l.clean()
}

func TestNotesOnlyGoForwardAndTravel(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	const ref = "refs/notes/mllab"
	asked := len(l.pushed)
	note := func(dir, text string, args ...string) {
		l.Helper()
		l.git(dir, append([]string{"notes", "--ref=mllab", "add", "-f", "-m", text}, args...)...)
	}
	note(dir, "a proof")
	l.git(dir, "push", "-q", "origin", ref)
	first := l.git(dir, "rev-parse", ref)
	note(dir, "a better proof")
	l.git(dir, "push", "-q", "origin", ref)
	tip := l.git(dir, "rev-parse", ref)

	other := l.clone()
	l.git(other, "fetch", "-q", "origin", "refs/notes/*:refs/notes/*")
	if got := l.git(other, "log", "-1", "--notes=mllab", "--format=%N"); got != "a better proof" {
		t.Errorf("another clone shows the note %q", got)
	}
	l.refusedGit("notes/mllab cannot be removed", dir, "push", "origin", ":"+ref)
	l.refusedGit("notes/mllab accepts only a fast-forward", dir, "push", "--force", "origin", first+":"+ref)
	l.git(other, "update-ref", "-d", ref)
	note(other, "a forged one") // from nothing: a history of its own
	l.refusedGit("notes/mllab accepts only a fast-forward", other, "push", "--force", "origin", ref)
	l.refusedGit("a branch must be a commit", dir, "push", "origin", l.git(dir, "rev-parse", "HEAD:README.md")+":refs/notes/blob")
	if len(l.pushed) != asked {
		t.Errorf("%d times told of notes", len(l.pushed)-asked)
	}
	if got := l.git(dir, "ls-remote", "origin", "refs/notes/*"); got != tip+"\t"+ref {
		t.Errorf("the notes are %s, want %s", got, tip)
	}
	l.clean()
}

func TestWhatIsTooLargeIsRefusedAndGitSaysWhy(t *testing.T) {
	l := newLab(t)
	before := l.tip()
	noise := make([]byte, maxPush+1)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ content, want string }{
		"a push":                        {string(noise), "pack exceeds maximum allowed size (50.00 MiB)"},
		"a file that packs well":        {strings.Repeat("0", 100<<20), "the push has a file of 100 MiB, more than the limit of 50 MiB"},
		"many files that pack well too": {"", "the push unpacks to more than 200 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			l := *l
			l.T = t
			dir := l.clone()
			l.git(dir, "config", "core.compression", "1")
			l.git(dir, "config", "core.bigFileThreshold", "1m") // no deltas between such files: only time
			if tc.content == "" {
				for i := range 6 {
					l.commit(dir, fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 40<<20))
				}
			} else {
				l.commit(dir, "large", tc.content)
			}
			l.refusedGit(tc.want, dir, "push", "origin", "main")
			l.clean()
		})
	}
	if l.tip() != before {
		t.Error("main moved")
	}
	if n := l.git(l.repo.dir, "count-objects", "-v"); !strings.HasPrefix(n, "count: 3\n") || !strings.Contains(n, "in-pack: 0\n") {
		t.Errorf("refused objects stayed: %s", n)
	}

	// What does not end is not read for ever.
	body := io.MultiReader(strings.NewReader(commands(command{name: "refs/heads/x", new: before})), endless{})
	if status, text := l.raw(body); status != http.StatusRequestEntityTooLarge || !strings.Contains(text, "51 MiB") {
		t.Errorf("an endless push got %d: %s", status, text)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestTwoClonesThatPushAtOnceLoseNothing(t *testing.T) {
	l := newLab(t)
	clones := []string{l.clone(), l.clone(), l.clone()}
	for round := range 5 {
		outs, errs := make([]string, len(clones)), make([]error, len(clones))
		for i, dir := range clones {
			l.commit(dir, fmt.Sprintf("%d-%d", round, i), "x")
		}
		var wg sync.WaitGroup
		for i, dir := range clones {
			wg.Go(func() { outs[i], errs[i] = l.try(dir, "push", "origin", "main") })
		}
		wg.Wait()
		through := 0
		for i := range clones {
			if errs[i] == nil {
				through++
			} else if !strings.Contains(outs[i], "rejected") {
				t.Errorf("round %d: git does not say that the push was rejected:\n%s", round, outs[i])
			}
		}
		if through != 1 {
			t.Fatalf("round %d: %d of %d pushes went through:\n%s", round, through, len(clones), strings.Join(outs, "\n"))
		}
		for _, dir := range clones { // and so do people
			l.git(dir, "pull", "-q", "--rebase", "origin", "main")
			l.git(dir, "push", "-q", "origin", "main")
		}
		for _, dir := range clones {
			l.git(dir, "pull", "-q", "--rebase", "origin", "main")
		}
	}
	if n := l.git(clones[0], "rev-list", "--count", "origin/main"); n != "16" {
		t.Errorf("main has %s commits, want 1 and 3 for each of 5 rounds", n)
	}
	l.git(clones[0], "fsck", "--strict")
	l.clean()
}

func TestWhatWasPushedIsThereAfterARestart(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	commit := l.commit(dir, "a", "1")
	l.git(dir, "push", "-q", "origin", "main")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := openRepo(ctx, l.data); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a second server opens the same folder: %v", err)
	}
	l.repo.close()
	// What a push that was cut off leaves.
	for _, name := range []string{"incoming/body-1", "lab.git/refs/heads/main.lock", "lab.git/packed-refs.lock", "lab.git/HEAD.lock", "lab.git/gc.pid", "lab.git/objects/maintenance.lock",
		"lab.git/objects/tmp_objdir-incoming-x/pack/tmp_pack_1", "lab.git/objects/ab/tmp_obj_1", "lab.git/objects/pack/pack-1.keep"} {
		file := filepath.Join(l.data, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.start()
	l.clean()
	if got := l.tip(); got != commit {
		t.Errorf("main is at %s after a restart, want %s", got, commit)
	}
	l.git(dir, "remote", "set-url", "origin", l.mine())
	next := l.commit(dir, "b", "2")
	l.git(dir, "push", "-q", "origin", "main")
	if got := l.tip(); got != next {
		t.Errorf("main is at %s, want %s", got, next)
	}
}

func TestShallowClonesGetWhatTheyAskFor(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	for i := range 5 {
		l.commit(dir, "a", fmt.Sprint(i))
	}
	l.git(dir, "checkout", "-q", "-b", "side", "HEAD~3")
	l.commit(dir, "b", "side")
	l.git(dir, "checkout", "-q", "main")
	l.git(dir, "merge", "-q", "--no-edit", "side")
	l.git(dir, "push", "-q", "origin", "main")
	count := func(dir string) string { return l.git(dir, "rev-list", "--count", "HEAD") }
	for depth, want := range map[string]string{"1": "1", "2": "3", "3": "5", "100": "8"} {
		shallow := l.clone("--depth", depth)
		if got := count(shallow); got != want {
			t.Errorf("depth %s has %s commits, want %s", depth, got, want)
		}
		l.git(shallow, "fsck", "--strict")
	}
	shallow := l.clone("--depth", "1")
	l.git(shallow, "fetch", "-q", "--depth", "2")
	if got := count(shallow); got != "3" {
		t.Errorf("deepened to 2: %s commits, want 3", got)
	}
	// A shallow clone can push: what it lacks, the server has.
	l.commit(shallow, "c", "from the shallow one")
	l.git(shallow, "push", "-q", "origin", "main")
	// And fetch what others push.
	l.git(dir, "pull", "-q", "origin", "main")
	l.commit(dir, "d", "from another")
	l.git(dir, "push", "-q", "origin", "main")
	l.git(shallow, "pull", "-q", "origin", "main")
	l.git(shallow, "fetch", "-q", "--unshallow")
	if got := count(shallow); got != "10" {
		t.Errorf("unshallowed: %s commits, want 10", got)
	}
	l.git(shallow, "fsck", "--strict")
}

func TestAFetchBringsWhatIsMissingAndNotEverything(t *testing.T) {
	l := newLab(t)
	one, two := l.clone(), l.clone()
	for i := range 10 {
		l.commit(two, "old", fmt.Sprint(i))
	}
	l.git(two, "push", "-q", "origin", "main")
	l.git(one, "pull", "-q", "origin", "main")
	for i := range 60 { // more than one round of haves, and more than one kilobyte: Git then sends them packed
		l.commit(one, "local", fmt.Sprint(i))
	}
	l.commit(two, "new", "x")
	l.git(two, "push", "-q", "origin", "main")
	out := l.git(one, "-c", "transfer.unpackLimit=1", "fetch", "--progress", "origin")
	if !strings.Contains(out, "Unpacking objects: 100% (3/3)") && !strings.Contains(out, "Receiving objects: 100% (3/3)") {
		t.Errorf("one commit with one file is 3 objects; git says:\n%s", out)
	}
	l.git(one, "merge", "-q", "--no-edit", "origin/main")
	l.git(one, "push", "-q", "origin", "main")
	l.git(one, "fsck", "--strict")
}

// command asks that a ref moves from old to new; "" is a ref that does not exist.
type command struct{ name, old, new string }

var noHash = strings.Repeat("0", 40)

// commands are the pkt-lines that a push begins with.
func commands(list ...command) string {
	var b strings.Builder
	for i, c := range list {
		line := fmt.Sprintf("%s %s %s", cmp.Or(c.old, noHash), cmp.Or(c.new, noHash), c.name)
		if i == 0 {
			line += "\x00 report-status side-band-64k"
		}
		fmt.Fprintf(&b, "%04x%s", len(line)+4, line)
	}
	return b.String() + "0000"
}

// emptyPack is what Git sends when the server has all objects.
func emptyPack() string {
	head := "PACK\x00\x00\x00\x02\x00\x00\x00\x00"
	sum := sha1.Sum([]byte(head))
	return head + string(sum[:])
}

// raw sends a push as no Git would.
func (l *lab) raw(body io.Reader) (int, string) {
	l.Helper()
	req, err := http.NewRequest(http.MethodPost, l.inside+"/"+receivePack, body)
	if err != nil {
		l.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-git-receive-pack-request")
	req.SetBasicAuth("mllab", secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestNamesThatLeadElsewhereAreRefused(t *testing.T) {
	l := newLab(t)
	tip := l.tip()
	files := func() (list []string) {
		err := filepath.WalkDir(l.data, func(p string, _ os.DirEntry, err error) error { list = append(list, p); return err })
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	before := files()
	for _, name := range []string{
		"refs/heads/../../HEAD", "refs/heads/../config", "refs/heads/..", "refs/heads/a..b", "refs/heads/a/../../../x", "refs/heads/a.lock", "refs/heads/.a",
		"refs/notes/../heads/main", "refs/notes/../../config", "refs/notes/a..b", "refs/notes/", "refs/notes",
		"refs/heads/a b", "refs/heads/a\\b", "refs/heads/a//b", "refs/heads/a/", "refs/heads/", "refs/heads/-a", "refs/heads/a\x01", "refs/heads/@{u}",
		"HEAD", "config", "/etc/passwd", "refs/remotes/a/b", "refs/x", "objects/info/alternates", "",
	} {
		status, text := l.raw(strings.NewReader(commands(command{name: name, new: tip}) + emptyPack()))
		if status != 200 || !strings.Contains(text, "ng "+name+" ") || strings.Contains(text, "ok refs") {
			t.Errorf("the name %q: %d %s", name, status, text)
		}
	}
	if after := files(); !slices.Equal(before, after) {
		t.Errorf("there were the files\n%v\nand now are\n%v", before, after)
	}
}

func TestAPushThatIsStaleBrokenOrIncompleteChangesNothing(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	first := l.tip()
	second := l.commit(dir, "a", "1")
	l.git(dir, "push", "-q", "origin", "main")
	third := l.commit(dir, "b", "2")
	pack := func(objects ...string) string {
		cmd := exec.Command("git", "pack-objects", "--stdout", "-q")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(strings.Join(objects, "\n")+"\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	resolve := func(rev string) string { return l.git(dir, "rev-parse", rev) }
	whole := pack(third, resolve(third+"^{tree}"), resolve(third+":b"))
	forward := command{name: mainRef, old: second, new: third}
	for name, tc := range map[string]struct{ body, want string }{
		"an old value that is no longer": {commands(command{name: mainRef, old: first, new: third}) + whole, "somebody else has pushed meanwhile"},
		"a branch made that is there":    {commands(command{name: mainRef, new: third}) + whole, "somebody else has pushed meanwhile"},
		"a branch moved that is not":     {commands(command{name: "refs/heads/x", old: first, new: third}) + whole, "it does not exist"},
		"a commit that nobody has":       {commands(command{name: mainRef, old: second, new: strings.Repeat("ab", 20)}) + emptyPack(), "missing necessary objects"},
		"no tree":                        {commands(forward) + pack(third), "missing necessary objects"},
		"no file":                        {commands(forward) + pack(third, resolve(third+"^{tree}")), "missing necessary objects"},
		"no file, asked twice":           {commands(command{name: "refs/heads/x", new: third}, forward) + pack(third, resolve(third+"^{tree}")), "ng refs/heads/main missing necessary objects"},
		"half a pack":                    {commands(forward) + whole[:len(whole)/2], "ng refs/heads/main unpacker error"},
		"a pack with one byte changed":   {commands(forward) + whole[:60] + string([]byte{whole[60] ^ 1}) + whole[61:], "ng refs/heads/main"},
		"no pack":                        {commands(forward), "ng refs/heads/main unpacker error"},
		"a file as a branch":             {commands(command{name: "refs/heads/x", new: resolve(third + ":b")}) + whole, "a branch must be a commit"},
	} {
		status, text := l.raw(strings.NewReader(tc.body))
		if status != 200 || !strings.Contains(text, tc.want) || strings.Contains(text, "ok refs") {
			t.Errorf("%s: %d %s, want %q", name, status, text, tc.want)
		}
		if out := l.git(l.data, "ls-remote", l.inside, "refs/*"); out != second+"\trefs/heads/main" {
			t.Fatalf("%s: the refs are %s", name, out)
		}
	}
	for name, body := range map[string]string{"no pkt-lines": "hello", "no flush": commands(forward)[:20], "no hashes": "000fa b refs/x0000"} {
		if status, text := l.raw(strings.NewReader(body)); strings.Contains(text, "ok refs") || l.tip() != second {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	l.clean()
	if status, text := l.raw(strings.NewReader(commands(forward) + whole)); status != 200 || !strings.Contains(text, "ok refs/heads/main") {
		t.Errorf("the same push, whole: %d %s", status, text)
	}
	l.git(l.clone(), "fsck", "--strict")
}

func TestRequestsUnderWayAreFinishedWhenTheServerEnds(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	commit := l.commit(dir, "a", "1")
	ctx, end := context.WithCancel(t.Context())
	token := t.TempDir()
	for name, content := range map[string]string{"username": "mllab", "password": secret} {
		if err := os.WriteFile(filepath.Join(token, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	began := make(chan struct{})
	s := &server{repo: l.repo, token: token, pushed: func() {}, log: slog.New(slog.DiscardHandler)}
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			close(began)
			<-ctx.Done() // the end comes in the middle
		}
		s.handler(true).ServeHTTP(w, r)
	})
	listening := make(chan string, 1)
	log := slog.New(slog.NewJSONHandler(writerFunc(func(line []byte) {
		var said struct{ Address string }
		if err := json.Unmarshal(line, &said); err != nil || said.Address == "" {
			t.Errorf("the server says %s", line)
		}
		listening <- said.Address
	}), nil))
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, log, map[string]http.Handler{"127.0.0.1:0": slow}) }()
	go func() { <-began; end() }()
	select {
	case addr := <-listening:
		if out, err := l.try(dir, "push", "-q", with("http://"+addr+repoPath, "mllab", secret), "main"); err != nil {
			t.Fatalf("the push that was under way: %v\n%s", err, out)
		}
	case err := <-ended:
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
	if got := l.tip(); got != commit {
		t.Errorf("main is at %s, want %s", got, commit)
	}
}

func TestClonesWithoutFilesAndProtocolTwoAndAtomicPushes(t *testing.T) {
	l := newLab(t)
	dir := l.clone()
	for i := range 3 {
		l.commit(dir, "a", fmt.Sprint(i))
	}
	l.git(dir, "push", "-q", "origin", "main")

	partial := l.clone("--filter=blob:none", "--no-checkout")
	missing := func() int {
		return strings.Count(l.git(partial, "rev-list", "--objects", "--all", "--missing=print"), "?")
	}
	if n := missing(); n != 4 { // README.md, and a of each commit
		t.Errorf("%d files are missing in a clone without files, want 4", n)
	}
	l.git(partial, "checkout", "-q", "main")
	if n := missing(); n != 2 {
		t.Errorf("%d files are missing after the checkout, want 2", n)
	}
	for version, want := range map[string]bool{"0": false, "2": true} {
		cmd := exec.Command("git", "-c", "protocol.version="+version, "ls-remote", l.inside)
		cmd.Env = append(os.Environ(), "GIT_TRACE_PACKET=1")
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "ls-refs") != want {
			t.Errorf("protocol %s: %v\n%s", version, err, out)
		}
	}

	before := l.tip()
	l.git(dir, "checkout", "-q", "--orphan", "other")
	l.commit(dir, "b", "another history")
	l.refusedGit("main accepts only a fast-forward", dir, "push", "--atomic", "--force", "origin", "other:main", "other:side")
	if out := l.git(dir, "ls-remote", "origin", "refs/heads/*"); out != before+"\trefs/heads/main" {
		t.Errorf("an atomic push of which one ref was refused left %s", out)
	}
	l.clean()
}

func TestManyPushesArePacked(t *testing.T) {
	l := newLab(t)
	l.git(l.data, "--git-dir="+l.repo.dir, "config", "gc.autoPackLimit", "3")
	dir := l.clone()
	for i := range 6 {
		l.commit(dir, "a", fmt.Sprint(i))
		l.git(dir, "push", "-q", "origin", "main")
	}
	packs, err := filepath.Glob(filepath.Join(l.repo.dir, "objects/pack/*.pack"))
	if err != nil || len(packs) > 4 {
		t.Errorf("6 pushes are %d packs, %v", len(packs), err)
	}
	l.git(l.clone(), "fsck", "--strict")
	l.clean()
}

// A server is killed, with the git that it has started, at any time of a push.
func TestAKilledServerLeavesARepositoryThatWorks(t *testing.T) {
	l := newLab(t)
	l.repo.close()
	dir := l.clone()
	token := l.TempDir()
	for name, content := range map[string]string{"username": "mllab", "password": secret} {
		if err := os.WriteFile(filepath.Join(token, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for i := range 12 {
		server := exec.Command(self)
		server.Env = append(os.Environ(), "GITSERVER_TEST_ARGS=--data "+l.data+" --token "+token+" --inside 127.0.0.1:0 --outside 127.0.0.1:0")
		server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := server.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		address := ""
		for lines := json.NewDecoder(out); address == ""; {
			var said struct{ Address string }
			if err := lines.Decode(&said); err != nil {
				t.Fatalf("the server does not listen: %v", err)
			}
			address = said.Address
		}
		url := with("http://"+address+repoPath, "mllab", secret)
		l.git(dir, "fetch", "-q", url, "main")
		l.git(dir, "reset", "-q", "--hard", "FETCH_HEAD")
		commit := l.commit(dir, "a", strings.Repeat(fmt.Sprint(i), 1000))
		pushed := make(chan struct{})
		go func() {
			defer close(pushed)
			_, err = l.try(dir, "push", url, "main")
		}()
		select {
		case <-pushed:
		case <-time.After(time.Duration(i) * 30 * time.Millisecond):
		}
		if err := syscall.Kill(-server.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = server.Wait()
		<-pushed
		l.start()
		tip := l.tip()
		if err == nil && tip != commit {
			t.Errorf("kill %d: a push that went through is lost", i)
		}
		if tip == commit {
			done++
		}
		l.clean()
		l.git(l.repo.dir, "fsck", "--strict", "--connectivity-only")
		l.repo.close()
	}
	t.Logf("%d of 12 pushes went through", done)
	l.start()
	next := l.clone()
	want := l.commit(next, "b", "after")
	l.git(next, "push", "-q", "origin", "main")
	if l.tip() != want {
		t.Error("main did not move after the kills")
	}
}

// writerFunc is a Writer that is a function.
type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestWrongFlagsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"own"}, {"--data", filepath.Join(t.TempDir(), "absent")}, {"--no-such-flag"}} {
		if err := run(t.Context(), slog.New(slog.DiscardHandler), args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
