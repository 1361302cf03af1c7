package labtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// debian makes a real Debian disk, or takes the one that CARTE_DEBIAN names.
func debian(t *testing.T) string {
	t.Helper()
	if have := os.Getenv("CARTE_DEBIAN"); have != "" {
		return have
	}
	if os.Geteuid() != 0 {
		labtest.Lacking(t, "a Debian disk is made by root only; CARTE_DEBIAN=FILE takes one that testdata/debian-disk made")
	}
	file := filepath.Join(t.TempDir(), "debian.raw")
	out, err := exec.CommandContext(t.Context(), "../../testdata/debian-disk", file).CombinedOutput()
	if err != nil {
		t.Fatalf("testdata/debian-disk: %v\n%s", err, out)
	}
	return file
}

// A real operating system is flashed by the agent onto a blank disk, boots from it to its login prompt, is flashed again
// without a byte moving, and is restored to the byte, and without the wire, after it has changed files; under both firmwares.
func TestDebian(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	file := debian(t)
	b := labtest.New(t, netboot.Config{Payload: p})
	vms := labtest.NewVMs(t, b)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := b.Import(t.Context(), f, lab.Import{Name: "debian", Kind: "system", Form: lab.FormDisk}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s, %s in %.1f s", im.Version.Ref(), im.Version.Found, lab.Bytes(im.New), im.Seconds)
	labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: "debian", Layers: []lab.Ref{{Name: "debian"}}}})
	for _, firmware := range []lab.Firmware{lab.BIOS, lab.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			name := "vm-" + string(firmware)
			m := labtest.Say(t, b, lab.AddMachine{Name: name, Virtual: &lab.Virtual{DiskBytes: 3 << 30, Firmware: firmware}}).Machines[0]
			first := flashAndProve(t, b, vms, m, im.Version)
			useDebian(t, b, vms, m, "dd if=/dev/urandom of=/root/junk bs=1M count=5; rm /etc/motd; sync")
			if labtest.Holds(t, b, vms.Disk(m), im.Version) == nil {
				t.Fatal("the guest changed files and the disk is as it was")
			}
			again := flashAndProve(t, b, vms, m, im.Version)
			if limit := int64(8 * 5 << 20); again.Fetched != 0 || again.Reused > limit || again.Written > limit || again.Written > first.Written/3 {
				t.Errorf("5 MiB and what a boot changes were undone by moving %+v, and nothing has to be fetched; the first time it was %+v", again, first)
			}
			if firmware == lab.BIOS {
				useDebian(t, b, vms, m, "dd if=/dev/urandom of=/root/result bs=1M count=2; sync")
				return
			}
			labtest.Say(t, b, lab.PowerMachine{Machine: name, Want: "off"})
			labtest.Until(t, b, "power off", func(s lab.Snapshot) bool { return s.Live[m.ID].Power == "off" })
		})
	}
	t.Run("capture", func(t *testing.T) { captureDebian(t, b, vms, im.Version) })
}

// captureDebian makes the disk that one machine has used the next version, and lays that onto the other machine's disk, which
// holds the first: only the difference moves, both times.
func captureDebian(t *testing.T, b *labtest.Bench, vms *labtest.VMs, one lab.Version) {
	s := labtest.Now(t, b)
	bios, err := s.Find("vm-bios")
	if err != nil {
		t.Fatal(err)
	}
	uefi, err := s.Find("vm-uefi")
	if err != nil {
		t.Fatal(err)
	}
	x := captured(t, b, lab.QueueCapture{Machine: "vm-bios", Image: "debian", Message: "used", Author: "ann"})
	vms.CutPower(t, bios) // it restarts from its disk, and would go on changing it
	two, err := labtest.Now(t, b).Version(x.Captured)
	if x.State != lab.Done || x.Same || err != nil || two.Number != 2 || two.Parent != 1 || two.Message != "used" {
		t.Fatalf("capture %s: %s, %+v, %v", x.State, x.Reason, two, err)
	}
	if err := labtest.CameFrom(t, b, vms.Disk(bios), two); err != nil {
		t.Error(err)
	}
	limit := int64(16 << 20) // 2 MiB of noise, and what a start of Debian writes
	id := labtest.Boot(t, b, "debian", "vm-uefi")
	y := labtest.UntilIn(t, b, labtest.Long, "the handover", func(s lab.Snapshot) bool {
		return s.Boots[id].State == lab.Handover || s.Boots[id].State.Final()
	}).Boots[id]
	vms.CutPower(t, uefi)
	if err := labtest.Holds(t, b, vms.Disk(uefi), two); err != nil {
		t.Error(err)
	}
	if x.Moved.Sent > limit || y.Plan.Layers[0].Root != two.Root || y.Moved.Fetched == 0 || y.Moved.Fetched > limit || y.Moved.Written > 2*limit {
		t.Errorf("the version moved %+v, and onto the other machine %+v", x.Moved, y.Moved)
	}
	t.Logf("captured: %s; laid: %s; of %s", x.MovedWords(), y.Moved.Words(), lab.Bytes(one.Bytes))
}

// useDebian logs in to a machine that shows its prompt, runs a command, and powers it off.
func useDebian(t *testing.T, b *labtest.Bench, vms *labtest.VMs, m lab.Machine, command string) {
	t.Helper()
	mark := labtest.Mark(t, b)
	if err := vms.Type(m, []byte("root\n")); err != nil {
		t.Fatal(err)
	}
	mark = vms.Expect(t, m, mark, "root@carte-debian:~#")
	vms.Run(t, m, mark, command)
	if err := vms.Type(m, []byte("poweroff\n")); err != nil {
		t.Fatal(err)
	}
	labtest.UntilIn(t, b, labtest.Long, "power off", func(s lab.Snapshot) bool { return s.Live[m.ID].Power == "off" })
}

// flashAndProve boots Debian and cuts the power when the agent has handed over and before the guest starts: the disk must
// be the image to the byte. The lab tries again by itself, and must find nothing to do; then the guest must come up to
// its login prompt. It returns what the first attempt moved.
func flashAndProve(t *testing.T, b *labtest.Bench, vms *labtest.VMs, m lab.Machine, v lab.Version) lab.Moved {
	t.Helper()
	id := labtest.Boot(t, b, "debian", m.Name)
	s := labtest.UntilIn(t, b, labtest.Long, "the handover", func(s lab.Snapshot) bool {
		return s.Boots[id].State == lab.Handover || s.Boots[id].State.Final()
	})
	vms.CutPower(t, m)
	first := s.Boots[id]
	if first.State != lab.Handover {
		t.Fatalf("boot is %s: %s", first.State, first.Reason)
	}
	if err := labtest.Holds(t, b, vms.Disk(m), v); err != nil {
		t.Errorf("after the flash %v", err)
	}
	t.Logf("%s: %+v", m.Name, first.Moved)
	boot := labtest.UntilIn(t, b, labtest.Long, "the login prompt", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
	if boot.State != lab.Done || boot.Strikes != 1 || !climbed(boot, lab.RungRun) || boot.Reason != "" {
		t.Fatalf("boot is %s after %d strikes: %s; %+v", boot.State, boot.Strikes, boot.Reason, boot.Climbs)
	}
	if x := boot.Moved; x.Fetched != 0 || x.Written != 0 || x.Zeroed != 0 {
		t.Errorf("the same version on the same disk moved %+v", x)
	}
	for _, c := range boot.Climbs {
		t.Logf("%s  %s attempt %d", c.At.Format("15:04:05.0"), c.Rung, c.Attempt)
	}
	return first.Moved
}
