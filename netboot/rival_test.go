package netboot_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// A rival is a DHCP server on another port of the same switch, in a namespace of its own: on one computer the port could
// not be opened twice.
func rival(t *testing.T, nic string) {
	t.Helper()
	link, err := netlink.LinkByName(nic)
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`read go; ip link set lo up; ip addr add 10.77.0.2/24 dev %[1]s; ip link set %[1]s up
		exec %[2]s -d -C /dev/null -p 0 -i %[1]s --bind-interfaces --dhcp-authoritative --no-ping --dhcp-range=10.77.0.50,10.77.0.59,255.255.255.0 --dhcp-leasefile=%[3]s`,
		nic, program(t, "dnsmasq"), filepath.Join(t.TempDir(), "leases"))
	cmd := exec.Command("sh", "-c", script)
	runtime.LockOSThread() // the parent that the child dies with is a thread
	t.Cleanup(runtime.UnlockOSThread)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := netlink.LinkSetNsPid(link, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	// Held until this process ends: with the last reference the interface would go, and what made it takes it away.
	if _, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "go")
	ready := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all strings.Builder
		for lines := bufio.NewScanner(r); lines.Scan(); {
			fmt.Fprintln(&all, lines.Text())
			if strings.Contains(lines.Text(), "DHCP, IP range") {
				ready <- ""
			}
		}
		select {
		case ready <- all.String():
		default:
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
		r.Close()
	})
	if failed := <-ready; failed != "" {
		t.Fatalf("dnsmasq: %s", failed)
	}
}

// refused checks the sentence with which Listen refuses, and that nothing stays open.
func refused(t *testing.T, c netboot.Config, want ...string) {
	t.Helper()
	c.Lab = netboot.OpenLab(t, netboot.NewMemory())
	c.Chunks, c.Payload, c.Cert, c.Log = netboot.TestChunks(), netboot.TestBytes(), netboot.TestCert(), slog.New(slog.DiscardHandler)
	s, err := netboot.New(c)
	if err == nil {
		err = s.Listen(t.Context())
	}
	if err == nil {
		t.Fatalf("Listen took it, want %q", want)
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one sentence: %v", err)
	}
	t.Log(err)
}

func TestOtherServerBefore(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", serverAddr)
		nic, rivals := wire.Port(t), wire.Port(t)
		mac := macOf(t, rivals)
		rival(t, rivals)
		slow := quick(nil, "server")
		slow.Probe = 8 * time.Second
		refused(t, slow, "10.77.0.2", mac, "dhcp = proxy")

		slow.DHCP, slow.Lab = "auto", netboot.OpenLab(t, netboot.NewMemory())
		s := netboot.Start(t, slow)
		if got := s.DHCPMode(); got != "proxy" {
			t.Errorf("DHCP is %s beside another server", got)
		}
		netboot.Say(t, slow.Lab, lab.AddMachine{Name: "nuc-1", MACs: []string{macOf(t, nic)}})
		c, err := nclient4.New(nic, nclient4.WithTimeout(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for arch, want := range map[byte]string{0: "undionly.kpxe", 7: "ipxe.efi"} {
			pxe := []dhcpv4.Modifier{dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003016", arch))),
				dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, arch}))}
			discover, err := dhcpv4.NewDiscovery(c.InterfaceAddr(), pxe...)
			if err != nil {
				t.Fatal(err)
			}
			offer, err := c.SendAndRead(t.Context(), nclient4.DefaultServers, discover, func(p *dhcpv4.DHCPv4) bool { return p.ServerIPAddr.Equal(net.IPv4(10, 77, 0, 1)) })
			if err != nil || offer.BootFileName != want || !offer.YourIPAddr.IsUnspecified() || offer.ClassIdentifier() != "PXEClient" {
				t.Errorf("arch %d: %v, %v, want an OFFER of %s without an address", arch, offer, err, want)
			}
		}
		if got := udhcpc(t); !strings.HasPrefix(got, "10.77.0.5") {
			t.Errorf("the address comes from %s, want the other server's", got)
		}
	})
}

