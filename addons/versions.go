package addons

import (
	"fmt"
	"strconv"
	"strings"

	"mllab.local/manifests"
)

// Version is what one part of the lab is, as its own users call it.
type Version struct {
	Name, Version string
}

// Versions returns the versions of what the addons install. They come from
// the list that manifests/render writes of the modules it rendered from, so
// that go.mod files are the only place where a version is chosen.
func Versions() ([]Version, error) {
	modules, err := pinnedModules()
	if err != nil {
		return nil, err
	}
	var out []Version
	for _, v := range []struct {
		name, module string
		release      func(string) (string, error)
	}{
		{"gateway-api", "sigs.k8s.io/gateway-api", plain},
		// Istio's own module has only pseudo-versions. Its API's, which each
		// release pins, counts in releases.
		{"istio", "istio.io/client-go", plain},
		{"knative", "knative.dev/serving", knativeRelease},
		{"net-gateway-api", "knative.dev/net-gateway-api", knativeRelease},
		{"source-controller", "github.com/fluxcd/source-controller", plain},
		{"kustomize-controller", "github.com/fluxcd/kustomize-controller", plain},
		{"helm-controller", "github.com/fluxcd/helm-controller", plain},
		{"jobset", "sigs.k8s.io/jobset", plain},
		{"trainer", "github.com/kubeflow/trainer/v2", plain},
		{"kserve", "github.com/kserve/kserve", plain},
		{"argo-workflows", "github.com/argoproj/argo-workflows/v3", plain},
		{"registry", "github.com/distribution/distribution/v3", plain},
		{"flagger", "github.com/fluxcd/flagger", plain},
		{"prometheus", "github.com/prometheus/prometheus", prometheusRelease},
	} {
		release, err := v.release(modules[v.module])
		if err != nil {
			return nil, fmt.Errorf("version of %s from module %s: %w", v.name, v.module, err)
		}
		out = append(out, Version{v.name, release})
	}
	return out, nil
}

// pinnedModules are the versions of the modules that upstream's manifests were
// rendered from.
func pinnedModules() (map[string]string, error) {
	text, err := manifests.Upstream("modules.txt")
	if err != nil {
		return nil, err
	}
	modules := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 {
			modules[f[0]] = f[1]
		}
	}
	return modules, nil
}

// plain is a module version without what only modules have: the v, and the
// time and commit of a pseudo-version.
func plain(version string) (string, error) {
	number, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	if number == "" || number == version {
		return "", fmt.Errorf("%q is no module version", version)
	}
	return number, nil
}

// knativeRelease turns a Knative module's version into the release it is:
// since 1.0 = v0.27 their minor versions run in step.
// https://github.com/knative/community/blob/main/mechanics/RELEASE-SCHEDULE.md
func knativeRelease(version string) (string, error) {
	number, err := plain(version)
	if err != nil {
		return "", err
	}
	parts := strings.Split(number, ".")
	if len(parts) != 3 || parts[0] != "0" {
		return "", fmt.Errorf("%q is not a v0 version", version)
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil || minor < 27 {
		return "", fmt.Errorf("%q is older than Knative 1.0", version)
	}
	return fmt.Sprintf("1.%d.%s", minor-27, parts[2]), nil
}

// prometheusRelease turns the version of Prometheus' module into the release it
// is: v0.309.1 is 3.9.1.
// https://github.com/prometheus/prometheus#using-prometheus-as-a-library
func prometheusRelease(version string) (string, error) {
	number, err := plain(version)
	if err != nil {
		return "", err
	}
	parts := strings.Split(number, ".")
	if len(parts) != 3 || parts[0] != "0" || len(parts[1]) != 3 {
		return "", fmt.Errorf("%q is not a version of Prometheus' module", version)
	}
	minor, err := strconv.Atoi(parts[1][1:])
	if err != nil {
		return "", fmt.Errorf("%q is not a version of Prometheus' module", version)
	}
	return fmt.Sprintf("%s.%d.%s", parts[1][:1], minor, parts[2]), nil
}
