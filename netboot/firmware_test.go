package netboot_test

import (
	"context"
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
					var edits []func([]byte)
					if row.plain {
						edits = append(edits, labtest.HideIPXE)
					}
					s := row.spec
					s.MAC = hardware(t, mac)
					s.Wire.Socket = labtest.Cable(t, wire.Port(t), edits...)
					start := time.Now()
					vm := labtest.VM(t, s)
					defer show(t, l, start, vm)
					until(t, l, labtest.Patience, "hello", hello("nuc-1"))
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

func show(t *testing.T, l *lab.Lab, start time.Time, vm *labtest.Guest) {
	lines, _, _, err := l.Tail(context.Background(), lab.Tail{})
	for _, x := range lines {
		t.Logf("%6.1f s  %-5s %s", x.At.Sub(start).Seconds(), x.Source, x.Text)
	}
	if err != nil || t.Failed() {
		t.Logf("%v\n%s", err, vm.Console)
	}
}

func hello(name string) func(lab.Snapshot) bool {
	return func(s lab.Snapshot) bool { m, err := s.Find(name); return err == nil && m.Inventory != nil }
}

// An unknown machine waits in a loop, and starts the agent once it is adopted.
func TestHoldLoop(t *testing.T) {
	labtest.QEMU(t)
	p := realPayload(t)
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", serverAddr)
		l := netboot.OpenLab(t, netboot.NewMemory())
		c := quick(l, "server")
		c.Payload = p
		netboot.Start(t, c)
		start := time.Now()
		s := qemu.Spec{MAC: hardware(t, "52:54:00:00:00:42")}
		s.Wire.Socket = labtest.Cable(t, wire.Port(t), labtest.HideIPXE)
		vm := labtest.VM(t, s)
		defer show(t, l, start, vm)
		until(t, l, labtest.Patience, "three rounds of the loop", func(s lab.Snapshot) bool {
			m, err := s.Find("52:54:00:00:00:42")
			return err == nil && m.Standing == lab.Unknown && s.Live[m.ID].Asked >= 6
		})
		netboot.Say(t, l, lab.Adopt{Machine: "52:54:00:00:00:42", Name: "nuc-2"})
		until(t, l, labtest.Patience, "hello", hello("nuc-2"))
	})
}

// An idle machine with UEFI goes on to its disk by itself.
func TestIdleUEFI(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", serverAddr)
		l := netboot.OpenLab(t, netboot.NewMemory())
		netboot.Say(t, l, lab.AddMachine{Name: "nuc-1", MACs: []string{"52:54:00:00:00:01"}})
		netboot.Inspect(t, l)
		netboot.Start(t, quick(l, "server"))
		start := time.Now()
		s := qemu.Spec{UEFI: true, ROM: qemu.ROMNone, MAC: hardware(t, "52:54:00:00:00:01"), Disk: 16 << 20}
		s.Wire.Socket = labtest.Cable(t, wire.Port(t))
		vm := labtest.VM(t, s)
		defer show(t, l, start, vm)
		vm.Console.Wait(t, "BdsDxe: failed to load Boot")
		until(t, l, time.Second, "the machine was answered", func(s lab.Snapshot) bool { return s.Live[1].Asked > 0 })
		t.Logf("on to the next boot option after %.1f s", time.Since(start).Seconds())
		if time.Since(start) > time.Minute {
			t.Error("the firmware waited for more than it was told")
		}
	})
}

// A virtual machine on QEMU's own network needs no DHCP of ours, and no root.
func TestUserNetwork(t *testing.T) {
	labtest.QEMU(t)
	for _, firmware := range []lab.Firmware{lab.BIOS, lab.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			l := netboot.OpenLab(t, netboot.NewMemory())
			netboot.Say(t, l, lab.AddMachine{Name: "vm-1", Virtual: &lab.Virtual{Firmware: firmware}})
			s := netboot.Start(t, netboot.Config{Lab: l, Payload: realPayload(t)})
			now, err := l.Watch(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			m, err := now.Find("vm-1")
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			vm := labtest.VM(t, qemu.Spec{UEFI: firmware == lab.UEFI, MAC: hardware(t, string(m.MACs[0])), Boot: s.ScriptURL(m)})
			defer show(t, l, start, vm)
			until(t, l, labtest.Patience, "hello", hello("vm-1"))
		})
	}
}

func hardware(t *testing.T, mac string) net.HardwareAddr {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	return hw
}
