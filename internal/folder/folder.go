// Package folder marks the folders that mllab fills. mllab removes files only in marked folders.
package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"mllab.local/internal/fault"
)

// mark is the file that marks a folder as mllab's. Its text says whether mllab created the folder, and how many above it,
// or found it empty.
const (
	mark     = ".mllab"
	madeText = "mllab made this folder, and removes it when nothing else is in it.\n"
	madeMore = "It made the next %d above this one, too.\n"
	usedText = "mllab fills this folder. It was here before, and so it stays.\n"
)

// Check returns a fault.Usage that names flag when dir is not for mllab to fill: it cannot be written to, or it has
// other things in it. A name in it, such as work or images, may be somebody else's. signs are patterns of files that only
// mllab writes: a folder with one of them is mllab's without the mark. Check changes nothing.
func Check(flag, dir string, signs ...string) error {
	if err := Usable(dir); err != nil {
		return unusable(flag, dir, err)
	}
	if Owned(dir, signs...) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusable(flag, dir, err)
	}
	for _, e := range entries {
		if e.Name() != mark { // which another mllab may just have written
			return fault.Usage("name a folder that is empty, or that does not exist yet",
				"%s must be an empty folder or one that mllab fills, got %s, which holds %s: nothing was changed", flag, dir, e.Name())
		}
	}
	return nil
}

func unusable(flag, dir string, err error) error {
	return fault.Usage("name another folder with "+flag, "%s must be a folder that mllab can write to, got %s: %w", flag, dir, err)
}

// Own creates dir if it does not exist, and marks it as mllab's. Its errors are those of Check, and come before it changes
// anything in dir.
func Own(flag, dir string, signs ...string) error {
	if err := Check(flag, dir, signs...); err != nil {
		return err
	}
	above, parent := 0, filepath.Dir(dir)
	for {
		if _, err := os.Lstat(parent); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		above, parent = above+1, filepath.Dir(parent)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return unusable(flag, dir, err)
	}
	text := madeText
	if above > 0 {
		text += fmt.Sprintf(madeMore, above)
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		text = usedText
	} else if err != nil {
		return unusable(flag, dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, mark), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return unusable(flag, dir, err)
	}
	return nil
}

// Default returns the folder of mllab's own below a user's base folder: that of an XDG variable, else below in $HOME
// (https://specifications.freedesktop.org/basedir-spec/latest/). Without either it is a fault.Usage with what to set; other
// names one more way to say it.
func Default(getenv func(string) string, variable, below, other string) (string, error) {
	if base := getenv(variable); base != "" {
		if !filepath.IsAbs(base) {
			return "", fault.Usage("set "+variable+" to an absolute path, or "+other, "%s must be an absolute path, got %s", variable, base)
		}
		return filepath.Join(base, "mllab"), nil
	}
	home := getenv("HOME")
	hint := "set HOME or " + variable + ", or " + other
	if home == "" {
		return "", fault.Usage(hint, "HOME is not set, so mllab has no folder to write to")
	}
	if info, err := os.Stat(home); !filepath.IsAbs(home) || err != nil || !info.IsDir() {
		return "", fault.Usage(hint, "HOME must be a folder, got %s", home)
	}
	return filepath.Join(home, below, "mllab"), nil
}

// Usable returns nil when dir is a folder that this process can write to, or can be made one.
func Usable(dir string) error {
	for {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
			if _, err := os.Lstat(dir); err == nil {
				return fmt.Errorf("%s is a symbolic link that leads nowhere", dir)
			}
			dir = filepath.Dir(dir)
			continue
		case errors.Is(err, syscall.ENOTDIR):
			return fmt.Errorf("%s: %w", dir, syscall.ENOTDIR)
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a folder", dir)
		}
		const writeAndEnter = 2 | 1 // access(2): W_OK|X_OK
		if err := syscall.Access(dir, writeAndEnter); err != nil {
			return fmt.Errorf("this user cannot write to %s: %w", dir, err)
		}
		return nil
	}
}

// Owned reports whether dir has mllab's mark or one of signs.
func Owned(dir string, signs ...string) bool {
	return slices.ContainsFunc(append([]string{mark}, signs...), func(sign string) bool { return len(Glob(dir, sign)) > 0 })
}

// Glob returns the paths in dir that match pattern, whatever characters dir itself has; a folder that cannot be read has
// none.
func Glob(dir, pattern string) []string {
	found, err := fs.Glob(os.DirFS(dir), pattern)
	if err != nil {
		return nil
	}
	for i, name := range found {
		found[i] = filepath.Join(dir, filepath.FromSlash(name))
	}
	return found
}

// Leave removes dir when mllab made it and nothing but the mark is in it, and so those above it. A folder that was there
// before stays, and loses the mark. A symbolic link and what it points to stay.
func Leave(dir string) error {
	path := filepath.Join(dir, mark)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 1 {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	more, made := strings.CutPrefix(string(text), madeText)
	if !made {
		return nil
	}
	switch err := syscall.Rmdir(dir); { // os.Remove would remove a link
	case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EEXIST): // another mllab has come in between
		return os.WriteFile(path, text, 0o600)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EBUSY): // a link, a mount point
		return nil
	case err != nil && !errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	above := 0
	if _, err := fmt.Sscanf(more, madeMore, &above); err != nil {
		return nil // it made none
	}
	for parent := filepath.Dir(dir); above > 0 && syscall.Rmdir(parent) == nil; above-- { // one with something in it stays
		parent = filepath.Dir(parent)
	}
	return nil
}

// NoLink returns a fault.Usage when path, which mllab writes, empties or removes by its name, is a symbolic link: a person
// put it there.
func NoLink(path string) error {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return fault.Usage("remove the link; to keep mllab's files elsewhere, name another folder with --state-dir or --cache-dir",
			"%s must be mllab's own, got a symbolic link: nothing was changed", path)
	}
	return nil
}

// Remove removes path and all below it, and returns what stays because a symbolic link leads to it: a person put it
// there. "" when all is gone; a path that does not exist is gone.
func Remove(path string) (kept string, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return path, nil
	}
	return "", errors.Join(err, os.RemoveAll(path))
}
