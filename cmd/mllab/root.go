package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mllab.local/bootstrap"
	"mllab.local/bootstrap/images"
	"mllab.local/internal/fault"
)

type global struct {
	output, name, cache, state string
}

// options are what the global flags say to package bootstrap.
func (a *app) options() bootstrap.Options {
	return bootstrap.Options{Name: a.global.name, Cache: a.global.cache, State: a.global.state, Report: a.report}
}

// labWith opens the lab for reading. It must have an addon.
func (a *app) labWith(ctx context.Context, addon string) (bootstrap.Running, error) {
	lab, err := bootstrap.OpenReadOnly(ctx, a.options())
	if err == nil && !slices.Contains(lab.Addons, addon) {
		err = fault.CannotTest(lab.Adding([]string{addon}), "the lab has no addon %s", addon)
	}
	return lab, err
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "mllab",
		Short: "A lab for progressive delivery of models, on this computer",
		Long: `mllab creates a lab for the progressive delivery of models on this computer: a
kind cluster with Istio, Knative, Flux, a minimal Kubeflow and a sample model. Then it
proves with real requests that a delivery does what it claims, and states the error rate.`,
		Example: `  mllab up                 # create the lab
  mllab scenario canary    # prove a canary delivery on it
  mllab down               # remove it`,
		Args:          noArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newUp(a), newScenario(a), newReport(a), newView(a), newGit(a), newAudit(a), newTop(a), newLogs(a), newAlerts(a), newPipeline(a), newStatus(a), newKubeconfig(a), newEnv(a), newCurl(a), newDown(a), newImages(a), newDoctor(a), newDiagnose(a), newVersion(a), newMan())
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.InitDefaultCompletionCmd() // cobra's, which says nothing of a shell that it does not know
	completion, _, _ := root.Find([]string{"completion"})
	completion.Args, completion.RunE = noArgs, root.RunE
	for _, shell := range completion.Commands() {
		shell.Annotations = map[string]string{writes: "a shell script"}
	}
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(_ *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return noArgs(root, args)
			}
			return about.Help()
		},
	})
	root.SetUsageTemplate(usage)
	root.SetFlagErrorFunc(flagError)
	env := func(key, other string) string { return cmp.Or(a.getenv(key), other) }
	f := root.PersistentFlags()
	f.SortFlags = false
	a.global.output = "text"
	f.VarP(&choice{&a.global.output, []string{"text", "json"}}, "output", "o", "how the result is written to stdout")
	f.StringVar(&a.global.name, "name", env("MLLAB_NAME", bootstrap.DefaultName), "name of the cluster ($MLLAB_NAME)")
	cache, _ := images.DefaultCache() // without HOME a verb that needs one says so
	state, _ := bootstrap.DefaultState()
	f.StringVar(&a.global.cache, "cache-dir", env("MLLAB_CACHE_DIR", cache), "folder of the image cache ($MLLAB_CACHE_DIR)")
	f.StringVar(&a.global.state, "state-dir", env("MLLAB_STATE_DIR", state), "folder of kubeconfig and records ($MLLAB_STATE_DIR)")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) (err error) {
		f.VisitAll(func(given *pflag.Flag) {
			if given.Changed && given.Value.String() == "" { // a variable of a script that is not set: the default is another lab
				err = fault.Usage("leave it out for "+cmp.Or(given.DefValue, "the default"), "--%s must not be empty", given.Name)
			}
			if unexpanded(given.Value.String()) { // a shell replaces a ~ that begins a word, and not in --state-dir=~/x
				err = fault.Usage("write $HOME instead of ~", "--%s must be a path, got %q, whose ~ no shell has replaced", given.Name, given.Value)
			}
		})
		if what := c.Annotations[writes]; what != "" && err == nil {
			err = a.noJSON(c, what)
		}
		return err
	}
	complete(root)
	return root
}

// writes is the annotation of a command whose result is always in one format, which the value names.
const writes = "writes"

// noJSON refuses -o json where c writes what.
func (a *app) noJSON(c *cobra.Command, what string) error {
	if a.global.output != "json" {
		return nil
	}
	return fault.Usage("leave out -o json", "%s writes %s, not JSON", c.CommandPath(), what)
}

