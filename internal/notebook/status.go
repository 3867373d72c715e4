package notebook

import (
	"encoding/json"
	"fmt"
	"time"
)

// Status is the status of a Workflow, as Argo's controller writes it.
type Status struct {
	Phase, Message string // "" until it is begun
	Nodes          []Node // in no order
}

// Node is a step, or the graph that has them.
type Node struct {
	Name, Phase, Message string
	Pod                  bool      // it is a step that ran
	Started, Finished    time.Time // zero until then
	ExitCode             string    // of its container, once it has ended
	Outputs              map[string]string
}

// Ended reports whether the Workflow has ended.
func (s Status) Ended() bool {
	return s.Phase == "Succeeded" || s.Phase == "Failed" || s.Phase == "Error"
}

// CellFailed is the exit code with which run.py says that a cell failed. Other codes
// are failures of the machine, the registry or Argo.
const CellFailed = "1"

// ReadStatus reads a Workflow's field status, as JSON; a new Workflow has an empty one.
// https://argo-workflows.readthedocs.io/en/latest/fields/#workflowstatus
func ReadStatus(text []byte) (Status, error) {
	var raw struct {
		Phase, Message string
		Nodes          map[string]struct {
			DisplayName, Phase, Message, Type string
			StartedAt, FinishedAt             time.Time
			Outputs                           struct {
				Parameters []struct{ Name, Value string }
				ExitCode   string
			}
		}
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &raw); err != nil {
			return Status{}, fmt.Errorf("reading a Workflow's status: %w", err)
		}
	}
	s := Status{Phase: raw.Phase, Message: raw.Message}
	for _, n := range raw.Nodes {
		node := Node{n.DisplayName, n.Phase, n.Message, n.Type == "Pod", n.StartedAt, n.FinishedAt, n.Outputs.ExitCode, map[string]string{}}
		for _, p := range n.Outputs.Parameters {
			node.Outputs[p.Name] = p.Value
		}
		s.Nodes = append(s.Nodes, node)
	}
	return s, nil
}
