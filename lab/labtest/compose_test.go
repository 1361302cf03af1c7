package labtest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/store/media"
)

// composeInit looks at the system that was put together around it, changes a good part of it, and says how it was.
const composeInit = `#!/bin/sh
bad() { echo "::carte fail $1"; exec /bin/busybox poweroff -f; }
is() { test "$2" = "$3" || bad "$1 is '$2' and should be '$3'"; }
is "what three layers write" "$(cat /etc/who)" two
is "what the base alone has" "$(cat /etc/base)" base
is "what the first layer alone has" "$(cat /etc/one)" one
is "through a link" "$(cat /lib/x)" x
is "home" "$(cat /home/ann/hello)" hello
is "what home hides" "$(ls /home/ann)" "$(printf 'hello\nold')"
is "owner of home" "$(stat -c %u:%g:%a /home/ann)" 1000:1000:750
is "host name" "$(cat /etc/hostname)" vm
is "a key" "$(cat /root/.ssh/key) $(stat -c %a /root/.ssh/key)" "secret 600"
is "a file through a link" "$(cat /usr/lib/x.conf)" conf
is "a text at home" "$(cat /home/ann/.note) $(stat -c %u:%a /home/ann/.note)" "note 1000:644"
is "/carte/out" "$(stat -c %a /carte/out)" 1777
is "the project" "$(cat /carte/project/data)" data
is "what an earlier boot left" "$(ls /var)" ""
test -e /root/left && bad "what an earlier boot left is there"
echo left >/root/left
echo junk >/etc/who; rm /etc/base; rm -r /home/ann/old; echo changed >/home/ann/hello
dd if=/dev/zero of=/var/junk bs=1M count=JUNK 2>/dev/null || bad "there is no room for JUNK MiB of junk"
sync
MORE
echo "::carte metric uptime=$(cut -d' ' -f1 /proc/uptime) s"
echo "::carte done"
exec /bin/busybox poweroff -f
`

// file is one of those that a test's tar has.
type file struct {
	name, text string
	mode       int64 // 0: 0644; of a name that ends with a /, 0755
	uid        int
	link       string
}

// tarOf packs files, with the directories above them.
func tarOf(t testing.TB, all ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{".": true}
	add := func(h *tar.Header, text string) {
		h.Uname, h.Size, h.ModTime = "", int64(len(text)), time.Unix(1e9, 0)
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	var above func(dir string)
	above = func(dir string) {
		if !made[dir] {
			above(path.Dir(dir))
			made[dir] = true
			add(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, "")
		}
	}
	for _, f := range all {
		name := strings.TrimSuffix(f.name, "/")
		above(path.Dir(name))
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Uid: f.uid, Gid: f.uid}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		case name != f.name:
			h.Typeflag, h.Name, h.Mode, made[name] = tar.TypeDir, f.name, 0o755, true
		}
		if f.mode != 0 {
			h.Mode = f.mode
		}
		add(h, f.text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// busyboxSystem is a small system around an init, with its libraries behind a link, as systems have them now.
func busyboxSystem(t testing.TB, init string) []byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil || bytes.Contains(busybox, []byte("/ld-linux")) {
		labtest.Lacking(t, "there is no static busybox (Debian: apt-get install busybox-static)")
	}
	all := []file{
		{name: "bin/busybox", text: string(busybox), mode: 0o755}, {name: "sbin/init", text: init, mode: 0o755},
		{name: "etc/os-release", text: "PRETTY_NAME=Busybox\n"}, {name: "etc/who", text: "base\n"}, {name: "etc/base", text: "base\n"},
		{name: "usr/lib/x", text: "x\n"}, {name: "lib", link: "usr/lib"}, {name: "home/ann/skeleton", text: "hidden\n"},
	}
	for _, dir := range []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/", "root/"} {
		all = append(all, file{name: dir})
	}
	for _, tool := range []string{"sh", "test", "stat", "cat", "cut", "ls", "printf", "rm", "dd", "sync", "echo", "mount", "grep", "uname", "lsmod", "sleep", "wc", "find"} {
		all = append(all, file{name: "bin/" + tool, link: "busybox"})
	}
	return tarOf(t, all...)
}

