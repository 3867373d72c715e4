// Package capture reads what the lab's sample models were asked and what they answered, from the lines that they write of
// it (sampleapp/api.Captured).
package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"mllab.local/internal/kube"
	"mllab.local/sampleapp/api"
)

// Query says which captured requests to read. An empty field takes all.
type Query struct {
	Image     string // the sample model's, with any tag; must be set
	Model     string // the name of a Knative Service, a KServe InferenceService, or the label app of the pods; Flagger's copy of a model has its name, too
	Namespace string
	Version   string // a target or a revision
	Since     time.Time
	Follow    bool

	primaries map[string]string // kube.Client.Primaries
}

// Read calls each with every captured request, one JSON object of api.Captured with one more field, the pod's namespace.
// What it misses and in which order lines come is written at kube.Client.Logs.
func Read(ctx context.Context, k *kube.Client, q Query, each func(line []byte) error) (err error) {
	if q.primaries, err = k.Primaries(ctx); err != nil {
		return err
	}
	return k.Logs(ctx, kube.Logs{Of: q.container, Keep: q.takes, Since: q.Since, Follow: q.Follow}, func(l kube.LogLine) error {
		return each(fmt.Appendf(nil, `{"namespace":%q,%s`, l.Namespace, l.Text[1:]))
	})
}

// container returns the name of the container that is the model in a pod of the query, or "".
func (q Query) container(pod *corev1.Pod) string {
	if q.Namespace != "" && pod.Namespace != q.Namespace {
		return ""
	}
	names := []string{pod.Labels["serving.knative.dev/service"], pod.Labels["serving.kserve.io/inferenceservice"], pod.Labels["app"], q.primaries[pod.Namespace+"/"+pod.Labels["app"]]}
	if q.Model != "" && !slices.Contains(names, q.Model) {
		return ""
	}
	for _, c := range pod.Spec.Containers {
		if repository(c.Image) == repository(q.Image) {
			return c.Name
		}
	}
	return ""
}

// repository returns an image's reference without tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if at := strings.LastIndex(image, ":"); at > strings.LastIndex(image, "/") {
		image = image[:at]
	}
	return image
}

// takes says whether a line of a model's log is a captured request of the query.
func (q Query) takes(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("{")) || !bytes.Contains(line, []byte(`"msg":"`+api.CapturedMsg+`"`)) {
		return false // most lines
	}
	var c api.Captured
	if json.Unmarshal(line, &c) != nil || c.Msg != api.CapturedMsg {
		return false
	}
	return q.Version == "" || q.Version == c.Target || q.Version == c.Revision
}
