//go:build e2e

package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// testNothingLeavesTheNode sends to addresses of the lab's ranges that nobody has, for which kube-proxy has no rule
// either. The node must refuse each packet by its own rules, and eth0 must see none.
func testNothingLeavesTheNode(t *testing.T, c cli) {
	sh := func(script string) string {
		return engine(t, "exec", c.node(), "bash", "-c", script)
	}
	packets := func(table, chain, target, address string) int {
		out := sh(fmt.Sprintf("iptables -w -t %s -nvxL %s | awk '$3 == %q && $NF != \"\" && index($0, %q) {n += $1} END {print n+0}'", table, chain, target, address))
		n, err := strconv.Atoi(out)
		if err != nil {
			t.Fatalf("counting %s packets to %s in %s: %q", target, address, chain, out)
		}
		return n
	}
	const services, pods = "10.96.0.0/16", "10.244.0.0/16"
	refused := func(network string) int {
		n := 0
		for _, rule := range [][3]string{{"filter", "OUTPUT", "REJECT"}, {"filter", "FORWARD", "REJECT"}, {"mangle", "POSTROUTING", "DROP"}} {
			n += packets(rule[0], rule[1], rule[2], network)
		}
		return n
	}
	istiod := sh("pgrep -o -x pilot-discovery") // a pod that stays
	for _, from := range []struct{ name, shell string }{{"the node", ""}, {"a pod", "nsenter --net --target " + istiod + " "}} {
		for network, address := range map[string]string{services: "10.96.255.254", pods: "10.244.255.254"} {
			t.Run(from.name+" to "+address, func(t *testing.T) {
				watch := "POSTROUTING -o eth0 -d " + address + " -j RETURN" // last: it sees what leaves
				sh("iptables -w -t mangle -A " + watch)
				defer sh("iptables -w -t mangle -D " + watch)
				before := refused(network)
				said := sh(from.shell + "timeout 2 bash -c '</dev/tcp/" + address + "/80' 2>&1 && echo connected || true")
				if strings.Contains(said, "connected") {
					t.Errorf("somebody answers at %s", address)
				}
				if after := refused(network); after <= before {
					t.Errorf("the node's rules saw nothing: %d packets before, %d after: %s", before, after, said)
				}
				if left := packets("mangle", "POSTROUTING", "RETURN", address); left > 0 {
					t.Errorf("%d packets left the node: %s", left, said)
				}
			})
		}
	}
}
