package media

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"carte/lab"
)

// need returns the path of a program, or skips with the reason.
func need(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		p, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return p
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sample is a disk with noise, text and zeros.
func sample(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b[:n/3])
	copy(b[n/2:], bytes.Repeat([]byte("a la carte "), n/64))
	return b
}

func gz(t testing.TB, b []byte) []byte {
	var w bytes.Buffer
	z := gzip.NewWriter(&w)
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

func xzip(t testing.TB, b []byte) []byte {
	var w bytes.Buffer
	z, err := xz.NewWriter(&w)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, nil)
}

func write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenPlainAndPacked(t *testing.T) {
	raw := sample(1<<20 + 512)
	for _, c := range []struct {
		b      []byte
		format string
	}{
		{raw, "raw"},
		{gz(t, raw), "raw in gzip"},
		{xzip(t, raw), "raw in xz"},
		{zst(t, raw), "raw in zstd"},
		{zst(t, gz(t, raw)), "raw in gzip in zstd"},
		{append(gz(t, raw[:1000]), gz(t, raw[1000:])...), "raw in gzip"},
	} {
		// the name lies on purpose
		path := write(t, "image.tar.bz2", c.b)
		s, err := Open(t.Context(), path, t.TempDir())
		if err != nil {
			t.Fatalf("%s: %v", c.format, err)
		}
		got, err := io.ReadAll(iotest.HalfReader(s))
		if err != nil || !bytes.Equal(got, raw) || s.Format != c.format {
			t.Errorf("%s: %d bytes as %q, %v", c.format, len(got), s.Format, err)
		}
		if s.Consumed() != s.Total || s.Total != int64(len(c.b)) {
			t.Errorf("%s: consumed %d of %d", c.format, s.Consumed(), s.Total)
		}
		if want := int64(-1); c.format == "raw" && s.Size != int64(len(raw)) || c.format != "raw" && s.Size != want {
			t.Errorf("%s: size %d", c.format, s.Size)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		p, err := OpenReader(t.Context(), iotest.OneByteReader(bytes.NewReader(c.b)), "a pipe", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(p); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s through a pipe: %v", c.format, err)
		}
		p.Close()
	}
}

func TestTarIsSeen(t *testing.T) {
	var w bytes.Buffer
	tw := tar.NewWriter(&w)
	tw.WriteHeader(&tar.Header{Name: "a", Mode: 0o644})
	tw.Close()
	s, err := Open(t.Context(), write(t, "x", gz(t, w.Bytes())), "")
	if err != nil || s.Format != "tar in gzip" {
		t.Fatalf("%v", err)
	}
	s.Close()
}

func TestTruncatedIsNeverWhole(t *testing.T) {
	raw := sample(300_000)
	for name, b := range map[string][]byte{"gz": gz(t, raw), "xz": xzip(t, raw), "zst": zst(t, raw)} {
		for _, cut := range []int{len(b) - 1, len(b) - 5, len(b) / 2, 2000, 20} {
			for _, flip := range []bool{false, true} {
				bad := bytes.Clone(b[:cut])
				if flip {
					bad = bytes.Clone(b)
					bad[cut] ^= 0x10
				}
				path := write(t, "image", bad)
				s, err := Open(t.Context(), path, "")
				var got []byte
				if err == nil {
					got, err = io.ReadAll(s)
					s.Close()
				}
				if err == nil && !bytes.Equal(got, raw) || err == nil && !flip {
					t.Errorf("%s at %d (flip %v): taken for whole with %d of %d bytes", name, cut, flip, len(got), len(raw))
				}
				if err != nil && (!errors.Is(err, lab.ErrDamaged) && !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), path)) {
					t.Errorf("%s at %d: %v", name, cut, err)
				}
			}
		}
	}
}

// What is wrong with a packed file, and what to do, is said in words that are true.
func TestWhatIsWrongWithAPackedFile(t *testing.T) {
	raw := sample(300_000)
	packed := map[string][]byte{"gz": gz(t, raw), "xz": xzip(t, raw), "zst": zst(t, raw)}
	packed["gz gz"] = append(gz(t, raw[:7]), gz(t, raw[7:])...)
	for name, b := range packed {
		sum := bytes.Clone(b)
		sum[len(b)/2] ^= 0x55
		for _, c := range []struct {
			what, word string
			b          []byte
		}{
			{"8 bytes behind", "something else follows", append(bytes.Clone(b), "trailing"...)},
			{"12 bytes behind", "something else follows", append(bytes.Clone(b), "trailing too"...)},
			{"cut", "ends too early", b[:len(b)-3]},
			{"a flipped bit", "fetch or pack it again", sum},
		} {
			s, err := OpenReader(t.Context(), bytes.NewReader(c.b), "disk", "")
			if err == nil {
				_, err = io.Copy(io.Discard, s)
			}
			if !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), c.word) {
				t.Errorf("%s, %s: %v; want %q", name, c.what, err, c.word)
			}
		}
	}
	s, err := OpenReader(t.Context(), bytes.NewReader(append(gz(t, raw), gzipMagic[:2]...)), "disk", "")
	if err == nil {
		_, err = io.Copy(io.Discard, s)
	}
	if !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), "ends too early") {
		t.Errorf("the beginning of a further member: %v", err)
	}
}

