// These tests drive a real browser against `mllab view` of a lab that is up. They are a module of their own, so that
// mllab does not depend on a browser's protocol. MLLAB_BIN is the program, MLLAB_NAME and MLLAB_STATE_DIR name the lab.
// With PICTURES the tests also write the pictures of the docs to this folder (`make pictures`).
package browser

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// mllab is the program for the lab that the environment names.
func mllab(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, os.Getenv("MLLAB_BIN"), args...)
}

// serve starts the page and returns its address.
func serve(t *testing.T, flags ...string) string {
	t.Helper()
	cmd := mllab(t.Context(), append([]string{"view"}, flags...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 3 * time.Minute
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("build it first, and name it by MLLAB_BIN: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// tab opens the page in a browser; what it asks for and what goes wrong in it is
// collected.
func tab(t *testing.T, address string) (ctx context.Context, elsewhere func() []string) {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1400, 1000))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 8*time.Minute)
	t.Cleanup(cancel)
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var bad []string
	note := func(what string) { mu.Lock(); bad = append(bad, what); mu.Unlock() }
	chromedp.ListenTarget(ctx, func(e any) {
		switch e := e.(type) {
		case *network.EventRequestWillBeSent:
			if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && u.Host != at.Host {
				note("a request to " + e.Request.URL)
			}
		case *runtime.EventExceptionThrown:
			note(e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.APITypeError {
				note(fmt.Sprint("the console: ", e.Args))
			}
		}
	})
	do(t, ctx, network.Enable(), chromedp.Navigate(address), chromedp.WaitVisible("#runs"))
	return ctx, func() []string { mu.Lock(); defer mu.Unlock(); return bad }
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// asked evaluates an expression in the page.
func asked[T any](t *testing.T, ctx context.Context, js string) (v T) {
	t.Helper()
	do(t, ctx, chromedp.Evaluate(js, &v, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	return v
}

// until returns when an expression in the page is true.
func until(t *testing.T, ctx context.Context, js string) {
	t.Helper()
	do(t, ctx, chromedp.Poll(js, nil, chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(5*time.Minute)))
}

// result is what the test reads of `-o json`.
type result struct {
	Pass  bool
	Steps []struct {
		Name     string
		Evidence struct {
			Verdict *struct{ Counts map[string]int }
			Watch   *struct{ Sent int }
			File    string
		}
	}
}

// axe is the source of axe-core, which finds what keeps people from using a page. pip downloads it, and checks its hash.
// https://github.com/dequelabs/axe-core
var axe = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "axe")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder)
	out, err := exec.Command("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", "requirements.txt", "-d", folder).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("downloading axe-core: %w: %s", err, out)
	}
	wheels, _ := filepath.Glob(filepath.Join(folder, "*.whl")) // the pattern is right
	if len(wheels) != 1 {
		return "", fmt.Errorf("pip downloaded %v", wheels)
	}
	wheel, err := zip.OpenReader(wheels[0])
	if err != nil {
		return "", err
	}
	defer wheel.Close()
	file, err := wheel.Open("axe_playwright_python/axe.min.js")
	if err != nil {
		return "", err
	}
	source, err := io.ReadAll(file)
	return string(source), err
})

// usable fails the test for each serious finding of axe in the page.
func usable(t *testing.T, ctx context.Context, where string) {
	t.Helper()
	source, err := axe()
	if err != nil {
		t.Fatal(err)
	}
	do(t, ctx, chromedp.Evaluate(source+"; true", nil))
	for _, f := range asked[[]string](t, ctx, `axe.run().then((r) => r.violations
		.filter((v) => v.impact === "serious" || v.impact === "critical")
		.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html.slice(0, 120)).join(" ; ")))`) {
		t.Errorf("%s: axe: %s", where, f)
	}
}

