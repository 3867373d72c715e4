package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// newMan is for those who package mllab: a release has its pages.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write the manual pages into a folder",
		Hidden: true,
		Args:   one("folder"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("writing the manual pages: %w", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			if home, err := os.UserHomeDir(); err == nil { // that of whoever makes the pages, and not of their readers
				root.PersistentFlags().VisitAll(func(f *pflag.Flag) { f.DefValue = strings.Replace(f.DefValue, home, "~", 1) })
			}
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "mllab"}, args[0])
		},
	}
}
