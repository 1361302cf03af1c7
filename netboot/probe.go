package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"carte/lab"
)

// An other is a DHCP server that is not us.
type other struct {
	mac   net.HardwareAddr
	ip    netip.Addr
	lends bool // gives addresses; else it only says what to boot, or refuses
}

func (o other) String() string { return fmt.Sprintf("%s (%s)", o.ip, o.mac) }

// An ear hears every frame on a wire in which a DHCP server speaks, whoever it is meant for, and can ask for answers.
type ear struct {
	f   *os.File
	mac net.HardwareAddr
}

// openEar needs CAP_NET_RAW. A packet socket and no UDP socket, because servers answer to addresses and ports that are
// not ours.
func openEar(ifi *net.Interface) (*ear, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "ear")
	fail := func(what string, err error) (*ear, error) {
		f.Close()
		return nil, os.NewSyscallError(what, err)
	}
	filter, err := bpf.Assemble(serversOnly)
	if err != nil {
		panic("BUG: packet filter: " + err.Error())
	}
	prog := make([]unix.SockFilter, len(filter))
	for i, x := range filter {
		prog[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fail("attach filter", err)
	}
	const ethIPv4 = 0x0008 // ETH_P_IP in network order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ethIPv4, Ifindex: ifi.Index}); err != nil {
		return fail("bind", err)
	}
	return &ear{f, ifi.HardwareAddr}, nil
}

func (e *ear) Close() error { return e.f.Close() }

// serversOnly lets UDP over IPv4 from port 67 or 4011 pass, so that an image that is fetched at the same time is not
// copied here.
var serversOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0800, SkipFalse: 9},
	bpf.LoadAbsolute{Off: 23, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 7},
	bpf.LoadAbsolute{Off: 20, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 5}, // a later fragment has no port
	bpf.LoadMemShift{Off: 14},
	bpf.LoadIndirect{Off: 14, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 67, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4011, SkipFalse: 1},
	bpf.RetConstant{Val: 2048},
	bpf.RetConstant{Val: 0},
}

// next waits for the next server that speaks, at most until the deadline (none when zero).
func (e *ear) next(ctx context.Context, deadline time.Time) (other, error) {
	if err := e.f.SetReadDeadline(deadline); err != nil {
		return other{}, err
	}
	defer context.AfterFunc(ctx, func() { e.f.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 2048)
	for {
		n, err := e.f.Read(buf)
		if ctx.Err() != nil {
			return other{}, ctx.Err()
		}
		if err != nil {
			return other{}, err
		}
		if o, ok := heard(buf[:n], e.mac); ok {
			return o, nil
		}
	}
}

// heard reads an Ethernet frame. ok is false unless it carries the words of a DHCP server with another address than self.
func heard(b []byte, self net.HardwareAddr) (o other, ok bool) {
	if len(b) < 14+20+8 || binary.BigEndian.Uint16(b[12:]) != 0x0800 || slices.Equal(b[6:12], self) {
		return other{}, false
	}
	ip := b[14:]
	header := int(ip[0]&15) * 4
	if ip[0]>>4 != 4 || header < 20 || ip[9] != unix.IPPROTO_UDP || len(ip) < header+8 {
		return other{}, false
	}
	p, err := dhcpv4.FromBytes(ip[header+8:])
	if err != nil || p.OpCode != dhcpv4.OpcodeBootReply {
		return other{}, false
	}
	switch p.MessageType() {
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak:
	default:
		return other{}, false
	}
	o.mac = slices.Clone(b[6:12])
	if o.ip = addr(p.ServerIdentifier()); !o.ip.IsValid() {
		o.ip = netip.AddrFrom4([4]byte(ip[12:16]))
	}
	o.lends = addr(p.YourIPAddr).IsValid()
	return o, true
}

// probe asks three times in that time whether anyone gives addresses or boots machines here, and returns the first that
// answers. dnsmasq looks for up to 3 s whether an address is free before it offers it.
func (e *ear) probe(ctx context.Context, length time.Duration) (o other, found bool, err error) {
	start := time.Now()
	for i := range 3 {
		if err := e.ask(); err != nil {
			return other{}, false, err
		}
		o, err := e.next(ctx, start.Add(length*time.Duration(i+1)/3))
		if err == nil {
			return o, true, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return other{}, false, err
		}
	}
	return other{}, false, nil
}

// ask sends two DISCOVERs: one as a machine that wants an address, one as firmware that wants to boot, because a
// ProxyDHCP server answers the second only. Both addresses are our own, one of them made local, so that servers that
// remember who asked remember no more than two.
func (e *ear) ask() error {
	made := slices.Clone(e.mac)
	made[0] ^= 2
	plain, err := dhcpv4.NewDiscovery(made, dhcpv4.WithBroadcast(true))
	if err != nil {
		return err
	}
	pxe, err := dhcpv4.NewDiscovery(e.mac, dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 7})),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 16})),
		dhcpv4.WithOption(dhcpv4.OptGeneric(optClientUUID, make([]byte, 17))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte(probeClass))))
	if err != nil {
		return err
	}
	for _, p := range []*dhcpv4.DHCPv4{plain, pxe} {
		if _, err := e.f.Write(frame(e.mac, p.ToBytes())); err != nil {
			return fmt.Errorf("ask for DHCP servers: %w", err)
		}
	}
	return nil
}

// frame wraps a DHCP packet of a client without an address: Ethernet and IPv4 broadcast, UDP 68 to 67 without checksum.
func frame(src net.HardwareAddr, packet []byte) []byte {
	b := make([]byte, 14+20+8, 14+20+8+len(packet))
	copy(b, []byte{255, 255, 255, 255, 255, 255})
	copy(b[6:], src)
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	ip := b[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(packet)))
	copy(ip[16:], []byte{255, 255, 255, 255})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	udp := b[34:42]
	binary.BigEndian.PutUint16(udp, 68)
	binary.BigEndian.PutUint16(udp[2:], 67)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(packet)))
	return append(b, packet...)
}

// refusal is the sentence for a wire that is served already.
func (o other) refusal(ifname string) error {
	if o.lends {
		return fmt.Errorf("a DHCP server answers on %s already: %s; stop it, or let carte only add the boot to it: dhcp = proxy: %w", ifname, o, lab.ErrRefused)
	}
	return fmt.Errorf("another network boot server answers on %s already: %s; stop it, machines would follow whoever is faster: %w", ifname, o, lab.ErrRefused)
}
