package netboot

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"carte/lab"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./netboot -update writes it):\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

var secret = []byte("0123456789abcdef0123456789abcdef")

func openLab(t testing.TB, b lab.Book) *lab.Lab {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Config{Book: b, Now: time.Now, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func say(t testing.TB, l *lab.Lab, verbs ...lab.Verb) {
	t.Helper()
	for _, v := range verbs {
		if _, err := l.Say(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	adoptedMAC = "52:54:00:00:00:01"
	unknownMAC = "52:54:00:00:00:02"
	ignoredMAC = "52:54:00:00:00:03"
)

func packet(t testing.TB, kind dhcpv4.MessageType, mac string, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4}), dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rom is what PXE firmware adds to its packets.
func rom(a arch) dhcpv4.Modifier {
	return func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003016", uint16(a))))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{byte(a >> 8), byte(a)}))
		p.UpdateOption(dhcpv4.OptGeneric(optClientUUID, append([]byte{0}, bytes.Repeat([]byte{0xab}, 16)...)))
		p.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName))
	}
}

func class(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte(s)))
}

func asks(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}

func server(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(ip)))
}

func from(ip string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(ip)) }

// desk is a wire 10.77.0.0/24 with an adopted and an ignored machine.
func desk(t testing.TB, mode string) (*dhcp, *lab.Lab) {
	t.Helper()
	l := openLab(t, newMemory())
	say(t, l, lab.AddMachine{Name: "nuc-1", MACs: []string{adoptedMAC}}, lab.AddMachine{Name: "toaster", MACs: []string{ignoredMAC}}, lab.Ignore{Machine: "toaster"})
	wire := netip.MustParsePrefix("10.77.0.1/24")
	return newDHCP(l, slog.New(slog.DiscardHandler), wire.Addr(), wire, poolOf(wire), func() string { return mode },
		func(m lab.MAC) string {
			return "http://10.77.0.1/boot/" + strings.ReplaceAll(string(m), ":", "-") + ".ipxe"
		}), l
}

// show writes a reply for golden files and messages.
func show(b []byte, dest netip.AddrPort) string {
	if b == nil {
		return "  (silence)\n"
	}
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return err.Error()
	}
	var s strings.Builder
	fmt.Fprintf(&s, "  %s to %s yiaddr %s siaddr %s ciaddr %s giaddr %s file %q\n", p.MessageType(), dest, p.YourIPAddr, p.ServerIPAddr, p.ClientIPAddr, p.GatewayIPAddr, p.BootFileName)
	for code := range 255 {
		if v, ok := p.Options[uint8(code)]; ok && code != 53 {
			fmt.Fprintf(&s, "    option %3d: %x %q\n", code, v, v)
		}
	}
	return s.String()
}