// loaded imports what a test has made.
func loaded(t testing.TB, b *labtest.Bench, data []byte, i lab.Import) lab.Version {
	t.Helper()
	im, err := b.Import(t.Context(), bytes.NewReader(data), i, nil)
	if err != nil {
		t.Fatalf("%s: %v", i.Name, err)
	}
	return im.Version
}

// composed are the images of a system, and the stack of them.
type composed struct {
	versions []lab.Version
	stack    lab.Stack
}

// compose imports a base with that init, files of every sort, and more images, and makes a stack of them.
func compose(t testing.TB, b *labtest.Bench, init string, more ...lab.Version) (c composed) {
	t.Helper()
	add := func(data []byte, i lab.Import) {
		c.versions = append(c.versions, loaded(t, b, data, i))
	}
	add(busyboxSystem(t, init), lab.Import{Name: "base", Kind: "system", Form: lab.FormTree})
	add(tarOf(t, file{name: "etc/who", text: "one\n"}, file{name: "etc/one", text: "one\n"}), lab.Import{Name: "one", Kind: "system", Form: lab.FormFiles})
	add(tarOf(t, file{name: "etc/who", text: "two\n"}), lab.Import{Name: "two", Kind: "system", Form: lab.FormFiles})
	add(tarOf(t, file{name: "./", mode: 0o750, uid: 1000}, file{name: "hello", text: "hello\n", uid: 1000}, file{name: "old", text: "old\n"}),
		lab.Import{Name: "ann", Kind: "user", Form: lab.FormFiles, Place: "/home/ann"})
	add(tarOf(t, file{name: "data", text: "data\n"}), lab.Import{Name: "work", Kind: "project", Form: lab.FormFiles})
	c.versions = append(c.versions, more...)
	c.stack = lab.Stack{Name: "composed", Files: []lab.TextFile{
		{Path: "/etc/hostname", Text: "{machine}\n"}, {Path: "/root/.ssh/key", Mode: 0o600, Text: "secret\n"}, {Path: "/lib/x.conf", Text: "conf\n"}, {Path: "/home/ann/.note", Text: "note\n"},
	}}
	for _, v := range c.versions {
		c.stack.Layers = append(c.stack.Layers, lab.Ref{Name: v.Image})
	}
	return c
}

// run boots the stack on the machine to its end, and proves that no layer on the disk has changed.
func (c composed) run(t testing.TB, b *labtest.Bench, vms *labtest.VMs, m lab.Machine) lab.Boot {
	t.Helper()
	id := labtest.Boot(t, b, c.stack.Name, m.Name)
	x := labtest.UntilIn(t, b, labtest.Long, "the end of a boot", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
	if x.State != lab.Done || x.Strikes > 0 {
		t.Fatalf("boot %d is %s after %d strikes: %s", x.ID, x.State, x.Strikes, x.Reason)
	}
	off(t, b, m)
	at, _ := x.Plan.Places()
	for i, v := range c.versions {
		if err := labtest.HoldsAt(t, b.State.Chunks, vms.Disk(m), at[i], v); err != nil {
			t.Errorf("after the system ran: %v", err)
		}
	}
	lines, _, _, err := b.Tail(t.Context(), lab.Tail{Machine: m.ID, Max: 200})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if l.At.After(x.Begun) && (l.Source == "agent" || l.Source == "run") {
			t.Logf("%s  %s: %s", l.At.Format("15:04:05.000"), l.Source, l.Text)
		}
	}
	for _, k := range x.Climbs {
		t.Logf("%s  %s", k.At.Format("15:04:05.000"), k.Rung)
	}
	t.Logf("%s; %q", x.Moved.Words(), x.Chosen.Why)
	return x
}

