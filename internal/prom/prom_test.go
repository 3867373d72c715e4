package prom

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/kube"
)

func TestAnAnswerOfPrometheusIsRead(t *testing.T) {
	read := func(text string) (model.Vector, error) {
		var v vector
		err := json.Unmarshal([]byte(text), &v)
		return v.Data.Result, err
	}
	values, err := read(`{"status":"success","data":{"resultType":"vector","result":[
		{"metric":{"app":"model","code":"200"},"value":[1764400000.1,"12.5"]},{"metric":{},"value":[1764400000.1,"NaN"]}]}}`)
	if err != nil || len(values) != 2 || values[0].Value != 12.5 || values[0].Metric["code"] != "200" || !math.IsNaN(float64(values[1].Value)) {
		t.Errorf("%+v, %v", values, err)
	}
	if values, err := read(`{"data":{"result":[]}}`); err != nil || len(values) != 0 {
		t.Errorf("of nobody: %+v, %v", values, err)
	}
	if values, err := read(`{"data":{"result":[{"value":[1,"much"]}]}}`); err == nil {
		t.Errorf("no number was read as %+v", values)
	}
}

func TestAnAnswerThatIsNoJSONIsAnError(t *testing.T) {
	for _, body := range []string{"", "<html>"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		defer server.Close()
		k, err := kube.New(&rest.Config{Host: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		k.Client = fake.NewClientBuilder().WithObjects(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "p", Labels: map[string]string{"app": "prometheus"}}}).Build()
		if _, err := Query(t.Context(), k, "up"); err == nil || !strings.Contains(err.Error(), "reading what prometheus says") {
			t.Errorf("%q was read: %v", body, err)
		}
	}
}

// answer is what Prometheus says of one series.
func answer(app, version, label, value model.LabelValue, n model.SampleValue) *model.Sample {
	return &model.Sample{Metric: model.Metric{"namespace": "team", "app": app, "target": version, model.LabelName(label): value}, Value: n}
}

func TestVersionsHaveTheirRequestsSharesAndErrors(t *testing.T) {
	requests := model.Vector{
		answer("model", "v1", "code", "200", 269.6), answer("model", "v1", "code", "404", 0),
		answer("model", "v2", "code", "200", 24), answer("model", "v2", "code", "503", 6.2),
		answer("other", "v1", "code", "200", 7), answer("idle", "v1", "code", "200", 0),
		answer("eu", "v1", "code", "200", 3), answer("eu-primary", "v1", "code", "200", 2), // a person's: the Canary is in another namespace
		answer("judged-primary", "v1", "code", "200", 75), answer("judged", "v2", "code", "200", 20), answer("judged-primary", "v2", "code", "200", 5),
	}
	got := top(requests, nil, map[string]string{"team/judged-primary": "judged", "team2/eu-primary": "eu"})
	var told []string
	for _, v := range got {
		told = append(told, fmt.Sprintf("%s/%s/%s %d %.2f %.2f", v.Namespace, v.Model, v.Version, v.Requests, v.Share.Rate, v.Errors.Rate))
	}
	want := []string{"team/eu/v1 3 1.00 0.00", "team/eu-primary/v1 2 1.00 0.00", "team/idle/v1 0 0.00 0.00", "team/judged/v1 75 0.75 0.00", "team/judged/v2 25 0.25 0.00", "team/model/v1 270 0.90 0.00", "team/model/v2 30 0.10 0.20", "team/other/v1 7 1.00 0.00"}
	if !slices.Equal(told, want) {
		t.Errorf("got %q, want %q", told, want)
	}
	if e := got[6].Errors; e.Low < 0.077 || e.Low > 0.078 || e.High < 0.385 || e.High > 0.386 { // Clopper-Pearson, 6 of 30
		t.Errorf("the errors of v2 are %+v", e)
	}
	if idle := got[2].Share; idle.Low != 0 || idle.High != 1 {
		t.Errorf("of no request something is known: %+v", idle)
	}
	if nobody := top(nil, nil, nil); nobody == nil || len(nobody) > 0 {
		t.Errorf("of nobody: %v", nobody)
	}
}

