package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A lease is an address that a DHCP server lends to a card (RFC 2131). Its times count from when it was asked for, since the machine
// started: the clock on the wall is the user's system's to set.
type lease struct {
	card int // the interface's index; its name may change
	ack  *dhcpv4.DHCPv4
	at   time.Duration
}

// uptime is how long the machine has been on.
func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// duration is how long the address is lent: an hour when the server does not say.
func (l *lease) duration() time.Duration {
	if d := l.ack.IPAddressLeaseTime(time.Hour); d > 0 {
		return d
	}
	return time.Hour
}

// dues are T1, T2 and the end of the lease (RFC 2131, 4.4.5): until T1 nothing is to be done, until T2 the server is asked that has
// given it, until the end any.
func (l *lease) dues() (renew, rebind, end time.Duration) {
	d := l.duration()
	renew, rebind = l.ack.IPAddressRenewalTime(d/2), l.ack.IPAddressRebindingTime(d/8*7)
	if renew <= 0 || renew > rebind || rebind > d {
		renew, rebind = d/2, d/8*7
	}
	return l.at + renew, l.at + rebind, l.at + d
}

// lent is a lease on its way from the agent to the shim.
type lent struct {
	Card int           `json:"card"`
	ACK  []byte        `json:"ack"`
	At   time.Duration `json:"at_ns"`
}

// handOver is the lease for a shim's task; nil where there is none.
func (n *network) handOver() json.RawMessage {
	l := n.lease.Load()
	if l == nil {
		return nil
	}
	text, err := json.Marshal(lent{l.card, l.ack.ToBytes(), l.at})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return text
}

// takeOver is handOver's other end: the network of a user's system, which may take it from us at any time.
func takeOver(text json.RawMessage, say func(string, ...any)) (*network, error) {
	var x lent
	if err := json.Unmarshal(text, &x); err != nil {
		return nil, fmt.Errorf("the lease: %w", err)
	}
	ack, err := dhcpv4.FromBytes(x.ACK)
	if err != nil {
		return nil, fmt.Errorf("the lease: %w", err)
	}
	n := &network{say: say, beside: true}
	n.lease.Store(&lease{x.Card, ack, x.At})
	return n, nil
}

// leastPause is between two questions for the same address (RFC 2131, 4.4.5).
const leastPause = time.Minute

// errTaken ends the keeping of an address that is no longer ours.
var errTaken = errors.New("the system keeps its network itself now")

// keep renews the lease for as long as ctx lasts, or, beside a user's system, until that has its network in its own hands, which is
// an error that wraps errTaken. What goes wrong is said and tried again; the address stays even after its time, because without it
// nothing works at all.
func (n *network) keep(ctx context.Context) error {
	told := ""
	for next := time.Duration(0); ; {
		l := n.lease.Load()
		renew, rebind, end := l.dues()
		if err := sleep(ctx, max(renew, next)-uptime()); err != nil {
			return err
		}
		if n.beside {
			if err := l.taken(); err != nil {
				n.say("network: %s: carte no longer renews %s: %v", cardName(l.card), l.ack.YourIPAddr, err)
				return fmt.Errorf("%w: %w", errTaken, err)
			}
		}
		began := uptime()
		err := n.ask(ctx, l)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			if told != "" {
				n.say("network: the address %s is lent again, for %v", n.lease.Load().ack.YourIPAddr, n.lease.Load().duration())
			}
			told, next = "", 0
			continue
		}
		words, change := fmt.Sprintf("was not renewed: %v", err), rebind
		switch {
		case began >= end:
			words, change = fmt.Sprintf("is lent no longer, and stays: %v", err), 0
		case began >= rebind:
			change = end
		}
		if words != told {
			told = words
			n.say("network: the address %s %s; it is tried again", l.ack.YourIPAddr, words)
		}
		next = uptime() + cmp.Or(n.pause, leastPause)
		if change > 0 { // half of the time that is left until others are asked, and then at once
			next = min(max(next, (uptime()+change)/2), change)
		}
	}
}

// ask does what the time asks for: until T2 the server is asked that gave the lease, until its end all, and then for any address.
func (n *network) ask(ctx context.Context, l *lease) error {
	_, rebind, end := l.dues()
	begin := uptime()
	renewal := func(until time.Duration, where string, to *net.UDPAddr, as ...nclient4.ClientOpt) error {
		ctx, cancel := context.WithTimeoutCause(ctx, until-begin, errors.New("its time was over"))
		defer cancel()
		c, err := nclient4.New(cardName(l.card), append(as, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))...)
		if err != nil {
			return err
		}
		defer c.Close()
		request, err := dhcpv4.NewRenewFromAck(l.ack)
		if err != nil {
			return err
		}
		answer, err := c.SendAndRead(ctx, to, request, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
		switch {
		case err != nil:
			return fmt.Errorf("%s does not answer", where)
		case answer.MessageType() == dhcpv4.MessageTypeNak:
			return fmt.Errorf("%s wants it back: %w", where, errNak)
		}
		return n.set(&lease{l.card, completed(answer, l.ack), begin})
	}
	var err error
	switch server := l.ack.ServerIdentifier(); {
	case begin < rebind && server != nil:
		err = renewal(rebind, "its DHCP server "+server.String(), &net.UDPAddr{IP: server, Port: nclient4.ServerPort}, nclient4.WithUnicast(&net.UDPAddr{IP: l.ack.YourIPAddr, Port: nclient4.ClientPort}))
	case begin < end:
		err = renewal(end, "any DHCP server", nclient4.DefaultServers)
	default:
		return n.request(ctx, l.card)
	}
	if errors.Is(err, errNak) {
		n.say("network: %s: %v; another is asked for", l.ack.YourIPAddr, err)
		return n.request(ctx, l.card)
	}
	return err
}

var errNak = errors.New("refused")

// completed fills in what some servers say only the first time.
func completed(ack, was *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	for _, o := range []dhcpv4.OptionCode{dhcpv4.OptionServerIdentifier, dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter} {
		if !ack.Options.Has(o) && was.Options.Has(o) {
			ack.Options.Update(dhcpv4.OptGeneric(o, was.Options.Get(o)))
		}
	}
	if ack.YourIPAddr == nil || ack.YourIPAddr.IsUnspecified() {
		ack.YourIPAddr = was.YourIPAddr
	}
	return ack
}

// taken says why an address is not ours to keep any more: the user's system has done something about it.
func (l *lease) taken() error {
	link, err := netlink.LinkByIndex(l.card)
	if err != nil {
		return errors.New("its card is not here any more")
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("its card has addresses that cannot be listed: %w", err)
	}
	ours := false
	for _, a := range all {
		switch {
		case a.Scope != int(netlink.SCOPE_UNIVERSE):
		case !a.IP.Equal(l.ack.YourIPAddr):
			return fmt.Errorf("the system has given its card %s", a.IP)
		case a.Flags&unix.IFA_F_PERMANENT == 0:
			return errors.New("the system has given it a time to live, as a DHCP client does")
		default:
			ours = true
		}
	}
	if !ours {
		return errors.New("the system has taken it off its card")
	}
	// What else speaks DHCP for this address has its port.
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: l.ack.YourIPAddr, Port: nclient4.ClientPort})
	if errors.Is(err, unix.EADDRINUSE) {
		return errors.New("the system runs a DHCP client")
	}
	if err == nil {
		err = c.Close()
	}
	return err
}

// cardName is what an interface is called just now; empty when it is gone.
func cardName(index int) string {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}
