package browser

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// With PAIRS=n, n or more pairs of canaries are run, one of each pair with the page open: it must not take longer, beyond
// what chance does. Nothing else may run on the machine.
func TestAScenarioTakesNoLongerWithThePageOpen(t *testing.T) {
	pairs, _ := strconv.Atoi(os.Getenv("PAIRS"))
	if pairs == 0 {
		t.Skip("it measures for minutes, on a machine where nothing else runs: set PAIRS=8")
	}
	run := func(open bool) (seconds float64) {
		browser := 0
		if open {
			address := serve(t)
			ctx, _ := tab(t, address)
			defer func() { _ = chromedp.Cancel(ctx) }()
			// It looks at the lab first, and again when the run has ended.
			until(t, ctx, `document.querySelector("#lab table") !== null`)
			browser = chromedp.FromContext(ctx).Browser.Process().Pid
		}
		var out strings.Builder
		cmd := mllab(t.Context(), "scenario", "canary", "--short", "-o", "json")
		cmd.Stdout = &out
		began, all, page, here := time.Now(), machine(t), cpu(t, browser), cpu(t, os.Getpid())
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
		wall := time.Since(began).Seconds()
		all, page, here = machine(t)-all, cpu(t, browser)-page, cpu(t, os.Getpid())-here
		scenario := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		var results []struct {
			Seconds float64
			Steps   []struct {
				Evidence struct {
					Watch *struct {
						Sent, Missed int
						Seconds      float64
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(out.String()), &results); err != nil || len(results) != 1 {
			t.Fatalf("%v: %s", err, out.String())
		}
		for _, s := range results[0].Steps {
			// What was due and never sent: the watcher could not keep its rate.
			if w := s.Evidence.Watch; w != nil && w.Missed > 0 {
				t.Errorf("page open %t: the watcher sent %d in %.1f s, and missed %d", open, w.Sent, w.Seconds, w.Missed)
			}
		}
		t.Logf("page open %-5t  %5.1f s (%.1f s of the run)  CPU-seconds: machine %.1f, scenario %.1f, browser %.1f, view and this test %.1f",
			open, wall, results[0].Seconds, all, scenario, page, here-page-scenario)
		return wall
	}
	_ = run(false) // the first one has colder caches
	var ratios []float64
	for i := range pairs {
		var with, without float64
		if i%2 == 0 {
			with, without = run(true), run(false)
		} else {
			without, with = run(false), run(true)
		}
		ratios = append(ratios, math.Log(with/without))
	}
	mean, half := interval(ratios)
	t.Logf("with the page a canary takes %.3f times as long (95 %% interval %.3f to %.3f), %d pairs", math.Exp(mean), math.Exp(mean-half), math.Exp(mean+half), pairs)
	if mean-half > 0 {
		t.Error("that is longer, and not by chance")
	}
}

// interval returns the mean and half of its 95 % interval, by Student's t. The quantile is that of 8 values; for more it
// is a little wider than it need be.
func interval(values []float64) (mean, half float64) {
	const t7 = 2.365
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	var squares float64
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return mean, t7 * math.Sqrt(squares/(n-1)/n)
}

// tick is the unit of /proc's times, in seconds: Linux' USER_HZ is 100 wherever Go runs.
const tick = 0.01

// cpu returns the CPU-seconds of a process and all that it has started.
func cpu(t *testing.T, pid int) (seconds float64) {
	t.Helper()
	parents := map[int]int{}
	used := map[int]float64{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(data), ") ") // after the name
		fields := strings.Fields(rest)
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parents[id], _ = strconv.Atoi(fields[1])
		for _, f := range fields[11:15] { // its own, and of its children that have ended
			n, _ := strconv.ParseFloat(f, 64)
			used[id] += n * tick
		}
	}
	for id := range parents {
		for at := id; at > 1; at = parents[at] {
			if at == pid {
				seconds += used[id]
				break
			}
		}
	}
	return seconds
}

// machine returns the CPU-seconds of all processes.
func machine(t *testing.T) (seconds float64) {
	t.Helper()
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	for i, f := range strings.Fields(first)[1:] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatal(fmt.Errorf("reading /proc/stat: %w", err))
		}
		if i < 3 || i == 5 || i == 6 { // user, nice, system, and interrupts
			seconds += n * tick
		}
	}
	return seconds
}
