package report

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it)\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

// testClock is a clock that moves when told.
type testClock struct{ t time.Time }

func (c *testClock) now() time.Time          { return c.t }
func (c *testClock) advance(d time.Duration) { c.t = c.t.Add(d) }

func TestPlainOutputIsOneLinePerEvent(t *testing.T) {
	var out bytes.Buffer
	clock := &testClock{time.Unix(1_700_000_000, 0)}
	r := newReporter(&out, Options{Now: clock.now})

	images := r.Step("images")
	istio := r.Step("istio")
	images.Progress(0, 1_200_000_000, "B")
	istio.Update("Deployment/istio-system/istiod: 0/1 ready")
	for i := range int64(40) { // 40 s
		clock.advance(time.Second)
		images.Progress((i+1)*12_000_000, 1_200_000_000, "B")
		istio.Update("Deployment/istio-system/istiod: 0/1 ready,\n pulling\x1b[2K image") // changed once
		r.tick()
	}
	r.Note("using %s\nfrom %s", "podman", "PATH")
	istio.Done("ready")
	clock.advance(50 * time.Second)
	images.Fail(errors.New("pulling istio-pilot: connection reset\n  retry 1\n  retry 2"))
	knative := r.Step("knative")
	knative.Progress(3, 12, "objects")
	clock.advance(14200 * time.Millisecond)
	knative.Progress(9, 12, "objects")
	clock.advance(10 * time.Second) // nothing new: nothing said
	r.tick()
	knative.Done("")
	r.Step("flux").Update("GitRepository/flux-system/lab: cloning")
	clock.advance(3 * time.Second)
	r.Close()
	golden(t, "plain.golden", out.Bytes())
}