func TestOtherServerWhileServing(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", serverAddr)
		nic, rivals := wire.Port(t), wire.Port(t)
		l := netboot.OpenLab(t, netboot.NewMemory())
		netboot.Say(t, l, lab.AddMachine{Name: "nuc-1", MACs: []string{macOf(t, nic)}})
		netboot.Start(t, quick(l, "server"))
		if got := udhcpc(t); got != "10.77.0.128" {
			t.Errorf("before: %s", got)
		}
		rival(t, rivals)
		// The other server hears nothing in the first moments of its interface, so more than one client may have to ask.
		// Within 2 s of its first word carte is silent.
		ear, err := nclient4.New(nic, nclient4.WithTimeout(15*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		defer ear.Close()
		discover, err := dhcpv4.NewDiscovery(ear.InterfaceAddr(), dhcpv4.WithBroadcast(true))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ear.SendAndRead(t.Context(), nclient4.DefaultServers, discover, func(p *dhcpv4.DHCPv4) bool {
			return p.ServerIdentifier().Equal(net.IPv4(10, 77, 0, 2))
		}); err != nil {
			t.Fatal(err)
		}
		until(t, l, 2*time.Second, "carte yields", func(s lab.Snapshot) bool {
			d := s.Services["dhcp"]
			return d.State == "yielded" && !d.OK && strings.Contains(d.Note, "10.77.0.2")
		})
		if got := udhcpc(t); !strings.HasPrefix(got, "10.77.0.5") {
			t.Errorf("after: %s, want the other server's address", got)
		}
	})
}

// Two cartes on one wire find one another, although neither answers strangers.
func TestOtherCarte(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.NewWire(t, "lab0", serverAddr).Port(t)
		link, err := netlink.LinkByName("nic0")
		if err != nil {
			t.Fatal(err)
		}
		a, err := netlink.ParseAddr("10.77.0.2/24")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			t.Fatal(err)
		}
		l := netboot.OpenLab(t, netboot.NewMemory())
		netboot.Start(t, quick(l, "server"))
		c := quick(nil, "server")
		c.Interface = "nic0"
		refused(t, c, "another network boot server", "10.77.0.1")
		s, err := l.Watch(t.Context(), 0)
		if err != nil || len(s.Machines) > 0 {
			t.Errorf("the second carte was taken for %v, %v", s.Machines, err)
		}
	})
}

func TestInterfaceRefusals(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", serverAddr)
		nic := wire.Port(t)
		on := func(name string) netboot.Config { c := quick(nil, "server"); c.Interface = name; return c }
		refused(t, on("eth9"), `no network interface "eth9"`, "lab0")
		refused(t, on("lo"), "loopback")
		refused(t, on(nic), "no IPv4 address", "ip addr add")
		link, err := netlink.LinkByName("lab0")
		if err != nil {
			t.Fatal(err)
		}
		down := func(f func(netlink.Link) error) {
			t.Helper()
			if err := f(link); err != nil {
				t.Fatal(err)
			}
		}
		down(netlink.LinkSetDown)
		refused(t, on("lab0"), "is down", "ip link set lab0 up")
		down(netlink.LinkSetUp)
		for _, dst := range []string{"0.0.0.0/0", "0.0.0.0/1", "::/0"} {
			_, to, err := net.ParseCIDR(dst)
			if err != nil {
				t.Fatal(err)
			}
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Table: 77}
			if err := netlink.RouteAdd(route); err != nil {
				t.Fatalf("route %s: %v", dst, err)
			}
			for _, mode := range []string{"server", "proxy", "auto"} {
				c := on("lab0")
				c.DHCP = mode
				refused(t, c, "default route", "network card of its own")
			}
			if err := netlink.RouteDel(route); err != nil {
				t.Fatal(err)
			}
		}
		c := on("lab0")
		c.Pool = lab.Pool{First: netip.MustParseAddr("10.78.0.1"), Last: netip.MustParseAddr("10.78.0.9")}
		refused(t, c, "10.77.0.0/24")
		c = on("lab0")
		c.DHCP = "on"
		refused(t, c, `dhcp = "on"`)
	})
}

func TestTakenPorts(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.NewWire(t, "lab0", serverAddr)
		reuse := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		}}
		for _, row := range []struct{ network, addr, want string }{
			{"udp4", "0.0.0.0:67", "UDP port 67 is taken by"},
			{"udp4", "10.77.0.1:4011", "UDP port 4011 is taken by"},
			{"udp4", "0.0.0.0:69", "UDP port 69 is taken by"},
			{"tcp4", "0.0.0.0:80", "TCP port 80 is taken by"},
			{"tcp4", "10.77.0.1:4443", "TCP port 4443 is taken by"},
		} {
			var c io.Closer
			var err error
			if row.network == "udp4" {
				c, err = reuse.ListenPacket(t.Context(), row.network, row.addr)
			} else {
				c, err = reuse.Listen(t.Context(), row.network, row.addr)
			}
			if err != nil {
				t.Fatal(err)
			}
			refused(t, quick(nil, "server"), row.want, fmt.Sprintf("(process %d)", os.Getpid()))
			c.Close()
		}
		netboot.Start(t, quick(netboot.OpenLab(t, netboot.NewMemory()), "server"))
		refused(t, quick(nil, "server"), "is taken by")
	})
}
