package media

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/ext4"
)

// packTar writes entries as they are.
func packTar(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.h
		if h.Size = int64(len(e.body)); h.Mode == 0 {
			h.Mode = 0o755
		}
		h.ModTime = time.Unix(1700000000, 123456789)
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func plain(name, body string) tarEntry { return tarEntry{tar.Header{Name: name}, body} }

func symlink(name, to string) tarEntry {
	return tarEntry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}, ""}
}

func hard(name, to string) tarEntry {
	return tarEntry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}, ""}
}

func readFiles(t testing.TB, in []byte) *Files {
	t.Helper()
	f, err := ReadFiles(t.Context(), bytes.NewReader(in), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A tar that is a trap, or that says what cannot be, is refused by the name of the member.
func TestTarTraps(t *testing.T) {
	huge := packTar(t, plain("first", "x"), plain("huge", ""))
	copy(huge[3072+124:], "\x80\x00\x00\x00\x00\x00\x70\x00\x00\x00\x00\x00") // a size of 123 TB, in base 256
	sumTar(huge[3072:][:512])
	for _, c := range []struct {
		name, want string
		in         []byte
	}{
		{"absolute", `"/etc/passwd": its name is absolute`, packTar(t, plain("/etc/passwd", "x"))},
		{"up", `"a/../../b": its name leads out of the tree`, packTar(t, plain("a/../../b", "x"))},
		{"twice", `"a": it comes twice`, packTar(t, plain("a", "1"), plain("a", "2"))},
		{"file for directory", `"a": it comes twice`, packTar(t, plain("a/b", "1"), plain("a", "2"))},
		{"link twice", `"b": it comes twice`, packTar(t, plain("a", "1"), plain("b", "1"), hard("b", "a"))},
		{"below a link", `"a/b": it lies below "a", which is no directory`, packTar(t, symlink("a", "/etc"), plain("a/b", "x"))},
		{"below a file", `"a/b": it lies below "a", which is no directory`, packTar(t, plain("a", "x"), plain("a/b", "x"))},
		{"link up", `"b": a link to "../a": its name leads out`, packTar(t, hard("b", "../a"))},
		{"link to nothing", `"b": a link to "a", which is no file that came before`, packTar(t, hard("b", "a"))},
		{"link to itself", `"b": a link to "b", which is no file`, packTar(t, hard("b", "b"))},
		{"link to a directory", `"b": a link to "a", which is no file`, packTar(t, plain("a/x", ""), hard("b", "a"))},
		{"root", `the root must be a directory`, packTar(t, plain(".", "x"))},
		{"long name", `a name of 256 bytes`, packTar(t, plain(strings.Repeat("n", 256), "x"))},
		{"device", `device 5000:1`, packTar(t, tarEntry{tar.Header{Typeflag: tar.TypeChar, Name: "d", Devmajor: 5000, Devminor: 1}, ""})},
		{"attribute", `extended attribute "user.a" of 5000 bytes`, packTar(t, tarEntry{tar.Header{Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 5000)}}, ""})},
		{"size", `"huge": it declares 123`, huge},
	} {
		f, err := ReadFiles(t.Context(), bytes.NewReader(c.in), t.TempDir())
		if f != nil || !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// sumTar makes a header's check sum anew.
func sumTar(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// Directories may come again, and say it better; a file's parents need not come at all.
func TestTarDirectories(t *testing.T) {
	f := readFiles(t, packTar(t, plain("a/b/c", "x"), tarEntry{tar.Header{Typeflag: tar.TypeDir, Name: "a/b/", Mode: 0o700, Uid: 7}, ""}))
	if n := f.at("a/b"); n == nil || n.Mode != ext4.TypeDir|0o700 || n.UID != 7 || f.at("a/b/c") == nil {
		t.Errorf("a/b is %+v", f.at("a/b"))
	}
	if n := f.at("a"); n.Mode != ext4.TypeDir|0o755 {
		t.Errorf("a has mode %o", n.Mode)
	}
}

// accessList is u::rw-, u:1000:r--, g::r--, m::rw-, o::r-- as getxattr(2) tells it.
const accessList = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"

func TestTarAccessLists(t *testing.T) {
	f := readFiles(t, packTar(t,
		tarEntry{tar.Header{Name: "numbers", PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-\nuser:1000:r--\ngroup::r--\nmask::rw-\nother::r--\n"}}, ""},
		tarEntry{tar.Header{Name: "star", PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-,user:bob:r--:1000,group::r--,mask::rw-,other::r--"}}, ""},
		tarEntry{tar.Header{Name: "names", PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-,user:bob:r--,group::r--,mask::rw-,other::r--"}}, ""},
		tarEntry{tar.Header{Name: "apple", PAXRecords: map[string]string{"SCHILY.xattr.com.apple.provenance": "x"}}, ""}))
	want := accessList
	for _, name := range []string{"numbers", "star"} {
		if got := string(f.at(name).Xattrs["system.posix_acl_access"]); got != want {
			t.Errorf("%s: %x", name, got)
		}
	}
	if notes := strings.Join(f.Notes, "\n"); len(f.Notes) != 2 || !strings.Contains(notes, "of 1 files: an access list that names users") || !strings.Contains(notes, "com.apple.provenance") {
		t.Errorf("notes %q", f.Notes)
	}
}

func TestTarFacts(t *testing.T) {
	elf := func(machine byte) string {
		return "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 11) + string([]byte{machine}) + "\x00"
	}
	for _, c := range []struct {
		name, want, warn string
		in               []tarEntry
	}{
		{"systemd", "Debian GNU/Linux 12 (bookworm), init /sbin/init (systemd), kernel vmlinuz-6.10.2, x86-64, 16 files", "", []tarEntry{
			symlink("sbin", "usr/sbin"), symlink("lib", "/usr/lib"), symlink("usr/sbin/init", "../lib/systemd/systemd"), plain("usr/lib/systemd/systemd", elf(62)),
			symlink("etc/os-release", "../usr/lib/os-release"), plain("usr/lib/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
			plain("usr/lib/systemd/system/serial-getty@.service", ""), plain("boot/vmlinuz-6.9.1", ""), plain("boot/vmlinuz-6.10.2", "")}},
		{"arm", "init /bin/init, no kernel, arm64, 2 files", "for arm64, and carte's machines are x86-64", []tarEntry{plain("bin/init", elf(183))}},
		{"nothing", "no init, no kernel, 1 file", "no init: none of /sbin/init", []tarEntry{plain("a", "")}},
		{"shell", "init /bin/sh, no kernel, x86-64, 2 files", "no init but /bin/sh", []tarEntry{plain("bin/sh", elf(62))}},
		{"disks", "init /init, no kernel, x86-64, 3 files", "(/dev/sda1, /dev/nvme0n1p2)", []tarEntry{plain("init", elf(62)), plain("etc/fstab", "# /dev/sdb1 /\n/dev/sda1 / ext4\n/dev/nvme0n1p2 none swap\nUUID=1 /x\n")}},
		{"mute", "init /init (SysV init), no kernel, x86-64, 3 files", "no login on the serial line", []tarEntry{plain("init", elf(62)), plain("etc/inittab", "1:2345:respawn:/sbin/getty 38400 tty1\n#T0:23:respawn:/sbin/getty ttyS0\n")}},
		{"circle", "no init, no kernel, 3 files", "no init", []tarEntry{symlink("sbin/init", "/sbin/init2"), symlink("sbin/init2", "init")}},
	} {
		f := readFiles(t, packTar(t, c.in...)).Facts()
		if f.String() != c.want {
			t.Errorf("%s: %q, want %q", c.name, f, c.want)
		}
		if got := strings.Join(f.Warnings(), "; "); (c.warn == "") != (got == "") || !strings.Contains(got, c.warn) {
			t.Errorf("%s: it warns %q, want %q", c.name, got, c.warn)
		}
	}
}

// layered is an image of three layers, as docker save and the OCI layout have it.
func layered(t testing.TB, oci bool, damage bool) []byte {
	t.Helper()
	layers := [][]byte{
		packTar(t, plain("etc/a", "1"), plain("etc/b", "1"), plain("gone/x", "1"), plain("gone/deep/y", "1"), symlink("lib", "usr/lib"), plain("was/dir", "")),
		packTar(t, plain("etc/a", "2"), plain("etc/.wh.b", ""), plain("gone/new", "2"), plain("gone/.wh..wh..opq", ""), plain(".wh.was", "")),
		packTar(t, plain("was", "a file now"), hard("etc/c", "etc/a")),
	}
	var all []tarEntry
	blob := func(b []byte) string {
		sum := sha256.Sum256(b)
		name := "blobs/sha256/" + hex.EncodeToString(sum[:])
		if damage {
			b = append(bytes.Clone(b[:len(b)-1]), 1)
		}
		all = append(all, plain(name, string(b)))
		return name
	}
	var saved []savedImage
	var m manifest
	names := []string{}
	for i, l := range layers {
		if i > 0 {
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			w.Write(l)
			w.Close()
			l = z.Bytes()
		}
		name := blob(l)
		names = append(names, name)
		m.Layers = append(m.Layers, descriptor{Digest: strings.Replace(name, "blobs/sha256/", "sha256:", 1)})
	}
	marshal := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if !oci {
		saved = []savedImage{{Config: "config.json", RepoTags: []string{"x:latest"}, Layers: names}}
		return packTar(t, append(all, plain("manifest.json", marshal(saved)))...)
	}
	damage = false
	image := strings.Replace(blob([]byte(marshal(m))), "blobs/sha256/", "sha256:", 1)
	var index manifest
	if err := json.Unmarshal([]byte(`{"manifests":[{"digest":"`+image+`","platform":{"os":"linux","architecture":"amd64"}},{"digest":"sha256:00","platform":{"os":"unknown","architecture":"unknown"}},{"digest":"sha256:01","platform":{"os":"linux","architecture":"arm64"}}]}`), &index); err != nil {
		t.Fatal(err)
	}
	return packTar(t, append([]tarEntry{plain("index.json", marshal(index)), plain("oci-layout", "{}")}, all...)...)
}

func TestLayersAreFlattened(t *testing.T) {
	for _, oci := range []bool{false, true} {
		f := readFiles(t, layered(t, oci, false))
		for name, want := range map[string]string{"etc/a": "2", "etc/b": "", "etc/c": "2", "gone/new": "2", "gone/x": "", "gone/deep/y": "", "was": "a file now", "blobs": "", "manifest.json": ""} {
			got, err := f.read(name, 100)
			if string(got) != want || (err == nil) != (want != "") {
				t.Errorf("oci %v: %s is %q, %v", oci, name, got, err)
			}
		}
		if f.at("etc/a") != f.at("etc/c") || len(f.Notes) != 1 {
			t.Errorf("oci %v: a hard link is lost; notes %q", oci, f.Notes)
		}
		if _, err := f.Build(t.Context(), TreeOptions{UUID: testUUID}, nil, 0); err != nil {
			t.Errorf("oci %v: %v", oci, err)
		}
		if _, err := ReadFiles(t.Context(), bytes.NewReader(layered(t, oci, true)), t.TempDir()); !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), "layer 1 of 3") {
			t.Errorf("oci %v, damaged: %v", oci, err)
		}
	}
	two := packTar(t, plain("l", string(packTar(t))), plain("manifest.json", `[{"RepoTags":["a:1"],"Layers":["l"]},{"RepoTags":["b:1"],"Layers":["l"]}]`))
	if _, err := ReadFiles(t.Context(), bytes.NewReader(two), t.TempDir()); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "a:1; b:1") {
		t.Errorf("two images: %v", err)
	}
}

// GNU tar packs a folder of everything; the mounted tree is that folder. The kernel is the judge.
func TestTarRoundTrip(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("devices, owners and mounting need root")
	}
	dir := t.TempDir()
	script := `set -e
mkdir -p a/deep/er; echo one > a/one; ln a/one a/deep/two; ln -s ../one a/deep/link; ln -s ` + strings.Repeat("long/", 40) + ` a/far
mknod a/null c 1 3; mknod a/disk b 259 300; mkfifo a/pipe; cp /bin/true a/su; chown 1234:70000 a/su; chmod 6755 a/su; chmod 1777 a/deep
truncate -s 3G a/huge; printf end | dd of=a/huge bs=1 seek=3000000000 conv=notrunc status=none
head -c 3000000 /dev/urandom > a/random; touch -d '1965-03-04 05:06:07.89' a/old; touch -d '2040-01-02 03:04:05.123456789' a/new
: > 'a/` + strings.Repeat("n", 255) + `'; chmod 600 a/random
`
	for _, tool := range []string{"tar", "mount"} {
		need(t, tool)
	}
	sh := func(dir, text string) string {
		c := exec.Command("sh", "-c", text)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
		return string(out)
	}
	sh(dir, script)
	attributes := []struct{ file, name, value string }{
		{"su", "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)},
		{"random", "system.posix_acl_access", accessList},
		{"deep/er", "system.posix_acl_default", accessList},
		{"one", "user.long", strings.Repeat("long", 300)},
		{"one", "user.x", "y"},
		{"one", "trusted.binary", "\x00\x01=\n\xff"},
	}
	for _, a := range attributes {
		if err := unix.Lsetxattr(filepath.Join(dir, "a", a.file), a.name, []byte(a.value), 0); err != nil {
			t.Skipf("the file system of %s has no %s: %v", dir, a.name, err)
		}
	}
	in := filepath.Join(dir, "a.tar")
	sh(dir, "tar -C a --numeric-owner --sort=name --format=posix --sparse --xattrs --xattrs-include='*' --acls -cf a.tar .")
	packed, err := os.ReadFile(in)
	if err != nil || len(packed) > 8<<20 {
		t.Fatalf("a tar of %d bytes, %v", len(packed), err)
	}
	path := buildTree(t, packed, TreeOptions{UUID: testUUID})
	fsck(t, path)
	at := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", path, at).CombinedOutput(); err != nil {
		t.Skipf("no loop mount to be had here: %v %s", err, out)
	}
	t.Cleanup(func() { run(t, need(t, "umount"), at) })
	list := `find . -mindepth 1 ! -name lost+found -printf '%P %y %m %U %G %n %T+ %l ' \( -type d -printf '\n' -o -printf '%s\n' \) | sort; find . -type f -size -100M ! -path './lost*' -exec sha256sum {} + | sort; stat -c %t:%T null disk; find . -name huge -size -1000k`
	want, got := sh(filepath.Join(dir, "a"), list), sh(at, list)
	if !strings.Contains(got, "103:12c") {
		t.Errorf("the device is lost:\n%s", got)
	}
	for line := range strings.Lines(got) {
		if !strings.Contains(want, line) {
			t.Errorf("it is %s", line)
		}
	}
	for line := range strings.Lines(want) {
		if !strings.Contains(got, line) {
			t.Errorf("it was %s", line)
		}
	}
	for _, a := range attributes {
		b := make([]byte, 4096)
		if n, err := unix.Lgetxattr(filepath.Join(at, a.file), a.name, b); err != nil || string(b[:n]) != a.value {
			t.Errorf("%s: %s is %q, %v", a.file, a.name, b[:max(n, 0)], err)
		}
	}
	sh(at, "cmp -n 3221225472 huge '"+filepath.Join(dir, "a", "huge")+"'; test $(du -k huge | cut -f1) -lt 100")
	sh(at, "dd if=/dev/zero of=fill bs=1M count=200 status=none; rm fill; mkdir x; mv random x/")
}

func FuzzTar(f *testing.F) {
	f.Add(packTar(f, plain("a/b", "x"), hard("c", "a/b"), symlink("d", "a")))
	f.Add(layered(f, false, false))
	f.Add(layered(f, true, false))
	f.Add(testTar(f, 3)[:20<<10])
	f.Fuzz(func(t *testing.T, in []byte) {
		files, err := ReadFiles(t.Context(), bytes.NewReader(in), t.TempDir())
		if err != nil {
			if !errors.Is(err, lab.ErrInvalid) && !errors.Is(err, lab.ErrDamaged) {
				t.Errorf("neither invalid nor damaged: %v", err)
			}
			return
		}
		defer files.Close()
		_ = strings.Join(files.Facts().Warnings(), files.Facts().String())
		im, err := files.Build(t.Context(), TreeOptions{UUID: testUUID}, nil, 0)
		if err != nil {
			if !errors.Is(err, lab.ErrInvalid) {
				t.Error(err)
			}
			return
		}
		older, err := files.Build(t.Context(), TreeOptions{UUID: testUUID}, im, im.Size)
		if err != nil || older.Size != im.Size {
			t.Errorf("the same over itself: %v", err)
		}
	})
}

// endless is a tar of one file of n bytes that nobody holds in memory.
func endless(t testing.TB, n int64) io.Reader {
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: "large", Mode: 0o600, Size: n}); err != nil {
		t.Fatal(err)
	}
	return io.MultiReader(&head, io.LimitReader(nothing{}, n+1024))
}

// Memory is for files, not for what is in them.
func TestTarMemory(t *testing.T) {
	least := uint64(0)
	for _, n := range []int64{16 << 20, 4 << 30} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err := ReadFiles(context.Background(), endless(t, n), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		im, err := f.Build(context.Background(), TreeOptions{UUID: testUUID, Size: 8 << 30}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("%d MiB: %d KiB allocated, %d bytes of image", n>>20, used>>10, im.Size)
		if n == 16<<20 {
			least = used
		} else if used > least+4<<20 {
			t.Errorf("%d bytes allocated for a file of %d, and %d for a small one", used, n, least)
		}
		f.Close()
	}
}
