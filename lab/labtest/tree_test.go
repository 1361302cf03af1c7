package labtest_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/tui/folder"
)

// busyboxInit is the first process of a small system. It judges what the kernel sees of its own tree.
const busyboxInit = `#!/bin/sh
test /etc/one -ef /etc/two || { echo "::carte fail the hard link is lost"; exec /bin/busybox poweroff -f; }
test "$(stat -c %a:%u:%g:%Y /bin/tool)" = 4750:12:34:1000000000 || { echo "::carte fail /bin/tool is $(stat -c %a:%u:%g:%Y /bin/tool)"; exec /bin/busybox poweroff -f; }
cp /boot/kernel /var/copy && cmp /boot/kernel /var/copy || { echo "::carte fail a copy differs"; exec /bin/busybox poweroff -f; }
echo "::carte metric files=$(find / -xdev | wc -l) files"
echo "::carte done"
exec /bin/busybox poweroff -f
`

// A folder with a static busybox becomes a tree that boots. Its next version, with another kernel, moves that kernel and little more.
func TestBusyboxTree(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil || bytes.Contains(busybox, []byte("/ld-linux")) {
		t.Skip("there is no static busybox (Debian: apt-get install busybox-static)")
	}
	if os.Getuid() != 0 {
		t.Skip("a folder with other owners is made by root only")
	}
	root := t.TempDir()
	noise := func(seed uint64) []byte {
		b := make([]byte, 2<<20)
		r := rand.New(rand.NewPCG(seed, 0))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	put := func(name string, data []byte, mode os.FileMode) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("bin/busybox", busybox, 0o755)
	put("sbin/init", []byte(busyboxInit), 0o755)
	put("boot/kernel", noise(1), 0o644)
	put("usr/more", noise(2), 0o644)
	put("etc/one", []byte("1\n"), 0o644)
	put("etc/os-release", []byte("PRETTY_NAME=Busybox\n"), 0o644)
	put("bin/tool", nil, 0o644)
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "var"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tool := range []string{"sh", "test", "stat", "cp", "cmp", "find", "wc", "echo"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", tool)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("sh", "-c", "cd \"$0\"; ln etc/one etc/two; chown 12:34 bin/tool; chmod 4750 bin/tool; touch -d @1000000000 bin/tool", root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	b := labtest.New(t, netboot.Config{Payload: p})
	vms := labtest.NewVMs(t, b)
	load := func() lab.Imported {
		dir, err := folder.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		im, err := b.Import(t.Context(), dir, lab.Import{Name: "busybox", Kind: "system", Form: lab.FormTree, File: root}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s; %s new; %q", im.Version.Ref(), im.Version.Found, lab.Bytes(im.New), im.Warnings)
		return im
	}
	first := load()
	labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: "busybox", Layers: []lab.Ref{{Name: "busybox"}}}})
	m := labtest.Say(t, b, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 1 << 30}}).Machines[0]
	boot := func(im lab.Imported) lab.Moved {
		x := labtest.Over(t, b, labtest.Boot(t, b, "busybox", "vm"))
		if x.State != lab.Done || x.Metrics["files"].Value < 20 {
			t.Errorf("the boot is %s: %s; it said %+v", x.State, x.Reason, x.Metrics)
		}
		off(t, b, m)
		if err := labtest.HoldsAt(t, b.State.Chunks, vms.Disk(m), lab.TreeOffset, im.Version); err != nil {
			t.Errorf("after the system ran: %v", err)
		}
		return x.Moved
	}
	all := boot(first)
	put("boot/kernel", noise(3), 0o644)
	second := load()
	if again := load(); !again.Same {
		t.Error("the same folder makes another version")
	}
	less := boot(second)
	t.Logf("%s; then, with another kernel of 2 MiB, %s", all.Words(), less.Words())
	if second.New > 3<<20 || less.Fetched > 3<<20 || less.Written > 4<<20 {
		t.Errorf("a file of 2 MiB cost %d bytes in the store and moved %+v", second.New, less)
	}
}
