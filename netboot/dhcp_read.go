package netboot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"carte/lab"
	"carte/netboot/payload"
)

// DHCP options and suboptions that the library has no name for.
const (
	optClientUUID = dhcpv4.GenericOptionCode(97)  // RFC 4578, 2.3
	optIPXE       = dhcpv4.GenericOptionCode(175) // https://ipxe.org/howto/dhcpd

	maxOption = 255 // bytes; an option that came in pieces (RFC 3396) can be longer, and none that we send back need be
)

// What sent a DHCP packet.
type client int

const (
	clientOS       client = iota // an operating system, our agent among them
	clientFirmware               // a PXE ROM: wants a boot program
	clientIPXE                   // wants a script
)

// An arch is the machine that a boot program must be for (RFC 5970 and IANA's list of processor architectures).
type arch uint16

// archs is what carte says about each, and the program it starts on those it can. 7 is by name "EFI byte code" and in
// every real firmware x86-64.
var archs = map[arch]struct{ name, program string }{
	0:  {"BIOS", payload.UndionlyFile},
	6:  {"EFI IA32", ""},
	7:  {"EFI x64", payload.IPXEFile},
	9:  {"EFI x64", payload.IPXEFile},
	10: {"EFI ARM 32-bit", ""},
	11: {"EFI ARM 64-bit", ""},
	15: {"EFI IA32 over HTTP", ""},
	16: {"EFI x64 over HTTP", ""},
	17: {"EFI byte code over HTTP", ""},
	18: {"EFI ARM 32-bit over HTTP", ""},
	19: {"EFI ARM 64-bit over HTTP", ""},
	27: {"EFI RISC-V 64-bit", ""},
}

func (a arch) String() string {
	if row, ok := archs[a]; ok {
		return fmt.Sprintf("arch %d (%s)", uint16(a), row.name)
	}
	return fmt.Sprintf("arch %d", uint16(a))
}

// An ask is a client's DHCP packet, as far as the rules look at it.
type ask struct {
	packet *dhcpv4.DHCPv4
	kind   dhcpv4.MessageType
	mac    lab.MAC // the hardware address; ROM, iPXE and system of one machine send different client ids
	client client
	arch   arch
	probe  bool // another carte looks whether anyone answers here
}

// boots says whether the client wants to be told what to boot.
func (a ask) boots() bool { return a.client != clientOS }

// probeClass is the user class of a carte that looks for DHCP servers, so that it is not taken for a machine.
const probeClass = "carte-probe"

// readAsk reads a packet that came to a server's port. A packet that no server may answer is an error: replies above all,
// because a reply to a reply is a loop.
func readAsk(b []byte) (ask, error) {
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return ask{}, err
	}
	if p.OpCode != dhcpv4.OpcodeBootRequest {
		return ask{}, fmt.Errorf("opcode %d is not a request", p.OpCode)
	}
	if p.HWType != iana.HWTypeEthernet || len(p.ClientHWAddr) != 6 {
		return ask{}, fmt.Errorf("hardware type %d with an address of %d bytes is not Ethernet", p.HWType, len(p.ClientHWAddr))
	}
	mac, err := lab.ParseMAC(p.ClientHWAddr.String())
	if err != nil {
		return ask{}, err
	}
	if mac == "00:00:00:00:00:00" {
		return ask{}, errors.New("the hardware address is empty")
	}
	for code, value := range p.Options {
		if len(value) > maxOption {
			return ask{}, fmt.Errorf("option %d has %d bytes", code, len(value))
		}
	}
	a := ask{packet: p, kind: p.MessageType(), mac: mac}
	if a.kind == dhcpv4.MessageTypeNone {
		return ask{}, errors.New("it has no DHCP message type")
	}
	class := p.ClassIdentifier()
	user := userClass(p.Options.Get(dhcpv4.OptionUserClassInformation))
	a.arch = archOf(p.Options.Get(dhcpv4.OptionClientSystemArchitectureType), class)
	switch {
	case user == "iPXE", user == "pixiecore": // the second is the class of the iPXE that carte hands out
		a.client = clientIPXE
	case strings.HasPrefix(class, "PXEClient"), strings.HasPrefix(class, "HTTPClient"):
		a.client = clientFirmware
	}
	a.probe = user == probeClass
	return a, nil
}

// userClass reads option 77. iPXE sends the bare words; RFC 3004 puts a length before each class.
func userClass(b []byte) string {
	if len(b) > 1 && int(b[0]) == len(b)-1 {
		b = b[1:]
	}
	return string(b)
}

// archOf chooses the first architecture of option 93 that carte can start, else the first. ROMs without the option say
// it in their class: PXEClient:Arch:00007:UNDI:003016.
func archOf(b []byte, class string) arch {
	var all []arch
	for ; len(b) >= 2; b = b[2:] {
		all = append(all, arch(binary.BigEndian.Uint16(b)))
	}
	if len(all) == 0 {
		if parts := strings.Split(class, ":"); len(parts) > 2 && parts[1] == "Arch" {
			if n, err := strconv.ParseUint(parts[2], 10, 16); err == nil {
				all = append(all, arch(n))
			}
		}
	}
	if len(all) == 0 {
		return 0
	}
	for _, a := range all {
		if archs[a].program != "" {
			return a
		}
	}
	return all[0]
}

// addr is an address of a packet's header or options; the zero Addr when there is none.
func addr(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