func TestAPlainReasonIsSaidAtMostEveryTenSecondsAndOnlyWhenItChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{})
		a := r.Step("a")
		b := r.Step("b")
		time.Sleep(time.Second / 2) // between the reporter's own looks
		for i := range 25 {
			a.Update(fmt.Sprintf("try %d", i))
			b.Update("same")
			time.Sleep(time.Second)
		}
		r.Close()
		want := "a: started\nb: started\n" +
			"a: try 0 (0s)\nb: same (0s)\n" +
			"a: try 10 (10s)\n" +
			"a: try 20 (20s)\n" +
			"a: not finished after 25.5 s: try 24\nb: not finished after 25.5 s: same\n"
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestAHeldBackReasonComesOutLaterWithoutAnotherUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{})
		defer r.Close()
		a := r.Step("a")
		a.Update("scheduling")
		time.Sleep(2 * time.Second)
		a.Update("pulling")
		time.Sleep(5 * time.Minute)
		a.Done("ready")
		want := "a: started\na: scheduling (0s)\na: pulling (10s)\na: done after 5m 02s: ready\n"
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestOnlyTheFirstEndOfAStepCounts(t *testing.T) {
	var out bytes.Buffer
	clock := &testClock{time.Unix(0, 0)}
	r := New(&out, Options{Now: clock.now})
	a := r.Step("a")
	a.Done("created")
	a.Fail(errors.New("late"))
	a.Done("again")
	a.Update("still here")
	a.Progress(1, 2, "objects")
	r.Close()
	r.Close()
	b := r.Step("b") // after Close: still told, nothing live
	b.Fail(nil)
	want := "a: started\na: done after 0.0 s: created\nb: started\nb: FAILED after 0.0 s: failed without a reason\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// screen plays what a terminal would show that is wide enough: text, line breaks, carriage returns, colours (which it
// drops), "up", "erase to the end of the line" and "erase to the end of the screen".
func screen(t *testing.T, written string) []string {
	t.Helper()
	rows := [][]rune{nil}
	row, column := 0, 0
	escape := regexp.MustCompile("^\x1b\\[([0-9;]*)([AJKm])")
	for len(written) > 0 {
		if e := escape.FindStringSubmatch(written); e != nil {
			switch e[2] {
			case "A":
				up, err := strconv.Atoi(e[1])
				if err != nil || up > row {
					t.Fatalf("up by %q from row %d", e[1], row)
				}
				row -= up
			case "J":
				rows = rows[:row+1]
				fallthrough
			case "K":
				rows[row] = rows[row][:min(column, len(rows[row]))]
			}
			written = written[len(e[0]):]
			continue
		}
		c, n := utf8.DecodeRuneInString(written)
		written = written[n:]
		switch c {
		case '\x1b':
			t.Fatalf("unexpected escape before %q", written[:min(10, len(written))])
		case '\r':
			column = 0
		case '\n':
			if row, column = row+1, 0; row == len(rows) {
				rows = append(rows, nil)
			}
		default:
			for len(rows[row]) <= column {
				rows[row] = append(rows[row], ' ')
			}
			rows[row][column] = c
			column++
		}
	}
	var lines []string
	for _, r := range rows {
		lines = append(lines, string(r))
	}
	return lines
}

func TestTheLiveLineShowsStepsDoneAndTheLongestRunningStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{Live: true})
		bottom := func() string {
			synctest.Wait()
			lines := screen(t, out.String())
			return lines[len(lines)-1]
		}
		istio := r.Step("istio")
		istio.Update("Deployment/istio-system/istiod: 0/1 ready")
		time.Sleep(2 * time.Second)
		knative := r.Step("knative")
		knative.Update("waiting for CRDs")
		r.Step("flux").Done("unchanged")
		time.Sleep(39*time.Second + 200*time.Millisecond)

		if got, want := bottom(), "33% ███░░░░░░░░░ (1/3)  istio 41s  Deployment/istio-system/istiod: 0/…  +1 more"; got != want {
			t.Errorf("live line\n%s, want\n%s", got, want)
		}
		istio.Done("ready")
		if got, want := bottom(), "66% ███████░░░░░ (2/3)  knative 39s  waiting for CRDs"; got != want {
			t.Errorf("live line\n%s, want\n%s", got, want)
		}
		knative.Update("Deployment/knative-serving/activator: 1/1 ready") // shorter and longer lines leave no rest
		time.Sleep(time.Second)
		knative.Update("almost")
		time.Sleep(time.Second)
		if got, want := bottom(), "66% ███████░░░░░ (2/3)  knative 41s  almost"; got != want {
			t.Errorf("live line\n%s, want\n%s", got, want)
		}
		r.Note("a remark\nof two lines")
		knative.Fail(errors.New("Deployment/knative-serving/webhook: crash loop\nlog line"))
		r.Close()

		want := []string{
			"✓ flux  unchanged  0.0 s",
			"✓ istio  ready  41.2 s",
			"a remark",
			"of two lines",
			"✗ knative  Deployment/knative-serving/webhook: crash loop ...  41.2 s",
			"",
		}
		if got := screen(t, out.String()); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("screen at the end\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

func TestTheLiveLineShowsBytesRateAndTimeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{Live: true})
		images := r.Step("images")
		for i := range int64(41) {
			images.Progress(i*12_000_000, 1_200_000_000, "B")
			time.Sleep(time.Second)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		lines := screen(t, out.String())
		// 12 MB/s over the window, whose end is a second after the last count
		if got, want := lines[len(lines)-1], regexp.MustCompile(`^0% ░{12} \(0/1\)  images 41s  480\.0 MB/1\.2 GB, 11\.\d MB/s, 1m 0\ds left$`); !want.MatchString(got) {
			t.Errorf("live line %q, want %s", got, want)
		}
		r.Close()
	})
}

