package main

import (
	"compress/gzip"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/object"
)

// repoPath is the one repository.
const repoPath = "/lab.git"

// server answers HTTP requests about one repository.
type server struct {
	repo   *repo
	token  string // folder with the files username and password
	pushed func() // is told after each push that changed a branch or a tag
	log    *slog.Logger
}

// handler serves one of the two addresses. From outside, everything but /healthz needs the token.
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
		service := r.URL.Query().Get("service")
		h := func(w http.ResponseWriter, r *http.Request) { s.refs(w, service) }
		switch service {
		case uploadPack:
			read(h)(w, r)
		case receivePack:
			s.withToken(h)(w, r)
		default:
			http.Error(w, "only Git's smart protocol is spoken here", http.StatusForbidden)
		}
	})
	mux.HandleFunc("POST "+repoPath+"/"+uploadPack, read(s.fetch))
	mux.HandleFunc("POST "+repoPath+"/"+receivePack, s.withToken(s.push))
	return mux
}

// withToken lets only those through who know the token. It is read each time, so that it can be changed.
func (s *server) withToken(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		given, word, _ := r.BasicAuth()
		user, err := os.ReadFile(filepath.Join(s.token, "username"))
		password, err2 := os.ReadFile(filepath.Join(s.token, "password"))
		if err := errors.Join(err, err2); err != nil || len(password) == 0 {
			s.log.Error("the token cannot be read", "error", err)
			http.Error(w, "the server has no token", http.StatusInternalServerError)
			return
		}
		// Hashes have one length, and both are compared, so that the time tells nothing.
		same := func(a string, b []byte) int {
			x, y := sha256.Sum256([]byte(a)), sha256.Sum256(b)
			return subtle.ConstantTimeCompare(x[:], y[:])
		}
		if same(given, user)&same(word, password) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="mllab", charset="UTF-8"`)
			http.Error(w, "the lab's token is missing or wrong", http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	if _, err := refs(storage(s.repo.dir)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// pushes is the record of all pushes, one line of JSON for each ref.
func (s *server) pushes(w http.ResponseWriter, _ *http.Request) {
	text, err := os.ReadFile(s.repo.pushes)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.fail(w, "reading the record of pushes", err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	_, _ = w.Write(text)
}

func (s *server) refs(w http.ResponseWriter, service string) {
	answerAs(w, service, "advertisement")
	if err := advertise(w, storage(s.repo.dir), service); err != nil {
		s.fail(w, "advertising refs", err)
	}
}

func (s *server) fetch(w http.ResponseWriter, r *http.Request) {
	body, ok := s.body(w, r, uploadPack)
	if !ok {
		return
	}
	// What a client wants and has is some ten thousand lines at the very most.
	q, err := readFetch(io.LimitReader(body, 4<<20))
	if err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	answerAs(w, uploadPack, "result")
	if err := q.answer(w, storage(s.repo.dir)); err != nil {
		s.fail(w, "fetch", err)
	}
}

func (s *server) push(w http.ResponseWriter, r *http.Request) {
	body, ok := s.body(w, r, receivePack)
	if !ok {
		return
	}
	list, caps, err := readCommands(body)
	if err != nil {
		http.Error(w, "reading the push: "+err.Error(), http.StatusBadRequest)
		return
	}
	user, _, _ := r.BasicAuth()
	changed, unpacked := false, error(nil)
	if len(list) > 0 {
		changed, unpacked = s.receive(list, body, user)
	}
	if errors.Is(unpacked, errTooLarge) {
		if n, err := io.Copy(io.Discard, io.LimitReader(body, maxDrain)); err != nil || n == maxDrain {
			w.Header().Set("Connection", "close")
			http.Error(w, unpacked.Error(), http.StatusRequestEntityTooLarge)
			return
		}
	}
	for _, c := range list {
		if why := c.refused; unpacked != nil || why != "" {
			if unpacked != nil {
				why = unpacked.Error()
			}
			s.log.Warn("push refused", "user", user, "ref", c.name, "old", c.old.String(), "new", c.new.String(), "why", why)
		}
	}
	if changed {
		s.pushed()
	}
	answerAs(w, receivePack, "result")
	if err := report(w, caps, list, unpacked); err != nil {
		s.fail(w, "reporting a push", err)
	}
}

// receive takes a push in. The error is about all of it; why one ref was refused is with its command.
func (s *server) receive(list []command, body io.Reader, user string) (changed bool, err error) {
	p, err := s.repo.newPush()
	if err != nil {
		return false, err
	}
	defer p.remove()
	for _, c := range list {
		if !c.new.IsZero() {
			if err := p.receive(body); err != nil {
				return false, err
			}
			break
		}
	}
	err = p.update(list, func(c command) error {
		changed = changed || !c.name.IsNote() // which Flux does not read
		said := []any{"user", user, "ref", c.name, "old", c.old.String(), "new", c.new.String()}
		if tip, err := object.GetCommit(storage(s.repo.dir), c.new); err == nil {
			said = append(said, "author", tip.Author.String(), "message", firstLine(tip.Message))
		}
		s.log.Info("push", said...)
		return s.repo.record(pushRecord{Time: time.Now().UTC(), User: user, Ref: c.name, Old: c.old.String(), New: c.new.String()})
	})
	return changed, err
}

// body is the request's, unpacked; a request that is none of service's was answered, and ok is false.
func (s *server) body(w http.ResponseWriter, r *http.Request, service string) (body io.Reader, ok bool) {
	if want := "application/x-" + service + "-request"; r.Header.Get("Content-Type") != want {
		http.Error(w, "a request of Git has the content type "+want, http.StatusUnsupportedMediaType)
		return nil, false
	}
	if r.Header.Get("Content-Encoding") != "gzip" {
		return r.Body, true
	}
	unpacked, err := gzip.NewReader(r.Body)
	if err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return nil, false
	}
	return unpacked, true
}

// answerAs sets the headers that Git looks for.
func answerAs(w http.ResponseWriter, service, kind string) {
	w.Header().Set("Content-Type", "application/x-"+service+"-"+kind)
	w.Header().Set("Cache-Control", "no-cache")
}

// fail notes what went wrong. When nothing of the answer was sent yet, the client gets it as the answer.
func (s *server) fail(w http.ResponseWriter, doing string, err error) {
	s.log.Error(doing, "error", err)
	http.Error(w, doing+": "+err.Error(), http.StatusInternalServerError)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
