package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"carte/lab"
)

// hosts is how a machine reaches this server: HTTP and the agents' API, each as HOST:PORT.
type hosts struct{ http, api string }

// hosts finds the addresses for a machine that talks to our address local.
func (s *Server) hosts(m lab.Machine, local netip.Addr) hosts {
	host := local.String()
	switch {
	case m.Virtual != nil && m.Virtual.Wire == "user":
		local, host = netip.MustParseAddr("127.0.0.1"), s.cfg.UserHost
	case !local.IsValid():
		local, host = netip.MustParseAddr("127.0.0.1"), "127.0.0.1"
	}
	return hosts{net.JoinHostPort(host, portFor(s.http, local)), net.JoinHostPort(host, portFor(s.api, local))}
}

// portFor is the port of the listener that an address of ours leads to; the first's when none does.
func portFor(all []net.Listener, local netip.Addr) string {
	port := "0"
	for i, l := range all {
		_, p, err := net.SplitHostPort(l.Addr().String())
		at := addrOf(l.Addr())
		if i == 0 || err == nil && (at == local || at.IsUnspecified()) {
			port = p
		}
		if at == local {
			break
		}
	}
	return port
}

func (h hosts) script(mac lab.MAC) string {
	return "http://" + strings.TrimSuffix(h.http, ":80") + "/boot/" + scriptName(mac)
}

// scriptName has hyphens, because a colon before the first slash would make a relative address absolute.
func scriptName(mac lab.MAC) string { return strings.ReplaceAll(string(mac), ":", "-") + ".ipxe" }

// whoScript is for an iPXE that was sent here without its address: it says it itself.
const whoScript = `#!ipxe
isset ${netX/mac} && chain --replace --autofree boot/${netX/mac:hexhyp}.ipxe ||
chain --replace --autofree boot/${net0/mac:hexhyp}.ipxe
`

// script is what iPXE runs. Every one of them may be run again at any time. Only iPXE's commands of 2012 and later are
// used: ROMs are old.
func script(d lab.Script, mac lab.MAC, at hosts, pin string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "#!ipxe\necho carte: %s ||\n", plain(d.Why))
	switch d.Do {
	case lab.ScriptAgent:
		// initrd= is for UEFI, where the kernel looks the initramfs up by name. The kernel logs to the screen and the
		// first serial line, and restarts when the agent dies: the lab counts that and stops at the third time.
		words := []string{"initrd=initrd", "console=tty0", "console=ttyS0,115200", "panic=10",
			lab.ArgServer + "=https://" + at.api, lab.ArgPin + "=" + pin, lab.ArgToken + "=" + d.Token, lab.ArgMAC + "=" + string(mac)}
		host := strings.TrimSuffix(at.http, ":80")
		s.WriteString("imgfree\n")
		fmt.Fprintf(&s, "kernel http://%s/kernel?m=%d %s || goto again\n", host, d.Machine.ID, strings.Join(words, " "))
		fmt.Fprintf(&s, "initrd --name initrd http://%s/initrd?m=%d || goto again\n", host, d.Machine.ID)
		s.WriteString("boot || goto again\n")
	case lab.ScriptLocal:
		// UEFI goes on to its next boot option. Under BIOS that could be the network again, so the first disk is named.
		s.WriteString("iseq ${platform} efi && exit ||\nsanboot --no-describe --drive 0x80 || exit\n")
		return s.String()
	default:
		fmt.Fprintf(&s, "sleep 2\nchain --replace --autofree %s ||\n", scriptName(mac))
	}
	fmt.Fprintf(&s, ":again\necho carte: no answer, once more in 5 s\nsleep 5\nchain --replace --autofree %s || goto again\n", scriptName(mac))
	return s.String()
}

// plain leaves what iPXE's shell does not interpret.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" .,:@/()+-_=%", r) {
			return r
		}
		return ' '
	}, s)
	return s[:min(len(s), 200)]
}
