package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/alerts"
	"mllab.local/internal/routes"
	"mllab.local/scenarios"
	"mllab.local/view"
)

func newView(a *app) *cobra.Command {
	open := false
	c := &cobra.Command{
		Use:   "view [flags]",
		Short: "Serve a page that shows runs live",
		Long: `Serve a page on 127.0.0.1 that shows what runs on the lab, in this terminal or in
another one: each answer, shares with their interval and the accepted counts, steps,
verdicts and evidence; and the lab's routes and alerts as they are. Scenarios can be
started, stepped through and stopped there.
The address has a random token: whoever knows it may use the page. ^C ends it.`,
		Example: `  mllab view --open`,
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.view(c.Context(), open) },
	}
	c.Flags().BoolVar(&open, "open", false, "open the page in a browser")
	return c
}

func (a *app) view(ctx context.Context, open bool) error {
	evidence, err := bootstrap.EvidenceDir(a.options())
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	server := &view.Server{
		Token: rand.Text(), Evidence: evidence,
		Lab:   func(ctx context.Context) (any, error) { return bootstrap.Status(ctx, a.options()) },
		Audit: func(ctx context.Context) (any, error) { return a.audit(ctx, defaultLast) },
		Now:   (&lookout{options: a.options()}).now,
		Child: &view.Child{Command: func(args ...string) *exec.Cmd {
			cmd := exec.Command(self, append(args, "--name="+a.global.name, "--state-dir="+a.global.state, "--cache-dir="+a.global.cache)...)
			// A terminal's ^C would reach it a second time, which ends it without a clean-up.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			return cmd
		}},
	}
	for _, s := range scenarios.All() {
		plan, err := s.Plan(scenarios.Options{})
		if err != nil {
			return err
		}
		choice := view.Choice{Name: s.Name, Summary: s.Summary, Controls: []string{}}
		for _, control := range plan.Controls {
			choice.Controls = append(choice.Controls, control.Name)
		}
		server.Choices = append(server.Choices, choice)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serving the page: %w", err)
	}
	at := "http://" + listener.Addr().String() + "/" + server.Token + "/"
	if err := a.print(map[string]string{"url": at}, func(w io.Writer) { fmt.Fprintln(w, at) }); err != nil {
		return err
	}
	if open {
		if err := openBrowser(at); err != nil {
			a.report.Note("%v: open the address yourself", err)
		}
	}
	h := http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stopped()
	defer server.Child.Close()
	if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the page: %w", err)
	}
	return nil // ^C is how it ends
}

// lookout reads what changes while people look at it. It is asked again and again, so
// it keeps its connection to the lab.
type lookout struct {
	options bootstrap.Options

	mu     sync.Mutex
	lab    bootstrap.Running
	opened time.Time // zero: it has no connection
}

const (
	lookoutBound = 10 * time.Second // of an answer
	reopenEvery  = 30 * time.Second // the lab may have got other addons
)

type moment struct {
	Routes []routes.Route `json:"routes"`
	Alerts []alerts.Alert `json:"alerts"`        // null: the lab has no addon alertmanager, or Why
	Why    string         `json:"why,omitempty"` // they cannot be read
}

// now reads the lab's routes, and its alerts where it has Alertmanager.
func (l *lookout) now(ctx context.Context) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, lookoutBound)
	defer cancel()
	lab, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	var m moment
	if m.Routes, err = routes.Read(ctx, lab.Kube); err != nil {
		return nil, err
	}
	if len(lab.Missing([]string{"alertmanager"})) == 0 {
		if m.Alerts, err = alerts.Active(ctx, lab.Kube); err != nil {
			m.Why = "reading the alerts: " + err.Error()
		}
	}
	return m, nil
}

func (l *lookout) open(ctx context.Context) (bootstrap.Running, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.opened) < reopenEvery {
		return l.lab, nil
	}
	lab, err := bootstrap.OpenReadOnly(ctx, l.options)
	if err == nil {
		l.lab, l.opened = lab, time.Now()
	}
	return lab, err
}

func openBrowser(url string) error {
	program := "xdg-open"
	if runtime.GOOS == "darwin" {
		program = "open"
	}
	if err := exec.Command(program, url).Start(); err != nil {
		return fmt.Errorf("opening a browser: %w", err)
	}
	return nil
}
