package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const repoPath = "/lab.git"

const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// Limits of a request body, in bytes.
const (
	maxFetch = 4 << 20         // ten thousand lines of what a client has and wants
	maxBody  = maxPush + 1<<20 // a push and the names of its refs
	maxDrain = 256 << 20       // bytes to read and discard: git shows why a push was refused only if it could send all of it
)

// server answers HTTP requests about one repository.
type server struct {
	repo   *repo
	token  string // folder with the files username and password
	pushed func() // called after each push that changed a branch or a tag
	log    *slog.Logger
}

// handler serves one of the two addresses. From outside, every path but /healthz needs the token.
func (s *server) handler(outside bool) http.Handler {
	mux := http.NewServeMux()
	read := func(h http.HandlerFunc) http.HandlerFunc {
		if outside {
			return s.withToken(h)
		}
		return h
	}
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /pushes", read(s.pushes))
	mux.HandleFunc("GET "+repoPath+"/info/refs", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("service") {
		case uploadPack:
			read(s.git)(w, r)
		case receivePack:
			s.withToken(s.git)(w, r)
		default:
			http.Error(w, "this server has only Git's smart protocol", http.StatusForbidden)
		}
	})
	mux.HandleFunc("POST "+repoPath+"/"+uploadPack, read(s.fetch))
	mux.HandleFunc("POST "+repoPath+"/"+receivePack, s.withToken(s.push))
	return mux
}

// withToken refuses requests without the token. It reads the token each time, so that it can be changed.
func (s *server) withToken(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		givenUser, givenPassword, _ := r.BasicAuth()
		user, err := os.ReadFile(filepath.Join(s.token, "username"))
		password, err2 := os.ReadFile(filepath.Join(s.token, "password"))
		if err := errors.Join(err, err2); err != nil || len(password) == 0 {
			s.log.Error("reading the token", "error", err)
			http.Error(w, "the server has no token", http.StatusInternalServerError)
			return
		}
		// Compare hashes, which have one length, and both of them, so that the time reveals nothing.
		same := func(a string, b []byte) int {
			x, y := sha256.Sum256([]byte(a)), sha256.Sum256(b)
			return subtle.ConstantTimeCompare(x[:], y[:])
		}
		if same(givenUser, user)&same(givenPassword, password) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="mllab", charset="UTF-8"`)
			http.Error(w, "the lab's token is missing or wrong", http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	if _, err := os.Stat(filepath.Join(s.repo.dir, "HEAD")); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// pushes serves the record of all pushes, one line of JSON for each ref.
func (s *server) pushes(w http.ResponseWriter, _ *http.Request) {
	text, err := os.ReadFile(s.repo.pushes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.fail(w, "reading the record of pushes", err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	_, _ = w.Write(text)
}

// git runs git http-backend. https://git-scm.com/docs/git-http-backend
func (s *server) git(w http.ResponseWriter, r *http.Request) {
	path, err := exec.LookPath("git")
	if err != nil {
		s.fail(w, "finding git", err)
		return
	}
	user, _, _ := r.BasicAuth()
	r.Header.Del("Authorization") // hide the token from git
	(&cgi.Handler{
		Path: path, Args: []string{"http-backend"}, Root: "/", Dir: s.repo.dir,
		Env:    append(gitEnv(), "GIT_PROJECT_ROOT="+filepath.Dir(s.repo.dir), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER="+user),
		Logger: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		Stderr: lines(func(line string) { s.log.Warn("git wrote to stderr", "text", line) }),
	}).ServeHTTP(w, r)
}

func (s *server) fetch(w http.ResponseWriter, r *http.Request) {
	if done, ok := s.buffer(w, r, maxFetch); ok {
		defer done()
		s.git(w, r)
	}
}

func (s *server) push(w http.ResponseWriter, r *http.Request) {
	done, ok := s.buffer(w, r, maxBody)
	if !ok {
		return
	}
	defer done()
	s.repo.writing.Lock()
	defer s.repo.writing.Unlock()
	before := int64(0)
	if st, err := os.Stat(s.repo.pushes); err == nil {
		before = st.Size()
	}
	s.git(w, r)
	f, err := os.Open(s.repo.pushes)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		defer f.Close()
		_, err = f.Seek(before, io.SeekStart)
	}
	if err != nil {
		s.log.Error("reading the record of pushes", "error", err)
		return
	}
	s.report(context.WithoutCancel(r.Context()), f)
}

// report logs the refs that have moved, and asks Flux to fetch if one of them is a branch or a tag.
func (s *server) report(ctx context.Context, record io.Reader) {
	askFlux := false
	for lines := json.NewDecoder(record); ; {
		var p pushRecord
		if err := lines.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			s.log.Error("reading the record of pushes", "error", err)
			break
		}
		askFlux = askFlux || !strings.HasPrefix(p.Ref, "refs/notes/")
		fields := []any{"user", p.User, "ref", p.Ref, "old", p.Old, "new", p.New}
		if tip, err := gitIn(ctx, s.repo.dir, "", "log", "-1", "--format=%an <%ae>%n%s", p.New); err == nil {
			author, message, _ := strings.Cut(tip, "\n")
			fields = append(fields, "author", author, "message", message)
		}
		s.log.Info("push", fields...)
	}
	if askFlux {
		s.pushed()
	}
}

// buffer reads the body of a request into a file. So git sees only complete requests, and CGI gets a length. buffer reads
// one byte more than most: git refuses a body that is cut there, with a message for the user. If ok is false, buffer has
// answered the request. done removes the file.
func (s *server) buffer(w http.ResponseWriter, r *http.Request, most int64) (done func(), ok bool) {
	f, err := os.CreateTemp(s.repo.incoming, "body-")
	if err != nil {
		s.fail(w, "storing a request", err)
		return nil, false
	}
	done = func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }
	n, err := io.Copy(f, io.LimitReader(r.Body, most+1))
	if err == nil && n > most {
		var more int64
		if more, err = io.Copy(io.Discard, io.LimitReader(r.Body, maxDrain)); more == maxDrain {
			done()
			w.Header().Set("Connection", "close")
			http.Error(w, fmt.Sprintf("the request is larger than %d MiB", most>>20), http.StatusRequestEntityTooLarge)
			return nil, false
		}
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil { // the client went away
		done()
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return nil, false
	}
	r.Body, r.ContentLength, r.TransferEncoding = f, n, nil
	return done, true
}

// fail logs an error. If no part of the answer was sent yet, it answers with the error.
func (s *server) fail(w http.ResponseWriter, doing string, err error) {
	s.log.Error(doing, "error", err)
	http.Error(w, doing+": "+err.Error(), http.StatusInternalServerError)
}

// lines is a writer that calls a function with the text of each write.
type lines func(string)

func (l lines) Write(p []byte) (int, error) {
	l(strings.TrimSpace(string(p)))
	return len(p), nil
}
