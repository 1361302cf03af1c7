package labtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/netboot/payload"
)

// debs fetches packages of Debian's and unpacks them beside one another; nothing is installed.
func debs(t *testing.T, packages ...string) string {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			labtest.Lacking(t, name+" "+strings.Join(args, " ")+": "+err.Error()+"\n"+string(out))
		}
	}
	run("apt-get", append([]string{"download", "-q"}, packages...)...)
	all, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(all) != len(packages) {
		t.Fatalf("%v: %d of %d packages: %v", packages, len(all), len(packages), err)
	}
	for _, file := range all {
		run("dpkg-deb", "--extract", file, dir)
	}
	return dir
}

// runsIn starts a stack that has a kernel and nothing else, and wants it over with its first word, of which words is a part.
// No agent and no disk has had a part in it.
func runsIn(t *testing.T, b *labtest.Bench, vms *labtest.VMs, stack string, vm lab.Machine, words string) {
	t.Helper()
	mark := labtest.Mark(t, b)
	id := labtest.Boot(t, b, stack, vm.Name)
	x := labtest.UntilIn(t, b, labtest.Long, "the end of a boot", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
	if x.State != lab.Done || x.Strikes != 0 || !climbed(x, lab.RungKernel) || !climbed(x, lab.RungRun) || climbed(x, lab.RungHello) {
		t.Errorf("%s on %s is %s after %d strikes: %s; %+v", stack, vm.Name, x.State, x.Strikes, x.Reason, x.Climbs)
	}
	vms.Expect(t, vm, mark, words)
	t.Logf("%s on %s: %.1f s to its first word", stack, vm.Name, x.Ended.Sub(x.Begun).Seconds())
	off(t, b, vm)
}

// liveSystem is carte's own kernel and a busybox that it starts, as a tar that becomes a kernel image.
func liveSystem(t *testing.T, p netboot.Payload) []byte {
	t.Helper()
	kernel, err := p.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		labtest.Lacking(t, err)
	}
	initrd, err := payload.Initramfs(busybox)
	if err != nil {
		t.Fatal(err)
	}
	return archive(t, map[string]string{"boot/vmlinuz-1": string(kernel), "boot/initrd.img-1": string(initrd)})
}

// A kernel runs in memory, alone: a live Linux with its initial RAM disk under both firmwares, and two that are no Linux. The
// first thing that it writes on the console ends the boot. What the firmware cannot start is refused before the machine has it.
func TestMemory(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	dir := debs(t, "memtest86+", "xen-hypervisor-4.17-amd64")
	b := labtest.New(t, netboot.Config{Payload: p})
	vms := labtest.NewVMs(t, b)
	add := func(firmware lab.Firmware) lab.Machine {
		v := &lab.Virtual{DiskBytes: 1 << 30, Firmware: firmware}
		return labtest.Say(t, b, lab.AddMachine{Name: "vm-" + string(firmware), Virtual: v}).Machines[0]
	}
	bios, uefi := add(lab.BIOS), add(lab.UEFI)
	stack := func(name, starts, cmdline string, from any) {
		im := load(t, b, from, lab.Import{Name: name, Kind: "system", Form: lab.FormKernel})
		if im.Version.Inside.Starts != starts {
			t.Errorf("%s starts as %q, want %q", name, im.Version.Inside.Starts, starts)
		}
		labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: name, Layers: []lab.Ref{{Name: name}}, Cmdline: cmdline}})
	}

	t.Run("multiboot", func(t *testing.T) {
		stack("xen", "multiboot", "com1=115200,8n1 console=com1", filepath.Join(dir, "boot", "xen-4.17-amd64.gz"))
		runsIn(t, b, vms, "xen", bios, "Xen version 4.17")
		x := labtest.Over(t, b, labtest.Boot(t, b, "xen", uefi.Name))
		if x.State != lab.Failed || !strings.Contains(x.Reason, "xen@1 is a multiboot kernel, which iPXE starts under BIOS, and vm-uefi has UEFI") || climbed(x, lab.RungKernel) {
			t.Errorf("under UEFI it is %s: %s", x.State, x.Reason)
		}
		off(t, b, uefi)
	})
	t.Run("live", func(t *testing.T) {
		stack("live", "linux", "console=ttyS0", liveSystem(t, p))
		for _, vm := range []lab.Machine{bios, uefi} {
			runsIn(t, b, vms, "live", vm, "Run /init as init process")
		}
	})
	t.Run("memtest", func(t *testing.T) { // it measures the memory before its first word, which takes minutes here
		stack("memtest", "linux", "console=ttyS0,115200", filepath.Join(dir, "boot", "memtest86+x64.bin"))
		runsIn(t, b, vms, "memtest", bios, "Memtest86+")
	})
}
