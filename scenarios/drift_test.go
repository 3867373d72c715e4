package scenarios

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/probe"
	"mllab.local/sampleapp/api"
)

// twoFeatures is a model of two rows, of which the second was held out.
func twoFeatures() modelFiles {
	return modelFiles{
		Model: digestA, features: []string{shiftedFeature, movedFeature},
		reference: heldOut{Instances: [][]float64{{1, movedLimit}}, Labels: []int{1}},
		held:      heldOut{Instances: [][]float64{{2, movedLimit + 1}}, Labels: []int{1}},
	}
}

// driftOf is a story after requests, of which each is of that kind.
func driftOf(t *testing.T, all ...asked) *driftStory {
	t.Helper()
	users, err := newPopulation(nil, twoFeatures())
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range all {
		a.id = fmt.Sprint(i)
		users.place[a.id] = i
		users.answered = append(users.answered, a)
	}
	return &driftStory{Options: Options{Alpha: DefaultAlpha}, detector: detector{users: users, model: modelFiles{Model: "new"}}, first: twoFeatures()}
}

func TestUsersSendRowsAsTheyAreNow(t *testing.T) {
	var bodies []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Instances [][]float64 }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		bodies = append(bodies, fmt.Sprint(in.Instances))
		w.Header().Set(api.HeaderTarget, "first")
		w.Header().Set(api.HeaderModel, digestA)
		w.Header().Set(api.HeaderID, r.Header.Get(api.HeaderID))
		fmt.Fprint(w, `{"prediction": [1]}`)
	}))
	defer srv.Close()
	users, err := newPopulation(probe.NewHTTP(0), twoFeatures())
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (rows map[string]int, right int) {
		bodies = nil
		begin := len(users.answered)
		for range 40 {
			if a := users.Send(t.Context(), probe.Request{URL: srv.URL}); !a.OK() {
				t.Fatal(a.Problem())
			}
		}
		rows = map[string]int{}
		for i, b := range bodies {
			a := users.answered[begin+i]
			rows[fmt.Sprint(b, a.label)]++
			if a.right {
				right++
			}
		}
		return rows, right
	}
	small, large := fmt.Sprintf("[[1 %d]]1", movedLimit), fmt.Sprintf("[[2 %d]]1", movedLimit+1)
	if rows, right := ask(); len(rows) != 2 || rows[small] == 0 || rows[large] == 0 || right != 40 {
		t.Errorf("without drift: %v, %d right", rows, right)
	}
	users.drift(true, false)
	if rows, _ := ask(); len(rows) != 2 || rows[fmt.Sprintf("[[1.5 %d]]1", movedLimit)] == 0 || rows[fmt.Sprintf("[[3 %d]]1", movedLimit+1)] == 0 {
		t.Errorf("shifted: %v", rows)
	}
	users.drift(false, true)
	moved := fmt.Sprintf("[[2 %d]]%d", movedLimit+1, malignant)
	if rows, right := ask(); len(rows) != 2 || rows[small] == 0 || rows[moved] == 0 || right != rows[small] {
		t.Errorf("with other labels: %v, %d right", rows, right)
	}

	// Labels are late, once, and of this model; a broken device's rows get none.
	if due := users.due(digestA); len(due) != 0 {
		t.Errorf("%d labels are early", len(due))
	}
	for range labelsLate / 40 {
		ask()
	}
	due := users.due(digestA)
	if len(due) != 80 || len(users.due("another")) != 0 { // the first 40, and 40 with other labels
		t.Errorf("%d labels are due", len(due))
	}
	for id := range due {
		if n, is := users.place[id]; !is || n >= 40 && n < 80 {
			t.Errorf("request %d has a label", n)
		}
		users.taken([]string{id})
	}
	if due := users.due(digestA); len(due) != 0 {
		t.Errorf("%d labels are due twice", len(due))
	}
}