// Every row is one packet; the golden file is what each of them gets, in both modes.
func TestAnswers(t *testing.T) {
	const discover, request, inform = dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform
	mine, theirs := server("10.77.0.1"), server("10.77.0.2")
	rows := []struct {
		name   string
		packet *dhcpv4.DHCPv4
		pxe    bool
	}{
		{"adopted, BIOS: DISCOVER", packet(t, discover, adoptedMAC, rom(0)), false},
		{"adopted, BIOS: REQUEST of what was offered", packet(t, request, adoptedMAC, rom(0), mine, asks("10.77.0.128")), false},
		{"adopted, UEFI: REQUEST", packet(t, request, adoptedMAC, rom(7), mine, asks("10.77.0.128")), false},
		{"adopted, UEFI arch 9: REQUEST", packet(t, request, adoptedMAC, rom(9), mine, asks("10.77.0.128")), false},
		{"adopted, ARM: DISCOVER", packet(t, discover, adoptedMAC, rom(11)), false},
		{"adopted, UEFI HTTP boot: DISCOVER", packet(t, discover, adoptedMAC, rom(16)), false},
		{"adopted, iPXE in ROM: DISCOVER", packet(t, discover, adoptedMAC, rom(0), class("iPXE")), false},
		{"adopted, our iPXE: REQUEST", packet(t, request, adoptedMAC, rom(7), class("pixiecore"), mine, asks("10.77.0.128")), false},
		{"adopted, iPXE with class as in RFC 3004: DISCOVER", packet(t, discover, adoptedMAC, rom(0), class("\x04iPXE")), false},
		{"adopted, system: DISCOVER", packet(t, discover, adoptedMAC), false},
		{"adopted, system: REQUEST at start, with its address", packet(t, request, adoptedMAC, asks("10.77.0.128")), false},
		{"adopted, system: REQUEST at start, with another's address", packet(t, request, adoptedMAC, asks("192.168.1.5")), false},
		{"adopted, system: renewal", packet(t, request, adoptedMAC, from("10.77.0.128")), false},
		{"adopted, system: renewal of another's address", packet(t, request, adoptedMAC, from("10.77.0.200")), false},
		{"adopted, system: REQUEST to another server", packet(t, request, adoptedMAC, theirs, asks("10.77.0.128")), false},
		{"adopted, system: REQUEST for nothing", packet(t, request, adoptedMAC), false},
		{"adopted, system: INFORM", packet(t, inform, adoptedMAC, from("10.77.0.128")), false},
		{"adopted: RELEASE", packet(t, dhcpv4.MessageTypeRelease, adoptedMAC, from("10.77.0.128")), false},
		{"adopted, through a relay: DISCOVER", packet(t, discover, adoptedMAC, dhcpv4.WithGatewayIP(net.IP{10, 77, 0, 9}), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 2, 7, 7}))), false},
		{"adopted, through a relay: REQUEST of another's address", packet(t, request, adoptedMAC, dhcpv4.WithGatewayIP(net.IP{10, 77, 0, 9}), asks("10.77.0.5")), false},
		{"adopted, through a relay of another network: DISCOVER", packet(t, discover, adoptedMAC, dhcpv4.WithGatewayIP(net.IP{10, 99, 0, 9})), false},
		{"unknown, system: DISCOVER", packet(t, discover, unknownMAC), false},
		{"unknown, system: REQUEST of another's address", packet(t, request, unknownMAC, asks("192.168.1.5")), false},
		{"unknown, firmware: REQUEST before any DISCOVER", packet(t, request, unknownMAC, rom(0), mine, asks("10.77.0.129")), false},
		{"unknown, firmware: DISCOVER", packet(t, discover, unknownMAC, rom(0)), false},
		{"unknown, firmware: REQUEST", packet(t, request, unknownMAC, rom(0), mine, asks("10.77.0.129")), false},
		{"unknown, firmware: REQUEST of another's address", packet(t, request, unknownMAC, rom(0), asks("192.168.1.5")), false},
		{"unknown, our iPXE: DISCOVER", packet(t, discover, unknownMAC, rom(0), class("pixiecore")), false},
		{"unknown, its system after that: DISCOVER", packet(t, discover, unknownMAC), false},
		{"ignored, firmware: DISCOVER", packet(t, discover, ignoredMAC, rom(0)), false},
		{"ignored, system: DISCOVER", packet(t, discover, ignoredMAC), false},
		{"another carte that looks for servers", packet(t, discover, "52:54:00:00:00:77", rom(7), class(probeClass)), false},
		{"port 4011, adopted, UEFI: REQUEST", packet(t, request, adoptedMAC, rom(7), from("10.77.0.44")), true},
		{"port 4011, adopted, BIOS: INFORM", packet(t, inform, adoptedMAC, rom(0), from("10.77.0.44")), true},
		{"port 4011, adopted, system: REQUEST", packet(t, request, adoptedMAC, from("10.77.0.44")), true},
		{"port 4011, adopted, UEFI: DISCOVER", packet(t, discover, adoptedMAC, rom(7)), true},
		{"port 4011, ignored, UEFI: REQUEST", packet(t, request, ignoredMAC, rom(7), from("10.77.0.44")), true},
		{"port 4011, a stranger: REQUEST", packet(t, request, "52:54:00:00:00:99", rom(7), from("10.77.0.44")), true},
	}
	for _, mode := range []string{"server", "proxy", "yielded"} {
		d, l := desk(t, mode)
		var text strings.Builder
		for _, row := range rows {
			sender := netip.MustParseAddrPort("0.0.0.0:68")
			if row.pxe {
				sender = netip.MustParseAddrPort("10.77.0.44:4011")
			}
			out, dest := d.handle(t.Context(), row.packet.ToBytes(), sender, row.pxe)
			fmt.Fprintf(&text, "%s\n%s", row.name, show(out, dest))
		}
		lines, _, _, err := l.Tail(t.Context(), lab.Tail{})
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("log\n")
		for _, line := range lines {
			fmt.Fprintf(&text, "  %d %s  %s\n", line.Machine, line.Source, line.Text)
		}
		golden(t, "answers-"+mode+".txt", text.String())
	}
}

