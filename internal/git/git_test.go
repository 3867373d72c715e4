package git

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const token = "a-token-of-tests"

// program is the lab's own Git server, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gitserver-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "gitserver")
	out, err := exec.Command("go", "build", "-o", file, "mllab.local/cmd/gitserver").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("building the Git server: %w\n%s", err, out)
	}
	return file, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

// server is the lab's Git server with a folder of its own, and a way to it that can be broken.
type server struct {
	*testing.T
	data, inside, outside string // folder; addresses
	process               *exec.Cmd
	// broken, if any, is told of each request before the server is, and says whether it broke it.
	broken func(http.ResponseWriter, *http.Request, http.Handler) bool
	way    *httptest.Server
}

func newServer(t *testing.T) *server {
	s := &server{T: t, data: t.TempDir(), inside: free(t), outside: free(t)}
	for name, content := range map[string]string{"username": "mllab", "password": token} {
		if err := os.WriteFile(filepath.Join(s.data, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	t.Cleanup(s.kill)
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.outside})
	to.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) { // as the gateway does
		http.Error(w, "no healthy upstream: "+err.Error(), http.StatusServiceUnavailable)
	}
	s.way = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.broken == nil || !s.broken(w, r, to) {
			to.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.way.Close)
	return s
}

func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start returns when the server listens.
func (s *server) start() {
	s.Helper()
	file, err := program()
	if err != nil {
		s.Fatal(err)
	}
	s.process = exec.Command(file, "--data", s.data, "--token", s.data, "--inside", s.inside, "--outside", s.outside)
	out, err := s.process.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		s.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for listening := 0; listening < 2; {
		if !lines.Scan() {
			s.Fatalf("the server ended: %v", s.process.Wait())
		}
		if strings.Contains(lines.Text(), `"listening"`) {
			listening++
		}
	}
	go func() {
		for lines.Scan() { // or it would block
		}
	}()
}

// kill ends the server as a node does that loses its power.
func (s *server) kill() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

func (s *server) url(password string) *url.URL {
	u, err := url.Parse(s.way.URL + "/lab.git")
	if err != nil {
		s.Fatal(err)
	}
	u.User = url.UserPassword("mllab", password)
	return u
}

func (s *server) clone(who string) *Repo {
	s.Helper()
	r, err := Clone(s.Context(), s.url(token), who)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *server) commit(r *Repo, c Change) string {
	s.Helper()
	hash, err := r.Commit(s.Context(), c)
	if err != nil {
		s.Fatal(err)
	}
	return hash
}

// has fails unless main at the server has these files in a folder, seen by a fresh clone.
func (s *server) has(folder string, want map[string]string) {
	s.Helper()
	r := s.clone("reader")
	files, err := r.Files(r.Head(), folder)
	if err != nil {
		s.Fatal(err)
	}
	got := map[string]string{}
	for name, content := range files {
		got[name] = string(content)
	}
	if !maps.Equal(got, want) {
		s.Errorf("folder %q holds %v, want %v", folder, got, want)
	}
}

func files(pairs ...string) map[string][]byte {
	m := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = []byte(pairs[i+1])
	}
	return m
}