func TestTheLiveLineNeverReachesTheLastColumn(t *testing.T) {
	var out bytes.Buffer
	r := newReporter(&out, Options{Live: true})
	defer r.Close()
	for range 30 {
		r.Step(strings.Repeat("long-name", 20)).Update(strings.Repeat("reason ", 50))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := length(r.live()[0]); got > 79 {
		t.Errorf("%d columns of 80", got)
	}
}

// counted is what a canary counts, and what it counts a moment later.
var counted = [][]Bar{
	{{Name: "v1", Share: 0.901, Text: "   901   90.1 % (88.1..91.9 %)"}, {Name: "v2", Share: 0.099, Text: "    99    9.9 % (8.1..11.9 %)"}},
	{{Name: "v1", Share: 0.9, Text: "  1350   90.0 % (88.4..91.5 %)"}, {Name: "v2", Share: 0.099, Text: "   149    9.9 % (8.5..11.6 %)"}, {Name: "errors", Share: 0.0007, Text: "     1", Bad: true}},
}

func TestTheLiveAreaShowsBarsAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, shown bytes.Buffer
		r := newReporter(&out, Options{Live: true})
		look := func(what string) {
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			fmt.Fprintf(&shown, "== %s\n%s\n", what, strings.Join(screen(t, out.String()), "\n"))
		}
		r.Step("namespace").Done("mllab-canary")
		other := r.Step("shadow: v1 serves")
		canary := r.Step("canary: 90/10")
		canary.Progress(1000, 2000, "requests")
		canary.Bars(func() []Bar { return counted[0] })
		time.Sleep(3*time.Second + liveEvery/2) // between two drawings
		look("the first running step that counts has bars below the live line")
		canary.Bars(func() []Bar { return counted[1] })
		time.Sleep(liveEvery)
		look("they are redrawn in place, one more than before")
		r.Note("a remark\nof two lines")
		look("a remark stands above them")
		canary.Bars(func() []Bar { return counted[0] })
		time.Sleep(liveEvery)
		look("one fewer leaves no rest")
		other.Bars(func() []Bar { return nil })
		canary.Done("n=2000")
		look("they go with their step")
		other.Done("ready")
		r.Close()
		look("and nothing is left at the end")
		golden(t, "bars.golden", shown.Bytes())
	})
}

func TestALiveAreaIsRedrawnWithoutGoingBlank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := newReporter(&out, Options{Live: true})
		r.Step("a").Bars(func() []Bar { return counted[1] })
		time.Sleep(liveEvery * 3 / 2)
		synctest.Wait()
		const drawn = 4
		r.mu.Lock()
		out.Reset()
		r.mu.Unlock()
		time.Sleep(liveEvery)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		lines, up := strings.CutPrefix(out.String(), fmt.Sprintf("\r\x1b[%dA", drawn-1))
		if !up || strings.Contains(lines, "\x1b[J") || strings.Count(lines, "\n") != drawn-1 {
			t.Errorf("%q, want each of %d lines written over", out.String(), drawn)
		}
		for line := range strings.Lines(lines) {
			if strings.Index(line, "\x1b[K") < 1 || !strings.HasSuffix(strings.TrimSuffix(line, "\n"), "\x1b[K") {
				t.Errorf("%q is not erased behind its end", line)
			}
		}
	})
}

func TestBarsFitTheTerminal(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {50, 24}, {30, 24}, {12, 24}, {1, 24}, {80, 4}, {80, 2}, {80, 1}} {
		r := newReporter(io.Discard, Options{Live: true})
		r.room = func() (int, int) { return size[0], size[1] }
		r.Step("canary: 90/10").Bars(func() []Bar { return counted[1] })
		r.mu.Lock()
		lines := r.live()
		r.mu.Unlock()
		r.Close()
		if len(lines) > max(size[1]-1, 1) {
			t.Errorf("%d columns, %d rows: %d lines", size[0], size[1], len(lines))
		}
		for _, line := range lines {
			if length(line) >= size[0] {
				t.Errorf("%d columns, %d rows: %q takes %d", size[0], size[1], line, length(line))
			}
		}
	}
}

func TestABadBarIsRedOnlyWithColour(t *testing.T) {
	for _, color := range []bool{false, true} {
		r := newReporter(io.Discard, Options{Live: true, Color: color})
		lines := r.barLines(counted[1], 79)
		if strings.Contains(lines[0], "\x1b") || strings.HasPrefix(lines[2], "\x1b[31m") != color || strings.HasSuffix(lines[2], "\x1b[0m") != color {
			t.Errorf("colour %t: %q", color, lines)
		}
	}
}

