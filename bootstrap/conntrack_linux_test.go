package bootstrap

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestOnlyConnectionsToTheLabsPortThatWereSentToANodeAreForgotten(t *testing.T) {
	flow := func(protocol uint8, to string, port uint16, from string) *netlink.ConntrackFlow {
		return &netlink.ConntrackFlow{
			Forward: netlink.IPTuple{Protocol: protocol, DstIP: net.ParseIP(to), DstPort: port},
			Reverse: netlink.IPTuple{Protocol: protocol, SrcIP: net.ParseIP(from)},
		}
	}
	const tcp, udp = 6, 17
	for name, c := range map[string]struct {
		flow *netlink.ConntrackFlow
		want bool
	}{
		"to the lab's port, sent to a node": {flow(tcp, "127.0.0.1", 8080, "10.89.0.2"), true},
		"to another port":                   {flow(tcp, "127.0.0.1", 8081, "10.89.0.2"), false},
		"to a program of this computer":     {flow(tcp, "127.0.0.1", 8080, "127.0.0.1"), false},
		"to another computer":               {flow(tcp, "192.0.2.1", 8080, "192.0.2.1"), false},
		"not TCP":                           {flow(udp, "127.0.0.1", 8080, "10.89.0.2"), false},
	} {
		if got := publishedTo(8080).MatchConntrackFlow(c.flow); got != c.want {
			t.Errorf("%s: forgotten %t", name, got)
		}
	}
}
