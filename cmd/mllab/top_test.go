package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"mllab.local/internal/fault"
	"mllab.local/internal/prom"
)

func TestTopIsATableWithIntervals(t *testing.T) {
	var b bytes.Buffer
	most := 0.025
	printTop(&b, []prom.Version{{
		Namespace: "team", Model: "model", Version: "v1", Requests: 270,
		Share: prom.Rate{Rate: 0.9, Low: 0.8604, High: 0.9316}, Errors: prom.Rate{High: 0.0136},
		P50: prom.Time{At: 0.0123, Low: 0.01, High: &most}, P95: prom.Time{At: 10, Low: 10},
	}, {Namespace: "team", Model: "model", Version: "v2", Share: prom.Rate{High: 1}}})
	if want := "team       model  v1       270       90.0 % (86.0..93.2)  0.0 % (0.0..1.4)  12ms (10ms..25ms)  10s (over 10s)"; !strings.Contains(b.String(), want) {
		t.Errorf("it is\n%s, want\n%s", b.String(), want)
	}
	if want := "team       model  v2       0         -                    -"; !strings.Contains(b.String(), want) {
		t.Errorf("it is\n%s, want\n%s", b.String(), want)
	}
	b.Reset()
	if printTop(&b, nil); !strings.Contains(b.String(), "no model that Prometheus measures") {
		t.Errorf("of none: %s", b.String())
	}
}

func TestTopIsShownOnceOrUntilTheEnd(t *testing.T) {
	var b bytes.Buffer
	a := &app{stdout: &b}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	measured := func() ([]prom.Version, error) {
		if asked++; asked == 3 {
			cancel()
		}
		return nil, nil
	}
	if err := a.top(ctx, false, measured); err != nil || asked != 1 {
		t.Errorf("once: asked %d times, %v", asked, err)
	}
	if err := a.top(ctx, true, measured); !errors.Is(err, context.Canceled) || asked != 3 { // what was measured last is not shown any more
		t.Errorf("until the end: asked %d times, %v", asked, err)
	}
	if text := b.String(); strings.Count(text, "no model") != 2 || strings.Contains(text, "\x1b") {
		t.Errorf("what is no terminal got %q", text)
	}
	broken := errors.New("no pod of Prometheus is there")
	if err := a.top(t.Context(), true, func() ([]prom.Version, error) { return nil, broken }); !errors.Is(err, broken) || fault.Code(err) != 3 {
		t.Errorf("who does not answer: %v", err)
	}
	if code, _, stderr := call(t, nil, "top"); code != 3 || !strings.Contains(stderr, "mllab up") {
		t.Errorf("without a lab: code %d, %s", code, stderr)
	}
}
