package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/kubeconfig"
	"mllab.local/internal/run"
)

func newKubeconfig(a *app) *cobra.Command {
	merge := false
	c := &cobra.Command{
		Use:   "kubeconfig [flags]",
		Short: "Print the lab's kubeconfig, or merge it into yours",
		Long: `Print the lab's kubeconfig. Its context is mllab-NAME.

With --merge, add that context to the file that kubectl uses (the first file of
$KUBECONFIG that exists, or ~/.kube/config) and make it the current one. Nothing
else in the file changes. mllab down removes the context and makes the one before
current again.`,
		Example: `  mllab kubeconfig > lab.yaml
  mllab kubeconfig --merge && kubectl get pods -A`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !merge {
				if err := a.noJSON(c, "YAML"); err != nil {
					return err
				}
				config, err := bootstrap.Kubeconfig(a.options())
				if err == nil {
					_, err = a.stdout.Write(config)
				}
				return err
			}
			home, err := os.UserHomeDir()
			if err != nil && a.getenv("KUBECONFIG") == "" {
				return fault.Usage("set HOME or KUBECONFIG", "finding your kubeconfig: %w", err)
			}
			path := kubeconfig.Default(a.getenv("KUBECONFIG"), home)
			if unexpanded(path) {
				return fault.Usage("write $HOME instead of ~", "KUBECONFIG must have paths, got %q, whose ~ no shell has replaced", path)
			}
			m, err := bootstrap.MergeKubeconfig(a.options(), path)
			return show(a, m, err, func(w io.Writer, m kubeconfig.Merged) {
				before := ""
				if m.Before != "" {
					before = " (before: " + m.Before + ")"
				}
				fmt.Fprintf(w, "context  %s, now the current one%s\nfile     %s\n", m.Name, before, m.Path)
			})
		},
	}
	c.Flags().BoolVar(&merge, "merge", false, "add the context to your own kubeconfig and make it the current one")
	return c
}

func newEnv(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "env [flags]",
		Short: "Print variables for a shell",
		Long: `Print export lines for a shell: KUBECONFIG for kubectl, kn, flux and helm,
MLLAB_URL (the gateway), MLLAB_NAME and MLLAB_STATE_DIR (for mllab itself). If the
shell names a proxy, it also prints no_proxy, so that programs reach the lab without it.`,
		Example: `  eval "$(mllab env)"
  eval (mllab env | string collect)    # fish`,
		Args: noArgs,
		RunE: func(_ *cobra.Command, _ []string) error {
			at, err := bootstrap.FindAccess(a.options())
			if err != nil {
				return err
			}
			variables := [][2]string{{"KUBECONFIG", at.Kubeconfig}, {"MLLAB_URL", at.URL}, {"MLLAB_NAME", at.Cluster}, {"MLLAB_STATE_DIR", at.StateDir}}
			variables = append(variables, run.NoProxy(a.getenv)...)
			byName := map[string]string{}
			for _, v := range variables {
				byName[v[0]] = v[1]
			}
			return a.print(byName, func(w io.Writer) {
				for _, v := range variables {
					fmt.Fprintf(w, "export %s=%s\n", v[0], run.ShellWord(v[1]))
				}
			})
		},
	}
}

func newCurl(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "curl [flags] NAME[/PATH] [CURL FLAGS]",
		Short: "Send a request through the gateway with the curl program",
		Long: `Send a request through the lab's gateway with the curl program, whose flags follow
NAME. NAME is sample (the sample model), NAME.NAMESPACE (a Knative Service or
another host of the lab) or a whole host name. The exit code is curl's.`,
		Example: `  mllab curl sample
  mllab curl sample/healthz -i
  mllab curl model.mllab-canary -d '{"instances": [[1, 2, 3, 4]]}'`,
		Annotations: map[string]string{writes: "what curl writes"},
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.Usage(seeHelp(c), "%s must have a NAME, such as sample", c.CommandPath())
			}
			_, _, err := curlTarget(args[0])
			return err
		},
		RunE: func(_ *cobra.Command, args []string) error {
			at, err := bootstrap.FindAccess(a.options())
			if err != nil {
				return err
			}
			words, err := curlArgs(at.URL, args[0], args[1:])
			if err != nil {
				return err
			}
			curl, err := exec.LookPath("curl")
			if err != nil {
				return fault.Usage("install curl, or add the folder it is in to PATH", "running curl: %w", err)
			}
			// curl takes this process's place: its terminal, its signals and its exit code are a person's own.
			a.report.Close()
			return fmt.Errorf("running %s: %w", curl, syscall.Exec(curl, append([]string{"curl"}, words...), os.Environ()))
		},
	}
	c.Flags().SetInterspersed(false) // what follows NAME is curl's
	return c
}

// curlTarget returns the host and the path, with its query, of what a person calls NAME[/PATH].
func curlTarget(name string) (host, path string, err error) {
	host, path, _ = strings.Cut(strings.TrimPrefix(name, "http://"), "/")
	switch {
	case host == "sample":
		host = addons.SampleHost
	case host == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(host, ":@?#% "):
		return "", "", fault.Usage("such as sample, model.mllab-canary or model.mllab-canary/v1/models", "NAME must be a name in the lab, got %q", name)
	case !strings.Contains(host, "."):
		return "", "", fault.Usage("such as "+host+".default", "NAME must be sample or NAME.NAMESPACE, got %q", name)
	case strings.Count(host, ".") == 1:
		host += "." + addons.Domain
	}
	return host, "/" + path, nil
}

// curlArgs are curl's arguments for a target behind the gateway: the URL has the lab's host name, and curl connects to
// the gateway, never to a proxy.
func curlArgs(gateway, name string, args []string) ([]string, error) {
	host, path, err := curlTarget(name)
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(gateway)
	if err != nil {
		return nil, fmt.Errorf("reading the gateway's address: %w", err)
	}
	return append([]string{"--connect-to", host + ":80:" + at.Host, "--noproxy", host, "http://" + host + path}, args...), nil
}
