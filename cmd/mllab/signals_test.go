package main

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// itself is mllab in a process of its own: this binary, see TestMain.
func itself(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), "MLLAB_TEST_MAIN=1", "MLLAB_NAME=none", "MLLAB_STATE_DIR="+t.TempDir())
	return c
}

func TestAReaderThatHasEndedIsAnInterrupt(t *testing.T) {
	for _, args := range [][]string{{"scenario", "list"}, {"scenario", "list", "-o", "json"}, {"--help"}, {"completion", "bash"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		c := itself(t, args...)
		var stderr bytes.Buffer
		c.Stdout, c.Stderr = w, &stderr
		_ = c.Run()
		_ = w.Close()
		if code := c.ProcessState.ExitCode(); code != 130 || stderr.Len() > 0 {
			t.Errorf("%q: code %d (-1: killed by the signal, without a clean-up), %s", args, code, &stderr)
		}
	}
}

// serving starts mllab's page, and returns its process and its address.
func serving(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	c := itself(t, "view")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return c, strings.TrimSpace(url)
}

// timeout(1) sends its signal to its child, and then to its group, which the child is in.
func TestTwoSignalsAtOnceAreOne(t *testing.T) {
	c, _ := serving(t)
	_ = c.Process.Signal(syscall.SIGTERM)
	_ = c.Process.Signal(os.Interrupt)
	if err := c.Wait(); err != nil {
		t.Errorf("it did not end in order: %v", err)
	}
}

// The kernel sends SIGPIPE also for a connection that has ended, or the stdin of a program that has.
func TestABrokenConnectionIsNoInterrupt(t *testing.T) {
	c, url := serving(t)
	_ = c.Process.Signal(syscall.SIGPIPE)
	for range 20 { // a process that the signal interrupts ends soon, not at once
		r, err := http.Get(url)
		if err != nil {
			t.Error("it has stopped:", err)
			break
		}
		_ = r.Body.Close()
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	if err := c.Wait(); err != nil {
		t.Errorf("it did not end in order: %v", err)
	}
}
