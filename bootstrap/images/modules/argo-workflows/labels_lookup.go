package executor

import "github.com/tidwall/gjson"

// Lookup is what labels.Labels has had since Kubernetes 0.34; the module is
// published for 0.33, and is compiled with what every other one here is.
func (g gjsonLabels) Lookup(label string) (value string, exists bool) {
	found := gjson.GetBytes(g.json, label)
	return found.String(), found.Exists()
}
