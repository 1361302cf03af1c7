package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
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
	say    func(format string, args ...any)
	first  lab.MAC               // the card that the machine booted from, or empty
	lease  atomic.Pointer[lease] // nil: no card has an address yet
	beside bool                  // a user's system runs, and may do as it likes
	pause  time.Duration         // between two questions for the same address, leastPause when 0
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
		if err := n.request(ctx, a.Index); err != nil {
			why = append(why, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		l := n.lease.Load()
		n.say("network: %s is %s, from %s, for %v", name, l.ack.YourIPAddr, l.ack.ServerIdentifier(), l.duration())
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

// request gets an address by DHCP (RFC 2131) and sets it.
func (n *network) request(ctx context.Context, card int) error {
	c, err := nclient4.New(cardName(card), nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(4))
	if err != nil {
		return err
	}
	defer c.Close()
	at := uptime()
	got, err := c.Request(ctx)
	if err != nil {
		return fmt.Errorf("no DHCP server gives it an address: %w", err)
	}
	return n.set(&lease{card, got.ACK, at})
}

// set gives a card the address that it was lent, in the place of one that it was lent before. What it has already it keeps as it is.
func (n *network) set(l *lease) error {
	ip, mask, was := l.ack.YourIPAddr.To4(), l.ack.SubnetMask(), n.lease.Load()
	if ip == nil || ip.IsUnspecified() {
		return errors.New("the DHCP server gave no IPv4 address")
	}
	if was != nil && was.card == l.card && was.ack.YourIPAddr.Equal(ip) {
		n.lease.Store(l)
		return nil
	}
	if mask == nil {
		mask = ip.DefaultMask()
	}
	link, err := netlink.LinkByIndex(l.card)
	if err != nil {
		return err
	}
	if was != nil { // first: with a card's first address the kernel takes off all others of the same network
		n.unset(was)
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: mask}}); err != nil {
		return fmt.Errorf("set the address %s: %w", ip, err)
	}
	n.lease.Store(l)
	if was != nil {
		n.say("network: the address is now %s and no longer %s", ip, was.ack.YourIPAddr)
	}
	if routers := l.ack.Router(); len(routers) > 0 {
		r := &netlink.Route{LinkIndex: l.card, Gw: routers[0], Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("set the router %s: %w", routers[0], err)
		}
	}
	return nil
}

// unset takes an address back that is lent no more, with the routes that go by it.
func (n *network) unset(l *lease) {
	link, err := netlink.LinkByIndex(l.card)
	if err != nil {
		return
	}
	all, _ := netlink.AddrList(link, netlink.FAMILY_V4)
	for _, a := range all {
		if a.IP.Equal(l.ack.YourIPAddr) {
			if err := netlink.AddrDel(link, &a); err != nil {
				n.say("network: the address %s stays: %v", a.IP, err)
			}
		}
	}
}
