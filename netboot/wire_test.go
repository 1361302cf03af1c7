package netboot_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
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
		if got := text(s.Doctor(t.Context())); strings.Contains(got, "false ") || !strings.Contains(got, "dhcp serving") || strings.Count(got, "kernel and agent: ready for machines") != 1 {
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
