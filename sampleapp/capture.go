package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mllab.local/sampleapp/api"
)

// capture writes the line of a captured request, an api.Captured. It returns when the line is written: who has the
// answer finds the line, and a log that nobody takes in time slows the model down and loses nothing.
func (a *app) capture(id string, r *http.Request, in []byte, out answer, took time.Duration) {
	if !api.IsCaptured(id, a.capturePercent) {
		return
	}
	shadow := isShadow(r.Host)
	line := []slog.Attr{
		slog.String("id", id),
		slog.String("target", a.target),
		slog.String("revision", a.revision),
		slog.String("pod", a.pod),
	}
	if a.trained != nil {
		line = append(line, slog.String("model", a.trained.digest))
	}
	line = append(line,
		slog.Bool("shadow", shadow),
		slog.String("path", r.URL.Path),
		slog.Int("status", out.code),
		slog.Float64("ms", float64(took.Microseconds())/1000),
		slog.Any("input", asJSON(in)),
		slog.Any("output", asJSON(out.body)),
	)
	a.log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, api.CapturedMsg, line...)
	a.captured.WithLabelValues(strconv.FormatBool(shadow)).Inc()
}

// isShadow says whether a proxy sent a copy: Envoy ends a copy's authority with -shadow, before its port. Istio leaves
// that out unless istiod has DISABLE_SHADOW_HOST_SUFFIX=false, as the lab's has.
//
// https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto#envoy-v3-api-msg-config-route-v3-routeaction-requestmirrorpolicy
func isShadow(authority string) bool {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		authority = host
	}
	return strings.HasSuffix(authority, "-shadow")
}

// asJSON is b as it stands in a captured line.
func asJSON(b []byte) any {
	switch {
	case len(b) == 0:
		return nil
	case len(b) <= api.CapturedSize && json.Valid(b):
		return json.RawMessage(b)
	}
	return bounded(b, api.CapturedSize)
}
