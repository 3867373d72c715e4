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
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
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
verdicts and evidence. Scenarios can be started, stepped through and stopped there.
The address has a random token: whoever knows it may use the page. It ends with ^C.`,
		Example: `  mllab view --open`,
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.view(c.Context(), open) },
	}
	c.Flags().BoolVar(&open, "open", false, "open the page in a browser")
	return c
}

// page is where the page is.
type page struct {
	URL string `json:"url"`
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
	at := page{"http://" + listener.Addr().String() + "/" + server.Token + "/"}
	if err := a.print(at, func(w io.Writer) { fmt.Fprintln(w, at.URL) }); err != nil {
		return err
	}
	if open {
		if err := openBrowser(at.URL); err != nil {
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

// openBrowser has the desktop open the address.
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
