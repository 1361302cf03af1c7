package netboot_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/netboot/payload"
)

var serverAddr = netip.MustParsePrefix("10.77.0.1/24")

// quick is a configuration whose wire has nobody who needs time to answer.
func quick(l *lab.Lab, mode string) netboot.Config {
	return netboot.Config{Lab: l, Interface: "lab0", DHCP: mode, Probe: 300 * time.Millisecond}
}

// program finds a program, or skips the test.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// run runs a program to its end, or until a line of it fits, and returns what it said.
func run(t *testing.T, until string, name string, args ...string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, program(t, name), args...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var all strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fmt.Fprintln(&all, lines.Text())
		if until != "" && strings.Contains(lines.Text(), until) {
			cmd.Process.Kill()
		}
	}
	err = cmd.Wait()
	return fmt.Sprintf("%s%v\n", all.String(), err)
}

func macOf(t *testing.T, ifname string) string {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	return ifi.HardwareAddr.String()
}

// until waits for a state of the lab.
func until(t *testing.T, l *lab.Lab, limit time.Duration, what string, ok func(lab.Snapshot) bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	for rev := uint64(0); ; {
		s, err := l.Watch(ctx, rev)
		if err != nil {
			t.Fatalf("%s: not within %s", what, limit)
		}
		if ok(s) {
			return
		}
		rev = s.Rev
	}
}

var ipv4 = regexp.MustCompile(`10\.77\.0\.\d+`)

// udhcpc returns the address that busybox's client got on nic0, or what it said.
func udhcpc(t *testing.T, more ...string) string {
	out := run(t, "", "busybox", append([]string{"udhcpc", "-i", "nic0", "-n", "-q", "-f", "-t", "4", "-T", "1", "-s", "/bin/true"}, more...)...)
	if i := strings.Index(out, "lease of "); i >= 0 {
		return ipv4.FindString(out[i:])
	}
	return out
}

// dhclient is ISC's.
func dhclient(t *testing.T) string {
	dir := t.TempDir()
	out := run(t, "bound to", "dhclient", "-d", "-1", "-sf", "/bin/true", "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "nic0")
	if i := strings.Index(out, "bound to "); i >= 0 {
		return ipv4.FindString(out[i:])
	}
	return out
}

// Independent clients get a lease, keep it when the server is started again on the same book, and strangers get none.
func TestLeases(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", serverAddr)
		nic := wire.Port(t)
		book := netboot.NewMemory()
		var first string
		t.Run("first", func(t *testing.T) {
			l := netboot.OpenLab(t, book)
			netboot.Start(t, quick(l, "server"))
			if got := udhcpc(t); ipv4.MatchString(got) && len(got) < 20 {
				t.Errorf("a stranger's system got %s", got)
			}
			if got := udhcpc(t, "-V", "PXEClient:Arch:00000:UNDI:002001"); got != "10.77.0.128" {
				t.Errorf("a stranger's firmware got %s", got)
			}
			until(t, l, 2*time.Second, "the stranger is shown", func(s lab.Snapshot) bool { _, err := s.Find(macOf(t, nic)); return err == nil })
			netboot.Say(t, l, lab.Adopt{Machine: macOf(t, nic), Name: "nuc-1"})
			first = udhcpc(t)
			if first != "10.77.0.128" {
				t.Errorf("udhcpc got %s", first)
			}
			if got := dhclient(t); got != first {
				t.Errorf("dhclient got %s, udhcpc %s", got, first)
			}
		})
		t.Run("after a restart", func(t *testing.T) {
			l := netboot.OpenLab(t, book)
			netboot.Start(t, quick(l, "server"))
			for name, got := range map[string]string{"dhclient": dhclient(t), "udhcpc": udhcpc(t), "udhcpc that asks for it": udhcpc(t, "-r", first)} {
				if got != first {
					t.Errorf("%s got %s, had %s", name, got, first)
				}
			}
			netboot.Say(t, l, lab.Ignore{Machine: "nuc-1"})
			if got := udhcpc(t, "-V", "PXEClient:Arch:00000:UNDI:002001"); len(got) < 20 {
				t.Errorf("an ignored machine got %s", got)
			}
		})
	})
}

// addresses gives the loopback addresses of the wire's network, so that clients of one namespace look like machines.
func addresses(t *testing.T, first, n int) (all []string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		ip := fmt.Sprintf("10.77.0.%d", first+i)
		a, err := netlink.ParseAddr(ip + "/32")
		if err == nil {
			err = netlink.AddrAdd(lo, a)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ip)
	}
	return all
}

func ipxe(name string) []byte {
	b, ok := payload.Payload{}.IPXE(name)
	if !ok {
		panic("BUG: there is no " + name)
	}
	return b
}

func same(t *testing.T, what, file string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v, want the %d of iPXE", what, len(got), err, len(want))
	}
}

