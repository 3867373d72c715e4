package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

func TestNoLineOfATableIsWiderThanTheTerminal(t *testing.T) {
	for _, columns := range []uint16{60, 80, 120, 200} {
		for _, args := range [][]string{{"scenario", "list"}, {"scenario", "list", "canary"}, {"images", "list"}} {
			text := onTerminal(t, columns, func(a *app) { a.main(t.Context(), args) })
			if text == "" {
				t.Errorf("%q says nothing", args)
			}
			for line := range strings.Lines(text) {
				if line = strings.TrimSuffix(line, "\n"); len([]rune(line)) > int(columns) && len(strings.Fields(line)) > 1 {
					t.Errorf("%q at %d columns: %q", args, columns, line)
				}
			}
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
