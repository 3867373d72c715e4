package scenarios

import (
	"context"
	"fmt"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/kube"
)

// begin keeps what a step is about, for the next time a person is asked.
func (l *Lab) begin(n, of int, s Step) {
	if l.Teach == nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Step %d of %d: %s\n", n, of, s.Name)
	for _, text := range []string{s.Idea, s.Look} {
		if text != "" {
			b.WriteString("\n" + text + "\n")
		}
	}
	l.lesson += b.String()
}

// teach shows what is about to be done, after what the step is about, and
// returns when the person goes on. Without a person, or with nothing to show,
// it returns at once.
func (l *Lab) teach(ctx context.Context, change string) error {
	text := strings.TrimSpace(l.lesson + "\n" + change)
	if l.Teach == nil || text == "" {
		return nil
	}
	l.lesson = ""
	return l.Teach(ctx, text)
}

// changes is what applying objs would change of what the run has applied, as a
// unified diff of their YAML.
func (l *Lab) changes(objs []*unstructured.Unstructured) string {
	if l.Teach == nil {
		return ""
	}
	var b strings.Builder
	for _, o := range objs {
		before := ""
		if i := l.find(o); i >= 0 {
			before = asYAML(l.applied[i])
		}
		// Both sides are in memory, so writing cannot fail.
		diff, _ := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: difflib.SplitLines(before), B: difflib.SplitLines(asYAML(o)), FromFile: "now", ToFile: kube.Name(o), Context: 3,
		})
		b.WriteString(diff)
	}
	return b.String()
}

func asYAML(o *unstructured.Unstructured) string {
	text, err := yaml.Marshal(o.Object)
	if err != nil {
		return err.Error() // a person reads it
	}
	return string(text)
}
