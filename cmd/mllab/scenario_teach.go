package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/report"
	"mllab.local/scenarios"
)

// teacher shows lessons on stderr and waits for Enter.
type teacher struct {
	in      *bufio.Reader
	out     io.Writer
	typed   bool // by a person, whose Enter ends the line on the screen
	color   bool
	stop    context.CancelFunc
	thought atomic.Int64 // nanoseconds that were waited so far
}

// teach prepares teaching: progress is in plain lines from now on, and its clock
// stands still while the person thinks. stop ends the run when no Enter can
// come any more.
func (a *app) teach(stop context.CancelFunc) (func(context.Context, scenarios.Lesson) error, error) {
	t := &teacher{out: a.stderr, color: a.color, stop: stop}
	t.typed = report.IsTerminal(a.stdin)
	// Lines may come from a pipe or a file, but /dev/null has none.
	if st, err := a.stdin.Stat(); err != nil || st.Mode()&os.ModeCharDevice != 0 && !t.typed {
		return nil, fault.Usage("run it in a terminal, or leave --explain out", "--explain waits for Enter, and standard input is not a terminal")
	}
	t.in = bufio.NewReader(a.stdin)
	a.report.Close()
	a.report = report.New(a.stderr, report.Options{Now: func() time.Time { return time.Now().Add(-time.Duration(t.thought.Load())) }})
	return t.show, nil
}

// show returns when the person goes on. When standard input ends, so does the
// run, as by ^C.
func (t *teacher) show(ctx context.Context, l scenarios.Lesson) error {
	began := time.Now()
	defer func() { t.thought.Add(int64(time.Since(began))) }()
	fmt.Fprintf(t.out, "\n%s\nEnter goes on, ^C stops: ", t.text(l))
	entered := make(chan error, 1)
	go func() { // it cannot be broken off, and ends with the program at last
		_, err := t.in.ReadString('\n')
		entered <- err
	}()
	var err error
	select {
	case err = <-entered:
	case <-ctx.Done():
		return ctx.Err()
	}
	if !t.typed {
		fmt.Fprintln(t.out)
	}
	if err != nil {
		fmt.Fprintln(t.out, "standard input has ended: stopping")
		t.stop()
		return context.Canceled
	}
	return nil
}

func (t *teacher) text(l scenarios.Lesson) string {
	var b strings.Builder
	switch {
	case l.Step > 0:
		fmt.Fprintf(&b, "== Step %d of %d: %s\n", l.Step, l.Steps, l.Name)
	case l.Name != "":
		fmt.Fprintf(&b, "== %s\n", l.Name)
	}
	if l.Why != "" {
		b.WriteString(l.Why + "\n")
	}
	if l.Change != "" {
		b.WriteString("\nThis is about to be changed:\n" + t.paint(l.Change))
	}
	if l.WatchFor != "" {
		b.WriteString("\nLook at: " + l.WatchFor + "\n")
	}
	return b.String()
}

func (t *teacher) paint(diff string) string {
	if !t.color {
		return diff
	}
	var b strings.Builder
	for line := range strings.Lines(diff) {
		color := ""
		switch {
		case strings.HasPrefix(line, "+++"), strings.HasPrefix(line, "---"):
			color = "\x1b[1m"
		case strings.HasPrefix(line, "@@"):
			color = "\x1b[36m"
		case strings.HasPrefix(line, "+"):
			color = "\x1b[32m"
		case strings.HasPrefix(line, "-"):
			color = "\x1b[31m"
		}
		if color != "" {
			line = color + strings.TrimSuffix(line, "\n") + "\x1b[0m\n"
		}
		b.WriteString(line)
	}
	return b.String()
}