func TestFetchiPXE(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.NewWire(t, "lab0", serverAddr)
		s := netboot.Start(t, quick(netboot.OpenLab(t, netboot.NewMemory()), "server"))
		dir := t.TempDir()
		for _, name := range []string{payload.UndionlyFile, payload.IPXEFile} {
			file, want := filepath.Join(dir, name), ipxe(name)
			for client, args := range map[string][]string{
				"curl":  {"-sS", "-o", file, "tftp://10.77.0.1/" + name},
				"tftp":  {"-m", "binary", "10.77.0.1", "-c", "get", name, file},
				"atftp": {"--get", "--option", "blksize 1428", "-r", name, "-l", file, "10.77.0.1"},
			} {
				os.Remove(file)
				if out := run(t, "", client, args...); !strings.HasSuffix(out, "<nil>\n") {
					t.Errorf("%s %s: %s", client, name, out)
				}
				same(t, client+" "+name, file, want)
			}
		}
		file := filepath.Join(dir, "kernel")
		run(t, "", "curl", "-sS", "-o", file, "http://10.77.0.1/kernel")
		same(t, "kernel", file, netboot.Kernel)
		for _, name := range []string{"../etc/passwd", "/etc/passwd", "//ipxe.efi", "./ipxe.efi", "ipxe.efi/", "IPXE.EFI", "..%2fipxe.efi", "vmlinuz", "kernel", "bin/ipxe.efi", strings.Repeat("a", 300), ""} {
			if got := rrq(t, 1, name); !strings.Contains(got, "no such file") {
				t.Errorf("TFTP %q: %q", name, got)
			}
		}
		if got := rrq(t, 2, "ipxe.efi"); !strings.Contains(got, "does not support write") {
			t.Errorf("a TFTP write: %q", got)
		}
		if got := s.DHCPMode(); got != "server" {
			t.Errorf("DHCP is %s", got)
		}
	})
}

// rrq sends one TFTP request and returns the error it gets.
func rrq(t *testing.T, op byte, name string) string {
	t.Helper()
	c, err := net.ListenPacket("udp4", "10.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo([]byte("\x00"+string(op)+name+"\x00octet\x00blksize\x001428\x00"), &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 69}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, _, err := c.ReadFrom(buf)
	if err != nil || n < 4 || buf[1] != 5 {
		return fmt.Sprintf("no TFTP error but %x, %v", buf[:min(n, 20)], err)
	}
	return string(buf[4:n])
}

// lose makes the loopback, where a namespace talks to its own addresses, lose packets of a protocol.
func lose(t *testing.T, perMille int, match string) {
	t.Helper()
	cmd := exec.Command(program(t, "nft"), "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("table netdev loss {\nchain in {\ntype filter hook ingress device lo priority 0; policy accept;\n%s numgen random mod 1000 < %d counter drop\n}\n}\n", match, perMille))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("no packet loss here: %s", out)
	}
}

func TestTFTPWithLoss(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.NewWire(t, "lab0", serverAddr)
		netboot.Start(t, quick(netboot.OpenLab(t, netboot.NewMemory()), "server"))
		from := addresses(t, 100, 32)
		lose(t, 50, "meta l4proto udp")
		curl := program(t, "curl")
		dir := t.TempDir()
		start := time.Now()
		var wg sync.WaitGroup
		for _, ip := range from {
			wg.Go(func() {
				file := filepath.Join(dir, ip)
				ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
				defer stop()
				cmd := exec.CommandContext(ctx, curl, "-sS", "--tftp-blksize", "1428", "--interface", ip, "-o", file, "tftp://10.77.0.1/ipxe.efi")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v: %s", ip, err, out)
					return
				}
				same(t, ip, file, ipxe(payload.IPXEFile))
			})
		}
		wg.Wait()
		t.Logf("32 clients at 5 %% loss: %.1f s", time.Since(start).Seconds())
	})
}

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
		udhcpc(t) // the other server speaks to this client
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

