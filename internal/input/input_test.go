package input

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAFileIsReadUpToItsLimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := File(file, 5); err != nil || string(text) != "12345" {
		t.Errorf("read %q, %v", text, err)
	}
	for _, large := range []string{file, "/dev/zero"} {
		if _, err := File(large, 4); err == nil || !strings.Contains(err.Error(), large+" has more than 4 bytes") {
			t.Errorf("%s: %v", large, err)
		}
	}
	if _, err := File(file+"s", 5); !os.IsNotExist(err) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestAPipeIsReadAndOneWithoutAWriterIsEmpty(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := File(pipe, 5); err != nil || len(text) > 0 {
		t.Errorf("of nobody it read %q, %v", text, err)
	}
	reading, writing, err := os.Pipe() // as a shell's <(command)
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	opened := make(chan string)
	go func() {
		text, err := File(fmt.Sprint("/dev/fd/", reading.Fd()), 100)
		opened <- fmt.Sprintf("%s, %v", text, err)
	}()
	for range 3 {
		if _, err := writing.WriteString("part "); err != nil {
			t.Fatal(err)
		}
	}
	writing.Close()
	if got := <-opened; got != "part part part , <nil>" {
		t.Errorf("of a command it read %q", got)
	}
}
