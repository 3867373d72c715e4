// Package report shows progress to a person (on stderr) and writes results for machines (JUnit).
//
// On a terminal there is a live line at the bottom, with bars below it while a step counts, and a permanent line above
// it for each finished step; elsewhere each event is one plain line, and a step's reason is repeated only when it
// changed, at most every 10 s.
package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"
)

// Reporter shows progress. It is safe for concurrent use, and a failure to write is not an error.
type Reporter interface {
	Step(name string) Task           // a piece of work begins
	Note(format string, args ...any) // a remark on lines of its own
	Close()                          // clears the live area and names the steps that never ended; more calls do nothing
}

// Task is one step that runs. Only the first Done or Fail counts, and nothing is shown of it after that.
type Task interface {
	Update(reason string)                    // the newest reason why it is not done yet
	Progress(done, total int64, unit string) // unit "B" for bytes, else a plural noun; total 0 when unknown
	Bars(bars func() []Bar)                  // what it counts, asked for whenever it is drawn; only a terminal shows it
	Done(result string)                      // it ended well: "ready", "unchanged"
	Fail(err error)                          // it ended badly; the first line of err is shown
}

// Bar is one line of a count: its share of all, in 0..1, and words next to it. A Bad one is red on a terminal with colors.
type Bar struct {
	Name  string
	Share float64
	Text  string
	Bad   bool
}

// Options says what the writer can show; Now is time.Now when nil.
type Options struct {
	Live  bool // the writer is a terminal: cursor control and Unicode
	Color bool
	Now   func() time.Time
}

// New returns a Reporter that writes to w, one Write per change.
func New(w io.Writer, o Options) Reporter { return newReporter(w, o) }

func newReporter(w io.Writer, o Options) *reporter {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &reporter{w: w, Options: o, room: func() (columns, rows int) {
		if columns, rows = terminalSize(w); columns == 0 || rows == 0 {
			return 80, 24 // it does not know
		}
		return columns, rows
	}}
}

// ForTerminal returns a Reporter for w: live when w is a terminal that can move its cursor (TERM is not "dumb"), and
// colored unless NO_COLOR is set (https://no-color.org).
func ForTerminal(w io.Writer) Reporter { return New(w, terminalOptions(w, os.Getenv)) }

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := fileOf(w)
	return ok && term.IsTerminal(int(f.Fd()))
}

// fileOf returns the file that w writes to, also through a writer that has it as its Unwrap.
func fileOf(w io.Writer) (*os.File, bool) {
	if wrapper, ok := w.(interface{ Unwrap() io.Writer }); ok {
		return fileOf(wrapper.Unwrap())
	}
	f, ok := w.(*os.File)
	return f, ok
}

// IsColored reports whether ForTerminal would write colors to w.
func IsColored(w io.Writer) bool { return terminalOptions(w, os.Getenv).Color }

func terminalOptions(w io.Writer, getenv func(string) string) Options {
	live := IsTerminal(w) && getenv("TERM") != "dumb"
	return Options{Live: live, Color: live && getenv("NO_COLOR") == ""}
}

// Discard returns a Reporter that shows nothing: it is closed.
func Discard() Reporter {
	r := newReporter(io.Discard, Options{})
	r.closed = true
	return r
}

const (
	liveEvery   = 150 * time.Millisecond // redraw: fast enough for a moving clock
	plainEvery  = time.Second            // look for reasons that were held back
	reasonEvery = 10 * time.Second       // per step, without a terminal
)

type reporter struct {
	Options
	w    io.Writer
	room func() (columns, rows int) // of the terminal

	mu      sync.Mutex
	running []*task // in the order of their beginnings, so the first one runs longest
	begun   int
	ended   int
	drawn   int         // lines of the live area that are on the screen
	timer   *time.Timer // armed while steps run
	closed  bool
}

func (r *reporter) Step(name string) Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &task{r: r, name: oneLine(name), begin: r.Now()}
	r.running = append(r.running, t)
	r.begun++
	if r.Live {
		r.show("")
	} else {
		r.show(t.name + ": started\n")
	}
	r.arm()
	return t
}

func (r *reporter) Note(format string, args ...any) {
	text := strings.TrimRight(clean(fmt.Sprintf(format, args...)), "\n")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.show(text + "\n")
}

func (r *reporter) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	left := slices.Clone(r.running)
	var lines strings.Builder
	for _, t := range left {
		r.remove(t)
		lines.WriteString(r.endLine(t, unfinished, cmp.Or(t.reason, "no reason given")))
	}
	r.show(lines.String())
}

// arm sets the timer that keeps the live area moving, or brings held-back reasons out.
func (r *reporter) arm() {
	every := plainEvery
	if r.Live {
		every = liveEvery
	}
	switch {
	case r.closed:
	case r.timer == nil:
		r.timer = time.AfterFunc(every, r.tick)
	default:
		r.timer.Reset(every)
	}
}

func (r *reporter) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.running) == 0 {
		return
	}
	if r.Live {
		r.show("")
	} else {
		for _, t := range r.running {
			r.sayReason(t)
		}
	}
	r.arm()
}

