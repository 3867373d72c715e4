package scenarios

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/alerts"
	"mllab.local/sampleapp/api"
)

// alarmed is a story whose faults began at a moment, and what its receiver
// got: of each a second later than of the one before.
func alarmed(t *testing.T) (*alertsStory, []api.Alert) {
	t.Helper()
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &alertsStory{calm: calmFor, troubles: []*trouble{
		{model: "erring", alert: alerts.ModelErrors, at: began, within: alerts.For + alertSlack},
		{model: "hanging", alert: alerts.ReplicaDown, at: began, within: alerts.For + alertSlack},
		{model: "well"},
	}}
	var all []api.Alert
	for i, tr := range s.troubles[:2] {
		all = append(all, api.Alert{Received: began.Add(time.Duration(i+15) * time.Second), Status: "firing", Labels: map[string]string{"alertname": tr.alert, "app": tr.model}})
	}
	return s, all
}

func TestEachFaultMustAlertInTimeAndNothingElse(t *testing.T) {
	for _, tc := range []struct {
		name    string
		but     func(all []api.Alert) []api.Alert
		refutes Claim
		says    string
	}{
		{"each in time", nil, "", "firing: ModelErrors after 15.0 s (at most 40s), ReplicaDown after 16.0 s (at most 40s)"},
		{"one came twice", func(all []api.Alert) []api.Alert { return append(all, all[0]) }, "", "ModelErrors after 15.0 s"},
		{"one is missing", func(all []api.Alert) []api.Alert { return all[:1] }, Alarm, "not notified within 40s that ReplicaDown of hanging is firing"},
		{"none", func([]api.Alert) []api.Alert { return nil }, Alarm, "ModelErrors of erring is firing; the receiver was not notified within 40s that ReplicaDown"},
		{"one is late", func(all []api.Alert) []api.Alert {
			all[1].Received = all[1].Received.Add(time.Minute)
			return all
		}, Alarm, "notified after 76.0 s that ReplicaDown of hanging is firing: later than 40s"},
		{"one comes before its cause", func(all []api.Alert) []api.Alert {
			all[0].Received = all[0].Received.Add(-16 * time.Second)
			return all
		}, Alarm, "ModelErrors of erring is firing 1.0 s before there was a cause"},
		{"one is only resolved", func(all []api.Alert) []api.Alert { all[0].Status = "resolved"; return all }, Alarm, "ModelErrors of erring is firing"},
		{"another model's", func(all []api.Alert) []api.Alert {
			return append(all, api.Alert{Status: "firing", Labels: map[string]string{"alertname": alerts.ModelErrors, "app": "well"}})
		}, Calm, "ModelErrors of well is firing"},
		{"another alert of the same model", func(all []api.Alert) []api.Alert {
			return append(all, api.Alert{Status: "firing", Labels: map[string]string{"alertname": alerts.ModelSlow, "app": "erring"}})
		}, Calm, "ModelSlow of erring is firing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, all := alarmed(t)
			if tc.but != nil {
				all = tc.but(all)
			}
			e, err := s.judge(all, "firing")
			said := e.Summary
			if err != nil {
				said += err.Error()
			}
			if refutedClaim(err) != tc.refutes || (err != nil) != (tc.refutes != "") || !strings.Contains(said, tc.says) {
				t.Errorf("got %v, says %q", err, e.Summary)
			}
			if missing := s.missing(all, "firing"); (len(missing) > 0) != (tc.refutes == Alarm && tc.name != "one is late" && tc.name != "one comes before its cause") {
				t.Errorf("it waits for %v", missing)
			}
		})
	}
}

// With the thresholds moved, neither rule of the control may find its fault.
func TestAnAlertThatItsThresholdShouldHideIsNotTheControlsCatch(t *testing.T) {
	s, all := alarmed(t)
	s.hidden = true
	if _, err := s.judge(nil, "firing"); refutedClaim(err) != Alarm {
		t.Errorf("of no alert it says %v", err)
	}
	if _, err := s.judge(all[:1], "firing"); refutedClaim(err) != Calm || !strings.Contains(err.Error(), "ModelErrors of erring is firing") {
		t.Errorf("of one alert it says %v", err)
	}
}

func TestSilenceIsRefutedByAnyAlert(t *testing.T) {
	s, all := alarmed(t)
	if e, err := s.judgeSilence(nil); err != nil || e.Summary != "0 alerts in 35s" {
		t.Errorf("got %v, says %q", err, e.Summary)
	}
	if _, err := s.judgeSilence(all[1:]); refutedClaim(err) != Calm || !strings.Contains(err.Error(), "ReplicaDown of hanging is firing") {
		t.Errorf("got %v", err)
	}
}

func TestTheFaultsAreWorseThanTheRulesAllow(t *testing.T) {
	if alertedFails <= alerts.Default.ErrorPercent || alertedFails >= movedErrors || alertedSlow <= alerts.MaxLatency ||
		filledPercent <= alerts.Default.DiskPercent || filledPercent >= movedDisk {
		t.Error("a fault does not pass its threshold, or passes the one that was moved")
	}
	if calmFor < alerts.Window+alerts.For {
		t.Errorf("in %s a rule that finds something all the time has not fired", calmFor)
	}
}

func TestTheReceiverIsNoModelOfItsOwn(t *testing.T) {
	type place struct {
		Name, Host string
		Volume     bool
	}
	objs, err := render("alerts/models.yaml", map[string]any{
		"Image": "kind.local/app:1", "Namespace": "ns", "Scrape": "2s", "AdminPort": adminPort, "Notified": receiver,
		"Models": []place{{"a", "a.ns.test", false}, {"b", "b.ns.test", true}, {Name: receiver}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range objs {
		names = append(names, o.GetKind()+"/"+o.GetName())
	}
	want := []string{"Deployment/a", "Service/a", "VirtualService/a", "Deployment/b", "Service/b", "VirtualService/b", "Deployment/receiver", "Gateway/lab", "Service/alerts"}
	if !slices.Equal(names, want) {
		t.Errorf("got %q", names)
	}
	if measured := strings.Count(asYAML(objs[6])+asYAML(objs[7]), "prometheus.io"); measured != 0 || !strings.Contains(asYAML(objs[0]), "prometheus.io/interval: 2s") {
		t.Error("the models are measured, and the receiver is not")
	}
	for i, want := range map[int]bool{0: false, 3: true, 6: false} {
		if got := asYAML(objs[i]); strings.Contains(got, "sizeLimit: 8Mi") != want || strings.Contains(got, "name: VOLUME") != want {
			t.Errorf("a volume %t, and it is\n%s", want, got)
		}
	}
	if hosts := asYAML(objs[7]); !strings.Contains(hosts, "a.ns.test") || !strings.Contains(hosts, "b.ns.test") {
		t.Errorf("the Gateway has\n%s", hosts)
	}
}
