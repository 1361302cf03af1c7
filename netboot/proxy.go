package netboot

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// ProxyDHCP (PXE specification 2.1, chapter 2): beside a DHCP server that gives the addresses, carte says only what to
// boot: on port 67 with an OFFER that has no address, on port 4011 with an ACK for those that ask again.

// pxeOption43 tells a BIOS ROM to skip PXE's discovery of boot servers and to take the file named in the header
// (suboption 6, PXE_DISCOVERY_CONTROL, bit 3). The library writes no end into option 43, and ROMs read on without one.
var pxeOption43 = []byte{6, 1, 8, 255}

// pxeLocal is a boot menu (suboption 9) of one entry of type 0, "local boot", which is chosen at once (suboption 10, 0 s).
// UEFI then goes on to its next boot option. An OFFER that only lacks a boot file makes it ask for 64 s instead (OVMF).
var pxeLocal = append([]byte("\x06\x01\x03\x09\x0d\x00\x00\x0aLocal disk\x0a\x0b\x00Local disk"), 255)

// answerProxy answers what every server on the wire hears.
func answerProxy(a ask, v view) (*dhcpv4.DHCPv4, error) {
	if a.kind != dhcpv4.MessageTypeDiscover || !a.boots() {
		return nil, nil
	}
	r, err := reply(a, v, dhcpv4.MessageTypeOffer)
	if err != nil {
		return nil, err
	}
	return r, bootInfo(r, a, v)
}

// answerPXE answers a client that has its address and asks the boot server itself, as UEFI does when the OFFER had no
// option 43.
func answerPXE(a ask, v view) (*dhcpv4.DHCPv4, error) {
	if !a.boots() || a.kind != dhcpv4.MessageTypeRequest && a.kind != dhcpv4.MessageTypeInform {
		return nil, nil
	}
	if addr(a.packet.GatewayIPAddr).IsValid() {
		return nil, nil // no relay carries this port
	}
	r, err := reply(a, v, dhcpv4.MessageTypeAck)
	if err != nil {
		return nil, err
	}
	r.ClientIPAddr = a.packet.ClientIPAddr
	return r, bootInfo(r, a, v)
}

// pxeOptions makes a reply one that PXE firmware heeds: the class and the machine's UUID go back as they came. UEFI must
// not see option 43: with it some firmware looks for a boot menu and finds none.
func pxeOptions(r *dhcpv4.DHCPv4, a ask) {
	r.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
	if uuid := a.packet.Options.Get(optClientUUID); len(uuid) > 0 {
		r.UpdateOption(dhcpv4.OptGeneric(optClientUUID, uuid))
	}
	if a.client == clientFirmware && a.arch == 0 {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, pxeOption43))
	}
}

// answerProbe makes itself heard by another carte that looks for DHCP servers before it serves.
func answerProbe(a ask, v view) (*dhcpv4.DHCPv4, error) {
	if a.kind != dhcpv4.MessageTypeDiscover || v.pxe {
		return nil, nil
	}
	return reply(a, v, dhcpv4.MessageTypeOffer)
}

func mask(p netip.Prefix) net.IPMask { return net.CIDRMask(p.Bits(), 32) }
