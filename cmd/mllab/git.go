package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

func newGit(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "git",
		Short: "Use the lab's Git from this computer",
		Long: `Use the lab's Git from this computer: clone its repository, commit, and push.
Flux fetches every push at once.`,
		Example: `  mllab git clone          # into the folder lab
  mllab git url            # for programs that take a URL with a password`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newGitURL(a), newGitClone(a), newGitCredential(a))
	return c
}

// gitRemote returns the address of the lab's repository, with its token. It
// takes no lock: a push must work during a scenario.
func (a *app) gitRemote(ctx context.Context) (*url.URL, error) {
	lab, err := bootstrap.OpenReadOnly(ctx, a.options())
	if err != nil {
		return nil, err
	}
	return gitOf(lab)
}

func gitOf(lab bootstrap.Running) (*url.URL, error) {
	if lab.Git == nil {
		return nil, fault.CannotTest(lab.Adding([]string{"git"}), "the lab has no addon git")
	}
	return lab.Git, nil
}

func newGitURL(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "url [flags]",
		Short: "Print the repository's URL, with its token",
		Long: `Print the URL of the lab's repository. The token is in it: whoever has it can
read and push. A clone by mllab git clone keeps no token.`,
		Example: `  mllab git url
  git ls-remote "$(mllab git url)"`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			at, err := a.gitRemote(c.Context())
			if err != nil {
				return err
			}
			return a.print(map[string]string{"url": at.String()}, func(w io.Writer) { fmt.Fprintln(w, at) })
		},
	}
}

type cloned struct {
	Dir string `json:"dir"`
	URL string `json:"url"` // without the token
}

func newGitClone(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "clone [DIR] [flags]",
		Short: "Clone the repository with the git program",
		Long: `Clone the lab's repository into DIR (lab if not given) with the git program. The
token is not written into the clone: git asks mllab for it each time. The proofs
of scenarios come along as notes, and git log shows them.`,
		Example: `  mllab git clone
  cd lab && git log`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fault.Usage(seeHelp(c), "%s takes one folder, and got %q too", c.CommandPath(), args[1])
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			dir := "lab"
			if len(args) > 0 {
				dir = args[0]
			}
			done, err := a.gitClone(c.Context(), run.Exec{}, dir)
			return show(a, done, err, func(w io.Writer, done cloned) {
				fmt.Fprintf(w, "cloned  %s\ninto    %s\nnext    %s, change something, git commit, git push\n", done.URL, done.Dir, cd(dir))
			})
		},
	}
}

// cd returns the command that goes into a folder, whatever its name begins with.
func cd(dir string) string {
	if strings.HasPrefix(dir, "-") {
		dir = "./" + dir
	}
	return "cd " + run.ShellWord(dir)
}

func (a *app) gitClone(ctx context.Context, r run.Runner, dir string) (cloned, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return cloned{}, fmt.Errorf("finding %s: %w", dir, err)
	}
	there, err := os.ReadDir(abs)
	switch {
	case err == nil && len(there) > 0:
		return cloned{}, fault.Usage("name another folder", "%s is not empty", dir)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return cloned{}, fault.Usage("name another folder", "cloning into %s: %w", dir, err)
	}
	at, err := a.gitRemote(ctx)
	if err != nil {
		return cloned{}, err
	}
	return a.cloneFrom(ctx, r, at, abs)
}

// cloneFrom clones what is at a URL. The clone's own configuration has what later pushes need.
func (a *app) cloneFrom(ctx context.Context, r run.Runner, at *url.URL, dir string) (cloned, error) {
	bare := *at
	bare.User = nil
	helper, err := a.credentialHelper()
	if err != nil {
		return cloned{}, err
	}
	here := at.Scheme + "://" + at.Host
	args := []string{"clone", "--quiet", "--origin", "origin"}
	for _, config := range []string{
		// The empty helper forgets those of the user's own configuration, which would keep the token:
		// https://git-scm.com/docs/gitcredentials
		"credential." + here + ".helper=",
		"credential." + here + ".helper=" + helper,
		// An empty value means no proxy, whatever the environment or the user's own configuration says:
		// https://git-scm.com/docs/git-config#Documentation/git-config.txt-httpproxy
		"http." + here + ".proxy=",
		// The same for headers, such as a token of another server's, and for another address of all servers: the longest
		// insteadOf counts.
		"http." + here + ".extraHeader=",
		"url." + here + "/.insteadOf=" + here + "/",
		"url." + here + "/.pushInsteadOf=" + here + "/",
		"remote.origin.fetch=+refs/notes/*:refs/notes/*",
		"notes.displayRef=refs/notes/*",
	} {
		args = append(args, "--config", config)
	}
	err = r.Run(ctx, run.Cmd{Path: "git", Args: append(args, "--", bare.String(), dir), Env: []string{"GIT_TERMINAL_PROMPT=0"}, Stderr: a.stderr})
	if err != nil {
		return cloned{}, err
	}
	return cloned{Dir: dir, URL: bare.String()}, nil
}

// credentialHelper is this program as git calls it for the token: with the
// same lab, from whatever folder.
func (a *app) credentialHelper() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	state, err := filepath.Abs(a.global.state)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", a.global.state, err)
	}
	helper := "!"
	for _, word := range []string{self, "--name", a.global.name, "--state-dir", state, "git", "credential"} {
		helper += run.ShellWord(word) + " "
	}
	return strings.TrimSpace(helper), nil
}

// newGitCredential is what git calls for the token of a clone, and not shown.
func newGitCredential(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "credential get|store|erase",
		Short:  "Give git the token of the lab's repository",
		Hidden: true,
		Args:   one("of get, store and erase"),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] != "get" { // nothing is kept, so there is nothing to forget
				return nil
			}
			asked, err := readCredential(a.stdin)
			if err != nil {
				return err
			}
			at, err := a.gitRemote(c.Context())
			if err == nil && (asked["protocol"] != at.Scheme || asked["host"] != at.Host) {
				err = fault.Usage("it is another lab than the one of the clone: mllab git clone DIR makes a new one",
					"git asks for the token of %s://%s, and the lab's Git is at %s://%s", asked["protocol"], asked["host"], at.Scheme, at.Host)
			}
			if err != nil {
				fmt.Fprintln(a.stdout, "quit=1") // or git would ask the person
				return err
			}
			password, _ := at.User.Password()
			fmt.Fprintf(a.stdout, "username=%s\npassword=%s\n", at.User.Username(), password)
			return nil
		},
	}
}

// readCredential reads what git asks for: lines KEY=VALUE up to an empty one.
func readCredential(r io.Reader) (map[string]string, error) {
	asked := map[string]string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() && lines.Text() != "" {
		key, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			return nil, fault.Usage("git calls this by itself", "%q is not what git asks for a password with", lines.Text())
		}
		asked[key] = value
	}
	return asked, lines.Err()
}