// spent is the time between two rungs of a boot.
func spent(x lab.Boot, from, to lab.Rung) time.Duration {
	at := func(r lab.Rung) time.Time {
		i := slices.IndexFunc(x.Climbs, func(c lab.Climb) bool { return c.Rung == r })
		if i < 0 {
			return time.Time{}
		}
		return x.Climbs[i].At
	}
	return at(to).Sub(at(from))
}

// toldOf waits until the log has a line with those words.
func toldOf(t testing.TB, b *labtest.Bench, m lab.Machine, words string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), labtest.Patience)
	defer cancel()
	for after := int64(0); ; {
		lines, next, _, err := b.Tail(ctx, lab.Tail{Machine: m.ID, After: after, Wait: true})
		if err != nil {
			t.Fatalf("nobody said %q: %v", words, err)
		}
		if slices.ContainsFunc(lines, func(l lab.Line) bool { return strings.Contains(l.Text, words) }) {
			return
		}
		after = next
	}
}

// A tree, files over it, files at places of their own and small texts are one system, which runs from memory or from the disk; none
// of its layers ever changes, and what it changed is gone at its next start.
func TestCompose(t *testing.T) {
	t.Parallel()
	resets(t, lab.StartPivot, lab.ResetAlways, lab.ResetTrust, lab.ResetSampled)
}

// BenchmarkReset is the later uses of a stack on a machine: from the agent's orders to the user's kernel, under emulation, the median of
// three boots beside the second that it may take.
func BenchmarkReset(b *testing.B) {
	trust, sampled := lab.ResetTrust, lab.ResetSampled
	for _, start := range []lab.Start{lab.StartPivot, lab.StartKexec} {
		b.Run(string(start), func(b *testing.B) {
			for b.Loop() {
				for reset, took := range resets(b, start, lab.ResetAlways, trust, sampled, sampled, trust, trust, sampled) {
					slices.Sort(took)
					b.ReportMetric(took[len(took)/2].Seconds(), string(reset)+"-of-1s")
				}
			}
		})
	}
}

// resets boots one stack with these resets, each by a boot of its own, and returns what they took from the orders to the handover.
func resets(t testing.TB, start lab.Start, order ...lab.Reset) map[lab.Reset][]time.Duration {
	labtest.QEMU(t)
	b := labtest.New(t, netboot.Config{Payload: labtest.RealPayload(t)})
	vms := labtest.NewVMs(t, b)
	var kernel []lab.Version
	if start != lab.StartPivot {
		tar := debianKernelTar(t, t.TempDir())
		kernel = []lab.Version{load(t, b, tar, lab.Import{Name: "kernel", Kind: "system", Form: lab.FormKernel}).Version}
	}
	c := compose(t, b, strings.NewReplacer("JUNK", "300", "MORE", ":").Replace(composeInit), kernel...)
	m := labtest.Say(t, b, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 4 << 30}}).Machines[0]
	c.stack.Upper, c.stack.Start = lab.UpperDisk, start
	all := map[lab.Reset][]time.Duration{}
	for i, reset := range order {
		c.stack.Reset = reset
		labtest.Say(t, b, lab.PutStack{Stack: c.stack, Edit: i > 0})
		x := c.run(t, b, vms, m)
		took := spent(x, lab.RungHello, lab.RungHandover)
		all[reset] = append(all[reset], took)
		t.Logf("reset %s: %v from orders to the user's kernel", reset, took)
		if i > 0 && (x.Moved.Written > 0 || !strings.Contains(x.Chosen.Why, "reset "+string(reset))) {
			t.Errorf("the reset %s wrote %d bytes: %q", reset, x.Moved.Written, x.Chosen.Why)
		}
	}
	toldOf(t, b, m, "reset sampled: every layer was proven here before")
	if notes := notesOn(t, vms.Disk(m), 4<<30); len(notes) != len(order) || !strings.Contains(notes[len(notes)-1], "stack composed, base@1") { // by the agent, or by the shim
		t.Errorf("%d boots left the notes\n%s", len(order), strings.Join(notes, "\n"))
	}
	return all
}