func TestACommitChangesItsFolderAndNothingElse(t *testing.T) {
	s := newServer(t)
	ada := s.clone("ada")
	first := ada.Head()
	s.has("", map[string]string{"README.md": "# The lab's repository\n\nFlux fetches it after every push, and applies the folders that Kustomizations name.\n"})

	a := s.commit(ada, Change{Folder: "scenarios/one", Files: files("base/a.yaml", "a", "base/deep/b.yaml", "b", "c.yaml", "c"), Message: "one\n\nand why"})
	s.has("scenarios/one", map[string]string{"base/a.yaml": "a", "base/deep/b.yaml": "b", "c.yaml": "c"})
	if ada.Head() != a {
		t.Errorf("the clone is at %s after its own commit %s", ada.Head(), a)
	}
	// A change, a removal of a file and with it of its folder, and of a file that is not there.
	b := s.commit(ada, Change{Folder: "scenarios/one", Files: map[string][]byte{"c.yaml": []byte("C"), "base/deep/b.yaml": nil, "base/none/x": nil}, Message: "two"})
	s.has("scenarios/one", map[string]string{"base/a.yaml": "a", "c.yaml": "C"})
	// A file in the place of a folder, and a folder in the place of a file.
	c := s.commit(ada, Change{Folder: "scenarios/one", Files: map[string][]byte{"base/a.yaml": nil, "c.yaml/d": []byte("d")}, Message: "three"})
	s.has("scenarios/one", map[string]string{"c.yaml/d": "d"})
	d := s.commit(ada, Change{Folder: "scenarios/one", Files: files("e", "e"), All: true, Message: "all"})
	s.has("scenarios/one", map[string]string{"e": "e"})
	if same := s.commit(ada, Change{Folder: "scenarios/one", Files: files("e", "e"), Message: "nothing"}); same != d {
		t.Errorf("a change of nothing made the commit %s", same)
	}
	e := s.commit(ada, Change{Folder: "scenarios/one", All: true, Message: "gone"})
	s.has("scenarios/one", map[string]string{})
	s.has("", map[string]string{"README.md": "# The lab's repository\n\nFlux fetches it after every push, and applies the folders that Kustomizations name.\n"})

	log, err := s.clone("reader").Log()
	if err != nil {
		t.Fatal(err)
	}
	type line struct{ hash, parent, message, files string }
	var got []line
	for _, c := range log {
		if time.Since(c.When) > time.Minute || c.Hash != first && c.Author != "ada <ada@mllab.test>" {
			t.Errorf("%s is by %s at %s", c.Hash, c.Author, c.When)
		}
		got = append(got, line{c.Hash, c.Parent, c.Message, strings.Join(c.Files, " ")})
	}
	want := []line{
		{e, d, "gone", "scenarios/one/e"},
		{d, c, "all", "scenarios/one/c.yaml/d scenarios/one/e"},
		{c, b, "three", "scenarios/one/base/a.yaml scenarios/one/c.yaml scenarios/one/c.yaml/d"},
		{b, a, "two", "scenarios/one/base/deep/b.yaml scenarios/one/c.yaml"},
		{a, first, "one\n\nand why", "scenarios/one/base/a.yaml scenarios/one/base/deep/b.yaml scenarios/one/c.yaml"},
		{first, "", "The lab's repository", "README.md"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("the log is\n%v\nwant\n%v", got, want)
	}
	if log[4].Subject() != "one" {
		t.Errorf("the subject is %q", log[4].Subject())
	}
	s.fsck()
}

func TestARevertTakesBackWhatOneCommitDid(t *testing.T) {
	s := newServer(t)
	ada := s.clone("ada")
	s.commit(ada, Change{Folder: "a", Files: files("x", "1", "y", "1"), Message: "one"})
	two := s.commit(ada, Change{Folder: "a", Files: map[string][]byte{"x": []byte("2"), "y": nil, "z": []byte("2")}, Message: "two"})
	s.commit(ada, Change{Folder: "b", Files: files("x", "b"), Message: "beside"})
	if _, err := ada.Revert(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	s.has("", map[string]string{"README.md": "# The lab's repository\n\nFlux fetches it after every push, and applies the folders that Kustomizations name.\n", "a/x": "1", "a/y": "1", "b/x": "b"})
	log, err := ada.Log()
	if err != nil || log[0].Message != "Revert \"two\"\n\nThis reverts commit "+two+"." {
		t.Errorf("the log begins with %+v, %v", log[0], err)
	}
	if _, err := ada.Revert(t.Context(), two); !errors.Is(err, ErrConflict) {
		t.Errorf("a second revert: %v", err)
	}
	if _, err := ada.Revert(t.Context(), strings.Repeat("ab", 20)); err == nil || errors.Is(err, ErrConflict) {
		t.Errorf("a revert of a commit that is none: %v", err)
	}
}

func TestPushesAtOnceAllArriveUnlessTheyAreOfOneFolder(t *testing.T) {
	s := newServer(t)
	const clones, rounds = 4, 5
	all := make([]*Repo, clones)
	for i := range all {
		all[i] = s.clone(fmt.Sprint("clone", i))
	}
	var wg sync.WaitGroup
	errs := make([]error, clones)
	for i, r := range all {
		wg.Go(func() {
			for round := range rounds {
				_, err := r.Commit(t.Context(), Change{Folder: fmt.Sprint("folder", i), Files: files(fmt.Sprint(round), "x"), Message: fmt.Sprint(i, ".", round)})
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	log, err := s.clone("reader").Log()
	if err != nil || len(log) != 1+clones*rounds {
		t.Errorf("%d commits arrived of %d, %v", len(log)-1, clones*rounds, err)
	}
	for i := range all {
		s.has(fmt.Sprint("folder", i), map[string]string{"0": "x", "1": "x", "2": "x", "3": "x", "4": "x"})
	}

	ada, bob := s.clone("ada"), s.clone("bob")
	s.commit(ada, Change{Folder: "same", Files: files("a", "ada"), Message: "ada's"})
	if _, err := bob.Commit(t.Context(), Change{Folder: "same", Files: files("b", "bob"), Message: "bob's"}); !errors.Is(err, ErrConflict) {
		t.Errorf("a change of a folder that somebody else changed: %v", err)
	}
	s.has("same", map[string]string{"a": "ada"})
	// Now that bob has seen it, he may.
	s.commit(bob, Change{Folder: "same", Files: files("b", "bob"), Message: "bob's"})
	s.has("same", map[string]string{"a": "ada", "b": "bob"})
	s.fsck()
}

func TestNotesAreOnTheirCommits(t *testing.T) {
	s := newServer(t)
	ada := s.clone("ada")
	one := s.commit(ada, Change{Folder: "a", Files: files("x", "1"), Message: "one"})
	two := s.commit(ada, Change{Folder: "a", Files: files("x", "2"), Message: "two"})
	bob := s.clone("bob")
	if notes, err := bob.Notes(); err != nil || len(notes) > 0 {
		t.Errorf("before there is any: %v, %v", notes, err)
	}
	for _, n := range []struct {
		by           *Repo
		commit, note string
	}{{ada, one, "a proof"}, {bob, two, `{"pass":true}`}, {ada, one, "a better proof"}} {
		if err := n.by.Note(t.Context(), n.commit, []byte(n.note)); err != nil {
			t.Fatal(err)
		}
	}
	notes, err := s.clone("reader").Notes()
	if err != nil || len(notes) != 2 || string(notes[one]) != "a better proof" || string(notes[two]) != `{"pass":true}` {
		t.Errorf("the notes are %q, %v", notes, err)
	}
	if log, err := s.clone("reader").Log(); err != nil || log[0].Hash != two {
		t.Errorf("notes moved main: %+v, %v", log[0], err)
	}
	if _, err := exec.LookPath("git"); err != nil {
		return
	}
	dir := s.gitClone()
	s.git(dir, "fetch", "-q", "origin", "refs/notes/*:refs/notes/*")
	if said := s.git(dir, "log", "--notes=mllab", "--format=%s: %N"); !strings.Contains(said, `two: {"pass":true}`) || !strings.Contains(said, "one: a better proof") {
		t.Errorf("git log shows\n%s", said)
	}
	// And what git itself notes is read.
	s.git(dir, "notes", "--ref=mllab", "add", "-f", "-m", "by hand", one)
	s.git(dir, "push", "-q", "origin", "refs/notes/mllab")
	if notes, err = s.clone("reader").Notes(); err != nil || strings.TrimSpace(string(notes[one])) != "by hand" {
		t.Errorf("a note by git is read as %q, %v", notes[one], err)
	}
	s.fsck()
}

func TestAPushThatIsRefusedSaysWhyInTheServersWords(t *testing.T) {
	s := newServer(t)
	ada := s.clone("ada")
	before := ada.Head()
	_, err := ada.Commit(t.Context(), Change{Folder: "a", Files: map[string][]byte{"large": make([]byte, 100<<20)}, Message: "large"})
	if err == nil || !strings.Contains(err.Error(), "the push has a file of 100 MiB, more than the limit of 50 MiB") {
		t.Errorf("a file of 100 MiB: %v", err)
	}
	if ada.Head() != before {
		t.Errorf("the clone is at %s, and the server at %s", ada.Head(), before)
	}
	// A note that is refused is no note, also when it would be the first one.
	if err := ada.Note(t.Context(), before, make([]byte, 100<<20)); err == nil || !strings.Contains(err.Error(), "the limit of 50 MiB") {
		t.Errorf("a note of 100 MiB: %v", err)
	}
	if notes, err := ada.Notes(); err != nil || len(notes) > 0 {
		t.Errorf("the notes are %d, %v", len(notes), err)
	}
	s.commit(ada, Change{Folder: "a", Files: files("small", "x"), Message: "small"})
	s.has("a", map[string]string{"small": "x"})
	// What the server does not answer at all as Git would is final, too.
	s.broken = func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method == http.MethodPost {
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
		}
		return r.Method == http.MethodPost
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err = ada.Commit(ctx, Change{Folder: "a", Files: files("more", "x"), Message: "more"}); err == nil || !strings.Contains(err.Error(), "413") || ctx.Err() != nil {
		t.Errorf("an answer 413: %v", err)
	}
}

func TestAWrongTokenIsSaidAndNotShown(t *testing.T) {
	s := newServer(t)
	for _, password := range []string{"not-the-token", ""} {
		_, err := Clone(t.Context(), s.url(password), "ada")
		if err == nil || !strings.Contains(err.Error(), "the lab's token is missing or wrong") {
			t.Errorf("with the token %q: %v", password, err)
		} else if password != "" && strings.Contains(err.Error(), password) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	// The token was changed meanwhile.
	ada := s.clone("ada")
	if err := os.WriteFile(filepath.Join(s.data, "password"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ada.Commit(t.Context(), Change{Folder: "a", Files: files("x", "1"), Message: "one"})
	if err == nil || !strings.Contains(err.Error(), "token is missing or wrong") || strings.Contains(err.Error(), token) {
		t.Errorf("with an old token: %v", err)
	}
}

func TestAServerThatIsKilledInTheMiddleIsAskedAgain(t *testing.T) {
	s := newServer(t)
	ada := s.clone("ada")
	pushes, down := 0, false
	s.broken = func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		switch {
		case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack"):
			if pushes++; pushes == 1 {
				s.kill() // this request finds nobody
				down = true
			}
		case down:
			s.start()
			down = false
		}
		return false
	}
	hash := s.commit(ada, Change{Folder: "a", Files: files("x", "1"), Message: "one"})
	s.broken = nil
	s.has("a", map[string]string{"x": "1"})
	if pushes != 2 || ada.Head() != hash {
		t.Errorf("it was sent %d times; the clone is at %s, want %s", pushes, ada.Head(), hash)
	}
}

func TestAPushWhoseAnswerIsLostIsNotMadeTwice(t *testing.T) {
	for name, meanwhile := range map[string]bool{"": false, ", and somebody else's push came on top of it": true} {
		t.Run("lost"+name, func(t *testing.T) {
			s := newServer(t)
			ada, bob := s.clone("ada"), s.clone("bob")
			lost := false
			s.broken = func(w http.ResponseWriter, r *http.Request, to http.Handler) bool {
				if lost || r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
					return false
				}
				lost = true
				to.ServeHTTP(httptest.NewRecorder(), r)
				if meanwhile {
					s.commit(bob, Change{Folder: "b", Files: files("x", "b"), Message: "bob's"})
				}
				panic(http.ErrAbortHandler)
			}
			hash := s.commit(ada, Change{Folder: "a", Files: files("x", "1"), Message: "one"})
			log, err := s.clone("reader").Log()
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, c := range log {
				if c.Message == "one" {
					n++
					if c.Hash != hash {
						t.Errorf("the commit is %s, and %s was returned", c.Hash, hash)
					}
				}
			}
			if !lost || n != 1 {
				t.Errorf("answer lost: %v; the commit is there %d times", lost, n)
			}
		})
	}
}

func TestAServerThatNeverComesBackEndsWithTheContextAndTheReason(t *testing.T) {
	s := newServer(t)
	ada := s.clone("ada")
	s.kill()
	ctx, end := context.WithCancel(t.Context())
	asked := 0
	s.broken = func(http.ResponseWriter, *http.Request, http.Handler) bool {
		if asked++; asked == 3 {
			end()
		}
		return false
	}
	_, err := ada.Commit(ctx, Change{Folder: "a", Files: files("x", "1"), Message: "one"})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "status code: 503") || strings.Contains(err.Error(), token) {
		t.Errorf("got %v", err)
	}
	s.way.Close() // nor is there a gateway
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := ada.Pull(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}

func TestWhoPushedIsOnRecord(t *testing.T) {
	s := newServer(t)
	ada := s.clone("ada")
	before := ada.Head()
	after := s.commit(ada, Change{Folder: "a", Files: files("x", "1"), Message: "one"})
	pushes, err := ada.Pushes(t.Context())
	if err != nil || len(pushes) != 1 {
		t.Fatalf("%+v, %v", pushes, err)
	}
	want := Push{Time: pushes[0].Time, User: "mllab", Ref: "refs/heads/main", Old: before, New: after}
	if pushes[0] != want || time.Since(pushes[0].Time) > time.Minute {
		t.Errorf("got %+v, want %+v", pushes[0], want)
	}
	tries := 0
	s.broken = func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		if tries++; tries == 1 {
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
		}
		return tries == 1
	}
	if pushes, err = ada.Pushes(t.Context()); err != nil || len(pushes) != 1 || tries != 2 {
		t.Errorf("after %d tries: %+v, %v", tries, pushes, err)
	}
	s.broken = func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		fmt.Fprintln(w, "{}\nnonsense")
		return true
	}
	if _, err = ada.Pushes(t.Context()); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a broken record: %v", err)
	}
}

// fsck has git itself look at what was made, where there is git.
func (s *server) fsck() {
	s.Helper()
	if _, err := exec.LookPath("git"); err == nil {
		s.git(s.gitClone(), "fsck", "--strict")
	}
}

func (s *server) gitClone() string {
	s.Helper()
	dir := filepath.Join(s.TempDir(), "clone")
	s.git("", "clone", "-q", s.url(token).String(), dir)
	return dir
}

func (s *server) git(dir string, args ...string) string {
	s.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+s.data, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(bytes.TrimSpace(out))
}

func TestAGatewayWithoutItsRouteIsAskedAgain(t *testing.T) {
	s := newServer(t)
	asked := 0
	s.broken = func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if asked++; asked > 1 {
			return false
		}
		http.NotFound(w, r)
		return true
	}
	if s.clone("ada"); asked < 2 {
		t.Errorf("it was asked %d times", asked)
	}
}

// go-git would not check out a name with a control character. Who reads a commit gets it.
func TestAFileOfAnyNameIsRead(t *testing.T) {
	s := newServer(t)
	s.commit(s.clone("ada"), Change{Folder: "odd", Files: files("one\ntwo", "1", "\x1b[2J", "2"), Message: "names"})
	s.has("odd", map[string]string{"one\ntwo": "1", "\x1b[2J": "2"})
}
