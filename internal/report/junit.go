package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// Case is one test case of a JUnit report. A Failure outranks Skipped; both are the reason, and their first line is
// the message.
type Case struct {
	Suite, Name     string
	Seconds         float64
	Failure, Output string
	Skipped         string
}

type junitSuites struct {
	XMLName  xml.Name      `xml:"testsuites"`
	Tests    int           `xml:"tests,attr"`
	Failures int           `xml:"failures,attr"`
	Skipped  int           `xml:"skipped,attr"`
	Time     junitSeconds  `xml:"time,attr"`
	Suites   []*junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"` // readers expect it; a case here passes, fails or is skipped
	Skipped  int          `xml:"skipped,attr"`
	Time     junitSeconds `xml:"time,attr"`
	Cases    []junitCase  `xml:"testcase"`
}

type junitCase struct {
	Class   string       `xml:"classname,attr"`
	Name    string       `xml:"name,attr"`
	Time    junitSeconds `xml:"time,attr"`
	Failure *junitReason `xml:"failure"`
	Skipped *junitReason `xml:"skipped"`
	Output  string       `xml:"system-out,omitempty"`
}

type junitReason struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

type junitSeconds float64

// MarshalText writes milliseconds' precision: readers refuse "1e-05".
func (s junitSeconds) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%.3f", float64(s)), nil }

// JUnit writes cases as a JUnit XML report (the form CI systems read: https://github.com/testmoapp/junitxml), grouped
// by suite in the order of first appearance. Terminal escapes are dropped; other characters that XML cannot hold
// become U+FFFD. Errors are the writer's.
func JUnit(w io.Writer, cases []Case) error {
	text := func(s string) string { return escapes.ReplaceAllString(s, "") }
	reason := func(s string) *junitReason {
		first, _, _ := strings.Cut(text(s), "\n")
		return &junitReason{Message: first, Text: text(s)}
	}

	var all junitSuites
	suites := map[string]*junitSuite{}
	for _, c := range cases {
		s := suites[c.Suite]
		if s == nil {
			s = &junitSuite{Name: text(c.Suite)}
			suites[c.Suite] = s
			all.Suites = append(all.Suites, s)
		}
		jc := junitCase{Class: s.Name, Name: text(c.Name), Time: junitSeconds(c.Seconds), Output: text(c.Output)}
		switch {
		case c.Failure != "":
			jc.Failure = reason(c.Failure)
			s.Failures++
		case c.Skipped != "":
			jc.Skipped = reason(c.Skipped)
			s.Skipped++
		}
		s.Tests++
		s.Time += jc.Time
		s.Cases = append(s.Cases, jc)
	}
	for _, s := range all.Suites {
		all.Tests += s.Tests
		all.Failures += s.Failures
		all.Skipped += s.Skipped
		all.Time += s.Time
	}

	body, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the JUnit report: %w", err)
	}
	if _, err := fmt.Fprintf(w, "%s%s\n", xml.Header, body); err != nil {
		return fmt.Errorf("writing the JUnit report: %w", err)
	}
	return nil
}
