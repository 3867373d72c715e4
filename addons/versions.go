package addons

import (
	"fmt"
	"strings"
	"time"

	"mllab.local/manifests"
)

// Version is what one part of the lab is, as its own users call it, and how long
// its project fixes it.
type Version struct {
	Name, Version string
	// End is the day after which the part's project has no fixes for it
	// (2027-06-28), or, where it names no day, what ends them. Empty means that the
	// project promises nothing.
	End string
	// Module is the Go module that it is made of, and Pinned its version.
	Module, Pinned string
}

// Past reports whether the part has had no fixes since a day before now.
func (v Version) Past(now time.Time) bool {
	end, err := time.Parse(time.DateOnly, v.End)
	return err == nil && now.After(end.AddDate(0, 0, 1))
}

// pin is one part of the lab, and the module whose version it has.
type pin struct {
	name, module string
	release      func(string) (string, error)
	// minor is the release that end is about. A test fails when the pin is another.
	minor, end string
}

// Where the ends come from: https://kubernetes.io/releases/,
// https://istio.io/latest/docs/releases/supported-releases/,
// https://github.com/knative/community/blob/main/mechanics/RELEASE-SCHEDULE.md,
// https://fluxcd.io/flux/releases/,
// https://argo-workflows.readthedocs.io/en/latest/releases/,
// https://prometheus.io/docs/introduction/release-cycle/,
// https://helm.sh/blog/helm-4-released/.
var pins = []pin{
	{"kind", "sigs.k8s.io/kind", plain, "0.33", ""},
	{"kubernetes", "k8s.io/kubernetes", plain, "1.36", "2027-06-28"},
	{"gateway-api", "sigs.k8s.io/gateway-api", plain, "1.4", ""},
	// Istio's own module has only pseudo-versions. Its API's, which each
	// release pins, counts in releases.
	{"istio", "istio.io/client-go", plain, "1.31", "six weeks after 1.33"},
	{"knative", "knative.dev/serving", knativeRelease, "1.23", "2027-02-02"},
	{"net-gateway-api", "knative.dev/net-gateway-api", knativeRelease, "1.21", "2026-08-04"},
	{"source-controller", "github.com/fluxcd/source-controller", plain, "1.9", "with Flux 2.12"},
	{"kustomize-controller", "github.com/fluxcd/kustomize-controller", plain, "1.9", "with Flux 2.12"},
	{"helm-controller", "github.com/fluxcd/helm-controller", plain, "1.6", "with Flux 2.12"},
	{"helm", "helm.sh/helm/v3", plain, "3.21", "2026-11-11"},
	{"jobset", "sigs.k8s.io/jobset", plain, "0.12", ""},
	{"trainer", "github.com/kubeflow/trainer/v2", plain, "2.3", ""},
	{"kserve", "github.com/kserve/kserve", plain, "0.20", ""},
	{"argo-workflows", "github.com/argoproj/argo-workflows/v4", plain, "4.1", "with 4.3"},
	{"registry", "github.com/distribution/distribution/v3", plain, "3.1", ""},
	{"flagger", "github.com/fluxcd/flagger", plain, "1.44", ""},
	{"prometheus", "github.com/prometheus/prometheus", prometheusRelease, "3.16", "2026-12-17"},
	{"alertmanager", "github.com/prometheus/alertmanager", plain, "0.35", ""},
}

// Versions returns the versions of what a lab is made of. They come from
// the list that manifests/render writes of the modules it rendered from, so
// that go.mod files are the only place where a version is chosen.
func Versions() ([]Version, error) {
	modules, err := pinnedModules()
	if err != nil {
		return nil, err
	}
	var out []Version
	for _, p := range pins {
		release, err := p.release(modules[p.module])
		if err != nil {
			return nil, fmt.Errorf("version of %s from module %s: %w", p.name, p.module, err)
		}
		out = append(out, Version{p.name, release, p.end, p.module, modules[p.module]})
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

// zeroVersion returns the minor version and the patch of a module version v0.MINOR.PATCH.
func zeroVersion(version string) (minor, patch int, err error) {
	if _, err := fmt.Sscanf(version, "v0.%d.%d", &minor, &patch); err != nil {
		return 0, 0, fmt.Errorf("%q is not a v0 version", version)
	}
	return minor, patch, nil
}

// knativeRelease turns a Knative module's version into the release it is:
// since 1.0 = v0.27 their minor versions run in step.
// https://github.com/knative/community/blob/main/mechanics/RELEASE-SCHEDULE.md
func knativeRelease(version string) (string, error) {
	minor, patch, err := zeroVersion(version)
	if err == nil && minor < 27 {
		err = fmt.Errorf("%q is older than Knative 1.0", version)
	}
	return fmt.Sprintf("1.%d.%d", minor-27, patch), err
}

// prometheusRelease turns the version of Prometheus' module into the release it
// is: v0.316.0 is 3.16.0.
// https://github.com/prometheus/prometheus#using-prometheus-as-a-library
func prometheusRelease(version string) (string, error) {
	minor, patch, err := zeroVersion(version)
	if err == nil && minor < 300 {
		err = fmt.Errorf("%q is older than Prometheus 3", version)
	}
	return fmt.Sprintf("%d.%d.%d", minor/100, minor%100, patch), err
}
