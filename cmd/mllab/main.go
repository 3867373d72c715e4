// Command mllab makes a machine-learning delivery lab on this computer and proves with requests that it works.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// A reader of stdout or stderr that has ended stops the work as ^C does, which ends `mllab … | tee log` from the right: Go's
	// own way is to end at once, before a clean-up. A connection that breaks sends the same signal, and stops nothing.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	stdout, stderr := &output{Writer: os.Stdout, gone: cancel}, &output{Writer: os.Stderr, gone: cancel}
	talk := report.ForTerminal(stderr)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		talk.Note("\nstopping: cleaning up first (^C again ends at once)")
		<-time.After(200 * time.Millisecond) // timeout(1) sends two at once: to its child, and to the child's group
		for len(signals) > 0 {
			<-signals
		}
		<-signals
		os.Exit(130) // deliberate, and announced: a clean-up that hangs must not hold a person
	}()
	a := &app{stdin: os.Stdin, stdout: stdout, stderr: stderr, color: report.IsColored(stderr), getenv: os.Getenv, report: talk}
	os.Exit(a.main(ctx, os.Args[1:]))
}

// app is one call of the program: where it talks, and what all verbs share.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	color          bool // stderr shows colors
	getenv         func(string) string
	report         report.Reporter
	global         global
}

// output is stdout or stderr. It remembers that a result could not be written, because not
// every writer of texts asks.
type output struct {
	io.Writer
	gone func() // called when nobody reads any more
	err  error  // the first one
}

// Unwrap has package report see the terminal.
func (o *output) Unwrap() io.Writer { return o.Writer }

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	if errors.Is(err, syscall.EPIPE) && o.gone != nil {
		o.gone()
	}
	return n, err
}

// main runs the verb and returns the exit code: 0 done, 1 failed, 2 wrong use, 3 could not test, 130 interrupted.
func (a *app) main(ctx context.Context, args []string) int {
	out := &output{Writer: a.stdout}
	a.stdout = out
	root := newRoot(a)
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	a.report.Close()
	if errors.Is(out.err, syscall.EPIPE) && (err == nil || errors.Is(err, syscall.EPIPE) || err == context.Canceled) {
		return fault.Code(context.Canceled) // `| head` has seen enough, and there is nothing to say to it
	}
	if err == nil && out.err != nil {
		err = fmt.Errorf("writing the result: %w", out.err)
	}
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && !errors.Is(err, context.Canceled) {
		// A terminal's ^C reaches the programs that it runs, too: one of them was the first to end.
		err = fmt.Errorf("%w: %w", err, ctx.Err())
	}
	if errors.Is(err, context.Canceled) && fault.Hint(err) == "" {
		// What it was doing, and what it could not clean up.
		what := strings.TrimSuffix(strings.TrimSuffix(err.Error(), context.Canceled.Error()), ": ")
		if what != "" {
			what = ": " + what
		}
		fmt.Fprintln(a.stderr, "error: interrupted"+what)
		return fault.Code(err)
	}
	fmt.Fprintln(a.stderr, "error: "+strings.TrimSpace(err.Error()))
	code := fault.Code(err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintln(a.stderr, "hint:  "+forLab(hint, a.global.name, code))
	}
	if (code == 3 || code == 1 && c.Name() == "up") && !errors.Is(err, bootstrap.ErrLocked) {
		fmt.Fprintln(a.stderr, "more:  "+a.options().Command("diagnose")+" writes what helps to find the cause into one file")
	}
	return code
}

// forLab adds --name to a hint about another lab than the default one. What is below package bootstrap knows no lab's name, and
// without it `mllab up` would create a second lab. A hint about wrong use, code 2, is about no lab.
func forLab(hint, name string, code int) string {
	if code == 2 || name == bootstrap.DefaultName || !strings.Contains(hint, "mllab ") || strings.Contains(hint, "--name") {
		return hint
	}
	return hint + " (with --name " + name + ")"
}