func picture(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	folder := os.Getenv("PICTURES")
	if folder == "" {
		return
	}
	var png []byte
	do(t, ctx, chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(filepath.Join(folder, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestThePageShowsWhatTheEvidenceSays(t *testing.T) {
	address := serve(t)
	ctx, elsewhere := tab(t, address)
	until(t, ctx, `document.querySelector("#scenario option") !== null`)

	// A run of another terminal. In the middle the page is loaded again.
	var out strings.Builder
	html := filepath.Join(t.TempDir(), "report.html")
	run := mllab(t.Context(), "scenario", "canary", "--requests", "400", "-o", "json", "--html", html)
	run.Stdout = &out
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, `shown && !shown.result && document.querySelector("#steps [data-step='90/10'] .ok") !== null`)
	// The picture of the routes follows the weights.
	until(t, ctx, `[...document.querySelectorAll("#routes svg")].some((way) => way.getAttribute("aria-label") === "gateway, model.mllab-canary.mllab.test: to model-v1 50 %, model-v2 50 %")`)
	picture(t, ctx, "view")
	do(t, ctx, chromedp.Reload())
	second, _ := tab(t, address) // at once with the first
	until(t, ctx, `document.querySelectorAll("#steps .ok").length >= 3`)
	if err := run.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	until(t, ctx, `document.querySelector("#title").textContent === "PASS canary"`)
	until(t, ctx, `document.querySelector("#lab table") !== null`)
	if asked[bool](t, ctx, `[...document.querySelectorAll("#lab th")].some((th) => th.textContent === "git")`) {
		until(t, ctx, `document.querySelectorAll("#audit [data-commit]").length > 0`)
	}
	var results []result
	if err := json.Unmarshal([]byte(out.String()), &results); err != nil || len(results) != 1 || !results[0].Pass {
		t.Fatalf("%v: %s", err, out.String())
	}
	all := 0
	for _, step := range results[0].Steps {
		if w := step.Evidence.Watch; w != nil {
			all += w.Sent
			if got := asked[string](t, ctx, `document.querySelector("#watcher").dataset.sent`); got != fmt.Sprint(w.Sent) {
				t.Errorf("the page says %s watched requests, the evidence %d", got, w.Sent)
			}
			continue
		}
		data, err := os.ReadFile(step.Evidence.File)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]int{}
		for line := range strings.Lines(string(data)) {
			var a struct{ Target string }
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			counts[a.Target]++
			all++
		}
		js := fmt.Sprintf(`Object.fromEntries(shown.steps.find((s) => s.name === %q).samples.at(-1).counts)`, step.Name)
		shown := asked[map[string]int](t, ctx, js)
		for leg, n := range shown {
			if counts[leg] != n {
				t.Errorf("%s: the page counts %d of %s, the evidence %d", step.Name, n, leg, counts[leg])
			}
			delete(counts, leg)
		}
		if len(counts) > 0 {
			t.Errorf("%s: the page does not count %v", step.Name, counts)
		}
		// On a click, the file.
		// Not by the mouse: the page moves while the lab's state comes in.
		do(t, ctx, chromedp.Evaluate(fmt.Sprintf("document.querySelector(`[data-step=%q] > button`).click()", step.Name), nil))
		until(t, ctx, fmt.Sprintf(`document.activeElement.dataset.step === %q && document.activeElement.dataset.lines === "%d"`, step.Name, strings.Count(string(data), "\n")))
		// And back to where the click was, also without a mouse.
		do(t, ctx, chromedp.KeyEvent(kb.Escape))
		if got, want := asked[string](t, ctx, `document.activeElement.ariaLabel`), "Show its requests: "+step.Name; got != want {
			t.Errorf("after the evidence the focus is on %q, not on %q", got, want)
		}
	}
	// By its tag v2 answers 20 requests of a sample whose file is not the step's last.
	if got := asked[int](t, ctx, `shown.answers`); got != all+20 {
		t.Errorf("the page has counted %d answers, the evidence %d", got, all+20)
	}
	until(t, second, `document.querySelector("#title").textContent === "PASS canary"`)
	if got := asked[int](t, second, `shown.answers`); got != all+20 {
		t.Errorf("a second page has counted %d answers, the evidence %d", got, all+20)
	}
	if bad := elsewhere(); len(bad) > 0 {
		t.Errorf("the page did: %s", strings.Join(bad, "; "))
	}

	// Its report asks for nothing, not even of a server.
	asksFor := len(elsewhere())
	do(t, ctx, chromedp.Navigate("file://"+html), chromedp.WaitVisible("main", chromedp.ByQuery))
	for _, answer := range elsewhere()[asksFor:] {
		if answer != "a request to file://"+html {
			t.Errorf("the report did: %s", answer)
		}
	}
	if text := asked[string](t, ctx, `document.body.innerText`); !strings.Contains(text, "PASS") || !strings.Contains(text, "90/10") {
		t.Errorf("the report says %s", text)
	}
	picture(t, ctx, "report")
	fits(t, ctx, "the report")
	onPaper(t, ctx)
}

// fits looks at a page on a phone, a computer and in 4K, in light and dark.
func fits(t *testing.T, ctx context.Context, what string) {
	t.Helper()
	for _, width := range []int64{380, 1400, 3840} {
		for _, scheme := range []string{"light", "dark"} {
			do(t, ctx, emulation.SetDeviceMetricsOverride(width, 900, 1, false),
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
			until(t, ctx, fmt.Sprintf(`innerWidth === %d`, width))
			if over := asked[float64](t, ctx, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
				t.Errorf("at %d pixels %s is %.0f too wide", width, what, over)
			}
			usable(t, ctx, fmt.Sprintf("%s, %d pixels, %s", what, width, scheme))
		}
	}
}

// masks counts what hides something in a print of the page.
func masks(t *testing.T, ctx context.Context) int {
	t.Helper()
	var pdf []byte
	do(t, ctx, chromedp.ActionFunc(func(ctx context.Context) (err error) { pdf, _, err = page.PrintToPDF().Do(ctx); return err }))
	if !bytes.HasPrefix(pdf, []byte("%PDF")) {
		t.Fatalf("printed is %.20q", pdf)
	}
	return bytes.Count(pdf, []byte("/SMask <</Type /Mask"))
}

// onPaper looks at what is printed when the screen is dark: black on white, within
// the 182 mm that A4 leaves.
func onPaper(t *testing.T, ctx context.Context) {
	t.Helper()
	do(t, ctx, emulation.SetDeviceMetricsOverride(688, 1000, 1, false),
		emulation.SetEmulatedMedia().WithMedia("print").WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}))
	if over := asked[float64](t, ctx, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
		t.Errorf("on paper the page is %.0f pixels too wide", over)
	}
	for part, want := range map[string]string{"backgroundColor": "rgb(255, 255, 255)", "color": "rgb(0, 0, 0)"} {
		if got := asked[string](t, ctx, fmt.Sprintf(`getComputedStyle(document.body).%s`, part)); got != want {
			t.Errorf("on paper its %s is %s", part, got)
		}
	}
}

func TestARefutedClaimIsSeenAtOnceAndAControlRunsFromThePage(t *testing.T) {
	address := serve(t)
	ctx, elsewhere := tab(t, address)
	until(t, ctx, `document.querySelector("#scenario option") !== null`)
	// When which run's refuted step is seen first.
	const seen = `window.seen = {}; new MutationObserver(() => {
		if (document.querySelector("#steps .FAIL") && !(shown.folder in seen)) seen[shown.folder] = Date.now();
	}).observe(document.querySelector("#steps"), {childList: true, subtree: true}); true`
	began, busy := time.Now(), lateness(t)
	do(t, ctx, chromedp.Evaluate(seen, nil), chromedp.SetValue("#scenario", "circuit-breaker"), chromedp.Click("#controls"), chromedp.Click("#go"))
	until(t, ctx, `child.running === true`)
	until(t, ctx, `Object.keys(seen).length > 0`)
	for folder, at := range asked[map[string]int64](t, ctx, `seen`) {
		was, is := refuted(t, folder, began), time.UnixMilli(at)
		late, slow := is.Sub(was), busy(began, is)
		t.Logf("%s: the page shows a refuted claim %s after it was; meanwhile a timer of this test was late by up to %s", folder, late, slow)
		// Three processes pass it on, mllab view and two of the browser, and each of them may have to wait as long.
		if late > time.Second+3*slow {
			t.Error("that is more than a second too late")
		}
	}
	until(t, ctx, `child.running === false`)
	if got := asked[string](t, ctx, `child.error`); got != "" {
		t.Errorf("the controls ended with %q", got)
	}
	if bad := elsewhere(); len(bad) > 0 {
		t.Errorf("the page did: %s", strings.Join(bad, "; "))
	}
}

// lateness returns how late a timer of this process was between two times, at most: that is the machine, and no page.
func lateness(t *testing.T) func(from, to time.Time) time.Duration {
	const every = 50 * time.Millisecond
	var mu sync.Mutex
	ticks := []time.Time{time.Now()}
	tick := time.NewTicker(every)
	t.Cleanup(tick.Stop)
	go func() {
		for t.Context().Err() == nil {
			<-tick.C
			mu.Lock()
			ticks = append(ticks, time.Now())
			mu.Unlock()
		}
	}()
	return func(from, to time.Time) (most time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		for i, at := range ticks[1:] {
			if at.After(from) && ticks[i].Before(to) {
				most = max(most, at.Sub(ticks[i])-every)
			}
		}
		return most
	}
}

// refuted is when a run says in its events that a claim does not hold.
func refuted(t *testing.T, folder string, since time.Time) time.Time {
	t.Helper()
	var env struct {
		State string `json:"MLLAB_STATE_DIR"`
		Name  string `json:"MLLAB_NAME"`
	}
	out, err := mllab(t.Context(), "env", "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &env)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(env.State, env.Name, "evidence", folder, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var e struct {
			At      time.Time
			Type    string
			Checked *struct{ Pass bool }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == "end" && e.Checked != nil && !e.Checked.Pass && e.At.After(since) {
			return e.At
		}
	}
	t.Fatalf("%s: no claim is refuted", folder)
	return time.Time{}
}

func TestAScenarioIsSteppedThroughAndStoppedFromThePage(t *testing.T) {
	address := serve(t)
	ctx, _ := tab(t, address)
	until(t, ctx, `document.querySelector("#scenario option") !== null`)
	// By the keyboard: the names of the two boxes come after the scenario, then the button.
	do(t, ctx, chromedp.Focus("#scenario"), chromedp.KeyEvent("canary"), chromedp.KeyEvent(kb.Tab+kb.Tab+" "+kb.Tab+kb.Enter))
	until(t, ctx, `document.querySelector("#title").textContent === "waits for you canary"`)
	if got := asked[string](t, ctx, `document.querySelector("#news").textContent`); !strings.Contains(got, "v1 serves") {
		t.Errorf("it says %q", got)
	}
	do(t, ctx, chromedp.KeyEvent(kb.Tab+kb.Enter)) // the next button
	until(t, ctx, `document.querySelector("#steps [data-step='v1 serves'] .ok") !== null`)
	do(t, ctx, chromedp.Click("#stop"))
	until(t, ctx, `child.running === false && document.querySelector("#title").textContent === "ERROR canary"`)
}

func TestThePageFitsEveryScreenInDarkAndLight(t *testing.T) {
	address := serve(t)
	ctx, _ := tab(t, address)
	until(t, ctx, `shown !== null`)
	// With what only some labs have: a mirror, and an alert.
	do(t, ctx, chromedp.Evaluate(`window.fetch = ((ask) => async (path, how) => path !== "now" ? ask(path, how) : new Response(JSON.stringify({
		routes: [{hosts: ["model.mllab-shadow.mllab.test"], rules: [{when: "x-mllab-version: v2", to: [{name: "model v2", percent: 100}]},
			{to: [{name: "model v1", percent: 100}, {name: "model v2", percent: 20, mirror: true}]}]}],
		alerts: [{name: "ModelErrors", state: "firing", namespace: "n", app: "a", since: "2026-01-02T03:04:05Z", summary: "50.7 % of the requests are answered 5xx", taken: true}],
	})))(fetch); true`, nil))
	until(t, ctx, `document.querySelector("[data-alert=ModelErrors]") !== null`)
	if got := asked[string](t, ctx, `document.querySelector("#alerts").innerText`); !strings.Contains(got, ":04:05") || !strings.Contains(got, "ModelErrors is firing.") {
		t.Errorf("of an alert it says %q", got)
	}
	const way = "gateway, model.mllab-shadow.mllab.test: with x-mllab-version: v2 to model v2 100 %; to model v1 100 %, copies of 20 % to model v2"
	if got := asked[string](t, ctx, `document.querySelector("#routes svg").getAttribute("aria-label")`); got != way {
		t.Errorf("of a mirror it says %q", got)
	}
	if dashed := asked[int](t, ctx, `document.querySelectorAll("#routes path[stroke-dasharray='5 4']").length`); dashed != 1 {
		t.Errorf("it draws %d mirrors, dashed", dashed)
	}
	fits(t, ctx, "the page")
	// Printing asks for the plots in other colors, and no plot takes from the paper what is above it: clearRect does, and is
	// a mask in the PDF.
	do(t, ctx, chromedp.Evaluate(`window.inks = []; palette = ((own) => () => { const p = own(); inks.push(p.legs[0]); return p; })(palette); true`, nil))
	if n := masks(t, ctx); n > 0 {
		t.Errorf("%d masks hide what is printed above the plots", n)
	}
	if inks := asked[[]string](t, ctx, `inks`); !slices.Contains(inks, "#0072b2") {
		t.Errorf("on paper the plots have the colors %q", inks)
	}
	onPaper(t, ctx)
}

// played is a page with a run that only its test plays.
type played struct {
	ctx    context.Context
	folder string // of the run's evidence
	began  time.Time
	say    func(at time.Time, rest string)
	sent   int
}

func play(t *testing.T) *played {
	t.Helper()
	state := t.TempDir()
	p := &played{folder: filepath.Join(state, "lab", "evidence", "canary"), began: time.Now()}
	if err := os.MkdirAll(p.folder, 0o700); err != nil {
		t.Fatal(err)
	}
	events, err := os.Create(filepath.Join(p.folder, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = events.Close() })
	p.say = func(at time.Time, rest string) {
		t.Helper()
		if _, err := fmt.Fprintf(events, `{"v":1,"at":%q,"run":"canary",%s}`+"\n", at.Format(time.RFC3339Nano), rest); err != nil {
			t.Fatal(err)
		}
	}
	p.say(p.began, `"type":"run","story":{"scenario":"canary","summary":"","steps":[{"name":"90/10"},{"name":"50/50"}]}`)
	p.say(p.began, `"type":"begin","step":"90/10"`)
	p.ctx, _ = tab(t, serve(t, "--state-dir="+state, "--name=lab"))
	return p
}

// answer plays one answer, of v1 and of v2 in turns, or by nobody with a problem.
func (p *played) answer(at time.Time, from, problem string) {
	p.sent++
	by := fmt.Sprintf(`"target":"v%d"`, 1+p.sent%2)
	if problem != "" {
		by = fmt.Sprintf(`"problem":%q`, problem)
	}
	p.say(at, fmt.Sprintf(`"type":"answer","step":"90/10","answer":{"from":%q,"id":"%036d",%s,"pod":"p","ms":%d}`, from, p.sent, by, 1+p.sent%100))
}

// Versions of one name are not one where a run asks several models.
func TestThePageShowsTheModelsOfARunApart(t *testing.T) {
	p := play(t)
	ctx, say := p.ctx, p.say
	answer := func(from, of, target string, ms int) {
		say(time.Now(), fmt.Sprintf(`"type":"answer","step":"90/10","answer":{"from":%q,"id":"i","of":%q,"target":%q,"pod":"p","ms":%d}`, from, of, target, ms))
	}
	for of, ms := range map[string]int{"slow": 3000, "good": 3} {
		say(time.Now(), fmt.Sprintf(`"type":"claim","step":"90/10","claim":{"by":"target","of":%q,"n":4,"alpha":0.1,"regions":[{"leg":"v1","lo":1,"hi":4},{"leg":"v2","lo":0,"hi":3}]}`, of))
		say(time.Now(), `"type":"sample","step":"90/10","n":4`)
		for range 3 {
			answer("sample", of, "v1", 1)
		}
		answer("sample", of, "v2", ms)
		answer("watcher", of, "v2", ms)
	}
	until(t, ctx, `shown !== null && shown.answers === 10 && document.querySelectorAll("#counts tbody tr").length === 4`)
	rows := asked[[]string](t, ctx, `[...document.querySelectorAll("#counts tbody tr")].map((row) => [0, 5, 7].map((i) => row.cells[i].textContent).join(" "))`)
	slices.Sort(rows)
	if got, want := strings.Join(rows, ", "), "good: v1 3 0.991, good: v2 2 3.04, slow: v1 3 0.991, slow: v2 2 2958"; got != want {
		t.Errorf("the page counts %s, want %s", got, want)
	}
	if got := asked[string](t, ctx, `document.querySelector("#legend").innerText.trim()`); strings.Join(strings.Fields(got), " ") != "v1 v2" {
		t.Errorf("the legend has %q", got)
	}
	parts, height := asked[int](t, ctx, `shown.parts.size`), asked[float64](t, ctx, `document.querySelector("#shares").clientHeight`)
	if parts != 2 || height < 300 {
		t.Errorf("%d models are drawn in %.0f pixels", parts, height)
	}
}

// One run takes one look: what makes the page slow makes it late each time, and what else the machine does only now and
// then. So more than half of the claims must be seen in time.
func TestARefutedClaimIsSeenWithinASecond(t *testing.T) {
	p := play(t)
	ctx := p.ctx
	p.say(time.Now(), `"type":"sample","step":"90/10","n":20000`)
	for range 20_000 {
		p.answer(time.Now(), "sample", "")
	}
	until(t, ctx, `shown !== null && shown.answers === 20000`)
	do(t, ctx, chromedp.Evaluate(`window.seen = []; new MutationObserver(() => {
		while (seen.length < document.querySelectorAll("#steps .FAIL").length) seen.push(Date.now());
	}).observe(document.querySelector("#steps"), {childList: true, subtree: true}); true`, nil))
	steps := 0
	late := func(claims int) (late int) {
		t.Helper()
		for range claims {
			steps++
			step := fmt.Sprintf(`"step":"step %d"`, steps)
			p.say(time.Now(), `"type":"begin",`+step)
			at := time.Now()
			p.say(at, `"type":"end",`+step+`,"error":"not so","checked":{"name":"s","pass":false}`)
			until(t, ctx, fmt.Sprintf(`seen.length === %d`, steps))
			took := time.UnixMilli(asked[int64](t, ctx, `seen.at(-1)`)).Sub(at)
			t.Logf("a refuted claim is seen after %s", took)
			if took > time.Second {
				late++
			}
		}
		return late
	}
	if n := late(9); n > 4 {
		t.Errorf("%d of 9 refuted claims are seen after more than a second", n)
	}
	do(t, ctx, chromedp.Evaluate(`drawSteps = ((own) => (run) => { for (const end = Date.now() + 1000; Date.now() < end;); own(run); })(drawSteps); true`, nil))
	if n := late(3); n != 3 {
		t.Errorf("on a page that is a second slower, %d of 3 are late: this test does not find it", n)
	}
}

// An answer is kept as a count: 100,000 more of them take no more memory.
func TestThePageDoesNotGrowWithTheAnswers(t *testing.T) {
	began := time.Now()
	p := play(t)
	ctx := p.ctx
	p.say(began, `"type":"sample","step":"90/10","n":120000`)
	heap := func(answers int) float64 {
		t.Helper()
		for range answers {
			p.answer(began.Add(time.Since(began)/50), "sample", "") // so that all is within a few seconds
		}
		until(t, ctx, fmt.Sprintf(`shown !== null && shown.answers === %d`, p.sent))
		do(t, ctx, heapprofiler.CollectGarbage())
		var used float64
		do(t, ctx, chromedp.ActionFunc(func(ctx context.Context) (err error) {
			used, _, _, _, err = runtime.GetHeapUsage().Do(ctx)
			return err
		}))
		return used
	}
	before, started := heap(20_000), time.Now()
	after := heap(100_000)
	if took := time.Since(started); took > 100_000/500*time.Second {
		t.Errorf("100,000 answers took %s, which is less than 500 in a second", took)
	}
	if after > before+2<<20 {
		t.Errorf("100,000 answers more take %.1f MiB more", (after-before)/(1<<20))
	} else {
		t.Logf("%.1f MiB after 20,000 answers, %.1f MiB after 120,000", before/(1<<20), after/(1<<20))
	}
}

// inked is a function of the page that counts what has a color in a plot, between two parts of its height: what is
// next to each other counts once.
func inked(color string, from, to float64) string {
	return fmt.Sprintf(`((box) => {
		const canvas = box.querySelector("canvas"), ink = %s, want = [1, 3, 5].map((i) => parseInt(ink.slice(i, i + 2), 16)), top = Math.round(%g * canvas.height);
		const {data, width} = canvas.getContext("2d").getImageData(0, top, canvas.width, Math.round(%g * canvas.height) - top), columns = new Set();
		for (let i = 0; i < data.length; i += 4) if (want.every((v, c) => Math.abs(data[i + c] - v) < 8)) columns.add(i / 4 %% width);
		return [...columns].filter((x) => !columns.has(x - 1)).length;
	})`, color, from, to)
}

// red counts the crosses.
var red = inked(`palette().bad`, 0, 0.25)

// What a plot shows of a run is on its canvas, on the page and in a report: losses as crosses, at any resolution, in the
// colors of the screen and of paper, and where a step began. Neither runs what is not its own.
func TestPlotsShowTheRun(t *testing.T) {
	p := play(t)
	ctx, began := p.ctx, p.began
	do(t, ctx, chromedp.Evaluate(`window.letters = {}; CanvasRenderingContext2D.prototype.fillText = ((own) => function (text, x, ...more) { letters[text] = x; own.call(this, text, x, ...more); })(CanvasRenderingContext2D.prototype.fillText); true`, nil))
	p.say(began, `"type":"claim","step":"90/10","claim":{"by":"target","n":200,"alpha":0.001,"regions":[{"leg":"v1","lo":70,"hi":130},{"leg":"v2","lo":70,"hi":130}]}`)
	for n := range 200 {
		p.answer(began.Add(time.Duration(n)*100*time.Millisecond), "sample", "")
	}
	look := func(what, box string, want int) {
		t.Helper()
		if got := asked[int](t, ctx, red+"("+box+")"); got != want {
			t.Fatalf("%s has %d crosses, want %d", what, got, want)
		}
	}
	const shares = `document.querySelector("#shares")`
	until(t, ctx, `shown !== null && shown.answers === 200 && timer === 0 && document.querySelector("#shares canvas") !== null`)
	look("a run without a loss", shares, 0)
	p.say(began.Add(20*time.Second), `"type":"begin","step":"50/50"`)
	for n := range 3 {
		p.answer(began.Add(time.Duration(21+n)*time.Second), "watcher", "status 503")
	}
	for n := range 20 {
		p.answer(began.Add(24*time.Second+time.Duration(n)*100*time.Millisecond), "watcher", "")
	}
	until(t, ctx, `shown.answers === 223 && timer === 0`)
	look("a run with three losses", shares, 3)
	for step, at := range map[string]string{"1": "0 s", "2": "20 s"} {
		if off := asked[float64](t, ctx, fmt.Sprintf(`Math.abs(letters[%q] - letters[%q])`, step, at)); off > 2 {
			t.Errorf("the number of step %s is %.0f pixels from %s", step, off, at)
		}
	}
	for _, scheme := range []string{"light", "dark"} {
		do(t, ctx, emulation.SetDeviceMetricsOverride(1400, 900, 2, false),
			emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
		until(t, ctx, `((c) => c.width === Math.round(2 * c.clientWidth) && c.clientWidth > 0)(document.querySelector("#shares canvas")) && `+red+"("+shares+") === 3")
	}
	const runs = `(() => { const s = document.createElement("script"); s.text = "window.strange = true"; document.body.append(s); return window.strange === true; })()`
	if asked[bool](t, ctx, runs) {
		t.Error("the page runs what is not its own")
	}
	do(t, ctx, emulation.ClearDeviceMetricsOverride())
	if n := masks(t, ctx); n > 0 {
		t.Errorf("%d masks hide what is printed above the plots", n)
	}
	// The same with what the plots must not do, or the count would find nothing.
	for what, broken := range map[string]string{
		"the squares": `blank = (c, p, ...part) => c.clearRect(...part); squared = {}; redraw(soon); true`,
		"the shares":  `Object.defineProperty(CanvasRenderingContext2D.prototype, "clearRect", {get: ((own) => () => own)(CanvasRenderingContext2D.prototype.clearRect), set() {}}); true`,
	} {
		do(t, ctx, chromedp.Reload())
		until(t, ctx, `shown !== null && shown.answers === 223 && timer === 0`)
		do(t, ctx, chromedp.Evaluate(broken, nil))
		if masks(t, ctx) == 0 {
			t.Errorf("no mask is found where %s are cleared", what)
		}
	}

	html := filepath.Join(t.TempDir(), "report.html")
	report, err := mllab(t.Context(), "report", p.folder).Output()
	if err == nil {
		err = os.WriteFile(html, report, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	do(t, ctx, chromedp.Navigate("file://"+html), chromedp.WaitVisible("[data-plot=latency] canvas"))
	look("the report", `document.querySelector("[data-plot=shares]")`, 3)
	if asked[bool](t, ctx, runs) {
		t.Error("the report runs what is not its own")
	}
	if n := masks(t, ctx); n > 0 {
		t.Errorf("%d masks hide what is printed above the report's plots", n)
	}
	onPaper(t, ctx)
}

// The page computes its intervals itself. The report's tables have those of mllab.
func TestThePageHasTheIntervalsOfTheReport(t *testing.T) {
	p := play(t)
	sent := 0
	var shown []string
	for _, counts := range [][]int{{90, 10, 0}, {1, 0, 0}, {0, 1000, 0}, {1500, 499, 1}} {
		var answers []string
		for leg, n := range counts {
			answers = append(answers, slices.Repeat([]string{fmt.Sprintf("v%d", leg+1)}, n)...)
		}
		p.say(p.began, fmt.Sprintf(`"type":"claim","step":"90/10","claim":{"by":"target","n":%d,"alpha":0.001,"regions":[{"leg":"v1","lo":0,"hi":1},{"leg":"v2","lo":0,"hi":1},{"leg":"v3","lo":0,"hi":1}]}`, len(answers)))
		p.say(p.began, fmt.Sprintf(`"type":"sample","step":"90/10","n":%d`, len(answers)))
		for i, by := range answers {
			p.say(p.began.Add(time.Duration(i)*time.Millisecond), fmt.Sprintf(`"type":"answer","step":"90/10","answer":{"from":"sample","id":"i","target":%q,"pod":"p","ms":1}`, by))
		}
		sent += len(answers)
		until(t, p.ctx, fmt.Sprintf(`shown !== null && shown.answers === %d && timer === 0`, sent))
		shown = append(shown, asked[[]string](t, p.ctx, `[...document.querySelectorAll("#counts tbody tr")].map((row) => [0, 1, 3].map((i) => row.cells[i].textContent).join(" ").replaceAll(" %", ""))`)...)
	}
	p.say(p.began.Add(2*time.Second), `"type":"end","step":"90/10","checked":{"name":"90/10","pass":true}`)
	report, err := mllab(t.Context(), "report", p.folder).Output()
	if err != nil {
		t.Fatal(err)
	}
	html := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(html, report, 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, p.ctx, chromedp.Navigate("file://"+html), chromedp.WaitVisible("[data-plot=shares] canvas"))
	want := asked[[]string](t, p.ctx, `[...document.querySelectorAll(".steps table tbody tr")].filter((row) => row.cells.length === 5).map((row) => [0, 1, 3].map((i) => row.cells[i].textContent).join(" ").replaceAll(" %", ""))`)
	if !slices.Contains(want, "v1 90 82.4 to 95.1") {
		t.Errorf("the report has %q", want)
	}
	if !slices.Equal(shown, want) {
		t.Errorf("the page has %q,\nthe report %q", shown, want)
	}
}

// A picture asks for no layout, which the browser would have to compute first: the plots are as wide as they were.
func TestAPictureAsksForNoLayout(t *testing.T) {
	p := play(t)
	for range 10 {
		p.answer(time.Now(), "sample", "")
	}
	until(t, p.ctx, `shown !== null && shown.answers === 10 && timer === 0 && document.querySelector("#shares canvas") !== null`)
	if n := asked[int](t, p.ctx, `((asked) => {
		getComputedStyle = ((own) => (...of) => { asked++; return own(...of); })(getComputedStyle);
		const width = Object.getOwnPropertyDescriptor(Element.prototype, "clientWidth");
		Object.defineProperty(Element.prototype, "clientWidth", {get() { asked++; return width.get.call(this); }});
		draw();
		const drawn = asked;
		measure();
		return asked > drawn ? drawn : -1;
	})(0)`); n != 0 {
		t.Errorf("it asks %d times", n)
	}
	// What it does not ask for, it is told.
	for _, width := range []int64{500, 1400} {
		do(t, p.ctx, emulation.SetDeviceMetricsOverride(width, 900, 1, false))
		until(t, p.ctx, fmt.Sprintf(`innerWidth === %d && document.querySelector("#shares canvas").width === document.querySelector("#shares").clientWidth`, width))
	}
}

// Two samples are two lines, also where there is less than a pixel between them.
func TestSamplesAreNotConnected(t *testing.T) {
	p := play(t)
	for at, by := range []string{"v1", "v2"} { // first all of v1, then none
		p.say(p.began, fmt.Sprintf(`"type":"claim","step":"90/10","claim":{"by":"target","n":9,"alpha":0.001,"regions":[{"leg":"v1","lo":%[1]d,"hi":%[1]d}]}`, 9-9*at))
		for n := range 9 {
			p.say(p.began.Add(10*time.Second+time.Duration(801*at+100*n)*time.Millisecond), fmt.Sprintf(`"type":"answer","step":"90/10","answer":{"from":"sample","id":"i","target":%q,"pod":"p","ms":1}`, by))
		}
	}
	p.say(p.began.Add(20*time.Second), `"type":"begin","step":"50/50"`)
	until(t, p.ctx, `shown !== null && shown.answers === 18 && shown.steps.length === 2 && timer === 0`)
	if n := asked[int](t, p.ctx, inked(`palette().legs[0]`, 0.3, 0.7)+`(document.querySelector("#shares"))`); n > 0 {
		t.Errorf("in %d columns there is a line from one sample to the next", n)
	}
	if n := asked[int](t, p.ctx, inked(`palette().legs[0]`, 0, 1)+`(document.querySelector("#shares"))`); n == 0 {
		t.Error("no line is drawn at all")
	}
}

// From the evidence of a step one comes back to where one was, with Escape and with the button.
func TestTheFocusComesBackFromTheEvidence(t *testing.T) {
	p := play(t)
	ctx := p.ctx
	if err := os.WriteFile(filepath.Join(p.folder, "01.jsonl"), []byte(`{"id":"a","target":"v1","status":200}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.say(time.Now(), `"type":"end","step":"90/10","checked":{"name":"90/10","pass":true,"evidence":{"file":"/x/01.jsonl"}}`)
	p.say(time.Now(), `"type":"begin","step":"50/50"`)
	p.say(time.Now(), `"type":"end","step":"50/50","checked":{"name":"50/50","pass":true,"evidence":{"file":"/x/01.jsonl"}}`)
	const name = `document.activeElement.ariaLabel || document.activeElement.textContent.slice(0, 40)`
	const own = "Show its requests: 50/50"
	until(t, ctx, `document.querySelectorAll("#steps li > button").length === 2`)
	for what, leave := range map[string]chromedp.Action{"Escape": chromedp.KeyEvent(kb.Escape), "its button": chromedp.KeyEvent(kb.Tab + kb.Enter)} {
		do(t, ctx, chromedp.Focus("#steps li[data-step='50/50'] > button"), chromedp.KeyEvent(kb.Enter))
		until(t, ctx, `document.activeElement.id === "evidence" && document.activeElement.dataset.lines === "1"`)
		do(t, ctx, leave)
		if got := asked[string](t, ctx, name); got != own {
			t.Errorf("after %s the focus is on %q, not on %q", what, got, own)
		}
		if !asked[bool](t, ctx, `document.querySelector("#evidence").hidden`) {
			t.Errorf("after %s the evidence is still there", what)
		}
	}
	// Who is elsewhere meanwhile stays there.
	do(t, ctx, chromedp.Focus("#steps li[data-step='50/50'] > button"), chromedp.KeyEvent(kb.Enter))
	until(t, ctx, `document.activeElement.id === "evidence"`)
	do(t, ctx, chromedp.Focus("#go"), chromedp.KeyEvent(kb.Escape))
	if got := asked[string](t, ctx, name); got != "Start" {
		t.Errorf("Escape moved the focus from Start to %q", got)
	}
}

func TestTheLabsRequestsAreShownAgainstItsCapacity(t *testing.T) {
	ctx := play(t).ctx
	do(t, ctx, chromedp.Evaluate(`window.fetch = ((ask) => async (path, how) => path !== "lab" ? ask(path, how) : new Response(JSON.stringify({cluster: "lab", ready: true,
		requests: {cpuMillis: 1250, cpuCapacityMillis: 2000, memoryBytes: 1.5 * 2 ** 30, memoryCapacityBytes: 4 * 2 ** 30}})))(fetch); true`, nil), chromedp.Click("#refresh"))
	until(t, ctx, `document.querySelector("#lab table") !== null`)
	if got, want := asked[string](t, ctx, `document.querySelector("#lab table").innerText.replace(/\s+/g, " ").trim()`), "lab ready CPUs requested 1.25 of 2 Memory requested 1.5 of 4.0 GiB"; got != want {
		t.Errorf("of the lab the page says %q, want %q", got, want)
	}
}

func TestTheSystemsBrowserIsOpenedAtThePage(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "opened")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"xdg-open", "open"} { // Linux', and macOS'
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nprintf %s \"$*\" >"+pipe+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	address := serve(t, "--state-dir="+dir, "--name=lab", "--open")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if opened, err := exec.CommandContext(ctx, "cat", pipe).Output(); err != nil || string(opened) != address {
		t.Errorf("opened is %q, want %q: %v", opened, address, err)
	}
}
