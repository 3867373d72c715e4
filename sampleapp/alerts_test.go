package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"mllab.local/sampleapp/api"
)

func TestTheAlertsThatCameAreRemembered(t *testing.T) {
	_, s, _ := start(t, nil)
	if _, body := do(t, "GET", s.URL+"/alerts", ""); body != "[]\n" {
		t.Errorf("before any came: %q", body)
	}
	// As Alertmanager sends it, with more fields than matter.
	const message = `{"version": "4", "status": "firing", "groupLabels": {"alertname": "A"}, "alerts": [
		{"status": "firing", "labels": {"alertname": "A", "app": "model"}, "annotations": {}, "startsAt": "2026-01-02T03:04:05Z"},
		{"status": "resolved", "labels": {"alertname": "A", "app": "other"}, "received": "2020-01-02T03:04:05Z"}]}`
	began := time.Now()
	if r, body := do(t, "POST", s.URL+"/alerts", message); r.StatusCode != 200 {
		t.Errorf("status %d: %s", r.StatusCode, body)
	}
	if r, body := do(t, "POST", s.URL+"/alerts", "{"); r.StatusCode != 400 || !strings.Contains(body, "reading the alerts") {
		t.Errorf("half a text: status %d: %s", r.StatusCode, body)
	}
	var got []api.Alert
	if _, body := do(t, "GET", s.URL+"/alerts", ""); json.Unmarshal([]byte(body), &got) != nil || len(got) != 2 {
		t.Fatalf("it remembers %s", body)
	}
	for i, want := range []string{"firing model", "resolved other"} {
		if said := got[i].Status + " " + got[i].Labels["app"]; said != want || got[i].Received.Before(began.Add(-time.Second)) {
			t.Errorf("got %+v, want %s", got[i], want)
		}
	}
	for i := range alertsKept {
		do(t, "POST", s.URL+"/alerts", fmt.Sprintf(`{"alerts": [{"status": "firing", "labels": {"app": "%d"}}]}`, i))
	}
	_, body := do(t, "GET", s.URL+"/alerts", "")
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got) != alertsKept || got[0].Labels["app"] != "0" {
		t.Errorf("of many it remembers %d: %v", len(got), err)
	}
}
