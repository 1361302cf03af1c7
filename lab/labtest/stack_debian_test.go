package labtest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// debianParts makes a real Debian as a tree and two kernels, or takes the folder that CARTE_DEBIAN_PARTS names.
func debianParts(t *testing.T) (tree string, kernels []string) {
	t.Helper()
	dir := os.Getenv("CARTE_DEBIAN_PARTS")
	if dir == "" {
		if os.Geteuid() != 0 {
			labtest.Lacking(t, "a Debian tree is made by root only; CARTE_DEBIAN_PARTS=FOLDER takes one that testdata/debian-disk made")
		}
		dir = t.TempDir()
		out, err := exec.CommandContext(t.Context(), "../../testdata/debian-disk", "--parts", dir).CombinedOutput()
		if err != nil {
			t.Fatalf("testdata/debian-disk: %v\n%s", err, out)
		}
	}
	kernels, err := filepath.Glob(filepath.Join(dir, "kernel-*.tar"))
	if err != nil || len(kernels) < 2 {
		t.Fatalf("%d kernels in %s, %v; want two", len(kernels), dir, err)
	}
	slices.Sort(kernels)
	return filepath.Join(dir, "tree.tar"), kernels
}

// projectRun is what the project of the test does once it is started: it looks at its system, leaves a file, fills a part of
// the disk, and, when it is told to, changes what its user brought.
const projectRun = `#!/bin/sh
is() { test "$2" = "$3" || { echo "::carte fail $1 is '$2' and not '$3'"; exit 1; }; }
echo "::carte metric kernel=$(uname -r | cut -d. -f2) minor"
echo "::carte metric lazy=$(ls -d /sys/block/dm-* 2>/dev/null | wc -l) layers"
echo "::carte metric units=$(systemctl list-units --state=active --no-legend | wc -l)"
is "the host's name" "$(cat /etc/hostname)" vm
is "ann's file" "$(cat /home/ann/hello)" $CARTE_PARAM_HELLO
is "the loan" "$(cat /srv/data/lent)" lent
is "the kernel line" "$(grep -o 'pages=[0-9]*' /proc/cmdline)" "pages=$CARTE_PARAM_PAGES"
mkdir -p /carte/out/deep
uname -a >/carte/out/deep/uname
dd if=/dev/zero of=/var/junk bs=1M count=$CARTE_PARAM_JUNK
rm -rf /usr/share/doc
if [ "$CARTE_PARAM_CHANGE" = yes ]; then echo changed >/home/ann/hello; rm /home/ann/old; fi
sync
`

