package scenarios

import (
	"strings"

	"mllab.local/internal/fault"
)

// All returns every scenario, in the order to learn them.
func All() []Scenario {
	return []Scenario{
		canary, blueGreen, shadow, abTest, scaleToZero, minScale, probes, resilience, circuitBreaker, meshSecurity,
		helmRelease, gitops, gitopsHelm, train, pipeline, kserve, mlops, drift, progressive, modelCanary, alertsScenario,
	}
}

// Find returns the named scenario.
func Find(name string) (Scenario, error) {
	var names []string
	for _, s := range All() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Scenario{}, fault.Usage("scenarios are: "+strings.Join(names, ", "), "no scenario is called %q", name)
}
