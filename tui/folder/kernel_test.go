package folder

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// tree makes files in a folder; a name that ends with a slash is a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		at := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		if name[len(name)-1] == '/' {
			err = errors.Join(err, os.MkdirAll(at, 0o755))
		} else {
			err = errors.Join(err, os.WriteFile(at, []byte(text), 0o640))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// in is a path below a folder; no name is no path.
func in(dir, name string) string {
	if name == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

func TestKernel(t *testing.T) {
	dir := tree(t, map[string]string{
		"vmlinuz-6.1": "a kernel", "initrd.img": "an initrd",
		"root/lib/modules/6.1-hpt/modules.dep": "", "root/lib/modules/6.1-hpt/kernel/fs/ext4.ko": "module", "root/lib/modules/6.1-hpt/kernel/build": "no link to sources",
	})
	release := filepath.Join(dir, "root/lib/modules/6.1-hpt")
	if err := errors.Join(os.Symlink("/usr/src/linux", filepath.Join(release, "build")), os.Symlink("vmlinuz-6.1", filepath.Join(dir, "vmlinuz"))); err != nil {
		t.Fatal(err)
	}
	boot := []string{"boot/", "boot/kernel"}
	modules := []string{"lib/", "lib/modules/", "lib/modules/6.1-hpt/", "lib/modules/6.1-hpt/kernel/", "lib/modules/6.1-hpt/kernel/build", "lib/modules/6.1-hpt/kernel/fs/", "lib/modules/6.1-hpt/kernel/fs/ext4.ko", "lib/modules/6.1-hpt/modules.dep"}
	for _, c := range []struct {
		initrd, modules string
		want            []string
	}{
		{"", "", boot},
		{"initrd.img", "", append(boot[:2:2], "boot/initrd")},
		{"", "root", append(boot[:2:2], modules...)},
		{"", "root/lib/modules", append(boot[:2:2], modules...)},
		{"", "root/lib/modules/6.1-hpt", append(boot[:2:2], modules...)},
	} {
		r, err := Kernel(in(dir, "vmlinuz"), in(dir, c.initrd), in(dir, c.modules))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		from := tar.NewReader(r)
		for {
			h, err := from.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if names = append(names, h.Name); h.Uid != 0 || h.Gid != 0 {
				t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
			}
			if h.Name == "boot/kernel" {
				if b, err := io.ReadAll(from); err != nil || string(b) != "a kernel" {
					t.Errorf("the kernel is %q, %v", b, err)
				}
			}
		}
		if !slices.Equal(names, c.want) {
			t.Errorf("initrd %q, modules %q: %q, want %q", c.initrd, c.modules, names, c.want)
		}
	}
}

func TestKernelThatIsNone(t *testing.T) {
	dir := tree(t, map[string]string{"vmlinuz": "k", "root.tar": strings.Repeat("\x00", 257) + "ustar\x0000", "empty": "", "sources/": "", "two/6.1/modules.dep": "", "two/6.2/modules.dep": ""})
	for _, c := range []struct {
		kernel, initrd, modules string
		want                    error
	}{
		{"nix", "", "", lab.ErrNotFound},
		{"sources", "", "", lab.ErrInvalid},
		{"empty", "", "", lab.ErrInvalid},
		{"root.tar", "", "", lab.ErrInvalid},
		{"vmlinuz", "root.tar", "", lab.ErrInvalid},
		{"vmlinuz", "nix", "", lab.ErrNotFound},
		{"vmlinuz", "", "nix", lab.ErrNotFound},
		{"vmlinuz", "", "sources", lab.ErrInvalid},
		{"vmlinuz", "", "two", lab.ErrInvalid},
	} {
		if _, err := Kernel(in(dir, c.kernel), in(dir, c.initrd), in(dir, c.modules)); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
