package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
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
func script(d lab.Script, mac lab.MAC, at hosts, pin string, o own) string {
	var s strings.Builder
	host := strings.TrimSuffix(at.http, ":80")
	fmt.Fprintf(&s, "#!ipxe\necho carte: %s ||\n", plain(d.Why))
	switch d.Do {
	case lab.ScriptAgent:
		// initrd= is for UEFI, where the kernel looks the initramfs up by name. The kernel logs to the screen and the
		// first serial line, and restarts when the agent dies: the lab counts that and stops at the third time.
		words := append(slices.Clone(kernelWords), rights(d, mac, at, pin)...)
		s.WriteString("imgfree\n")
		fmt.Fprintf(&s, "kernel http://%s/kernel?m=%d %s || goto again\n", host, d.Machine.ID, strings.Join(words, " "))
		fmt.Fprintf(&s, "initrd --name initrd http://%s/initrd?m=%d || goto again\n", host, d.Machine.ID)
		s.WriteString("boot || goto again\n")
	case lab.ScriptSystem:
		// The mark is the last that iPXE writes. Where it cannot start what it has, it says so with its next question.
		fmt.Fprintf(&s, "imgfree\nkernel http://%s/system/kernel?m=%d%s || goto failed\n", host, d.Machine.ID, o.line())
		if o.initrd {
			fmt.Fprintf(&s, "initrd --name initrd http://%s/system/initrd?m=%d || goto again\n", host, d.Machine.ID)
		}
		fmt.Fprintf(&s, "echo %s ||\necho %s ||\nboot || goto failed\n", lab.StartMark, lab.StartRest)
		fmt.Fprintf(&s, ":failed\necho carte: its kernel was not started\nsleep 5\nchain --replace --autofree http://%s/boot/%s?failed=1 || goto again\n", host, scriptName(mac))
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

// kernelWords are on the command line of every Linux kernel that starts with something of carte's. initrd= is for UEFI.
var kernelWords = []string{"initrd=initrd", "console=tty0", "console=ttyS0,115200", "panic=10"}

// rights are the words by which an agent finds its server, and shows that it may.
func rights(d lab.Script, mac lab.MAC, at hosts, pin string) []string {
	return []string{lab.ArgServer + "=https://" + at.api, lab.ArgPin + "=" + pin, lab.ArgToken + "=" + d.Token, lab.ArgMAC + "=" + string(mac)}
}

// own is how iPXE loads the kernel that a boot's own plan has.
type own struct {
	words  []string // of its command line
	initrd bool     // it has one, or, as a multiboot kernel, a module
	named  bool     // and its command line says so: Linux under UEFI finds it by its name
}

// ownWords is the command line of a boot's own kernel. With a second stage the stack's words follow carte's, so that the last
// console is the stack's; one that runs in memory has its own words and no others.
func ownWords(d lab.Script, mac lab.MAC, at hosts, pin string) own {
	words := strings.Fields(d.Plan.Cmdline)
	if d.Plan.Start != lab.StartMemory {
		words = slices.Concat(kernelWords[1:], words, rights(d, mac, at, pin))
	}
	return own{words: words}
}

// line is what stands behind the kernel's address.
func (o own) line() string {
	words := o.words
	if o.named {
		words = append(slices.Clone(kernelWords[:1]), words...)
	}
	if len(words) == 0 {
		return ""
	}
	return " " + strings.Join(words, " ")
}

// maxCommandLine is the most bytes that Linux reads of its command line on x86 (COMMAND_LINE_SIZE, less the last); iPXE cuts
// what is longer without a word.
const maxCommandLine = 2047

// check refuses a command line that iPXE's shell would not hand on as it is: it fills in ${names}, and ends a command at a
// word that begins with #, or is ||, && or ; (iPXE, src/core/exec.c).
func (o own) check() error {
	for _, w := range o.words {
		if strings.Contains(w, "${") || strings.HasPrefix(w, "#") || w == "||" || w == "&&" || w == ";" {
			return fmt.Errorf("the kernel's command line has the word %q, which iPXE would take for its own; write it differently: %w", w, lab.ErrRefused)
		}
	}
	if n := len(o.line()) - 1; n > maxCommandLine {
		return fmt.Errorf("the kernel's command line has %d bytes with what carte adds, and %d are the most; make the stack's shorter: %w", n, maxCommandLine, lab.ErrRefused)
	}
	return nil
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
