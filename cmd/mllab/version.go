package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"mllab.local/addons"
)

type versionInfo struct {
	Version    string            `json:"version"`
	Revision   string            `json:"revision,omitempty"`
	Go         string            `json:"go"`
	Components map[string]string `json:"components"`
	// Ends has, for each component whose project says so, the day after which there
	// are no fixes for it, or what ends them.
	Ends map[string]string `json:"ends,omitempty"`

	order []string
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version [flags]",
		Short:   "Print the version, and the versions it installs",
		Example: "  mllab version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			v, err := readVersion()
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { printVersion(w, v) })
		},
	}
}

func readVersion() (versionInfo, error) {
	v := versionInfo{Version: "unknown", Components: map[string]string{}, Ends: map[string]string{}}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version, v.Go = info.Main.Version, info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	installed, err := addons.Versions()
	if err != nil {
		return v, err
	}
	for _, i := range installed {
		v.Components[i.Name] = i.Version
		v.order = append(v.order, i.Name)
		if i.End != "" {
			v.Ends[i.Name] = i.End
		}
	}
	return v, nil
}

func printVersion(w io.Writer, v versionInfo) {
	fmt.Fprintf(w, "mllab %s (%s)\n", v.Version, v.Go)
	if v.Revision != "" {
		fmt.Fprintf(w, "%-20s %s\n", "revision", v.Revision)
	}
	for _, name := range v.order {
		line := fmt.Sprintf("%-20s %s", name, v.Components[name])
		if end := v.Ends[name]; end != "" {
			line = fmt.Sprintf("%-30s  fixes end %s", line, end)
		}
		fmt.Fprintln(w, line)
	}
}
