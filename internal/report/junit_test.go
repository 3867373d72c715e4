package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

var someCases = []Case{
	{Suite: "canary", Name: "90/10 holds", Seconds: 3.25, Output: "n=1480 v1=1330 v2=150\n"},
	{Suite: "shadow", Name: "every request is mirrored <once>", Seconds: 0.0004, Failure: "v2 saw 99 of 100\nmissing: 7f3a & \"others\"", Output: "\x1b[31mred\x1b[0m \x00\x07\x0b ]]> <system-out>\r\n"},
	{Suite: "canary", Name: "99/1 holds", Skipped: "lab not ready"},
	{Suite: "canary", Name: "\xff\xfe", Seconds: 1, Failure: "failed", Skipped: "and skipped"},
}

func TestJUnitAsWritten(t *testing.T) {
	var out bytes.Buffer
	if err := JUnit(&out, someCases); err != nil {
		t.Fatal(err)
	}
	golden(t, "junit.golden.xml", out.Bytes())
}

func TestJUnitReadsBackAsTheSameCases(t *testing.T) {
	var out bytes.Buffer
	if err := JUnit(&out, someCases); err != nil {
		t.Fatal(err)
	}
	type reason struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type counts struct {
		Tests    int     `xml:"tests,attr"`
		Failures int     `xml:"failures,attr"`
		Skipped  int     `xml:"skipped,attr"`
		Time     float64 `xml:"time,attr"`
	}
	var doc struct {
		XMLName xml.Name `xml:"testsuites"`
		counts
		Suites []struct {
			counts
			Name  string `xml:"name,attr"`
			Cases []struct {
				Class   string  `xml:"classname,attr"`
				Name    string  `xml:"name,attr"`
				Time    float64 `xml:"time,attr"`
				Failure *reason `xml:"failure"`
				Skipped *reason `xml:"skipped"`
				Output  string  `xml:"system-out"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatalf("not XML: %v\n%s", err, out.Bytes())
	}
	if doc.counts != (counts{4, 2, 1, 4.25}) {
		t.Errorf("totals %+v", doc.counts)
	}
	if len(doc.Suites) != 2 || doc.Suites[0].Name != "canary" || doc.Suites[1].Name != "shadow" {
		t.Fatalf("suites %+v", doc.Suites)
	}
	if c := doc.Suites[0].counts; c != (counts{3, 1, 1, 4.25}) {
		t.Errorf("canary's totals %+v", c)
	}
	canary, shadow := doc.Suites[0].Cases, doc.Suites[1].Cases
	if c := canary[0]; c.Class != "canary" || c.Name != "90/10 holds" || c.Time != 3.25 || c.Failure != nil || c.Skipped != nil || c.Output != someCases[0].Output {
		t.Errorf("the passed case: %+v", c)
	}
	if c := canary[1]; c.Time != 0 || c.Failure != nil || c.Skipped == nil || c.Skipped.Message != "lab not ready" {
		t.Errorf("the skipped case: %+v", c)
	}
	if c := canary[2]; c.Failure == nil || c.Skipped != nil {
		t.Errorf("a failure must outrank a skip: %+v", c)
	}
	if c := shadow[0]; c.Name != someCases[1].Name || c.Failure == nil || c.Failure.Message != "v2 saw 99 of 100" || c.Failure.Text != someCases[1].Failure {
		t.Errorf("the failed case: %+v", c)
	}
	if got, want := shadow[0].Output, "red \uFFFD\uFFFD\uFFFD ]]> <system-out>\r\n"; got != want {
		t.Errorf("its output %q, want %q", got, want)
	}
}

func TestJUnitOfEveryControlCharacterIsValidXML(t *testing.T) {
	var all strings.Builder
	for c := range 256 {
		all.WriteByte(byte(c))
	}
	for _, r := range []rune{0x7f, 0x85, 0x2028, 0xfffe, 0xffff, 0x10ffff} {
		all.WriteRune(r)
	}
	s := all.String()
	var out bytes.Buffer
	if err := JUnit(&out, []Case{{Suite: s, Name: s, Failure: s, Output: s}}); err != nil {
		t.Fatal(err)
	}
	if !utf8.Valid(out.Bytes()) {
		t.Error("not UTF-8")
	}
	if err := xml.Unmarshal(out.Bytes(), new(struct{})); err != nil {
		t.Errorf("not XML: %v", err)
	}
	// encoding/xml reads more than XML allows: https://www.w3.org/TR/xml/#charsets
	for _, r := range out.String() {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			t.Errorf("character %#x", r)
		}
	}
}

func TestJUnitOfNothingIsAReportOfNothing(t *testing.T) {
	var out bytes.Buffer
	if err := JUnit(&out, nil); err != nil || !strings.Contains(out.String(), `<testsuites tests="0"`) {
		t.Errorf("%q, %v", out.String(), err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestJUnitSaysThatItCouldNotWrite(t *testing.T) {
	if err := JUnit(full{}, someCases); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("error %v", err)
	}
}
