// Package run starts processes. A fake is a Func.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"mllab.local/internal/fault"
)

// Cmd is a process to run; Env is added to this process's environment (see environ), and nil streams are the null device.
// The process may end before Stdin does. An error of Stdin is the end of the input.
type Cmd struct {
	Path           string
	Args           []string
	Dir            string
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// String returns the program and its first arguments, for messages.
func (c Cmd) String() string {
	const most = 4
	words := append([]string{c.Path}, c.Args...)
	more := ""
	if len(words) > most+1 {
		words, more = words[:most+1], " …"
	}
	for i, w := range words {
		words[i] = word(w)
	}
	return strings.Join(words, " ") + more
}

// word shortens an argument, and quotes it where a reader could not see its ends.
func word(w string) string {
	if r := []rune(w); len(r) > 60 {
		w = string(r[:59]) + "…"
	}
	if w == "" || strings.ContainsFunc(w, func(r rune) bool { return r == ' ' || r == '"' || !strconv.IsPrint(r) }) {
		return strconv.Quote(w)
	}
	return w
}

// ShellWord returns a word as a POSIX shell reads it back: in quotes, unless no shell could read it otherwise.
func ShellWord(w string) string {
	plain := func(r rune) bool {
		return strings.ContainsRune("-_=./,:%+@", r) || unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	if w != "" && w[0] != '=' && !strings.ContainsFunc(w, func(r rune) bool { return !plain(r) }) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// Runner runs a process to its end; the error says which command and why.
type Runner interface {
	Run(ctx context.Context, c Cmd) error
}

// Func is a Runner that is a function: a fake, a recorder, a printer.
type Func func(ctx context.Context, c Cmd) error

// Run calls f.
func (f Func) Run(ctx context.Context, c Cmd) error { return f(ctx, c) }

// Output runs path and returns its standard output without trailing newlines.
func Output(ctx context.Context, r Runner, path string, args ...string) (string, error) {
	var out bytes.Buffer
	err := r.Run(ctx, Cmd{Path: path, Args: args, Stdout: &out})
	return strings.TrimRight(out.String(), "\r\n"), err
}

// EachLine returns a writer that calls f with every line that is complete and not empty. Writing never fails.
func EachLine(f func(line string)) io.Writer { return &lines{each: f} }

type lines struct {
	each func(string)
	part []byte // of the line that is not complete
}

func (l *lines) Write(p []byte) (int, error) {
	l.part = append(l.part, p...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.part = bytes.Clone(rest)
		if text := strings.TrimSuffix(string(line), "\r"); text != "" {
			l.each(text)
		}
	}
}

// grace is how long a process group has between SIGTERM and SIGKILL.
const grace = 5 * time.Second

// Exec runs real processes, each in its own process group, so that a ^C at the terminal reaches only us and we decide
// what ends. When ctx ends the whole group gets SIGTERM, and SIGKILL after 5 s.
//
// Errors: a program that is not in PATH is a fault.Usage; an ended ctx is ctx.Err(); else *exec.ExitError with the last
// lines of standard error.
type Exec struct{}

// Run runs c to its end.
func (Exec) Run(ctx context.Context, c Cmd) error {
	path, err := exec.LookPath(c.Path)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fault.Usage(fmt.Sprintf("install %s, or add the folder it is in to PATH", c.Path), "running %s: not found in PATH", c.Path)
	case err != nil:
		return fmt.Errorf("running %s: %w", c, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("running %s: %w", c, err)
	}

	if path, err = filepath.Abs(path); err != nil { // a relative path is ours, not one inside Dir
		return fmt.Errorf("running %s: %w", c, err)
	}

	last := &tail{}
	cmd := exec.Command(path, c.Args...)
	cmd.Args[0] = c.Path
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, c.Stdout, io.Writer(last)
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(c.Stderr, last)
		if reflect.TypeOf(c.Stderr).Comparable() && c.Stdout == c.Stderr {
			cmd.Stdout = cmd.Stderr // one pipe: the writer sees one writing goroutine, and the right order
		}
	}
	cmd.Env = environ(os.Environ(), c.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that outlives the command and holds its output open must not hold us.
	cmd.WaitDelay = grace
	feed := func() {}
	if c.Stdin != nil { // as cmd.Stdin, Wait would wait for its end, also when the process has ended
		in, err := cmd.StdinPipe()
		if err != nil {
			return fmt.Errorf("running %s: %w", c, err)
		}
		feed = func() {
			_, _ = io.Copy(in, c.Stdin) // a process need not read all
			_ = in.Close()
		}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running %s: %w", c, err)
	}
	go feed()

	exited, stopped := make(chan struct{}), make(chan bool)
	go func() {
		select {
		case <-exited:
			stopped <- false
		case <-ctx.Done():
			stopped <- stopGroup(cmd.Process.Pid, grace)
		}
	}()
	err = cmd.Wait()
	close(exited)
	if <-stopped { // whatever it made of SIGTERM, it did not end by itself
		return fmt.Errorf("running %s: %w%s", c, ctx.Err(), last)
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return fmt.Errorf("running %s: %w%s", c, err, last)
}

// stopGroup ends a process group, returns when it is gone or, after the grace, was killed, and reports whether there was one.
func stopGroup(pgid int, grace time.Duration) bool {
	if syscall.Kill(-pgid, syscall.SIGTERM) != nil {
		return false
	}
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for syscall.Kill(-pgid, 0) == nil {
		select {
		case <-poll.C:
		case <-deadline.C:
			_ = syscall.Kill(-pgid, syscall.SIGKILL) // it may have ended by itself meanwhile
			return true
		}
	}
	return true
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

const (
	tailBytes = 8 << 10
	tailLines = 10
	tailWidth = 400
)

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > tailBytes {
		t.b = append(t.b[:0], t.b[len(t.b)-tailBytes:]...)
	}
	return len(p), nil
}

// String returns the last lines as the end of an error: nothing, one line after a colon, or several indented ones.
func (t *tail) String() string {
	var lines []string
	// Progress meters end their lines with a carriage return.
	for l := range strings.FieldsFuncSeq(string(t.b), func(r rune) bool { return r == '\n' || r == '\r' }) {
		l = strings.TrimSpace(strings.Map(printable, escapes.ReplaceAllString(l, "")))
		if r := []rune(l); len(r) > tailWidth {
			l = string(r[:tailWidth-1]) + "…"
		}
		if l != "" {
			lines = append(lines, l)
		}
	}
	if n := len(lines); n > tailLines {
		lines = lines[n-tailLines:]
	}
	switch len(lines) {
	case 0:
		return ""
	case 1:
		return ": " + lines[0]
	}
	return ":\n  " + strings.Join(lines, "\n  ")
}

// escapes are a terminal's control sequences: colors, cursor movements.
var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[ -/]*[@-~]")

// printable drops what else could move a reader's cursor.
func printable(r rune) rune {
	if r == '\t' || strconv.IsPrint(r) {
		return r
	}
	return -1
}
