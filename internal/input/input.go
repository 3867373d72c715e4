// Package input reads the files that a user names.
package input

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// File returns the bytes of a file, which may be a pipe of the shell's. More than
// most of them are an error. A named pipe that nobody writes to is empty: without
// the flag, opening one would never return.
func File(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return text, err
}
