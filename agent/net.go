package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"carte/lab"
)

// A network card may need this long from power to link: negotiation takes 2 to 4 s on copper, spanning tree on a switch
// without portfast 30 s. The card that the machine booted from is waited for, others are tried meanwhile.
const linkWait = 5 * time.Second

// network is the machine's way to the server: one card with an address from DHCP.
type network struct {
	*voice
	first lab.MAC // the card that the machine booted from, or empty
	link  netlink.Link
	lease *nclient4.Lease
}

// up brings up every card and returns when one of them has an address. It tries for ever and says why it has to.
func (n *network) up(ctx context.Context) error {
	told := ""
	for pause := time.Second; ; pause = min(2*pause, 15*time.Second) {
		err := n.once(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err.Error() != told {
			told = err.Error()
			n.say("network: %s; it is tried again until it works", told)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (n *network) once(ctx context.Context) error {
	cards, err := n.cards()
	if err != nil {
		return err
	}
	if len(cards) == 0 {
		return errors.New("the kernel has no driver for any network card of this machine; give another agent kernel")
	}
	if err := waitForLink(ctx, cards); err != nil {
		return err
	}
	var why []string
	for _, c := range cards {
		a := c.Attrs()
		name := fmt.Sprintf("%s (%s)", a.Name, a.HardwareAddr)
		if !hasLink(a.Name) {
			why = append(why, name+" has no link")
			continue
		}
		if err := n.ask(ctx, c); err != nil {
			why = append(why, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		n.say("network: %s is %s, from %s, for %v", name, n.lease.ACK.YourIPAddr, n.lease.ACK.ServerIdentifier(), n.duration())
		return nil
	}
	return errors.New(strings.Join(why, "; "))
}

// cards brings all network cards up and lists them, the one that the machine booted from first.
func (n *network) cards() ([]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the network cards: %w", err)
	}
	var cards []netlink.Link
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 && (l.Type() != "device" || len(a.HardwareAddr) != 6) {
			continue // tunnels and the like, which the kernel makes by itself
		}
		if err := netlink.LinkSetUp(l); err != nil {
			n.say("network: %s cannot be brought up: %v", a.Name, err)
		} else if a.Flags&net.FlagLoopback == 0 {
			cards = append(cards, l)
		}
	}
	slices.SortStableFunc(cards, func(a, b netlink.Link) int { return n.rank(a) - n.rank(b) })
	return cards, nil
}

func (n *network) rank(l netlink.Link) int {
	if l.Attrs().HardwareAddr.String() == string(n.first) {
		return 0
	}
	return 1
}

// waitForLink returns when the first card has a link, or when it had its time.
func waitForLink(ctx context.Context, cards []netlink.Link) error {
	for end := time.Now().Add(linkWait); time.Now().Before(end) && !hasLink(cards[0].Attrs().Name); {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func hasLink(name string) bool {
	l, err := netlink.LinkByName(name)
	return err == nil && l.Attrs().RawFlags&unix.IFF_RUNNING != 0
}

// ask gets an address by DHCP (RFC 2131) and sets it.
func (n *network) ask(ctx context.Context, l netlink.Link) error {
	c, err := nclient4.New(l.Attrs().Name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(4))
	if err != nil {
		return err
	}
	defer c.Close()
	lease, err := c.Request(ctx)
	if err != nil {
		return fmt.Errorf("no DHCP server gives it an address: %w", err)
	}
	return n.set(l, lease)
}

func (n *network) set(l netlink.Link, lease *nclient4.Lease) error {
	ip, mask := lease.ACK.YourIPAddr.To4(), lease.ACK.SubnetMask()
	if ip == nil || ip.IsUnspecified() {
		return errors.New("the DHCP server gave no IPv4 address")
	}
	if mask == nil {
		mask = ip.DefaultMask()
	}
	if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: mask}}); err != nil {
		return fmt.Errorf("set the address %s: %w", ip, err)
	}
	n.link, n.lease = l, lease
	if routers := lease.ACK.Router(); len(routers) > 0 {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: routers[0], Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("set the router %s: %w", routers[0], err)
		}
	}
	return nil
}

// duration is how long the address is lent: an hour when the server does not say.
func (n *network) duration() time.Duration { return n.lease.ACK.IPAddressLeaseTime(time.Hour) }

// keep renews the lease at half of its time, for agents that wait for days. What goes wrong is said and tried again; the
// address stays, because without it nothing works at all.
func (n *network) keep(ctx context.Context) error {
	pause := n.duration() / 2
	for {
		if err := sleep(ctx, max(pause, 10*time.Second)); err != nil {
			return err
		}
		if err := n.renew(ctx); err != nil && ctx.Err() == nil {
			n.say("network: the address %s was not renewed: %v; it is tried again", n.lease.ACK.YourIPAddr, err)
			pause = max(pause/2, 10*time.Second)
			continue
		}
		pause = n.duration() / 2
	}
}

func (n *network) renew(ctx context.Context) error {
	c, err := nclient4.New(n.link.Attrs().Name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(4))
	if err != nil {
		return err
	}
	defer c.Close()
	was := n.lease.ACK.YourIPAddr
	lease, err := c.Renew(ctx, n.lease)
	if err != nil {
		if lease, err = c.Request(ctx); err != nil {
			return err
		}
	}
	if err := n.set(n.link, lease); err != nil {
		return err
	}
	if now := lease.ACK.YourIPAddr; !now.Equal(was) {
		n.say("network: the address is now %s", now)
	}
	return nil
}