// show writes permanent text, whole lines, and redraws the live area below it in one Write. Without text each line is
// written over the old one, and only what is left of that is erased: nothing goes blank, so nothing flickers.
func (r *reporter) show(text string) {
	const eraseLine, eraseBelow = "\x1b[K", "\x1b[J"
	var b strings.Builder
	if r.drawn > 0 {
		b.WriteString("\r")
	}
	if r.drawn > 1 {
		fmt.Fprintf(&b, "\x1b[%dA", r.drawn-1) // up
	}
	lines := r.live()
	if r.drawn > 0 && (text != "" || len(lines) == 0) {
		b.WriteString(eraseBelow)
	}
	b.WriteString(text)
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(line + eraseLine)
	}
	if text == "" && r.drawn > len(lines) && len(lines) > 0 {
		b.WriteString(eraseBelow)
	}
	r.drawn = len(lines)
	if b.Len() > 0 {
		_, _ = io.WriteString(r.w, b.String()) // progress is best effort: work goes on when stderr is gone
	}
}

// sayReason is plain mode's line about a running step, if it has something new and it is time for it.
func (r *reporter) sayReason(t *task) {
	now := r.Now()
	state := t.state(now)
	if state == "" || !t.changed || (!t.said.IsZero() && now.Sub(t.said) < reasonEvery) {
		return
	}
	t.said, t.changed = now, false
	r.show(fmt.Sprintf("%s: %s (%s)\n", t.name, state, clock(now.Sub(t.begin))))
}

// remove takes t from the running steps; false when it had ended before.
func (r *reporter) remove(t *task) bool {
	i := slices.Index(r.running, t)
	if i < 0 {
		return false
	}
	r.running = slices.Delete(r.running, i, i+1)
	r.ended++
	return true
}

type ending int

const (
	good ending = iota
	bad
	unfinished
)

func (r *reporter) endLine(t *task, e ending, result string) string {
	took := seconds(r.Now().Sub(t.begin))
	if !r.Live {
		word := [...]string{good: "done", bad: "FAILED", unfinished: "not finished"}[e]
		if result != "" {
			result = ": " + result
		}
		return fmt.Sprintf("%s: %s after %s%s\n", t.name, word, took, result)
	}
	mark := [...]string{good: "✓", bad: "✗", unfinished: "·"}[e]
	columns, _ := r.room()
	head, indent := t.name+"  ", length(mark+" "+t.name)+gap
	if indent > columns/2 { // what is right of it would be too narrow
		head, indent = t.name+"\n    ", 4
	}
	lines := wrap(cmp.Or(result, "done"), columns-indent)
	newLine, before := "\n"+strings.Repeat(" ", indent), "  "
	if length(lines[len(lines)-1]+before+took) > columns-indent {
		before = newLine
	}
	if r.Color {
		mark = [...]string{good: "\x1b[32m", bad: "\x1b[31m", unfinished: "\x1b[33m"}[e] + mark + "\x1b[0m"
		took = "\x1b[2m" + took + "\x1b[0m"
	}
	return mark + " " + head + strings.Join(lines, newLine) + before + took + "\n"
}

// task is a running step; r.mu guards it.
type task struct {
	r       *reporter
	name    string
	begin   time.Time
	reason  string
	meter   *meter       // nil until Progress is called
	said    time.Time    // when plain mode last said its reason
	changed bool         // since then
	bars    func() []Bar // nil when it counts nothing
}

// state is the progress of a running step, and what it waits for.
func (t *task) state(now time.Time) string {
	if t.meter == nil {
		return t.reason
	}
	if t.reason == "" {
		return t.meter.text(now)
	}
	return t.meter.text(now) + ", " + t.reason
}

func (t *task) Update(reason string) {
	reason = oneLine(reason)
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	if reason != t.reason {
		t.reason = reason
		t.news()
	}
}

func (t *task) Progress(done, total int64, unit string) {
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	if t.meter == nil {
		t.meter = &meter{}
	}
	if t.meter.set(t.r.Now(), done, total, unit) {
		t.news()
	}
}

func (t *task) Bars(bars func() []Bar) {
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.bars = bars
}

// news notes a change; the live line takes it up with its next drawing.
func (t *task) news() {
	t.changed = true
	if !t.r.Live && !t.r.closed && slices.Contains(t.r.running, t) {
		t.r.sayReason(t)
	}
}

func (t *task) Done(result string) { t.end(good, oneLine(result)) }

func (t *task) Fail(err error) {
	if err == nil {
		err = errors.New("failed without a reason")
	}
	first, more, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	if first = oneLine(first); more != "" {
		first += " ..."
	}
	t.end(bad, first)
}

func (t *task) end(e ending, result string) {
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	if t.r.remove(t) {
		t.r.show(t.r.endLine(t, e, result))
	}
}

// oneLine makes s one line without control characters.
func oneLine(s string) string { return strings.Join(strings.Fields(clean(s)), " ") }

// escapes are the terminal's control sequences: colors, cursor movements.
var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[ -/]*[@-~]")

// clean drops control characters other than line breaks: they would move the cursor of the live area.
func clean(s string) string {
	s = escapes.ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\r':
			return ' '
		case r != '\n' && unicode.IsControl(r):
			return -1
		}
		return r
	}, s)
}
