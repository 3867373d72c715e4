package report

import (
	"bytes"
	"strings"
	"testing"
)

// Evidence as scenarios have it, on screens of several widths.
var stepRows = [][]string{
	{"", "step", "active", "checked", "evidence"},
	{"ok", "v2 at 0 %, by its tag", "2.1 s", "1.6 s", "n=1000 v1 0 (accepted 0..0), v2 1000 (accepted 1000..1000), exact: one stray answer fails"},
	{"ok", "90/10", "1.7 s", "1.6 s", "n=1000 v1 901 (accepted 851..943), v2 99 (accepted 57..149), alpha 1e-06, power 0.99 against v2 at most 4.1 % or at least 17.7 %"},
	{"-", "quiet", "0.0 s", "0.0 s", ""},
}

func TestATableWrapsUnderItsOwnColumns(t *testing.T) {
	for columns, want := range map[int]string{
		60: `
    step     active  checked  evidence
ok  v2 at    2.1 s   1.6 s    n=1000 v1 0 (accepted 0..0),
    0 %, by                   v2 1000 (accepted 1000..1000),
    its tag                   exact: one stray answer fails
ok  90/10    1.7 s   1.6 s    n=1000 v1 901 (accepted
                              851..943), v2 99 (accepted
                              57..149), alpha 1e-06, power
                              0.99 against v2 at most 4.1 %
                              or at least 17.7 %
-   quiet    0.0 s   0.0 s
`,
	} {
		if got := "\n" + table(columns, stepRows...); got != want {
			t.Errorf("at %d columns\n%s\nwant\n%s", columns, got, want)
		}
	}
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	for columns := 60; columns <= 200; columns++ {
		text := table(columns, stepRows...)
		evidence := strings.Index(text, "evidence")
		var seen, names []string
		for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			if length(line) > columns || strings.TrimRight(line, " ") != line {
				t.Errorf("at %d columns line %d is %q", columns, i, line)
			}
			seen = append(seen, line[min(evidence, len(line)):])
			names = append(names, line[:min(evidence, len(line))])
		}
		for _, row := range stepRows {
			if all := words(strings.Join(seen, " ")); !strings.Contains(all, row[4]) {
				t.Errorf("at %d columns the column of evidence is %q", columns, all)
			}
		}
		if all := words(strings.Join(names, " ")); !strings.Contains(all, "ok 90/10 1.7 s 1.6 s") {
			t.Errorf("at %d columns the others are %q", columns, all)
		}
	}
}

func TestATableForAPipeHasOneLineForEachRow(t *testing.T) {
	var b bytes.Buffer
	Table(&b, stepRows...)
	if lines := strings.Count(b.String(), "\n"); lines != len(stepRows) || !strings.Contains(b.String(), "-   quiet                  0.0 s   0.0 s\n") {
		t.Errorf("%d lines:\n%s", lines, b.String())
	}
}

func TestAWordIsNeverCut(t *testing.T) {
	path := "/a/very/long/path/" + strings.Repeat("x", 80)
	for want, got := range map[string]string{
		"ok  see\n    " + path + "\n    for it\n":          table(60, []string{"ok", "see " + path + " for it"}),
		"     one two three four five\n     six seven\n":   table(30, paragraph(5, "one two three four five six seven")),
		"a-long-name  7\n    one two three\n    four\n":    table(20, []string{"a-long-name", "7", "one two three four"}),
		"a-long-name  7  x\n    one two three\n    four\n": table(20, []string{"a-long-name", "7", "x"}, []string{"", "", "one two three four"}),
		"ok\n    one two\n    three four five\n    six\n":  table(20, []string{"ok", "one two\nthree four five six"}),
		"":   table(60),
		"\n": table(60, []string{""}),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestALongResultWrapsUnderItself(t *testing.T) {
	for _, tc := range []struct {
		columns    int
		name, want string
	}{
		{60, "canary: 90/10", "✓ canary: 90/10  n=1000 v1 901 (accepted 851..943), v2 99\n                 (accepted 57..149), alpha 1e-06  0.0 s\n"},
		{60, "mlops: a pushed notebook becomes a model that serves", "✓ mlops: a pushed notebook becomes a model that serves\n    n=1000 v1 901 (accepted 851..943), v2 99 (accepted\n    57..149), alpha 1e-06  0.0 s\n"},
		{120, "canary: 90/10", "✓ canary: 90/10  n=1000 v1 901 (accepted 851..943), v2 99 (accepted 57..149), alpha 1e-06  0.0 s\n"},
	} {
		var b bytes.Buffer
		r := newReporter(&b, Options{Live: true, Now: (&testClock{}).now})
		r.room = func() (int, int) { return tc.columns, 24 }
		task := r.Step(tc.name)
		b.Reset()
		task.Done("n=1000 v1 901 (accepted 851..943), v2 99 (accepted 57..149), alpha 1e-06")
		r.Close()
		if got := strings.ReplaceAll(strings.ReplaceAll(b.String(), "\r", ""), "\x1b[J", ""); got != tc.want {
			t.Errorf("got\n%swant\n%s", got, tc.want)
		}
	}
}