// A Canary that is there says so, and Flagger's metric after it is gone; a person's model of such a name is its own.
func TestFlaggersCopyIsKnownByItsCanary(t *testing.T) {
	canary := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": map[string]any{"namespace": "team", "name": "c"},
		"spec": map[string]any{"targetRef": map[string]any{"kind": "Deployment", "name": "now"}},
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result := ""
		switch query := r.URL.Query().Get("query"); {
		case strings.Contains(query, "sampleapp_requests_total"):
			for _, app := range []string{"now", "now-primary", "before-primary", "eu", "eu-primary", "c-primary"} {
				result += fmt.Sprintf(`,{"metric":{"namespace":"team","app":%q,"target":"v1","code":"200"},"value":[1,"5"]}`, app)
			}
		case query == "last_over_time(flagger_canary_status[60s])":
			result = `,{"metric":{"namespace":"flagger-system","exported_namespace":"team","name":"before"},"value":[1,"1"]}` +
				`,{"metric":{"namespace":"flagger-system","exported_namespace":"other","name":"eu"},"value":[1,"1"]}`
		}
		fmt.Fprintf(w, `{"data":{"result":[%s]}}`, strings.TrimPrefix(result, ","))
	}))
	defer server.Close()
	k, err := kube.New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	k.Client = fake.NewClientBuilder().WithRuntimeObjects(canary, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "p", Labels: map[string]string{"app": "prometheus"}}}).Build()
	versions, err := Top(t.Context(), k, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, v := range versions {
		told = append(told, fmt.Sprintf("%s %d", v.Model, v.Requests))
	}
	if want := []string{"before 5", "c-primary 5", "eu 5", "eu-primary 5", "now 10"}; !slices.Equal(told, want) {
		t.Errorf("got %q, want %q", told, want)
	}
}

func TestTheTimesOfFlaggersCopyAreTheModels(t *testing.T) {
	both := model.Vector{
		answer("m", "v2", "le", "0.1", 90), answer("m", "v2", "le", "+Inf", 90),
		answer("m-primary", "v2", "le", "0.1", 0), answer("m-primary", "v2", "le", "1", 10), answer("m-primary", "v2", "le", "+Inf", 10), answer("m", "v2", "le", "1", 90),
	}
	got := top(model.Vector{answer("m", "v2", "code", "200", 90), answer("m-primary", "v2", "code", "200", 10)}, both, map[string]string{"team/m-primary": "m"})
	if len(got) != 1 || got[0].Requests != 100 || math.Abs(got[0].P95.At-0.55) > 1e-9 {
		t.Errorf("got %+v", got)
	}
}

func TestAPercentileIsOnTheLineBetweenTheBoundsOfItsBucket(t *testing.T) {
	h := histogram{{0.01, 0}, {0.1, 500}, {1, 1000}, {math.Inf(1), 1000}}
	for q, want := range map[float64]float64{0.5: 0.1, 0.25: 0.055, 0.75: 0.55, 0.95: 0.91} {
		if got := h.percentile(q); math.Abs(got.At-want) > 1e-9 || got.High == nil {
			t.Errorf("of %v: %+v, want %v", q, got, want)
		}
	}
	if got := h.percentile(0.5); got.Low != 0.01 || *got.High != 1 { // on a bound: either side may hold it
		t.Errorf("the median is in %v..%v", got.Low, *got.High)
	}
	if got := h.percentile(0.25); got.Low != 0.01 || *got.High != 0.1 {
		t.Errorf("the first quartile is in %v..%v", got.Low, *got.High)
	}
	slow := histogram{{1, 10}, {math.Inf(1), 100}}
	if got := slow.percentile(0.95); got.At != 1 || got.Low != 1 || got.High != nil {
		t.Errorf("over the last bucket: %+v", got)
	}
	for _, empty := range []histogram{nil, {{1, 0}, {math.Inf(1), 0}}} {
		if got := empty.percentile(0.95); got.At != 0 || got.High != nil {
			t.Errorf("of none: %+v", got)
		}
	}
}

// Each end may be wrong in half of 1-Confidence of all samples, and by five
// standard deviations more by chance.
func TestBoundsHoldThePercentileAsOftenAsTheySay(t *testing.T) {
	bounds := []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, math.Inf(1)}
	random := rand.New(rand.NewPCG(1, 2))
	const samples, n = 4000, 120
	for _, q := range []float64{0.5, 0.95, 0.99} {
		const mean = 0.08
		truth := -mean * math.Log(1-q) // of an exponential distribution
		below, above := 0, 0
		for range samples {
			h := make(histogram, len(bounds))
			for i, le := range bounds {
				h[i].le = le
			}
			for range n {
				x := random.ExpFloat64() * mean
				for i := range h {
					if x <= h[i].le {
						h[i].count++
					}
				}
			}
			got := h.percentile(q)
			if truth < got.Low {
				below++
			}
			if got.High != nil && truth > *got.High {
				above++
			}
		}
		if most := int(samples*(1-Confidence)/2 + 5*math.Sqrt(samples*0.025)); below > most || above > most {
			t.Errorf("of %v: %d bounds are above it and %d below, at most %d of %d may be", q, below, above, most, samples)
		}
	}
}
