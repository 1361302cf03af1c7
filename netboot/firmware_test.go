package netboot_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/netboot/payload"
	"carte/netboot/qemu"
)

// realPayload is what this carte was built with.
func realPayload(t *testing.T) netboot.Payload {
	t.Helper()
	p := payload.Payload{}
	if !p.Has() {
		t.Skipf("no agent to start: %v", payload.ErrMissing)
	}
	return netboot.Payload{Kernel: p.Kernel, IPXE: p.IPXE, Initramfs: func() ([]byte, error) {
		agent, err := p.Agent()
		if err != nil {
			return nil, err
		}
		return payload.Initramfs(agent)
	}}
}

// Every firmware reaches the agent's hello, from a server that gives the addresses and beside one that does.
func TestFirmware(t *testing.T) {
	const mac = "52:54:00:00:00:41"
	rows := []struct {
		name  string
		spec  qemu.Spec
		plain bool // hide that a ROM is iPXE
		tftp  string
	}{
		{"BIOS", qemu.Spec{}, true, "undionly.kpxe"},
		{"UEFI", qemu.Spec{UEFI: true, ROM: qemu.ROMNone}, false, "ipxe.efi"},
		{"BIOS-iPXE", qemu.Spec{}, false, ""},
		{"UEFI-iPXE", qemu.Spec{UEFI: true}, false, ""},
	}
	for _, mode := range []string{"server", "proxy"} {
		for _, row := range rows {
			t.Run(mode+"-"+row.name, func(t *testing.T) {
				labtest.QEMU(t)
				p := realPayload(t)
				labtest.Netns(t, func(t *testing.T) {
					wire := labtest.NewWire(t, "lab0", serverAddr)
					if mode == "proxy" {
						rival(t, wire.Port(t))
					}
					l := netboot.OpenLab(t, netboot.NewMemory())
					netboot.Say(t, l, lab.AddMachine{Name: "nuc-1", MACs: []string{mac}})
					c := quick(l, mode)
					c.Payload = p
					netboot.Start(t, c)
					hw, err := net.ParseMAC(mac)
					if err != nil {
						t.Fatal(err)
					}
					var edits []func([]byte)
					if row.plain {
						edits = append(edits, labtest.HideIPXE)
					}
					s := row.spec
					s.MAC = hw
					s.Wire.Socket = labtest.Cable(t, wire.Port(t), edits...)
					start := time.Now()
					vm := labtest.VM(t, s)
					defer func() {
						lines, _, _, err := l.Tail(t.Context(), lab.Tail{})
						for _, x := range lines {
							t.Logf("%6.1f s  %-5s %s", x.At.Sub(start).Seconds(), x.Source, x.Text)
						}
						if err != nil || t.Failed() {
							t.Logf("%v\n%s", err, vm.Console)
						}
					}()
					until(t, l, labtest.Patience, "hello", func(s lab.Snapshot) bool {
						m, err := s.Find("nuc-1")
						return err == nil && m.Inventory != nil
					})
					t.Logf("hello after %.1f s", time.Since(start).Seconds())
					lines, _, _, err := l.Tail(t.Context(), lab.Tail{})
					if err != nil {
						t.Fatal(err)
					}
					got := ""
					for _, x := range lines {
						if x.Source == "tftp" && x.Machine != 0 {
							got += fmt.Sprintln(x.Text)
						}
					}
					if (row.tftp == "") != (got == "") || !strings.Contains(got, row.tftp) {
						t.Errorf("over TFTP: %q, want %q", got, row.tftp)
					}
				})
			})
		}
	}
}
