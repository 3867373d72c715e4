package bootstrap

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetConnections makes the kernel forget the connections to a port of this computer that it has sent to a node.
//
// Podman publishes a port by DNAT only. The kernel notes for each connection, by its source port, to which node's address
// it goes, and keeps that note for 2 minutes after the last packet to a node that is gone
// (nf_conntrack_tcp_timeout_syn_sent). A new connection from the same source port is then sent to the address of before,
// and ends in "no route to host" after 3 s. Docker asks a proxy of its own for 127.0.0.1, and has no such notes. Without the
// right to change them (CAP_NET_ADMIN) they are not this user's: a rootless engine's are in its own namespace.
func forgetConnections(port int) {
	_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, publishedTo(port))
}

// publishedTo matches connections to a port of 127.0.0.1 that were sent elsewhere.
type publishedTo uint16

func (p publishedTo) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_TCP && f.Forward.DstPort == uint16(p) && f.Forward.DstIP.IsLoopback() && !f.Reverse.SrcIP.IsLoopback()
}