func TestABarSaysNeitherNothingNorAllBeforeItIs(t *testing.T) {
	for share, want := range map[float64]int{-1: 0, 0: 0, math.NaN(): 0, 0.001: 1, 0.5: 10, 0.999: 19, 1: 20, 2: 20} {
		if got := filled(share, 20); got != want {
			t.Errorf("share %g fills %d of 20, want %d", share, got, want)
		}
	}
}

func TestBarsAreOnlyForATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{})
		a := r.Step("a")
		a.Bars(func() []Bar { t.Error("asked for"); return counted[0] })
		time.Sleep(time.Minute)
		a.Done("ready")
		r.Close()
		if want := "a: started\na: done after 1m 00s: ready\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	})
}

func TestCloseClearsTheLiveLineAndNamesWhatNeverEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{Live: true})
		a := r.Step("a")
		a.Update("waiting for b")
		time.Sleep(1500 * time.Millisecond)
		r.Close()
		time.Sleep(time.Minute) // nothing draws any more
		a.Done("late")
		want := "· a  waiting for b  1.5 s\n"
		if got := strings.Join(screen(t, out.String()), "\n"); got != want {
			t.Errorf("screen %q, want %q", got, want)
		}
	})
}

func TestColorOnlyWhenAskedFor(t *testing.T) {
	for _, color := range []bool{false, true} {
		var out bytes.Buffer
		r := New(&out, Options{Live: true, Color: color})
		r.Step("a").Done("ready")
		r.Step("b").Fail(io.EOF)
		r.Close()
		if got := strings.Contains(out.String(), "\x1b[32m✓\x1b[0m a") && strings.Contains(out.String(), "\x1b[31m✗\x1b[0m b"); got != color {
			t.Errorf("Color %t: %q", color, out.String())
		}
		if !color && strings.Contains(out.String(), "m✓") {
			t.Errorf("colour without being asked: %q", out.String())
		}
	}
}

func TestAFileIsNotATerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := ForTerminal(f)
	r.Step("a").Done("ready")
	r.Close()
	got, err := os.ReadFile(f.Name())
	if err != nil || !regexp.MustCompile(`^a: started\na: done after \d+\.\d s: ready\n$`).Match(got) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestATerminalIsLiveUnlessDumbAndColouredUnlessNoColor(t *testing.T) {
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	for _, c := range []struct {
		env         map[string]string
		live, color bool
	}{
		{map[string]string{"TERM": "xterm"}, true, true},
		{map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, true, false},
		{map[string]string{"TERM": "dumb"}, false, false},
	} {
		got := terminalOptions(tty, func(k string) string { return c.env[k] })
		if got.Live != c.live || got.Color != c.color {
			t.Errorf("%v: live %t, colour %t; want %t, %t", c.env, got.Live, got.Color, c.live, c.color)
		}
	}
}

func TestManyStepsAtOnceWriteWholeLines(t *testing.T) {
	for _, live := range []bool{false, true} {
		var out bytes.Buffer // not safe for concurrent use: the reporter must be
		r := New(&out, Options{Live: live})
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond) // some ticks of the live line
		defer cancel()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := 0; n < 50 || ctx.Err() == nil; n++ {
					task := r.Step(fmt.Sprintf("step-%d", i))
					task.Update("reason")
					task.Progress(int64(n), 50, "objects")
					r.Note("note")
					task.Done("ready")
				}
			})
		}
		wg.Wait()
		r.Close()
		line := regexp.MustCompile(`^(step-\d: (started|done after \d+\.\d s: ready|(reason|0/50 objects|\d+/50 objects, reason|\d+/50 objects).*)|✓ step-\d  ready  \d+\.\d s|note|)$`)
		for _, l := range screen(t, out.String()) {
			if !line.MatchString(l) {
				t.Fatalf("live %t: torn line %q", live, l)
			}
		}
	}
}

func TestDiscardTakesEverything(t *testing.T) {
	r := Discard()
	task := r.Step("a")
	task.Update("x")
	task.Progress(1, 2, "B")
	task.Done("y")
	task.Fail(nil)
	r.Note("z")
	r.Close()
}