// ownKernel makes a kernel image of a real kernel as its package has it: its modules, and no list of what they need.
func ownKernel(t testing.TB, b *labtest.Bench) lab.Version {
	return debianKernel(t, b, "kernel", t.TempDir())
}

// debianKernelTar is the kernel and its modules out of Debian's package, which is unpacked in dir, once; files named so are left out.
func debianKernelTar(t testing.TB, dir string, without ...string) string {
	t.Helper()
	const fetch = `set -e; cd "$0"; test -d x || {
	p=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
	apt-get download -q "$p" >&2; dpkg-deb -x ./*.deb x; mv x/boot/vmlinuz-* x/boot/kernel; rm x/boot/System.map* x/boot/config* ./*.deb; rm -rf x/usr; }
for f in "$@"; do find x -name "$f" -delete; done
tar -C x -cf kernel.tar --owner=0 --group=0 --sort=name boot lib`
	if out, err := exec.CommandContext(t.Context(), "sh", append([]string{"-c", fetch, dir}, without...)...).CombinedOutput(); err != nil {
		labtest.Lacking(t, "Debian's kernel package could not be had: "+err.Error()+": "+string(out))
	}
	return path.Join(dir, "kernel.tar")
}

// debianKernel is ownKernel for an image of that name.
func debianKernel(t testing.TB, b *labtest.Bench, name, dir string, without ...string) lab.Version {
	t.Helper()
	in, err := os.Open(debianKernelTar(t, dir, without...))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(path.Join(dir, "kernel.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := media.Tree(t.Context(), in, out, media.TreeOptions{Label: name, UUID: [16]byte{7}}); err != nil {
		t.Fatal(err)
	}
	st, err := out.Stat()
	if err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := b.State.Chunks.Import(t.Context(), out, func(int64) {})
	if err != nil || m.Size != st.Size() {
		t.Fatalf("%d bytes: %v", m.Size, err)
	}
	labtest.Say(t, b, lab.AddVersion{Version: lab.Version{Image: name, Root: m.Root(), Bytes: m.Size, Content: m.Size, Inside: lab.Inside{Starts: "linux"}}, Kind: "system", Form: lab.FormKernel})
	v, err := labtest.Now(t, b).Version(lab.Ref{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// kernelMore is what the system looks at besides when it has a kernel of its own.
const kernelMore = `
is "the kernel" "$(test -d /lib/modules/$(uname -r) && echo has its modules)" "has its modules"
is "a link on the way to the modules" "$(test -d /usr/lib/modules/$(uname -r) && echo led there)" "led there"
lsmod | grep -q ^overlay || bad "overlay is no module of this kernel"
grep -q "carte.test=yes" /proc/cmdline || bad "the command line is $(cat /proc/cmdline)"
echo "::carte metric release=$(uname -r | cut -d. -f1)"
`

// A tree runs under the stack's own kernel, which takes the place of carte's, or is loaded by the firmware's way of booting: the agent
// makes the first root for it, of modules that nobody has listed.
func TestComposeUnderOwnKernel(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	for _, c := range []struct {
		start    lab.Start
		firmware lab.Firmware
	}{{lab.StartKexec, lab.BIOS}, {lab.StartNetboot, lab.BIOS}, {lab.StartKexec, lab.UEFI}} {
		t.Run(string(c.start)+" "+string(c.firmware), func(t *testing.T) {
			b := labtest.New(t, netboot.Config{Payload: labtest.RealPayload(t)})
			vms := labtest.NewVMs(t, b)
			s := compose(t, b, strings.NewReplacer("JUNK", "100", "MORE", kernelMore).Replace(composeInit), ownKernel(t, b))
			s.stack.Start, s.stack.Cmdline, s.stack.Upper = c.start, "carte.test=yes", lab.UpperDisk
			m := labtest.Say(t, b, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 4 << 30, Firmware: c.firmware}}).Machines[0]
			labtest.Say(t, b, lab.PutStack{Stack: s.stack})
			x := s.run(t, b, vms, m)
			if x.Metrics["release"].Value != 6 {
				t.Errorf("it said %+v", x.Metrics)
			}
		})
	}
}
