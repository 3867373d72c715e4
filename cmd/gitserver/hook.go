package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// hooks are the Git hooks that check and record a push. git shows their errors to the user.
// https://git-scm.com/docs/githooks
var hooks = map[string]func(ctx context.Context, args []string, stdin io.Reader) error{
	"pre-receive": admit,
	"update": func(ctx context.Context, args []string, _ io.Reader) error {
		return allow(ctx, args[0], args[1], args[2])
	},
	"reference-transaction": record,
}

// pushRecord is one line of the record of pushes. It is written just before the ref moves.
type pushRecord struct {
	Time time.Time `json:"time"`
	User string    `json:"user"`
	Ref  string    `json:"ref"`
	Old  string    `json:"old"`
	New  string    `json:"new"`
}

// ask runs git in the repository, with the objects of the push.
func ask(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	return strings.TrimSpace(string(out)), err
}

// admit refuses a push that is too large or all of whose refs are refused: git then drops its objects. stdin has a line
// for each ref.
func admit(ctx context.Context, _ []string, stdin io.Reader) error {
	if err := measure(ctx); err != nil {
		return err
	}
	var refused []error
	for lines := bufio.NewScanner(stdin); lines.Scan(); {
		f := strings.SplitN(lines.Text(), " ", 3)
		if len(f) != 3 {
			return fmt.Errorf("a line of stdin must be OLD NEW REF, got %q", f)
		}
		err := allow(ctx, f[2], f[0], f[1])
		if err == nil {
			return nil
		}
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

// measure refuses a push that is too large when it is unpacked. git itself refuses a pack that is too large.
func measure(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "git", "cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectsize)")
	// Only the objects of the push, without those of the repository.
	cmd.Env = append(os.Environ(), "GIT_ALTERNATE_OBJECT_DIRECTORIES=")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	all, largest := 0, 0
	for {
		size := 0
		if _, err := fmt.Fscan(out, &size); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return errors.Join(err, cmd.Wait())
		}
		all, largest = all+size, max(largest, size)
	}
	switch {
	case largest > maxPush:
		err = fmt.Errorf("the push has a file of %d MiB, more than the limit of %d MiB", largest>>20, maxPush>>20)
	case all > maxFiles:
		err = fmt.Errorf("the push unpacks to more than %d MiB", maxFiles>>20)
	}
	return errors.Join(err, cmd.Wait())
}

// allow returns an error if a ref must not move from before to after.
func allow(ctx context.Context, ref, before, after string) error {
	none := strings.Repeat("0", len(before))
	kind, short, _ := strings.Cut(strings.TrimPrefix(ref, "refs/"), "/")
	branch := kind == "heads" || kind == "notes"
	forward := ref == mainRef || kind == "notes" // refs whose history must stay
	if kind != "heads" {
		short = kind + "/" + short
	}
	now, err := ask(ctx, "rev-parse", "--quiet", "--verify", ref)
	if err != nil {
		now = none
	}
	switch {
	case !branch && kind != "tags" || strings.Contains(ref, "/-"):
		return errors.New("not a valid name of a branch, a tag or notes")
	case before != now && now != none:
		return errors.New("somebody else has pushed meanwhile: fetch, merge and push again")
	case before != now:
		return errors.New("it does not exist")
	case after == none && forward:
		return fmt.Errorf("%s cannot be removed", short)
	case after == none || !branch:
		return nil
	}
	if is, err := ask(ctx, "cat-file", "-t", after); err != nil || is != "commit" {
		return errors.Join(errors.New("a branch must be a commit"), err)
	}
	if forward && before != none {
		if _, err := ask(ctx, "merge-base", "--is-ancestor", before, after); err != nil {
			return fmt.Errorf("%s accepts only a fast-forward", short)
		}
	}
	return nil
}

// record writes who moves which refs. git calls it when it holds the locks of all refs, so that nothing can refuse the push
// any more. stdin has a line for each ref.
func record(_ context.Context, args []string, stdin io.Reader) error {
	user := os.Getenv("REMOTE_USER")
	if args[0] != "prepared" || user == "" { // not a push
		return nil
	}
	var text []byte
	for lines := bufio.NewScanner(stdin); lines.Scan(); {
		f := strings.SplitN(lines.Text(), " ", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "refs/") {
			continue
		}
		line, err := json.Marshal(pushRecord{Time: time.Now().UTC(), User: user, Ref: f[2], Old: f[0], New: f[1]})
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	// Hooks run in the repository.
	f, err := os.OpenFile(filepath.Join("..", pushesFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