// complete gives a shell the values of each flag that is a choice: it would offer files.
func complete(c *cobra.Command) {
	offer := func(f *pflag.Flag) {
		if v, is := f.Value.(*choice); is {
			_ = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(v.of, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
		}
	}
	c.NonInheritedFlags().VisitAll(offer)
	for _, sub := range c.Commands() {
		complete(sub)
	}
}

// unexpanded reports whether a path begins with the ~ that only a shell reads as the home folder.
func unexpanded(path string) bool { return path == "~" || strings.HasPrefix(path, "~/") }

// usage is cobra's template in fewer lines.
const usage = `Usage:
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND [flags]{{else}}{{.UseLine}}{{end}}
{{- if .HasExample}}

Examples:
{{.Example}}
{{- end}}
{{- if .HasAvailableSubCommands}}

Commands:
{{- range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableInheritedFlags}}

Everywhere:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
`

// noArgs refuses arguments, and a word that is no command with the nearest one that is.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !c.HasAvailableSubCommands() {
		return fault.Usage(seeHelp(c), "%s takes no argument, and got %q", c.CommandPath(), args[0])
	}
	return fault.Usage(cmp.Or(nearCommand(c, args[0]), seeHelp(c)), "%s has no command %q", c.CommandPath(), args[0])
}

// nearCommand is a hint that names the command that word was meant to be, or "".
func nearCommand(c *cobra.Command, word string) string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if near := nearest(word, names); near != "" {
		return fmt.Sprintf("did you mean `%s %s`?", c.CommandPath(), near)
	}
	return ""
}

// one wants one argument, which is this.
func one(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fault.Usage(seeHelp(c), "%s takes one %s, and got %d", c.CommandPath(), what, len(args))
		}
		return nil
	}
}

func seeHelp(c *cobra.Command) string { return fmt.Sprintf("see `%s --help`", c.CommandPath()) }

// flagError names the flag that was meant, if one is near.
func flagError(c *cobra.Command, err error) error {
	hint := seeHelp(c)
	if wrong, is := errors.AsType[*pflag.InvalidValueError](err); is {
		if must := mustBe[wrong.GetFlag().Value.Type()]; must != "" { // pflag says it in Go's words
			return fault.Usage(hint, "%s: --%s must be %s, got %q", c.CommandPath(), wrong.GetFlag().Name, must, wrong.GetValue())
		}
	}
	if unknown, is := errors.AsType[*pflag.NotExistError](err); is {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := nearest(unknown.GetSpecifiedName(), names); near != "" {
			hint = fmt.Sprintf("did you mean --%s?", near)
		}
	}
	return fault.Usage(hint, "%s: %w", c.CommandPath(), err)
}

// mustBe says of flags of Go's types what their values are.
var mustBe = map[string]string{
	"int": "a whole number", "float64": "a number", "duration": "a time with its unit, such as 90s or 10m", "bool": "true or false",
}

// nearest returns the name that word was meant to be: the only one that begins so, or else one that is near. It is ""
// when none is: more than two edits make another word, and so does changing more than half of it.
func nearest(word string, names []string) string {
	best, near, begin := min(3, len(word)/2+1), "", []string(nil)
	for _, n := range names {
		if strings.HasPrefix(n, word) {
			begin = append(begin, n)
		}
	}
	if len(begin) == 1 && len(word) > 1 {
		return begin[0]
	}
	for _, n := range names {
		if d := distance(word, n); d < best {
			best, near = d, n
		}
	}
	return near
}

// distance is Levenshtein's: how many letters must be changed, added or taken away.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		above := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := above
			if a[i] != b[j] {
				change++
			}
			above = row[j+1]
			row[j+1] = min(change, row[j]+1, above+1)
		}
	}
	return row[len(b)]
}

// choice is a flag with a few values.
type choice struct {
	value *string
	of    []string
}

func (c *choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}

func (c *choice) Type() string { return strings.Join(c.of, "|") }

func (c *choice) Set(s string) error {
	if slices.Contains(c.of, s) {
		*c.value = s
		return nil
	}
	return fmt.Errorf("it must be %s or %s", strings.Join(c.of[:len(c.of)-1], ", "), c.of[len(c.of)-1])
}

// show ends a verb: with the error, if there is one, or with the result.
func show[T any](a *app, result T, err error, text func(io.Writer, T)) error {
	if err != nil {
		return err
	}
	a.report.Close()
	return a.print(result, func(w io.Writer) { text(w, result) })
}

// print writes a result: JSON for machines, or what text writes.
func (a *app) print(result any, text func(io.Writer)) error {
	if a.global.output != "json" {
		text(a.stdout)
		return nil
	}
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(result)
}
