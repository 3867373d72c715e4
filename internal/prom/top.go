package prom

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"mllab.local/internal/kube"
	"mllab.local/internal/split"
)

// Confidence of each interval here.
const Confidence = 0.95

// Version is what one version of a model was asked, and how it answered.
type Version struct {
	Namespace string `json:"namespace"`
	Model     string `json:"model"`
	Version   string `json:"version"`
	Requests  int    `json:"requests"`
	Share     Rate   `json:"share"`  // of the model's requests
	Errors    Rate   `json:"errors"` // of its own requests: 5xx
	P50       Time   `json:"p50"`
	P95       Time   `json:"p95"`
	P99       Time   `json:"p99"`
}

// Rate is a share in 0..1 with its exact interval.
type Rate struct {
	Rate float64 `json:"rate"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Time is a percentile of the times to answer, in seconds, and the bounds that
// hold it. Nothing is known between two buckets of a histogram: At is on the line
// between their bounds, as in histogram_quantile. High is infinite, and absent in
// JSON, when it may be above the last bucket.
type Time struct {
	At   float64  `json:"at"`
	Low  float64  `json:"low"`
	High *float64 `json:"high,omitempty"`
}

// Top returns what each version of each sample model was asked in the last
// window, by namespace, model and version. Counts are Prometheus' estimates:
// increase extends what lies between two looks to the whole window. Flagger's copy of
// a model counts as that.
//
// https://prometheus.io/docs/prometheus/latest/querying/functions/#increase
// https://docs.flagger.app/usage/monitoring#metrics
func Top(ctx context.Context, k *kube.Client, window time.Duration) ([]Version, error) {
	seconds := fmt.Sprintf("[%ds]", int(window.Seconds()))
	requests, err := Query(ctx, k, "sum by (namespace, app, target, code) (increase(sampleapp_requests_total"+seconds+"))")
	if err != nil {
		return nil, err
	}
	buckets, err := Query(ctx, k, "sum by (namespace, app, target, le) (increase(sampleapp_request_duration_seconds_bucket"+seconds+"))")
	if err != nil {
		return nil, err
	}
	primaries, err := k.Primaries(ctx)
	if err != nil {
		return nil, err
	}
	judged, err := Query(ctx, k, "last_over_time(flagger_canary_status"+seconds+")") // of Canaries that are gone, too
	if err != nil {
		return nil, err
	}
	for _, v := range judged { // Prometheus renames a label that the scrape of Flagger's own pod has
		name := string(v.Metric["name"])
		primaries[kube.Primary(string(v.Metric["exported_namespace"]), name)] = name
	}
	return top(requests, buckets, primaries), nil
}

func top(requests, buckets model.Vector, primaries map[string]string) []Version {
	type app struct{ namespace, name string }
	type key struct {
		app
		version string
	}
	of := func(v *model.Sample) key {
		namespace, name := string(v.Metric["namespace"]), string(v.Metric["app"])
		return key{app{namespace, cmp.Or(primaries[namespace+"/"+name], name)}, string(v.Metric["target"])}
	}
	all, errors, histograms, total := map[key]int{}, map[key]int{}, map[key]histogram{}, map[app]int{}
	for _, v := range requests {
		n := int(math.Round(float64(v.Value)))
		all[of(v)] += n
		total[of(v).app] += n
		if strings.HasPrefix(string(v.Metric["code"]), "5") {
			errors[of(v)] += n
		}
	}
	for _, v := range buckets {
		if le, err := strconv.ParseFloat(string(v.Metric["le"]), 64); err == nil {
			h, n := histograms[of(v)], int(math.Round(float64(v.Value)))
			if i := slices.IndexFunc(h, func(b bucket) bool { return b.le == le }); i >= 0 {
				h[i].count += n
			} else {
				histograms[of(v)] = append(h, bucket{le, n})
			}
		}
	}
	versions := []Version{}
	for k, n := range all {
		h := histograms[k]
		slices.SortFunc(h, func(a, b bucket) int { return cmp.Compare(a.le, b.le) })
		versions = append(versions, Version{
			Namespace: k.namespace, Model: k.name, Version: k.version, Requests: n,
			Share: rate(n, total[k.app]), Errors: rate(errors[k], n),
			P50: h.percentile(0.50), P95: h.percentile(0.95), P99: h.percentile(0.99),
		})
	}
	slices.SortFunc(versions, func(a, b Version) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Model, b.Model), strings.Compare(a.Version, b.Version))
	})
	return versions
}

func rate(count, n int) Rate {
	if n == 0 {
		return Rate{High: 1}
	}
	low, high := split.Interval(count, n, Confidence)
	return Rate{float64(count) / float64(n), low, high}
}

// histogram has the buckets of one, sorted; each counts what is in those before
// it, too, and the last has no bound.
type histogram []bucket

type bucket struct {
	le    float64 // seconds
	count int
}

// percentile returns the q-th, and the bounds of the buckets that hold it: below
// Low are surely fewer than q of all, and below High more, each but for half of
// 1-Confidence. Of a bound it is known how many requests of the sample it holds,
// so the counts that a bound at the percentile could have say on which side of it that is.
func (h histogram) percentile(q float64) (t Time) {
	if len(h) == 0 || h[len(h)-1].count == 0 {
		return t
	}
	n := h[len(h)-1].count
	least, most, _ := split.Between(n, q, q, 1-Confidence) // fails for no sample only
	before, found := bucket{}, false
	for _, b := range h {
		if !found && float64(b.count) >= q*float64(n) {
			found = true
			if t.At = before.le; !math.IsInf(b.le, 1) {
				t.At += (b.le - before.le) * (q*float64(n) - float64(before.count)) / float64(b.count-before.count)
			}
		}
		if math.IsInf(b.le, 1) {
			break
		}
		if b.count < least {
			t.Low = b.le
		}
		if b.count > most {
			t.High = &b.le
			break
		}
		before = b
	}
	return t
}
