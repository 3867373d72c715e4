package view

import (
	"bytes"
	"context"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"mllab.local/scenarios"
)

//go:embed page.html page.js plots.js style.css
var pageFiles embed.FS

// Server serves the page of one lab. All that it shows of runs is in the events
// that they write, so it does not matter who started them.
type Server struct {
	Token    string                             // first part of every path; whoever knows it may use the page
	Evidence string                             // folder whose events are followed; it may not be there yet
	Choices  []Choice                           // what can be started
	Lab      func(context.Context) (any, error) // the state of the lab, for the page
	Audit    func(context.Context) (any, error) // the commits of the lab's Git and the drift, for the page
	Now      func(context.Context) (any, error) // the lab's routes and alerts, which the page asks for again and again
	Child    *Child
}

// Choice is a scenario that can be started from the page.
type Choice struct {
	Name     string   `json:"name"`
	Summary  string   `json:"summary"`
	Controls []string `json:"controls"`
}

// ServeHTTP serves the page, its events, the state of the lab, and what a person
// does there. Each path begins with the token. Requests must name this server as
// their host, so that no other name leads a browser here; those that change
// something must come from the page itself.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	page := http.FileServerFS(pageFiles)
	mux.HandleFunc("GET /{token}/{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, pageFiles, "page.html") })
	for _, name := range []string{"page.js", "plots.js", "style.css"} {
		mux.Handle("GET /{token}/"+name, http.StripPrefix("/"+s.Token, page))
	}
	for _, name := range []string{libraryScript, libraryStyle} {
		mux.HandleFunc("GET /{token}/"+path.Base(name), func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, library, name) })
	}
	mux.HandleFunc("GET /{token}/choices", func(w http.ResponseWriter, _ *http.Request) { asJSON(w, s.Choices, nil) })
	for path, read := range map[string]func(context.Context) (any, error){"lab": s.Lab, "audit": s.Audit, "now": s.Now} {
		mux.HandleFunc("GET /{token}/"+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := read(r.Context())
			asJSON(w, v, err)
		})
	}
	mux.HandleFunc("GET /{token}/events", s.events)
	mux.HandleFunc("GET /{token}/evidence/{run}/{file}", s.evidence)
	mux.HandleFunc("POST /{token}/start", func(w http.ResponseWriter, r *http.Request) {
		name := r.FormValue("scenario")
		if !slices.ContainsFunc(s.Choices, func(c Choice) bool { return c.Name == name }) {
			http.Error(w, "no scenario has this name", http.StatusBadRequest)
			return
		}
		done(w, s.Child.Start(name, r.FormValue("controls") == "true", r.FormValue("step") == "true"))
	})
	mux.HandleFunc("POST /{token}/next", func(w http.ResponseWriter, _ *http.Request) { done(w, s.Child.Next()) })
	mux.HandleFunc("POST /{token}/stop", func(w http.ResponseWriter, _ *http.Request) { done(w, s.Child.Stop()) })

	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer") // the address has the token
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if why := s.refusal(r); why != "" {
		http.Error(w, why, http.StatusForbidden)
		return
	}
	mux.ServeHTTP(w, r)
}

// refusal says why a request is not served.
func (s *Server) refusal(r *http.Request) string {
	here, _ := r.Context().Value(http.LocalAddrContextKey).(interface{ String() string })
	switch path := []byte(r.URL.Path); {
	case here == nil || r.Host != here.String():
		return "the host must be this server's address"
	case len(path) < len(s.Token)+2 || subtle.ConstantTimeCompare(path[:len(s.Token)+2], []byte("/"+s.Token+"/")) != 1:
		return "the address must have the token that mllab view printed"
	case r.Method == http.MethodPost && r.Header.Get("Origin") != "http://"+r.Host:
		return "only the page itself may do this"
	}
	return ""
}

func asJSON(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // whoever asked may be gone
}

func done(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// evidence serves a file of a run's evidence as text.
func (s *Server) evidence(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot(s.Evidence) // nothing outside of it can be named
	if err != nil {
		http.Error(w, "there is no evidence", http.StatusNotFound)
		return
	}
	defer root.Close()
	f, err := root.Open(filepath.Join(r.PathValue("run"), r.PathValue("file")))
	if err != nil {
		http.Error(w, "this file is not there any more", http.StatusNotFound)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.Copy(w, f)
}

// followEvery is how often new events are looked for: what the page gets is this
// late at most. Each time costs the page a message to read.
const followEvery = 200 * time.Millisecond

// batch is how many bytes of events a message has at most, but for a longer event.
const batch = 256 << 10

// events streams what the evidence folder has, and then what comes: messages
// "reset" (a run begins again: its folder), "events" (its folder and a list) and
// "child" (what the page has started).
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	f := follower{dir: s.Evidence, files: map[string]*followed{}, buffer: make([]byte, batch)}
	defer f.close()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var last State
	for first := true; ; first = false {
		err := f.news(func(kind, data string) error {
			_, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
			return err
		})
		if now := s.Child.State(); err == nil && (first || now != last) {
			last = now
			text, _ := json.Marshal(now) // strings and truths
			_, err = fmt.Fprintf(w, "event: child\ndata: %s\n\n", text)
		}
		if err = errors.Join(err, out.Flush()); err != nil {
			return // nobody reads any more, or the folder cannot be read: the page asks again
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// follower reads what is appended to the event files of a folder.
type follower struct {
	dir    string
	files  map[string]*followed // by the name of the run's folder
	buffer []byte
}

type followed struct {
	file *os.File
	info os.FileInfo
	at   int64  // bytes that have been read
	rest []byte // of a line whose end is not there yet
}

func (f *follower) close() {
	for _, each := range f.files {
		_ = each.file.Close()
	}
}

// news passes on what is new since the last call.
func (f *follower) news(say func(kind, data string) error) error {
	folders, err := os.ReadDir(f.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, folder := range folders {
		path := filepath.Join(f.dir, folder.Name(), scenarios.EventsFile)
		info, err := os.Stat(path)
		if err != nil {
			continue // it has none, or not yet
		}
		has := f.files[folder.Name()]
		if has == nil || !os.SameFile(has.info, info) {
			file, err := os.Open(path)
			if err != nil {
				continue // it has just been removed
			}
			if has != nil {
				_ = has.file.Close()
			}
			if info, err = file.Stat(); err != nil {
				return err
			}
			has = &followed{file: file, info: info}
			f.files[folder.Name()] = has
			name, _ := json.Marshal(folder.Name()) // a string
			if err := say("reset", string(name)); err != nil {
				return err
			}
		}
		if info.Size() == has.at { // of most runs: they have ended
			continue
		}
		if err := has.news(folder.Name(), f.buffer, say); err != nil {
			return err
		}
	}
	return nil
}

func (f *followed) news(folder string, buffer []byte, say func(kind, data string) error) error {
	for {
		n, err := f.file.Read(buffer)
		f.at += int64(n)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		f.rest = append(f.rest, buffer[:n]...)
		end := bytes.LastIndexByte(f.rest, '\n')
		if end < 0 {
			continue
		}
		name, _ := json.Marshal(folder) // a string
		message := `{"folder":` + string(name) + `,"events":[` + string(bytes.ReplaceAll(f.rest[:end], []byte("\n"), []byte(","))) + "]}"
		if err := say("events", message); err != nil {
			return err
		}
		f.rest = append([]byte(nil), f.rest[end+1:]...)
	}
}