// What a stranger's firmware asks for becomes a machine in the snapshot; what its system asks for does not.
func TestStrangersAreShown(t *testing.T) {
	d, l := desk(t, "server")
	d.handle(t.Context(), packet(t, dhcpv4.MessageTypeDiscover, "52:54:00:00:00:0a").ToBytes(), netip.AddrPort{}, false)
	d.handle(t.Context(), packet(t, dhcpv4.MessageTypeDiscover, unknownMAC, rom(7)).ToBytes(), netip.AddrPort{}, false)
	s, err := l.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Find(unknownMAC); err != nil || m.Standing != lab.Unknown {
		t.Errorf("firmware: %v, %v, want an unknown machine", m, err)
	}
	if m, err := s.Find("52:54:00:00:00:0a"); err == nil {
		t.Errorf("a laptop was remembered: %v", m)
	}
	a := s.Addresses[unknownMAC]
	if left := time.Until(a.Until); left > leaseStranger || left < leaseStranger-time.Minute {
		t.Errorf("a stranger's address is lent for %s, want %s", left, leaseStranger)
	}
}

// Declining an address gets another one.
func TestDecline(t *testing.T) {
	d, _ := desk(t, "server")
	yours := func() string {
		out, _ := d.handle(t.Context(), packet(t, dhcpv4.MessageTypeDiscover, adoptedMAC).ToBytes(), netip.AddrPort{}, false)
		p, err := dhcpv4.FromBytes(out)
		if err != nil {
			t.Fatal(err)
		}
		return p.YourIPAddr.String()
	}
	first := yours()
	d.handle(t.Context(), packet(t, dhcpv4.MessageTypeDecline, adoptedMAC, asks(first), server("10.77.0.1")).ToBytes(), netip.AddrPort{}, false)
	if second := yours(); second == first {
		t.Errorf("offered %s again after it was declined", second)
	}
}

// UEFI firmware whose machine has nothing to boot gets an address and no boot program, through the whole round.
func TestLocalUEFI(t *testing.T) {
	d, l := desk(t, "server")
	file := func(p *dhcpv4.DHCPv4) string {
		out, _ := d.handle(t.Context(), p.ToBytes(), netip.AddrPort{}, false)
		r, err := dhcpv4.FromBytes(out)
		if err != nil {
			t.Fatal(err)
		}
		return r.BootFileName
	}
	discover := packet(t, dhcpv4.MessageTypeDiscover, adoptedMAC, rom(7))
	if got := file(discover); got != "ipxe.efi" {
		t.Errorf("a machine that the agent has not seen is offered %q", got)
	}
	inspect(t, l)
	if got := file(discover); got != "" {
		t.Errorf("an idle machine is offered %q", got)
	}
	if got := file(packet(t, dhcpv4.MessageTypeRequest, adoptedMAC, rom(7), server("10.77.0.1"), asks("10.77.0.128"))); got != "" {
		t.Errorf("the same round goes on with %q", got)
	}
	if got := file(packet(t, dhcpv4.MessageTypeDiscover, adoptedMAC, rom(0))); got != "undionly.kpxe" {
		t.Errorf("BIOS is offered %q; its iPXE can start the disk", got)
	}
}

