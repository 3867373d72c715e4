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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mllab.local/internal/fault"
)

func sh(script string, args ...string) Cmd {
	return Cmd{Path: "sh", Args: append([]string{"-c", script, "sh"}, args...)}
}

func TestAProcessGetsWhatItWasGiven(t *testing.T) {
	t.Setenv("MLLAB_TEST_INHERITED", "inherited")
	dir := t.TempDir()
	var out, errOut bytes.Buffer
	c := sh(`cat; pwd; echo "$MLLAB_TEST_INHERITED $MLLAB_TEST_ADDED"; echo talk >&2`)
	c.Dir, c.Env = dir, []string{"MLLAB_TEST_ADDED=added"}
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader("data\n"), &out, &errOut
	if err := (Exec{}).Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "data\n"+dir+"\ninherited added\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got := errOut.String(); got != "talk\n" {
		t.Errorf("stderr %q", got)
	}
}

// An engine's exec in a node that does not run yet ends at once, and the input of what it would run stays open.
func TestAProcessMayEndBeforeItsInput(t *testing.T) {
	in, open := io.Pipe()
	defer open.Close()
	c := sh("exit 7")
	c.Stdin = in
	ended := make(chan error, 1)
	go func() { ended <- Exec{}.Run(t.Context(), c) }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "exit status 7") {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the process has ended, and Run waits for the end of its input")
	}
}

func TestOneWriterForBothStreamsSeesThemInOrder(t *testing.T) {
	var both bytes.Buffer
	c := sh(`for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done`)
	c.Stdout, c.Stderr = &both, &both
	if err := (Exec{}).Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Fields(both.String()), "out1 err1 out2 err2 out3 err3 out4 err4 out5 err5"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOutputIsStdoutWithoutTrailingNewlines(t *testing.T) {
	got, err := Output(t.Context(), Exec{}, "sh", "-c", `echo; echo a; echo b; echo; echo talk >&2`)
	if err != nil || got != "\na\nb" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAFailureNamesCommandStatusAndLastStderrLines(t *testing.T) {
	for _, c := range []struct {
		name string
		cmd  Cmd
		want string
	}{
		{"silent", Cmd{Path: "sh", Args: []string{"-c", "exit 7"}}, `running sh -c "exit 7": exit status 7`},
		{"one line", Cmd{Path: "sh", Args: []string{"-c", "echo no such image >&2; exit 1"}}, `running sh -c "echo no such image >&2; exit 1": exit status 1: no such image`},
		{"several lines", Cmd{Path: "sh", Args: []string{"-c", "printf 'a\\n\\n\\033[31mb\\033[0m\\n' >&2; exit 1"}}, "exit status 1:\n  a\n  b"},
		{"a progress meter is lines too", Cmd{Path: "sh", Args: []string{"-c", "printf '10%%\\r20%%\\r' >&2; exit 1"}}, "exit status 1:\n  10%\n  20%"},
		{"only the first arguments", Cmd{Path: "sh", Args: []string{"-c", "exit 1", "a", "b", "c", "secret"}}, `running sh -c "exit 1" a b …: exit status 1`},
		{"a long argument is cut", Cmd{Path: "sh", Args: []string{"-c", "exit 1;" + strings.Repeat("x", 100)}}, strings.Repeat("x", 52) + `…": exit status 1`},
		{"killed by a signal", Cmd{Path: "sh", Args: []string{"-c", "kill -9 $$"}}, "signal: killed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Exec{}.Run(t.Context(), c.cmd)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q in it", err, c.want)
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Errorf("%v holds no *exec.ExitError", err)
			}
			if fault.Code(err) != 1 {
				t.Errorf("exit code %d, want 1", fault.Code(err))
			}
		})
	}
}

func TestStderrInAnErrorIsBoundedAndItsEndIsKept(t *testing.T) {
	err := Exec{}.Run(t.Context(), sh(`i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); done >&2; head -c 1000 /dev/zero | tr '\0' x >&2; echo >&2; echo the end >&2; exit 1`))
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if !strings.HasSuffix(text, "\n  the end") || strings.Contains(text, "line 0\n") {
		t.Errorf("not the end of stderr: %.200q", text)
	}
	if lines := strings.Count(text, "\n"); lines != tailLines {
		t.Errorf("%d lines, want the last %d", lines, tailLines)
	}
	if !strings.Contains(text, "\n  "+strings.Repeat("x", tailWidth-1)+"…\n") {
		t.Error("the long line is not cut")
	}

	last := &tail{}
	for range 1000 {
		fmt.Fprintln(last, strings.Repeat("x", 1000))
	}
	if len(last.b) > tailBytes {
		t.Errorf("%d bytes are kept in memory", len(last.b))
	}
}