func TestRefused(t *testing.T) {
	many := sample(100)
	for range maxLayers + 1 {
		many = gz(t, many)
	}
	for name, b := range map[string][]byte{"empty": nil, "empty.gz": gz(t, nil), "zip": []byte("PK\x03\x04...."), "vmdk": []byte("KDMV...."), "many": many} {
		if s, err := Open(t.Context(), write(t, name, b), ""); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := Open(t.Context(), t.TempDir(), ""); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "no"), ""); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	broken := errors.New("i/o error")
	s, err := OpenReader(t.Context(), io.MultiReader(bytes.NewReader(gz(t, sample(1<<20))[:300000]), iotest.ErrReader(broken)), "disk", "")
	if err == nil {
		_, err = io.Copy(io.Discard, s)
	}
	if !errors.Is(err, broken) || errors.Is(err, lab.ErrDamaged) {
		t.Errorf("input that cannot be read: %v", err)
	}
}

func TestQcow2(t *testing.T) {
	qemu := need(t, "qemu-img")
	dir := t.TempDir()
	raw := append(sample(3<<20), sample(3*512)...)
	in := filepath.Join(dir, "in.raw")
	if err := os.WriteFile(in, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"plain": {}, "compressed": {"-c"}, "zstd": {"-c", "-o", "compression_type=zstd"}, "v2": {"-o", "compat=0.10"},
		"small": {"-o", "cluster_size=512"}, "large": {"-c", "-o", "cluster_size=2M"}, "extended": {"-o", "extended_l2=on,cluster_size=128k"},
	} {
		out := filepath.Join(dir, name)
		run(t, qemu, append(append([]string{"convert", "-O", "qcow2"}, args...), in, out)...)
		wantImage(t, out, "qcow2", raw)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		temp := t.TempDir()
		wantImage(t, write(t, "packed", zst(t, b)), "qcow2 in zstd", raw)
		s, err := OpenReader(t.Context(), bytes.NewReader(b), "pipe", temp)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s through a pipe: %v", name, err)
		}
		if left, _ := os.ReadDir(temp); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
		s.Close()
		for _, cut := range []int{10, 80, len(b) / 4, len(b) / 2, len(b) - 70000} {
			if cut < 0 || name == "small" && cut > len(b)/2 {
				continue
			}
			wantDamaged(t, name, write(t, "cut", b[:cut]), raw)
		}
	}
}

func wantImage(t *testing.T, path, format string, raw []byte) {
	t.Helper()
	s, err := Open(t.Context(), path, t.TempDir())
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer s.Close()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, raw) || s.Format != format || s.Size != int64(len(raw)) {
		t.Errorf("%s: %d of %d bytes as %q (size %d), %v", path, len(got), len(raw), s.Format, s.Size, err)
	}
	if s.Consumed() != s.Total {
		t.Errorf("%s: consumed %d of %d", path, s.Consumed(), s.Total)
	}
}

func wantDamaged(t *testing.T, name, path string, raw []byte) {
	t.Helper()
	s, err := Open(t.Context(), path, t.TempDir())
	var got []byte
	if err == nil {
		defer s.Close()
		got, err = io.ReadAll(s)
	}
	if err == nil && !bytes.Equal(got, raw) {
		t.Errorf("%s: half an image was taken for a whole one", name)
	}
	if err != nil && !errors.Is(err, lab.ErrDamaged) && !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("%s: %v", name, err)
	}
}

func TestQcow2BackingFiles(t *testing.T) {
	qemu := need(t, "qemu-img")
	dir := t.TempDir()
	raw := sample(2 << 20)
	base := filepath.Join(dir, "base.raw")
	if err := os.WriteFile(base, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	mk := func(name, backing, format string) string {
		path := filepath.Join(dir, name)
		run(t, qemu, "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, path, "2M")
		return path
	}
	wantImage(t, mk("one", "base.raw", "raw"), "qcow2", raw)
	wantImage(t, mk("two", "one", "qcow2"), "qcow2", raw)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("base.raw", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"absolute": mk("a", base, "raw"), "up": mk("b", "sub/../base.raw", "raw"), "sub": mk("sub/c", "../base.raw", "raw"),
		"link": mk("d", "link", "raw"), "chain": mk("e", "a", "qcow2"), "vmdk": mk("f", "base.raw", "vmdk"), "itself": mk("g", "g", "qcow2"),
	} {
		if s, err := Open(t.Context(), path, t.TempDir()); !errors.Is(err, lab.ErrRefused) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), write(t, "z", zst(t, b)), t.TempDir()); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("packed with a backing file: %v", err)
	}
	_, err = OpenReader(t.Context(), bytes.NewReader(b), "one.qcow2", t.TempDir()) // as the command line and a lab elsewhere send it
	if !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), `"base.raw"`) || !strings.Contains(err.Error(), "qemu-img convert -O qcow2 FILE NEW") {
		t.Errorf("sent without its backing file: %v", err)
	}
}

func TestOpenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := make([]byte, 8192)
	copy(b, qcow2Magic)
	temp := t.TempDir()
	if _, err := OpenReader(ctx, bytes.NewReader(b), "pipe", temp); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}

func FuzzQcow2(f *testing.F) {
	b := make([]byte, 4<<9)
	be := binary.BigEndian
	copy(b, qcow2Magic)
	be.PutUint32(b[4:], 2)
	be.PutUint32(b[20:], 9)
	be.PutUint64(b[24:], 1024)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 512)
	be.PutUint64(b[512:], 1024)
	be.PutUint64(b[1024:], 1536)
	f.Add(b)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 8 {
			return
		}
		b = append([]byte(qcow2Magic), b[4:]...)
		s, err := OpenReader(t.Context(), bytes.NewReader(b), "fuzz", dir)
		if err != nil {
			return
		}
		defer s.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(s, 8<<20))
		if err == nil && n < 8<<20 && n != s.Size {
			t.Errorf("%d of %d bytes without an error", n, s.Size)
		}
	})
}