// inspect lets the agent say hello for nuc-1, so that nothing but its disk is left to boot.
func inspect(t *testing.T, l *lab.Lab) {
	t.Helper()
	s, err := l.Script(t.Context(), adoptedMAC, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Claim(t.Context(), lab.Claim{Token: s.Token, Key: strings.Repeat("ab", 32)}); err != nil {
		t.Fatal(err)
	}
}

func TestMalformed(t *testing.T) {
	good := packet(t, dhcpv4.MessageTypeDiscover, adoptedMAC, rom(0)).ToBytes()
	change := func(f func([]byte) []byte) []byte { return f(bytes.Clone(good)) }
	rows := map[string][]byte{
		"empty":         nil,
		"short":         good[:200],
		"no cookie":     change(func(b []byte) []byte { b[236] = 0; return b }),
		"reply":         change(func(b []byte) []byte { b[0] = 2; return b }),
		"opcode 0":      change(func(b []byte) []byte { b[0] = 0; return b }),
		"token ring":    change(func(b []byte) []byte { b[1] = 6; return b }),
		"hlen 0":        change(func(b []byte) []byte { b[2] = 0; return b }),
		"hlen 16":       change(func(b []byte) []byte { b[2] = 16; return b }),
		"hlen 200":      change(func(b []byte) []byte { b[2] = 200; return b }),
		"group address": change(func(b []byte) []byte { b[28] |= 1; return b }),
		"empty address": change(func(b []byte) []byte { copy(b[28:], make([]byte, 6)); return b }),
		"cut option":    change(func(b []byte) []byte { return append(b[:240], 53, 200, 1) }),
		"BOOTP":         change(func(b []byte) []byte { return append(b[:240], 255) }),
		"option of 510": change(func(b []byte) []byte {
			return append(append(append(b[:240], 53, 1, 1), bytes.Repeat(append([]byte{61, 255}, make([]byte, 255)...), 2)...), 255)
		}),
		"unending options": change(func(b []byte) []byte { return append(b[:240], 53, 1, 1) }),
	}
	d, l := desk(t, "server")
	for name, b := range rows {
		if out, dest := d.handle(t.Context(), b, netip.AddrPort{}, false); out != nil {
			t.Errorf("%s: answered:\n%s", name, show(out, dest))
		}
	}
	if s, _ := l.Watch(t.Context(), 0); len(s.Addresses) > 0 {
		t.Errorf("addresses were lent: %v", s.Addresses)
	}
}

// Whatever comes in: no panic, nothing but a reply goes out, and only to a request.
func FuzzDHCP(f *testing.F) {
	server, _ := desk(f, "server")
	proxy, _ := desk(f, "proxy")
	for _, a := range []arch{0, 7, 11} {
		for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeInform} {
			f.Add(packet(f, kind, adoptedMAC, rom(a), asks("10.77.0.128")).ToBytes(), false)
			f.Add(packet(f, kind, unknownMAC, rom(a), class("iPXE"), from("10.77.0.128")).ToBytes(), true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, pxe bool) {
		for _, d := range []*dhcp{server, proxy} {
			out, dest := d.handle(t.Context(), b, netip.MustParseAddrPort("10.77.0.44:4011"), pxe)
			if out == nil {
				continue
			}
			r, err := dhcpv4.FromBytes(out)
			if err != nil || r.OpCode != dhcpv4.OpcodeBootReply || b[0] != byte(dhcpv4.OpcodeBootRequest) {
				t.Errorf("%x got %x (%v)", b, out, err)
			}
			if len(out) > 1400 || !dest.IsValid() {
				t.Errorf("%d bytes go to %s", len(out), dest)
			}
		}
	})
}
