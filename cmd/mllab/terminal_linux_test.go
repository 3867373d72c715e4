package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mllab.local/bootstrap"
	"mllab.local/internal/audit"
	"mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/prom"
	"mllab.local/internal/report"
)

// onTerminal returns what a person sees of f on a terminal of that many columns.
func onTerminal(t *testing.T, columns uint16, f func(a *app)) string {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string)
	go func() {
		var b bytes.Buffer
		_, _ = b.ReadFrom(person) // it ends with an error when the terminal is closed
		seen <- strings.ReplaceAll(b.String(), "\r\n", "\n")
	}()
	var talk bytes.Buffer
	f(&app{stdin: terminal, stdout: terminal, stderr: &talk, getenv: func(string) string { return "" }, report: report.New(&talk, report.Options{})})
	if err := terminal.Close(); err != nil {
		t.Fatal(err)
	}
	return <-seen
}

// long is a text that takes several lines of any terminal.
var long = strings.TrimSpace(strings.Repeat("the kubelet says that it cannot pull the image ", 8))

func TestNoLineOfATableIsWiderThanTheTerminal(t *testing.T) {
	for _, columns := range []uint16{60, 80, 120, 200} {
		check := func(what string, print func(a *app)) {
			text := onTerminal(t, columns, print)
			if text == "" {
				t.Errorf("%s says nothing", what)
			}
			for line := range strings.Lines(text) {
				if line = strings.TrimSuffix(line, "\n"); len([]rune(line)) > int(columns) && len(strings.Fields(line)) > 1 {
					t.Errorf("%s at %d columns: %q", what, columns, line)
				}
			}
		}
		for _, args := range []string{"scenario list", "scenario list canary", "images list"} {
			check(args, func(a *app) { a.main(t.Context(), strings.Fields(args)) })
		}
		for what, print := range map[string]func(io.Writer){
			"doctor": func(w io.Writer) {
				printFindings(w, []bootstrap.Finding{{ID: "port", Level: "fail", What: long, Fix: long}})
			},
			"status": func(w io.Writer) {
				printStatus(w, bootstrap.StatusReport{Kubeconfig: "/home/someone/.local/state/mllab/kubeconfig", Addons: []bootstrap.AddonStatus{{Name: "istio", Why: long}}})
			},
			"diagnose": func(w io.Writer) {
				printDiagnosis(w, bootstrap.Diagnosis{Causes: []bootstrap.Cause{{What: long, Fix: long}}})
			},
			"up": func(w io.Writer) {
				printSummary(w, bootstrap.Summary{Engine: long, Steps: []bootstrap.StepTime{{Name: "images", Changed: long}}})
			},
			"up --dry-run": func(w io.Writer) {
				printPlan(w, bootstrap.PlanDoc{Images: long, Steps: []string{long}, Addons: []bootstrap.PlanAddon{{Name: "istio", Summary: long, Needs: strings.Fields(long)}}})
			},
			"audit": func(w io.Writer) {
				printAudit(w, audit.Report{
					Commits:        []audit.Commit{{Commit: git.Commit{Author: long, Message: long}, Note: long}},
					Kustomizations: []audit.Kustomization{{Name: "Kustomization/flux-system/lab", Path: "lab", NotReady: long}},
					Drift:          []audit.Drift{{By: "Kustomization/flux-system/lab", Error: long, Objects: []kube.Drifted{{Object: "Service/a/b", Error: long}}}},
				})
			},
		} {
			check(what, func(a *app) { print(a.stdout) })
		}
	}
}

func TestATopThatIsWatchedStaysOnTheScreen(t *testing.T) {
	text := onTerminal(t, 80, func(a *app) {
		a.stdout = &output{Writer: a.stdout} // as main has it
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		asked := 0
		_ = a.top(ctx, true, func() ([]prom.Version, error) {
			if asked++; asked == 2 {
				stop()
			}
			return nil, nil
		})
	})
	if !strings.HasPrefix(text, "\x1b[H\x1b[Jno model") {
		t.Errorf("got %q", text)
	}
}