// archive packs files, by path, as a tar; what ends on / is a folder. Files called run are programs.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg, ModTime: time.Unix(1e9, 0)}
		switch {
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case filepath.Base(name) == "run":
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
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

// random is text that nothing can compress, the same every time.
func random(n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return string(b)
}

// load imports a file, or bytes.
func load(t testing.TB, d lab.Desk, from any, i lab.Import) lab.Imported {
	t.Helper()
	var r io.Reader
	switch from := from.(type) {
	case string:
		f, err := os.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, i.File = f, from
	case []byte:
		r = bytes.NewReader(from)
	}
	im, err := d.Import(t.Context(), r, i, nil)
	if err != nil {
		t.Fatalf("import %s: %v", i.Name, err)
	}
	t.Logf("%s: %s; %s new; %q", im.Version.Ref(), im.Version.Found, lab.Bytes(im.New), im.Warnings)
	return im
}

// A real Debian runs under two kernels of its own with what a user, a project and a loan add to it: by kexec and by netboot.
// What it writes never reaches the base; what its project leaves comes home; what the user changed becomes a version, and
// what nobody changed costs nothing; the loan ends at its date. What the user brought
// is a lazy layer: systemd runs while it arrives.
func TestDebianStack(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	tree, kernels := debianParts(t)
	b := labtest.New(t, netboot.Config{Payload: p})
	vms := labtest.NewVMs(t, b)
	base := load(t, b, tree, lab.Import{Name: "debian", Kind: "system", Form: lab.FormTree})
	for i, file := range kernels[:2] {
		load(t, b, file, lab.Import{Name: []string{"old", "new"}[i], Kind: "system", Form: lab.FormKernel})
	}
	home := load(t, b, archive(t, map[string]string{"hello": "hello\n", "old": "old\n", "large": random(4 << 20)}),
		lab.Import{Name: "home", Kind: "user", Form: lab.FormFiles, Place: "/home/ann", Offers: lab.Terms{lab.Lazy: lab.Optional}})
	load(t, b, archive(t, map[string]string{"run": projectRun}), lab.Import{Name: "work", Kind: "project", Form: lab.FormFiles})
	loan := archive(t, map[string]string{"lent": "lent\n"})
	load(t, b, loan, lab.Import{Name: "loan", Kind: "temporary", Form: lab.FormFiles, Place: "/srv/data", Dies: time.Now().Add(time.Hour)})
	stack := func(name string, start lab.Start) {
		labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{
			Name: name, Layers: []lab.Ref{{Name: "debian"}, {Name: name}, {Name: "home"}, {Name: "work"}, {Name: "loan"}},
			Cmdline: "quiet pages={pages}", Params: map[string]string{"pages": "512", "junk": "64", "change": "no", "hello": "hello"},
			Start: start, Upper: lab.UpperDisk, Files: []lab.TextFile{{Path: "/etc/hostname", Text: "{machine}\n"}},
			Asks: lab.Terms{lab.Autostart: lab.Required, lab.Results: lab.Required, lab.Overlay: lab.Required, lab.Lazy: lab.Optional},
		}})
	}
	stack("old", lab.StartKexec)
	stack("new", lab.StartNetboot)
	m := labtest.Say(t, b, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 8 << 30, MemoryBytes: 1 << 30}}).Machines[0]

	run := func(stack string, set map[string]string, kernel float64) lab.Boot {
		t.Helper()
		id := labtest.Say(t, b, lab.Queue{Machine: "vm", Stack: stack, Set: set}).Boots[0].ID
		x := labtest.UntilIn(t, b, labtest.Long, "the end of the boot", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
		t.Logf("boot %d of %s by %s: %s %s; %s", id, stack, x.Plan.Start, x.State, x.Reason, x.MovedWords())
		if x.State != lab.Done {
			lines, _, _, _ := b.Tail(t.Context(), lab.Tail{Machine: m.ID, Max: 60})
			for _, l := range lines {
				t.Logf("%s: %s", l.Source, l.Text)
			}
		}
		if x.State != lab.Done || x.Metrics["kernel"].Value != kernel || x.Metrics["units"].Value < 10 {
			t.Fatalf("it is %s: %s; it said %+v", x.State, x.Reason, x.Metrics)
		}
		labtest.UntilIn(t, b, labtest.Long, "all bytes of lazy layers", func(s lab.Snapshot) bool { return s.Machines[m.ID].Holds[0].Absent == 0 })
		vms.CutPower(t, m)
		labtest.Until(t, b, "power off", func(s lab.Snapshot) bool { return s.Live[m.ID].Power == "off" })
		if err := labtest.HoldsAt(t, b.State.Chunks, vms.Disk(m), lab.TreeOffset, base.Version); err != nil {
			t.Errorf("after the system ran: %v", err)
		}
		return x
	}
	results := func(x lab.Boot) map[string]string {
		t.Helper()
		var out bytes.Buffer
		if err := b.Results(t.Context(), x.ID, &out); err != nil {
			t.Fatal(err)
		}
		return unpacked(t, &out)
	}

	first := run("old", map[string]string{"junk": "1024"}, 1)
	if got := results(first)["deep/uname"]; !strings.Contains(got, " 6.1.") || !strings.Contains(got, " vm ") {
		t.Errorf("its result is %q", got)
	}
	if first.Metrics["lazy"].Value != 1 {
		t.Errorf("%v layers are lazy; the user's should be", first.Metrics["lazy"].Value)
	}
	if len(first.Wrote) > 0 {
		t.Errorf("nothing of the user's was changed, and %v were written back", first.Wrote)
	}
	if m := labtest.Now(t, b).Machines[m.ID]; m.Kexec.Proven.IsZero() {
		t.Errorf("kexec is not proven: %+v", m.Kexec)
	}

	second := run("new", map[string]string{"change": "yes", "pages": "77"}, 12)
	if got := results(second)["deep/uname"]; !strings.Contains(got, " 6.12.") {
		t.Errorf("its result is %q", got)
	}
	v, err := labtest.Now(t, b).Version(lab.Ref{Name: "home"})
	if err != nil || v.Number != 2 || v.Parent != 1 || !slices.Equal(second.Wrote, []lab.Ref{v.Ref()}) || v.Stored > home.New/2 {
		t.Errorf("home is %+v (%v), the boot wrote back %v; the first version took %d bytes", v, err, second.Wrote, home.New)
	}
	if second.Metrics["lazy"].Value != 0 {
		t.Errorf("with all on the disk, %v layers are lazy", second.Metrics["lazy"].Value)
	}
	if second.Moved.Written > 256<<20 {
		t.Errorf("another kernel moved %s", second.Moved.Words())
	}

	labtest.Say(t, b, lab.PutStack{Edit: true, Stack: func() lab.Stack {
		st := labtest.Now(t, b).Stacks["old"]
		st.Reset = lab.ResetTrust
		return st
	}()})
	changed := map[string]string{"hello": "changed"}
	run("old", changed, 1) // the changed home moves
	third := run("old", changed, 1)
	t.Logf("the second use: from orders to the handover %v; %s", spent(third, lab.RungHello, lab.RungHandover), third.MovedWords())
	if third.Moved.Written > 0 || third.Moved.Fetched > 0 {
		t.Errorf("the second use of a stack moved %s", third.Moved.Words())
	}

	load(t, b, loan, lab.Import{Name: "loan", Kind: "temporary", Form: lab.FormFiles, Place: "/srv/data", Dies: time.Now().Add(time.Second)})
	labtest.Until(t, b, "the end of the loan", func(s lab.Snapshot) bool { return len(s.VersionsOf("loan")) == 0 })
	if _, err := b.Say(context.Background(), lab.Queue{Machine: "vm", Stack: "old"}); err == nil || !strings.Contains(err.Error(), `loan died`) || !strings.Contains(err.Error(), `"lifetime"`) {
		t.Errorf("a stack with an image that died: %v", err)
	}
}

// unpacked reads the regular files of a tar.
func unpacked(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	all := map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			data, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			all[strings.TrimPrefix(h.Name, "./")] = string(data)
		}
	}
}
