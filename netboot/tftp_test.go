package netboot_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"carte/lab/labtest"
	"carte/netboot"
	"carte/netboot/payload"
)

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
