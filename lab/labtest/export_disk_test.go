package labtest_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/lab/layout"
	"carte/netboot/payload"
	"carte/netboot/qemu"
	"carte/store"
	"carte/store/media"
)

// rootOf is the root file system of a disk that testdata/debian-disk made.
func rootOf(t *testing.T, file string) *io.SectionReader {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := layout.Read(t.Context(), f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range m.Systems {
		if x.Type == "ext4" {
			return io.NewSectionReader(f, x.Off, x.Bytes)
		}
	}
	t.Fatalf("%s has no ext4: %+v", file, m.Systems)
	return nil
}

// A Debian tree with a layer of files, a project and a rendered host name is exported as one disk. It is sound to the tools that read such disks, two
// exports are the same to the byte, and it boots to its login under BIOS and UEFI with no carte anywhere; what the layers brought is there.
func TestExportDisk(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	if _, err := media.FindBootTools(); err != nil {
		labtest.Lacking(t, err)
	}
	file := debian(t)
	d, err := store.Hold(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.State.Close()
	add := func(i lab.Import, r io.Reader) {
		t.Helper()
		im, err := d.Import(t.Context(), r, i, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", im.Version.Ref(), im.Version.Found)
	}
	add(lab.Import{Name: "debian", Kind: "system", Form: lab.FormTree}, rootOf(t, file))
	add(lab.Import{Name: "tools", Kind: "project", Form: lab.FormFiles, Place: "/"}, bytes.NewReader(packed(t, map[string]string{"lib/from-a-layer": "one\n", "etc/motd": "two\n"})))
	add(lab.Import{Name: "work", Kind: "project", Form: lab.FormFiles}, bytes.NewReader(packed(t, map[string]string{"run": "#!/bin/sh\n", "data": "three\n"})))
	labtest.Say(t, d, lab.PutStack{Stack: lab.Stack{
		Name: "whole", Layers: []lab.Ref{{Name: "debian"}, {Name: "tools"}, {Name: "work"}},
		Files: []lab.TextFile{{Path: "/etc/hostname", Text: "{machine}\n"}},
	}})
	out := exported(t, d, "whole")
	st, err := out.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sound(t, out.Name(), st.Size())
	sum := sha256.New()
	if _, err := d.ExportStack(t.Context(), "whole", "disk", sum, nil); err != nil {
		t.Fatal(err)
	}
	want := sha256.New()
	if _, err := io.Copy(want, io.NewSectionReader(out, 0, st.Size())); err != nil || !bytes.Equal(want.Sum(nil), sum.Sum(nil)) {
		t.Errorf("a second export, into a stream, has other bytes (%v)", err)
	}
	for _, uefi := range []bool{false, true} {
		t.Run(map[bool]string{false: "bios", true: "uefi"}[uefi], func(t *testing.T) {
			g := labtest.VM(t, qemu.Spec{Dir: besides(t, out.Name()), Disk: st.Size(), DiskFirst: true, UEFI: uefi, ROM: qemu.ROMNone})
			shows := func(words string) {
				t.Helper()
				g.ShowsIn(t, labtest.Long, words)
			}
			shows("whole login:")
			for _, step := range [][2]string{
				{"root", "root@whole:~#"},
				{"cat /usr/lib/from-a-layer /etc/motd /carte/project/data; findmnt -no SOURCE,FSTYPE /; echo DO\"\"NE", "DONE"},
			} {
				if _, err := g.Write([]byte(step[0] + "\n")); err != nil {
					t.Fatal(err)
				}
				shows(step[1])
			}
			for _, words := range []string{"one\r\ntwo\r\nthree\r\n", " ext4"} {
				if !strings.Contains(g.Console.String(), words) {
					t.Errorf("the console does not show %q", words)
				}
			}
		})
	}
}

// tryInit is what the kernel's line names as the first process: it says what it finds, and becomes the system's own.
const tryInit = `#!/bin/sh
exec </dev/console >/dev/console 2>&1
modprobe vfat && grep -c '^v*fat ' /proc/modules
modprobe --show-depends virtio_blk
findmnt -no SOURCE,FSTYPE /
cat /usr/lib/from-a-layer
echo TR""IED
exec /sbin/init
`

// A Debian tree under a kernel as Debian packs it, with neither an initrd nor depmod's lists, is exported as one disk: the import makes the lists, the export
// an initrd. It finds its root by its id with no carte anywhere, becomes the init that the kernel's line names, and modprobe works there.
func TestExportDiskWithoutInitrd(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	if _, err := media.FindBootTools(); err != nil {
		labtest.Lacking(t, err)
	}
	p := payload.Payload{}
	if _, err := p.Agent(); err != nil {
		labtest.Lacking(t, err)
	}
	tree, kernels := debianParts(t)
	d, err := store.Hold(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.State.Close()
	d.Agent = p.Agent
	load(t, d, tree, lab.Import{Name: "debian", Kind: "system", Form: lab.FormTree})
	kernel := load(t, d, asPackaged(t, kernels[1]), lab.Import{Name: "bare", Kind: "system", Form: lab.FormKernel}).Version
	if !strings.Contains(kernel.Found, "made modules.dep of ") {
		t.Errorf("the import found %s", kernel.Found)
	}
	load(t, d, packed(t, map[string]string{"lib/from-a-layer": "one\n", "usr/lib/try/run": tryInit}), lab.Import{Name: "try", Kind: "project", Form: lab.FormFiles, Place: "/"})
	labtest.Say(t, d, lab.PutStack{Stack: lab.Stack{
		Name: "whole", Layers: []lab.Ref{{Name: "debian"}, {Name: "bare"}, {Name: "try"}}, Cmdline: "init=/usr/lib/try/run",
		Files: []lab.TextFile{{Path: "/etc/hostname", Text: "{machine}\n"}},
	}})
	out := exported(t, d, "whole")
	st, err := out.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sound(t, out.Name(), st.Size())
	for _, uefi := range []bool{false, true} {
		t.Run(map[bool]string{false: "bios", true: "uefi"}[uefi], func(t *testing.T) {
			g := labtest.VM(t, qemu.Spec{Dir: besides(t, out.Name()), Disk: st.Size(), DiskFirst: true, UEFI: uefi, ROM: qemu.ROMNone})
			g.ShowsIn(t, labtest.Long, "TRIED")
			for _, words := range []string{"carte: whole starts from its disk, under Linux " + kernel.Inside.Kernels[0], "\r\n2\r\n", "insmod /lib/modules/" + kernel.Inside.Kernels[0] + "/kernel/drivers/block/virtio_blk.ko", " ext4", "one\r\n"} {
				if !strings.Contains(g.Console.String(), words) {
					t.Errorf("the console does not show %q", words)
				}
			}
			if !uefi {
				g.ShowsIn(t, labtest.Long, "whole login:")
			}
		})
	}
}

// asPackaged is a tar without the lists that are made where a package is installed.
func asPackaged(t *testing.T, file string) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(h.Name)
		if strings.HasPrefix(name, "modules.") && !slices.Contains([]string{"modules.order", "modules.builtin", "modules.builtin.modinfo"}, name) {
			continue
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// exported writes a stack as a disk into a file.
func exported(t *testing.T, d *store.Desk, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	began := time.Now()
	if _, err := d.ExportStack(t.Context(), name, "disk", f, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("exported in %.1f s", time.Since(began).Seconds())
	return f
}

// packed is a tar of some files; a folder's run is a program.
func packed(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		if filepath.Base(name) == "run" {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(files[name])), ModTime: time.Unix(1700000000, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// besides copies a disk into a folder of its own, as a virtual machine wants it.
func besides(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "cp", "--sparse=always", file, filepath.Join(dir, "disk.raw")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// sound asks the tools that know partition tables, FAT and ext4.
func sound(t *testing.T, file string, size int64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := layout.Read(t.Context(), f, size)
	if err != nil {
		t.Fatal(err)
	}
	checks := [][]string{{"sgdisk", "-v", file}, {"sfdisk", "--verify", file}}
	for _, x := range m.Systems {
		part := filepath.Join(t.TempDir(), fmt.Sprintf("part%d", x.Off))
		p, err := os.Create(part)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(p, io.NewSectionReader(f, x.Off, x.Bytes)); err != nil {
			t.Fatal(errors.Join(err, p.Close()))
		}
		p.Close()
		switch x.Type {
		case "ext4":
			checks = append(checks, []string{"e2fsck", "-f", "-n", part})
		case "vfat":
			checks = append(checks, []string{"fsck.vfat", "-n", "-v", part})
		}
	}
	if len(checks) != 4 {
		t.Errorf("on the disk lies %+v", m.Systems)
	}
	for _, c := range checks {
		path, err := exec.LookPath(c[0])
		if err != nil {
			path = "/usr/sbin/" + c[0]
		}
		if out, err := exec.CommandContext(t.Context(), path, c[1:]...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("Problem: ")) {
			t.Errorf("%v: %v\n%s", c[:1], err, out)
		}
	}
}
