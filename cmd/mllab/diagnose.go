package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/report"
)

func newDiagnose(a *app) *cobra.Command {
	to := ""
	c := &cobra.Command{
		Use:   "diagnose [flags]",
		Short: "Write one archive with everything that helps to find a cause",
		Long: `Write one archive with everything that helps to find out why a lab does not work:
what doctor and status see, events, the logs of what is not ready, mllab's records,
versions, and the newest evidence of a scenario. Secrets in it are masked. The most
likely causes, at most three, are printed, and are at the top of the archive.
It changes nothing, and needs no lab that works.`,
		Example: `  mllab diagnose
  mllab diagnose --to /tmp/lab.tar.gz`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := readVersion()
			if err != nil {
				return err
			}
			var version strings.Builder
			now := time.Now()
			printVersion(&version, v, now)
			if to == "" {
				to = "mllab-diagnosis-" + now.Format("20060102-150405") + ".tar.gz"
			}
			d, err := bootstrap.Diagnose(c.Context(), a.options(), to, version.String())
			return show(a, d, err, printDiagnosis)
		},
	}
	c.Flags().StringVar(&to, "to", "", "the archive (default: mllab-diagnosis-TIME.tar.gz, here)")
	return c
}

func printDiagnosis(w io.Writer, d bootstrap.Diagnosis) {
	for i, cause := range d.Causes {
		report.Table(w, []string{fmt.Sprintf("%d. %s", i+1, cause.What)})
		report.Paragraph(w, 3, "fix: "+cause.Fix)
	}
	if len(d.Causes) == 0 {
		fmt.Fprintln(w, "nothing that mllab looks at is wrong")
	}
	fmt.Fprintf(w, "archive  %s\n", d.File)
}
