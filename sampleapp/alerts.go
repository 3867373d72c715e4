package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"mllab.local/sampleapp/api"
)

// alertsKept bounds how many alerts are remembered.
const alertsKept = 1000

type alerts struct {
	mu  sync.Mutex
	all []api.Alert
}

// takeAlerts is a webhook of Alertmanager's.
// https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
func (a *app) takeAlerts(w http.ResponseWriter, r *http.Request) {
	var message struct {
		Alerts []api.Alert `json:"alerts"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, a.maxBody)).Decode(&message); err != nil {
		refusal(http.StatusBadRequest, fmt.Errorf("reading the alerts: %w", err)).write(w)
		return
	}
	now := time.Now()
	for i := range message.Alerts {
		message.Alerts[i].Received = now
	}
	a.alerts.mu.Lock()
	defer a.alerts.mu.Unlock()
	a.alerts.all = append(a.alerts.all, message.Alerts...)
	a.alerts.all = a.alerts.all[max(0, len(a.alerts.all)-alertsKept):]
}

func (a *app) showAlerts(w http.ResponseWriter, _ *http.Request) {
	a.alerts.mu.Lock()
	defer a.alerts.mu.Unlock()
	jsonAnswer(http.StatusOK, append([]api.Alert{}, a.alerts.all...)).write(w) // never null
}
