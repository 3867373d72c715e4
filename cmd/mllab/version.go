package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"time"

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

	parts []addons.Version
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version [flags]",
		Short:   "Print the version, and the versions it installs",
		Example: "  mllab version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			v, err := readVersion()
			return show(a, v, err, func(w io.Writer, v versionInfo) { printVersion(w, v, time.Now()) })
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
	var err error
	v.parts, err = addons.Versions()
	for _, p := range v.parts {
		v.Components[p.Name] = p.Version
		if p.End != "" {
			v.Ends[p.Name] = p.End
		}
	}
	return v, err
}

func printVersion(w io.Writer, v versionInfo, now time.Time) {
	ends := map[bool]string{false: "end", true: "ended"}
	fmt.Fprintf(w, "mllab %s (%s)\n", v.Version, v.Go)
	if v.Revision != "" {
		fmt.Fprintf(w, "%-20s %s\n", "revision", v.Revision)
	}
	for _, p := range v.parts {
		line := fmt.Sprintf("%-20s %s", p.Name, p.Version)
		if p.End != "" {
			line = fmt.Sprintf("%-30s  fixes %s %s", line, ends[p.Past(now)], p.End)
		}
		fmt.Fprintln(w, line)
	}
}
