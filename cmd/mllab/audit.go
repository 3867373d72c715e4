package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/audit"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

const defaultLast = 20

func newAudit(a *app) *cobra.Command {
	last := defaultLast
	c := &cobra.Command{
		Use:   "audit [flags]",
		Short: "List the commits of the lab's Git with their changes and proofs",
		Long: `List the commits of the lab's Git, newest first: author and pusher, the changes
in the cluster, when Flux applied it, how long it took to be in traffic, and the
verdict of the scenario that judged it. Then list the drift: where the cluster
differs from Git, and who changed it. This is a report and not a test: the exit
code is 0 even with drift.`,
		Example: `  mllab audit
  mllab audit --last 0 -o json   # all commits, for a machine`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if last < 0 {
				return fault.Usage("such as --last 20, or --last 0 for all", "--last must be 0 or more, got %d", last)
			}
			r, err := a.audit(c.Context(), last)
			return show(a, r, err, printAudit)
		},
	}
	c.Flags().IntVar(&last, "last", last, "number of commits, 0 for all")
	return c
}

func (a *app) audit(ctx context.Context, last int) (audit.Report, error) {
	lab, err := bootstrap.OpenReadOnly(ctx, a.options())
	if err != nil {
		return audit.Report{}, err
	}
	remote, err := gitOf(lab)
	if err != nil {
		return audit.Report{}, err
	}
	return audit.Read(ctx, lab.Kube, remote, addons.GitInside, last)
}

func short(commit string) string { return commit[:min(len(commit), 10)] }

// clock is a time as people here read it.
func clock(t time.Time) string { return t.Local().Format(time.DateTime) }

func printAudit(w io.Writer, r audit.Report) {
	row := func(name, format string, args ...any) {
		report.Table(w, []string{fmt.Sprintf("  %-7s", name), fmt.Sprintf(format, args...)})
	}
	for _, c := range r.Commits {
		report.Table(w, []string{fmt.Sprintf("%s  %s  %s", short(c.Hash), clock(c.When), visible(c.Author))})
		report.Paragraph(w, 2, visible(c.Subject()))
		if c.Pushed != nil {
			row("pushed", "by %s at %s", c.Pushed.User, clock(c.Pushed.Time))
		}
		for _, f := range c.Files {
			row("file", "%s", visible(f))
		}
		for _, ch := range c.Changes {
			by := visible(ch.Folder)
			if ch.By != "" {
				by += ", by " + ch.By
			}
			switch {
			case ch.Error != "":
				row("broken", "%s: cannot be built: %s", by, oneLine(ch.Error))
			case ch.Before != "":
				row("fixed", "%s: it could not be built before", by)
			}
			if ch.NotBuilt != "" {
				row("unknown", "%s: %s", by, oneLine(ch.NotBuilt))
			}
			for _, o := range ch.Objects {
				row(o.Action, "%s  (%s)", o.Object, by)
				if o.Action == "changed" {
					for _, f := range o.Fields {
						before, after := fromTo(f.Before, f.After)
						report.Paragraph(w, 13, fmt.Sprintf("%s: %s -> %s", f.Path, before, after))
					}
				}
			}
		}
		for _, s := range c.Applied {
			row("flux", "%s at %s: %s, as its %s says", s.By, clock(s.Time), said(s), s.From)
		}
		if len(c.Applied) == 0 {
			row("flux", "nothing is known: Kubernetes keeps events for an hour, or it came with a newer commit")
		}
		if p := c.Proof; p != nil {
			if p.SecondsToTraffic > 0 {
				row("traffic", "after %.1f s", p.SecondsToTraffic)
			}
			title := p.Scenario
			if p.Control != "" {
				title += ", control " + p.Control
			}
			verdict := "FAIL"
			if p.Pass {
				verdict = "PASS"
			}
			row("proof", "%s %s, step %q: %s", verdict, title, p.Step, audit.Summary(*p))
		}
		if c.Note != "" {
			row("note", "no proof, it says: %s", brief(c.Note, wordy))
		}
		fmt.Fprintln(w)
	}
	if r.Older > 0 {
		fmt.Fprintf(w, "%d older commits: mllab audit --last 0\n\n", r.Older)
	}
	printDrift(w, r)
}

func said(s audit.Applied) string {
	if s.Message == "" { // of a status
		return s.Reason
	}
	return s.Reason + ", " + brief(s.Message, wordy)
}

func printDrift(w io.Writer, r audit.Report) {
	for _, k := range r.Kustomizations {
		state := "applied " + cmp.Or(short(k.Applied), "nothing yet")
		if k.Suspended {
			state += ", suspended"
		}
		if k.NotReady != "" {
			state += ", " + brief(k.NotReady, wordy)
		}
		report.Table(w, []string{fmt.Sprintf("%s, %s: %s", k.Name, k.Path, state)})
	}
	switch {
	case len(r.Kustomizations) == 0:
		fmt.Fprintln(w, "no Kustomization of Flux follows the repository")
	case len(r.Drift) == 0:
		fmt.Fprintf(w, "no drift: %d objects are as Git says\n", r.Compared)
	}
	for _, d := range r.Drift {
		if d.Error != "" {
			report.Table(w, []string{fmt.Sprintf("not compared  %s: %s", d.By, oneLine(d.Error))})
		}
		for _, o := range d.Objects {
			report.Table(w, []string{fmt.Sprintf("drift  %s  (%s at %s)", o.Object, d.By, short(d.Commit))})
			switch {
			case o.Missing:
				report.Paragraph(w, 9, "it is gone")
			case o.Error != "":
				report.Paragraph(w, 9, "not compared: "+oneLine(o.Error))
			}
			for _, f := range o.Fields {
				wished, live := fromTo(f.Wished, f.Live)
				report.Paragraph(w, 9, fmt.Sprintf("%s: Git %s, live %s%s", f.Path, wished, live, holder(f.Manager, f.When, f.Undone)))
			}
		}
	}
}

// holder says who holds a field, and what becomes of it.
func holder(manager string, when *time.Time, undone bool) string {
	s := ", by nobody"
	if manager != "" {
		s = ", by " + manager
		if when != nil {
			s += " at " + clock(*when)
		}
	}
	if !undone {
		s += "; Flux leaves it"
	}
	return s
}

// How much is shown of a value, and of what Flux says.
const (
	briefly = 60
	wordy   = 200
)

// brief returns a value in one line of bounded length, and "-" for an empty one.
func brief(v any, most int) string { return cut(asLine(v), most) }

// fromTo returns two values as brief does. When they would then look alike, each
// begins shortly before the first difference.
func fromTo(before, after any) (from, to string) {
	const shared = 10 // characters before the difference
	from, to = brief(before, briefly), brief(after, briefly)
	if from != to {
		return from, to
	}
	a, b := []rune(asLine(before)), []rune(asLine(after))
	same := 0
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	if same <= shared {
		return from, to
	}
	return cut("…"+string(a[same-shared:]), briefly), cut("…"+string(b[same-shared:]), briefly)
}

func asLine(v any) string {
	text, isText := v.(string)
	if !isText {
		if v == nil {
			return "-"
		}
		data, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		text = string(data)
	}
	return cmp.Or(oneLine(text), `""`)
}

func cut(line string, most int) string {
	if r := []rune(line); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return line
}

func oneLine(s string) string { return visible(strings.Join(strings.Fields(s), " ")) }

// visible returns s, in quotes when it holds what a terminal would act on.
func visible(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsGraphic(r) }) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