func TestUsersNeedTheTrainingRows(t *testing.T) {
	for name, change := range map[string]func(*modelFiles){
		"no reference": func(m *modelFiles) { m.reference = heldOut{} },
		"no label":     func(m *modelFiles) { m.reference.Labels = nil },
		"no feature":   func(m *modelFiles) { m.features = m.features[:1] },
	} {
		m := twoFeatures()
		change(&m)
		if _, err := newPopulation(nil, m); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestTheDistanceIsKolmogorovs(t *testing.T) {
	m := twoFeatures()
	m.reference.Instances = [][]float64{{1, 0}, {2, 0}, {3, 0}, {4, 0}}
	m.reference.Labels = []int{1, 1, 1, 1}
	m.held.Instances = [][]float64{{4, 0}}
	users, err := newPopulation(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	// 1.5, 3, 4.5, 6, 6 against 1, 2, 3, 4: after 4 all against 2 of 5.
	if d := users.distance(m); math.Abs(d-0.6) > 1e-9 {
		t.Errorf("it is %v", d)
	}
	if p := missedShift(0.6, 0.4); math.Abs(p-math.Exp(-8)) > 1e-12 || missedShift(0.3, 0.4) != 1 {
		t.Errorf("a window misses it with %v", p)
	}
}

func TestDriftIsJudged(t *testing.T) {
	// In both worlds drift begins after 50 requests. 30 that are under way then, without drift, are answered later.
	plain, shifted, moved := asked{told: true}, asked{shifted: true}, asked{moved: true, told: true}
	begin := slices.Concat(slices.Repeat([]asked{plain}, 50), slices.Repeat([]asked{shifted}, 20), slices.Repeat([]asked{plain}, 30))
	shifting, moving := append(slices.Clone(begin), slices.Repeat([]asked{shifted}, 900)...), append(slices.Clone(begin), slices.Repeat([]asked{moved}, 900)...)

	shift := func(features ...string) driftAlarm {
		return driftAlarm{Kind: covariate, Features: features, Look: 2, First: "100"} // 120 shifted requests
	}
	labels := driftAlarm{Kind: concept, Features: []string{""}, Look: 3, First: "100"} // 220 with other labels
	late := func(a driftAlarm) driftAlarm { a.Look++; return a }
	early := func(a driftAlarm) driftAlarm { a.First = "69"; return a } // the last that is shifted
	silence, named, noticed := (*driftStory).judgeSilence, (*driftStory).judgeShift, (*driftStory).judgeMoved
	for _, tc := range []struct {
		name    string
		judge   func(*driftStory, detected) (Evidence, error)
		world   []asked
		alarms  []driftAlarm
		refutes Claim
	}{
		{"silent", silence, begin, nil, ""},
		{"an alarm without drift", silence, begin, []driftAlarm{labels}, Calm},
		{"the feature is named", named, shifting, []driftAlarm{shift(shiftedFeature)}, ""},
		{"no alarm", named, shifting, nil, Alarm},
		{"a late alarm", named, shifting, []driftAlarm{late(shift(shiftedFeature))}, Alarm},
		{"another feature", named, shifting, []driftAlarm{shift(movedFeature)}, Cause},
		{"one feature too many", named, shifting, []driftAlarm{shift(shiftedFeature, movedFeature)}, Cause},
		{"the labels instead", named, shifting, []driftAlarm{labels}, Cause},
		{"the labels alone", noticed, moving, []driftAlarm{labels}, ""},
		{"after the shift before", noticed, moving, []driftAlarm{early(shift(shiftedFeature)), labels}, ""},
		{"a feature, too", noticed, moving, []driftAlarm{shift(movedFeature), labels}, Cause},
		{"no alarm of the labels", noticed, moving, []driftAlarm{early(shift(shiftedFeature))}, Alarm},
		{"a late alarm of the labels", noticed, moving, []driftAlarm{late(labels)}, Alarm},
	} {
		e, err := tc.judge(driftOf(t, tc.world...), detected{Alarms: tc.alarms, Critical: 0.3})
		if refutedClaim(err) != tc.refutes || (err == nil) != (tc.refutes == "") || e.Summary == "" || strings.Contains(e.Summary, "%!") {
			t.Errorf("%s: %v; %s", tc.name, err, e.Summary)
		}
	}
}

func TestTheNewModelMustBeBetter(t *testing.T) {
	old := func(n int, a asked) []asked { a.model = digestA; return slices.Repeat([]asked{a}, n) }
	ofNew := func(right, wrong int) []asked {
		return append(slices.Repeat([]asked{{model: "new", moved: true, right: true}}, right), slices.Repeat([]asked{{model: "new", moved: true}}, wrong)...)
	}
	begin := slices.Concat(old(100, asked{right: true}), old(50, asked{shifted: true}), old(60, asked{moved: true, right: true}), old(60, asked{moved: true}))
	for _, tc := range []struct {
		name         string
		right, wrong int
		alarms       []driftAlarm
		refutes      Claim
	}{
		{"better", 115, 5, nil, ""},
		{"as bad", 60, 60, nil, Recovery},
		{"not shown to be better", 80, 40, nil, Recovery},
		{"better, and drifts", 115, 5, []driftAlarm{{Kind: concept}}, Recovery},
	} {
		e, err := driftOf(t, append(slices.Clone(begin), ofNew(tc.right, tc.wrong)...)...).judgeRecovery(detected{Alarms: tc.alarms})
		if refutedClaim(err) != tc.refutes || (err == nil) != (tc.refutes == "") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if want := "before 100.0 % (96.4..100.0) of 100, during 50.0 % (40.7..59.3) of 120"; !strings.Contains(e.Summary, want) {
			t.Errorf("%s: it says %q, want %q", tc.name, e.Summary, want)
		}
	}
	if _, err := driftOf(t).judgeRecovery(detected{}); err == nil || refutedClaim(err) != "" {
		t.Errorf("of no requests it says %v", err)
	}
}

// The detector may start trainings, and otherwise only read, in its namespace.
func TestTheDetectorMayOnlyReadAndTrain(t *testing.T) {
	objs, err := render("drift/watched.yaml", map[string]any{
		"Namespace": "ns", "Target": "first", "Image": "i", "Model": "m", "Python": "p", "Scrape": "2s", "Alpha": DefaultAlpha, "Window": 1, "Retrain": 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objs {
		if strings.HasPrefix(o.GetKind(), "ClusterRole") {
			t.Errorf("it has a %s", o.GetKind())
		}
		rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
		for _, r := range rules {
			rule := r.(map[string]any)
			got = append(got, fmt.Sprint(rule["apiGroups"], rule["resources"], rule["verbs"]))
		}
		if ref, _, _ := unstructured.NestedString(o.Object, "roleRef", "kind"); o.GetKind() == "RoleBinding" && ref != "Role" {
			t.Errorf("it is bound to a %s", ref)
		}
	}
	if want := []string{"[] [pods] [list]", "[] [pods/log] [get]", "[trainer.kubeflow.org] [trainjobs] [create]"}; !reflect.DeepEqual(got, want) {
		t.Errorf("it may %q, want %q", got, want)
	}
}

// The simulation in Python is of what the scenario does, with the image's libraries.
func TestTheSimulationIsOfTheScenario(t *testing.T) {
	read := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	simulated := read("testdata/python/detector_test.py")
	for _, want := range []string{
		fmt.Sprintf(`LAB = {"alpha": 1e-6, "window": %d}`, driftWindow), fmt.Sprintf(`index("%s")`, shiftedFeature), fmt.Sprintf(", %g, feature", shiftedBy),
		fmt.Sprintf(`index("%s")] > %d, 0`, movedFeature, movedLimit), fmt.Sprintf(`950 + %d * LAB["window"]`, shiftBound/driftWindow), fmt.Sprintf(`950 + %d * LAB["window"]`, movedBound/driftWindow),
	} {
		if !strings.Contains(simulated, want) {
			t.Errorf("the simulation does not have %q", want)
		}
	}
	if DefaultAlpha != 1e-6 || malignant != 0 {
		t.Errorf("the scenario's alpha is %g", DefaultAlpha)
	}
	page := strings.Join(strings.Fields(read("../docs/scenarios.md")), " ")
	for _, want := range []string{
		fmt.Sprintf("at %d windows of rows and %d of labels (%d in a short run)", Options{}.quiet(), Options{}.quiet(), Options{Short: true}.quiet()),
		fmt.Sprintf("each %q is %g times as large", shiftedFeature, shiftedBy), fmt.Sprintf("each row with a %q above %d", movedFeature, movedLimit),
		fmt.Sprintf("at most %d requests after the shift", shiftBound), fmt.Sprintf("the labels of at most %d requests", movedBound),
		fmt.Sprintf("after %d labels more", retrainRows), fmt.Sprintf("labels come %d requests late", labelsLate), fmt.Sprintf("The gate is %g", retrainedGate),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("docs/scenarios.md does not have %q", want)
		}
	}
	version := regexp.MustCompile(`(?m)^([a-z-]+)==(\S+)`)
	inImage := version.FindAllString(read("../bootstrap/images/modules/python/requirements.txt"), -1)
	for _, pinned := range version.FindAllString(read("../scripts/tools/python/requirements.txt"), -1) {
		if !slices.Contains(inImage, pinned) {
			t.Errorf("the tests have %s, and the image has %q", pinned, inImage)
		}
	}
}