// A card that is unplugged and comes back, as a new interface of the same name, is served again.
func TestReplug(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		plug := func() {
			t.Helper()
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "lab0"
			mac, err := net.ParseMAC("52:54:00:00:00:31")
			if err != nil {
				t.Fatal(err)
			}
			veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "nic0", PeerHardwareAddr: mac}
			if err := netlink.LinkAdd(veth); err != nil {
				t.Fatal(err)
			}
			a, err := netlink.ParseAddr(serverAddr.String())
			if err != nil {
				t.Fatal(err)
			}
			nic, err := netlink.LinkByName("nic0")
			if err == nil {
				err = errors.Join(netlink.AddrAdd(veth, a), netlink.LinkSetUp(veth), netlink.LinkSetUp(nic))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		plug()
		l := netboot.OpenLab(t, netboot.NewMemory())
		netboot.Say(t, l, lab.AddMachine{Name: "nuc-1", MACs: []string{"52:54:00:00:00:31"}})
		netboot.Start(t, quick(l, "server"))
		if got := udhcpc(t); got != "10.77.0.128" {
			t.Errorf("before: %s", got)
		}
		link, err := netlink.LinkByName("lab0")
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			t.Fatal(err)
		}
		until(t, l, 5*time.Second, "the loss is shown", func(s lab.Snapshot) bool { return s.Services["dhcp"].State == "down" })
		plug()
		until(t, l, 10*time.Second, "it serves again", func(s lab.Snapshot) bool { return s.Services["dhcp"].State == "serving" })
		if got := udhcpc(t); got != "10.77.0.128" {
			t.Errorf("after: %s", got)
		}
		if out := run(t, "", "curl", "-sS", "http://10.77.0.1/boot.ipxe"); !strings.Contains(out, "#!ipxe") {
			t.Errorf("HTTP after: %s", out)
		}
	})
}

// A default route that appears on the wire makes carte stop there.
func TestDefaultRouteAppears(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.NewWire(t, "lab0", serverAddr)
		l := netboot.OpenLab(t, netboot.NewMemory())
		netboot.Start(t, quick(l, "server"))
		link, err := netlink.LinkByName("lab0")
		if err == nil {
			err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 77, 0, 254)})
		}
		if err != nil {
			t.Fatal(err)
		}
		until(t, l, 5*time.Second, "carte stops", func(s lab.Snapshot) bool {
			return s.Services["dhcp"].State == "down" && strings.Contains(s.Services["dhcp"].Note, "default route")
		})
	})
}

func TestRouterAdvertisement(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		nic := labtest.NewWire(t, "lab0", serverAddr).Port(t)
		netboot.Start(t, quick(netboot.OpenLab(t, netboot.NewMemory()), "server"))
		ifi, err := net.InterfaceByName(nic)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := net.ListenPacket("ip6:ipv6-icmp", "::")
		if err != nil {
			t.Skipf("no IPv6: %v", err)
		}
		c := ipv6.NewPacketConn(raw)
		defer c.Close()
		err = errors.Join(c.JoinGroup(ifi, &net.IPAddr{IP: net.IPv6linklocalallnodes}), c.SetMulticastInterface(ifi), c.SetMulticastHopLimit(255),
			c.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit|ipv6.FlagSrc, true))
		if err != nil {
			t.Fatal(err)
		}
		solicitation := []byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}
		buf := make([]byte, 1500)
		for range 20 {
			// Until the interfaces have their link-local addresses a packet may fail.
			_, _ = c.WriteTo(solicitation, nil, &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: nic})
			if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			for {
				n, cm, _, err := c.ReadFrom(buf)
				if err != nil {
					break
				}
				if buf[0] != byte(ipv6.ICMPTypeRouterAdvertisement) || cm.IfIndex != ifi.Index {
					continue
				}
				if n != 16 || cm.HopLimit != 255 || !cm.Src.IsLinkLocalUnicast() || buf[4] != 64 || buf[5] != 0 || buf[6] != 0 || buf[7] != 0 {
					t.Errorf("advertisement %x, hop limit %d, from %s", buf[:n], cm.HopLimit, cm.Src)
				}
				return
			}
		}
		t.Error("no advertisement in 10 s")
	})
}

func TestDoctor(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.NewWire(t, "lab0", serverAddr)
		c := quick(nil, "server")
		c.Payload = netboot.TestBytes()
		text := func(all []lab.Finding) (s string) {
			for _, f := range all {
				s += fmt.Sprintf("%v %s: %s | %s\n", f.OK, f.What, f.Why, f.Fix)
			}
			return s
		}
		if got := text(netboot.Doctor(t.Context(), c)); strings.Contains(got, "false ") || !strings.Contains(got, "none heard") {
			t.Errorf("a healthy wire:\n%s", got)
		}
		l := netboot.OpenLab(t, netboot.NewMemory())
		s := netboot.Start(t, quick(l, "server"))
		until(t, l, 5*time.Second, "all serve", func(s lab.Snapshot) bool { return len(s.Services) >= 4 })
		if got := text(s.Doctor(t.Context())); strings.Contains(got, "false ") || !strings.Contains(got, "dhcp serving") {
			t.Errorf("a server that runs:\n%s", got)
		}
		if got := text(netboot.Doctor(t.Context(), c)); !strings.Contains(got, "false UDP port 67") || !strings.Contains(got, "stop that") {
			t.Errorf("taken ports:\n%s", got)
		}
		c.Interface = "lo"
		if got := text(netboot.Doctor(t.Context(), c)); !strings.Contains(got, "false interface lo") {
			t.Errorf("loopback:\n%s", got)
		}
	})
}
