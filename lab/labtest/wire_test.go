package labtest_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"carte/lab/labtest"
	"carte/netboot/qemu"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
)

var serverAddr = netip.MustParsePrefix("10.77.0.1/24")

func TestNetnsIsAlone(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		ifs, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range ifs {
			if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
				t.Errorf("%s is up in a new namespace", i.Name)
			}
		}
		if c, err := net.DialTimeout("udp4", "192.0.2.1:9", time.Second); err == nil {
			c.Close()
			t.Error("there is a route out of the namespace")
		}
	})
}

// Frames of full size pass a cable both ways, and the cable outlives a machine that
// does not listen.
func TestCableCarriesFrames(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", serverAddr)
		a := labtest.Cable(t, wire.Port(t))
		b := labtest.Cable(t, wire.Port(t))
		for i := range 50 { // more than the queue of a socket: nobody reads b yet
			if _, err := a.Write(frame(byte(i), 60)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.SetReadDeadline(time.Now().Add(labtest.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write(frame(200, 1514)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		for {
			n, err := b.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if isOurs(buf[:n]) && buf[14] == 200 {
				if n != 1514 {
					t.Errorf("a frame of 1514 bytes came as %d", n)
				}
				return
			}
			// A frame may be lost while the queue was full; the last is sent again.
			if _, err := a.Write(frame(200, 1514)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// frame is a broadcast of an EtherType for experiments (IEEE 802, 88b5h).
func frame(mark byte, size int) []byte {
	f := make([]byte, size)
	copy(f, "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x09\x88\xb5")
	f[14] = mark
	return f
}

func isOurs(f []byte) bool { return len(f) > 14 && f[12] == 0x88 && f[13] == 0xb5 }

// TestClients writes down who asks for a boot: the table in the comment of VM.
func TestClients(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		tools := labtest.QEMU(t)
		for _, row := range []struct {
			name string
			spec qemu.Spec
			edit func([]byte)
			want string
		}{
			{"SeaBIOS with iPXE", qemu.Spec{}, nil, `[0] "PXEClient:Arch:00000:UNDI:002001" "iPXE"`},
			{"SeaBIOS with plain PXE", qemu.Spec{}, labtest.HideIPXE, `[0] "PXEClient:Arch:00000:UNDI:002001" ""`},
			{"OVMF with iPXE", qemu.Spec{UEFI: true}, nil, `[7] "PXEClient:Arch:00007:UNDI:003010" "iPXE"`},
			{"OVMF alone", qemu.Spec{UEFI: true, ROM: qemu.ROMNone}, nil, `[7] "PXEClient:Arch:00007:UNDI:003000" ""`},
		} {
			t.Run(row.name, func(t *testing.T) {
				if row.spec.UEFI && tools.Code == "" {
					t.Skip("UEFI firmware is not installed: " + qemu.Install)
				}
				wire := labtest.NewWire(t, "lab0", serverAddr)
				s := row.spec
				var edits []func([]byte)
				if row.edit != nil {
					edits = append(edits, row.edit)
				}
				s.Wire.Socket = labtest.Cable(t, wire.Port(t), edits...)
				c, err := net.ListenPacket("udp4", ":67")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				labtest.VM(t, s)
				if got := discover(t, c); got != row.want {
					t.Errorf("the first DISCOVER is from %s, want %s", got, row.want)
				}
			})
		}
	})
}

// A tap interface is the wire of a machine that is to be on a real network.
func TestTap(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.QEMU(t)
		tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err != nil {
			t.Skipf("no tap interfaces here: %v", err)
		}
		if err := tun.Close(); err != nil {
			t.Fatal(err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "tap0"
		tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}
		if err := netlink.LinkAdd(tap); err != nil {
			t.Fatal(err)
		}
		wire := labtest.NewWire(t, "lab0", serverAddr)
		bridge, err := netlink.LinkByName(wire.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(netlink.LinkSetMaster(tap, bridge), netlink.LinkSetUp(tap)); err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenPacket("udp4", ":67")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		labtest.VM(t, qemu.Spec{Wire: qemu.Wire{Tap: "tap0"}})
		discover(t, c)
	})
}

// discover waits for a DISCOVER and says who sent it.
func discover(t *testing.T, c net.PacketConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(labtest.Patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for {
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("no DISCOVER in %v", labtest.Patience)
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			t.Fatalf("not DHCP: % x: %v", buf[:n], err)
		}
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			return fmt.Sprintf("%d %q %q", m.ClientArch(), m.ClassIdentifier(), m.Options.Get(dhcpv4.OptionUserClassInformation))
		}
	}
}