func TestAMissingProgramIsWrongUse(t *testing.T) {
	err := Exec{}.Run(t.Context(), Cmd{Path: "mllab-no-such-program", Args: []string{"x"}})
	if err == nil || err.Error() != "running mllab-no-such-program: not found in PATH" {
		t.Errorf("error %v", err)
	}
	if fault.Code(err) != 2 || !strings.Contains(fault.Hint(err), "install mllab-no-such-program") {
		t.Errorf("code %d, hint %q", fault.Code(err), fault.Hint(err))
	}
}

func TestARelativeProgramIsNotLookedForInsideDir(t *testing.T) {
	here := t.TempDir()
	if err := os.WriteFile(filepath.Join(here, "tool"), []byte("#!/bin/sh\necho here\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(here)
	var out bytes.Buffer
	if err := (Exec{}).Run(t.Context(), Cmd{Path: "./tool", Dir: t.TempDir(), Stdout: &out}); err != nil || out.String() != "here\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// started runs a script that writes the ids of processes as one line, and returns them with Run's error to come.
func started(t *testing.T, ctx context.Context, script string) ([]int, <-chan error) {
	t.Helper()
	r, w := io.Pipe()
	c := sh(script)
	c.Stdout = w
	result := make(chan error, 1)
	go func() { result <- Exec{}.Run(ctx, c) }()
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	go io.Copy(io.Discard, r) // ends with the pipe, when the test's process does
	var pids []int
	for _, f := range strings.Fields(string(line)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids, result
}

// alive reports whether pid runs; a zombie that its new parent has not collected yet does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestTheEndOfTheContextEndsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pids, result := started(t, ctx, `sleep 300 & a=$!; sh -c 'sleep 300; :' & b=$!; echo stopping >&2; echo $$ $a $b; wait`)
	cancel()
	err := <-result
	if !errors.Is(err, context.Canceled) || fault.Code(err) != 130 {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(err.Error(), "running sh -c") || !strings.HasSuffix(err.Error(), ": stopping") {
		t.Errorf("error %v names neither command nor stderr", err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d of the group is still there", pid)
		}
	}
}

// The command itself may have ended: what it started holds its output open, and is of the group.
func TestTheEndOfTheContextEndsWhatACommandLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	// It speaks when its parent is gone.
	pids, result := started(t, ctx, `sh -c 'while kill -0 $0 2>/dev/null; do :; done; echo $$; exec sleep 300' $$ &`)
	cancel() // within the seconds that Run waits for the output's end
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if alive(pids[0]) {
		t.Errorf("process %d of the group is still there", pids[0])
	}
}

func TestAGroupThatObeysIsNotWaitedForAnyLonger(t *testing.T) {
	cmd := exec.Command("sleep", "300")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	stopped := make(chan bool, 1)
	go func() { stopped <- stopGroup(cmd.Process.Pid, time.Hour) }()
	select {
	case there := <-stopped:
		if !there {
			t.Error("there was no group")
		}
	case <-time.After(time.Minute):
		t.Error("it is waited for, although it obeys SIGTERM")
	}
}

func TestAProcessThatIgnoresSIGTERMIsKilledAfterFiveSeconds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pids, result := started(t, ctx, `trap "" TERM; sh -c 'while :; do sleep 1; done' & echo $$ $!; while :; do sleep 1; done`)
	begin := time.Now()
	cancel()
	err := <-result
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begin); took < grace-100*time.Millisecond || took > grace+30*time.Second {
		t.Errorf("took %s, want about %s", took, grace)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d of the group is still there", pid)
		}
	}
}

func TestACleanExitOnSIGTERMIsStillAnInterruption(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := Exec{}.Run(ctx, sh(`trap 'exit 0' TERM; while :; do sleep 0.05; done`))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestAnEndedContextStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mark := filepath.Join(t.TempDir(), "mark")
	if err := (Exec{}).Run(ctx, sh(`: >"$1"`, mark)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("it ran")
	}
}

func TestAGrandchildThatHoldsTheOutputDoesNotHoldUs(t *testing.T) {
	begin := time.Now()
	pids := ""
	var out bytes.Buffer
	c := sh(`sleep 60 & echo $!`)
	c.Stdout = &out
	err := Exec{}.Run(t.Context(), c)
	pids = strings.TrimSpace(out.String())
	if pid, convErr := strconv.Atoi(pids); convErr == nil {
		defer syscall.Kill(pid, syscall.SIGKILL)
	} else {
		t.Errorf("output %q", pids)
	}
	if err != nil {
		t.Errorf("error %v of a command that succeeded", err)
	}
	if took := time.Since(begin); took > grace+30*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestAFuncIsARunner(t *testing.T) {
	var seen string
	fake := Func(func(_ context.Context, c Cmd) error {
		seen = c.String()
		_, err := io.WriteString(c.Stdout, "27.0\n")
		return err
	})
	got, err := Output(t.Context(), fake, "docker", "version")
	if err != nil || got != "27.0" || seen != "docker version" {
		t.Errorf("%q, %v, saw %q", got, err, seen)
	}
}
