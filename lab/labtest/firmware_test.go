package labtest_test

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/netboot/qemu"
)

// firmwares are the ways in which a machine may come to carte. The plain PXE clients are the ones that fetch iPXE over
// TFTP; see labtest.VM for how QEMU is made to be one.
var firmwares = []struct {
	name string
	spec qemu.Spec
	edit func([]byte)
	tftp bool
}{
	{"BIOS with PXE", qemu.Spec{}, labtest.HideIPXE, true},
	{"UEFI with PXE", qemu.Spec{UEFI: true, ROM: qemu.ROMNone}, nil, true},
	{"already iPXE", qemu.Spec{}, nil, false},
}

// Every firmware gets from its ROM to the agent's hello when carte gives the addresses.
func TestFirmwareServer(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.QEMU(t)
		p := labtest.RealPayload(t)
		for _, fw := range firmwares {
			t.Run(fw.name, func(t *testing.T) {
				wire := labtest.NewWire(t, "lab0", serverAddr)
				b := labtest.New(t, netboot.Config{Interface: wire.Name, DHCP: "server", Probe: 2 * time.Second, Payload: p})
				reachesHello(t, b, wire, fw.spec, fw.edit, fw.tftp)
			})
		}
	})
}

// The same beside a dnsmasq that gives the addresses; carte only says where to boot from.
func TestFirmwareProxy(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		labtest.QEMU(t)
		p := labtest.RealPayload(t)
		for _, fw := range firmwares[:2] {
			t.Run(fw.name, func(t *testing.T) {
				wire := labtest.NewWire(t, "lab0", serverAddr)
				dnsmasq(t, wire)
				b := labtest.New(t, netboot.Config{Interface: wire.Name, DHCP: "proxy", Probe: time.Second, Payload: p})
				reachesHello(t, b, wire, fw.spec, fw.edit, fw.tftp)
			})
		}
	})
}

// dnsmasq gives addresses on the wire from a network namespace of its own, as another computer would.
func dnsmasq(t *testing.T, wire *labtest.Wire) {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		labtest.Lacking(t, "dnsmasq is not installed")
	}
	port := wire.Port(t)
	cmd := exec.Command("unshare", "--net", "--", "sh", "-c",
		`ip link set lo up; while ! ip addr add 10.77.0.2/24 dev `+port+` 2>/dev/null; do :; done; ip link set `+port+` up
		exec `+path+` --keep-in-foreground --conf-file=/dev/null --port=0 --interface=`+port+` --bind-interfaces --log-dhcp \
			--user=root --pid-file= --dhcp-leasefile=/dev/null --dhcp-range=10.77.0.50,10.77.0.99,10m --dhcp-authoritative`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := labtest.NewScreen()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq:\n%s", out)
		}
	})
	labtest.GivePort(t, port, cmd.Process.Pid)
	out.Wait(t, "DHCP, IP range")
}

func reachesHello(t *testing.T, b *labtest.Bench, wire *labtest.Wire, spec qemu.Spec, edit func([]byte), tftp bool) {
	t.Helper()
	var edits []func([]byte)
	if edit != nil {
		edits = append(edits, edit)
	}
	labtest.Say(t, b, lab.AddMachine{Name: "box", MACs: []string{"52:54:00:00:00:01"}})
	spec.Wire.Socket = labtest.Cable(t, wire.Port(t), edits...)
	spec.Disk, spec.Memory = 64<<20, 1<<30
	labtest.VM(t, spec)
	begin := time.Now()
	s := labtest.Until(t, b, "the agent's hello", func(s lab.Snapshot) bool {
		m, err := s.Find("box")
		return err == nil && m.Inventory != nil
	})
	m, err := s.Find("box")
	if err != nil {
		t.Fatal(err)
	}
	inv := m.Inventory
	t.Logf("hello after %.1f s: %s, %d disks, %d cards", time.Since(begin).Seconds(), inv.CPU, len(inv.Disks), len(inv.NICs))
	if want := map[bool]lab.Firmware{false: lab.BIOS, true: lab.UEFI}[spec.UEFI]; inv.Firmware != want {
		t.Errorf("firmware %s, want %s", inv.Firmware, want)
	}
	if len(inv.Disks) != 1 || inv.Disks[0].Serial != "carte-test" || inv.Disks[0].Bytes != 64<<20 || inv.Disks[0].Contents != "" {
		t.Errorf("disks %+v", inv.Disks)
	}
	if len(inv.NICs) != 1 || inv.NICs[0].MAC != "52:54:00:00:00:01" || inv.MemoryBytes < 900<<20 || inv.CPU == "" {
		t.Errorf("inventory %+v", inv)
	}
	lines, _, _, err := b.Tail(t.Context(), lab.Tail{})
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]bool{}
	for _, l := range lines {
		sources[l.Source] = true
	}
	if sources["tftp"] != tftp {
		t.Errorf("TFTP was used: %v, want %v; the log: %v", sources["tftp"], tftp, lines)
	}
}
