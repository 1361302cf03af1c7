package labtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// frameWait is how long a frame waits for a machine that does not take it, because it
// is busy or off. Then it is lost, as on a real wire.
const frameWait = 100 * time.Millisecond

// Cable plugs a virtual machine into an interface: every frame that comes out of
// ifname goes to the returned socket, and the other way round. The socket is for
// qemu.Wire and may serve one machine after another. Cleanup unplugs it.
//
// Each edit may change, in place, the frames that the machine sends.
func Cable(t *testing.T, ifname string, edits ...func(frame []byte)) *os.File {
	t.Helper()
	nic, err := packetSocket(ifname)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("socket pair: %v", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "cable"), os.NewFile(uintptr(fds[1]), "machine")
	var wg sync.WaitGroup
	wg.Go(func() { carry(t, nic, ours, nil) })
	wg.Go(func() { carry(t, ours, nic, edits) })
	t.Cleanup(func() {
		err := errors.Join(nic.Close(), ours.Close(), theirs.Close())
		wg.Wait()
		if err != nil {
			t.Error(err)
		}
	})
	return theirs
}

// carry copies frames until one of its ends is closed. What cannot be delivered is
// lost: nobody holds the other end, its queue is full, the interface is down.
func carry(t *testing.T, from, to *os.File, edits []func([]byte)) {
	frame := make([]byte, 65536)
	for {
		n, err := from.Read(frame)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ECONNRESET):
			continue
		case err != nil:
			t.Errorf("cable: read from %s: %v", from.Name(), err)
			return
		}
		for _, edit := range edits {
			edit(frame[:n])
		}
		if err := to.SetWriteDeadline(time.Now().Add(frameWait)); err != nil {
			return // closed
		}
		_, _ = to.Write(frame[:n])
	}
}

// Where things are in an Ethernet frame with IPv4 without options, UDP and BOOTP
// (RFC 791, 768, 2131).
const (
	offUDP     = 14 + 20
	offUDPSum  = offUDP + 6
	offOptions = offUDP + 8 + 236 + 4 // after the fixed part and the magic cookie
)

// HideIPXE is an edit for Cable that makes the iPXE ROM of a virtual machine look
// like the plain PXE ROM of an old BIOS: it takes the user class "iPXE" (option 77)
// and iPXE's own options (175) out of what the ROM asks of DHCP servers. There is no
// other PXE ROM for SeaBIOS. An iPXE that was loaded after that has another user class
// and passes unchanged.
func HideIPXE(frame []byte) {
	const udp, toServer, toProxy = 17, 67, 4011
	if len(frame) <= offOptions || frame[12] != 8 || frame[13] != 0 || frame[14] != 0x45 || frame[23] != udp {
		return
	}
	if port := int(frame[offUDP+2])<<8 | int(frame[offUDP+3]); port != toServer && port != toProxy {
		return
	}
	options := frame[offOptions:]
	if user, _ := dhcpOption(options, 77); string(user) != "iPXE" {
		return
	}
	for _, code := range []byte{77, 175} {
		if _, whole := dhcpOption(options, code); whole != nil {
			clear(whole) // 0 is padding (RFC 2132, 3.1)
		}
	}
	frame[offUDPSum], frame[offUDPSum+1] = 0, 0 // no checksum (RFC 768)
}

// dhcpOption finds an option: its value, and all its bytes with code and length.
func dhcpOption(options []byte, code byte) (value, whole []byte) {
	for i := 0; i+1 < len(options) && options[i] != 255; {
		if options[i] == 0 {
			i++
			continue
		}
		end := i + 2 + int(options[i+1])
		if end > len(options) {
			break
		}
		if options[i] == code {
			return options[i+2 : end], options[i:end]
		}
		i = end
	}
	return nil, nil
}

// packetSocket opens a raw socket on one interface, for all frames that come in.
// Those that it sends itself do not come back.
func packetSocket(ifname string) (*os.File, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("cable: %s: %w", ifname, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // protocol 0: nothing before bind
	if err != nil {
		return nil, fmt.Errorf("cable: packet socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), ifname)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cable: %s: %w", ifname, err), f.Close())
	}
	return f, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// Commands of the ethtool ioctl (linux/ethtool.h) that switch one offload each.
var offloads = []uint32{
	0x17, // ETHTOOL_STXCSUM
	0x1f, // ETHTOOL_STSO
	0x24, // ETHTOOL_SGSO
	0x2c, // ETHTOOL_SGRO
}

// offloadsOff makes the kernel finish each frame itself. Between veth ends it leaves
// checksums out and segments together, for hardware that is not there; a guest then
// drops the frames.
func offloadsOff(ifname string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("offloads of %s: %w", ifname, err)
	}
	defer unix.Close(fd)
	for _, command := range offloads {
		value := struct{ command, on uint32 }{command, 0}
		request := struct { // struct ifreq with ifr_data
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:unix.IFNAMSIZ-1], ifname)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 && errno != unix.EOPNOTSUPP { // what it does not have is off
			return fmt.Errorf("offload %#x of %s: %w", command, ifname, errno)
		}
	}
	return nil
}
