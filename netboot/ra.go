package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/net/ipv6"
)

// A ROM with IPv6 waits 13 to 15 s for a router before it goes on (Debian's virtio iPXE). A router advertisement that
// says "no router here" ends that wait after 0.07 s.

// advertisement is 16 bytes of RFC 4861, 4.2: hop limit 64, no flags, router lifetime 0. The kernel adds the checksum.
var advertisement = [16]byte{0: byte(ipv6.ICMPTypeRouterAdvertisement), 4: 64}

// openRA joins the routers of a link. It needs CAP_NET_RAW and IPv6.
func openRA(ifi *net.Interface) (*ipv6.PacketConn, error) {
	raw, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, err
	}
	c := ipv6.NewPacketConn(raw)
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	err = errors.Join(
		c.SetICMPFilter(&only),
		c.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true),
		c.JoinGroup(ifi, &net.IPAddr{IP: net.IPv6linklocalallrouters}),
		c.SetMulticastInterface(ifi),
		c.SetMulticastLoopback(false),
		c.SetMulticastHopLimit(255), // RFC 4861, 6.1.2: anything else came through a router
	)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// answerSolicitations answers until the context ends, and closes the socket.
func answerSolicitations(ctx context.Context, c *ipv6.PacketConn, ifi *net.Interface, log *slog.Logger) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	buf := make([]byte, 1500)
	for {
		n, cm, from, err := c.ReadFrom(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("router solicitations on %s: %w", ifi.Name, err)
		}
		if err != nil || cm == nil || !solicits(buf[:n], cm, ifi.Index) {
			continue
		}
		all := &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: ifi.Name}
		if _, err := c.WriteTo(advertisement[:], nil, all); err != nil && ctx.Err() == nil {
			// In the first two seconds of an interface its own address is not proven yet.
			log.Debug("ra: answer", "to", from, "err", err)
		}
	}
}

// solicits checks a router solicitation (RFC 4861, 6.1.1).
func solicits(b []byte, cm *ipv6.ControlMessage, index int) bool {
	return len(b) >= 8 && ipv6.ICMPType(b[0]) == ipv6.ICMPTypeRouterSolicitation && b[1] == 0 && cm.HopLimit == 255 && cm.IfIndex == index
}
