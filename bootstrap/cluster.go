package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

const (
	nodeImagePrefix = "localhost/mllab-node:"
	gatewayPort     = "30080/tcp" // addons.NodePortHTTP in the format of the engines
)

func nodeName(cluster string) string { return cluster + "-control-plane" }

// ours reports whether a container has the marks of mllab's node; see the package comment.
func (c container) ours(cluster string) bool {
	return c.Name == nodeName(cluster) && strings.HasPrefix(c.Image, nodeImagePrefix) && c.Port != 0
}

type action string

const (
	create  action = "create"
	keep    action = "keep"
	restart action = "start"
	replace action = "replace"
	refuse  action = "refuse"
)

// decide returns the action for the containers found, and the reason. st is the record of the cluster, or nil.
func decide(cluster string, found []container, alive bool, st *state) (action, string) {
	switch {
	case len(found) == 0 && st == nil:
		return create, "there is none"
	case len(found) == 0 && st.Phase == phaseCreating:
		return replace, "its creation was interrupted" // kind may have left a volume behind
	case len(found) == 0:
		return replace, "its node is gone"
	case len(found) > 1 || !found[0].ours(cluster):
		return refuse, "it is not mllab's"
	case st == nil:
		return refuse, "this state folder has no record of it"
	case st.Phase == phaseCreating:
		return replace, "its creation was interrupted"
	}
	switch status := found[0].Status; status {
	case "up", "running":
		if alive {
			return keep, "it runs"
		}
		return replace, "its node's processes are dead"
	case "exited", "created", "stopped":
		return restart, "its node is stopped"
	default:
		return replace, "its node is in the state " + status
	}
}

// removeCluster removes the containers and kind's volumes of one of mllab's clusters, and returns what it removed.
func removeCluster(ctx context.Context, e *engine, cluster string, found []container) (removed []string, err error) {
	for _, c := range found {
		if err := e.remove(ctx, c.ID); err != nil {
			return removed, err
		}
		removed = append(removed, "container "+c.Name)
	}
	volumes, err := e.volumes(ctx, nodeName(cluster))
	if err != nil {
		return removed, fmt.Errorf("listing the volumes of cluster %s: %w", cluster, err)
	}
	var errs []error
	for _, v := range volumes {
		if _, err := e.out(ctx, "volume", "rm", v); err != nil {
			errs = append(errs, fmt.Errorf("removing volume %s: %w", v, err))
			continue
		}
		removed = append(removed, "volume "+v[:min(12, len(v))])
	}
	return removed, errors.Join(errs...)
}
