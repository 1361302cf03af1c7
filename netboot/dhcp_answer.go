package netboot

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"carte/lab"
)

// How long addresses are lent. A ROM or iPXE needs its own for a minute or two; a stranger for as long as it waits in
// the hold loop, where every script that it fetches renews it.
const (
	leaseStranger = 2 * time.Minute
	leaseROM      = 10 * time.Minute
	leaseSystem   = time.Hour
)

// maxFile is the room for a file name in a DHCP header; the library cuts a longer one without a word.
const maxFile = 127

// A view is what the rules know besides the packet.
type view struct {
	self     netip.Addr   // our address on the wire
	wire     netip.Prefix // its network
	proxy    bool         // another server gives the addresses
	pxe      bool         // the packet came to port 4011
	standing lab.Standing // of the machine; empty when the lab does not remember it
	local    bool         // the machine is to boot its own disk, and its firmware is to know that at once
	lease    netip.Addr   // the machine's address, where one was asked for
	time     time.Duration
	script   string // URL of the machine's script
}

// lends says for how long an asking client gets an address; 0 when it gets none. Operating systems of machines that
// nobody adopted are not carte's business: somebody else's server answers them, or nobody.
func (a ask) lends(v view) time.Duration {
	switch {
	case v.proxy || v.pxe || a.kind != dhcpv4.MessageTypeDiscover && a.kind != dhcpv4.MessageTypeRequest:
		return 0
	case v.standing == lab.Adopted && a.boots():
		return leaseROM
	case v.standing == lab.Adopted:
		return leaseSystem
	case v.standing == lab.Unknown && a.boots():
		return leaseStranger
	}
	return 0
}

// served says whether the client may be answered at all.
func (a ask) served(v view) bool {
	return v.standing == lab.Adopted || v.standing == lab.Unknown && a.boots()
}

// answer is what a packet gets: a reply, or nil when silence is right. An error says why a client that asks for
// something carte should have gets nothing.
func answer(a ask, v view) (*dhcpv4.DHCPv4, error) {
	if !a.served(v) {
		return nil, nil
	}
	for _, from := range []netip.Addr{addr(a.packet.GatewayIPAddr), addr(a.packet.ClientIPAddr)} {
		if from.IsValid() && !v.wire.Contains(from) && !v.pxe {
			return nil, fmt.Errorf("it asks from %s and carte serves %s only", from, v.wire.Masked())
		}
	}
	if a.client == clientFirmware && archs[a.arch].program == "" {
		return nil, fmt.Errorf("%s: carte has no boot program for it; it starts x86 machines from BIOS (arch 0) and x86-64 UEFI (arch 7 and 9) over PXE", a.arch)
	}
	switch {
	case v.pxe:
		return answerPXE(a, v)
	case v.proxy:
		return answerProxy(a, v)
	}
	switch a.kind {
	case dhcpv4.MessageTypeDiscover:
		return lend(a, v, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		return answerRequest(a, v)
	case dhcpv4.MessageTypeInform:
		r, err := reply(a, v, dhcpv4.MessageTypeAck)
		if err != nil {
			return nil, err
		}
		r.ClientIPAddr = a.packet.ClientIPAddr
		return r, bootInfo(r, a, v)
	}
	return nil, nil
}

// answerRequest follows RFC 2131, 4.3.2. A client that chose another server is left alone. One that asks for an address
// that is not its own is refused aloud only when it is ours: to a stranger another server may have given it.
func answerRequest(a ask, v view) (*dhcpv4.DHCPv4, error) {
	if chosen := addr(a.packet.ServerIdentifier()); chosen.IsValid() && chosen != v.self {
		return nil, nil
	}
	want := addr(a.packet.RequestedIPAddress())
	if !want.IsValid() {
		want = addr(a.packet.ClientIPAddr)
	}
	switch {
	case !want.IsValid():
		return nil, nil
	case want == v.lease:
		return lend(a, v, dhcpv4.MessageTypeAck)
	case v.standing != lab.Adopted:
		return nil, nil
	}
	r, err := reply(a, v, dhcpv4.MessageTypeNak)
	if err != nil {
		return nil, err
	}
	r.SetBroadcast() // RFC 2131, 4.3.2: so that a relay broadcasts it, too
	r.UpdateOption(dhcpv4.OptMessage(fmt.Sprintf("%s is not yours, %s is", want, v.lease)))
	return r, nil
}

// lend makes an OFFER or ACK with an address. There is no router and no name server: the lab's wire leads nowhere.
func lend(a ask, v view, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	r, err := reply(a, v, kind)
	if err != nil {
		return nil, err
	}
	r.YourIPAddr = v.lease.AsSlice()
	if kind == dhcpv4.MessageTypeAck {
		r.ClientIPAddr = a.packet.ClientIPAddr
	}
	r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(v.time))
	r.UpdateOption(dhcpv4.OptSubnetMask(mask(v.wire)))
	if a.client == clientIPXE {
		// ipxe.no-pxedhcp: do not wait for a ProxyDHCP server, there is none.
		r.UpdateOption(dhcpv4.OptGeneric(optIPXE, []byte{0xb0, 1, 1}))
	}
	return r, bootInfo(r, a, v)
}

// reply is the part that all replies have. The library copies the relay's address and note and the client's id.
func reply(a ask, v view, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	r, err := dhcpv4.NewReplyFromRequest(a.packet)
	if err != nil {
		return nil, fmt.Errorf("reply to %s: %w", a.mac, err)
	}
	r.UpdateOption(dhcpv4.OptMessageType(kind))
	r.UpdateOption(dhcpv4.OptServerIdentifier(v.self.AsSlice()))
	return r, nil
}

// bootInfo adds what the client is to boot.
func bootInfo(r *dhcpv4.DHCPv4, a ask, v view) error {
	if !a.boots() {
		return nil
	}
	r.ServerIPAddr = v.self.AsSlice()
	if v.local && a.client == clientFirmware {
		pxeOptions(r, a)
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, pxeLocal))
		return nil
	}
	r.BootFileName = v.script
	if a.client == clientFirmware {
		r.BootFileName = archs[a.arch].program
		pxeOptions(r, a)
	} else if v.proxy || v.pxe {
		pxeOptions(r, a) // how iPXE knows a ProxyDHCP server from a DHCP server
	}
	if len(r.BootFileName) > maxFile {
		return fmt.Errorf("boot file name of %d bytes, DHCP has room for %d", len(r.BootFileName), maxFile)
	}
	if a.packet.IsOptionRequested(dhcpv4.OptionTFTPServerName) {
		r.UpdateOption(dhcpv4.OptTFTPServerName(v.self.String()))
	}
	if a.packet.IsOptionRequested(dhcpv4.OptionBootfileName) {
		r.UpdateOption(dhcpv4.OptBootFileName(r.BootFileName))
	}
	return nil
}

// to is where a reply goes: to the relay, to the address that the client has, or, for a client without one, to all.
// Nobody but a client without an address listens to the last, and every one of them does, whatever its broadcast flag.
func to(a ask, v view, r *dhcpv4.DHCPv4, from netip.AddrPort) netip.AddrPort {
	relay, self := addr(a.packet.GatewayIPAddr), addr(a.packet.ClientIPAddr)
	switch {
	case v.pxe:
		return from
	case relay.IsValid():
		return netip.AddrPortFrom(relay, 67)
	case self.IsValid() && r.MessageType() != dhcpv4.MessageTypeNak:
		return netip.AddrPortFrom(self, 68)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 68)
}
